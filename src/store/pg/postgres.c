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
#include "store/pg/batch/divide.h"
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
	struct blame blame;
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

/*
 * The statement that claims the ledger's row.  bytes is what it says of the size: less than 0 while
 * parts are missing (put_divided()); until is what it promises, by the
 * server's clock; 0: nothing.
 */
static void
ledger_sql(char sql[LEDGER_MAX], const struct batch_view *b, uint64_t rows, int64_t bytes,
	   uint64_t until_us)
{
	char min[TEXT_VALUE_MAX], max[TEXT_VALUE_MAX], time[TEXT_VALUE_MAX];
	char until[TEXT_VALUE_MAX + 2] = "NULL";

	assert_uuid(b->collector);
	(void)text_time(min, b->min_us);
	(void)text_time(max, b->max_us);
	(void)text_time(time, until_us);
	if (until_us)
		(void)snprintf(until, sizeof(until), "'%s'", time);
	(void)snprintf(
	    sql, LEDGER_MAX,
	    "INSERT INTO metric_collectord.batches"
	    " (collector, batch, opened, rows, bytes, min_time, max_time, complete_until)"
	    " VALUES ('%s', %" PRIu64 ", %" PRId64 ", %" PRIu64 ", %" PRId64 ", '%s', '%s', %s)",
	    b->collector, b->number, (int64_t)b->opened_us, rows, bytes, min, max, until);
}

/* Does the ledger hold this batch's number already? */
static bool
is_repeated(const struct postgres *p)
{
	return pg_failed_on(&p->c, "metric_collectord", "batches", "batches_pkey");
}

/*
 * The usual way: everything in one message, which is one transaction.  See pg_copy() for why it has
 * a BEGIN.  *rows_met says whether a failure came when rows were on their way, so that it may be
 * one of theirs.
 */
static enum store_status
put_whole(struct postgres *p, const struct pg_shape *shape, const char *ledger, bool *rows_met,
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
	*rows_met = copy_begun(&rows);
	if (st == STORE_OK) {
		crash_point("after_commit");
		return st;
	}
	st = blame_correct(&p->c, st, err);
	pg_rollback(&p->c, err);
	return st;
}

/*
 * The server has refused what went straight into the columnstore.  That is a way to be quick, and
 * no reason to hold rows up: until the table is looked at again they go the usual way.
 */
static enum store_status
put_again(struct postgres *p, struct pg_shape *shape, enum store_status st, const char *ledger,
	  bool *rows_met, struct store_error *err)
{
	const struct store_error first = *err;

	if (st == STORE_STOPPED || err->reconnect || is_repeated(p))
		return st;
	shape->direct = false;
	if (st == STORE_HOLD)
		st = put_whole(p, shape, ledger, rows_met, err);
	if (st == STORE_OK || st == STORE_RETRY)
		pg_shaper_failed(&p->shaper, &first);
	return st;
}

/* May what put_whole() failed with be about single rows? */
static bool
is_refused(enum store_status st, bool rows_met, const struct store_error *err)
{
	return st == STORE_HOLD && rows_met && !err->reconnect;
}

/* PG_GUARD divides by zero where the columns have changed, before a row is sent. */
static bool
is_guarded(enum store_status st, bool rows_met, const struct store_error *err)
{
	return st == STORE_HOLD && !rows_met && strcmp(err->sqlstate, "22012") == 0;
}

/*
 * A row is to blame, or the columns have changed (PG_GUARD, or a type that takes no
 * eight bytes): then no row shall be rejected.
 */
static enum store_status
put_refused(struct postgres *p, const struct pg_shape *shape, const char *ledger, bool rows_met,
	    uint64_t *rejected, struct store_error *err)
{
	const struct pg_guard before = p->guard;
	const struct store_error first = *err;
	enum store_status st = read_columns(p, err);

	if (st != STORE_OK)
		return st;
	if (strcmp(before.sql, p->guard.sql) != 0) { /* to another type that will do */
		st = put_whole(p, shape, ledger, &rows_met, err);
	} else {
		*err = first;
		st = STORE_HOLD;
	}
	if (!is_refused(st, rows_met, err))
		return st;
	return isolate(&p->c, &p->blame, &shape->accepted, p->settings, ledger, NULL, rejected,
		       err);
}

