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

#include "base/clock.h"
#include "base/text.h"
#include "conf/conf_effect.h"
#include "log/log.h"
#include "store/pg/link/pg_conn.h"
#include "store/pg/link/pg_server.h"
#include "store/pg/link/pg_session.h"
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

#define CLAIM_MAX 768
#define CLAIM_LOCK_MS 5000 /* there will be another claim soon */
#define FORGET_MAX 1024

#define DIFFERS_US (60 * INT64_C(1000000)) /* between two clocks that is worth a word */
#define GONE_MS 3600000                    /* between two looks for collectors that are gone */
#define GONE_MIN_MS 600000 /* one that was seen since is alive, whatever is configured */
#define GONE_ROWS 50000    /* of theirs, that go at a time */

struct pg_janitor {
	struct upkeep base;
	const struct conf *conf; /* borrowed */
	struct pg_conn c;
	struct pg_server server;
	bool hypertable;      /* what setup() has made of metrics */
	bool policies_due;    /* since setup(), or something has been in the way */
	enum conf_found told; /* for what it was said which settings are in vain */
	uint64_t gone_at_ms;  /* when it is looked again for collectors that are gone */
	int64_t differs_us;   /* of the clocks, as it was said last */
};

/* ---- the connection ---- */

static enum store_status
connect_or_create(struct pg_janitor *p, struct store_error *err)
{
	char missing[64] = "";
	enum store_status st = pg_connect(&p->c, p->conf, NULL, missing, err);

	if (st != STORE_HOLD || strcmp(err->sqlstate, "3D000") != 0 || !p->conf->database.create)
		return st;
	if (*p->base.known && pg_server_is_way(p->conf, p->base.known))
		return st;
	st = pg_database_create(p->c.stop_fd, p->conf, missing, err);
	return st == STORE_OK ? pg_connect(&p->c, p->conf, NULL, missing, err) : st;
}

