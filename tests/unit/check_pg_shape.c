#include "store/pg/batch/pg_shape.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "pg_fixture.h"

#define DAY UINT64_C(86400000000)

/* ---- order ---- */

/* Rows that lie behind one that they belong before. */
#define MISPLACED                                                                     \
	SQL("SELECT count(*) FROM (SELECT (metric_name COLLATE \"C\", time) AS here," \
	    " lag((metric_name COLLATE \"C\", time)) OVER (ORDER BY ctid) AS before"  \
	    " FROM metrics) AS rows WHERE before > here")

START_TEST(rows_are_stored_in_order)
{
	struct store *s = open_store();
	char name[16];
	unsigned i;

	new_batch(1);
	for (i = 0; i < 10000; i++) {
		(void)snprintf(name, sizeof(name), "m.%u", i * 7919 % 97);
		add(EPOCH + i * 31 % 10000, name, i);
	}
	assert_put(s, 10000, 0, false);
	store_close(s);
	ck_assert_str_eq(MISPLACED, "0");
	ck_assert_str_eq(SQL("SELECT count(*) || ' ' || sum(value) || ' ' || count(DISTINCT value)"
			     " FROM metrics"),
			 "10000 49995000 10000");
}
END_TEST

/* Each row with its own time, name and value. */
START_TEST(rows_stay_whole)
{
	struct store *s = open_store();

	fill_batch(1, BATCH_ROWS);
	assert_put(s, BATCH_ROWS, 0, false);
	store_close(s);
	ck_assert_str_eq(SQL("SELECT count(*) FROM metrics WHERE metric_name = 'metric.' ||"
			     " value::int %% 100 AND time = to_timestamp(1700000000) +"
			     " value * interval '1 microsecond'"),
			 "40000");
}
END_TEST

START_TEST(a_plain_table_has_no_chunks)
{
	struct store *s;
	unsigned i;

	conf.table.direct_compress = CONF_AUTO;
	s = open_store();
	new_batch(1);
	for (i = 0; i < 1000; i++)
		add(i * DAY, "m", i);
	assert_put(s, 1000, 0, false);
	ck_assert(!result.direct);
	store_close(s);
}
END_TEST

/* ---- straight into the columnstore ---- */

static struct store *
open_direct(const char *sql)
{
	struct store *s;

	conf.database.timescaledb = CONF_REQUIRE;
	store_close(open_store());
	(void)SQL("ALTER TABLE metrics SET (timescaledb.compress,"
		  " timescaledb.compress_segmentby = 'metric_name',"
		  " timescaledb.compress_orderby = 'time DESC')");
	if (sql)
		(void)SQL("%s", sql);
	conf.table.direct_compress = CONF_AUTO;
	s = open_store();
	return s;
}

#define COMPRESSED SQL("SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed")

START_TEST(many_rows_a_metric_go_straight)
{
	struct store *s = open_direct(NULL);

	fill_batch(1, BATCH_ROWS);
	assert_put(s, BATCH_ROWS, 0, false);
	ck_assert(result.direct);
	assert_put(s, BATCH_ROWS, 0, true);
	ck_assert_str_eq(COMPRESSED, "1");
	fill_batch(2, BATCH_ROWS);
	assert_put(s, BATCH_ROWS, 0, false);
	store_close(s);
	s = open_store();
	assert_put(s, BATCH_ROWS, 0, true);
	store_close(s);
	ck_assert_str_eq(SQL("SELECT count(*) || ' ' || sum(value) FROM metrics"),
			 "80000 1599960000");
	/* overlapping batches: the newest come first all the same */
	ck_assert_str_eq(SQL("SELECT string_agg(value::text, ' ') FROM (SELECT value FROM metrics"
			     " WHERE metric_name = 'metric.7' ORDER BY time DESC LIMIT 4) AS last"),
			 "39907 39907 39807 39807");
}
END_TEST

START_TEST(few_rows_a_metric_go_the_usual_way)
{
	struct store *s = open_direct(NULL);

	fill_batch(1, 5000);
	assert_put(s, 5000, 0, false);
	ck_assert(!result.direct);
	store_close(s);
	ck_assert_str_eq(COMPRESSED, "0");
}
END_TEST

