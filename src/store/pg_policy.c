#include "store/pg_policy.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/conf_value.h"
#include "service/log.h"
#include "service/text.h"
#include "store/pg_error.h"
#include "store/pg_setup.h"

#define SECOND UINT64_C(1000000)
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)
#define WEEK (7 * DAY)

#define NAME_MAX_LEN 64
#define SCHEMA_MAX (2 * 64 + 3)
#define SQL_MAX 3072

#define ROLLUP "rollup "
#define COMPLETE_SINCE "complete since"
#define COLUMNSTORE "segmentby metric_name, orderby time DESC"
#define WORK_MEM "64MB" /* see want_memory() */

enum kind { CHUNK_INTERVAL, COLUMNS, MEMORY, COMPRESS_AFTER, ROLLUPS, RETENTION };

#define KIND(name)                                           \
	{                                                    \
		"policy_failed/" name, "table_differs/" name \
	}

/* What log_event_limited() and log_event_once() go by. */
static const struct {
	const char *failed;
	const char *differs;
} kinds[] = {
    [CHUNK_INTERVAL] = KIND("chunk_interval"),
    [COLUMNS] = KIND("columnstore"),
    [MEMORY] = KIND("work_mem"),
    [COMPRESS_AFTER] = KIND("compress_after"),
    [ROLLUPS] = KIND("rollup"),
    [RETENTION] = KIND("retention"),
};

struct policy {
	enum kind kind;
	char name[NAME_MAX_LEN]; /* as recorded and logged */
	char wanted[64];         /* as state_sql writes it; "" = none */
	char shown[64];          /* as people read it; "" = none */
	uint64_t us;
};

/* What the database has; see state_sql. */
struct state {
	PGresult *rows;
	const char *schema; /* of metrics, quoted */
	bool ours;
	uint64_t now_us;   /* by the server's clock */
	uint64_t since_us; /* what metrics held before then may have been deleted */
	uint64_t kept_us;  /* the age at which metrics are deleted; 0 = never */
};

/* One connection's work. */
struct work {
	struct pg_conn *c;
	const struct conf *conf;
	const char *extension; /* the schema of its functions, quoted */
	struct store_error *err;
};

