/*
 * pg_upkeep.c - what the janitor does once the table is there: policies, partitions, the ledger,
 * and what readers are told.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/text.h"
#include "log/log.h"
#include "store/pg/pg_store.h"
#include "store/pg/setup/pg_citus.h"
#include "store/pg/setup/pg_lock.h"
#include "store/pg/setup/pg_timescaledb.h"
#include "store/pg/upkeep/pg_partition.h"

#define CLAIM_MAX 512
#define FORGET_MAX 384

enum store_status
pg_maintain(struct store *store, const char *collector, uint64_t floor, struct store_error *err)
{
	struct postgres *p = (struct postgres *)store;
	enum store_status st;
	char sql[FORGET_MAX];

	pg_assert_uuid(collector);
	(void)snprintf(sql, sizeof(sql),
		       PG_NO_STATEMENT_TIMEOUT
		       "DELETE FROM metric_collectord.batches WHERE collector = '%s'"
		       " AND batch < %" PRIu64 " AND stored_at <"
		       " pg_catalog.now() - %" PRIu64 " * interval '1 millisecond'",
		       collector, floor < INT64_MAX ? floor : (uint64_t)INT64_MAX,
		       p->conf->database.ledger_keep_ms);
	st = pg_query(&p->c, sql, NULL, err);
	if (st != STORE_OK)
		return st;
	p->c.stall_ms = PG_DDL_STALL_MS;
	if (p->hypertable)
		st = pg_timescaledb_maintain(&p->c, p->conf, err);
	else
		st = pg_partition_maintain(&p->c, p->conf, err);
	p->c.stall_ms = PG_STALL_MS;
	return st;
}

/*
 * Batches carry the same promise in the ledger; this is for times without one.  A role that may
 * only insert does without.  An older promise may be later than this one, by a clock that was ahead
 * and has been set back: it is replaced all the same.
 */
enum store_status
pg_claim(struct store *store, const char *collector, uint64_t complete_until_us,
	 struct store_error *err)
{
	struct postgres *p = (struct postgres *)store;
	char sql[PG_SAME_SERVER_MAX + CLAIM_MAX], until[TEXT_VALUE_MAX];
	enum store_status st;

	pg_assert_uuid(collector);
	(void)text_time(until, complete_until_us);
	(void)snprintf(sql, sizeof(sql),
		       "%sINSERT INTO metric_collectord.collectors"
		       " (collector, complete_until) VALUES ('%s', '%s')"
		       " ON CONFLICT (collector) DO UPDATE SET seen_at = pg_catalog.now(),"
		       " complete_until = excluded.complete_until",
		       p->same_server, collector, until);
	st = pg_query(&p->c, sql, NULL, err);
	if (st != STORE_HOLD || err->reconnect)
		return st;
	log_event_limited(LOG_WARNING, "claim_failed", "claim_failed", LOG_STR("error", err->text),
			  LOG_STR("sqlstate", err->sqlstate),
			  LOG_STR("hint",
				  "metric_collectord.complete_until() leaves this collector "
				  "out while it has nothing to store"));
	return STORE_OK;
}

/* "{1,2,3}"; NULL when memory is short. */
static char *
array_text(const uint64_t *numbers, size_t n)
{
	const size_t each = 21; /* digits and a comma */
	char *text = malloc(n * each + 3);
	char *end = text;
	size_t i;

	if (!text)
		return NULL;
	*end++ = '{';
	for (i = 0; i < n; i++)
		end += snprintf(end, each + 1, "%s%" PRIu64, i ? "," : "", numbers[i]);
	*end++ = '}';
	*end = '\0';
	return text;
}

enum store_status
pg_missing(struct store *store, const char *collector, uint64_t *numbers, size_t *n,
	   struct store_error *err)
{
	struct postgres *p = (struct postgres *)store;
	char *array = array_text(numbers, *n);
	const char *values[] = {collector, array};
	const struct pg_params params = {.n = 2, .values = values};
	PGresult *r = NULL;
	enum store_status st;
	size_t i;

	if (!array)
		return pg_fail(err, "out of memory");
	st = pg_query_params(&p->c,
			     "SELECT n FROM pg_catalog.unnest($2::bigint[]) n WHERE NOT EXISTS"
			     " (SELECT FROM metric_collectord.batches b"
			     "  WHERE b.collector = $1::uuid AND b.batch = n) ORDER BY n",
			     &params, &r, err);
	free(array);
	if (st != STORE_OK)
		return st;
	*n = (size_t)PQntuples(r);
	for (i = 0; i < *n; i++)
		numbers[i] = strtoull(PQgetvalue(r, (int)i, 0), NULL, 10);
	PQclear(r);
	return STORE_OK;
}
