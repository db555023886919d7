/*
 * postgres.c - a writer's connection to PostgreSQL: it finds a table that is ready, and stores
 * batches.
 *
 * How a batch is ordered, divided and encoded stands in batch/; who made the table, in setup/.
 */
#include "store/store.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/crash_point.h"
#include "base/text.h"
#include "log/log.h"
#include "store/pg/batch/isolate.h"
#include "store/pg/batch/pg_shape.h"
#include "store/pg/link/pg_conn.h"
#include "store/pg/link/pg_error.h"
#include "store/pg/link/pg_server.h"
#include "store/pg/link/pg_session.h"
#include "store/pg/setup/pg_citus.h"
#include "store/pg/setup/pg_columns.h"
#include "store/pg/setup/pg_lock.h"
#include "store/pg/setup/pg_migrate.h"
#include "store/pg/setup/pg_timescaledb.h"

#define SETTINGS_MAX (PG_SERVER_MAX + PG_GUARD_MAX + 256)
#define LEDGER_MAX 512

#define LOOK_MS 60000 /* operators add indexes and triggers */

struct postgres {
	struct store base;
	const struct conf *conf; /* borrowed */
	struct pg_conn c;
	struct pg_server server;
	struct pg_guard guard;
	char settings[SETTINGS_MAX];
	struct pg_shaper shaper;
	uint64_t look_at_ms; /* when the table is looked at again */
};

/* ---- opening ---- */

/*
 * Reads the columns and composes the statements that each transaction starts with.  A commit is
 * what lets us forget a batch: it must be on the server's disk, even where somebody
 * has switched synchronous_commit off.
 */
static enum store_status
read_columns(struct postgres *p, struct store_error *err)
{
	enum store_status st = pg_columns_read(&p->c, &p->guard, err);

	if (st == STORE_OK)
		(void)snprintf(p->settings, sizeof(p->settings),
			       "SELECT pg_catalog.set_config('synchronous_commit', 'on', true)"
			       " WHERE pg_catalog.current_setting('synchronous_commit') = 'off';"
			       "%s%s",
			       p->server.same, p->guard.sql);
	return st;
}

/* What has to be known of the table again and again. */
static enum store_status
look(struct postgres *p, struct store_error *err)
{
	enum store_status st = pg_citus_distributed(&p->c, &p->c.distributed, err);

	if (st == STORE_OK)
		st = pg_shaper_refresh(&p->shaper, &p->c, err);
	if (st == STORE_OK)
		p->look_at_ms = clock_ms() + LOOK_MS;
	return st;
}

/* By reading alone.  What is missing the janitor makes. */
static enum store_status
prepare(struct postgres *p, struct store_error *err)
{
	char timescaledb[PG_VERSION_MAX] = "", citus[PG_VERSION_MAX] = "";
	enum store_status st = pg_server_check(&p->c, err);

	if (st == STORE_OK)
		st = pg_migrate_look(&p->c, "postgresql", err);
	if (st == STORE_OK)
		st = pg_server_know(&p->c, p->conf, &p->server, err);
	if (st == STORE_OK)
		st = pg_server_database(&p->c, p->conf, p->base.database, err);
	if (st == STORE_OK)
		st = read_columns(p, err);
	if (st == STORE_OK)
		st = pg_citus_look(&p->c, p->conf, citus, err);
	if (st == STORE_OK && !*citus)
		st = pg_timescaledb_look(&p->c, p->conf, timescaledb, err);
	if (st == STORE_OK)
		st = look(p, err);
	if (st == STORE_OK)
		log_event(LOG_INFO, "database_connected",
			  LOG_STR("server_version", PQparameterStatus(p->c.pg, "server_version")),
			  LOG_STR("timescaledb_version", *timescaledb ? timescaledb : NULL),
			  LOG_STR("citus_version", *citus ? citus : NULL));
	return st;
}

static void
postgres_close(struct store *store)
{
	struct postgres *p = (struct postgres *)store;

	pg_close(&p->c);
	pg_shaper_done(&p->shaper);
	free(p);
}

static enum store_status
postgres_open(const struct conf *conf, int stop_fd, struct store **ret, struct store_error *err)
{
	struct postgres *p = calloc(1, sizeof(*p));
	enum store_status st;

	if (!p)
		return pg_fail(err, "out of memory");
	p->base.ops = &postgres_store_ops;
	p->conf = conf;
	p->c.stop_fd = stop_fd;
	pg_shaper_init(&p->shaper, conf);
	st = pg_connect(&p->c, conf, NULL, NULL, err);
	if (st == STORE_OK)
		st = prepare(p, err);
	if (st == STORE_OK)
		*ret = &p->base;
	else
		postgres_close(&p->base);
	return st;
}

