#include "store/pg/upkeep/pg_partition.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "log/log.h"
#include "base/text.h"
#include "store/pg/upkeep/pg_interval.h"
#include "store/pg/link/pg_session.h"
#include "store/pg/setup/pg_lock.h"

#define AHEAD_MIN HOUR_US /* housekeeping may be late */

#define CROWD 1000        /* rows in the default partition that deserve one of their own */
#define LOOKS 64          /* intervals of the default partition that a round looks at */
#define DELETE_ROWS 50000 /* from the default partition in a round */
#define SINGLY_ROWS 5000  /* likewise, where each is deleted by itself */
#define MOVES 10          /* of rows to their partition, while others come, before it is locked */
#define BOUNDS "metric_collectord_bounds"
#define SQL_MAX 2048

/* The lock that ends the move of a crowd: short tries, and others' time in between. */
#define CROWD_LOCK_MS 500
#define CROWD_PAUSE_MS 2000
#define CROWD_TRIES 30

/* What keeps one partition may keep them all: so many tries that end with a lock, and no more. */
#define LOCKS_MAX 4

struct range {
	uint64_t from_us;
	uint64_t to_us;
	const char *name; /* quoted, with its schema */
};

struct table {
	PGresult *rows;   /* what the names below point into */
	const char *home; /* the schema, quoted */
	const char
	    *names; /* the columns that rows are moved with, quoted: all that are not generated */
	struct range *all; /* by time; none overlaps another */
	size_t n;
};

struct work {
	struct pg_conn *c;
	const struct conf *conf;
	struct store_error *err;
	bool first;      /* before the first batch: without a word, and only what that needs */
	uint64_t now_us; /* by the server's clock */
	unsigned left;   /* partitions that this round may still make of the default one */
	unsigned locks;  /* that were not to be had in this round */
	bool busy;       /* other collectors have the schema to themselves */
};

/* One row if the table is there and ours. */
static const char ours_sql[] =
    "SELECT relkind, EXISTS (SELECT FROM metric_collectord.policies WHERE policy = 'partitions')"
    " FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass('metrics')";

/* The schema and the columns, then each partition but the default one. */
static const char ranges_sql[] =
    "WITH p AS (SELECT i.inhrelid::pg_catalog.regclass::text AS name,"
    "  pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bound"
    "  FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid"
    "  WHERE i.inhparent = 'metrics'::pg_catalog.regclass),"
    " b AS (SELECT name,"
    "  pg_catalog.substring(bound, 'FROM [(]''([^'']+)''[)]')::timestamptz AS since,"
    "  pg_catalog.substring(bound, 'TO [(]''([^'']+)''[)]')::timestamptz AS until"
    "  FROM p WHERE bound <> 'DEFAULT')"
    " SELECT relnamespace::pg_catalog.regnamespace::text, NULL::bigint, NULL::bigint,"
    "  (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(attname), ', ' ORDER BY attnum)"
    "   FROM pg_catalog.pg_attribute a WHERE a.attrelid = pg_class.oid AND a.attnum > 0"
    "   AND NOT a.attisdropped AND a.attgenerated = '')"
    "  FROM pg_catalog.pg_class WHERE oid = 'metrics'::pg_catalog.regclass"
    " UNION ALL SELECT name, greatest(0, (extract(epoch FROM since) * 1000000)::bigint),"
    "  least(253402300800000000, (extract(epoch FROM until) * 1000000)::bigint), NULL FROM b"
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
	st = pg_select(w->c, ranges_sql, PG_ROWS_FROM(1, 4), &t->rows, w->err);
	if (st != STORE_OK)
		return st;
	n = PQntuples(t->rows);
	t->all = calloc((size_t)n, sizeof(*t->all));
	if (!t->all)
		return pg_fail(w->err, "out of memory");
	t->home = PQgetvalue(t->rows, 0, 0);
	t->names = PQgetvalue(t->rows, 0, 3);
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