/* Rows of (where, policy, value): durations in microseconds, '' for what is not there. */
static const char state_sql[] =
    "WITH m AS (SELECT n.nspname AS s, c.relname AS t FROM pg_catalog.pg_class c"
    "  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
    "  WHERE c.oid = 'metrics'::pg_catalog.regclass),"
    " j AS (SELECT j.proc_name, j.config FROM timescaledb_information.jobs j, m"
    "  WHERE j.hypertable_schema = m.s AND j.hypertable_name = m.t),"
    " d AS (SELECT 'chunk_interval' AS policy, d.time_interval AS us"
    "  FROM timescaledb_information.dimensions d, m"
    "  WHERE d.hypertable_schema = m.s AND d.hypertable_name = m.t AND d.dimension_number = 1"
    "  UNION ALL SELECT 'compress_after', (config->>'compress_after')::interval FROM j"
    "  WHERE proc_name IN ('policy_compression', 'policy_columnstore')"
    "  UNION ALL SELECT 'retention', (config->>'drop_after')::interval FROM j"
    "  WHERE proc_name = 'policy_retention'),"
    " o AS (SELECT 'segmentby ' || coalesce(pg_catalog.string_agg("
    "   s.attname, ', ' ORDER BY s.segmentby_column_index)"
    "   FILTER (WHERE s.segmentby_column_index IS NOT NULL), '')"
    "  || ', orderby ' || coalesce(pg_catalog.string_agg("
    "   s.attname || CASE WHEN s.orderby_asc THEN '' ELSE ' DESC' END, ', '"
    "   ORDER BY s.orderby_column_index)"
    "   FILTER (WHERE s.orderby_column_index IS NOT NULL), '') AS columns"
    "  FROM timescaledb_information.compression_settings s, m"
    "  WHERE s.hypertable_schema = m.s AND s.hypertable_name = m.t HAVING count(*) > 0),"
    " w AS (SELECT coalesce((SELECT pg_catalog.split_part(c, '=', 2)"
    "   FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c"
    "   WHERE s.setdatabase = d.oid AND s.setrole = 0 AND c LIKE 'work_mem=%'),"
    "  CASE w.source WHEN 'default' THEN '' ELSE w.setting || w.unit END) AS value"
    "  FROM pg_catalog.pg_settings w, pg_catalog.pg_database d WHERE w.name = 'work_mem'"
    "  AND d.datname = pg_catalog.current_database()"
    "  AND pg_catalog.pg_has_role(d.datdba, 'USAGE')),"
    " r AS (SELECT a.view_name, r.job_id, (r.config->>'start_offset')::interval AS us"
    "  FROM m JOIN timescaledb_information.continuous_aggregates a"
    "   ON a.hypertable_schema = m.s AND a.hypertable_name = m.t AND a.view_schema = m.s"
    "  LEFT JOIN timescaledb_information.jobs r"
    "   ON r.proc_name = 'policy_refresh_continuous_aggregate'"
    "   AND (r.hypertable_schema, r.hypertable_name) IN ((a.view_schema, a.view_name),"
    "    (a.materialization_hypertable_schema, a.materialization_hypertable_name)))"
    " SELECT 'schema', '', pg_catalog.quote_ident(m.s) FROM m"
    " UNION ALL SELECT 'recorded', policy, value FROM metric_collectord.policies"
    " UNION ALL SELECT 'found', policy, (extract(epoch FROM us) * 1000000)::bigint::text FROM d"
    " UNION ALL SELECT 'found', 'columnstore', columns FROM o"
    " UNION ALL SELECT 'found', 'work_mem', value FROM w"
    " UNION ALL SELECT 'found', '" ROLLUP "' || view_name, CASE WHEN job_id IS NULL THEN ''"
    "  ELSE coalesce((extract(epoch FROM us) * 1000000)::bigint::text, '0') END FROM r";

static const char clock_sql[] =
    "SELECT (extract(epoch FROM pg_catalog.now()) * 1000000)::bigint,"
    " (SELECT (extract(epoch FROM value::timestamptz) * 1000000)::bigint"
    "  FROM metric_collectord.policies WHERE policy = '" COMPLETE_SINCE "')";

/* ---- durations ---- */

static const struct unit {
	uint64_t us;
	const char *name;
	const char *letter; /* of a rollup's view; NULL: none */
} units[] = {
    {WEEK, "week", "w"},      {DAY, "day", "d"},       {HOUR, "hour", "h"},
    {MINUTE, "minute", "m"},  {SECOND, "second", "s"}, {1000, "millisecond", NULL},
    {1, "microsecond", NULL},
};

static const struct unit *
unit_of(uint64_t us, bool weeks)
{
	const struct unit *u = weeks ? units : units + 1;

	while (us % u->us)
		u++;
	return u;
}

void
pg_interval(char out[PG_INTERVAL_MAX], uint64_t us)
{
	const struct unit *u = unit_of(us, false);
	uint64_t n = us / u->us;

	(void)snprintf(out, PG_INTERVAL_MAX, "%" PRIu64 " %s%s", n, u->name, n == 1 ? "" : "s");
}

/* ---- what is wanted ---- */

static void
want(struct policy *p, enum kind kind, const char *name, uint64_t us)
{
	*p = (struct policy){.kind = kind, .us = us};
	(void)snprintf(p->name, sizeof(p->name), "%s", name);
	if (!us)
		return;
	(void)snprintf(p->wanted, sizeof(p->wanted), "%" PRIu64, us);
	pg_interval(p->shown, us);
}

static void
want_columnstore(struct policy *p, const struct conf *conf)
{
	bool used = conf->table.compress_after_us || conf->table.direct_compress != CONF_OFF;

	want(p, COLUMNS, "columnstore", 0);
	if (!used)
		return;
	(void)snprintf(p->wanted, sizeof(p->wanted), "%s", COLUMNSTORE);
	(void)snprintf(p->shown, sizeof(p->shown), "%s", COLUMNSTORE);
}

