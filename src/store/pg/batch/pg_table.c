#include "store/pg/batch/pg_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

/*
 * Before 2.28.1 direct compression did not check constraints (TimescaleDB pull request 10056), and
 * it has to be told of exclusion constraints by us until 2.29.0 (10281).  With a trigger of any
 * kind, or a unique index, it falls back, saying so for each COPY or not at all.  The setting
 * itself may go once it is no preview any more.
 */
static const char table_sql[] =
    "SELECT COALESCE("
    "  (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'timescaledb'), ''),"
    " EXISTS (SELECT FROM pg_catalog.pg_index"
    "  WHERE indrelid = 'metrics'::pg_catalog.regclass AND (indisunique OR indisexclusion)),"
    " EXISTS (SELECT FROM pg_catalog.pg_trigger"
    "  WHERE tgrelid = 'metrics'::pg_catalog.regclass"
    "  AND tgname NOT IN ('ts_insert_blocker', 'ts_cagg_invalidation_trigger')),"
    " pg_catalog.current_setting('timescaledb.enable_direct_compress_copy', true) IS NOT NULL";

static const char hypertable_sql[] =
    "SELECT (extract(epoch FROM d.time_interval) * 1000000)::pg_catalog.int8,"
    " h.compression_enabled"
    " FROM timescaledb_information.hypertables h"
    " JOIN timescaledb_information.dimensions d USING (hypertable_schema, hypertable_name)"
    " JOIN pg_catalog.pg_namespace n ON n.nspname = h.hypertable_schema"
    " JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = h.hypertable_name"
    " WHERE c.oid = 'metrics'::pg_catalog.regclass AND d.dimension_number = 1";

/* Whole seconds, as a rule: a double of extract() before PostgreSQL 14 holds them exactly. */
static const char ranges_sql[] =
    "SELECT DISTINCT"
    " (extract(epoch FROM greatest(h.range_start, $1)) * 1000000)::pg_catalog.int8,"
    " (extract(epoch FROM least(h.range_end, '10000-01-01 00:00:00+00')) * "
    "1000000)::pg_catalog.int8"
    " FROM timescaledb_information.chunks h"
    " JOIN pg_catalog.pg_namespace n ON n.nspname = h.hypertable_schema"
    " JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = h.hypertable_name"
    " WHERE c.oid = 'metrics'::pg_catalog.regclass"
    " AND h.range_end > $1::timestamptz AND h.range_start <= $2::timestamptz"
    " ORDER BY 1";

bool
pg_version_at_least(const char *version, unsigned major, unsigned minor, unsigned patch)
{
	unsigned v[3] = {0, 0, 0};
	int end = 0;

	if (sscanf(version, "%u.%u.%u%n", &v[0], &v[1], &v[2], &end) < 2)
		return false;
	if (v[0] != major)
		return v[0] > major;
	if (v[1] != minor)
		return v[1] > minor;
	if (v[2] != patch)
		return v[2] > patch;
	return version[end] == '\0';
}

static enum store_status
read_hypertable(struct pg_conn *c, struct pg_table *t, bool *columnstore, struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st = pg_select(c, hypertable_sql, PG_ROW_OR_NONE(2), &r, err);

	*columnstore = false;
	if (st == STORE_OK && PQntuples(r) > 0) {
		t->chunk_interval_us = strtoull(PQgetvalue(r, 0, 0), NULL, 10);
		*columnstore = *PQgetvalue(r, 0, 1) == 't';
	}
	PQclear(r);
	return st;
}

enum store_status
pg_table_read(struct pg_conn *c, struct pg_table *ret, struct store_error *err)
{
	struct pg_table t = {.chunk_interval_us = 0};
	PGresult *r = NULL;
	enum store_status st = pg_select(c, table_sql, PG_ROW(4), &r, err);
	bool columnstore = false;

	if (st != STORE_OK)
		return st;
	if (*PQgetvalue(r, 0, 0))
		st = read_hypertable(c, &t, &columnstore, err);
	if (t.chunk_interval_us == 0)
		t.not_direct = "metrics is not a hypertable";
	else if (!pg_version_at_least(PQgetvalue(r, 0, 0), 2, 28, 1))
		t.not_direct = "TimescaleDB is older than 2.28.1";
	else if (!columnstore)
		t.not_direct = "the columnstore is not enabled on metrics";
	else if (*PQgetvalue(r, 0, 1) == 't')
		t.not_direct = "metrics has a unique index or an exclusion constraint";
	else if (*PQgetvalue(r, 0, 2) == 't')
		t.not_direct = "metrics has a trigger or a foreign key";
	else if (*PQgetvalue(r, 0, 3) != 't')
		t.not_direct = "this TimescaleDB has no enable_direct_compress_copy";
	PQclear(r);
	if (st == STORE_OK)
		*ret = t;
	return st;
}

enum store_status
pg_table_ranges(struct pg_conn *c, uint64_t min_us, uint64_t max_us, struct chunk_range **ret,
		size_t *n, struct store_error *err)
{
	char min[TEXT_VALUE_MAX], max[TEXT_VALUE_MAX];
	const char *values[] = {min, max};
	const struct pg_params params = {.n = 2, .values = values};
	struct chunk_range *ranges;
	PGresult *r = NULL;
	enum store_status st;
	int i, rows;

	(void)text_time(min, min_us);
	(void)text_time(max, max_us);
	st = pg_select_params(c, ranges_sql, &params, PG_ROWS(2), &r, err);
	if (st != STORE_OK)
		return st;
	rows = PQntuples(r);
	ranges = calloc((size_t)rows + 1, sizeof(*ranges));
	if (ranges) {
		for (i = 0; i < rows; i++) {
			ranges[i].start_us = strtoull(PQgetvalue(r, i, 0), NULL, 10);
			ranges[i].end_us = strtoull(PQgetvalue(r, i, 1), NULL, 10);
		}
		*ret = ranges;
		*n = (size_t)rows;
	}
	PQclear(r);
	return ranges ? STORE_OK : pg_fail(err, "out of memory");
}