/* A metric's rows in each of ten chunks: as many segments. */
START_TEST(few_rows_a_chunk_go_the_usual_way)
{
	struct store *s = open_direct(NULL);
	unsigned i;

	new_batch(1);
	for (i = 0; i < 1500; i++)
		add(EPOCH + i % 10 * DAY, "m", i);
	assert_put(s, 1500, 0, false);
	ck_assert(!result.direct);
	store_close(s);
}
END_TEST

static const char *const obstacles[] = {
    "CREATE UNIQUE INDEX ON metrics (time, metric_name, value)",
    "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
    "CREATE TRIGGER f BEFORE INSERT ON metrics FOR EACH ROW EXECUTE FUNCTION f()",
    "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
    "CREATE TRIGGER f AFTER INSERT ON metrics FOR EACH STATEMENT EXECUTE FUNCTION f()",
};

START_TEST(obstacles_are_respected)
{
	struct store *s = open_direct(obstacles[_i]);

	fill_batch(1, BATCH_ROWS);
	assert_put(s, BATCH_ROWS, 0, false);
	ck_assert(!result.direct);
	store_close(s);
	ck_assert_str_eq(METRICS, "40000");
	ck_assert_str_eq(COMPRESSED, "0");
}
END_TEST

START_TEST(obstacles_are_noticed_in_time)
{
	struct store *s = open_direct(NULL);

	(void)SQL("CREATE INDEX i ON metrics (value); CREATE UNIQUE INDEX u ON metrics"
		  " (time, metric_name, value)");
	ck_assert_int_eq(store_check(s, &err), STORE_OK);
	fill_batch(1, BATCH_ROWS);
	assert_put(s, BATCH_ROWS, 0, false);
	ck_assert(!result.direct);
	(void)SQL("DROP INDEX u");
	ck_assert_int_eq(store_check(s, &err), STORE_OK);
	fill_batch(2, BATCH_ROWS);
	assert_put(s, BATCH_ROWS, 0, false);
	ck_assert(result.direct);
	store_close(s);
}
END_TEST

START_TEST(off_is_off)
{
	struct store *s;

	store_close(open_direct(NULL));
	conf.table.direct_compress = CONF_OFF;
	s = open_store();
	fill_batch(1, BATCH_ROWS);
	assert_put(s, BATCH_ROWS, 0, false);
	ck_assert(!result.direct);
	store_close(s);
}
END_TEST

START_TEST(refused_rows_are_isolated)
{
	struct store *s = open_direct("ALTER TABLE metrics ADD CHECK (value <> 13)");

	fill_batch(1, BATCH_ROWS);
	assert_put(s, BATCH_ROWS - 1, 1, false);
	ck_assert(!result.direct);
	assert_put(s, BATCH_ROWS - 1, 1, true);
	store_close(s);
	ck_assert_str_eq(METRICS, "39999");
	ck_assert_str_eq(SQL("SELECT value || ' ' || reason FROM metric_collectord.rejected"),
			 "13 constraint");
}
END_TEST

/* A preview that fails must not hold rows up. */
START_TEST(refusal_of_the_way_is_no_refusal_of_rows)
{
	struct store *s = open_direct(NULL);

	(void)SQL("CREATE FUNCTION way() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN"
		  " IF current_setting('timescaledb.enable_direct_compress_copy') = 'on' THEN"
		  " RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'broken'; END IF;"
		  " RETURN true; END $$;"
		  "ALTER TABLE metrics ADD CONSTRAINT way CHECK (way())");
	fill_batch(1, BATCH_ROWS);
	assert_put(s, BATCH_ROWS, 0, false);
	ck_assert(!result.direct);
	fill_batch(2, BATCH_ROWS);
	assert_put(s, BATCH_ROWS, 0, false);
	ck_assert(!result.direct);
	(void)SQL("ALTER TABLE metrics DROP CONSTRAINT way");
	ck_assert_int_eq(store_check(s, &err), STORE_OK);
	fill_batch(3, BATCH_ROWS);
	assert_put(s, BATCH_ROWS, 0, false);
	ck_assert(result.direct);
	store_close(s);
	ck_assert_str_eq(METRICS, "120000");
}
END_TEST