/* ---- storing a batch ---- */

/* Then there is nothing to escape in it. */
static void
assert_uuid(const char *collector)
{
	assert(strspn(collector, "0123456789abcdefABCDEF-") == strlen(collector));
}

/* The statement that claims the ledger's row.  The promise is by the server's clock; 0: there is none. */
static void
ledger_sql(char sql[LEDGER_MAX], const struct batch_view *b, uint64_t complete_until_us)
{
	char min[TEXT_VALUE_MAX], max[TEXT_VALUE_MAX], time[TEXT_VALUE_MAX];
	char until[TEXT_VALUE_MAX + 2] = "NULL";

	assert_uuid(b->collector);
	(void)text_time(min, b->min_us);
	(void)text_time(max, b->max_us);
	(void)text_time(time, complete_until_us);
	if (complete_until_us)
		(void)snprintf(until, sizeof(until), "'%s'", time);
	(void)snprintf(sql, LEDGER_MAX,
		       "INSERT INTO metric_collectord.batches"
		       " (collector, batch, rows, bytes, min_time, max_time, complete_until)"
		       " VALUES ('%s', %" PRIu64 ", %" PRIu64 ", %zu, '%s', '%s', %s)",
		       b->collector, b->number, b->rows, b->bytes, min, max, until);
}

/* Does the ledger hold this batch's number already? */
static bool
is_repeated(const struct postgres *p)
{
	return pg_failed_on(&p->c, "metric_collectord", "batches", "batches_pkey");
}

/* Is some row of the batch to blame?  Then halving it helps. */
static bool
is_refused(const struct postgres *p, enum store_status st, const struct store_error *err)
{
	return st == STORE_HOLD && isolate_helps(&p->c, err) && !is_repeated(p);
}

/*
 * The usual way: everything in one message, which is one transaction.  See pg_copy() for why it has
 * a BEGIN.
 */
static enum store_status
put_whole(struct postgres *p, const struct pg_shape *shape, const char *ledger,
	  struct store_error *err)
{
	enum store_status st;
	struct copy rows;
	char *sql;

	if (asprintf(&sql, "%s%s;%s;%s;%s;COMMIT", p->c.begin, p->settings,
		     shape->direct ? PG_SHAPE_DIRECT : "", ledger, PG_COPY) < 0)
		return pg_fail(err, "out of memory");
	pg_shape_copy(shape, &rows);
	crash_point("before_ledger_insert");
	st = pg_copy(&p->c, sql, &rows, err);
	free(sql);
	if (st == STORE_OK)
		crash_point("after_commit");
	else
		pg_rollback(&p->c, err);
	return st;
}

/*
 * The server has refused what went straight into the columnstore.  That is a way to be quick, and
 * no reason to hold rows up: until the table is looked at again they go the usual way.
 */
static enum store_status
put_again(struct postgres *p, struct pg_shape *shape, enum store_status st, const char *ledger,
	  struct store_error *err)
{
	const struct store_error first = *err;

	if (st == STORE_STOPPED || err->reconnect || is_repeated(p))
		return st;
	shape->direct = false;
	if (st == STORE_HOLD)
		st = put_whole(p, shape, ledger, err);
	if (st == STORE_OK || st == STORE_RETRY)
		pg_shaper_failed(&p->shaper, &first);
	return st;
}

/*
 * A row is to blame, or the whole table has changed (PG_GUARD, or a type that takes no
 * eight bytes): then no row shall be rejected.
 */
static enum store_status
put_refused(struct postgres *p, const struct pg_shape *shape, const char *ledger,
	    uint64_t *rejected, struct store_error *err)
{
	const struct pg_guard before = p->guard;
	enum store_status st = read_columns(p, err);

	if (st != STORE_OK)
		return st;
	if (strcmp(before.sql, p->guard.sql) != 0) { /* to another type that will do */
		st = put_whole(p, shape, ledger, err);
		if (!is_refused(p, st, err))
			return st;
	}
	return isolate(&p->c, &shape->accepted, p->settings, ledger, NULL, rejected, err);
}

static enum store_status
put_shaped(struct postgres *p, struct pg_shape *shape, const char *ledger, uint64_t *rejected,
	   struct store_error *err)
{
	enum store_status st;