/*
 * The newest rows are found by merging segments, where TimescaleDB expects that to fit into
 * work_mem: 32 KB for each metric.  With PostgreSQL's 4 MB it reads a whole chunk instead from 100
 * metrics on, with this from 1,500 on.
 */
static void
want_memory(struct policy *p, const struct conf *conf)
{
	bool used = conf->table.compress_after_us || conf->table.direct_compress != CONF_OFF;

	want(p, MEMORY, "work_mem", 0);
	if (!used)
		return;
	(void)snprintf(p->wanted, sizeof(p->wanted), "%s", WORK_MEM);
	(void)snprintf(p->shown, sizeof(p->shown), "%s", WORK_MEM);
}

/* metrics_1m, and so on.  That there is a refresh is what is wanted; see reach(). */
static void
want_rollup(struct policy *p, const char *text)
{
	uint64_t us = 0;
	const struct unit *u;

	(void)conf_value_duration(text, &us); /* conf.h has checked it */
	want(p, ROLLUPS, "", us);
	u = unit_of(us, true);
	if (u->letter)
		(void)snprintf(p->name, sizeof(p->name), ROLLUP "metrics_%" PRIu64 "%s", us / u->us,
			       u->letter);
	else
		(void)snprintf(p->name, sizeof(p->name), ROLLUP "metrics_%" PRIu64 "us", us);
	(void)snprintf(p->wanted, sizeof(p->wanted), "refreshed");
}

/* ---- what there is ---- */

static const char *
state_find(const struct state *s, const char *where, const char *policy)
{
	int i, n = PQntuples(s->rows);

	for (i = 0; i < n; i++)
		if (strcmp(PQgetvalue(s->rows, i, 0), where) == 0 &&
		    strcmp(PQgetvalue(s->rows, i, 1), policy) == 0)
			return PQgetvalue(s->rows, i, 2);
	return NULL;
}

static uint64_t
least_but_0(uint64_t a, uint64_t b)
{
	return !a || (b && b < a) ? b : a;
}

static enum store_status
state_read(const struct work *w, struct state *ret)
{
	PGresult *now = NULL;
	const char *retention;
	enum store_status st = pg_query(w->c, state_sql, &ret->rows, w->err);

	if (st == STORE_OK)
		st = pg_query(w->c, clock_sql, &now, w->err);
	if (st == STORE_OK) {
		ret->schema = state_find(ret, "schema", "");
		ret->ours = state_find(ret, "recorded", "hypertable") != NULL;
		ret->now_us = strtoull(PQgetvalue(now, 0, 0), NULL, 10);
		ret->since_us = strtoull(PQgetvalue(now, 0, 1), NULL, 10);
		retention = state_find(ret, "found", "retention");
		ret->kept_us = least_but_0(w->conf->table.retention_us,
					   retention ? strtoull(retention, NULL, 10) : 0);
	}
	PQclear(now);
	return st;
}

/*
 * How far back the refresh of a rollup reaches, 0 = without limit: as far as metrics are kept, so
 * that rows that come late are counted; and no further: deleting metrics marks their buckets as
 * changed, and a refresh would compute them anew, from nothing.  TimescaleDB refuses less than two
 * buckets, and so it should (policy_failed).
 */
static uint64_t
reach(const struct state *s)
{
	uint64_t us = s->kept_us;
	uint64_t age = s->now_us > s->since_us ? s->now_us - s->since_us : 0;

	age = age < SECOND ? SECOND : age - age % SECOND;
	if (s->since_us)
		us = least_but_0(us, age);
	return us;
}

