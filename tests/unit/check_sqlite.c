/* check_sqlite.c - the embedded store on real files. */
#include <check.h>
#include <float.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "sqlite_fixture.h"
#include "store/sqlite/sqlite_db.h"

#define METRICS "SELECT time, metric_name, value FROM metrics ORDER BY time DESC"
#define COUNT_LEDGER "SELECT count(*) FROM metric_collectord_batches"

START_TEST(rows_and_ledger)
{
	must_open();
	ck_assert_int_eq(put(7, three, COUNT(three)), STORE_OK);
	ck_assert_uint_eq(result.stored, 3);
	ck_assert_uint_eq(result.rejected, 0);
	ck_assert(!result.repeated);
	assert_query(path, METRICS " LIMIT 5",
		     "2026-01-31T09:30:00.123457Z|cpu|0.1\n"
		     "2026-01-31T09:30:00.123456Z|cpu|1.5\n"
		     "2026-01-31T09:29:59.123456Z|temp\xC3\xA9rature|-273.15\n");
	assert_query(path,
		     "SELECT collector, batch, rows, bytes, rejected, min_time, max_time FROM "
		     "metric_collectord_batches",
		     COLLECTOR "|7|3|69|0|2026-01-31T09:29:59.123456Z|"
			       "2026-01-31T09:30:00.123457Z\n");
	assert_query(path,
		     "SELECT length(stored_at), abs(julianday('now') - julianday(stored_at)) < 0.1 "
		     "FROM metric_collectord_batches",
		     "27|1\n");
}
END_TEST

START_TEST(many_rows_and_the_longest_name)
{
	char name[FRAME_NAME_MAX + 1];
	const struct sample one = {SOME_TIME, name, 1};

	memset(name, 'n', FRAME_NAME_MAX);
	name[FRAME_NAME_MAX] = '\0';
	must_open();
	ck_assert_int_eq(put_many(1, 10000), STORE_OK);
	ck_assert_int_eq(put(2, &one, 1), STORE_OK);
	assert_query(path,
		     "SELECT count(*), count(DISTINCT time), max(length(metric_name)) "
		     "FROM metrics",
		     "10001|10000|255\n");
}
END_TEST

/* ---- times ---- */

static const struct {
	uint64_t us;
	const char *text;
} times[] = {
    {0, "1970-01-01T00:00:00.000000Z"},
    {1, "1970-01-01T00:00:00.000001Z"},
    {UINT64_C(86399999999), "1970-01-01T23:59:59.999999Z"},
    {UINT64_C(86400000000), "1970-01-02T00:00:00.000000Z"},
    {UINT64_C(951782400000000), "2000-02-29T00:00:00.000000Z"},
    {UINT64_C(1709251199999999), "2024-02-29T23:59:59.999999Z"},
    {SOME_TIME, "2026-01-31T09:30:00.123456Z"},
    {UINT64_C(4107542399000000), "2100-02-28T23:59:59.000000Z"},
    {UINT64_C(4107542400000000), "2100-03-01T00:00:00.000000Z"},
    {FRAME_TIME_MAX, "9999-12-31T23:59:59.999999Z"},
};

START_TEST(time_text)
{
	struct iso_time t = ISO_TIME_NONE;

	ck_assert_int_eq(memcmp(iso_time(&t, times[_i].us), times[_i].text, strlen(times[_i].text)),
			 0);
}
END_TEST

/* The date is kept from row to row: no order of days may matter. */
START_TEST(time_text_back_and_forth)
{
	struct iso_time t = ISO_TIME_NONE;

	for (size_t i = 0; i < COUNT(times); i++)
		for (size_t j = 0; j < COUNT(times); j++) {
			(void)iso_time(&t, times[i].us);
			ck_assert_int_eq(
			    memcmp(iso_time(&t, times[j].us), times[j].text, ISO_TIME_LEN), 0);
		}
}
END_TEST

/* ---- values ---- */

