/*
 * check_sqlite_schema.c - the embedded store on files that are there, or cannot be, and its schema.
 */
#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sqlite_fixture.h"

/* ---- what an operator must put right ---- */

static void
open_is_held(const char *says)
{
	ck_assert_int_eq(open_store(), STORE_HOLD);
	ck_assert_ptr_null(store);
	ck_assert(err.reconnect);
	ck_assert_ptr_nonnull(err.hint);
	ck_assert_msg(strstr(err.text, says) != NULL, "%s", err.text);
}

static void
overwrite(off_t at, int byte, size_t n)
{
	char *junk = malloc(n);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	memset(junk, byte, n);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, junk, n, at), (ssize_t)n);
	ck_assert_int_eq(close(fd), 0);
	free(junk);
}

/* Tests run as root, whom no permission stops; a file of a later format is read-only to all. */
START_TEST(read_only)
{
	execute(path, "CREATE TABLE t (a)");
	overwrite(18, 3, 1);
	open_is_held("read");
}
END_TEST

START_TEST(damaged)
{
	struct stat sb;

	must_open();
	ck_assert_int_eq(put_many(1, 1000), STORE_OK);
	store_close(store);
	store = NULL;
	ck_assert_int_eq(stat(path, &sb), 0);
	ck_assert_int_gt(sb.st_size, 8192);
	overwrite(4096, 0x5a, (size_t)sb.st_size - 4096);
	/* the schema's page is whole, so it may open */
	if (open_store() == STORE_OK) {
		ck_assert_int_eq(put(2, three, 3), STORE_HOLD);
		ck_assert(err.reconnect);
	}
	ck_assert_ptr_nonnull(err.hint);
	ck_assert_msg(strstr(err.text, "malformed") != NULL, "%s", err.text);
}
END_TEST

START_TEST(foreign_table)
{
	execute(path, "CREATE TABLE metrics (id INTEGER PRIMARY KEY, name TEXT)");
	open_is_held("time");
	/* and half a schema is not left behind */
	assert_query(path, "SELECT count(*) FROM sqlite_master", "1\n");
}
END_TEST

START_TEST(table_renamed_while_open)
{
	must_open();
	execute(path, "ALTER TABLE metrics RENAME TO elsewhere");
	ck_assert_int_eq(put(1, three, 3), STORE_HOLD);
	ck_assert_ptr_nonnull(strstr(err.text, "no such table"));
	ck_assert(!err.batch_only);
	execute(path, "ALTER TABLE elsewhere RENAME TO metrics");
	reopen();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	ck_assert(!result.repeated);
}
END_TEST

START_TEST(create_is_off)
{
	conf.database.create = false;
	open_is_held("no such file");
	ck_assert_int_eq(access(path, F_OK), -1);
	conf.database.create = true;
	must_open();
	conf.database.create = false;
	reopen();
}
END_TEST

/* What a writer finds, it does not make. */
START_TEST(a_store_makes_nothing)
{
	ck_assert_int_eq(store_open(&conf, stop_fd, &store, &err), STORE_HOLD);
	ck_assert(err.setup);
	ck_assert_int_eq(access(path, F_OK), -1);
	execute(path, "CREATE TABLE other (a)");
	ck_assert_int_eq(store_open(&conf, stop_fd, &store, &err), STORE_HOLD);
	ck_assert(err.setup);
	assert_query(path, "SELECT count(*) FROM sqlite_master", "1\n");
	must_open();
	execute(path, "DELETE FROM metric_collectord_migrations");
	store_close(store);
	store = NULL;
	ck_assert_int_eq(store_open(&conf, stop_fd, &store, &err), STORE_HOLD);
	ck_assert(err.setup);
}
END_TEST

START_TEST(migrate_is_off)
{
	conf.database.migrate = false;
	open_is_held("no such table");
	conf.database.migrate = true;
	must_open();
	conf.database.migrate = false;
	reopen();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
}
END_TEST

START_TEST(directory_is_made)
{
	struct stat sb;

	(void)umask(022);
	(void)snprintf(path, sizeof(path), "%s/new/metrics.db", scratch);
	must_open();
	*strrchr(path, '/') = '\0';
	ck_assert_int_eq(stat(path, &sb), 0);
	ck_assert_int_eq(sb.st_mode & 07777, 0750);
}
END_TEST

