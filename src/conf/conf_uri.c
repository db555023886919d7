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
#include "conf/conf_value.h"

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
	bool secret = conf_may_hold_secret(uri);
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

/*
 * Does libpq find the parts of this URL elsewhere than whoever wrote it?  It ends user and password
 * at the first '@', and takes them for host and port where a '/' comes before that.
 */
static bool
is_misread(const char *url)
{
	const char *p = strstr(url, "://") + strlen("://");
	size_t len = strcspn(p, "?");
	const char *at = memchr(p, '@', len), *slash = memchr(p, '/', len);

	return at && ((slash && slash < at) || memchr(at + 1, '@', len - (size_t)(at + 1 - p)));
}

static bool
is_no_url(const char *name)
{
	return !strstr(name, "://");
}

/* "/directory" and "@name" are unix sockets. */
static bool
is_host(const char *host)
{
	return *host == '/' || (!strchr(*host == '@' ? host + 1 : host, '@') && is_no_url(host));
}

static bool
is_port(const char *port)
{
	uint64_t number;

	return !*port ||
	       (strspn(port, "0123456789") == strlen(port) &&
		conf_value_integer(port, &number) == 0 && number >= 1 && number <= UINT16_MAX);
}

/* Are all items of a list between commas of that kind?  Errors in memory are nobody's fault. */
static bool
each_is(const char *list, bool (*is)(const char *item))
{
	char *copy = strdup(list), *rest = copy, *item;
	bool good = true;

	while (good && (item = strsep(&rest, ",")) != NULL)
		good = is(item);
	free(copy);
	return good;
}

/*
 * Each of these would be looked up, connected to or asked for at each try, and would then stand in
 * the log: where it is not what it should be, it is likely to be a password, or to hold one.
 */
static const struct {
	const char *keyword;
	bool (*is)(const char *item);
	const char *what;
} parts[] = {
    {"host", is_host, "a host holds an '@'"},
    {"hostaddr", is_host, "an address holds an '@'"},
    {"port", is_port, "a port is not a number from 1 to 65535"},
    {"dbname", is_no_url, "the name of the database is a URL"},
    {"user", is_no_url, "the name of the user is a URL"},
};

static const char write_as[] =
    " (in a URL, ':', '/' and '@' of a user or a password are %3A, %2F and %40)";

static int
check_parts(const PQconninfoOption *o, char why[CONF_WHY_MAX])
{
	for (; o->keyword; o++) {
		for (size_t i = 0; o->val && i < sizeof(parts) / sizeof(parts[0]); i++) {
			if (strcmp(parts[i].keyword, o->keyword) != 0 ||
			    each_is(o->val, parts[i].is))
				continue;
			(void)snprintf(why, CONF_WHY_MAX, "%s%s", parts[i].what, write_as);
			return -EINVAL;
		}
	}
	return 0;
}

static int
check_conninfo(const char *uri, char why[CONF_WHY_MAX])
{
	PQconninfoOption *options;
	char *message = NULL;
	int r;

	if (is_postgres_url(uri) && is_misread(uri)) {
		(void)snprintf(why, CONF_WHY_MAX, "an '@' stands where none can be%s", write_as);
		return -EINVAL;
	}
	options = PQconninfoParse(uri, &message);
	if (options) {
		r = check_parts(options, why);
		PQconninfoFree(options);
		return r;
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

/* ---- secrets ---- */

bool
conf_may_hold_secret(const char *text)
{
	return strstr(text, "://") || strchr(text, '@') || strcasestr(text, "pass") ||
	       strcasestr(text, "pw");
}

bool
conf_uri_has_password(const char *uri)
{
	PQconninfoOption *options = PQconninfoParse(uri, NULL);
	bool has = false;

	for (const PQconninfoOption *o = options; o && o->keyword; o++)
		has |= *o->dispchar == '*' && o->val && *o->val;
	PQconninfoFree(options);
	return has;
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
