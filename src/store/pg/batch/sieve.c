#include "store/pg/batch/sieve.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/pg/batch/pg_table.h"

#define WIDTH_MOST 8192 /* a part that takes minutes would look like a dead server */
#define WIDTH_LEAST 64
#define TEXT_OF(x) #x
#define NUMBER(x) TEXT_OF(x)

#define ROWS "pg_temp.metric_collectord_rows"
#define REFUSED "pg_temp.metric_collectord_refused"
/*
 * A setting of the transaction's: the next row, the width, the last row, the first one stored or 0,
 * the interval of chunks in microseconds or 0.
 */
#define AT "metric_collectord.sieve"
#define PATH "metric_collectord.path" /* search_path, as it was before a trigger */

/* Rules and views: INSERT would follow them, COPY does not. */
static const char usable_sql[] = "SELECT relhasrules FROM pg_catalog.pg_class"
				 " WHERE oid = 'metrics'::pg_catalog.regclass";

/* Names are bytes: what the database's encoding lacks is refused as a row. */
static const char make_sql[] =
    "SAVEPOINT sieve;"
    "CREATE TEMPORARY TABLE metric_collectord_rows ("
    " n pg_catalog.int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
    " time pg_catalog.timestamptz, name pg_catalog.bytea, value pg_catalog.float8)"
    " ON COMMIT DROP;"
    "CREATE TEMPORARY TABLE metric_collectord_refused ("
    " n pg_catalog.int4, state pg_catalog.text, error pg_catalog.text, raised pg_catalog.bool)"
    " ON COMMIT DROP;"
    "COPY " ROWS " (time, name, value) FROM STDIN (FORMAT binary)";

/* clang-format off */

/*
 * Each BEGIN with an EXCEPTION is a subtransaction.  So as few as possible: the width of what is
 * tried at once grows while that is taken, and shrinks when it is not.  Five seconds at a time, so
 * that the daemon can be stopped.
 */
/* A trigger's SET LOCAL lasts beyond it. */
#define METRICS                                                                      \
	"PERFORM pg_catalog.set_config('search_path', path, true);"                  \
	"INSERT INTO metrics (time, metric_name, value) "
#define CAUGHT "EXCEPTION WHEN OTHERS OR assert_failure OR query_canceled THEN "
#define PASS_ON                                                                   \
	"raised := pg_catalog.strpos(context || pg_catalog.chr(10), 'RAISE' || pg_catalog.chr(10)) > 0;" \
	"IF NOT raised AND state ~ '" SIEVE_PASSING "' THEN RAISE; END IF;"
/*
 * A row that is refused undoes the making of its chunk, and the next one would make it again, which
 * takes a millisecond.  So chunks are made first.  Where that does not work it is only slower.
 */
#define MAKE_CHUNKS                                                                          \
	"FOR one IN SELECT DISTINCT"                                                         \
	" pg_catalog.floor(extract(epoch FROM r.time) * 1000000 / chunk_us)"                 \
	"::pg_catalog.int8 * chunk_us AS start FROM " ROWS                                   \
	" r WHERE r.n >= next_row AND r.n < next_row + width LOOP"                           \
	" CONTINUE WHEN one.start = ANY (chunks);"                                           \
	" chunks := chunks || one.start;"                                                    \
	" BEGIN PERFORM FROM _timescaledb_functions.create_chunk("                           \
	" 'metrics'::pg_catalog.regclass, pg_catalog.jsonb_build_object('time',"             \
	" pg_catalog.jsonb_build_array(one.start, one.start + chunk_us)));"                  \
	" EXCEPTION WHEN OTHERS THEN GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE;"     \
	" IF state ~ '" SIEVE_PASSING "' THEN RAISE; END IF; END;"                           \
	"END LOOP;"
