/*
 * check_sqlite_retention.c - old rows go, whatever else is in the table; not by a clock that has
 * jumped, and not while a reader lets the -wal grow.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sqlite_fixture.h"
#include "store/sqlite/sqlite_db.h"

#define DAY_US (86400 * UINT64_C(1000000))
#define OLD "-40 days"
#define FRESH "-1 hours"

/* So many rows of a name, a millisecond apart. */
static void
fill(const char *name, const char *age, unsigned n)
{
	char sql[400];

	if (n == 0)
		return;
	(void)snprintf(
	    sql, sizeof(sql),
	    "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < %u)"
	    " INSERT INTO metrics SELECT strftime('%%Y-%%m-%%dT%%H:%%M:%%f000Z', 'now', '%s',"
	    " (n / 1000.0) || ' seconds'), '%s', n FROM n",
	    n, age, name);
	execute(path, sql);
}

/* A file with n old rows and 10 fresh ones, and a janitor that is to delete the old. */
static void
prepare(unsigned n)
{
	conf.table.retention_us = 30 * DAY_US;
	must_open();
	fill("old", OLD, n);
	fill("fresh", FRESH, 10);
}

static void
must_maintain(void)
{
	ck_assert_msg(maintain(COLLECTOR, UINT64_MAX) == STORE_OK, "%s", err.text);
}

#define assert_rows(expected) assert_query(path, COUNT_METRICS, expected)
#define COUNT_OLD "SELECT count(*) FROM metrics WHERE metric_name = 'old'"

/* ---- rows ---- */

START_TEST(old_rows_go)
{
	prepare(5000);
	must_maintain();
	assert_query(path, "SELECT DISTINCT metric_name FROM metrics", "fresh\n");
	assert_rows("10\n");
}
END_TEST

START_TEST(without_retention_none_go)
{
	prepare(10);
	conf.table.retention_us = 0;
	must_maintain();
	assert_rows("20\n");
}
END_TEST

START_TEST(many_with_the_same_time)
{
	prepare(0);
	execute(path, "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < "
		      "30000) INSERT INTO metrics SELECT '2001-01-01T00:00:00.000000Z', 'old', n "
		      "FROM n");
	must_maintain();
	assert_rows("10\n");
}
END_TEST

/* Numbers are smaller than any text; and who says what they count? */
START_TEST(times_that_others_have_written_stay)
{
	execute(path, "CREATE TABLE metrics (time, metric_name TEXT, value REAL)");
	prepare(5000);
	execute(path, "INSERT INTO metrics VALUES (1000000000, 'theirs', 1), (1e9, 'theirs', 1), "
		      "(NULL, 'theirs', 1), ('2001-01-01 00:00:00', 'theirs', 1), "
		      "('1000000000', 'theirs', 1), (x'00', 'theirs', 1), ('', 'theirs', 1)");
	must_maintain();
	assert_query(path, "SELECT metric_name, count(*) FROM metrics GROUP BY 1",
		     "fresh|10\ntheirs|7\n");
}
END_TEST

static const char *const refusals[] = {"ABORT, 'no'", "FAIL, 'no'", "ROLLBACK, 'no'", "IGNORE"};

/* A row that has to stay does not keep the others. */
START_TEST(a_trigger_refuses_some)
{
	char sql[200];

	prepare(3000);
	fill("kept", OLD, 5);
	fill("kept", "-35 days", 5);
	fill("old", "-34 days", 1000);
	(void)snprintf(sql, sizeof(sql),
		       "CREATE TRIGGER keep BEFORE DELETE ON metrics WHEN old.metric_name = 'kept' "
		       "BEGIN SELECT RAISE(%s); END",
		       refusals[_i]);
	execute(path, sql);
	must_maintain();
	assert_query(path, "SELECT metric_name, count(*) FROM metrics GROUP BY 1",
		     "fresh|10\nkept|10\n");
}
END_TEST

START_TEST(stop_ends_it)
{
	prepare(10);
	stop();
	ck_assert_int_eq(maintain(COLLECTOR, UINT64_MAX), STORE_STOPPED);
}
END_TEST

