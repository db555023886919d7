#include "store/pg/link/pg_error.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define SQLSTATE_LEN 5

/* The first entry whose prefix fits counts; what fits none is held. */
static const struct {
	const char *prefix;
	enum pg_class class;
	bool reconnect;
} classes[] = {
    {"08", PG_RETRY, true},     /* connection exception */
    {"22", PG_ISOLATE, false},  /* data exception */
    {"23", PG_ISOLATE, false},  /* integrity constraint violation */
    {"25006", PG_RETRY, true},  /* read-only transaction: find the primary again */
    {"25P03", PG_RETRY, true},  /* the session was ended for being idle in a transaction */
    {"25P04", PG_RETRY, true},  /* ... for a transaction that took too long */
    {"40", PG_RETRY, false},    /* transaction rollback: deadlock, serialization */
    {"53", PG_RETRY, false},    /* insufficient resources: disk full, memory, connections */
    {"55P03", PG_RETRY, false}, /* lock not available */
    {"57", PG_RETRY, false},    /* operator intervention: cancel, shutdown, starting up */
    {"58", PG_RETRY, false},    /* system error: I/O */
    {"P0", PG_ISOLATE, false},  /* raised by a trigger */
};

static const struct {
	const char *prefix;
	const char *hint;
} hints[] = {
    {"0A000",
     "the server or the table lacks a feature that is needed: PostgreSQL 13 or newer is, and "
     "where metrics has row security, a role with BYPASSRLS"},
    {"25006",
     "a standby, another server behind a pooler, or default_transaction_read_only is on "
     "for the database or the server: the collector looks again for one that takes writes"},
    {"28P01", "check the user and the password: database.uri, database.password_file, DB_PASSWORD"},
    {"28", "check the user in database.uri, and pg_hba.conf of the server"},
    {"3D000", "create the database, or set database.create = true and let the role create it"},
    {"3F000", "a schema is missing: check search_path, and restore metric_collectord"},
    {"42501", "grant the role what it lacks: INSERT on metrics; USAGE on the schema "
	      "metric_collectord; SELECT, INSERT, UPDATE, DELETE on its tables; for migrations "
	      "CREATE on the database and on the schema of metrics"},
    {"42P01", "a table is missing: restore it; or if it shall be made anew, empty: "
	      "DELETE FROM metric_collectord.migrations"},
    {"42703", "a column is missing: metrics has (time, metric_name, value)"},
    {"42804", "a column has changed: metrics has (time timestamptz, metric_name text, "
	      "value double precision)"},
    {"42809", "metrics is no table that takes COPY"},
    {"53100", "free space on the disk of the database"},
    {"53300", "raise max_connections of the server, or lower database.connections"},
    {"55P03", "another session keeps a lock on the table: database_waits in the log, or pg_locks, "
	      "shows which"},
    {"XX001", "the database is damaged: look at the log of the server"},
    {"XX002", "the database is damaged: look at the log of the server"},
    {"XX", "look at the log of the server"},
};

#define POOLER_USER "name the user in auth_file of pgbouncer.ini"

/* What PgBouncer says, in one language; but for the database that is missing, see there. */
static const struct {
	const char *part;
	const char *sqlstate;
	const char *hint; /* NULL: that of the SQLSTATE */
} refusals[] = {
    {"no such database", "08P01",
     "name the database in [databases] of pgbouncer.ini, or let * lead to any"},
    {"unsupported startup parameter", "08P01",
     "leave the parameter out of database.uri and the environment, or name it in "
     "ignore_startup_parameters of pgbouncer.ini"},
    {"no such user", "28000", POOLER_USER},
    {"\"trust\" authentication failed", "28000", POOLER_USER},
    {"login rejected", "28000", NULL},
    {"authentication failed", "28P01", NULL},
};