/* What is old is told by the server's clock, so that one which is wrong drops nothing; ours may. */
static enum store_status
compare_clocks(struct pg_janitor *p, struct store_error *err)
{
	enum store_status st = pg_now(&p->c, &p->base.now_us, err);
	int64_t us = pg_clock_ahead_us(&p->c), moved = us - p->differs_us;

	if (st != STORE_OK)
		return st;
	if (us > -DIFFERS_US && us < DIFFERS_US) {
		p->differs_us = 0;
		return STORE_OK;
	}
	if (moved > -DIFFERS_US && moved < DIFFERS_US)
		return STORE_OK;
	p->differs_us = us;
	log_event(LOG_WARNING, "clock_differs", LOG_I64("seconds", us / 1000000),
		  LOG_STR("hint",
			  "set the clock of this machine, or that of the database (seconds: "
			  "ours is ahead by so much); what is old is told by the database's"));
	return STORE_OK;
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
		st = pg_server_database(&p->c, p->conf, p->base.database, err);
	if (st == STORE_OK)
		st = pg_citus_distributed(&p->c, &p->c.distributed, err);
	return st == STORE_OK ? compare_clocks(p, err) : st;
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
is_followed(struct pg_janitor *p, const struct pg_params *params, bool *ret,
	    struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st = pg_select_params(
	    &p->c, "SELECT EXISTS (SELECT FROM metric_collectord.home WHERE schema = $1)", params,
	    PG_ROW(1), &r, err);

	*ret = st == STORE_OK && *PQgetvalue(r, 0, 0) == 't';
	PQclear(r);
	return st;
}

/*
 * The table is recorded where it is found, should somebody have moved it.  Only who has made the
 * functions for readers may make them again.
 */
static enum store_status
follow_table(struct pg_janitor *p, struct store_error *err)
{
	const char *values[] = {p->c.home};
	const struct pg_params params = {.n = 1, .values = values};
	enum store_status st = pg_session(&p->c, err);
	bool followed = false;

	if (st != STORE_OK || !p->c.home || !p->conf->database.migrate)
		return st;
	values[0] = p->c.home;
	st = is_followed(p, &params, &followed, err);
	if (st == STORE_OK && !followed) {
		st = pg_lock_begin(&p->c, PG_LOCK_SETUP_MS, err);
		if (st == STORE_OK)
			st = pg_query_params(&p->c, "SELECT metric_collectord.follow_metrics($1)",
					     &params, err);
		st = pg_lock_end(&p->c, st, err);
	}
	if (st == STORE_OK || st == STORE_STOPPED || err->reconnect)
		return st;
	log_event_limited(LOG_WARNING, "policy_failed/table", "policy_failed",
			  LOG_STR("policy", "table"), LOG_STR("value", p->c.home),
			  LOG_STR("error", err->text), LOG_STR("sqlstate", err->sqlstate),
			  LOG_STR("hint", err->hint));
	return STORE_OK;
}

static enum store_status
make_table(struct pg_janitor *p, struct store_error *err)
{
	char timescaledb[PG_VERSION_MAX] = "", citus[PG_VERSION_MAX] = "";
	enum store_status st = pg_citus_find(&p->c, p->conf, citus, err);
	struct pg_guard guard;

	if (st == STORE_OK)
		st = pg_migrate(&p->c, p->conf, "postgresql", NULL, err);
	if (st == STORE_OK)
		st = follow_table(p, err);
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

/*
 * The ledger's own rows.  Promises in young ones are still read (complete_until()): they go over to
 * the collector's row.
 */
static enum store_status
forget_batches(struct pg_janitor *p, const char *collector, uint64_t floor, struct store_error *err)
{
	bool young = p->conf->database.ledger_keep_ms < GONE_MIN_MS;
	char sql[FORGET_MAX];

	assert_uuid(collector);
	(void)snprintf(
	    sql, sizeof(sql),
	    PG_NO_STANDBY "%sDELETE FROM metric_collectord.batches WHERE collector = '%s'"
			  " AND batch < %" PRIu64 " AND stored_at <"
			  " pg_catalog.now() - %" PRIu64 " * interval '1 millisecond'%s",
	    young ? "WITH gone AS (" : "", collector,
	    floor < INT64_MAX ? floor : (uint64_t)INT64_MAX, p->conf->database.ledger_keep_ms,
	    young ? " RETURNING collector, complete_until, stored_at)"
		    "INSERT INTO metric_collectord.collectors AS c"
		    " (collector, complete_until, seen_at)"
		    " SELECT collector, max(complete_until), max(stored_at) FROM gone"
		    " WHERE complete_until IS NOT NULL GROUP BY 1"
		    " ON CONFLICT (collector) DO UPDATE SET"
		    " complete_until = greatest(c.complete_until, excluded.complete_until),"
		    " seen_at = greatest(c.seen_at, excluded.seen_at)"
		  : "");
	return pg_query(&p->c, sql, err);
}

/*
 * What collectors left behind that were not seen for senders.keep, by the clock of the database: one
 * that has no spool has another identity at each start.  *more: there was more than fits in a round.
 */
static enum store_status
forget_gone(struct pg_janitor *p, const char *collector, bool *more, struct store_error *err)
{
	uint64_t keep_ms = p->conf->senders.keep_ms;
	char sql[2 * FORGET_MAX];
	PGresult *r = NULL;
	enum store_status st;

	assert_uuid(collector);
	(void)snprintf(
	    sql, sizeof(sql),
	    PG_NO_STANDBY
	    "WITH old AS (SELECT pg_catalog.now() - %" PRIu64 " * interval '1 millisecond' AS at),"
	    " gone AS (SELECT c.collector FROM (SELECT DISTINCT collector"
	    "   FROM metric_collectord.batches WHERE stored_at < (SELECT at FROM old)) c"
	    "  WHERE c.collector <> '%s' AND NOT EXISTS (SELECT FROM metric_collectord.batches b"
	    "   WHERE b.collector = c.collector AND b.stored_at >= (SELECT at FROM old))"
	    "  AND NOT EXISTS (SELECT FROM metric_collectord.collectors s"
	    "   WHERE s.collector = c.collector AND s.seen_at >= (SELECT at FROM old))),"
	    " batches AS (DELETE FROM metric_collectord.batches WHERE ctid = ANY (ARRAY("
	    "  SELECT b.ctid FROM metric_collectord.batches b JOIN gone USING (collector)"
	    "  WHERE b.stored_at < (SELECT at FROM old) LIMIT %d)) RETURNING 1),"
	    " collectors AS (DELETE FROM metric_collectord.collectors c"
	    "  WHERE c.seen_at < (SELECT at FROM old) AND c.collector <> '%s'"
	    "  AND NOT EXISTS (SELECT FROM metric_collectord.batches b"
	    "   WHERE b.collector = c.collector AND b.stored_at >= (SELECT at FROM old)) RETURNING "
	    "1)"
	    " SELECT (SELECT count(*) FROM batches), (SELECT count(*) FROM collectors)",
	    keep_ms > GONE_MIN_MS ? keep_ms : GONE_MIN_MS, collector, GONE_ROWS, collector);
	st = pg_select(&p->c, sql, PG_ROW(2), &r, err);
	if (st == STORE_OK) {
		uint64_t rows = strtoull(PQgetvalue(r, 0, 0), NULL, 10);
		uint64_t gone = strtoull(PQgetvalue(r, 0, 1), NULL, 10);

		*more = rows >= GONE_ROWS;
		if (rows + gone)
			log_event(LOG_INFO, "collectors_forgotten", LOG_U64("collectors", gone),
				  LOG_U64("batches", rows));
	}
	PQclear(r);
	return st;
}

static enum store_status
forget(struct pg_janitor *p, const char *collector, uint64_t floor, struct store_error *err)
{
	enum store_status st = forget_batches(p, collector, floor, err);
	bool more = false;

	if (st != STORE_OK || clock_ms() < p->gone_at_ms)
		return st;
	st = forget_gone(p, collector, &more, err);
	if (st == STORE_OK && !more)
		p->gone_at_ms = clock_ms() + GONE_MS;
	return st;
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
	struct store_error other = {.sqlstate = ""};
	enum store_status st = forget(p, collector, floor, err), table;

	if (st == STORE_STOPPED || (st != STORE_OK && err->reconnect))
		return st;
	p->c.patient = true;
	table = p->hypertable ? maintain_hypertable(p, &other)
			      : pg_partition_maintain(&p->c, p->conf, &other);
	p->c.patient = false;
	if (st != STORE_OK || table == STORE_OK) /* the first trouble is told */
		return st;
	*err = other;
	return table;
}

#define CLAIM_BEGIN "%sSET LOCAL lock_timeout = %d;SET LOCAL synchronous_commit = off;"
#define CLAIM_FORMAT                                                                              \
	CLAIM_BEGIN "INSERT INTO metric_collectord.collectors AS c"                               \
		    " (collector, complete_until) VALUES ('%s', '%s')"                            \
		    " ON CONFLICT (collector) DO UPDATE SET seen_at = pg_catalog.now(),"          \
		    " complete_until = CASE WHEN c.complete_until > pg_catalog.clock_timestamp()" \
		    "  THEN excluded.complete_until"                                              \
		    "  ELSE greatest(c.complete_until, excluded.complete_until) END"
/* Without a promise: it lives. */
#define SEEN_FORMAT                                                                      \
	CLAIM_BEGIN "UPDATE metric_collectord.collectors SET seen_at = pg_catalog.now()" \
		    " WHERE collector = '%s'"

/*
 * Batches carry the same promise in the ledger; this is for times without one.  A role that may
 * only insert does without.  A promise that was made stays true; one that lies ahead is none.  A
 * claim that a crash of the server takes back does no harm, so it does not wait for disks and
 * standbys.
 */
static enum store_status
janitor_claim(struct upkeep *base, const char *collector, uint64_t complete_until_us,
	      struct store_error *err)
{
	struct pg_janitor *p = (struct pg_janitor *)base;
	char sql[PG_SERVER_MAX + CLAIM_MAX], until[TEXT_VALUE_MAX];
	enum store_status st = pg_instant(&p->c, complete_until_us, &complete_until_us, err);

	if (st != STORE_OK)
		return st;
	assert_uuid(collector);
	(void)text_time(until, complete_until_us);
	if (complete_until_us)
		(void)snprintf(sql, sizeof(sql), CLAIM_FORMAT, p->server.same, CLAIM_LOCK_MS,
			       collector, until);
	else
		(void)snprintf(sql, sizeof(sql), SEEN_FORMAT, p->server.same, CLAIM_LOCK_MS,
			       collector);
	st = pg_query(&p->c, sql, err);
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