/* Whatever an operator has set: batches overlap in time, so that "sorted" would be a lie. */
START_TEST(never_as_sorted_by_the_client)
{
	struct store *s = open_direct(NULL);

	store_close(s);
	(void)SQL("ALTER ROLE postgres SET timescaledb.enable_direct_compress_copy_client_sorted"
		  " = on");
	s = open_store();
	fill_batch(1, BATCH_ROWS);
	assert_put(s, BATCH_ROWS, 0, false);
	ck_assert(result.direct);
	fill_batch(2, BATCH_ROWS);
	assert_put(s, BATCH_ROWS, 0, false);
	store_close(s);
	(void)SQL(
	    "ALTER ROLE postgres RESET timescaledb.enable_direct_compress_copy_client_sorted");
	ck_assert_str_eq(SQL("SELECT string_agg(value::text, ' ') FROM (SELECT value FROM metrics"
			     " WHERE metric_name = 'metric.7' ORDER BY time DESC LIMIT 4) AS last"),
			 "39907 39907 39807 39807");
}
END_TEST

/* ---- chunks ---- */

#define LIMITED                                                                            \
	SQL("SELECT count(*) FROM metric_collectord.rejected WHERE reason = 'chunk_limit'" \
	    " AND error LIKE '%%max_new_chunks%%' AND collector = '" COLLECTOR "'")
#define CHUNKS SQL("SELECT count(*) FROM timescaledb_information.chunks")

static struct store *
open_hypertable(void)
{
	conf.database.timescaledb = CONF_REQUIRE;
	return open_store();
}

/* rows_a_day rows on each of some days from a first one on. */
static void
fill_days(uint64_t number, unsigned first, unsigned days, unsigned rows_a_day)
{
	char name[16];
	unsigned i;

	new_batch(number);
	for (i = 0; i < days * rows_a_day; i++) {
		(void)snprintf(name, sizeof(name), "d.%u", i % 10);
		add(EPOCH + (first + i % days) * DAY, name, i);
	}
}

START_TEST(chunks_up_to_the_limit)
{
	struct store *s = open_hypertable();

	fill_days(1, 0, 16, 10);
	assert_put(s, 160, 0, false);
	ck_assert_str_eq(CHUNKS, "16");
	store_close(s);
}
END_TEST

START_TEST(rows_beyond_the_limit_are_put_aside)
{
	struct store *s = open_hypertable();

	fill_days(1, 0, 40, 10);
	assert_put(s, 160, 240, false);
	ck_assert_str_eq(CHUNKS, "16");
	ck_assert_str_eq(LIMITED, "240");
	assert_put(s, 160, 240, true);
	ck_assert_str_eq(SQL("SELECT rows || ' ' || rejected FROM metric_collectord.batches"),
			 "160 240");
	/* the nearest to now are the youngest */
	ck_assert_str_eq(SQL("SELECT (SELECT max(time) FROM metric_collectord.rejected) <"
			     " (SELECT min(time) FROM metrics)"),
			 "t");
	ck_assert_str_eq(SQL("SELECT count(*) FROM (SELECT value FROM metrics UNION SELECT value"
			     " FROM metric_collectord.rejected) AS everything"),
			 "400");
	/* what is there does not count */
	fill_days(2, 24, 32, 1);
	assert_put(s, 32, 0, false);
	fill_days(3, 0, 56, 1);
	assert_put(s, 48, 8, false);
	ck_assert_str_eq(CHUNKS, "48");
	store_close(s);
}
END_TEST

START_TEST(a_single_wild_row_does_no_harm)
{
	struct store *s = open_hypertable();

	fill_days(1, 0, 1, 1000);
	add(1, "1970", 0);
	add(EPOCH + 300 * 365 * DAY, "2323", 0);
	assert_put(s, 1002, 0, false);
	ck_assert_str_eq(CHUNKS, "3");
	store_close(s);
}
END_TEST

/* One row is refused by us, another by the server. */
START_TEST(both_kinds_of_refusal)
{
	struct store *s = open_hypertable();

	(void)SQL("ALTER TABLE metrics ADD CHECK (value NOT IN (16, 39))");
	fill_days(1, 0, 40, 1); /* 24..39 are kept */
	assert_put(s, 15, 25, false);
	ck_assert_str_eq(LIMITED, "24");
	assert_put(s, 15, 25, true);
	store_close(s);
}
END_TEST

START_TEST(everything_can_be_refused)
{
	struct store *s = open_hypertable();

	(void)SQL("ALTER TABLE metrics ADD CHECK (value < 0)");
	fill_days(1, 0, 40, 1);
	assert_put(s, 0, 40, false);
	ck_assert_str_eq(LIMITED, "24");
	store_close(s);
	ck_assert_str_eq(METRICS, "0");
}
END_TEST

