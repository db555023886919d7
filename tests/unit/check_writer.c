/* check_writer.c - writer threads: what they store, stops in every phase, troubles. */
#include <check.h>
#include <dirent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/store.h"
#include "writer_fixture.h"

/* ---- everything in order ---- */

START_TEST(stores_what_is_queued)
{
	batch(10);
	start();
	batch(20);
	until(stored, 30);
	batch(5);
	until(stored, 35);
	ck_assert_uint_eq(stats.buffered, 0);
	ck_assert_uint_eq(stats.batches_stored, 3);
	ck_assert_int_eq(writers_status(writers), WRITERS_OK);
	assert_query(path, COUNT_METRICS, "35\n");
	assert_query(path, COUNT_TWICE, "0\n");
}
END_TEST

START_TEST(logs_a_stored_batch)
{
	keep_log();
	start();
	batch(3);
	until(stored, 3);
	ck_assert(logged("\"event\":\"batch_stored\""));
	ck_assert(logged("\"rows\":3,\"bytes\":63,\"seconds\":"));
	ck_assert(!logged("repeated"));
	ck_assert(!logged("rejected"));
}
END_TEST

START_TEST(counts_refused_rows)
{
	execute(path, "CREATE TABLE metrics (time TEXT, metric_name TEXT, "
		      "value REAL CHECK (value < 7))");
	keep_log();
	start();
	batch(10);
	until(nothing_buffered, 0);
	ck_assert_uint_eq(stats.stored, 7);
	ck_assert_uint_eq(stats.rejected, 3);
	ck_assert(logged("\"event\":\"row_rejected\""));
	ck_assert(logged("\"rejected\":3"));
}
END_TEST

/* The answer to an earlier commit was lost: here, an earlier store_put() of the test's. */
START_TEST(recognises_a_repeated_batch)
{
	static const atomic_int running = 0;
	struct store *s;
	struct store_error err;
	struct store_result result;
	struct batch_view view;
	struct batch *b;

	start(); /* there must be a table */
	until(has_status, WRITERS_OK);
	stop();
	batch(4);
	b = queue_take(queue, &running, 0);
	ck_assert_ptr_nonnull(b);
	queue_view(queue, b, &view);
	ck_assert_int_eq(store_open(&conf, -1, &s, &err), STORE_OK);
	ck_assert_int_eq(store_put(s, &view, &result, &err), STORE_OK);
	store_close(s);
	queue_return(queue, b, 0);

	keep_log();
	start();
	until(stored, 4);
	ck_assert_uint_eq(stats.batches_repeated, 1);
	ck_assert(logged("\"repeated\":true"));
	assert_query(path, COUNT_METRICS, "4\n");
}
END_TEST

/* ---- stop, in every phase ---- */

START_TEST(stops_at_once)
{
	start();
	stop();
}
END_TEST

START_TEST(stops_while_idle)
{
	start();
	until(has_status, WRITERS_OK);
	stop();
}
END_TEST

START_TEST(stops_while_it_opens)
{
	sqlite3 *db = lock("CREATE TABLE t (a); BEGIN EXCLUSIVE");

	conf.database.connect_timeout_ms = 3600 * 1000;
	start();
	stop();
	unlock(db);
}
END_TEST

START_TEST(stops_while_it_stores)
{
	static const atomic_int running = 0;
	struct batch *b;
	sqlite3 *db;

	conf.database.connect_timeout_ms = 3600 * 1000;
	start();
	until(has_status, WRITERS_OK);
	db = lock("BEGIN IMMEDIATE");
	batch(10);
	/* until the writer has it, and waits for the lock */
	while ((b = queue_take(queue, &running, 0)) != NULL) {
		queue_return(queue, b, 0);
		(void)sched_yield();
	}
	stop();
	ck_assert_uint_eq(stats.buffered, 10);
	unlock(db);

	start();
	until(stored, 10);
	assert_query(path, COUNT_METRICS, "10\n");
}
END_TEST

START_TEST(stops_while_it_backs_off)
{
	ck_assert_int_eq(mkdir(path, 0700), 0);
	conf.batch.interval_ms = 3600 * 1000;
	batch(10);
	start();
	until(has_status, WRITERS_HELD);
	stop();
	ck_assert_uint_eq(stats.buffered, 10);
}
END_TEST

/* A reload: at any moment, on the same queue. */
START_TEST(pools_follow_each_other)
{
	for (unsigned i = 1; i <= 20; i++) {
		start();
		batch(i);
		stop();
	}
	start();
	until(stored, 210);
	assert_query(path, COUNT_METRICS, "210\n");
	assert_query(path, COUNT_TWICE, "0\n");
}
END_TEST

