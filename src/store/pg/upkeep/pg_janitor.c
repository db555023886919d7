/*
 * pg_janitor.c - the janitor's connection to PostgreSQL: what is done with it, and in which order.
 *
 * What each of these things is stands in setup/ and upkeep/.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "conf/conf_effect.h"
#include "log/log.h"
#include "store/pg/link/pg_conn.h"
#include "store/pg/link/pg_server.h"
#include "store/pg/setup/pg_citus.h"
#include "store/pg/setup/pg_columns.h"
#include "store/pg/setup/pg_database.h"
#include "store/pg/setup/pg_lock.h"
#include "store/pg/setup/pg_migrate.h"
#include "store/pg/setup/pg_timescaledb.h"
#include "store/pg/upkeep/pg_partition.h"
#include "store/pg/upkeep/pg_policy.h"
#include "store/pg/upkeep/pg_retention.h"
#include "store/store.h"

#define CLAIM_MAX 512
#define CLAIM_LOCK_MS 5000 /* there will be another claim soon */
#define FORGET_MAX 384

struct pg_janitor {
	struct upkeep base;
	const struct conf *conf; /* borrowed */
	struct pg_conn c;
	struct pg_server server;
	bool hypertable;      /* what setup() has made of metrics */
	bool policies_due;    /* since setup(), or something has been in the way */
	enum conf_found told; /* for what it was said which settings are in vain */
};

/* ---- the connection ---- */

static enum store_status
connect_or_create(struct pg_janitor *p, struct store_error *err)
{
	char missing[64] = "";
	enum store_status st = pg_connect(&p->c, p->conf, NULL, missing, err);

	if (st != STORE_HOLD || strcmp(err->sqlstate, "3D000") != 0 || !p->conf->database.create)
		return st;
	st = pg_database_create(p->c.stop_fd, p->conf, missing, err);
	return st == STORE_OK ? pg_connect(&p->c, p->conf, NULL, missing, err) : st;
}

static enum store_status
janitor_connect(struct upkeep *base, struct store_error *err)
{
	struct pg_janitor *p = (struct pg_janitor *)base;
	enum store_status st = connect_or_create(p, err);

	if (st == STORE_OK)
		st = pg_server_check(&p->c, err);
	if (st == STORE_OK)
		st = pg_server_know(&p->c, p->conf, &p->server, err);
	if (st == STORE_OK)
		st = pg_citus_distributed(&p->c, &p->c.distributed, err);
	return st;
}

static void
janitor_disconnect(struct upkeep *base)
{
	struct pg_janitor *p = (struct pg_janitor *)base;

	pg_close(&p->c);
}

static uint64_t
janitor_server(const struct upkeep *base)
{
	const struct pg_janitor *p = (const struct pg_janitor *)base;

	return p->server.start_us;
}

static int
janitor_new(const struct conf *conf, int stop_fd, struct upkeep **ret)
{
	struct pg_janitor *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->base.ops = &postgres_upkeep_ops;
	p->conf = conf;
	p->c.stop_fd = stop_fd;
	*ret = &p->base;
	return 0;
}

static void
janitor_free(struct upkeep *base)
{
	struct pg_janitor *p = (struct pg_janitor *)base;

	pg_close(&p->c);
	free(p);
}

/* ---- before the first batch ---- */

static enum store_status
make_table(struct pg_janitor *p, struct store_error *err)
{
	char timescaledb[PG_VERSION_MAX] = "", citus[PG_VERSION_MAX] = "";
	enum store_status st = pg_citus_find(&p->c, p->conf, citus, err);
	struct pg_guard guard;

	if (st == STORE_OK)
		st = pg_migrate(&p->c, p->conf, "postgresql", NULL, err);
	/* a table that will not do stays as it is */
	if (st == STORE_OK)
		st = pg_columns_read(&p->c, &guard, err);
	if (st == STORE_OK && *citus)
		st = pg_citus_distribute(&p->c, p->conf, citus, err);
	if (st == STORE_OK && !*citus)
		st = pg_timescaledb(&p->c, p->conf, timescaledb, err);
	if (st == STORE_OK)
		st = pg_citus_distributed(&p->c, &p->c.distributed, err);
	p->hypertable = *timescaledb != '\0';
	p->policies_due = p->hypertable;
	if (st != STORE_OK)
		return st;
	return p->hypertable ? pg_policy_prepare(&p->c, p->conf, err)
			     : pg_partition_prepare(&p->c, p->conf, err);
}

static void
tell_ignored(struct pg_janitor *p)
{
	enum conf_found found = p->c.distributed ? CONF_FOUND_DISTRIBUTED
				: p->hypertable  ? CONF_FOUND_HYPERTABLE
						 : CONF_FOUND_TABLE;

	if (found != p->told)
		conf_log_ignored(p->conf, found);
	p->told = found;
}

static enum store_status
janitor_setup(struct upkeep *base, struct store_error *err)
{
	struct pg_janitor *p = (struct pg_janitor *)base;
	enum store_status st;

	p->c.patient = true;
	st = make_table(p, err);
	p->c.patient = false;
	if (st == STORE_OK)
		tell_ignored(p);
	return st;
}

/* ---- housekeeping ---- */

