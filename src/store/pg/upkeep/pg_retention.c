#include "store/pg/upkeep/pg_retention.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/log.h"
#include "store/pg/setup/pg_lock.h"
#include "store/pg/upkeep/pg_interval.h"

#define LOCKS_MAX 4 /* that were not to be had: then they may all be kept */

/*
 * The schema of the extension's functions, where chunks are ours to drop: the Apache edition has no
 * policies, and the job of the other one ends at the first chunk that it cannot drop.
 */
static const char ours_sql[] =
    "SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_extension e"
    " JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace"
    " WHERE e.extname = 'timescaledb'"
    " AND EXISTS (SELECT FROM metric_collectord.policies WHERE policy = 'hypertable')"
    " AND (pg_catalog.current_setting('timescaledb.license', true) = 'apache'"
    "  OR EXISTS (SELECT FROM timescaledb_information.jobs j"
    "   JOIN timescaledb_information.job_stats s USING (job_id)"
    "   JOIN pg_catalog.pg_namespace m ON m.nspname = j.hypertable_schema"
    "   JOIN pg_catalog.pg_class c ON c.relnamespace = m.oid AND c.relname = j.hypertable_name"
    "   WHERE c.oid = 'metrics'::pg_catalog.regclass AND j.proc_name = 'policy_retention'"
    "   AND j.scheduled AND s.last_run_status = 'Failed'"
    "   AND EXISTS (SELECT FROM metric_collectord.policies WHERE policy = 'retention')))";

/* What has expired, by the server's clock: the chunk, and its range. */
static const char expired_format[] =
    "SELECT pg_catalog.quote_ident(k.chunk_schema) || '.' || pg_catalog.quote_ident(k.chunk_name),"
    " k.range_start, k.range_end FROM timescaledb_information.chunks k"
    " JOIN pg_catalog.pg_namespace n ON n.nspname = k.hypertable_schema"
    " JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = k.hypertable_name"
    " WHERE c.oid = 'metrics'::pg_catalog.regclass"
    " AND k.range_end <= pg_catalog.now() - interval '%s' ORDER BY k.range_start";

struct round {
	struct pg_conn *c;
	const char *schema; /* of the extension's functions */
	uint64_t dropped;
	unsigned locks;
	struct store_error *err;
};

static enum store_status
drop_chunk(const struct round *w, const char *from, const char *to)
{
	const char *values[] = {from, to};
	const struct pg_params params = {.n = 2, .values = values};
	char sql[256], wait[128];
	enum store_status st;

	(void)snprintf(wait, sizeof(wait), PG_NO_STANDBY "SET LOCAL lock_timeout = %d",
		       PG_LOCK_TABLE_MS);
	(void)snprintf(sql, sizeof(sql),
		       "SELECT %s.drop_chunks('metrics', older_than => $2::timestamptz,"
		       " newer_than => $1::timestamptz)",
		       w->schema);
	st = pg_begin(w->c, wait, w->err);
	if (st == STORE_OK)
		st = pg_query_params(w->c, sql, &params, w->err);
	return pg_lock_end(w->c, st, w->err);
}

/* One that cannot be dropped is told, and the next one's turn comes: STORE_OK. */
static enum store_status
go_on(struct round *w, enum store_status st, const char *chunk)
{
	if (st == STORE_OK) {
		w->dropped++;
		return STORE_OK;
	}
	if (st == STORE_STOPPED || w->err->reconnect)
		return st;
	if (strcmp(w->err->sqlstate, "55P03") == 0 && ++w->locks >= LOCKS_MAX)
		return st;
	log_event_limited(LOG_WARNING, "policy_failed/retention", "policy_failed",
			  LOG_STR("policy", "retention"), LOG_STR("chunk", chunk),
			  LOG_STR("error", w->err->text), LOG_STR("sqlstate", w->err->sqlstate),
			  LOG_STR("hint", strcmp(w->err->sqlstate, "2BP01") == 0
					      ? "drop what depends on the chunk; it is tried again "
						"each minute"
					      : w->err->hint));
	return STORE_OK;
}

static enum store_status
drop_expired(struct round *w, const struct conf *conf)
{
	char after[PG_INTERVAL_MAX], sql[sizeof(expired_format) + PG_INTERVAL_MAX];
	PGresult *r = NULL;
	enum store_status st;

	pg_interval(after, conf->table.retention_us);
	(void)snprintf(sql, sizeof(sql), expired_format, after);
	st = pg_select(w->c, sql, PG_ROWS(3), &r, w->err);
	for (int i = 0; st == STORE_OK && i < PQntuples(r); i++)
		st = go_on(w, drop_chunk(w, PQgetvalue(r, i, 1), PQgetvalue(r, i, 2)),
			   PQgetvalue(r, i, 0));
	PQclear(r);
	if (w->dropped)
		log_event(LOG_INFO, "chunks_dropped", LOG_U64("chunks", w->dropped),
			  LOG_STR("older_than", after));
	return st;
}

enum store_status
pg_retention(struct pg_conn *c, const struct conf *conf, struct store_error *err)
{
	struct round w = {.c = c, .err = err};
	PGresult *r = NULL;
	enum store_status st;

	if (!conf->table.retention_us || !conf->database.migrate ||
	    conf->database.timescaledb == CONF_OFF)
		return STORE_OK;
	st = pg_select(c, ours_sql, PG_ROW_OR_NONE(1), &r, err);
	if (st == STORE_OK && PQntuples(r) > 0) {
		w.schema = PQgetvalue(r, 0, 0);
		st = drop_expired(&w, conf);
	}
	PQclear(r);
	if (st == STORE_OK || st == STORE_STOPPED || err->reconnect)
		return st;
	log_event_limited(LOG_WARNING, "policy_failed", "policy_failed",
			  LOG_STR("policy", "retention"), LOG_STR("error", err->text),
			  LOG_STR("sqlstate", err->sqlstate));
	return STORE_OK;
}