static const char run_sql[] =
    "DO $sieve$ DECLARE"
    " place CONSTANT pg_catalog.int8[] :="
    "  pg_catalog.string_to_array(pg_catalog.current_setting('" AT "'), ' ')::pg_catalog.int8[];"
    " path CONSTANT pg_catalog.text := pg_catalog.current_setting('" PATH "');"
    " next_row pg_catalog.int4 := place[1];"
    " width pg_catalog.int4 := place[2];"
    " last_row CONSTANT pg_catalog.int4 := place[3];"
    " stored pg_catalog.int4 := place[4];"
    " chunk_us CONSTANT pg_catalog.int8 := place[5];"
    " chunks pg_catalog.int8[] := '{}';"
    " until CONSTANT pg_catalog.timestamptz := pg_catalog.clock_timestamp() + '5 s';"
    " one record; raised pg_catalog.bool;"
    " state pg_catalog.text; error pg_catalog.text; detail pg_catalog.text;"
    " context pg_catalog.text;"
    " ns pg_catalog.int4[]; states pg_catalog.text[]; errors pg_catalog.text[];"
    " raiseds pg_catalog.bool[];"
    "BEGIN"
    " WHILE next_row <= last_row AND pg_catalog.clock_timestamp() < until LOOP"
    "  BEGIN"
    "   " METRICS "SELECT r.time, pg_catalog.convert_from(r.name, 'UTF8'), r.value FROM " ROWS
    "    r WHERE r.n >= next_row AND r.n < next_row + width ORDER BY r.n;"
    "   IF stored = 0 THEN stored := next_row; END IF;"
    "   next_row := next_row + width;"
    "   width := least(width * 2, " NUMBER(WIDTH_MOST) ");"
    "   CONTINUE;"
    "  " CAUGHT
    "   GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT;"
    "   " PASS_ON
    "  END;"
    "  IF width > " NUMBER(WIDTH_LEAST) " THEN"
    "   width := greatest(width / 8, " NUMBER(WIDTH_LEAST) ");"
    "   CONTINUE;"
    "  END IF;"
    "  IF chunk_us > 0 THEN "
    "   " MAKE_CHUNKS
    "  END IF;"
    "  ns := '{}'; states := '{}'; errors := '{}'; raiseds := '{}';"
    "  FOR one IN SELECT r.n, r.time, r.name, r.value FROM " ROWS
    "   r WHERE r.n >= next_row AND r.n < next_row + width ORDER BY r.n LOOP"
    "   BEGIN"
    "    " METRICS
    "VALUES (one.time, pg_catalog.convert_from(one.name, 'UTF8'), one.value);"
    "    IF stored = 0 THEN stored := one.n; END IF;"
    "   " CAUGHT
    "    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, error = MESSAGE_TEXT,"
    "     detail = PG_EXCEPTION_DETAIL, context = PG_EXCEPTION_CONTEXT;"
    "    " PASS_ON
    "    IF detail <> '' THEN error := error || ' (' || detail || ')'; END IF;"
    "    ns := ns || one.n; states := states || state; errors := errors || error;"
    "    raiseds := raiseds || raised;"
    "   END;"
    "  END LOOP;"
    "  INSERT INTO " REFUSED " SELECT * FROM"
    "   ROWS FROM (pg_catalog.unnest(ns), pg_catalog.unnest(states),"
    "   pg_catalog.unnest(errors), pg_catalog.unnest(raiseds)) f;"
    "  next_row := next_row + width;"
    " END LOOP;"
    " PERFORM pg_catalog.set_config('" AT "',"
    "  pg_catalog.concat_ws(' ', next_row, width, last_row, stored, chunk_us), true);"
    "END $sieve$;"
    "SELECT pg_catalog.split_part(pg_catalog.current_setting('" AT "'), ' ', 1)";

static const char result_sql[] =
    "SELECT pg_catalog.count(*),"
    " pg_catalog.split_part(pg_catalog.current_setting('" AT "'), ' ', 4) FROM " REFUSED;

/* As in isolate.c: any byte that is not ASCII, and the backslash, as \xHH. */
#define ESCAPED                                                                        \
	"(SELECT pg_catalog.string_agg(CASE WHEN b >= 128 OR b = 92"                   \
	" THEN pg_catalog.concat(pg_catalog.chr(92), 'x',"                             \
	" pg_catalog.lpad(pg_catalog.to_hex(b), 2, '0')) ELSE pg_catalog.chr(b) END,"  \
	" '' ORDER BY i) FROM pg_catalog.generate_series(0, pg_catalog.length(r.name) - 1) i," \
	" pg_catalog.get_byte(r.name, i) b)"

static const char reject_sql[] =
    "INSERT INTO metric_collectord.rejected"
    " (time, name, value, reason, sqlstate, error, collector, batch)"
    " SELECT r.time, CASE WHEN f.state IN ('22021', '22P05') THEN " ESCAPED
    "  ELSE pg_catalog.convert_from(r.name, 'UTF8') END, r.value,"
    "  CASE WHEN f.raised OR f.state LIKE 'P0%' THEN 'trigger'"
    "  WHEN f.state LIKE '23%' THEN 'constraint'"
    "  WHEN f.state LIKE '22%' THEN 'value' ELSE 'other' END,"
    "  f.state, pg_catalog.left(f.error, " NUMBER(STORE_ERROR_MAX) "), $1::pg_catalog.uuid,"
    "  $2::pg_catalog.int8"
    " FROM " REFUSED " f JOIN " ROWS " r USING (n) ORDER BY n";

