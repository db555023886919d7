/*
 * pg_prepare.c - from a connection to a table that takes COPY.
 *
 * The janitor makes what is missing (pg_prepare()); writers only look (pg_verify()), so that none
 * of them ever waits for a lock of set-up.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "log/log.h"
#include "store/pg/link/pg_error.h"
#include "store/pg/pg_store.h"
#include "store/pg/setup/pg_citus.h"
#include "store/pg/setup/pg_database.h"
#include "store/pg/setup/pg_lock.h"
#include "store/pg/setup/pg_migrate.h"
#include "store/pg/setup/pg_timescaledb.h"
#include "store/pg/upkeep/pg_partition.h"

#define SERVER_MIN 130000

static enum store_status
check_version(struct postgres *p, struct store_error *err)
{
	char text[64];
	int version = PQserverVersion(p->c.pg);

	if (version >= SERVER_MIN)
		return STORE_OK;
	(void)snprintf(text, sizeof(text), "PostgreSQL %d is too old", version / 10000);
	return pg_error_set(err, "0A000", text, NULL, true);
}

#define START_US "(extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::bigint"

/*
 * A pooler may lead to another server, one that lacks commits, while our connection to it
 * stands.  Where batches are kept for that case, each transaction makes sure that it has not: on
 * a server that was started at another time it becomes read-only.  The 25006 that follows has us
 * connect again, and look which batches are missing.
 */
static enum store_status
know_server(struct postgres *p, struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st;

	if (p->conf->buffer.keep_ms == 0)
		return STORE_OK;
	st = pg_query(&p->c, "SELECT " START_US, &r, err);
	if (st == STORE_OK)
		(void)snprintf(p->same_server, sizeof(p->same_server),
			       "SELECT pg_catalog.set_config('transaction_read_only', 'on', true)"
			       " WHERE " START_US " <> %s;",
			       PQgetvalue(r, 0, 0));
	PQclear(r);
	return st;
}

/*
 * Reads the columns and composes the statements that each transaction starts with.  A commit is
 * what lets us forget a batch: it must be on the server's disk, even where somebody
 * has switched synchronous_commit off.
 */
enum store_status
pg_read_columns(struct postgres *p, struct store_error *err)
{
	enum store_status st = pg_columns(&p->c, &p->guard, err);

	if (st == STORE_OK)
		(void)snprintf(p->settings, sizeof(p->settings),
			       "SET LOCAL lock_timeout = '10s';" PG_NO_STATEMENT_TIMEOUT
			       "SELECT pg_catalog.set_config('synchronous_commit', 'on', true)"
			       " WHERE pg_catalog.current_setting('synchronous_commit') = 'off';"
			       "%s%s",
			       p->same_server, p->guard.sql);
	return st;
}

bool
pg_is_unprepared(const struct store_error *err)
{
	static const char *const states[] = {"3D000", "3F000", "42P01"};

	for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		if (strcmp(err->sqlstate, states[i]) == 0)
			return true;
	return false;
}

/* ---- by the janitor ---- */

static enum store_status
make_all(struct postgres *p, struct store_error *err)
{
	char timescaledb[PG_VERSION_MAX] = "", citus[PG_VERSION_MAX] = "";
	enum store_status st = pg_citus_find(&p->c, p->conf, citus, err);

	if (st == STORE_OK)
		st = pg_migrate(&p->c, p->conf, "postgresql", NULL, err);
	/* a table that will not do stays as it is */
	if (st == STORE_OK)
		st = pg_read_columns(p, err);
	if (st == STORE_OK && *citus)
		st = pg_citus_distribute(&p->c, p->conf, citus, err);
	if (st == STORE_OK && !*citus)
		st = pg_timescaledb(&p->c, p->conf, timescaledb, err);
	if (st == STORE_OK)
		st = pg_citus_distributed(&p->c, &p->c.distributed, err);
	p->hypertable = *timescaledb != '\0';
	if (st == STORE_OK && !p->hypertable)
		st = pg_partition_make(&p->c, p->conf, err);
	return st;
}

enum store_status
pg_prepare(struct postgres *p, struct store_error *err)
{
	enum store_status st = check_version(p, err);

	if (st == STORE_OK)
		st = know_server(p, err);
	p->c.stall_ms = PG_DDL_STALL_MS;
	if (st == STORE_OK)
		st = make_all(p, err);
	p->c.stall_ms = PG_STALL_MS;
	p->look_again = true; /* should it be given batches */
	return st;
}

/* ---- by a writer ---- */

static enum store_status
check_migrations(struct postgres *p, struct store_error *err)
{
	bool missing = false;
	enum store_status st = pg_migrate_look(&p->c, "postgresql", &missing, err);

	if (st != STORE_OK || !missing)
		return st;
	(void)pg_error_set(err, "", "a migration is not applied", NULL, true);
	err->unprepared = true;
	return STORE_RETRY;
}

static enum store_status
look_at_all(struct postgres *p, char timescaledb[PG_VERSION_MAX], struct store_error *err)
{
	enum store_status st = check_migrations(p, err);

	if (st == STORE_OK)
		st = pg_read_columns(p, err);
	if (st == STORE_OK)
		st = pg_citus_distributed(&p->c, &p->c.distributed, err);
	if (st == STORE_OK)
		st = pg_timescaledb_version(&p->c, p->conf, timescaledb, err);
	p->hypertable = *timescaledb != '\0';
	return st == STORE_OK ? pg_shaper_refresh(&p->shaper, &p->c, err) : st;
}

enum store_status
pg_verify(struct postgres *p, struct store_error *err)
{
	char timescaledb[PG_VERSION_MAX] = "", citus[PG_VERSION_MAX] = "";
	enum store_status st = check_version(p, err);

	if (st == STORE_OK)
		st = know_server(p, err);
	if (st == STORE_OK)
		st = look_at_all(p, timescaledb, err);
	if (st == STORE_OK && p->c.distributed)
		st = pg_citus_find(&p->c, p->conf, citus, err);
	if (st == STORE_HOLD && pg_is_unprepared(err))
		err->unprepared = true;
	if (st == STORE_OK)
		log_event(LOG_INFO, "database_connected",
			  LOG_STR("server_version", PQparameterStatus(p->c.pg, "server_version")),
			  LOG_STR("timescaledb_version", *timescaledb ? timescaledb : NULL),
			  LOG_STR("citus_version", *citus ? citus : NULL));
	return st;
}
