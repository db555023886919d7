#include "conf/conf.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conf/conf_file.h"
#include "conf/conf_key.h"
#include "conf/conf_read.h"
#include "conf/conf_uri.h"
#include "conf/conf_value.h"

#ifndef CONF_DEFAULT_FILE
#error "CONF_DEFAULT_FILE, the path of the configuration file, comes from AM_CPPFLAGS"
#endif

const char conf_default_file[] = CONF_DEFAULT_FILE;

/* Where a key's value came from, the last time it was set. */
enum from { FROM_DEFAULT, FROM_FILE, FROM_ENVIRONMENT, FROM_OPTION };

struct origin {
	enum from from;
	unsigned line;        /* in the file */
	const char *variable; /* of the environment */
	const char *text;     /* as written; borrowed from there; NULL for lists */
};

struct load {
	const struct conf_source *src;
	struct conf *conf;
	struct conf_file *file; /* NULL when there is none */
	const char **names;     /* of all keys */
	struct origin *origins; /* of all keys */
	conf_report_fn *report;
	void *arg;
	int error; /* the result so far: 0, -EINVAL, -ENOMEM */
};

static void
fail(struct load *l, int error)
{
	if (l->error != -ENOMEM)
		l->error = error;
}

/* ---- reports ---- */

static void __attribute__((format(printf, 2, 3))) report(struct load *l, const char *fmt, ...)
{
	va_list ap;
	char *line;
	int r;

	va_start(ap, fmt);
	r = vasprintf(&line, fmt, ap);
	va_end(ap);
	if (r < 0) {
		fail(l, -ENOMEM);
		return;
	}
	l->report(l->arg, line);
	free(line);
	fail(l, -EINVAL);
}

/* Who set it, and which key: see conf_where().  NULL when memory is short. */
static char *
where_text(const struct load *l, const struct conf_key *k)
{
	const struct origin *o = &l->origins[conf_key_index(k)];
	char *text = NULL;
	int r = -1;

	switch (o->from) {
	case FROM_DEFAULT:
		r = asprintf(&text, "%s", conf_key_name(k));
		break;
	case FROM_FILE:
		r = asprintf(&text, "%s:%u: %s", l->file->path, o->line, conf_key_name(k));
		break;
	case FROM_ENVIRONMENT:
		r = asprintf(&text, "environment: %s", o->variable);
		break;
	case FROM_OPTION:
		r = asprintf(&text, "-o %s", conf_key_name(k));
		break;
	}
	return r < 0 ? NULL : text;
}

/* "FILE:3: batch.interval: WHAT", "environment: BATCH_INTERVAL: WHAT", "-o batch.interval: ..." */
static void
report_key(struct load *l, const struct conf_key *k, const char *what)
{
	char *where = where_text(l, k);

	if (where)
		report(l, "%s: %s", where, what);
	else
		fail(l, -ENOMEM);
	free(where);
}

static struct origin *
origin(struct load *l, const char *key)
{
	return &l->origins[conf_key_index(conf_key_find(key))];
}

/* ---- defaults ---- */

static void
load_defaults(struct load *l)
{
	for (size_t i = 0; i < conf_key_count(); i++) {
		const struct conf_key *k = conf_key_at(i);
		char why[CONF_WHY_MAX];
		int r;

		l->names[i] = conf_key_name(k);
		l->origins[i].text = conf_key_default(k);
		r = conf_key_set_text(k, l->conf, conf_key_default(k), why);
		assert(r != -EINVAL);
		if (r < 0)
			fail(l, r);
	}
}

/* ---- the file ---- */

static void
load_entry(struct load *l, const struct conf_entry *e)
{
	const struct conf_key *k = conf_key_find(e->key);
	struct origin *o = &l->origins[conf_key_index(k)];
	char why[CONF_WHY_MAX];
	int r, added = 0;

	if (o->from == FROM_FILE)
		added = conf_file_problem(l->file, e->line, "%s: given twice, first in line %u",
					  e->key, o->line);
	else
		*o = (struct origin){
		    .from = FROM_FILE, .line = e->line, .text = e->n == 1 ? e->values[0] : NULL};
	r = conf_key_set(k, l->conf, (const char *const *)e->values, e->n, why);
	if (r == -EINVAL && added == 0)
		added = conf_file_problem(l->file, e->line, "%s: %s", e->key, why);
	if (r == -ENOMEM || added < 0)
		fail(l, -ENOMEM);
}