START_TEST(special_values)
{
	static const struct sample samples[] = {
	    {1, "nan", NAN},          {2, "inf", INFINITY}, {3, "-inf", -INFINITY},
	    {4, "greatest", DBL_MAX}, {5, "least", 5e-324}, {6, "third", 1.0 / 3},
	    {7, "whole", 1e15},
	};
	sqlite3 *db;
	sqlite3_stmt *st;

	must_open();
	ck_assert_int_eq(put(1, samples, COUNT(samples)), STORE_OK);
	ck_assert_uint_eq(result.stored, COUNT(samples));
	db = outsider(path);
	ck_assert_int_eq(
	    sqlite3_prepare_v2(db, "SELECT value FROM metrics ORDER BY time", -1, &st, NULL),
	    SQLITE_OK);
	for (size_t i = 0; i < COUNT(samples); i++) {
		double value;

		ck_assert_int_eq(sqlite3_step(st), SQLITE_ROW);
		ck_assert_int_eq(sqlite3_column_type(st, 0),
				 isnan(samples[i].value) ? SQLITE_NULL : SQLITE_FLOAT);
		value = sqlite3_column_double(st, 0);
		if (!isnan(samples[i].value))
			ck_assert_int_eq(memcmp(&value, &samples[i].value, sizeof(value)), 0);
	}
	ck_assert_int_eq(sqlite3_finalize(st), SQLITE_OK);
	ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
}
END_TEST

/* ---- exactly once ---- */

START_TEST(repeated_batch)
{
	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	ck_assert(result.repeated);
	ck_assert_uint_eq(result.stored, 3);
	reopen();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	ck_assert(result.repeated);
	ck_assert_int_eq(put(2, three, 3), STORE_OK);
	ck_assert(!result.repeated);
	assert_query(path, COUNT_METRICS, "6\n");
	assert_query(path, COUNT_LEDGER, "2\n");
}
END_TEST

/* What the spool lost to damage meanwhile does not make it another batch. */
START_TEST(repeated_batch_that_shrank)
{
	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	ck_assert_int_eq(put(1, three, 1), STORE_OK);
	ck_assert(result.repeated);
	ck_assert_uint_eq(result.stored, 3);
	assert_query(path, COUNT_METRICS, "3\n");
}
END_TEST

static void
conflict(const struct sample *samples, size_t n)
{
	must_open();
	ck_assert_int_eq(put(1, three, 2), STORE_OK);
	ck_assert_int_eq(put(1, samples, n), STORE_HOLD);
	ck_assert(err.batch_only);
	ck_assert(!err.reconnect);
	ck_assert_ptr_nonnull(err.hint);
	ck_assert_ptr_nonnull(strstr(err.text, COLLECTOR));
	ck_assert_int_eq(put(2, samples, n), STORE_OK);
	assert_query(path,
		     "SELECT sum(rows) = (SELECT count(*) FROM metrics) FROM "
		     "metric_collectord_batches",
		     "1\n");
}

START_TEST(conflict_more_rows)
{
	static const struct sample rows[] = {
	    {SOME_TIME, "a", 1}, {SOME_TIME, "b", 1}, {SOME_TIME, "c", 1}};

	conflict(rows, 3);
}
END_TEST

START_TEST(conflict_older)
{
	static const struct sample rows[] = {{SOME_TIME, "a", 1}, {SOME_TIME - 1000001, "b", 1}};

	conflict(rows, 2);
}
END_TEST

START_TEST(conflict_newer)
{
	static const struct sample rows[] = {{SOME_TIME, "a", 1}, {SOME_TIME + 1, "b", 1}};

	conflict(rows, 2);
}
END_TEST

/* A copied spool goes on under the same identity and numbers, with batches that look much alike. */
START_TEST(conflict_opened_at_another_time)
{
	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	opened_us++;
	ck_assert_int_eq(put(1, three, 3), STORE_HOLD);
	ck_assert(err.conflict);
	ck_assert(err.disjoint);
	ck_assert_ptr_nonnull(strstr(err.hint, "metric-spool new-identity"));
	ck_assert_int_eq(put(1, three, 1), STORE_HOLD);
	opened_us--;
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	ck_assert(result.repeated);
	execute(path, "UPDATE metric_collectord_batches SET bytes = bytes - 1");
	ck_assert_int_eq(put(1, three, 3), STORE_HOLD);
	ck_assert(!err.disjoint);
	assert_query(path, COUNT_METRICS, "3\n");
}
END_TEST

/* ... is known by its times and rows. */
START_TEST(ledger_row_of_before_that_lacks_the_instant)
{
	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	execute(path, "UPDATE metric_collectord_batches SET opened = NULL");
	opened_us += 5;
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	ck_assert(result.repeated);
	assert_query(path, COUNT_METRICS, "3\n");
}
END_TEST

/* The file's header was damaged: what is left of it tells as much as it can. */
START_TEST(batch_whose_file_does_not_know_the_instant)
{
	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	opened_us = 0;
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	ck_assert(result.repeated);
	ck_assert_int_eq(put(1, three, 2), STORE_OK);
	assert_query(path, COUNT_METRICS, "3\n");
}
END_TEST

/* ---- rows that are refused ---- */

