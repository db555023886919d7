#include "conf/conf_uri.h"

#include <errno.h>
#include <libpq-fe.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "conf/conf_read.h"

#define SQLITE "sqlite:"
#define ACCEPTED "postgresql://..., a libpq key=value string, or sqlite:/PATH"

static bool
starts_with(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

static bool
is_postgres_url(const char *uri)
{
	return starts_with(uri, "postgresql://") || starts_with(uri, "postgres://");
}

const char *
conf_uri_sqlite_path(const char *uri)
{
	const char *path;

	if (!starts_with(uri, SQLITE))
		return NULL;
	path = uri + strlen(SQLITE);
	return starts_with(path, "///") ? path + 2 : path; /* sqlite:///path, as others write it */
}

static int
check_sqlite(const char *uri, char why[CONF_WHY_MAX])
{
	const char *path = conf_uri_sqlite_path(uri);
	size_t len = strlen(path);

	if (path[0] != '/' || path[1] == '/')
		(void)snprintf(why, CONF_WHY_MAX, "sqlite: needs an absolute path: sqlite:/PATH");
	else if (path[len - 1] == '/')
		(void)snprintf(why, CONF_WHY_MAX, "sqlite: needs the path of a file");
	else if (len >= PATH_MAX)
		(void)snprintf(why, CONF_WHY_MAX, "the path is too long");
	else
		return 0;
	return -EINVAL;
}

/* "mysql" of "mysql://host": a reason, when the uri has a scheme and it is none of ours. */
static int
check_scheme(const char *uri, char why[CONF_WHY_MAX])
{
	size_t len =
	    strspn(uri, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.");

	if (len == 0 || len > 32 || uri[len] != ':' || is_postgres_url(uri))
		return 0;
	(void)snprintf(why, CONF_WHY_MAX, "\"%.*s:\" is not known here; accepted are " ACCEPTED,
		       (int)len, uri);
	return -EINVAL;
}

/*
 * libpq quotes parts of the string in its messages, and whole URLs: those go, unless there is
 * no password in sight.
 */
static void
explain(const char *uri, const char *message, char why[CONF_WHY_MAX])
{
	bool secret = is_postgres_url(uri) || strcasestr(uri, "pass");
	bool quoted = false;
	size_t len = 0;

	for (const char *p = message; *p && *p != '\n' && len < CONF_WHY_MAX - 1; p++) {
		if (*p == '"')
			quoted = !quoted;
		if (!secret || *p == '"' || !quoted)
			why[len++] = *p;
		else if (p[-1] == '"')
			len += (size_t)snprintf(why + len, CONF_WHY_MAX - len, "...");
		if (len > CONF_WHY_MAX - 1)
			len = CONF_WHY_MAX - 1;
	}
	why[len] = '\0';
}

static int
check_conninfo(const char *uri, char why[CONF_WHY_MAX])
{
	PQconninfoOption *options;
	char *message = NULL;

	options = PQconninfoParse(uri, &message);
	if (options) {
		PQconninfoFree(options);
		return 0;
	}
	if (!message)
		return -ENOMEM;
	explain(uri, message, why);
	PQfreemem(message);
	return -EINVAL;
}

int
conf_uri_check(const char *uri, char why[CONF_WHY_MAX])
{
	int r;

	if (starts_with(uri, SQLITE))
		return check_sqlite(uri, why);
	r = check_scheme(uri, why);
	if (r < 0)
		return r;
	if (is_postgres_url(uri) || strchr(uri, '='))
		return check_conninfo(uri, why);
	(void)snprintf(why, CONF_WHY_MAX, "accepted are " ACCEPTED);
	return -EINVAL;
}

/* ---- key=value strings ---- */

static char *
append_quoted(char *p, const char *value)
{
	*p++ = '\'';
	for (; *value; value++) {
		if (*value == '\'' || *value == '\\')
			*p++ = '\\';
		*p++ = *value;
	}
	*p++ = '\'';
	return p;
}

char *
conf_uri_join(const struct conf_keyword *words, size_t n)
{
	size_t size = 1;
	char *s, *p;

	for (size_t i = 0; i < n; i++)
		size += strlen(words[i].name) + 2 * strlen(words[i].value) + strlen(" =''");
	p = s = malloc(size);
	if (!s)
		return NULL;
	for (size_t i = 0; i < n; i++) {
		if (i > 0)
			*p++ = ' ';
		p = stpcpy(p, words[i].name);
		*p++ = '=';
		p = append_quoted(p, words[i].value);
	}
	*p = '\0';
	return s;
}

/* ---- passwords ---- */

static int
check_password(char *buf, size_t len, char why[CONF_WHY_MAX])
{
	size_t end = strcspn(buf, "\r\n");

	if (strlen(buf) != len)
		(void)snprintf(why, CONF_WHY_MAX, "holds a NUL byte");
	else if (end > CONF_PASSWORD_MAX)
		(void)snprintf(why, CONF_WHY_MAX, "is longer than %d bytes", CONF_PASSWORD_MAX);
	else if (end == 0)
		(void)snprintf(why, CONF_WHY_MAX, "is empty");
	else if (buf[end + strspn(buf + end, "\r\n")] != '\0')
		(void)snprintf(why, CONF_WHY_MAX, "holds more than one line");
	else {
		buf[end] = '\0';
		return 0;
	}
	return -EINVAL;
}

int
conf_password_read(const char *path, char **ret, char why[CONF_WHY_MAX])
{
	char buf[CONF_PASSWORD_MAX + 3]; /* "\r\n" and a byte that shows that there is more */
	size_t len;
	int r = conf_read(path, buf, sizeof(buf) - 1, &len);

	if (r < 0) {
		if (r == -EFBIG)
			(void)snprintf(why, CONF_WHY_MAX, "is longer than %d bytes",
				       CONF_PASSWORD_MAX);
		else
			(void)snprintf(why, CONF_WHY_MAX, "cannot be read: %s", conf_read_error(r));
		r = -EINVAL;
		goto out;
	}
	buf[len] = '\0';
	r = check_password(buf, len, why);
	if (r < 0)
		goto out;
	*ret = strdup(buf);
	if (!*ret)
		r = -ENOMEM;
out:
	explicit_bzero(buf, sizeof(buf));
	return r;
}

void
conf_secret_free(char *secret)
{
	if (!secret)
		return;
	explicit_bzero(secret, strlen(secret));
	free(secret);
}