/* ---- troubles ---- */

START_TEST(tries_again_while_locked)
{
	sqlite3 *db;

	keep_log();
	start();
	until(has_status, WRITERS_OK);
	db = lock("BEGIN IMMEDIATE");
	batch(10);
	until(has_status, WRITERS_UNAVAILABLE);
	ck_assert_uint_eq(stats.stored, 0);
	unlock(db);
	until(stored, 10);
	until(has_status, WRITERS_OK);
	ck_assert_uint_ge(stats.store_retries, 1);
	ck_assert(logged("\"event\":\"database_unavailable\""));
	ck_assert(logged("\"level\":\"warning\""));
	ck_assert(!logged("\"level\":\"err"));
	assert_query(path, COUNT_METRICS, "10\n");
}
END_TEST

START_TEST(opens_late)
{
	sqlite3 *db = lock("CREATE TABLE t (a); BEGIN EXCLUSIVE");

	batch(10);
	start();
	until(has_status, WRITERS_UNAVAILABLE);
	unlock(db);
	until(stored, 10);
	ck_assert_int_eq(writers_status(writers), WRITERS_OK);
}
END_TEST

START_TEST(held_at_open_then_fixed)
{
	keep_log();
	ck_assert_int_eq(mkdir(path, 0700), 0);
	batch(10);
	start();
	until(has_status, WRITERS_HELD);
	ck_assert(logged("\"event\":\"database_unavailable\""));
	ck_assert(logged("\"hint\":"));
	ck_assert_int_eq(rmdir(path), 0);
	until(stored, 10);
	until(has_status, WRITERS_OK);
}
END_TEST

START_TEST(held_while_storing_then_fixed)
{
	keep_log();
	start();
	until(has_status, WRITERS_OK);
	execute(path, "ALTER TABLE metrics RENAME TO elsewhere");
	batch(10);
	until(has_status, WRITERS_HELD);
	ck_assert(logged("\"event\":\"batch_held\""));
	ck_assert(logged("\"hint\":"));
	ck_assert_uint_eq(stats.buffered, 10);
	execute(path, "ALTER TABLE elsewhere RENAME TO metrics");
	until(stored, 10);
	until(has_status, WRITERS_OK);
}
END_TEST

/* No batch comes to prove that it works again: a check does. */
START_TEST(recovers_without_a_batch)
{
	static const atomic_int running = 0;
	struct batch *b;
	sqlite3 *db;

	start();
	until(has_status, WRITERS_OK);
	db = lock("BEGIN IMMEDIATE");
	batch(10);
	until(has_status, WRITERS_UNAVAILABLE);
	/* as another thread would */
	while ((b = queue_take(queue, &running, 0)) == NULL)
		(void)sched_yield();
	unlock(db);
	until(has_status, WRITERS_OK);
	queue_return(queue, b, 0);
	until(stored, 10);
}
END_TEST

/* One batch waits for the operator; the others must not. */
START_TEST(held_batch_holds_up_no_other)
{
	char sql[256];

	keep_log();
	start();
	until(has_status, WRITERS_OK);
	(void)snprintf(sql, sizeof(sql),
		       "INSERT INTO metric_collectord_batches VALUES ('%s', 1, 1, 1, 0, "
		       "'1999', '1999', '1999', 1)",
		       queue_collector(queue));
	execute(path, sql);
	batch(10);
	batch(5);
	until(stored, 5);
	ck_assert_int_eq(writers_status(writers), WRITERS_OK);
	execute(path, "DELETE FROM metric_collectord_batches WHERE batch = 1");
	until(stored, 15);
	/* the batch's own delay, longer than any back-off here */
	ck_assert(logged("\"event\":\"ledger_conflict\""));
	ck_assert(logged("\"retry_in\":5"));
	assert_query(path, COUNT_TWICE, "0\n");
}
END_TEST

/* ---- the janitor ---- */

/* It cleans a ledger of very many old rows, a little at a time; batches go in between. */
START_TEST(batches_do_not_wait_for_a_long_cleaning)
{
	char sql[512], left[QUERY_MAX];

	start(); /* there must be a table */
	until(has_status, WRITERS_OK);
	stop();
	(void)snprintf(
	    sql, sizeof(sql),
	    "WITH RECURSIVE n (n) AS (VALUES (-100000) UNION ALL SELECT n + 1 FROM n WHERE n < -1)"
	    " INSERT INTO metric_collectord_batches"
	    " SELECT '%s', n, 1, 1, 0, '1999', '1999', '1999', 1 FROM n",
	    queue_collector(queue));
	execute(path, sql);
	conf.database.connect_timeout_ms = 10000;
	start();
	for (unsigned i = 1; i <= 10; i++) {
		batch(10);
		until(stored, i * 10);
	}
	query(path, "SELECT count(*) FROM metric_collectord_batches WHERE batch < 0", left);
	ck_assert_uint_gt(strtoul(left, NULL, 10), 0);
	stop(); /* in the midst of it */
}
END_TEST