static void
report_file(struct load *l)
{
	conf_file_sort(l->file);
	for (size_t i = 0; i < l->file->n_problems; i++) {
		const struct conf_problem *p = &l->file->problems[i];

		if (p->line > 0)
			report(l, "%s:%u: %s", l->file->path, p->line, p->text);
		else
			report(l, "%s: %s", l->file->path, p->text);
	}
}

static void
load_file(struct load *l)
{
	const char *path = l->src->file ? l->src->file : conf_default_file;
	int r;

	r = conf_file_read(path, l->names, conf_key_count(), &l->file);
	if (r == -ENOENT && !l->src->file)
		return;
	if (r == -ENOMEM) {
		fail(l, r);
		return;
	}
	if (r < 0) {
		report(l, "%s: %s", path, conf_read_error(r));
		return;
	}
	l->conf->file = strdup(path);
	if (!l->conf->file)
		fail(l, -ENOMEM);
	for (size_t i = 0; i < l->file->n_entries; i++)
		load_entry(l, &l->file->entries[i]);
	report_file(l);
}

/* ---- the environment ---- */

/* Empty is as good as not set: that is how container tools leave a variable out. */
static const char *
env(const char *name)
{
	const char *value = getenv(name);

	return value && *value ? value : NULL;
}

static void
set_from_env(struct load *l, const char *key, const char *variable, const char *value)
{
	const struct conf_key *k = conf_key_find(key);
	char why[CONF_WHY_MAX];
	int r;

	*origin(l, key) = (struct origin){
	    .from = FROM_ENVIRONMENT, .variable = variable, .text = getenv(variable)};
	r = conf_key_set_text(k, l->conf, value, why);
	if (r == -EINVAL)
		report_key(l, k, why);
	else if (r < 0)
		fail(l, r);
}

/* Is the variable empty, or a port from min on?  Reports it when not. */
static bool
env_port_ok(struct load *l, const char *name, unsigned min)
{
	const char *value = env(name);
	char shown[CONF_VALUE_SHOWN];
	uint64_t port;
	int r = value ? conf_value_integer(value, &port) : 0;

	if (!value || (r == 0 && port >= min && port <= UINT16_MAX))
		return true;
	(void)conf_value_show(value, shown);
	if (r == -EINVAL) /* what it is instead may be a password */
		report(l, "environment: %s: is not a port (%u..65535)", name, min);
	else
		report(l, "environment: %s: %s is out of range %u..65535", name, shown, min);
	return false;
}

static void
load_env_listen(struct load *l)
{
	const char *host = env("TCP_HOST"), *port = env("TCP_PORT");
	const char *named = host ? "TCP_HOST" : "TCP_PORT";
	char *address;
	int r;

	if ((!host && !port) || !env_port_ok(l, "TCP_PORT", 0))
		return;
	host = host ? host : "0.0.0.0";
	port = port ? port : "9999";
	if (strchr(host, ':') && host[0] != '[')
		r = asprintf(&address, "[%s]:%s", host, port);
	else
		r = asprintf(&address, "%s:%s", host, port);
	if (r < 0) {
		fail(l, -ENOMEM);
		return;
	}
	set_from_env(l, "listen", named, address);
	free(address);
}

static const char *
env_or(const char *name, const char *otherwise)
{
	const char *value = env(name);

	return value ? value : otherwise;
}

/* DB_HOST and the others make up a whole uri; nothing of an earlier one is left. */
static void
load_env_parts(struct load *l, const char *variable)
{
	const struct conf_keyword words[] = {
	    {"host", env_or("DB_HOST", "localhost")},
	    {"port", env_or("DB_PORT", "5432")},
	    {"dbname", env_or("DB_NAME", "metrics_db")},
	    {"user", env_or("DB_USER", "postgres")},
	};
	char *uri;

	if (!env_port_ok(l, "DB_PORT", 1))
		return;
	uri = conf_uri_join(words, sizeof(words) / sizeof(words[0]));
	if (!uri) {
		fail(l, -ENOMEM);
		return;
	}
	set_from_env(l, "database.uri", variable, uri);
	free(uri);
}

static void
load_env_database(struct load *l)
{
	static const char *const parts[] = {"DB_HOST", "DB_PORT", "DB_NAME", "DB_USER"};
	const char *variable = NULL;

	if (env("DATABASE_URL")) {
		set_from_env(l, "database.uri", "DATABASE_URL", env("DATABASE_URL"));
		return;
	}
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]) && !variable; i++)
		variable = env(parts[i]) ? parts[i] : NULL;
	/* A password alone goes with the PostgreSQL that the file names, if it names one. */
	if (!variable && env("DB_PASSWORD") && conf_uri_sqlite_path(l->conf->database.uri))
		variable = "DB_PASSWORD";
	if (variable)
		load_env_parts(l, variable);
}

