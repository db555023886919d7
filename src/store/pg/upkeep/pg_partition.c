#include "store/pg/upkeep/pg_partition.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "log/log.h"
#include "base/text.h"
#include "store/pg/upkeep/pg_interval.h"
#include "store/pg/setup/pg_lock.h"

#define AHEAD_MIN HOUR_US /* housekeeping may be late */

#define CROWD 1000        /* rows in the default partition that deserve one of their own */
#define LOOKS 64          /* intervals of the default partition that a round looks at */
#define DELETE_ROWS 50000 /* from the default partition in a round */
#define MOVES 10          /* of rows to their partition, while others come, before it is locked */
#define BOUNDS "metric_collectord_bounds"
#define SQL_MAX 2048

/* The lock that ends the move of a crowd: short tries, and others' time in between. */
#define CROWD_LOCK_MS 500
#define CROWD_PAUSE_MS 2000
#define CROWD_TRIES 30

struct range {
	uint64_t from_us;
	uint64_t to_us;
	const char *name; /* quoted, with its schema */
};

struct table {
	PGresult *rows;    /* what the names below point into */
	const char *home;  /* the schema, quoted */
	struct range *all; /* by time; none overlaps another */
	size_t n;
};

struct work {
	struct pg_conn *c;
	const struct conf *conf;
	struct store_error *err;
	uint64_t now_us;
	unsigned left; /* partitions that this round may still make of the default one */
};

/* One row if the table is there and ours. */
static const char ours_sql[] =
    "SELECT relkind, EXISTS (SELECT FROM metric_collectord.policies WHERE policy = 'partitions')"
    " FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass('metrics')";

/* The schema, then each partition but the default one. */
static const char ranges_sql[] =
    "WITH p AS (SELECT i.inhrelid::pg_catalog.regclass::text AS name,"
    "  pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bound"
    "  FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid"
    "  WHERE i.inhparent = 'metrics'::pg_catalog.regclass),"
    " b AS (SELECT name,"
    "  pg_catalog.substring(bound, 'FROM \\(''([^'']+)''\\)')::timestamptz AS since,"
    "  pg_catalog.substring(bound, 'TO \\(''([^'']+)''\\)')::timestamptz AS until"
    "  FROM p WHERE bound <> 'DEFAULT')"
    " SELECT relnamespace::pg_catalog.regnamespace::text, NULL::bigint, NULL::bigint"
    "  FROM pg_catalog.pg_class WHERE oid = 'metrics'::pg_catalog.regclass"
    " UNION ALL SELECT name, greatest(0, (extract(epoch FROM since) * 1000000)::bigint),"
    "  least(253402300800000000, (extract(epoch FROM until) * 1000000)::bigint) FROM b"
    " ORDER BY 2 NULLS FIRST";

/* ---- what there is ---- */

static void
table_done(struct table *t)
{
	PQclear(t->rows);
	free(t->all);
	*t = (struct table){0};
}

static enum store_status
table_read(const struct work *w, struct table *t)
{
	enum store_status st;
	int i, n;

	table_done(t);
	st = pg_select(w->c, ranges_sql, PG_ROWS_FROM(1, 3), &t->rows, w->err);
	if (st != STORE_OK)
		return st;
	n = PQntuples(t->rows);
	t->all = calloc((size_t)n, sizeof(*t->all));
	if (!t->all)
		return pg_fail(w->err, "out of memory");
	t->home = PQgetvalue(t->rows, 0, 0);
	for (i = 1; i < n; i++)
		t->all[t->n++] = (struct range){
		    .from_us = strtoull(PQgetvalue(t->rows, i, 1), NULL, 10),
		    .to_us = strtoull(PQgetvalue(t->rows, i, 2), NULL, 10),
		    .name = PQgetvalue(t->rows, i, 0),
		};
	return STORE_OK;
}

/*
 * Where a partition that holds an instant would lie: an interval, without what others cover.  False
 * when one holds it already; ret is that one then.
 */