static enum store_status
put_shaped(struct postgres *p, struct pg_shape *shape, const char *ledger, uint64_t *rejected,
	   struct store_error *err)
{
	enum store_status st;
	bool rows_met = false;

	if (shape->refused.rows.rows)
		return isolate(&p->c, &p->blame, &shape->accepted, p->settings, ledger,
			       &shape->refused, rejected, err);
	st = put_whole(p, shape, ledger, &rows_met, err);
	if (st != STORE_OK && shape->direct)
		st = put_again(p, shape, st, ledger, &rows_met, err);
	if (is_refused(st, rows_met, err) || is_guarded(st, rows_met, err))
		st = put_refused(p, shape, ledger, rows_met, rejected, err);
	return st;
}

/* What a row of the ledger says: rows, rejected, bytes, opened, spans. */
static void
ledger_read(const PGresult *r, uint64_t *rejected, struct store_ledger *l)
{
	*rejected = strtoull(PQgetvalue(r, 0, 1), NULL, 10);
	l->rows = strtoull(PQgetvalue(r, 0, 0), NULL, 10) + *rejected;
	l->partial = *PQgetvalue(r, 0, 2) == '-';
	l->bytes = strtoull(PQgetvalue(r, 0, 2) + l->partial, NULL, 10);
	l->has_opened = !PQgetisnull(r, 0, 3);
	l->opened_us = (uint64_t)strtoll(PQgetvalue(r, 0, 3), NULL, 10);
	l->spans = *PQgetvalue(r, 0, 4) == 't';
}

/* The row of the ledger was not as it should be: the next try finds out what it is. */
static enum store_status
ledger_moved(struct store_error *err)
{
	(void)pg_error_set(err, "40001", "the ledger changed meanwhile", NULL, true);
	return STORE_RETRY;
}

/*
 * The ledger holds the number.  As a rule since an earlier try was committed and its
 * answer lost.  But two daemons may share one identity (a copied spool), and
 * then the row there is no reason to forget the rows here.  A commit whose wait for a standby was
 * cut off is on the primary alone: so this one waits for the standby, too, with a message in the
 * log that nobody reads.
 */
static enum store_status
settle(struct postgres *p, const struct batch_view *b, struct store_result *ret,
       struct store_error *err)
{
	char number[24], min[TEXT_VALUE_MAX], max[TEXT_VALUE_MAX];
	const char *values[] = {b->collector, number, min, max};
	const struct pg_params params = {.n = 4, .values = values};
	struct store_ledger ledger;
	enum store_status st;
	PGresult *r = NULL;
	uint64_t rejected;

	(void)snprintf(number, sizeof(number), "%" PRIu64, b->number);
	(void)text_time(min, b->min_us);
	(void)text_time(max, b->max_us);
	st = pg_select_params(&p->c,
			      "SELECT rows, rejected, bytes, opened, min_time <= $3::timestamptz"
			      " AND max_time >= $4::timestamptz,"
			      " pg_catalog.pg_logical_emit_message(true, 'metric_collectord', '')"
			      " FROM metric_collectord.batches"
			      " WHERE collector = $1::uuid AND batch = $2::bigint",
			      &params, PG_ROW_OR_NONE(6), &r, err);
	if (st != STORE_OK)
		return st;
	if (PQntuples(r) == 0) { /* deleted meanwhile */
		PQclear(r);
		return ledger_moved(err);
	}
	ledger_read(r, &rejected, &ledger);
	PQclear(r);
	st = store_recognise(&ledger, b, err);
	if (st != STORE_OK)
		return st;
	ret->repeated = true;
	ret->rejected = rejected < b->rows ? rejected : b->rows;
	ret->stored = b->rows - ret->rejected;
	return STORE_OK;
}