static void
load_environment(struct load *l)
{
	load_env_listen(l);
	if (env("BATCH_INTERVAL"))
		set_from_env(l, "batch.interval", "BATCH_INTERVAL", env("BATCH_INTERVAL"));
	load_env_database(l);
	if (env("LOG_LEVEL"))
		set_from_env(l, "log.level", "LOG_LEVEL", env("LOG_LEVEL"));
}

/* ---- -o KEY=VALUE ---- */

/* What somebody gave as a key: anything else, a URL perhaps, is not shown. */
static const char *
shown_key(const char *text)
{
	return text[strspn(text, "abcdefghijklmnopqrstuvwxyz_.")] ? "..." : text;
}

static void
load_option(struct load *l, const char *option)
{
	const char *equals = strchr(option, '=');
	const struct conf_key *k;
	char why[CONF_WHY_MAX], *name;
	int r;

	if (!equals) {
		report(l, "-o \"%s\": is not KEY=VALUE", shown_key(option));
		return;
	}
	name = strndup(option, (size_t)(equals - option));
	if (!name) {
		fail(l, -ENOMEM);
		return;
	}
	k = conf_key_find(name);
	if (!k)
		report(l, "-o %s: unknown key", shown_key(name));
	free(name);
	if (!k)
		return;
	l->origins[conf_key_index(k)] = (struct origin){.from = FROM_OPTION, .text = equals + 1};
	r = conf_key_set_text(k, l->conf, equals + 1, why);
	if (r == -EINVAL)
		report_key(l, k, why);
	else if (r < 0)
		fail(l, r);
}

/* ---- what follows from several keys ---- */

static void
remember_source(struct load *l, const char *path)
{
	l->conf->database.password_source = strdup(path);
	if (!l->conf->database.password_source)
		fail(l, -ENOMEM);
}

static void
load_password_file(struct load *l)
{
	char why[CONF_WHY_MAX], shown[CONF_VALUE_SHOWN], text[CONF_WHY_MAX + CONF_VALUE_SHOWN];
	struct conf_database *db = &l->conf->database;
	int r;

	remember_source(l, db->password_file);
	r = conf_password_read(db->password_file, &db->password, why);
	if (r == -EINVAL) {
		(void)snprintf(text, sizeof(text), "%s %s",
			       conf_value_show(db->password_file, shown), why);
		report_key(l, conf_key_find("database.password_file"), text);
	} else if (r < 0) {
		fail(l, r);
	}
}

/* systemd's LoadCredential=db-password:... */
static void
load_credential(struct load *l)
{
	const char *dir = env("CREDENTIALS_DIRECTORY");
	char why[CONF_WHY_MAX], *path;
	int r;

	if (!dir)
		return;
	if (asprintf(&path, "%s/db-password", dir) < 0) {
		fail(l, -ENOMEM);
		return;
	}
	if (access(path, F_OK) == 0) {
		remember_source(l, path);
		r = conf_password_read(path, &l->conf->database.password, why);
		if (r == -EINVAL)
			report(l, "credential db-password: %s", why);
		else if (r < 0)
			fail(l, r);
	}
	free(path);
}

/* The order is that of all settings; the credential, which no key names, comes last. */
static void
load_password(struct load *l)
{
	struct conf_database *db = &l->conf->database;
	bool by_option = origin(l, "database.password_file")->from == FROM_OPTION;

	if (db->password_file[0] && (by_option || !env("DB_PASSWORD"))) {
		load_password_file(l);
	} else if (env("DB_PASSWORD")) {
		db->password = strdup(env("DB_PASSWORD"));
		if (!db->password)
			fail(l, -ENOMEM);
	} else {
		load_credential(l);
	}
}

static void
load_store(struct load *l)
{
	struct conf_database *db = &l->conf->database;
	const char *path = conf_uri_sqlite_path(db->uri);

	db->store = path ? CONF_STORE_SQLITE : CONF_STORE_POSTGRES;
	if (!path)
		return;
	db->path = strdup(path);
	if (!db->path)
		fail(l, -ENOMEM);
}