	if (shape->refused.rows.rows)
		return isolate(&p->c, &shape->accepted, p->settings, ledger, &shape->refused,
			       rejected, err);
	st = put_whole(p, shape, ledger, err);
	if (st != STORE_OK && shape->direct && !is_refused(p, st, err))
		st = put_again(p, shape, st, ledger, err);
	if (is_refused(p, st, err)) {
		shape->direct = false;
		st = put_refused(p, shape, ledger, rejected, err);
	}
	return st;
}

/*
 * The ledger holds the number.  As a rule since an earlier try was committed and its
 * answer lost.  But two daemons may share one identity (a copied spool), and
 * then the row there is no reason to forget the rows here.
 */
static enum store_status
settle(struct postgres *p, const struct batch_view *b, struct store_result *ret,
       struct store_error *err)
{
	char number[24], min[TEXT_VALUE_MAX], max[TEXT_VALUE_MAX];
	const char *values[] = {b->collector, number, min, max};
	const struct pg_params params = {.n = 4, .values = values};
	enum store_status st;
	PGresult *r = NULL;
	uint64_t rows, rejected;
	bool fits;

	(void)snprintf(number, sizeof(number), "%" PRIu64, b->number);
	(void)text_time(min, b->min_us);
	(void)text_time(max, b->max_us);
	st = pg_query_params(&p->c,
			     "SELECT rows, rejected, min_time <= $3::timestamptz"
			     " AND max_time >= $4::timestamptz FROM metric_collectord.batches"
			     " WHERE collector = $1::uuid AND batch = $2::bigint",
			     &params, &r, err);
	if (st != STORE_OK)
		return st;
	if (PQntuples(r) == 0) { /* deleted meanwhile */
		PQclear(r);
		(void)pg_error_set(err, "40001", "the ledger changed meanwhile", NULL, true);
		return STORE_RETRY;
	}
	rows = strtoull(PQgetvalue(r, 0, 0), NULL, 10);
	rejected = strtoull(PQgetvalue(r, 0, 1), NULL, 10);
	fits = *PQgetvalue(r, 0, 2) == 't' && b->rows <= rows + rejected;
	PQclear(r);
	if (!fits) {
		(void)pg_error_set(err, "23505",
				   "the ledger holds another batch under the same collector and "
				   "number",
				   NULL, true);
		err->hint = "two daemons share one identity: give each a spool of its own, "
			    "never a copy";
		err->batch_only = true;
		return STORE_HOLD;
	}
	/* damage in the spool can have made the batch smaller than what was stored */
	ret->repeated = true;
	ret->rejected = rejected < b->rows ? rejected : b->rows;
	ret->stored = b->rows - ret->rejected;
	return STORE_OK;
}

static enum store_status
postgres_put(struct store *store, const struct batch_view *b, struct store_result *ret,
	     struct store_error *err)
{
	struct postgres *p = (struct postgres *)store;
	struct pg_shape shape;
	uint64_t rejected = 0, complete_until_us;
	char ledger[LEDGER_MAX];
	enum store_status st;

	if (clock_ms() >= p->look_at_ms) {
		st = look(p, err);
		if (st != STORE_OK)
			return st;
	}
	st = pg_instant(&p->c, b->complete_until_us, &complete_until_us, err);
	if (st != STORE_OK)
		return st;
	ledger_sql(ledger, b, complete_until_us);
	st = pg_shape(&p->shaper, &p->c, b, &shape, err);
	if (st == STORE_OK)
		st = put_shaped(p, &shape, ledger, &rejected, err);
	if (st == STORE_OK)
		pg_shape_log(&shape);
	pg_shape_done(&shape);
	if (st != STORE_OK) /* isolate() leaves its transaction behind */
		pg_rollback(&p->c, err);
	if (st != STORE_OK && is_repeated(p) && !err->reconnect)
		return settle(p, b, ret, err);
	if (st == STORE_OK)
		*ret = (struct store_result){
		    .stored = b->rows - rejected, .rejected = rejected, .direct = shape.direct};
	return st;
}

/* ---- without a batch ---- */

static enum store_status
postgres_check(struct store *store, struct store_error *err)
{
	struct postgres *p = (struct postgres *)store;
	char sql[SETTINGS_MAX + 128];
	enum store_status st;

	(void)snprintf(sql, sizeof(sql),
		       "%s;SELECT FROM metric_collectord.batches LIMIT 0;ROLLBACK", p->settings);
	st = pg_begin(&p->c, sql, err);
	if (st != STORE_OK) {
		pg_rollback(&p->c, err);
		return st;
	}
	return look(p, err);
}

const struct store_ops postgres_store_ops = {
    .open = postgres_open,
    .close = postgres_close,
    .put = postgres_put,
    .check = postgres_check,
};
