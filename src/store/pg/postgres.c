/*
 * postgres.c - the store that is PostgreSQL: opening, and storing a batch.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/crash_point.h"
#include "base/text.h"
#include "store/pg/batch/isolate.h"
#include "store/pg/link/pg_error.h"
#include "store/pg/pg_store.h"
#include "store/pg/setup/pg_citus.h"
#include "store/pg/setup/pg_database.h"

#define LEDGER_MAX 512

/* ---- opening ---- */

static enum store_status
connect_or_create(struct postgres *p, struct store_error *err)
{
	char missing[64] = "";
	enum store_status st = pg_connect(&p->c, p->conf, NULL, missing, err);

	if (st != STORE_HOLD || strcmp(err->sqlstate, "3D000") != 0 || !p->conf->database.create)
		return st;
	st = pg_database_create(p->c.stop_fd, p->conf, missing, err);
	return st == STORE_OK ? pg_connect(&p->c, p->conf, NULL, missing, err) : st;
}

static enum store_status
connect_for(struct postgres *p, enum store_use use, struct store_error *err)
{
	enum store_status st;

	switch (use) {
	case STORE_FOR_BATCHES:
		st = pg_connect(&p->c, p->conf, NULL, NULL, err);
		err->unprepared = st == STORE_HOLD && pg_is_unprepared(err);
		return st == STORE_OK ? pg_verify(p, err) : st;
	case STORE_FOR_UPKEEP:
		st = connect_or_create(p, err);
		return st == STORE_OK ? pg_prepare(p, err) : st;
	case STORE_FOR_CLAIMS:
		break;
	}
	return pg_connect(&p->c, p->conf, NULL, NULL, err);
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
postgres_open(const struct conf *conf, int stop_fd, enum store_use use, struct store **ret,
	      struct store_error *err)
{
	struct postgres *p = calloc(1, sizeof(*p));
	enum store_status st;

	if (!p)
		return pg_fail(err, "out of memory");
	p->base.ops = &postgres_store_ops;
	p->conf = conf;
	p->c.stop_fd = stop_fd;
	pg_shaper_init(&p->shaper, conf);
	st = connect_for(p, use, err);
	if (st == STORE_OK)
		*ret = &p->base;
	else
		postgres_close(&p->base);
	return st;
}

/* ---- storing a batch ---- */

/* The statement that claims the ledger's row. */
static void
ledger_sql(char sql[LEDGER_MAX], const struct batch_view *b)
{
	char min[TEXT_VALUE_MAX], max[TEXT_VALUE_MAX], until[TEXT_VALUE_MAX];

	pg_assert_uuid(b->collector);
	(void)text_time(min, b->min_us);
	(void)text_time(max, b->max_us);
	(void)text_time(until, b->complete_until_us);
	(void)snprintf(sql, LEDGER_MAX,
		       "INSERT INTO metric_collectord.batches"
		       " (collector, batch, rows, bytes, min_time, max_time, complete_until)"
		       " VALUES ('%s', %" PRIu64 ", %" PRIu64 ", %zu, '%s', '%s', '%s')",
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
	char sql[PG_SETTINGS_MAX + sizeof(PG_SHAPE_DIRECT) + LEDGER_MAX + sizeof(PG_COPY) + 32];
	enum store_status st;
	struct copy rows;

	(void)snprintf(sql, sizeof(sql), "BEGIN;%s;%s;%s;%s;COMMIT", p->settings,
		       shape->direct ? PG_SHAPE_DIRECT : "", ledger, PG_COPY);
	pg_shape_copy(shape, &rows);
	crash_point("before_ledger_insert");
	st = pg_copy(&p->c, sql, &rows, err);
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
	enum store_status st = pg_read_columns(p, err);

	if (st != STORE_OK)
		return st;
	if (strcmp(before.sql, p->guard.sql) != 0) { /* to another type that will do */
		st = put_whole(p, shape, ledger, err);
		if (!is_refused(p, st, err))
			return st;
	}
	return isolate(&p->c, &shape->kept, p->settings, ledger, NULL, rejected, err);
}

static enum store_status
put_shaped(struct postgres *p, struct pg_shape *shape, const char *ledger, uint64_t *rejected,
	   struct store_error *err)
{
	enum store_status st;

	if (shape->refused.rows.rows)
		return isolate(&p->c, &shape->kept, p->settings, ledger, &shape->refused, rejected,
			       err);
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

static void
postgres_look_again(struct store *store)
{
	((struct postgres *)store)->look_again = true;
}

/* What others may have made of the table since then: operators, the janitor. */
static enum store_status
look(struct postgres *p, struct store_error *err)
{
	enum store_status st = pg_citus_distributed(&p->c, &p->c.distributed, err);

	if (st == STORE_OK)
		st = pg_shaper_refresh(&p->shaper, &p->c, err);
	p->look_again = st != STORE_OK;
	return st;
}

static enum store_status
postgres_put(struct store *store, const struct batch_view *b, struct store_result *ret,
	     struct store_error *err)
{
	struct postgres *p = (struct postgres *)store;
	struct pg_shape shape;
	uint64_t rejected = 0;
	char ledger[LEDGER_MAX];
	enum store_status st;

	ledger_sql(ledger, b);
	st = p->look_again ? look(p, err) : STORE_OK;
	if (st != STORE_OK)
		return st;
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
	err->unprepared = st != STORE_OK && pg_is_unprepared(err);
	if (st == STORE_OK)
		*ret = (struct store_result){
		    .stored = b->rows - rejected, .rejected = rejected, .direct = shape.direct};
	return st;
}

const struct store_ops postgres_store_ops = {
    .open = postgres_open,
    .close = postgres_close,
    .put = postgres_put,
    .look_again = postgres_look_again,
    .maintain = pg_maintain,
    .claim = pg_claim,
    .missing = pg_missing,
};