START_TEST(a_table_without_rowids)
{
	execute(path, "CREATE TABLE metrics (time TEXT, metric_name TEXT, value REAL, "
		      "PRIMARY KEY (time, metric_name)) WITHOUT ROWID");
	conf.table.retention_us = 30 * DAY_US;
	must_open();
	fill("fresh", FRESH, 1);
	ck_assert_int_eq(maintain(COLLECTOR, UINT64_MAX), STORE_HOLD);
	ck_assert(!err.setup); /* which would be asked for again and again */
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
}
END_TEST

/* ---- the file ---- */

static int
number(const char *sql)
{
	char out[QUERY_MAX];

	query(path, sql, out);
	return (int)strtol(out, NULL, 10);
}

static off_t
size_of(const char *name)
{
	struct stat sb;

	ck_assert_int_eq(stat(name, &sb), 0);
	return sb.st_size;
}

START_TEST(a_new_file_becomes_smaller)
{
	int before;

	prepare(30000);
	before = number("PRAGMA page_count");
	must_maintain();
	assert_rows("10\n");
	ck_assert_int_lt(number("PRAGMA page_count"), before / 2);
	ck_assert_int_le(number("PRAGMA freelist_count"), 256);
	ck_assert_int_lt(size_of(path), before * 4096 / 2);
	assert_query(path, "PRAGMA integrity_check", "ok\n");
}
END_TEST

START_TEST(an_old_file_keeps_its_pages)
{
	execute(path, "CREATE TABLE before (a)");
	prepare(30000);
	must_maintain();
	assert_rows("10\n");
	ck_assert_int_gt(number("PRAGMA freelist_count"), 256);
}
END_TEST

/* ---- the -wal ---- */

static char wal[160];

static off_t
wal_size(void)
{
	return size_of(wal);
}

/* A reader that stays, and a -wal that has grown for its sake. */
static sqlite3 *
reader_with_wal(off_t size)
{
	sqlite3 *db = outsider(path);

	execute_on(db, "BEGIN; " COUNT_METRICS);
	ck_assert_int_eq(put(1, three, 1), STORE_OK);
	(void)snprintf(wal, sizeof(wal), "%s-wal", path);
	ck_assert_int_eq(truncate(wal, size), 0);
	return db;
}

START_TEST(retention_waits_for_a_reader)
{
	sqlite3 *db;

	prepare(5000);
	db = reader_with_wal(SQLITE_WAL_SMALL + 1);
	must_maintain();
	assert_query(path, COUNT_OLD, "5000\n");
	ck_assert_int_eq(put(2, three, 1), STORE_OK); /* batches do not */
	ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
	must_maintain();
	assert_query(path, COUNT_OLD, "0\n");
	ck_assert_int_lt(wal_size(), SQLITE_WAL_SMALL);
}
END_TEST

START_TEST(batches_wait_for_a_reader_at_last)
{
	sqlite3 *db;

	prepare(0);
	db = reader_with_wal((off_t)SQLITE_WAL_MAX + 1);
	ck_assert_int_eq(put(2, three, 1), STORE_RETRY);
	ck_assert(!err.reconnect);
	ck_assert_ptr_nonnull(strstr(err.text, "-wal"));
	ck_assert_ptr_nonnull(strstr(err.hint, "fuser"));
	ck_assert_int_eq(store_check(store, &err), STORE_RETRY);
	ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
	ck_assert_int_eq(put(2, three, 1), STORE_OK);
	ck_assert_int_lt(wal_size(), SQLITE_WAL_SMALL);
	assert_rows("12\n");
}
END_TEST

/* Without retention, too. */
START_TEST(the_wal_is_emptied_once_the_reader_is_gone)
{
	sqlite3 *db;

	must_open();
	db = reader_with_wal(SQLITE_WAL_SMALL + 1);
	must_maintain();
	ck_assert_int_gt(wal_size(), SQLITE_WAL_SMALL);
	ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
	must_maintain();
	ck_assert_int_lt(wal_size(), SQLITE_WAL_SMALL);
}
END_TEST

/* ---- the clock ---- */

#define PAUSE "SELECT pause_ms FROM metric_collectord_clock"
#define A_DAY "86400000\n"
#define SET "UPDATE metric_collectord_clock SET "
#define SEEN(change) SET "seen_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '" change "')"
#define OTHER_BOOT ", boot = 'another'"

/* The janitor of the next start. */
static void
restart(void)
{
	upkeep_free(upkeep);
	ck_assert_int_eq(upkeep_new(&conf, stop_fd, &upkeep), 0);
}

