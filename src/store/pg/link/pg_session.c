#include "store/pg/link/pg_session.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

#define STEP_US 100000                          /* a clock that was set, and did not just drift */
#define CLOCK_LASTS_US (60 * UINT64_C(1000000)) /* between two looks at the server's */

#define SERVER_US "(extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::pg_catalog.int8"

/*
 * The database's own tablespace may be named as the default one, but not for a partitioned table.
 *
 * A role that is to read only, as a rule, has lent its name to us: we write.  But a database or a
 * server that is set so was set so by who has a reason, and a standby cannot do otherwise.
 */
static const char facts_sql[] =
    "SELECT (SELECT setting = 'on' AND source IN ('user', 'database user') FROM "
    "pg_catalog.pg_settings"
    "  WHERE name = 'default_transaction_read_only') AND NOT pg_catalog.pg_is_in_recovery(),"
    " EXISTS (SELECT FROM pg_catalog.pg_class c"
    "  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
    "  WHERE n.nspname = 'metric_collectord' AND c.relname = 'home'"
    "  AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')"
    "  AND pg_catalog.has_table_privilege(c.oid, 'SELECT')),"
    " EXISTS (SELECT FROM pg_catalog.pg_database d"
    "  JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace"
    "  WHERE d.datname = pg_catalog.current_database()"
    "  AND t.spcname = pg_catalog.current_setting('default_tablespace'))";

/*
 * The schema of metrics, and the rest of search_path: without the schemas of other tables of that
 * name, which are not meant when ours is gone, and without pg_catalog, which comes first by itself.
 * Where it was before; where search_path leads to a table with our columns;
 * where it was before and is no longer; where there is room for one of that name; and if there is
 * none, what search_path begins with, for the error.
 */
#define HOME_FORMAT                                                                                \
	"WITH path AS (SELECT n.oid, n.nspname, p.place"                                           \
	"  FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY p (s, place)" \
	"  JOIN pg_catalog.pg_namespace n ON n.nspname = p.s),"                                    \
	" t AS (SELECT c.oid, c.relnamespace FROM pg_catalog.pg_class c"                           \
	"  WHERE c.relname = 'metrics' AND c.relkind IN ('r', 'p', 'f', 'v')),"                    \
	" known AS (%s),"                                                                          \
	" home AS (SELECT k.nspname, 1 AS choice, 0 AS place FROM known k"                         \
	"   JOIN t ON t.relnamespace = k.oid"                                                      \
	"  UNION ALL SELECT p.nspname, 2, p.place FROM path p JOIN t ON t.relnamespace = p.oid"    \
	"   WHERE 3 = (SELECT pg_catalog.count(*) FROM pg_catalog.pg_attribute a"                  \
	"    WHERE a.attrelid = t.oid AND a.attname IN ('time', 'metric_name', 'value'))"          \
	"  UNION ALL SELECT k.nspname, 3, 0 FROM known k"                                          \
	"  UNION ALL SELECT p.nspname, 4, p.place FROM path p"                                     \
	"   WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c"                                   \
	"    WHERE c.relnamespace = p.oid AND c.relname = 'metrics')"                              \
	"   AND pg_catalog.has_schema_privilege(p.oid, 'CREATE')"                                  \
	"  UNION ALL SELECT p.nspname, 5, p.place FROM path p)"                                    \
	" SELECT pg_catalog.quote_ident(nspname), (SELECT COALESCE("                               \
	"   pg_catalog.string_agg(pg_catalog.quote_ident(p.nspname), ', ' ORDER BY p.place), '')"  \
	"  FROM path p WHERE p.nspname <> 'pg_catalog' AND NOT EXISTS"                             \
	"   (SELECT FROM pg_catalog.pg_class c"                                                    \
	"    WHERE c.relnamespace = p.oid AND c.relname = 'metrics'))"                             \
	" FROM home ORDER BY choice, place LIMIT 1"

static const char known_sql[] =
    "SELECT n.oid, n.nspname FROM pg_catalog.pg_namespace n JOIN metric_collectord.home h"
    " ON h.schema = pg_catalog.quote_ident(n.nspname)";
static const char unknown_sql[] = "SELECT oid, nspname FROM pg_catalog.pg_namespace WHERE false";

/*
 * The first one first: the others shall have the time.  Whoever raises notices does so for each row,
 * and nobody reads them here.
 */
#define SETTINGS                                      \
	"SET LOCAL statement_timeout = 0;"            \
	"SET LOCAL lock_timeout = '10s';"             \
	"SET LOCAL DateStyle = 'ISO, YMD';"           \
	"SET LOCAL TimeZone = 'UTC';"                 \
	"SET LOCAL IntervalStyle = 'postgres';"       \
	"SET LOCAL bytea_output = 'hex';"             \
	"SET LOCAL standard_conforming_strings = on;" \
	"SET LOCAL quote_all_identifiers = off;"      \
	"SET LOCAL row_security = on;"                \
	"SET LOCAL client_min_messages = error;"      \
	"SET LOCAL idle_in_transaction_session_timeout = '60s';"

void
pg_session_done(struct pg_conn *c)
{
	free(c->home);
	free(c->settings);
	free(c->begin);
	free(c->prefix);
	c->home = c->settings = c->begin = c->prefix = NULL;
	c->clock.server_us = 0;
}

/*
 * What every transaction of this connection begins with.  pg_temp comes last: where it is not named
 * it comes first, and a pooler's backend may have somebody's temporary table metrics.
 */