/* A window that may be wider again grows with the time since then: not at each start. */
static bool
reach_differs(const struct state *s, const struct policy *p, const char *found)
{
	uint64_t now = strtoull(found, NULL, 10), wanted = reach(s);

	if (wanted && (!now || now > wanted))
		return true;
	if (now == wanted || !state_find(s, "recorded", p->name))
		return false;
	return !wanted || wanted == s->kept_us || wanted / 2 >= now;
}

enum verdict { SAME, CHANGE, LEAVE };

static enum verdict
judge(const struct state *s, const struct policy *p)
{
	const char *found = state_find(s, "found", p->name);
	bool may = s->ours || state_find(s, "recorded", p->name);

	if (strcmp(found ? found : "", p->wanted) == 0)
		return SAME;
	switch (p->kind) {
	case CHUNK_INTERVAL:
		return s->ours ? CHANGE : LEAVE;
	case COLUMNS: /* an operator may have found a better one: only where there is none */
		if (!*p->wanted)
			return SAME;
		return s->ours && !found ? CHANGE : LEAVE;
	case MEMORY: /* whatever somebody has set is right; without found, it is not ours to set */
		if (*p->wanted && !s->ours && !state_find(s, "found", "columnstore"))
			return SAME;
		if (*p->wanted)
			return found && !*found ? CHANGE : SAME;
		return found && strcmp(found, WORK_MEM) == 0 && state_find(s, "recorded", p->name)
			   ? CHANGE
			   : SAME;
	case COMPRESS_AFTER:
		if (!found)
			return s->ours || state_find(s, "found", "columnstore") ? CHANGE : LEAVE;
		break;
	case ROLLUPS:
		if (!found || !*found)
			return CHANGE;
		if (*p->wanted && !reach_differs(s, p, found))
			return SAME;
		break;
	case RETENTION:
		if (!found)
			return CHANGE;
		break;
	}
	if (!*p->wanted) /* only what we have made is removed */
		may = state_find(s, "recorded", p->name) != NULL;
	return may ? CHANGE : LEAVE;
}

/* ---- changes ---- */

static void
job_sql(char sql[SQL_MAX], const struct work *w, const struct policy *p, const char *job,
	const char *after)
{
	int n = snprintf(sql, SQL_MAX, "SELECT %s.remove_%s_policy('metrics', if_exists => true)",
			 w->extension, job);

	if (*p->wanted)
		(void)snprintf(sql + n, SQL_MAX - (size_t)n,
			       ";SELECT %s.add_%s_policy('metrics', %s => interval '%s')",
			       w->extension, job, after, p->shown);
}

/*
 * The view is real-time: what its refresh has not reached is computed from metrics.  A refresh
 * takes complete buckets only, and only those whose metrics have changed.
 */
static void
rollup_sql(char sql[SQL_MAX], const struct work *w, const struct state *s, const struct policy *p)
{
	const char *name = p->name + strlen(ROLLUP);
	const char *x = w->extension;
	const char *found = state_find(s, "found", p->name);
	char start[PG_INTERVAL_MAX + 12] = "NULL", every[PG_INTERVAL_MAX], text[PG_INTERVAL_MAX];
	uint64_t us = reach(s);
	int n = 0;

	if (us) {
		pg_interval(text, us);
		(void)snprintf(start, sizeof(start), "interval '%s'", text);
	}
	pg_interval(every, p->us < MINUTE ? MINUTE : p->us > HOUR ? HOUR : p->us);
	if (!found)
		n = snprintf(sql, SQL_MAX,
			     "CREATE MATERIALIZED VIEW %s.%s WITH (timescaledb.continuous,"
			     " timescaledb.materialized_only = false) AS"
			     " SELECT %s.time_bucket(interval '%s', time) AS time, metric_name,"
			     " count(*) AS count, min(value) AS min, max(value) AS max,"
			     " avg(value) AS avg, %s.first(value, time) AS first,"
			     " %s.last(value, time) AS last"
			     " FROM metrics GROUP BY 1, 2 WITH NO DATA;",
			     s->schema, name, x, p->shown, x, x);
	(void)snprintf(sql + n, SQL_MAX - (size_t)n,
		       "SELECT %s.remove_continuous_aggregate_policy('%s.%s', if_exists => true);"
		       "SELECT %s.add_continuous_aggregate_policy('%s.%s', start_offset => %s,"
		       " end_offset => interval '%s', schedule_interval => interval '%s')",
		       x, s->schema, name, x, s->schema, name, start, p->shown, every);
}