/* A clock that has been looked at, and a ledger row and metrics that are old. */
static void
prepare_clock(void)
{
	prepare(0);
	must_maintain();
	assert_query(path, PAUSE, "0\n");
	fill("old", OLD, 10);
	ck_assert_int_eq(put(1, three, 1), STORE_OK);
	execute(path, "UPDATE metric_collectord_batches SET "
		      "stored_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '-40 days')");
}

#define KEPT "SELECT (" COUNT_OLD "), (SELECT count(*) FROM metric_collectord_batches)"

static const struct {
	const char *sql;
	bool pauses;
} jumps[] = {
    {SEEN("-400 days"), true},
    {SEEN("+400 days"), true},
    {SEEN("-2 minutes"), true},
    {SEEN("+2 minutes"), true},
    {SEEN("-30 seconds"), false},
    {SEEN("+30 seconds"), false},
    {SEEN("-400 days") OTHER_BOOT, true},
    {SEEN("+5 minutes") OTHER_BOOT, true},
    {SEEN("-40 days") OTHER_BOOT, true},
    {SEEN("-12 hours") OTHER_BOOT, false},
    /* an hour of running, in which the clock went on for an hour, or stood still */
    {SEEN("-1 hours") ", boot_ms = boot_ms - 3600000", false},
    {SET "boot_ms = boot_ms - 3600000", true},
    /* of the machine's run before, under a name that is not known */
    {SEEN("-12 hours") ", boot = ''", false},
    {SEEN("-2 days") ", boot = ''", true},
    {SET "boot_ms = boot_ms + 86400000", false},
};

START_TEST(a_jump)
{
	prepare_clock();
	execute(path, jumps[_i].sql);
	if (strstr(jumps[_i].sql, "boot")) /* a few of them within the same run */
		restart();
	must_maintain();
	assert_query(path, KEPT, jumps[_i].pauses ? "10|1\n" : "0|0\n");
	assert_query(path, PAUSE, jumps[_i].pauses ? A_DAY : "0\n");
}
END_TEST

/* Also over restarts of the daemon, and of the machine, whose time off counts for nothing. */
START_TEST(a_pause_is_a_day_of_running)
{
	prepare_clock();
	execute(path, SET "pause_ms = 86400000, boot_ms = boot_ms - 43200000, seen_at = "
			  "strftime('%Y-%m-%dT%H:%M:%f000Z', seen_at, '-12 hours')");
	restart();
	must_maintain();
	assert_query(path,
		     "SELECT pause_ms BETWEEN 43000000 AND 43300000 FROM "
		     "metric_collectord_clock",
		     "1\n");
	execute(path, SEEN("-20 hours") OTHER_BOOT);
	restart();
	must_maintain();
	assert_query(path,
		     "SELECT pause_ms BETWEEN 43000000 AND 43300000 FROM "
		     "metric_collectord_clock",
		     "1\n");
	assert_query(path, KEPT, "10|1\n");
	execute(path, SET "pause_ms = 1000, boot_ms = boot_ms - 2000");
	must_maintain();
	assert_query(path, PAUSE, "0\n");
	assert_query(path, KEPT, "0|0\n");
}
END_TEST

START_TEST(a_look_that_cannot_be_written)
{
	sqlite3 *db;

	prepare_clock();
	execute(path, SEEN("-400 days"));
	db = outsider(path);
	execute_on(db, "BEGIN IMMEDIATE");
	ck_assert_int_eq(maintain(COLLECTOR, UINT64_MAX), STORE_RETRY);
	ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
	must_maintain();
	assert_query(path, KEPT, "10|1\n");
	assert_query(path, PAUSE, A_DAY);
}
END_TEST

/* Nothing shows whether the clock is right: it may be 400 days ahead since the first start. */
START_TEST(stale_rows_alone)
{
	conf.table.retention_us = 30 * DAY_US;
	must_open();
	fill("old", OLD, 10);
	must_maintain();
	assert_query(path, PAUSE, A_DAY);
	assert_rows("10\n");
	/* nor does a row of the future */
	execute(path, SET "pause_ms = 0");
	execute(path, "INSERT INTO metrics VALUES ('9999-01-01T00:00:00.000000Z', 'future', 1)");
	must_maintain();
	assert_query(path, PAUSE, A_DAY);
	assert_query(path, COUNT_OLD, "10\n");
	/* after a day, it is believed */
	execute(path, SET "pause_ms = 1000, boot_ms = boot_ms - 2000");
	must_maintain();
	assert_query(path, COUNT_OLD, "0\n");
	fill("old", OLD, 10);
	must_maintain();
	assert_query(path, COUNT_OLD, "0\n");
}
END_TEST