static bool
starts_with(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

enum pg_class
pg_error_class(const char *sqlstate)
{
	size_t i;

	if (!*sqlstate)
		return PG_RETRY;
	for (i = 0; i < COUNT(classes); i++)
		if (starts_with(sqlstate, classes[i].prefix))
			return classes[i].class;
	return PG_HOLD;
}

bool
pg_error_reconnect(const char *sqlstate)
{
	size_t i;

	for (i = 0; i < COUNT(classes); i++)
		if (starts_with(sqlstate, classes[i].prefix))
			return classes[i].reconnect;
	return false;
}

const char *
pg_error_hint(const char *sqlstate)
{
	size_t i;

	for (i = 0; i < COUNT(hints); i++)
		if (starts_with(sqlstate, hints[i].prefix))
			return hints[i].hint;
	return NULL;
}

const char *
pg_error_reason(const char *sqlstate)
{
	if (starts_with(sqlstate, "23"))
		return "constraint";
	if (starts_with(sqlstate, "P0"))
		return "trigger";
	return starts_with(sqlstate, "22") ? "value" : "other";
}

/* Puts s with its white space tidied; drops a newline at the end. */
static void
put_tidy(struct text *t, const char *s)
{
	static const char white[] = " \t\r\n";
	bool first = true;

	for (s += strspn(s, white); *s; s += strspn(s, white)) {
		size_t len = strcspn(s, white);

		if (!first)
			text_put(t, " ", 1);
		text_put(t, s, len);
		first = false;
		s += len;
	}
}

/* The database, the schema, a table, a column, or the type that a column had. */
static bool
is_missing(const char *sqlstate)
{
	static const char *const missing[] = {"3D000", "3F000", "42P01", "42703", "42804"};
	size_t i;

	for (i = 0; i < COUNT(missing); i++)
		if (strcmp(sqlstate, missing[i]) == 0)
			return true;
	return false;
}

enum store_status
pg_error_set(struct store_error *err, const char *sqlstate, const char *text, const char *detail,
	     bool connected)
{
	struct text t = {err->text, sizeof(err->text), 0};

	put_tidy(&t, text);
	if (detail) {
		text_put(&t, " (", 2);
		put_tidy(&t, detail);
		text_put(&t, ")", 1);
	}
	if (t.len < t.size)
		text_end(&t);
	else
		err->text[text_cut(err->text, t.len, t.size - 1)] = '\0';
	/* a SQLSTATE is five bytes; whatever else a server sends is none */
	if (strlen(sqlstate) != SQLSTATE_LEN)
		sqlstate = "";
	memcpy(err->sqlstate, sqlstate, strlen(sqlstate) + 1);
	err->hint = pg_error_hint(sqlstate);
	err->reconnect = !connected || pg_error_reconnect(sqlstate);
	err->setup = is_missing(sqlstate);
	err->batch_only = starts_with(sqlstate, "55P03") || starts_with(sqlstate, "40");
	return pg_error_class(sqlstate) == PG_RETRY ? STORE_RETRY : STORE_HOLD;
}

static bool
lacks_database(const char *text, const char *dbname)
{
	char part[STORE_ERROR_MAX];

	(void)snprintf(part, sizeof(part), "database \"%s\" does not exist", dbname);
	return strstr(text, part) != NULL;
}

static enum store_status
refuse(struct store_error *err, const char *sqlstate, const char *hint)
{
	memcpy(err->sqlstate, sqlstate, SQLSTATE_LEN + 1);
	err->hint = hint ? hint : pg_error_hint(sqlstate);
	err->setup = is_missing(sqlstate);
	return STORE_HOLD;
}

enum store_status
pg_error_pooler(struct store_error *err, const char *dbname)
{
	size_t i;

	/* what a server said a while ago */
	if (strcmp(err->sqlstate, "08P01") != 0 || strstr(err->text, "server_login_retry"))
		return STORE_RETRY;
	if (lacks_database(err->text, dbname))
		return refuse(err, "3D000", NULL);
	for (i = 0; i < COUNT(refusals); i++)
		if (strstr(err->text, refusals[i].part))
			return refuse(err, refusals[i].sqlstate, refusals[i].hint);
	return STORE_RETRY;
}

void
pg_error_extract(char *text, char sqlstate[6])
{
	static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
	char *p;

	sqlstate[0] = '\0';
	for (p = strstr(text, ":  "); p; p = strstr(p + 1, ":  ")) {
		char *state = p + 3;
		char *rest = state + SQLSTATE_LEN;

		if (strspn(state, digits) != SQLSTATE_LEN || !starts_with(rest, ": "))
			continue;
		memcpy(sqlstate, state, SQLSTATE_LEN);
		sqlstate[SQLSTATE_LEN] = '\0';
		memmove(p + 2, rest + 2, strlen(rest + 2) + 1);
		break;
	}
	if (!*sqlstate)
		return;
	p = strstr(text, ".c:"); /* "LOCATION:  InitPostgres, postinit.c:1055", translated */
	while (p && p > text && *p != '\n')
		p--;
	if (p && *p == '\n')
		*p = '\0';
}

/* Why libpq itself did not go on: in one language, since nobody calls setlocale(). */
static const struct {
	const char *part;
	const char *hint;
} obstacles[] = {
    {"root certificate file",
     "sslrootcert of database.uri names the certificate of the server's CA: put it there, readable "
     "by the collector's user"},
    {"certificate verify failed",
     "the server's certificate is not signed by the CA in sslrootcert of database.uri: name the "
     "right one"},
    {"does not match host name",
     "use a host name in database.uri that the server's certificate names, or sslmode=verify-ca"},
    {"has group or world access", "chmod 600 the file that sslkey of database.uri names"},
    {"must be owned by the", "chown the file that sslkey of database.uri names to the collector's "
			     "user"},
    {"private key file",
     "sslkey of database.uri names the key of the certificate in sslcert: put it "
     "there, readable by the collector's user"},
    {"certificate file", "sslcert of database.uri names the collector's certificate: put it there, "
			 "readable by the collector's user"},
    {"unknown ca",
     "the server does not trust the CA of the certificate in sslcert of database.uri"},
    {"does not support SSL", "switch ssl on in the server, or change sslmode of database.uri"},
};

const char *
pg_error_obstacle(const char *text)
{
	size_t i;

	for (i = 0; i < COUNT(obstacles); i++)
		if (strstr(text, obstacles[i].part))
			return obstacles[i].hint;
	return NULL;
}
