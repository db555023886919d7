#include "store/pg/link/pg_server.h"

#include <stdio.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "store/pg/link/pg_error.h"
#include "wire/crc32c.h"

#define SERVER_MIN 130000

#define START_US "(extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::bigint"

enum store_status
pg_server_check(const struct pg_conn *c, struct store_error *err)
{
	char text[64];
	int version = PQserverVersion(c->pg);

	if (version >= SERVER_MIN)
		return STORE_OK;
	(void)snprintf(text, sizeof(text), "PostgreSQL %d is too old", version / 10000);
	return pg_error_set(err, "0A000", text, NULL, true);
}

enum store_status
pg_server_know(struct pg_conn *c, const struct conf *conf, struct pg_server *ret,
	       struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st;

	*ret = (struct pg_server){.start_us = 0};
	if (conf->buffer.keep_ms == 0)
		return STORE_OK;
	st = pg_select(c, "SELECT " START_US, PG_ROW(1), &r, err);
	if (st == STORE_OK) {
		ret->start_us = strtoull(PQgetvalue(r, 0, 0), NULL, 10);
		(void)snprintf(ret->same, sizeof(ret->same),
			       "SELECT pg_catalog.set_config('transaction_read_only', 'on', true)"
			       " WHERE " START_US " <> %s;",
			       PQgetvalue(r, 0, 0));
	}
	PQclear(r);
	return st;
}

/* ---- the database ---- */

#define WAY_MAX 16

/* The connection string may hold a password: not as it stands. */
static void
way(char out[WAY_MAX], const struct conf *conf)
{
	const char *uri = conf->database.uri;

	(void)snprintf(out, WAY_MAX, "%08" PRIx32, crc32c(0, uri, strlen(uri)));
}

bool
pg_server_is_way(const struct conf *conf, const char *known)
{
	char now[WAY_MAX];

	way(now, conf);
	return strncmp(known, now, strlen(now)) == 0;
}

/* Some keep that function to themselves. */
static enum store_status
read_system(struct pg_conn *c, char system[24], struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st = pg_select(
	    c,
	    "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')",
	    PG_ROW(1), &r, err);
	bool may = st == STORE_OK && *PQgetvalue(r, 0, 0) == 't';

	PQclear(r);
	r = NULL;
	(void)snprintf(system, 24, "-");
	if (!may)
		return st;
	st = pg_select(c, "SELECT system_identifier FROM pg_catalog.pg_control_system()", PG_ROW(1),
		       &r, err);
	if (st == STORE_OK)
		(void)snprintf(system, 24, "%s", PQgetvalue(r, 0, 0));
	PQclear(r);
	return st;
}

enum store_status
pg_server_database(struct pg_conn *c, const struct conf *conf, char ret[STORE_DATABASE_MAX],
		   struct store_error *err)
{
	char how[WAY_MAX], system[24];
	enum store_status st = read_system(c, system, err);
	PGresult *r = NULL;

	if (st == STORE_OK)
		st = pg_select(c,
			       "SELECT oid FROM pg_catalog.pg_database"
			       " WHERE datname = pg_catalog.current_database()",
			       PG_ROW(1), &r, err);
	way(how, conf);
	if (st == STORE_OK)
		(void)snprintf(ret, STORE_DATABASE_MAX, "%s %s/%s", how, system,
			       PQgetvalue(r, 0, 0));
	PQclear(r);
	return st;
}
