#include "store/pg/upkeep/pg_retention.h"

#include <stdio.h>

#include "log/log.h"
#include "store/pg/setup/pg_lock.h"
#include "store/pg/upkeep/pg_interval.h"

static enum store_status
drop_chunks(struct pg_conn *c, const struct conf *conf, const char *schema, struct store_error *err)
{
	char after[PG_INTERVAL_MAX], sql[512];
	PGresult *r = NULL;
	enum store_status st;

	pg_interval(after, conf->table.retention_us);
	(void)snprintf(sql, sizeof(sql),
		       "SET LOCAL lock_timeout = %d;"
		       "SELECT %s.drop_chunks('metrics', older_than => interval '%s')",
		       PG_LOCK_TABLE_MS, schema, after);
	st = pg_query(c, sql, &r, err);
	if (st == STORE_OK && PQntuples(r) > 0)
		log_event(LOG_INFO, "chunks_dropped", LOG_U64("chunks", (uint64_t)PQntuples(r)),
			  LOG_STR("older_than", after));
	PQclear(r);
	return st;
}

enum store_status
pg_retention(struct pg_conn *c, const struct conf *conf, struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st;

	if (!conf->table.retention_us || !conf->database.migrate ||
	    conf->database.timescaledb == CONF_OFF)
		return STORE_OK;
	st = pg_query(c,
		      "SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_extension e"
		      " JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace"
		      " WHERE e.extname = 'timescaledb'"
		      " AND pg_catalog.current_setting('timescaledb.license', true) = 'apache'"
		      " AND EXISTS (SELECT FROM metric_collectord.policies"
		      "  WHERE policy = 'hypertable')",
		      &r, err);
	if (st == STORE_OK && PQntuples(r) > 0)
		st = drop_chunks(c, conf, PQgetvalue(r, 0, 0), err);
	PQclear(r);
	if (st == STORE_OK || st == STORE_STOPPED || err->reconnect)
		return st;
	log_event_limited(LOG_WARNING, "policy_failed", "policy_failed",
			  LOG_STR("policy", "retention"), LOG_STR("error", err->text),
			  LOG_STR("sqlstate", err->sqlstate));
	return STORE_OK;
}