#define REJECTED                                                                \
	"SELECT time, name, value, reason, sqlstate, error, collector, batch, " \
	"length(rejected_at) FROM metric_collectord_rejected ORDER BY rowid"

static const struct sample mixed[] = {
    {SOME_TIME, "good", 1},       {SOME_TIME, "bad", 101}, {SOME_TIME, "nan", NAN},
    {SOME_TIME, "bad", INFINITY}, {SOME_TIME, "good", 2},
};

START_TEST(check_refuses_rows)
{
	/* NULL passes a CHECK, so NaN does */
	execute(path, "CREATE TABLE metrics (time TEXT NOT NULL, metric_name TEXT NOT NULL, "
		      "value REAL, CONSTRAINT sane CHECK (value < 100))");
	must_open();
	ck_assert_int_eq(put(3, mixed, COUNT(mixed)), STORE_OK);
	ck_assert_uint_eq(result.stored, 3);
	ck_assert_uint_eq(result.rejected, 2);
	assert_query(path, "SELECT metric_name, value FROM metrics ORDER BY rowid",
		     "good|1.0\nnan|NULL\ngood|2.0\n");
	assert_query(path, REJECTED,
		     "2026-01-31T09:30:00.123456Z|bad|101.0|constraint|NULL|CHECK constraint "
		     "failed: sane|" COLLECTOR "|3|27\n"
		     "2026-01-31T09:30:00.123456Z|bad|Inf|constraint|NULL|CHECK constraint "
		     "failed: sane|" COLLECTOR "|3|27\n");
	assert_query(path, "SELECT rows, rejected FROM metric_collectord_batches", "3|2\n");

	ck_assert_int_eq(put(3, mixed, COUNT(mixed)), STORE_OK);
	ck_assert(result.repeated);
	ck_assert_uint_eq(result.stored, 3);
	ck_assert_uint_eq(result.rejected, 2);
	assert_query(path, "SELECT count(*) FROM metric_collectord_rejected", "2\n");
}
END_TEST

START_TEST(not_null_refuses_nan)
{
	execute(path, "CREATE TABLE metrics (time TEXT, metric_name TEXT, value REAL NOT NULL)");
	must_open();
	ck_assert_int_eq(put(1, mixed, COUNT(mixed)), STORE_OK);
	ck_assert_uint_eq(result.rejected, 1);
	assert_query(path, "SELECT name, value, reason FROM metric_collectord_rejected",
		     "nan|NULL|constraint\n");
}
END_TEST

START_TEST(all_rows_refused)
{
	must_open();
	execute(path, "CREATE TRIGGER refuse BEFORE INSERT ON metrics BEGIN "
		      "SELECT RAISE(ABORT, 'not today'); END");
	ck_assert_int_eq(put(1, mixed, COUNT(mixed)), STORE_OK);
	ck_assert_uint_eq(result.stored, 0);
	ck_assert_uint_eq(result.rejected, COUNT(mixed));
	assert_query(path, COUNT_METRICS, "0\n");
	assert_query(path, "SELECT DISTINCT reason, error FROM metric_collectord_rejected",
		     "trigger|not today\n");
}
END_TEST

/* Such a trigger takes the ledger row along: nothing may count as stored. */
START_TEST(trigger_that_rolls_back)
{
	must_open();
	execute(path, "CREATE TRIGGER refuse BEFORE INSERT ON metrics WHEN new.metric_name = 'bad' "
		      "BEGIN SELECT RAISE(ROLLBACK, 'all of it'); END");
	ck_assert_int_eq(put(1, mixed, COUNT(mixed)), STORE_HOLD);
	ck_assert(err.batch_only);
	ck_assert_ptr_nonnull(strstr(err.text, "all of it"));
	assert_query(path, COUNT_METRICS, "0\n");
	assert_query(path, COUNT_LEDGER, "0\n");
	ck_assert_int_eq(put(2, three, 3), STORE_OK);
	execute(path, "DROP TRIGGER refuse");
	ck_assert_int_eq(put(1, mixed, COUNT(mixed)), STORE_OK);
	assert_query(path, COUNT_METRICS, "8\n");
}
END_TEST

/* ---- passing troubles ---- */

START_TEST(locked_by_another)
{
	sqlite3 *db;

	must_open();
	db = outsider(path);
	execute_on(db, "BEGIN IMMEDIATE");
	ck_assert_int_eq(put(1, three, 3), STORE_RETRY);
	ck_assert(!err.reconnect);
	ck_assert_ptr_nonnull(strstr(err.text, "locked"));
	execute_on(db, "COMMIT");
	ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	ck_assert(!result.repeated);
}
END_TEST

