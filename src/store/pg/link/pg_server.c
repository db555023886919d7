#include "store/pg/link/pg_server.h"

#include <stdio.h>
#include <stdlib.h>

#include "store/pg/link/pg_error.h"

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
