/*
 * pg_server.h - which server a connection has led to, and does it still?
 *
 * A pooler may lead to another server, one that lacks commits, while our connection to it stands.
 * Where batches are kept for that case (buffer.keep), a server is known by its start, and each
 * transaction makes sure that it is still the one: on a server that was started at another time it
 * becomes read-only.  The 25006 that follows has us connect again, and look which batches are
 * missing.
 */
#pragma once

#include "store/pg/link/pg_conn.h"

#define PG_SERVER_MAX 256

struct pg_server {
	uint64_t start_us;        /* 0: not asked */
	char same[PG_SERVER_MAX]; /* SQL for the beginning of each transaction; "": nothing */
};

/* Is it new enough?  STORE_HOLD if not. */
enum store_status pg_server_check(const struct pg_conn *c, struct store_error *err);

/*
 * Which database is it, and how is it reached?  See upkeep_database().  A standby that was promoted
 * has the same; a database that was made anew, or restored from a dump, has not.
 */
enum store_status pg_server_database(struct pg_conn *c, const struct conf *conf,
				     char ret[STORE_DATABASE_MAX], struct store_error *err);

/* Is that how known was reached? */
bool pg_server_is_way(const struct conf *conf, const char *known);

/* Asks which one it is, where that matters. */
enum store_status pg_server_know(struct pg_conn *c, const struct conf *conf, struct pg_server *ret,
				 struct store_error *err);
