#include "store/pg/setup/pg_lock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "store/pg/link/pg_error.h"
#include "store/pg/link/pg_watch.h"

/* Any number that nobody else takes: "mcollect". */
#define LOCK_KEY "7882266284294234996"

#define PAUSE_MS 250 /* between two tries */
#define SAY_FIRST_MS 5000
#define SAY_MS 60000

#define HOLDER                                                                       \
	"SELECT a.pid, a.application_name, a.usename FROM pg_catalog.pg_locks l"     \
	" JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid"                       \
	" WHERE l.granted AND l.pid <> pg_catalog.pg_backend_pid() AND l.database =" \
	" (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())"

static const char key_sql[] = HOLDER " AND l.locktype = 'advisory' AND l.objsubid = 1"
				     " AND l.classid = (" LOCK_KEY " >> 32)::pg_catalog.oid"
				     " AND l.objid = (" LOCK_KEY " & 4294967295)::pg_catalog.oid"
				     " ORDER BY a.xact_start LIMIT 1";

/* DDL wants a table for itself. */
static const char table_sql[] =
    HOLDER " AND l.locktype = 'relation' AND (l.relation = pg_catalog.to_regclass('metrics')"
	   " OR l.relation IN (SELECT inhrelid FROM pg_catalog.pg_inherits"
	   "  WHERE inhparent = pg_catalog.to_regclass('metrics'))"
	   " OR l.relation IN (SELECT oid FROM pg_catalog.pg_class"
	   "  WHERE relnamespace = pg_catalog.to_regnamespace('metric_collectord')))"
	   " ORDER BY a.xact_start LIMIT 1";

/* ---- who is it? ---- */

static enum store_status
find_holder(struct pg_conn *c, const char *sql, const char *what, struct pg_sight *ret,
	    struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st = pg_select(c, sql, PG_ROW_OR_NONE(3), &r, err);

	*ret = (struct pg_sight){.seen = PG_SEEN_WAITING};
	(void)snprintf(ret->what, sizeof(ret->what), "%s", what);
	if (st == STORE_OK && PQntuples(r) > 0) {
		ret->pid = (int)strtol(PQgetvalue(r, 0, 0), NULL, 10);
		(void)snprintf(ret->application, sizeof(ret->application), "%s",
			       PQgetvalue(r, 0, 1));
		(void)snprintf(ret->user, sizeof(ret->user), "%s", PQgetvalue(r, 0, 2));
	}
	PQclear(r);
	return st;
}

/* The lock is not to be had: err says who has it. */
static enum store_status
busy(const struct pg_sight *holder, const char *what, struct store_error *err)
{
	char text[STORE_ERROR_MAX];

	if (holder->pid)
		(void)snprintf(text, sizeof(text), "%s: pid %d (%s, user %s)", what, holder->pid,
			       holder->application, holder->user);
	else
		(void)snprintf(text, sizeof(text), "%s", what);
	(void)pg_error_set(err, "55P03", text, NULL, true);
	err->hint = pg_watch_hint(holder);
	return STORE_RETRY;
}

/* ---- the lock ---- */

/* Begins a transaction and tries to get the lock; without it the transaction ends again. */
static enum store_status
try_lock(struct pg_conn *c, int table_ms, bool *got, struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st;
	char sql[512];

	/* it is READ COMMITTED: what follows must see what the last holder of the lock did */
	(void)snprintf(sql, sizeof(sql),
		       PG_NO_STANDBY "SET LOCAL lock_timeout = %d;"
				     "SELECT pg_catalog.pg_try_advisory_xact_lock(" LOCK_KEY "),"
				     " pg_catalog.pg_backend_pid()",
		       table_ms);
	st = pg_begin_select(c, sql, PG_ROW(2), &r, err);
	if (st != STORE_OK) {
		pg_rollback(c, err);
		return st;
	}
	*got = *PQgetvalue(r, 0, 0) == 't';
	c->pid = *got ? (int)strtol(PQgetvalue(r, 0, 1), NULL, 10) : 0;
	PQclear(r);
	return *got ? STORE_OK : pg_order(c, "ROLLBACK", err);
}

enum store_status
pg_lock_begin(struct pg_conn *c, uint64_t wait_ms, struct store_error *err)
{
	int table_ms = wait_ms < PG_LOCK_SETUP_MS ? PG_LOCK_TABLE_MS : PG_LOCK_SETUP_TABLE_MS;
	uint64_t start_ms = clock_ms(), say_ms = start_ms + SAY_FIRST_MS, now_ms;
	struct pg_sight holder;
	enum store_status st;
	bool got = false;

	c->lock_busy = false;
	for (;;) {
		st = try_lock(c, table_ms, &got, err);
		if (st != STORE_OK || got)
			return st;
		st = find_holder(c, key_sql, "Lock advisory", &holder, err);
		if (st != STORE_OK)
			return st;
		now_ms = clock_ms();
		c->lock_busy = now_ms - start_ms >= wait_ms;
		if (c->lock_busy)
			return busy(&holder, "another session changes the tables", err);
		if (now_ms >= say_ms) {
			pg_watch_log(&holder, now_ms - start_ms);
			say_ms = now_ms + SAY_MS;
		}
		st = pg_sleep(c, PAUSE_MS, err);
		if (st != STORE_OK)
			return st;
	}
}

/* Whoever keeps a table that DDL wants is named, if he can be. */
static enum store_status
name_holder(struct pg_conn *c, struct store_error *err)
{
	const struct store_error before = *err;
	struct pg_sight holder;

	if (find_holder(c, table_sql, "Lock relation", &holder, err) == STORE_OK && holder.pid)
		return busy(&holder, before.text, err);
	*err = before;
	return STORE_RETRY;
}

enum store_status
pg_lock_end(struct pg_conn *c, enum store_status st, struct store_error *err)
{
	bool began = c->pid != 0;

	c->pid = 0;
	if (st == STORE_OK)
		return pg_order(c, "COMMIT", err);
	pg_rollback(c, err);
	if (began && st == STORE_RETRY && !err->reconnect && strcmp(err->sqlstate, "55P03") == 0)
		return name_holder(c, err);
	return st;
}