/* Puts a batch, or a part of one, with the statement that goes with it. */
static enum store_status
put_rows(struct postgres *p, const struct batch_view *b, const char *ledger,
	 struct store_result *ret, struct store_error *err)
{
	struct pg_shape shape;
	uint64_t rejected = 0;
	enum store_status st = pg_shape(&p->shaper, &p->c, b, &shape, err);

	if (st == STORE_OK)
		st = put_shaped(p, &shape, ledger, &rejected, err);
	if (st == STORE_OK)
		pg_shape_log(&shape);
	if (st == STORE_OK && rejected == 0)
		blame_note_good(&p->blame, b);
	pg_shape_done(&shape);
	if (st != STORE_OK) /* isolate() leaves its transaction behind */
		pg_rollback(&p->c, err);
	if (st == STORE_OK)
		*ret = (struct store_result){
		    .stored = b->rows - rejected, .rejected = rejected, .direct = shape.direct};
	return st;
}

/* ---- a batch in parts ---- */

/*
 * Did the server lack what a smaller batch may not need, such as room for locks?  A full disk is
 * full for any.
 */
static bool
is_too_large(enum store_status st, const struct store_error *err)
{
	return st == STORE_RETRY && !err->reconnect && strncmp(err->sqlstate, "53", 2) == 0 &&
	       strcmp(err->sqlstate, "53100") != 0;
}

/*
 * The statement that goes with a part.  The first claims the row; each other counts its rows there,
 * and fails (2201F) unless the row is as the part before has left it.  The last one makes it what it
 * would have been.
 */
static void
part_sql(char sql[LEDGER_MAX], const struct divide *d, const struct batch_view *part)
{
	const struct batch_view *b = d->whole;
	bool last = d->done + part->rows == b->rows;
	char until[TEXT_VALUE_MAX], set[TEXT_VALUE_MAX + 32] = "";

	if (d->done == 0) {
		ledger_sql(sql, b, part->rows, last ? (int64_t)b->bytes : -(int64_t)b->bytes,
			   last ? b->complete_until_us : 0);
		return;
	}
	(void)text_time(until, b->complete_until_us);
	if (last && b->complete_until_us)
		(void)snprintf(set, sizeof(set), ", complete_until = '%s'", until);
	(void)snprintf(sql, LEDGER_MAX,
		       "WITH part AS (UPDATE metric_collectord.batches SET rows = rows + %" PRIu64
		       ", bytes = %s bytes%s, stored_at = pg_catalog.now()"
		       " WHERE collector = '%s' AND batch = %" PRIu64
		       " AND bytes = -%zu AND rows + rejected = %" PRIu64
		       " RETURNING 1) SELECT pg_catalog.sqrt(pg_catalog.count(*) - 1) FROM part",
		       part->rows, last ? "-" : "", set, b->collector, b->number, b->bytes,
		       d->done);
}

static enum store_status
put_parts(struct postgres *p, struct divide *d, struct store_result *ret, struct store_error *err)
{
	uint64_t rows = (d->whole->rows - d->done + 1) / 2;
	enum store_status st = STORE_OK;
	char ledger[LEDGER_MAX];

	while (st == STORE_OK && d->done < d->whole->rows) {
		struct store_result res;
		struct batch_view part;

		divide_part(d, rows, &part);
		part_sql(ledger, d, &part);
		st = put_rows(p, &part, ledger, &res, err);
		if (st == STORE_OK) {
			ret->stored += res.stored;
			ret->rejected += res.rejected;
			divide_advance(d, &part);
			crash_point("after_part");
		} else if (is_too_large(st, err) && part.rows > 1) {
			rows = part.rows / 2;
			st = STORE_OK;
		}
	}
	if (st == STORE_HOLD && d->done > 0 && strcmp(err->sqlstate, "2201F") == 0)
		return ledger_moved(err);
	/* a single row, or what was stored shows that the server works: others need not wait */
	if (is_too_large(st, err) || (st == STORE_RETRY && d->done > 0))
		err->batch_only = true;
	return st;
}