static bool
gap_at(const struct table *t, uint64_t interval_us, uint64_t at_us, struct range *ret)
{
	struct range gap = {.from_us = at_us - at_us % interval_us};

	gap.to_us = gap.from_us + interval_us;
	for (size_t i = 0; i < t->n; i++) {
		const struct range *r = &t->all[i];

		if (r->from_us <= at_us && at_us < r->to_us) {
			*ret = *r;
			return false;
		}
		if (r->to_us <= at_us && r->to_us > gap.from_us)
			gap.from_us = r->to_us;
		if (r->from_us > at_us && r->from_us < gap.to_us)
			gap.to_us = r->from_us;
	}
	*ret = gap;
	return true;
}

/* Sends one statement: Citus, which sends it on to the nodes, takes no more in a message. */
__attribute__((format(printf, 2, 3))) static enum store_status
execute(const struct work *w, const char *fmt, ...)
{
	char sql[SQL_MAX];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(sql, sizeof(sql), fmt, ap);
	va_end(ap);
	return pg_query(w->c, sql, NULL, w->err);
}

/* ---- making one ---- */

struct addition {
	const char *home; /* as in struct table */
	char name[64];
	char from[TEXT_VALUE_MAX];
	char to[TEXT_VALUE_MAX];
};

static enum store_status
attach(const struct work *w, const struct addition *a)
{
	return execute(w,
		       "ALTER TABLE %s.metrics ATTACH PARTITION %s.%s"
		       " FOR VALUES FROM ('%s') TO ('%s')",
		       a->home, a->home, a->name, a->from, a->to);
}

static void
name_of(char name[64], uint64_t from_us)
{
	time_t seconds = (time_t)(from_us / SECOND_US);
	struct tm tm;

	(void)gmtime_r(&seconds, &tm);
	(void)strftime(name, 64, from_us % DAY_US ? "metrics_p%Y%m%d_%H%M%S" : "metrics_p%Y%m%d",
		       &tm);
}

/*
 * Where the coordinator sends what it is told on to the nodes.  The default partition is locked
 * before rows are moved, and batches with rows for it wait.
 */
static enum store_status
fill_distributed(const struct work *w, const struct addition *a)
{
	enum store_status st =
	    execute(w, "LOCK TABLE %s.metrics_default IN ACCESS EXCLUSIVE MODE", a->home);

	if (st == STORE_OK)
		st = execute(w, "CREATE TABLE %s.%s (LIKE %s.metrics INCLUDING ALL)", a->home,
			     a->name, a->home);
	if (st == STORE_OK)
		st = execute(w,
			     "WITH gone AS (DELETE FROM %s.metrics_default"
			     " WHERE time >= '%s' AND time < '%s' RETURNING *)"
			     " INSERT INTO %s.%s SELECT * FROM gone",
			     a->home, a->from, a->to, a->home, a->name);
	if (st == STORE_OK)
		st = attach(w, a);
	if (st == STORE_OK) /* the nodes have copies of its rows now */
		st = execute(w, "SELECT truncate_local_data_after_distributing_table('%s.%s')",
			     a->home, a->name);
	return st;
}

/* Readers go on seeing them where they were, until the transaction ends. */
static enum store_status
move_rows(const struct work *w, const struct addition *a, uint64_t *moved)
{
	PGresult *r = NULL;
	enum store_status st;
	char sql[SQL_MAX];

	(void)snprintf(sql, sizeof(sql),
		       "WITH gone AS (DELETE FROM %s.metrics_default"
		       " WHERE time >= '%s' AND time < '%s' RETURNING *),"
		       " here AS (INSERT INTO %s.%s SELECT * FROM gone RETURNING 1)"
		       " SELECT count(*) FROM here",
		       a->home, a->from, a->to, a->home, a->name);
	st = pg_select(w->c, sql, PG_SLOW_ROW(1), &r, w->err);
	if (st == STORE_OK)
		*moved = strtoull(PQgetvalue(r, 0, 0), NULL, 10);
	PQclear(r);
	return st;
}