/* clang-format on */

static enum store_status
ask_usable(struct pg_conn *c, bool *ret, struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st = pg_select(c, usable_sql, PG_ROW(1), &r, err);

	*ret = st == STORE_OK && *PQgetvalue(r, 0, 0) == 'f';
	PQclear(r);
	return st;
}

enum store_status
sieve_fill(struct pg_conn *c, const struct batch_view *b, bool *usable, struct store_error *err)
{
	enum store_status st = ask_usable(c, usable, err);
	struct copy rows;

	if (st != STORE_OK || !*usable)
		return st;
	copy_init(&rows, b->data, b->bytes);
	st = pg_copy(c, make_sql, &rows, err);
	if (st == STORE_OK || st == STORE_STOPPED || err->reconnect)
		return st;
	*usable = false;
	return pg_query(c, "ROLLBACK TO SAVEPOINT sieve; RELEASE SAVEPOINT sieve", err);
}

static enum store_status
read_result(struct pg_conn *c, struct sieve_result *ret, struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st = pg_select(c, result_sql, PG_ROW(2), &r, err);

	if (st == STORE_OK)
		*ret = (struct sieve_result){strtoull(PQgetvalue(r, 0, 0), NULL, 10),
					     strtoull(PQgetvalue(r, 0, 1), NULL, 10)};
	PQclear(r);
	return st;
}

/* One turn; *next is the row that comes next. */
static enum store_status
run_turn(struct pg_conn *c, uint64_t *next, struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st = pg_select(c, run_sql, PG_ROW(1), &r, err);

	if (st == STORE_OK)
		*next = strtoull(PQgetvalue(r, 0, 0), NULL, 10);
	PQclear(r);
	return st;
}

/* Where the block begins, and what it has to know. */
static enum store_status
set_place(struct pg_conn *c, uint64_t rows, struct store_error *err)
{
	uint64_t width = rows / 2;
	struct pg_table table;
	enum store_status st = pg_table_read(c, &table, err);
	char sql[320];

	if (st != STORE_OK)
		return st;
	if (width > WIDTH_MOST)
		width = WIDTH_MOST;
	if (width < WIDTH_LEAST)
		width = WIDTH_LEAST;
	(void)snprintf(sql, sizeof(sql),
		       "SELECT pg_catalog.set_config('" AT "', '1 %" PRIu64 " %" PRIu64
		       " 0 %" PRIu64 "', true), pg_catalog.set_config('" PATH
		       "', pg_catalog.current_setting('search_path'), true)",
		       width, rows, table.chunk_interval_us);
	return pg_query(c, sql, err);
}

enum store_status
sieve_run(struct pg_conn *c, uint64_t rows, struct sieve_result *ret, struct store_error *err)
{
	enum store_status st = set_place(c, rows, err);
	uint64_t next = 1, turns;

	/* each turn does a row at least, but for those in which the width shrinks */
	for (turns = 0; st == STORE_OK && next <= rows; turns++)
		st = turns < rows + 64 ? run_turn(c, &next, err)
				       : pg_fail(err, "the server does not get on");
	return st == STORE_OK ? read_result(c, ret, err) : st;
}

enum store_status
sieve_reject(struct pg_conn *c, const struct batch_view *b, struct store_error *err)
{
	char number[24];
	const char *values[] = {b->collector, number};
	const struct pg_params params = {.n = 2, .values = values};

	(void)snprintf(number, sizeof(number), "%" PRIu64, b->number);
	return pg_query_params(c, reject_sql, &params, err);
}

enum store_status
sieve_show(struct pg_conn *c, unsigned max, PGresult **ret, struct store_error *err)
{
	char sql[128];

	(void)snprintf(sql, sizeof(sql),
		       "SELECT n, state, error FROM " REFUSED " ORDER BY n LIMIT %u", max);
	return pg_select(c, sql, PG_ROWS(3), ret, err);
}

enum store_status
sieve_states(struct pg_conn *c, unsigned max, PGresult **ret, struct store_error *err)
{
	char sql[192];

	(void)snprintf(sql, sizeof(sql),
		       "SELECT state, pg_catalog.min(n) FROM " REFUSED
		       " GROUP BY state ORDER BY pg_catalog.count(*) DESC, 2 LIMIT %u",
		       max);
	return pg_select(c, sql, PG_ROWS(2), ret, err);
}