/* Then there is nothing to escape in it. */
static void
assert_uuid(const char *collector)
{
	assert(strspn(collector, "0123456789abcdefABCDEF-") == strlen(collector));
}

static enum store_status
forget_batches(struct pg_janitor *p, const char *collector, uint64_t floor, struct store_error *err)
{
	char sql[FORGET_MAX];

	assert_uuid(collector);
	(void)snprintf(sql, sizeof(sql),
		       PG_NO_STATEMENT_TIMEOUT PG_NO_STANDBY
		       "DELETE FROM metric_collectord.batches WHERE collector = '%s'"
		       " AND batch < %" PRIu64 " AND stored_at <"
		       " pg_catalog.now() - %" PRIu64 " * interval '1 millisecond'",
		       collector, floor < INT64_MAX ? floor : (uint64_t)INT64_MAX,
		       p->conf->database.ledger_keep_ms);
	return pg_query(&p->c, sql, NULL, err);
}

static enum store_status
maintain_hypertable(struct pg_janitor *p, struct store_error *err)
{
	enum store_status st = STORE_OK;

	if (p->policies_due)
		st = pg_policy_apply(&p->c, p->conf, &p->policies_due, err);
	return st == STORE_OK ? pg_retention(&p->c, p->conf, err) : st;
}

static enum store_status
janitor_maintain(struct upkeep *base, const char *collector, uint64_t floor,
		 struct store_error *err)
{
	struct pg_janitor *p = (struct pg_janitor *)base;
	enum store_status st = forget_batches(p, collector, floor, err);

	if (st != STORE_OK)
		return st;
	p->c.patient = true;
	st = p->hypertable ? maintain_hypertable(p, err)
			   : pg_partition_maintain(&p->c, p->conf, err);
	p->c.patient = false;
	return st;
}

/*
 * Batches carry the same promise in the ledger; this is for times without one.  A role that may
 * only insert does without.  An older promise may be later than this one, by a clock that was ahead
 * and has been set back: it is replaced all the same.  A claim that a crash of the server takes
 * back does no harm, so it does not wait for disks and standbys.
 */
static enum store_status
janitor_claim(struct upkeep *base, const char *collector, uint64_t complete_until_us,
	      struct store_error *err)
{
	struct pg_janitor *p = (struct pg_janitor *)base;
	char sql[PG_SERVER_MAX + CLAIM_MAX], until[TEXT_VALUE_MAX];
	enum store_status st;

	assert_uuid(collector);
	(void)text_time(until, complete_until_us);
	(void)snprintf(sql, sizeof(sql),
		       "%sSET LOCAL lock_timeout = %d;SET LOCAL synchronous_commit = off;"
		       "INSERT INTO metric_collectord.collectors"
		       " (collector, complete_until) VALUES ('%s', '%s')"
		       " ON CONFLICT (collector) DO UPDATE SET seen_at = pg_catalog.now(),"
		       " complete_until = excluded.complete_until",
		       p->server.same, CLAIM_LOCK_MS, collector, until);
	st = pg_query(&p->c, sql, NULL, err);
	if (st != STORE_HOLD || err->reconnect || err->setup)
		return st;
	log_event_limited(LOG_WARNING, "claim_failed", "claim_failed", LOG_STR("error", err->text),
			  LOG_STR("sqlstate", err->sqlstate),
			  LOG_STR("hint",
				  "metric_collectord.complete_until() leaves this collector "
				  "out while it has nothing to store"));
	return STORE_OK;
}

/* ---- buffer.keep ---- */

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

static enum store_status
janitor_missing(struct upkeep *base, const char *collector, uint64_t *numbers, size_t *n,
		struct store_error *err)
{
	struct pg_janitor *p = (struct pg_janitor *)base;
	char *array = array_text(numbers, *n);
	const char *values[] = {collector, array};
	const struct pg_params params = {.n = 2, .values = values};
	/* numbers has no room for more than were asked about */
	const struct pg_form form = {.columns = 1, .max = *n < INT_MAX ? (int)*n : INT_MAX};
	PGresult *r = NULL;
	enum store_status st;
	size_t i;

	if (!array)
		return pg_fail(err, "out of memory");
	st = pg_select_params(&p->c,
			      "SELECT n FROM pg_catalog.unnest($2::bigint[]) n WHERE NOT EXISTS"
			      " (SELECT FROM metric_collectord.batches b"
			      "  WHERE b.collector = $1::uuid AND b.batch = n AND b.bytes >= 0)"
			      " ORDER BY n",
			      &params, form, &r, err);
	free(array);
	if (st != STORE_OK)
		return st;
	*n = (size_t)PQntuples(r);
	for (i = 0; i < *n; i++)
		numbers[i] = strtoull(PQgetvalue(r, (int)i, 0), NULL, 10);
	PQclear(r);
	return STORE_OK;
}

const struct upkeep_ops postgres_upkeep_ops = {
    .new = janitor_new,
    .free = janitor_free,
    .connect = janitor_connect,
    .disconnect = janitor_disconnect,
    .setup = janitor_setup,
    .maintain = janitor_maintain,
    .claim = janitor_claim,
    .missing = janitor_missing,
    .server = janitor_server,
};