/* Old metrics were loaded first, and those of today come now. */
START_TEST(a_fresh_row_ends_the_pause)
{
	conf.table.retention_us = 30 * DAY_US;
	must_open();
	fill("old", OLD, 10);
	must_maintain();
	assert_query(path, PAUSE, A_DAY);
	fill("fresh", FRESH, 1);
	restart();
	must_maintain();
	assert_query(path, PAUSE, "0\n");
	assert_rows("1\n");
}
END_TEST

/* One that is stored after a jump is what the clock of before has said, or the one of now. */
START_TEST(a_fresh_row_does_not_end_another_pause)
{
	prepare_clock();
	execute(path, SEEN("-400 days"));
	must_maintain();
	fill("fresh", FRESH, 1);
	must_maintain();
	assert_query(path, "SELECT pause_ms > 86000000, stale FROM metric_collectord_clock",
		     "1|0\n");
	assert_query(path, KEPT, "10|1\n");
}
END_TEST

START_TEST(an_empty_table_tells_nothing)
{
	conf.table.retention_us = 30 * DAY_US;
	must_open();
	must_maintain();
	assert_query(path, "SELECT pause_ms, trusted FROM metric_collectord_clock", "0|0\n");
	fill("fresh", FRESH, 1);
	must_maintain();
	assert_query(path, "SELECT pause_ms, trusted FROM metric_collectord_clock", "0|1\n");
}
END_TEST

/* A file of before, and nobody may migrate it. */
START_TEST(without_the_migration)
{
	prepare(10);
	execute(path, "DROP TABLE metric_collectord_clock");
	conf.database.migrate = false;
	must_maintain();
	assert_rows("10\n");
	fill("old", OLD, 10);
	must_maintain();
	assert_rows("10\n");
}
END_TEST

/* An idle collector writes each ten minutes, not each minute. */
START_TEST(a_look_is_not_always_written)
{
	char first[QUERY_MAX], second[QUERY_MAX];

	prepare(0);
	must_maintain();
	must_maintain();
	query(path, "SELECT seen_at FROM metric_collectord_clock", first);
	must_maintain();
	query(path, "SELECT seen_at FROM metric_collectord_clock", second);
	ck_assert_str_eq(first, second);
}
END_TEST

static void
add_tests(TCase *tc)
{
	tcase_add_test(tc, old_rows_go);
	tcase_add_test(tc, without_retention_none_go);
	tcase_add_test(tc, many_with_the_same_time);
	tcase_add_test(tc, times_that_others_have_written_stay);
	tcase_add_loop_test(tc, a_trigger_refuses_some, 0, (int)COUNT(refusals));
	tcase_add_test(tc, stop_ends_it);
	tcase_add_test(tc, a_table_without_rowids);
	tcase_add_test(tc, a_new_file_becomes_smaller);
	tcase_add_test(tc, an_old_file_keeps_its_pages);
	tcase_add_test(tc, retention_waits_for_a_reader);
	tcase_add_test(tc, batches_wait_for_a_reader_at_last);
	tcase_add_test(tc, the_wal_is_emptied_once_the_reader_is_gone);
	tcase_add_loop_test(tc, a_jump, 0, (int)COUNT(jumps));
	tcase_add_test(tc, a_pause_is_a_day_of_running);
	tcase_add_test(tc, a_look_that_cannot_be_written);
	tcase_add_test(tc, stale_rows_alone);
	tcase_add_test(tc, a_fresh_row_ends_the_pause);
	tcase_add_test(tc, a_fresh_row_does_not_end_another_pause);
	tcase_add_test(tc, an_empty_table_tells_nothing);
	tcase_add_test(tc, without_the_migration);
	tcase_add_test(tc, a_look_is_not_always_written);
}

int
main(void)
{
	Suite *s = suite_create("sqlite_retention");
	TCase *tc = tcase_create("sqlite_retention");
	SRunner *sr = srunner_create(s);
	int failed;

	suite_add_tcase(s, tc);
	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, setup, teardown);
	add_tests(tc);

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