START_TEST(stop_ends_the_wait_for_a_lock)
{
	sqlite3 *db;

	conf.database.connect_timeout_ms = 3600 * 1000;
	must_open();
	db = outsider(path);
	execute_on(db, "BEGIN IMMEDIATE");
	stop();
	ck_assert_int_eq(put(1, three, 3), STORE_STOPPED);
	ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
}
END_TEST

START_TEST(stop_ends_the_opening)
{
	sqlite3 *db = outsider(path);

	conf.database.connect_timeout_ms = 3600 * 1000;
	execute_on(db, "CREATE TABLE t (a); BEGIN EXCLUSIVE");
	stop();
	ck_assert_int_eq(open_store(), STORE_STOPPED);
	ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
}
END_TEST

START_TEST(stop_ends_a_long_batch)
{
	must_open();
	stop();
	ck_assert_int_eq(put_many(1, 20000), STORE_STOPPED);
	assert_query(path, COUNT_METRICS, "0\n");
	assert_query(path, COUNT_LEDGER, "0\n");
}
END_TEST

START_TEST(readers_do_not_disturb)
{
	sqlite3 *db;

	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	db = outsider(path);
	execute_on(db, "BEGIN; " COUNT_METRICS);
	ck_assert_int_eq(put(2, three, 3), STORE_OK);
	assert_query(path, COUNT_METRICS, "6\n");
	ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
}
END_TEST