/* ret says what came of the rows that were stored before. */
static enum store_status
put_divided(struct postgres *p, const struct batch_view *b, struct store_result *ret,
	    struct store_error *err)
{
	enum store_status st;
	struct divide d;

	if (divide_init(&d, b, ret->stored + ret->rejected) < 0)
		return pg_fail(err, "out of memory");
	log_event_limited(LOG_NOTICE, "batch_divided", "batch_divided", LOG_U64("batch", b->number),
			  LOG_U64("rows", b->rows), LOG_U64("done", d.done),
			  LOG_STR("error", *err->text ? err->text : NULL),
			  LOG_STR("sqlstate", *err->sqlstate ? err->sqlstate : NULL));
	st = put_parts(p, &d, ret, err);
	divide_done(&d);
	return st;
}

/* What of this batch an earlier try has stored, if that came to a part only; else nothing. */
static enum store_status
read_parts(struct postgres *p, const struct batch_view *b, struct store_result *ret,
	   struct store_error *err)
{
	char number[24], bytes[24], opened[24];
	const char *values[] = {b->collector, number, bytes, opened};
	const struct pg_params params = {.n = 4, .values = values};
	enum store_status st;
	PGresult *r = NULL;

	(void)snprintf(number, sizeof(number), "%" PRIu64, b->number);
	(void)snprintf(bytes, sizeof(bytes), "%zu", b->bytes);
	(void)snprintf(opened, sizeof(opened), "%" PRId64, (int64_t)b->opened_us);
	*ret = (struct store_result){.stored = 0};
	st = pg_select_params(&p->c,
			      "SELECT rows, rejected FROM metric_collectord.batches"
			      " WHERE collector = $1::uuid AND batch = $2::bigint"
			      " AND bytes = -$3::bigint AND opened = $4::bigint",
			      &params, PG_ROW_OR_NONE(2), &r, err);
	if (st == STORE_OK && PQntuples(r) == 1) {
		ret->stored = strtoull(PQgetvalue(r, 0, 0), NULL, 10);
		ret->rejected = strtoull(PQgetvalue(r, 0, 1), NULL, 10);
	}
	PQclear(r);
	if (ret->stored + ret->rejected >= b->rows)
		*ret = (struct store_result){.stored = 0};
	return st;
}

/* The ledger has a row of this number: of the whole batch, of a part of it, or of another. */
static enum store_status
put_rest(struct postgres *p, const struct batch_view *b, struct store_result *ret,
	 struct store_error *err)
{
	enum store_status st = read_parts(p, b, ret, err);

	if (st != STORE_OK)
		return st;
	if (ret->stored + ret->rejected == 0)
		return settle(p, b, ret, err);
	*err = (struct store_error){.hint = NULL};
	return put_divided(p, b, ret, err);
}

static enum store_status
postgres_put(struct store *store, const struct batch_view *b, struct store_result *ret,
	     struct store_error *err)
{
	struct postgres *p = (struct postgres *)store;
	struct store_result res = {.stored = 0};
	struct batch_view promised = *b;
	char ledger[LEDGER_MAX];
	enum store_status st;

	if (clock_ms() >= p->look_at_ms) {
		st = look(p, err);
		if (st != STORE_OK)
			return st;
	}
	st = pg_instant(&p->c, b->complete_until_us, &promised.complete_until_us, err);
	if (st != STORE_OK)
		return st;
	b = &promised;
	ledger_sql(ledger, b, b->rows, (int64_t)b->bytes, b->complete_until_us);
	st = put_rows(p, b, ledger, &res, err);
	if (is_too_large(st, err) && b->rows > 1)
		st = put_divided(p, b, &res, err);
	if (st != STORE_OK && is_repeated(p) && !err->reconnect)
		st = put_rest(p, b, &res, err);
	if (st == STORE_OK)
		*ret = res;
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