static enum store_status
compose(struct pg_conn *c, const char *rest, struct store_error *err)
{
	static const char mode[] = "ISOLATION LEVEL READ COMMITTED";
	const char *writes = c->read_write ? ", READ WRITE" : "";
	const char *tablespace = c->own_tablespace ? "SET LOCAL default_tablespace = '';" : "";
	const char *limit =
	    PQserverVersion(c->pg) >= 170000 ? "SET LOCAL transaction_timeout = 0;" : "";
	int n, r = 0;

	free(c->settings);
	free(c->begin);
	free(c->prefix);
	c->settings = c->begin = c->prefix = NULL;
	if (c->home)
		n = asprintf(&c->settings, SETTINGS "%s%sSET LOCAL search_path = %s%s%s, pg_temp;",
			     limit, tablespace, c->home, *rest ? ", " : "", rest);
	else
		n = asprintf(&c->settings, SETTINGS "%s%s", limit, tablespace);
	if (n < 0) {
		c->settings = NULL;
		return pg_fail(err, "out of memory");
	}
	if (asprintf(&c->begin, "BEGIN %s%s;%s", mode, writes, c->settings) < 0) {
		c->begin = NULL;
		r = -1;
	}
	if (asprintf(&c->prefix, "SET TRANSACTION %s%s;%s", mode, writes, c->settings) < 0) {
		c->prefix = NULL;
		r = -1;
	}
	return r < 0 ? pg_fail(err, "out of memory") : STORE_OK;
}

/* Reads c->home, and composes what goes by it. */
static enum store_status
find_home(struct pg_conn *c, bool known, struct store_error *err)
{
	char sql[sizeof(HOME_FORMAT) + sizeof(known_sql)];
	PGresult *r = NULL;
	enum store_status st;
	bool found;

	free(c->home);
	c->home = NULL;
	(void)snprintf(sql, sizeof(sql), HOME_FORMAT, known ? known_sql : unknown_sql);
	st = pg_select_bare(c, sql, PG_ROW_OR_NONE(2), &r, err);
	if (st != STORE_OK)
		return st;
	found = PQntuples(r) > 0;
	if (found)
		c->home = strdup(PQgetvalue(r, 0, 0));
	st = found && !c->home ? pg_fail(err, "out of memory")
			       : compose(c, found ? PQgetvalue(r, 0, 1) : "", err);
	PQclear(r);
	return st;
}

enum store_status
pg_session(struct pg_conn *c, struct store_error *err)
{
	PGresult *r = NULL;
	/* alone: what is said before is of the session, or of nothing */
	enum store_status st = pg_select_bare(c, facts_sql, PG_ROW(3), &r, err);

	if (st == STORE_OK) {
		c->read_write = *PQgetvalue(r, 0, 0) == 't';
		c->own_tablespace = *PQgetvalue(r, 0, 2) == 't';
		st = find_home(c, *PQgetvalue(r, 0, 1) == 't', err);
	}
	PQclear(r);
	return st;
}

/* ---- the server's clock ---- */

static enum store_status
read_clock(struct pg_conn *c, struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st = pg_select(c, "SELECT " SERVER_US, PG_ROW(1), &r, err);

	if (st == STORE_OK)
		c->clock = (struct pg_clock){
		    .server_us = strtoull(PQgetvalue(r, 0, 0), NULL, 10),
		    .mono_us = clock_ns() / 1000,
		    .real_us = clock_real_us(),
		};
	PQclear(r);
	return st;
}

/* Is what was read not of use any more? */
static bool
is_outdated(const struct pg_clock *clock, uint64_t mono_us)
{
	return !clock->server_us || mono_us - clock->mono_us > CLOCK_LASTS_US;
}

enum store_status
pg_now(struct pg_conn *c, uint64_t *now_us, struct store_error *err)
{
	enum store_status st = STORE_OK;

	if (is_outdated(&c->clock, clock_ns() / 1000))
		st = read_clock(c, err);
	if (st == STORE_OK)
		*now_us = c->clock.server_us + clock_ns() / 1000 - c->clock.mono_us;
	return st;
}

/* Has somebody set our real-time clock since? */
static bool
was_set(const struct pg_clock *clock, uint64_t mono_us)
{
	int64_t real = (int64_t)(clock_real_us() - clock->real_us);
	int64_t moved = real - (int64_t)(mono_us - clock->mono_us);

	return moved > STEP_US || moved < -STEP_US;
}

enum store_status
pg_instant(struct pg_conn *c, uint64_t ours_us, uint64_t *ret, struct store_error *err)
{
	uint64_t mono_us = clock_ns() / 1000;
	enum store_status st = STORE_OK;
	int64_t at, now;

	*ret = 0;
	if (!ours_us)
		return STORE_OK;
	if (is_outdated(&c->clock, mono_us) || was_set(&c->clock, mono_us))
		st = read_clock(c, err);
	if (st != STORE_OK)
		return st;
	/* our clock was read after the server's: the difference is too small rather than too great */
	at = (int64_t)(ours_us + c->clock.server_us - c->clock.real_us);
	now = (int64_t)(c->clock.server_us + mono_us - c->clock.mono_us);
	if (at > 0 && at < now + STEP_US)
		*ret = (uint64_t)(at < now ? at : now);
	return STORE_OK;
}

int64_t
pg_clock_ahead_us(const struct pg_conn *c)
{
	return c->clock.server_us ? (int64_t)(c->clock.real_us - c->clock.server_us) : 0;
}
