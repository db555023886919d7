/*
 * check_sqlite_file.c - the default database's file, spoilt in every way: an error with a way out,
 * and nothing is changed or thrown away.
 */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "sqlite_fixture.h"

static void
open_is_held(const char *says, const char *hint)
{
	ck_assert_int_eq(open_store(), STORE_HOLD);
	ck_assert_ptr_null(store);
	ck_assert(err.reconnect);
	ck_assert_ptr_nonnull(err.hint);
	ck_assert_msg(strstr(err.text, says) != NULL, "%s", err.text);
	ck_assert_msg(strstr(err.hint, hint) != NULL, "%s", err.hint);
}

static void
write_at(const char *name, off_t at, int byte, size_t n)
{
	char *junk = malloc(n);
	int fd = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	memset(junk, byte, n);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, junk, n, at), (ssize_t)n);
	ck_assert_int_eq(close(fd), 0);
	free(junk);
}

static off_t
size_of(const char *name)
{
	struct stat sb;

	ck_assert_int_eq(stat(name, &sb), 0);
	return sb.st_size;
}

/* ---- its bytes ---- */

START_TEST(no_database)
{
	write_at(path, 0, _i ? 'x' : 0, 4096);
	open_is_held("not a database", "mv FILE FILE.old");
	ck_assert_int_eq(size_of(path), 4096);
}
END_TEST

static const off_t cuts[] = {2, 15, 16, 50, 99, 100, 101, 511, 512, 600};

/* What is left of a header tells SQLite more, or less. */
START_TEST(truncated_within_the_first_page)
{
	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	store_close(store);
	store = NULL;
	ck_assert_int_eq(truncate(path, cuts[_i]), 0);
	ck_assert_int_eq(open_store(), STORE_HOLD);
	ck_assert_ptr_nonnull(strstr(err.hint, "mv FILE FILE.old"));
	ck_assert_int_eq(size_of(path), cuts[_i]);
}
END_TEST

/* Once it is out of the way, what waits is stored. */
START_TEST(the_way_out)
{
	char old[160];

	write_at(path, 0, 'x', 4096);
	open_is_held("not a database", "mv FILE FILE.old");
	(void)snprintf(old, sizeof(old), "%s.old", path);
	ck_assert_int_eq(rename(path, old), 0);
	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	assert_query(path, COUNT_METRICS, "3\n");
}
END_TEST

START_TEST(empty_is_a_new_one)
{
	write_at(path, 0, 0, 1);
	ck_assert_int_eq(truncate(path, 0), 0);
	conf.database.create = false;
	open_is_held("is empty", "database.create");
	ck_assert_int_eq(size_of(path), 0);
	conf.database.create = true;
	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
}
END_TEST

/* SQLite would delete the -wal. */
START_TEST(empty_with_a_wal)
{
	char wal[160];

	must_open();
	store_close(store);
	store = NULL;
	(void)snprintf(wal, sizeof(wal), "%s-wal", path);
	write_at(wal, 0, 'w', 5000);
	ck_assert_int_eq(truncate(path, _i), 0); /* SQLite takes one byte for none */
	open_is_held("is empty, but its -wal", "mv FILE-wal");
	ck_assert_int_eq(size_of(path), _i);
	ck_assert_int_eq(size_of(wal), 5000);
}
END_TEST

/* ---- what is no file ---- */

static void
make_directory(const char *name)
{
	ck_assert_int_eq(mkdir(name, 0700), 0);
}

static void
make_fifo(const char *name)
{
	ck_assert_int_eq(mkfifo(name, 0600), 0);
}

static void
make_socket(const char *name)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", name);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	ck_assert_int_eq(close(fd), 0);
}

static void
make_device(const char *name)
{
	ck_assert_int_eq(symlink("/dev/null", name), 0);
}

static void
make_loop(const char *name)
{
	ck_assert_int_eq(symlink(name, name), 0);
}

static const struct {
	void (*make)(const char *name);
	const char *suffix;
	const char *says;
	const char *hint;
} others[] = {
    {make_directory, "", "metrics.db: is a directory", "mv PATH PATH.old"},
    {make_fifo, "", "metrics.db: is a FIFO", "mv PATH PATH.old"},
    {make_socket, "", "metrics.db: is a socket", "mv PATH PATH.old"},
    {make_device, "", "metrics.db: is a device", "mv PATH PATH.old"},
    {make_loop, "", "Too many levels of symbolic links", "database file"},
    {make_directory, "-wal", "metrics.db-wal: is a directory", "mv PATH PATH.old"},
    {make_fifo, "-wal", "metrics.db-wal: is a FIFO", "mv PATH PATH.old"},
    {make_directory, "-shm", "metrics.db-shm: is a directory", "mv PATH PATH.old"},
    {make_fifo, "-journal", "metrics.db-journal: is a FIFO", "mv PATH PATH.old"},
};

START_TEST(no_file)
{
	char name[160];

	if (*others[_i].suffix)
		execute(path, "CREATE TABLE t (a)");
	(void)snprintf(name, sizeof(name), "%s%s", path, others[_i].suffix);
	others[_i].make(name);
	open_is_held(others[_i].says, others[_i].hint);
	ck_assert_int_eq(remove(name), 0);
	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
}
END_TEST

/* ---- whose it is ---- */

START_TEST(another_applications_file)
{
	execute(path, "PRAGMA application_id = 1196444487; CREATE TABLE theirs (a)");
	open_is_held("another application", "PRAGMA application_id = 0");
	assert_query(path, "SELECT count(*) FROM sqlite_master", "1\n");
	assert_query(path, "PRAGMA journal_mode", "delete\n");
	execute(path, "PRAGMA application_id = 0");
	must_open();
	execute(path, "PRAGMA application_id = 1196444487"); /* ours is in it by now */
	reopen();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
}
END_TEST

START_TEST(a_new_file_is_marked)
{
	must_open();
	assert_query(path, "PRAGMA application_id", "1296256844\n"); /* "MCOL" */
	assert_query(path, "PRAGMA auto_vacuum", "2\n");
	reopen();
	assert_query(path, "PRAGMA journal_mode", "wal\n");
}
END_TEST

START_TEST(an_old_file_stays_as_it_is)
{
	execute(path, "CREATE TABLE theirs (a)");
	must_open();
	assert_query(path, "PRAGMA application_id", "0\n");
	assert_query(path, "PRAGMA auto_vacuum", "0\n");
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("sqlite_file");
	TCase *tc = tcase_create("sqlite_file");
	SRunner *sr = srunner_create(s);
	int failed;

	suite_add_tcase(s, tc);
	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, no_database, 0, 2);
	tcase_add_loop_test(tc, truncated_within_the_first_page, 0, (int)COUNT(cuts));
	tcase_add_test(tc, the_way_out);
	tcase_add_test(tc, empty_is_a_new_one);
	tcase_add_loop_test(tc, empty_with_a_wal, 0, 2);
	tcase_add_loop_test(tc, no_file, 0, (int)COUNT(others));
	tcase_add_test(tc, another_applications_file);
	tcase_add_test(tc, a_new_file_is_marked);
	tcase_add_test(tc, an_old_file_stays_as_it_is);

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
