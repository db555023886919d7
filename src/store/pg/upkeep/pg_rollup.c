#include "store/pg/upkeep/pg_rollup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/pg/upkeep/pg_interval.h"

#define SQL_MAX 2048

void
pg_rollup_name(char out[PG_ROLLUP_MAX], uint64_t bucket_us)
{
	char width[PG_INTERVAL_MAX];

	pg_interval_short(width, bucket_us);
	(void)snprintf(out, PG_ROLLUP_MAX, PG_ROLLUP "metrics_%s", width);
}

static const char *
view_of(const char *policy)
{
	return policy + strlen(PG_ROLLUP);
}

/* ---- how far back ---- */

/* 0 = without limit. */
static uint64_t
reach(const struct pg_policy_state *s, uint64_t since_us)
{
	uint64_t us = s->kept_us;
	uint64_t age = s->now_us > since_us ? s->now_us - since_us : 0;

	age = age < SECOND_US ? SECOND_US : age - age % SECOND_US;
	return since_us && (!us || age < us) ? age : us;
}

bool
pg_rollup_reaches(const struct pg_policy_state *s, const char *policy)
{
	const char *found = pg_policy_found(s, policy);
	uint64_t now = found ? strtoull(found, NULL, 10) : 0;
	uint64_t wanted = reach(s, pg_policy_since(s, view_of(policy)));

	if (wanted && (!now || now > wanted))
		return false;
	if (now == wanted || !pg_policy_recorded(s, policy))
		return true;
	return wanted && wanted != s->kept_us && wanted / 2 < now;
}

/*
 * A rollup that is refreshed again: what has been deleted from metrics meanwhile is not known.  Not
 * before the oldest chunk, or if there is none, behind what the view holds.  Raises *since_us.
 */
static enum store_status
look_back(struct pg_conn *c, const struct pg_policy_state *s, const char *view, const char *width,
	  uint64_t *since_us, struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st;
	char sql[SQL_MAX];
	uint64_t us = 0;

	(void)snprintf(
	    sql, sizeof(sql),
	    "SELECT (extract(epoch FROM greatest('1970-01-01Z', coalesce((SELECT min(k.range_start)"
	    " FROM timescaledb_information.chunks k JOIN pg_catalog.pg_class c"
	    " ON c.oid = 'metrics'::pg_catalog.regclass"
	    " AND k.hypertable_name = c.relname JOIN pg_catalog.pg_namespace n"
	    " ON n.oid = c.relnamespace AND k.hypertable_schema = n.nspname),"
	    " (SELECT max(time) + interval '%s' FROM %s.%s)))) * 1000000)::bigint",
	    width, s->schema, view);
	st = pg_select(c, sql, PG_ROW(1), &r, err);
	if (st == STORE_OK)
		us = strtoull(PQgetvalue(r, 0, 0), NULL, 10);
	PQclear(r);
	if (us > *since_us)
		*since_us = us;
	return st == STORE_OK ? pg_policy_complete_since(c, s, view, us, err) : st;
}

/* ---- the view and its refresh ---- */

static enum store_status
create_view(struct pg_conn *c, const struct pg_policy_state *s, const char *view, const char *width,
	    struct store_error *err)
{
	const char *x = s->extension;
	char sql[SQL_MAX];

	(void)snprintf(sql, sizeof(sql),
		       "CREATE MATERIALIZED VIEW %s.%s WITH (timescaledb.continuous,"
		       " timescaledb.materialized_only = false) AS"
		       " SELECT %s.time_bucket(interval '%s', time) AS time, metric_name,"
		       " count(*) AS count, min(value) AS min, max(value) AS max,"
		       " avg(value) AS avg, %s.first(value, time) AS first,"
		       " %s.last(value, time) AS last"
		       " FROM metrics GROUP BY 1, 2 WITH NO DATA",
		       s->schema, view, x, width, x, x);
	return pg_query(c, sql, err);
}

/* Runs a function of the extension on a view, which is $1: its schema may have any name. */
static enum store_status
call_on(struct pg_conn *c, const struct pg_policy_state *s, const char *view, const char *sql,
	struct store_error *err)
{
	char name[SQL_MAX];
	const char *values[] = {name};
	const struct pg_params params = {.n = 1, .values = values};

	(void)snprintf(name, sizeof(name), "%s.%s", s->schema, view);
	return pg_query_params(c, sql, &params, err);
}

static enum store_status
remove_refresh(struct pg_conn *c, const struct pg_policy_state *s, const char *view,
	       struct store_error *err)
{
	char sql[SQL_MAX];

	(void)snprintf(sql, sizeof(sql),
		       "SELECT %s.remove_continuous_aggregate_policy($1::pg_catalog.regclass,"
		       " if_exists => true)",
		       s->extension);
	return call_on(c, s, view, sql, err);
}

static enum store_status
add_refresh(struct pg_conn *c, const struct pg_policy_state *s, const char *view,
	    uint64_t bucket_us, uint64_t reach_us, struct store_error *err)
{
	uint64_t every_us = bucket_us < HOUR_US ? bucket_us : HOUR_US;
	char width[PG_INTERVAL_MAX], every[PG_INTERVAL_MAX], text[PG_INTERVAL_MAX];
	char start[PG_INTERVAL_MAX + 12] = "NULL", sql[SQL_MAX];

	if (reach_us) {
		pg_interval(text, reach_us);
		(void)snprintf(start, sizeof(start), "interval '%s'", text);
	}
	pg_interval(width, bucket_us);
	pg_interval(every, every_us > MINUTE_US ? every_us : MINUTE_US);
	(void)snprintf(sql, sizeof(sql),
		       "SELECT %s.add_continuous_aggregate_policy($1::pg_catalog.regclass,"
		       " start_offset => %s, end_offset => interval '%s',"
		       " schedule_interval => interval '%s')",
		       s->extension, start, width, every);
	return call_on(c, s, view, sql, err);
}

enum store_status
pg_rollup_refresh(struct pg_conn *c, const struct pg_policy_state *s, const char *policy,
		  uint64_t bucket_us, struct store_error *err)
{
	const char *view = view_of(policy);
	const char *found = pg_policy_found(s, policy);
	uint64_t since_us = pg_policy_since(s, view);
	enum store_status st = STORE_OK;
	char width[PG_INTERVAL_MAX];

	pg_interval(width, bucket_us);
	if (!found)
		st = create_view(c, s, view, width, err);
	else if (!*found)
		st = look_back(c, s, view, width, &since_us, err);
	if (st == STORE_OK)
		st = remove_refresh(c, s, view, err);
	if (st == STORE_OK)
		st = add_refresh(c, s, view, bucket_us, reach(s, since_us), err);
	return st;
}

enum store_status
pg_rollup_stop(struct pg_conn *c, const struct pg_policy_state *s, const char *policy,
	       struct store_error *err)
{
	return pg_policy_found(s, policy) ? remove_refresh(c, s, view_of(policy), err) : STORE_OK;
}