/*
 * Moves rows while others come, until only few do.  The default partition is not locked against
 * anybody by that.
 */
static enum store_status
move_most(const struct work *w, const struct addition *a, bool *crowd)
{
	uint64_t moved = CROWD;
	enum store_status st = STORE_OK;

	for (int i = 0; i < MOVES && moved >= CROWD && st == STORE_OK; i++) {
		st = move_rows(w, a, &moved);
		*crowd = *crowd || (st == STORE_OK && moved >= CROWD);
	}
	return st;
}

static enum store_status
try_lock(const struct work *w, const struct addition *a, bool crowd)
{
	enum store_status st = execute(w, "SAVEPOINT unlocked");

	if (st == STORE_OK)
		st = execute(w, "SET LOCAL lock_timeout = %d",
			     crowd ? CROWD_LOCK_MS : PG_LOCK_TABLE_MS);
	return st == STORE_OK
		   ? execute(w, "LOCK TABLE %s.metrics_default IN ACCESS EXCLUSIVE MODE", a->home)
		   : st;
}

static bool
timed_out(const struct work *w, enum store_status st)
{
	return st == STORE_RETRY && !w->err->reconnect && strcmp(w->err->sqlstate, "55P03") == 0;
}

/*
 * From here on no row may come in.  Who waits for this lock holds up all who need the table after
 * him: so only for a moment.  But where a crowd has been moved, that shall not have been in vain.
 */
static enum store_status
lock_default(const struct work *w, const struct addition *a, bool crowd)
{
	enum store_status st = try_lock(w, a, crowd);

	for (int i = 1; crowd && i < CROWD_TRIES && timed_out(w, st); i++) {
		st = execute(w, "ROLLBACK TO unlocked");
		if (st == STORE_OK)
			st = pg_sleep(w->c, CROWD_PAUSE_MS, w->err);
		if (st == STORE_OK)
			st = move_most(w, a, &crowd);
		if (st == STORE_OK)
			st = try_lock(w, a, crowd);
	}
	return st;
}

/*
 * The partition is built aside, in one transaction with all the rest.  Its constraint says what
 * its bounds will say, so that they need not be checked row by row while the default one is locked.
 */
static enum store_status
fill(const struct work *w, const struct addition *a)
{
	bool crowd = false;
	uint64_t moved;
	enum store_status st =
	    execute(w,
		    "CREATE TABLE %s.%s (LIKE %s.metrics INCLUDING ALL, CONSTRAINT"
		    " " BOUNDS " CHECK (time >= '%s' AND time < '%s'))",
		    a->home, a->name, a->home, a->from, a->to);

	if (st == STORE_OK)
		st = move_most(w, a, &crowd);
	if (st == STORE_OK)
		st = lock_default(w, a, crowd);
	if (st == STORE_OK) /* what came since */
		st = move_rows(w, a, &moved);
	if (st == STORE_OK)
		st = execute(w, "SET LOCAL lock_timeout = %d", PG_LOCK_TABLE_MS);
	if (st == STORE_OK)
		st = attach(w, a);
	return st == STORE_OK
		   ? execute(w, "ALTER TABLE %s.%s DROP CONSTRAINT " BOUNDS, a->home, a->name)
		   : st;
}

static enum store_status
create(const struct work *w, const struct table *t, const struct range *r)
{
	struct addition a = {.home = t->home};
	enum store_status st;

	name_of(a.name, r->from_us);
	(void)text_time(a.from, r->from_us);
	(void)text_time(a.to, r->to_us);
	st = w->c->distributed ? fill_distributed(w, &a) : fill(w, &a);
	if (st == STORE_OK)
		log_event(LOG_INFO, "partition_created", LOG_STR("partition", a.name),
			  LOG_STR("from", a.from), LOG_STR("to", a.to));
	return st;
}