/* The kernel's file size limit stands in for a disk that takes no more. */
START_TEST(disk_takes_no_more)
{
	struct rlimit limit;
	rlim_t before;

	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	ck_assert(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
	before = limit.rlim_cur;
	limit.rlim_cur = 256 * 1024;
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	ck_assert_int_eq(put_many(2, 20000), STORE_RETRY);
	limit.rlim_cur = before;
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	reopen();
	assert_query(path, COUNT_METRICS, "3\n");
	ck_assert_int_eq(put_many(2, 20000), STORE_OK);
	ck_assert(!result.repeated);
	assert_query(path, COUNT_METRICS, "20003\n");
}
END_TEST

/* Rows in a file without a name would be lost at the next start. */
START_TEST(file_deleted_while_open)
{
	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(put(2, three, 3), STORE_RETRY);
	ck_assert(err.reconnect);
	/* not even what the lost ledger knows */
	ck_assert_int_eq(put(1, three, 3), STORE_RETRY);
	reopen();
	ck_assert_int_eq(put(2, three, 3), STORE_OK);
	assert_query(path, COUNT_METRICS, "3\n");
}
END_TEST

/* ---- the ledger ---- */

#define LEDGER "SELECT collector, batch FROM metric_collectord_batches ORDER BY 1, 2"

START_TEST(maintain_settles_old_rows_below_the_floor)
{
	must_open();
	for (uint64_t i = 1; i <= 4; i++)
		ck_assert_int_eq(put(i, three, 3), STORE_OK);
	execute(path,
		"UPDATE metric_collectord_batches SET collector = '" OTHER "' WHERE batch = 1");
	ck_assert_int_eq(maintain(COLLECTOR, 4), STORE_OK);
	assert_query(path, COUNT_LEDGER, "4\n"); /* too young */
	execute(path, "UPDATE metric_collectord_batches SET "
		      "stored_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-25 hours')");
	ck_assert_int_eq(maintain(COLLECTOR, 3), STORE_OK);
	assert_query(path, LEDGER, COLLECTOR "|3\n" COLLECTOR "|4\n" OTHER "|1\n");
	ck_assert_int_eq(maintain(COLLECTOR, 0), STORE_OK);
	assert_query(path, COUNT_LEDGER, "3\n");
}
END_TEST

/* Nothing is under way: then every number is below the floor. */
START_TEST(maintain_without_a_floor_settles_everything_old)
{
	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	execute(path, "UPDATE metric_collectord_batches SET "
		      "stored_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-25 hours')");
	ck_assert_int_eq(maintain(COLLECTOR, UINT64_MAX), STORE_OK);
	assert_query(path, COUNT_LEDGER, "0\n");
}
END_TEST

/* Another collector's rows, all of them old; one that still stores keeps its own. */
START_TEST(maintain_forgets_who_is_gone)
{
	must_open();
	for (uint64_t i = 1; i <= 3; i++)
		ck_assert_int_eq(put(i, three, 3), STORE_OK);
	execute(path, "UPDATE metric_collectord_batches SET "
		      "stored_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-31 days')"
		      " WHERE batch < 3");
	execute(path,
		"UPDATE metric_collectord_batches SET collector = '" OTHER "' WHERE batch > 1");
	ck_assert_int_eq(maintain("00000000-0000-4000-8000-000000000000", 0), STORE_OK);
	assert_query(path, LEDGER, OTHER "|2\n" OTHER "|3\n");
}
END_TEST

/* Some slices of a ledger that nobody has cleaned for long. */
START_TEST(maintain_settles_many)
{
	must_open();
	ck_assert_int_eq(put(5000, three, 3), STORE_OK);
	execute(path,
		"WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 1700)"
		" INSERT INTO metric_collectord_batches SELECT collector, n, rows, bytes, rejected,"
		" min_time, max_time, CASE n WHEN 700 THEN '9999' ELSE '1999' END, opened"
		" FROM metric_collectord_batches, n");
	ck_assert_int_eq(maintain(COLLECTOR, 1501), STORE_OK);
	assert_query(path, COUNT_LEDGER, "202\n");
	assert_query(path, "SELECT min(batch) FROM metric_collectord_batches", "700\n");
}
END_TEST

START_TEST(stop_ends_a_long_cleaning)
{
	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	execute(path, "UPDATE metric_collectord_batches SET stored_at = '1999'");
	stop();
	ck_assert_int_eq(maintain(COLLECTOR, UINT64_MAX), STORE_STOPPED);
}
END_TEST

START_TEST(missing_batches)
{
	uint64_t numbers[] = {1, 2, 3, 4, 5};
	size_t n = COUNT(numbers);

	must_open();
	ck_assert_int_eq(put(2, three, 3), STORE_OK);
	ck_assert_int_eq(put(5, three, 3), STORE_OK);
	ck_assert_int_eq(missing(COLLECTOR, numbers, &n), STORE_OK);
	ck_assert_uint_eq(n, 3);
	ck_assert_uint_eq(numbers[0], 1);
	ck_assert_uint_eq(numbers[1], 3);
	ck_assert_uint_eq(numbers[2], 4);
	n = 0;
	ck_assert_int_eq(missing(COLLECTOR, numbers, &n), STORE_OK);
	ck_assert_uint_eq(n, 0);
	n = 1;
	numbers[0] = 2;
	ck_assert_int_eq(missing(OTHER, numbers, &n), STORE_OK);
	ck_assert_uint_eq(n, 1);
}
END_TEST

static void
add_tests(TCase *tc)
{
	tcase_add_test(tc, rows_and_ledger);
	tcase_add_test(tc, many_rows_and_the_longest_name);
	tcase_add_loop_test(tc, time_text, 0, (int)COUNT(times));
	tcase_add_test(tc, time_text_back_and_forth);
	tcase_add_test(tc, special_values);
	tcase_add_test(tc, repeated_batch);
	tcase_add_test(tc, repeated_batch_that_shrank);
	tcase_add_test(tc, conflict_opened_at_another_time);
	tcase_add_test(tc, batch_whose_file_does_not_know_the_instant);
	tcase_add_test(tc, ledger_row_of_before_that_lacks_the_instant);
	tcase_add_test(tc, conflict_more_rows);
	tcase_add_test(tc, conflict_older);
	tcase_add_test(tc, conflict_newer);
	tcase_add_test(tc, check_refuses_rows);
	tcase_add_test(tc, not_null_refuses_nan);
	tcase_add_test(tc, all_rows_refused);
	tcase_add_test(tc, trigger_that_rolls_back);
	tcase_add_test(tc, locked_by_another);
	tcase_add_test(tc, stop_ends_the_wait_for_a_lock);
	tcase_add_test(tc, stop_ends_the_opening);
	tcase_add_test(tc, stop_ends_a_long_batch);
	tcase_add_test(tc, readers_do_not_disturb);
	tcase_add_test(tc, disk_takes_no_more);
	tcase_add_test(tc, file_deleted_while_open);
	tcase_add_test(tc, maintain_settles_old_rows_below_the_floor);
	tcase_add_test(tc, maintain_forgets_who_is_gone);
	tcase_add_test(tc, maintain_settles_many);
	tcase_add_test(tc, stop_ends_a_long_cleaning);
	tcase_add_test(tc, maintain_without_a_floor_settles_everything_old);
	tcase_add_test(tc, missing_batches);
}

int
main(void)
{
	Suite *s = suite_create("sqlite");
	TCase *tc = tcase_create("sqlite");
	SRunner *sr = srunner_create(s);
	int failed;

	suite_add_tcase(s, tc);
	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	add_tests(tc);

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