/* One that is not configured any more: its data stay, they may be all that is left of a time. */
static void
rollup_stop_sql(char sql[SQL_MAX], const struct work *w, const struct state *s,
		const struct policy *p)
{
	const char *name = p->name + strlen(ROLLUP);

	if (state_find(s, "found", p->name))
		(void)snprintf(sql, SQL_MAX,
			       "SELECT %s.remove_continuous_aggregate_policy('%s.%s',"
			       " if_exists => true)",
			       w->extension, s->schema, name);
	else
		(void)snprintf(sql, SQL_MAX, "SELECT 1");
}

static void
change_sql(char sql[SQL_MAX], const struct work *w, const struct state *s, const struct policy *p)
{
	switch (p->kind) {
	case CHUNK_INTERVAL:
		(void)snprintf(sql, SQL_MAX,
			       "SELECT %s.set_chunk_time_interval('metrics', %s::bigint)",
			       w->extension, p->wanted);
		break;
	case COLUMNS:
		(void)snprintf(sql, SQL_MAX,
			       "ALTER TABLE metrics SET (timescaledb.compress,"
			       " timescaledb.compress_segmentby = 'metric_name',"
			       " timescaledb.compress_orderby = 'time DESC')");
		break;
	case MEMORY:
		(void)snprintf(sql, SQL_MAX,
			       "DO $$ BEGIN EXECUTE pg_catalog.format('ALTER DATABASE %%I %s',"
			       " pg_catalog.current_database()); END $$",
			       *p->wanted ? "SET work_mem = ''" WORK_MEM "''" : "RESET work_mem");
		break;
	case COMPRESS_AFTER:
		job_sql(sql, w, p, "compression", "compress_after");
		break;
	case RETENTION:
		job_sql(sql, w, p, "retention", "drop_after");
		break;
	case ROLLUPS:
		if (*p->wanted)
			rollup_sql(sql, w, s, p);
		else
			rollup_stop_sql(sql, w, s, p);
		break;
	}
}

static enum store_status
record(const struct work *w, const char *policy, const char *value)
{
	const char *values[] = {policy, value};
	const struct pg_params p = {.n = *value ? 2 : 1, .values = values};

	return pg_query_params(w->c,
			       *value ? "INSERT INTO metric_collectord.policies (policy, value)"
					" VALUES ($1, $2) ON CONFLICT (policy)"
					" DO UPDATE SET value = excluded.value, applied_at = now()"
				      : "DELETE FROM metric_collectord.policies WHERE policy = $1",
			       &p, NULL, w->err);
}

/* Metrics are complete since then only, unless since later: what was before may be deleted. */
static enum store_status
complete_since(const struct work *w, struct state *s, uint64_t since_us)
{
	char text[TEXT_VALUE_MAX];

	if (since_us <= s->since_us)
		return STORE_OK;
	s->since_us = since_us;
	(void)text_time(text, since_us);
	return record(w, COMPLETE_SINCE, text);
}

/*
 * A rollup that is refreshed again: what has been deleted from metrics meanwhile is not known.  Not
 * before the oldest chunk, or if there is none, behind what the view holds.
 */