/* Under the lock, unless another collector has done it meanwhile. */
static enum store_status
create_at(const struct work *w, struct table *t, uint64_t at_us)
{
	enum store_status st = pg_lock_begin(w->c, PG_LOCK_TRY_MS, w->err);
	struct range gap;

	if (st == STORE_OK)
		st = table_read(w, t);
	if (st == STORE_OK && gap_at(t, w->conf->table.chunk_interval_us, at_us, &gap))
		st = create(w, t, &gap);
	st = pg_lock_end(w->c, st, w->err);
	return st == STORE_OK ? table_read(w, t) : st;
}

/* ---- ahead of the clock ---- */

static enum store_status
make_ahead(const struct work *w, struct table *t)
{
	uint64_t interval_us = w->conf->table.chunk_interval_us;
	uint64_t ahead_us = interval_us > AHEAD_MIN ? interval_us : AHEAD_MIN;
	uint64_t at_us = w->now_us;
	enum store_status st = STORE_OK;
	struct range r;

	while (st == STORE_OK && at_us <= w->now_us + ahead_us) {
		if (gap_at(t, interval_us, at_us, &r))
			st = create_at(w, t, at_us);
		at_us = r.to_us;
	}
	return st;
}

/* ---- the default partition ---- */

/* The newest row before an instant, and whether its interval has a crowd. */
static enum store_status
look(const struct work *w, const struct table *t, uint64_t before_us, uint64_t *at_us, bool *crowd)
{
	char before[TEXT_VALUE_MAX], from[TEXT_VALUE_MAX], to[TEXT_VALUE_MAX], sql[SQL_MAX];
	PGresult *r = NULL;
	enum store_status st;
	struct range gap;

	*crowd = false;
	(void)text_time(before, before_us);
	(void)snprintf(sql, sizeof(sql),
		       "SELECT (extract(epoch FROM max(time)) * 1000000)::bigint"
		       " FROM %s.metrics_default WHERE time < '%s' AND time >= '1970-01-01Z'",
		       t->home, before);
	st = pg_select(w->c, sql, PG_ROW(1), &r, w->err);
	if (st != STORE_OK)
		return st;
	*at_us = strtoull(PQgetvalue(r, 0, 0), NULL, 10);
	PQclear(r);
	r = NULL;
	if (!*at_us || !gap_at(t, w->conf->table.chunk_interval_us, *at_us, &gap))
		return STORE_OK;
	(void)text_time(from, gap.from_us);
	(void)text_time(to, gap.to_us);
	(void)snprintf(sql, sizeof(sql),
		       "SELECT count(*) = %d FROM (SELECT 1 FROM %s.metrics_default"
		       " WHERE time >= '%s' AND time < '%s' LIMIT %d) crowd",
		       CROWD, t->home, from, to, CROWD);
	st = pg_select(w->c, sql, PG_ROW(1), &r, w->err);
	if (st == STORE_OK)
		*crowd = *PQgetvalue(r, 0, 0) == 't';
	PQclear(r);
	return st;
}

/* From the present backwards: what is furthest away is what clocks gone wrong have sent. */
static enum store_status
relieve_default(struct work *w, struct table *t)
{
	uint64_t before_us = w->now_us + 1, at_us = 0;
	enum store_status st = STORE_OK;
	struct range gap;
	bool crowd;

	for (int i = 0; i < LOOKS && w->left && st == STORE_OK; i++) {
		st = look(w, t, before_us, &at_us, &crowd);
		if (st != STORE_OK || !at_us)
			break;
		(void)gap_at(t, w->conf->table.chunk_interval_us, at_us, &gap);
		before_us = gap.from_us;
		if (crowd) {
			w->left--;
			st = create_at(w, t, at_us);
		}
	}
	return st;
}

/* ---- retention ---- */

static enum store_status
drop(const struct work *w, const struct range *r)
{
	enum store_status st = pg_lock_begin(w->c, PG_LOCK_TRY_MS, w->err);

	if (st == STORE_OK)
		st = execute(w, "DROP TABLE IF EXISTS %s", r->name);
	st = pg_lock_end(w->c, st, w->err);
	if (st == STORE_OK)
		log_event(LOG_INFO, "partition_dropped", LOG_STR("partition", r->name));
	return st;
}