/* The rejected table itself cannot hold a name: it is put there in ASCII. */
START_TEST(names_beyond_the_encoding)
{
	struct store *s;
	unsigned i;

	(void)sql_in("postgres",
		     "CREATE DATABASE \"test \"\"%d\"\"\" ENCODING 'LATIN1' TEMPLATE"
		     " template0 LC_COLLATE 'C' LC_CTYPE 'C'",
		     (int)getpid());
	s = open_hypertable();
	new_batch(1);
	for (i = 0; i < 40; i++)
		add(EPOCH + i * DAY, i == 3 ? "\xE2\x82\xAC" : "m", i);
	assert_put(s, 16, 24, false);
	ck_assert_str_eq(LIMITED, "23");
	ck_assert_str_eq(SQL("SELECT name FROM metric_collectord.rejected WHERE value = 3"),
			 "\\xe2\\x82\\xac");
	store_close(s);
}
END_TEST

START_TEST(late_rows_for_compressed_chunks_are_stored)
{
	struct store *s = open_direct(NULL);

	fill_days(1, 0, 3, 100);
	assert_put(s, 300, 0, false);
	(void)SQL("SELECT count(compress_chunk(c)) FROM show_chunks('metrics') AS c");
	ck_assert_str_eq(COMPRESSED, "3");
	fill_days(2, 0, 3, 50); /* the usual way */
	assert_put(s, 150, 0, false);
	ck_assert(!result.direct);
	fill_batch(3, BATCH_ROWS); /* straight */
	assert_put(s, BATCH_ROWS, 0, false);
	ck_assert(result.direct);
	store_close(s);
	ck_assert_str_eq(METRICS, "40450");
	ck_assert_str_eq(SQL("SELECT count(*) FROM metrics WHERE metric_name LIKE 'd.%%'"), "450");
}
END_TEST

/* ---- versions ---- */

static const struct {
	const char *version;
	bool enough; /* for 2.28.1 */
} versions[] = {
    {"2.28.1", true},      {"2.28.2", true}, {"2.28.3", true},  {"2.29.0", true},
    {"2.30.0-dev", true},  {"3.0.0", true},  {"10.0.0", true},  {"2.29", true},
    {"2.28.1-dev", false}, {"2.28", false},  {"2.28.0", false}, {"2.9.9", false},
    {"1.99.99", false},    {"", false},      {"x", false},
};

START_TEST(version_is_compared_by_numbers)
{
	ck_assert_int_eq(pg_version_at_least(versions[_i].version, 2, 28, 1), versions[_i].enough);
}
END_TEST

static void
add_tests(Suite *s)
{
	TCase *tc = plain_case(s);

	tcase_add_test(tc, rows_are_stored_in_order);
	tcase_add_test(tc, rows_stay_whole);
	tcase_add_test(tc, a_plain_table_has_no_chunks);
	tcase_add_loop_test(tc, version_is_compared_by_numbers, 0, COUNT(versions));
	if (!has_timescaledb()) {
		(void)printf("skipped: TimescaleDB is not installed\n");
		return;
	}
	tc = timescaledb_case(s);
	tcase_add_test(tc, many_rows_a_metric_go_straight);
	tcase_add_test(tc, few_rows_a_metric_go_the_usual_way);
	tcase_add_test(tc, few_rows_a_chunk_go_the_usual_way);
	tcase_add_loop_test(tc, obstacles_are_respected, 0, COUNT(obstacles));
	tcase_add_test(tc, obstacles_are_noticed_in_time);
	tcase_add_test(tc, off_is_off);
	tcase_add_test(tc, refused_rows_are_isolated);
	tcase_add_test(tc, refusal_of_the_way_is_no_refusal_of_rows);
	tcase_add_test(tc, never_as_sorted_by_the_client);
	tcase_add_test(tc, chunks_up_to_the_limit);
	tcase_add_test(tc, rows_beyond_the_limit_are_put_aside);
	tcase_add_test(tc, a_single_wild_row_does_no_harm);
	tcase_add_test(tc, both_kinds_of_refusal);
	tcase_add_test(tc, everything_can_be_refused);
	tcase_add_test(tc, names_beyond_the_encoding);
	tcase_add_test(tc, late_rows_for_compressed_chunks_are_stored);
}

int
main(void)
{
	return run_suite("pg_shape", add_tests);
}