/* The file is gone, with its tables: the writer finds that out, and the janitor makes new ones. */
START_TEST(makes_anew_what_is_missing)
{
	keep_log();
	start();
	batch(10);
	until(stored, 10);
	ck_assert_int_eq(unlink(path), 0);
	batch(5);
	until(stored, 15);
	until(has_status, WRITERS_OK);
	assert_query(path, COUNT_METRICS, "5\n");
}
END_TEST

START_TEST(says_when_housekeeping_is_done)
{
	keep_log();
	start();
	until(has_status, WRITERS_OK);
	while (!logged("\"event\":\"maintenance_done\""))
		(void)sched_yield();
}
END_TEST

/* ---- threads ---- */

static void
read_line(const char *tid, const char *file, const char *prefix, char out[64])
{
	char name[300], line[256];
	FILE *f;

	out[0] = '\0';
	(void)snprintf(name, sizeof(name), "/proc/self/task/%s/%s", tid, file);
	f = fopen(name, "r");
	if (!f)
		return; /* it has ended meanwhile */
	while (fgets(line, sizeof(line), f))
		if (strncmp(line, prefix, strlen(prefix)) == 0)
			(void)snprintf(out, 64, "%.63s", line);
	(void)fclose(f);
}

/* SQLite has one writer, whatever database.connections says; and there is the janitor. */
START_TEST(two_threads_without_signals)
{
	unsigned writer = 0, janitor = 0;
	DIR *dir;
	struct dirent *e;

	conf.database.connections = 8;
	start();
	until(has_status, WRITERS_OK);
	dir = opendir("/proc/self/task");
	ck_assert_ptr_nonnull(dir);
	while ((e = readdir(dir)) != NULL) {
		char name[64], blocked[64];

		read_line(e->d_name, "comm", "", name);
		writer += strncmp(name, "writer-", 7) == 0;
		janitor += strcmp(name, "janitor\n") == 0;
		if (strncmp(name, "writer-", 7) != 0 && strcmp(name, "janitor\n") != 0)
			continue;
		read_line(e->d_name, "status", "SigBlk:", blocked);
		/* HUP, INT, USR1, USR2, TERM */
		ck_assert_uint_eq(strtoull(blocked + strlen("SigBlk:"), NULL, 16) & 0x4a03, 0x4a03);
	}
	(void)closedir(dir);
	ck_assert_uint_eq(writer, 1);
	ck_assert_uint_eq(janitor, 1);
}
END_TEST

START_TEST(status_names)
{
	ck_assert_str_eq(writers_status_name(WRITERS_CONNECTING), "connecting");
	ck_assert_str_eq(writers_status_name(WRITERS_OK), "ok");
	ck_assert_str_eq(writers_status_name(WRITERS_UNAVAILABLE), "unavailable");
	ck_assert_str_eq(writers_status_name(WRITERS_HELD), "held");
}
END_TEST

static void
add_tests(TCase *tc)
{
	tcase_add_test(tc, stores_what_is_queued);
	tcase_add_test(tc, logs_a_stored_batch);
	tcase_add_test(tc, counts_refused_rows);
	tcase_add_test(tc, recognises_a_repeated_batch);
	tcase_add_test(tc, stops_at_once);
	tcase_add_test(tc, stops_while_idle);
	tcase_add_test(tc, stops_while_it_opens);
	tcase_add_test(tc, stops_while_it_stores);
	tcase_add_test(tc, stops_while_it_backs_off);
	tcase_add_test(tc, pools_follow_each_other);
	tcase_add_test(tc, tries_again_while_locked);
	tcase_add_test(tc, opens_late);
	tcase_add_test(tc, held_at_open_then_fixed);
	tcase_add_test(tc, held_while_storing_then_fixed);
	tcase_add_test(tc, recovers_without_a_batch);
	tcase_add_test(tc, held_batch_holds_up_no_other);
	tcase_add_test(tc, batches_do_not_wait_for_a_long_cleaning);
	tcase_add_test(tc, makes_anew_what_is_missing);
	tcase_add_test(tc, says_when_housekeeping_is_done);
	tcase_add_test(tc, two_threads_without_signals);
	tcase_add_test(tc, status_names);
}

int
main(void)
{
	Suite *s = suite_create("writer");
	TCase *tc = tcase_create("writer");
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
