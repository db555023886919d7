#include "store/pg/upkeep/pg_policy_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

#define COMPLETE_SINCE "complete since"
#define SINCE_MAX 96 /* the name of such a policy, with its view and NUL */

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
    " UNION ALL SELECT 'now', '', (extract(epoch FROM pg_catalog.now()) * 1000000)::bigint::text"
    " UNION ALL SELECT 'recorded', policy, value FROM metric_collectord.policies"
    " UNION ALL SELECT 'since', policy, (extract(epoch FROM value::timestamptz)"
    "  * 1000000)::bigint::text FROM metric_collectord.policies"
    "  WHERE policy LIKE '" COMPLETE_SINCE "%'"
    " UNION ALL SELECT 'found', policy, (extract(epoch FROM us) * 1000000)::bigint::text FROM d"
    " UNION ALL SELECT 'found', 'columnstore', columns FROM o"
    " UNION ALL SELECT 'found', 'work_mem', value FROM w"
    " UNION ALL SELECT 'found', '" PG_ROLLUP "' || view_name, CASE WHEN job_id IS NULL THEN ''"
    "  ELSE coalesce((extract(epoch FROM us) * 1000000)::bigint::text, '0') END FROM r";

static const char *
find(const struct pg_policy_state *s, const char *where, const char *policy)
{
	int i, n = PQntuples(s->rows);

	for (i = 0; i < n; i++)
		if (strcmp(PQgetvalue(s->rows, i, 0), where) == 0 &&
		    strcmp(PQgetvalue(s->rows, i, 1), policy) == 0)
			return PQgetvalue(s->rows, i, 2);
	return NULL;
}

/* 0 where there is none. */
static uint64_t
find_us(const struct pg_policy_state *s, const char *where, const char *policy)
{
	const char *us = find(s, where, policy);

	return us ? strtoull(us, NULL, 10) : 0;
}

static uint64_t
retention(const struct pg_policy_state *s, const struct conf *conf)
{
	uint64_t us = find_us(s, "found", "retention"), wanted = conf->table.retention_us;

	return !us || (wanted && wanted < us) ? wanted : us;
}

enum store_status
pg_policy_state_read(struct pg_conn *c, const struct conf *conf, const char *extension,
		     struct pg_policy_state *ret, struct store_error *err)
{
	enum store_status st = pg_select(c, state_sql, PG_ROWS(3), &ret->rows, err);

	if (st != STORE_OK)
		return st;
	ret->schema = find(ret, "schema", "");
	if (!ret->schema)
		return pg_odd(err, "the server does not say where metrics is");
	ret->extension = extension;
	ret->ours = pg_policy_recorded(ret, "hypertable");
	ret->now_us = find_us(ret, "now", "");
	ret->kept_us = retention(ret, conf);
	return STORE_OK;
}

void
pg_policy_state_done(struct pg_policy_state *s)
{
	PQclear(s->rows);
	s->rows = NULL;
}

const char *
pg_policy_found(const struct pg_policy_state *s, const char *policy)
{
	return find(s, "found", policy);
}

bool
pg_policy_recorded(const struct pg_policy_state *s, const char *policy)
{
	return find(s, "recorded", policy) != NULL;
}

const char *
pg_policy_next_rollup(const struct pg_policy_state *s, int *at)
{
	while (*at < PQntuples(s->rows)) {
		int i = (*at)++;
		const char *policy = PQgetvalue(s->rows, i, 1);

		if (strcmp(PQgetvalue(s->rows, i, 0), "recorded") == 0 &&
		    strncmp(policy, PG_ROLLUP, strlen(PG_ROLLUP)) == 0)
			return policy;
	}
	return NULL;
}

enum store_status
pg_policy_record(struct pg_conn *c, const char *policy, const char *value, struct store_error *err)
{
	const char *values[] = {policy, value};
	const struct pg_params p = {.n = *value ? 2 : 1, .values = values};

	return pg_query_params(c,
			       *value ? "INSERT INTO metric_collectord.policies (policy, value)"
					" VALUES ($1, $2) ON CONFLICT (policy)"
					" DO UPDATE SET value = excluded.value, applied_at = now()"
				      : "DELETE FROM metric_collectord.policies WHERE policy = $1",
			       &p, err);
}

/* The policy of that name; view may be NULL. */
static void
since_name(char out[SINCE_MAX], const char *view)
{
	(void)snprintf(out, SINCE_MAX, COMPLETE_SINCE "%s%s", view ? " " : "", view ? view : "");
}

uint64_t
pg_policy_since(const struct pg_policy_state *s, const char *view)
{
	uint64_t all_us = find_us(s, "since", COMPLETE_SINCE), own_us;
	char name[SINCE_MAX];

	since_name(name, view);
	own_us = find_us(s, "since", name);
	return own_us > all_us ? own_us : all_us;
}

enum store_status
pg_policy_complete_since(struct pg_conn *c, const struct pg_policy_state *s, const char *view,
			 uint64_t since_us, struct store_error *err)
{
	char name[SINCE_MAX], text[TEXT_VALUE_MAX];

	if (since_us <= pg_policy_since(s, view))
		return STORE_OK;
	since_name(name, view);
	(void)text_time(text, since_us);
	return pg_policy_record(c, name, text, err);
}