/* A rule between two keys: names the one that somebody has set. */
static void
check_at_most(struct load *l, const char *small, uint64_t a, const char *large, uint64_t b)
{
	const struct origin *oa = origin(l, small), *ob = origin(l, large);
	char shown_a[CONF_VALUE_SHOWN], shown_b[CONF_VALUE_SHOWN], what[CONF_WHY_MAX];

	if (a <= b)
		return;
	(void)conf_value_show(oa->text, shown_a);
	(void)conf_value_show(ob->text, shown_b);
	if (oa->from != FROM_DEFAULT) {
		(void)snprintf(what, sizeof(what), "%s is more than %s, which is %s", shown_a,
			       large, shown_b);
		report_key(l, conf_key_find(small), what);
	} else {
		(void)snprintf(what, sizeof(what), "%s is less than %s, which is %s", shown_b,
			       small, shown_a);
		report_key(l, conf_key_find(large), what);
	}
}

static void
check_together(struct load *l)
{
	const struct conf *c = l->conf;

	check_at_most(l, "buffer.keep", c->buffer.keep_ms, "database.ledger_keep",
		      c->database.ledger_keep_ms);
}

/* ---- all of it ---- */

/* For those that ask later. */
static void
keep_where(struct load *l)
{
	l->conf->where = calloc(conf_key_count(), sizeof(*l->conf->where));
	if (!l->conf->where) {
		fail(l, -ENOMEM);
		return;
	}
	for (size_t i = 0; i < conf_key_count(); i++) {
		if (l->origins[i].from == FROM_DEFAULT)
			continue;
		l->conf->where[i] = where_text(l, conf_key_at(i));
		if (!l->conf->where[i])
			fail(l, -ENOMEM);
	}
}

static void
load_all(struct load *l)
{
	load_defaults(l);
	if (l->error)
		return;
	load_file(l);
	load_environment(l);
	for (size_t i = 0; i < l->src->n_overrides; i++)
		load_option(l, l->src->overrides[i]);
	load_password(l);
	load_store(l);
	if (!l->error) /* else a value that is compared may not be the one that is meant */
		check_together(l);
	if (!l->error)
		keep_where(l);
}

int
conf_load(const struct conf_source *src, conf_report_fn *report_fn, void *arg, struct conf **ret)
{
	struct load l = {.src = src, .report = report_fn, .arg = arg};

	l.conf = calloc(1, sizeof(*l.conf));
	l.names = calloc(conf_key_count(), sizeof(*l.names));
	l.origins = calloc(conf_key_count(), sizeof(*l.origins));
	if (l.conf)
		l.conf->refs = 1;
	if (l.conf && l.names && l.origins)
		load_all(&l);
	else
		l.error = -ENOMEM;
	conf_file_free(l.file);
	free(l.names);
	free(l.origins);
	if (l.error)
		conf_unref(l.conf);
	else
		*ret = l.conf;
	return l.error;
}

bool
conf_shows_password(const struct conf_source *src)
{
	static const char uri[] = "database.uri=";

	for (size_t i = 0; i < src->n_overrides; i++)
		if (strncmp(src->overrides[i], uri, strlen(uri)) == 0 &&
		    conf_uri_has_password(src->overrides[i] + strlen(uri)))
			return true;
	return false;
}

struct conf *
conf_ref(struct conf *c)
{
	(void)__atomic_add_fetch(&c->refs, 1, __ATOMIC_RELAXED);
	return c;
}

void
conf_unref(struct conf *c)
{
	if (!c || __atomic_sub_fetch(&c->refs, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	for (size_t i = 0; i < conf_key_count(); i++) {
		conf_key_clear(conf_key_at(i), c);
		if (c->where)
			free(c->where[i]);
	}
	free(c->where);
	conf_secret_free(c->database.password);
	free(c->database.password_source);
	free(c->database.path);
	free(c->file);
	free(c);
}

const char *
conf_where(const struct conf *c, size_t index)
{
	return c->where ? c->where[index] : NULL;
}

/* The password is no key; wherever it comes from, it is told as its file. */
static bool
same_password(const struct conf *a, const struct conf *b)
{
	const char *pa = a->database.password, *pb = b->database.password;

	return pa && pb ? strcmp(pa, pb) == 0 : pa == pb;
}

void
conf_diff(const struct conf *a, const struct conf *b, conf_diff_fn *fn, void *arg)
{
	const struct conf_key *password_file = conf_key_find("database.password_file");

	for (size_t i = 0; i < conf_key_count(); i++) {
		const struct conf_key *k = conf_key_at(i);

		if (!conf_key_equal(k, a, b) || (k == password_file && !same_password(a, b)))
			fn(arg, conf_key_name(k), conf_key_restart(k));
	}
}