static enum store_status
look_back(const struct work *w, struct state *s, const struct policy *p)
{
	PGresult *r = NULL;
	enum store_status st;
	char sql[SQL_MAX];

	(void)snprintf(
	    sql, sizeof(sql),
	    "SELECT (extract(epoch FROM greatest('1970-01-01Z', coalesce((SELECT min(k.range_start)"
	    " FROM timescaledb_information.chunks k JOIN pg_catalog.pg_class c"
	    " ON c.oid = 'metrics'::pg_catalog.regclass"
	    " AND k.hypertable_name = c.relname JOIN pg_catalog.pg_namespace n"
	    " ON n.oid = c.relnamespace AND k.hypertable_schema = n.nspname),"
	    " (SELECT max(time) + interval '%s' FROM %s.%s)))) * 1000000)::bigint",
	    p->shown, s->schema, p->name + strlen(ROLLUP));
	st = pg_query(w->c, sql, &r, w->err);
	if (st == STORE_OK)
		st = complete_since(w, s, strtoull(PQgetvalue(r, 0, 0), NULL, 10));
	PQclear(r);
	return st;
}

/* What has to be known before the change, which may be the last time that it can be. */
static enum store_status
learn(const struct work *w, struct state *s, const struct policy *p)
{
	const char *found = state_find(s, "found", p->name);

	if (p->kind == RETENTION && found) {
		uint64_t us = strtoull(found, NULL, 10);

		return complete_since(w, s, s->now_us > us ? s->now_us - us : 0);
	}
	if (p->kind == ROLLUPS && *p->wanted && found && !*found)
		return look_back(w, s, p);
	return STORE_OK;
}

/* Within the transaction: another collector may have been quicker. */
static enum store_status
change_locked(const struct work *w, const struct policy *p, bool *changed)
{
	struct state s = {0};
	enum store_status st = state_read(w, &s);
	char sql[SQL_MAX];

	if (st == STORE_OK && judge(&s, p) == CHANGE) {
		st = learn(w, &s, p);
		change_sql(sql, w, &s, p);
		if (st == STORE_OK)
			st = pg_query(w->c, sql, NULL, w->err);
		if (st == STORE_OK)
			st = record(w, p->name, p->shown);
		*changed = st == STORE_OK;
	}
	PQclear(s.rows);
	return st;
}

/* Failures are logged here; what is returned ends the connection. */
static enum store_status
change(const struct work *w, const struct policy *p)
{
	bool changed = false;
	enum store_status st = pg_setup_begin(w->c, w->err);

	if (st == STORE_OK)
		st = change_locked(w, p, &changed);
	st = pg_setup_end(w->c, st, w->err);
	if (st == STORE_OK) {
		if (changed)
			log_event(LOG_INFO, "policy_applied", LOG_STR("policy", p->name),
				  LOG_STR("value", p->shown));
		return STORE_OK;
	}
	if (st == STORE_STOPPED || w->err->reconnect)
		return st;
	log_event_limited(LOG_WARNING, kinds[p->kind].failed, "policy_failed",
			  LOG_STR("policy", p->name), LOG_STR("value", p->shown),
			  LOG_STR("error", w->err->text), LOG_STR("sqlstate", w->err->sqlstate),
			  LOG_STR("hint", w->err->hint));
	return STORE_OK;
}

static void
log_differs(const struct state *s, const struct policy *p)
{
	const char *found = state_find(s, "found", p->name);
	char shown[PG_INTERVAL_MAX] = "";

	if (found && p->kind != COLUMNS && *found)
		pg_interval(shown, strtoull(found, NULL, 10));
	log_event_once(LOG_WARNING, kinds[p->kind].differs, "table_differs",
		       LOG_STR("what", p->name), LOG_STR("wanted", p->shown),
		       LOG_STR("found", p->kind == COLUMNS && found ? found : shown));
}

static enum store_status
apply(const struct work *w, const struct state *s, const struct policy *p)
{
	switch (judge(s, p)) {
	case SAME:
		return STORE_OK;
	case CHANGE:
		return change(w, p);
	case LEAVE:
		log_differs(s, p);
		return STORE_OK;
	}
	return STORE_OK;
}

/* ---- all of them ---- */

static enum store_status
apply_rollups(const struct work *w, const struct state *s)
{
	const struct conf_list *list = &w->conf->table.rollups;
	enum store_status st = STORE_OK;
	struct policy p;

	for (size_t i = 0; i < list->n && st == STORE_OK; i++) {
		want_rollup(&p, list->items[i]);
		st = apply(w, s, &p);
	}
	return st;
}