/* Runs one statement: Citus, which sends it on to the nodes, takes no more in a message. */
__attribute__((format(printf, 2, 3))) static enum store_status
execute(const struct work *w, const char *fmt, ...)
{
	enum store_status st;
	va_list ap;
	char *sql;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&sql, fmt, ap);
	va_end(ap);
	if (n < 0)
		return pg_fail(w->err, "out of memory");
	st = pg_query(w->c, sql, w->err);
	free(sql);
	return st;
}

__attribute__((format(printf, 4, 5))) static enum store_status
ask(const struct work *w, struct pg_form form, PGresult **ret, const char *fmt, ...)
{
	enum store_status st;
	va_list ap;
	char *sql;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&sql, fmt, ap);
	va_end(ap);
	if (n < 0)
		return pg_fail(w->err, "out of memory");
	st = pg_select(w->c, sql, form, ret, w->err);
	free(sql);
	return st;
}

/* ---- trouble ---- */

static bool
timed_out(const struct work *w, enum store_status st)
{
	return st == STORE_RETRY && !w->err->reconnect && strcmp(w->err->sqlstate, "55P03") == 0;
}

static void
log_trouble(const struct work *w, const char *partition)
{
	const char *hint = w->err->hint ? w->err->hint : "metrics go to metrics_default meanwhile";

	if (strcmp(w->err->sqlstate, "2BP01") == 0)
		hint = "drop what depends on the partition, or detach it; it is tried again each "
		       "minute";
	log_event_limited(LOG_WARNING, "partition_failed", "partition_failed",
			  LOG_STR("partition", partition), LOG_STR("error", w->err->text),
			  LOG_STR("sqlstate", w->err->sqlstate), LOG_STR("hint", hint));
}

/*
 * What cannot be done to one partition is told, and the next one's turn comes: STORE_OK.  Each round
 * tries them all again.  What is in the way of all ends the round.
 */
static enum store_status
go_on(struct work *w, enum store_status st, const char *partition)
{
	if (st == STORE_OK || st == STORE_STOPPED || w->err->reconnect || w->busy || w->first)
		return st;
	if (timed_out(w, st) && ++w->locks >= LOCKS_MAX)
		return st;
	log_trouble(w, partition);
	return STORE_OK;
}

/* ---- making one ---- */

