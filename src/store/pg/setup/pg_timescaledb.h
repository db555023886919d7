/*
 * pg_timescaledb.h - the hypertable, where TimescaleDB is there.
 */
#pragma once

#include "store/pg/link/pg_conn.h"

#define PG_VERSION_MAX 32

/*
 * Makes metrics a hypertable, with the rows that it holds, as database.timescaledb and
 * table.chunk_interval say; one that is a hypertable already is left alone.  With
 * database.migrate, applies the migrations of the flavour "timescaledb"; what TimescaleDB then does
 * by itself is pg_policy.h's.  Logs hypertable_created; without TimescaleDB, timescaledb_absent
 * once in the life of the process, or with "require" returns STORE_HOLD.  version becomes "" where
 * metrics stays a plain table.
 */
enum store_status pg_timescaledb(struct pg_conn *c, const struct conf *conf,
				 char version[PG_VERSION_MAX], struct store_error *err);

/* The same without making anything: with "require", what is not there is STORE_HOLD, err->setup. */
enum store_status pg_timescaledb_look(struct pg_conn *c, const struct conf *conf,
				      char version[PG_VERSION_MAX], struct store_error *err);