START_TEST(directories_are_not_made)
{
	(void)snprintf(path, sizeof(path), "%s/not/there/metrics.db", scratch);
	open_is_held("/not/there: No such file or directory");
}
END_TEST

/* ---- the schema ---- */

START_TEST(migrations_run_once)
{
	static const char applied[] = "SELECT flavour, version, name, length(checksum), "
				      "length(applied_at) FROM metric_collectord_migrations "
				      "ORDER BY version";
	char first[QUERY_MAX], second[QUERY_MAX];

	must_open();
	query(path, applied, first);
	ck_assert_int_eq(strncmp(first, "sqlite|1|metrics|64|27\n", 23), 0);
	reopen();
	query(path, applied, second);
	ck_assert_str_eq(first, second);
}
END_TEST

#define STARTERS 6

static void *
starter(void *arg)
{
	struct upkeep *u;
	struct store_error e;
	enum store_status status;

	(void)arg;
	if (upkeep_new(&conf, stop_fd, &u) < 0)
		return &conf;
	do
		status = set_up(u, &e);
	while (status == STORE_RETRY);
	upkeep_free(u);
	return status == STORE_OK ? NULL : &conf;
}

START_TEST(collectors_start_at_once)
{
	pthread_t threads[STARTERS];

	conf.database.connect_timeout_ms = 30000;
	for (int i = 0; i < STARTERS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, starter, NULL), 0);
	for (int i = 0; i < STARTERS; i++) {
		void *failed;

		ck_assert_int_eq(pthread_join(threads[i], &failed), 0);
		ck_assert_ptr_null(failed);
	}
	must_open();
	assert_query(path,
		     "SELECT count(*) = count(DISTINCT version) FROM metric_collectord_migrations",
		     "1\n");
}
END_TEST

START_TEST(adopts_a_table_with_rows)
{
	execute(path, "CREATE TABLE metrics (time TEXT, metric_name TEXT, value REAL, note TEXT); "
		      "INSERT INTO metrics VALUES ('2000-01-01T00:00:00.000000Z', 'old', 1, 'n')");
	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	assert_query(path, COUNT_METRICS, "4\n");
}
END_TEST

static const char *const indexed[] = {
    "SELECT time, metric_name, value FROM metrics ORDER BY time DESC LIMIT 5",
    "SELECT time, value FROM metrics WHERE metric_name = 'cpu' AND "
    "time >= '2026-01-31' AND time < '2026-02-01' ORDER BY time",
};

START_TEST(usual_queries_use_an_index)
{
	char sql[256], plan[QUERY_MAX];

	must_open();
	(void)snprintf(sql, sizeof(sql), "EXPLAIN QUERY PLAN %s", indexed[_i]);
	query(path, sql, plan);
	ck_assert_ptr_nonnull(strstr(plan, "USING INDEX"));
	ck_assert_ptr_null(strstr(plan, "TEMP B-TREE"));
}
END_TEST

START_TEST(is_in_wal_mode)
{
	must_open();
	assert_query(path, "PRAGMA journal_mode", "wal\n");
}
END_TEST

static void
add_tests(TCase *tc)
{
	tcase_add_test(tc, read_only);
	tcase_add_test(tc, damaged);
	tcase_add_test(tc, foreign_table);
	tcase_add_test(tc, table_renamed_while_open);
	tcase_add_test(tc, create_is_off);
	tcase_add_test(tc, a_store_makes_nothing);
	tcase_add_test(tc, migrate_is_off);
	tcase_add_test(tc, directory_is_made);
	tcase_add_test(tc, directories_are_not_made);
	tcase_add_test(tc, migrations_run_once);
	tcase_add_test(tc, collectors_start_at_once);
	tcase_add_test(tc, adopts_a_table_with_rows);
	tcase_add_loop_test(tc, usual_queries_use_an_index, 0, (int)COUNT(indexed));
	tcase_add_test(tc, is_in_wal_mode);
}

int
main(void)
{
	Suite *s = suite_create("sqlite_schema");
	TCase *tc = tcase_create("sqlite_schema");
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