struct addition {
	const char *home; /* as in struct table */
	const char *names;
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

/* Rows have no key, and where a publication is for all tables, nobody could delete any else. */
static enum store_status
identify(const struct work *w, const struct addition *a)
{
	return execute(w, "ALTER TABLE %s.%s REPLICA IDENTITY FULL", a->home, a->name);
}

/* The nodes have copies of its rows now. */
static enum store_status
truncate_here(const struct work *w, const struct addition *a)
{
	char table[SQL_MAX];
	const char *values[] = {table};
	const struct pg_params params = {.n = 1, .values = values};

	(void)snprintf(table, sizeof(table), "%s.%s", a->home, a->name);
	return pg_query_params(
	    w->c, "SELECT pg_catalog.truncate_local_data_after_distributing_table($1::regclass)",
	    &params, w->err);
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
		st = execute(
		    w, "CREATE TABLE %s.%s (LIKE %s.metrics INCLUDING ALL EXCLUDING IDENTITY)",
		    a->home, a->name, a->home);
	if (st == STORE_OK)
		st = identify(w, a);
	if (st == STORE_OK)
		st = execute(w,
			     "WITH gone AS (DELETE FROM %s.metrics_default"
			     " WHERE time >= '%s' AND time < '%s' RETURNING %s)"
			     " INSERT INTO %s.%s (%s) SELECT %s FROM gone",
			     a->home, a->from, a->to, a->names, a->home, a->name, a->names,
			     a->names);
	if (st == STORE_OK)
		st = attach(w, a);
	return st == STORE_OK ? truncate_here(w, a) : st;
}

/* Readers go on seeing them where they were, until the transaction ends. */
static enum store_status
move_rows(const struct work *w, const struct addition *a, uint64_t *moved)
{
	PGresult *r = NULL;
	enum store_status st =
	    ask(w, PG_SLOW_ROW(1), &r,
		"WITH gone AS (DELETE FROM %s.metrics_default"
		" WHERE time >= '%s' AND time < '%s' RETURNING %s),"
		" here AS (INSERT INTO %s.%s (%s) SELECT %s FROM gone RETURNING 1)"
		" SELECT count(*) FROM here",
		a->home, a->from, a->to, a->names, a->home, a->name, a->names, a->names);

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
	enum store_status st = execute(
	    w,
	    "CREATE TABLE %s.%s (LIKE %s.metrics INCLUDING ALL EXCLUDING IDENTITY, CONSTRAINT"
	    " " BOUNDS " CHECK (time >= '%s' AND time < '%s'))",
	    a->home, a->name, a->home, a->from, a->to);

	if (st == STORE_OK)
		st = identify(w, a);
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
	struct addition a = {.home = t->home, .names = t->names};
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

static enum store_status
lock(struct work *w)
{
	enum store_status st = pg_lock_begin(w->c, PG_LOCK_TRY_MS, w->err);

	w->busy = w->busy || w->c->lock_busy;
	return st;
}

/* Under the lock, unless another collector has done it meanwhile. */
static enum store_status
create_at(struct work *w, struct table *t, uint64_t at_us)
{
	enum store_status st = lock(w);
	struct range gap = {.from_us = at_us};
	char name[64];

	if (st == STORE_OK)
		st = table_read(w, t);
	if (st == STORE_OK && gap_at(t, w->conf->table.chunk_interval_us, at_us, &gap))
		st = create(w, t, &gap);
	name_of(name, gap.from_us);
	st = go_on(w, pg_lock_end(w->c, st, w->err), name);
	return st == STORE_OK ? table_read(w, t) : st;
}

/* ---- ahead of the clock ---- */

static enum store_status
make_ahead(struct work *w, struct table *t)
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
	char before[TEXT_VALUE_MAX], from[TEXT_VALUE_MAX], to[TEXT_VALUE_MAX];
	PGresult *r = NULL;
	enum store_status st;
	struct range gap;

	*crowd = false;
	(void)text_time(before, before_us);
	st = ask(w, PG_ROW(1), &r,
		 "SELECT (extract(epoch FROM max(time)) * 1000000)::bigint"
		 " FROM %s.metrics_default WHERE time < '%s' AND time >= '1970-01-01Z'",
		 t->home, before);
	if (st != STORE_OK)
		return st;
	*at_us = strtoull(PQgetvalue(r, 0, 0), NULL, 10);
	PQclear(r);
	r = NULL;
	if (!*at_us || !gap_at(t, w->conf->table.chunk_interval_us, *at_us, &gap))
		return STORE_OK;
	(void)text_time(from, gap.from_us);
	(void)text_time(to, gap.to_us);
	st = ask(w, PG_ROW(1), &r,
		 "SELECT count(*) = %d FROM (SELECT 1 FROM %s.metrics_default"
		 " WHERE time >= '%s' AND time < '%s' LIMIT %d) crowd",
		 CROWD, t->home, from, to, CROWD);
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

/*
 * DROP locks the whole table before the partition, and all wait behind it: so not for one that
 * somebody keeps.
 */
static enum store_status
try_partition(const struct work *w, const struct range *r)
{
	char sql[SQL_MAX];
	enum store_status st;

	if (w->c->distributed)
		return STORE_OK;
	(void)snprintf(sql, sizeof(sql),
		       PG_NO_STANDBY "SET LOCAL lock_timeout = %d;"
				     "LOCK TABLE %s IN ACCESS EXCLUSIVE MODE;ROLLBACK",
		       CROWD_LOCK_MS, r->name);
	st = pg_begin(w->c, sql, w->err);
	if (st != STORE_OK)
		pg_rollback(w->c, w->err);
	return st;
}

static enum store_status
drop(struct work *w, const struct range *r)
{
	enum store_status st = try_partition(w, r);

	if (st != STORE_OK)
		return strcmp(w->err->sqlstate, "42P01") == 0 ? STORE_OK : st; /* others have */
	st = lock(w);
	if (st == STORE_OK)
		st = execute(w, "DROP TABLE IF EXISTS %s", r->name);
	st = pg_lock_end(w->c, st, w->err);
	if (st == STORE_OK)
		log_event(LOG_INFO, "partition_dropped", LOG_STR("partition", r->name));
	return st;
}

/* Of the default partition. */
/* Row by row, so that those go of which nobody says that they may not. */
static enum store_status
delete_singly(const struct work *w, const struct table *t, const char *before)
{
	return execute(
	    w,
	    PG_NO_STANDBY
	    "DO $metrics$ DECLARE one pg_catalog.tid; BEGIN"
	    " FOR one IN SELECT ctid FROM %s.metrics_default WHERE time < '%s' LIMIT %d LOOP"
	    "  BEGIN DELETE FROM %s.metrics_default WHERE ctid = one;"
	    "  EXCEPTION WHEN OTHERS THEN NULL; END;"
	    " END LOOP; END $metrics$",
	    t->home, before, SINGLY_ROWS, t->home);
}

/* A trigger, or a foreign key, keeps some rows: that is told, and the others go. */
static enum store_status
delete_others(const struct work *w, const struct table *t, const char *before)
{
	const struct store_error first = *w->err;
	enum store_status st = delete_singly(w, t, before);

	if (st != STORE_OK)
		return st;
	*w->err = first;
	w->err->hint = "some expired rows of metrics_default may not be deleted, and stay; the "
		       "others go";
	return STORE_HOLD;
}

static enum store_status
delete_expired(const struct work *w, const struct table *t, uint64_t keep_us)
{
	char before[TEXT_VALUE_MAX];
	enum store_status st;

	(void)text_time(before, w->now_us - keep_us);
	if (w->c->distributed) /* a row's place says nothing there */
		return execute(w, "DELETE FROM %s.metrics_default WHERE time < '%s'", t->home,
			       before);
	st = execute(w,
		     PG_NO_STANDBY "DELETE FROM %s.metrics_default WHERE ctid = ANY (ARRAY("
				   "SELECT ctid FROM %s.metrics_default WHERE time < '%s' LIMIT "
				   "%d))",
		     t->home, t->home, before, DELETE_ROWS);
	return st == STORE_HOLD && !w->err->reconnect ? delete_others(w, t, before) : st;
}

static enum store_status
drop_expired(struct work *w, const struct table *t)
{
	uint64_t keep_us = w->conf->table.retention_us;
	enum store_status st = STORE_OK;

	if (!keep_us || keep_us >= w->now_us)
		return STORE_OK;
	for (size_t i = 0; i < t->n && st == STORE_OK; i++)
		if (t->all[i].to_us <= w->now_us - keep_us)
			st = go_on(w, drop(w, &t->all[i]), t->all[i].name);
	return st == STORE_OK ? go_on(w, delete_expired(w, t, keep_us), "metrics_default") : st;
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
maintain(struct work *w)
{
	struct table t = {0};
	bool ours = false;
	enum store_status st = is_ours(w, &ours);

	if (st == STORE_OK && ours)
		st = pg_now(w->c, &w->now_us, w->err);
	if (st == STORE_OK && ours)
		st = table_read(w, &t);
	if (st == STORE_OK && ours)
		st = make_ahead(w, &t);
	if (st == STORE_OK && ours && !w->first)
		st = drop_expired(w, &t);
	if (st == STORE_OK && ours && !w->first)
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
	    .first = true,
	};
	enum store_status st;

	if (!conf->database.migrate)
		return STORE_OK;
	st = maintain(&w);
	return st == STORE_STOPPED || err->reconnect ? st : STORE_OK;
}

enum store_status
pg_partition_maintain(struct pg_conn *c, const struct conf *conf, struct store_error *err)
{
	struct work w = {
	    .c = c,
	    .conf = conf,
	    .err = err,
	    .left = conf->table.max_new_chunks,
	};
	enum store_status st;

	if (!conf->database.migrate)
		return STORE_OK;
	st = maintain(&w);
	/* what the lock has kept from being done is soon tried again */
	if (st == STORE_OK || st == STORE_STOPPED || err->reconnect || w.busy)
		return st;
	log_trouble(&w, NULL);
	return STORE_OK;
}