static bool
is_configured(const struct work *w, const char *name)
{
	const struct conf_list *list = &w->conf->table.rollups;
	struct policy p;

	for (size_t i = 0; i < list->n; i++) {
		want_rollup(&p, list->items[i]);
		if (strcmp(p.name, name) == 0)
			return true;
	}
	return false;
}

static enum store_status
stop_rollups(const struct work *w, const struct state *s)
{
	enum store_status st = STORE_OK;
	struct policy p;

	for (int i = 0; i < PQntuples(s->rows) && st == STORE_OK; i++) {
		const char *name = PQgetvalue(s->rows, i, 1);

		if (strcmp(PQgetvalue(s->rows, i, 0), "recorded") != 0 ||
		    strncmp(name, ROLLUP, strlen(ROLLUP)) != 0 || is_configured(w, name))
			continue;
		want(&p, ROLLUPS, name, 0);
		st = change(w, &p);
	}
	return st;
}

/* A refresh never reaches further back than metrics are kept: so rollups go before retention. */
static enum store_status
apply_all(const struct work *w, const struct state *s)
{
	enum store_status st;
	struct policy p;

	want_columnstore(&p, w->conf);
	st = apply(w, s, &p);
	if (st == STORE_OK) {
		want_memory(&p, w->conf);
		st = apply(w, s, &p);
	}
	if (st == STORE_OK) {
		want(&p, COMPRESS_AFTER, "compress_after", w->conf->table.compress_after_us);
		st = apply(w, s, &p);
	}
	if (st == STORE_OK)
		st = apply_rollups(w, s);
	if (st == STORE_OK)
		st = stop_rollups(w, s);
	if (st == STORE_OK) {
		want(&p, RETENTION, "retention", w->conf->table.retention_us);
		st = apply(w, s, &p);
	}
	return st;
}

/* The Apache edition has the functions, but they only raise errors. */
static enum store_status
is_apache(struct pg_conn *c, bool *ret, struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st =
	    pg_query(c, "SELECT pg_catalog.current_setting('timescaledb.license', true) = 'apache'",
		     &r, err);

	if (st == STORE_OK)
		*ret = *PQgetvalue(r, 0, 0) == 't';
	PQclear(r);
	return st;
}

static void
log_left_out(const struct conf *conf)
{
	char text[64] = "";

	if (conf->table.compress_after_us)
		(void)snprintf(text, sizeof(text), "compress_after");
	if (conf->table.direct_compress != CONF_OFF)
		(void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s",
			       *text ? ", " : "", "direct_compress");
	if (conf->table.rollups.n)
		(void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s",
			       *text ? ", " : "", "rollups");
	if (*text)
		log_event_once(LOG_WARNING, "policies_left_out", "policies_left_out",
			       LOG_STR("edition", "apache"), LOG_STR("policies", text));
}

enum store_status
pg_policy_apply(struct pg_conn *c, const struct conf *conf, const char *schema,
		struct store_error *err)
{
	const struct work w = {c, conf, schema, err};
	struct state s = {0};
	bool apache = false;
	struct policy p;
	enum store_status st = is_apache(c, &apache, err);

	if (st == STORE_OK)
		st = state_read(&w, &s);
	if (st == STORE_OK) {
		want(&p, CHUNK_INTERVAL, "chunk_interval", conf->table.chunk_interval_us);
		st = apply(&w, &s, &p);
	}
	if (st == STORE_OK && apache)
		log_left_out(conf);
	else if (st == STORE_OK)
		st = apply_all(&w, &s);
	PQclear(s.rows);
	if (st == STORE_OK || st == STORE_STOPPED || err->reconnect)
		return st;
	log_event_limited(LOG_WARNING, "policy_failed", "policy_failed",
			  LOG_STR("error", err->text), LOG_STR("sqlstate", err->sqlstate),
			  LOG_STR("hint", err->hint));
	return STORE_OK;
}