static enum store_status
drop_expired(const struct work *w, const struct table *t)
{
	uint64_t keep_us = w->conf->table.retention_us;
	char before[TEXT_VALUE_MAX];
	enum store_status st = STORE_OK;

	if (!keep_us || keep_us >= w->now_us)
		return STORE_OK;
	for (size_t i = 0; i < t->n && st == STORE_OK; i++)
		if (t->all[i].to_us <= w->now_us - keep_us)
			st = drop(w, &t->all[i]);
	if (st != STORE_OK)
		return st;
	(void)text_time(before, w->now_us - keep_us);
	if (w->c->distributed) /* a row's place says nothing there */
		return execute(w, "DELETE FROM %s.metrics_default WHERE time < '%s'", t->home,
			       before);
	return execute(w,
		       "DELETE FROM %s.metrics_default WHERE ctid = ANY (ARRAY("
		       "SELECT ctid FROM %s.metrics_default WHERE time < '%s' LIMIT %d))",
		       t->home, t->home, before, DELETE_ROWS);
}

/* ---- a round ---- */

/* A table that is neither ours nor a hypertable. */
static void
log_plain(const struct work *w)
{
	log_event_once(
	    LOG_WARNING, "table_differs/partitions", "table_differs", LOG_STR("what", "partitions"),
	    LOG_STR("wanted", "made by the daemon"), LOG_STR("found", "none"),
	    LOG_STR("hint", w->c->distributed ? "table.retention has no effect on a table that was "
						"distributed without it"
					      : "table.chunk_interval and table.retention have no "
						"effect on a table that was there before"));
}

static enum store_status
is_ours(const struct work *w, bool *ret)
{
	PGresult *r = NULL;
	enum store_status st = pg_select(w->c, ours_sql, PG_ROW_OR_NONE(2), &r, w->err);

	*ret = st == STORE_OK && PQntuples(r) > 0 && *PQgetvalue(r, 0, 0) == 'p' &&
	       *PQgetvalue(r, 0, 1) == 't';
	if (st == STORE_OK && PQntuples(r) > 0 && !*ret && w->conf->table.retention_us)
		log_plain(w);
	PQclear(r);
	return st;
}

static enum store_status
maintain(struct work *w, bool all)
{
	struct table t = {0};
	bool ours = false;
	enum store_status st = is_ours(w, &ours);

	if (st == STORE_OK && ours)
		st = table_read(w, &t);
	if (st == STORE_OK && ours)
		st = make_ahead(w, &t);
	if (st == STORE_OK && ours && all)
		st = drop_expired(w, &t);
	if (st == STORE_OK && ours && all)
		st = relieve_default(w, &t);
	table_done(&t);
	return st;
}

enum store_status
pg_partition_prepare(struct pg_conn *c, const struct conf *conf, struct store_error *err)
{
	struct work w = {
	    .c = c,
	    .conf = conf,
	    .err = err,
	    .now_us = clock_real_us(),
	};
	enum store_status st;

	if (!conf->database.migrate)
		return STORE_OK;
	st = maintain(&w, false);
	return st == STORE_STOPPED || err->reconnect ? st : STORE_OK;
}

enum store_status
pg_partition_maintain(struct pg_conn *c, const struct conf *conf, struct store_error *err)
{
	struct work w = {
	    .c = c,
	    .conf = conf,
	    .err = err,
	    .now_us = clock_real_us(),
	    .left = conf->table.max_new_chunks,
	};
	enum store_status st;

	if (!conf->database.migrate)
		return STORE_OK;
	st = maintain(&w, true);
	/* what the lock has kept from being done is soon tried again */
	if (st == STORE_OK || st == STORE_STOPPED || err->reconnect || c->lock_busy)
		return st;
	log_event_limited(LOG_WARNING, "partition_failed", "partition_failed",
			  LOG_STR("error", err->text), LOG_STR("sqlstate", err->sqlstate),
			  LOG_STR("hint", "metrics go to metrics_default meanwhile"));
	return STORE_OK;
}
