/* A disk that fails to sync. */
#include "spool_disk.h"

/* ---- a disk that fails ---- */

static ino_t
inode(uint64_t number)
{
	struct stat st;

	ck_assert_int_eq(stat(batch_path(number), &st), 0);
	return st.st_ino;
}

/* _i: how many calls fail; 0 is the fdatasync alone, more are those of the fresh file. */
START_TEST(a_file_whose_sync_failed_is_written_anew)
{
	struct spool *s = spool_must_open(CONF_SYNC_ALWAYS);
	uint64_t number = spool_number(s);
	struct spool_file *f = must_create(s, number);
	ino_t first = inode(number);

	disk_attach(s);
	ck_assert_int_eq(append(f, 0, 10), 0);
	disk_set((unsigned)_i + 1, false);
	for (int i = 0; i < _i; i++) {
		ck_assert_int_eq(spool_sync(s), -EIO);
		ck_assert_int_eq(append(f, 10 + (unsigned)i, 1), 0);
	}
	ck_assert_int_eq(spool_sync(s), 0);
	ck_assert_uint_ne(inode(number), first);
	ck_assert_int_eq(append(f, 10 + (unsigned)_i, 20), 0);
	ck_assert_int_eq(spool_seal(f), 0);
	sync_now(s);
	assert_holds(s, number, 0, 30 + (unsigned)_i);
	ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
	ck_assert(!exists(path_of("00000000000000000001.batch.new")));
	spool_free(s);
	s = spool_must_open(CONF_SYNC_ALWAYS);
	ck_assert_uint_eq(must_recover(s).h[0].summary.rows, 30 + (unsigned)_i);
	spool_free(s);
}
END_TEST

START_TEST(a_sealed_file_whose_sync_failed_stays_sealed)
{
	struct spool *s = spool_must_open(CONF_SYNC_INTERVAL);
	uint64_t number = put_batch(s, 3, 10);
	ino_t first = inode(number);
	struct found found;

	disk_attach(s);
	disk_set(1, false);
	sync_now(s);
	ck_assert_uint_ne(inode(number), first);
	assert_holds(s, number, 0, 30);
	spool_free(s);
	s = spool_must_open(CONF_SYNC_INTERVAL);
	found = must_recover(s);
	ck_assert_uint_eq(found.n, 1);
	ck_assert_uint_eq(found.h[0].summary.rows, 30);
	ck_assert_uint_eq(found.h[0].summary.blocks, 3);
	spool_free(s);
}
END_TEST

START_TEST(a_kept_file_whose_sync_failed_stays_kept)
{
	struct spool *s = spool_must_open(CONF_SYNC_INTERVAL);
	uint64_t number = put_batch(s, 1, 10);

	disk_attach(s);
	ck_assert_int_eq(spool_remove(s, number, true), 0);
	disk_set(1, false);
	sync_now(s);
	ck_assert(!exists(batch_path(number)));
	ck_assert_int_eq(spool_unkeep(s, number), 0);
	assert_holds(s, number, 0, 10);
	ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
	spool_free(s);
}
END_TEST

START_TEST(what_cannot_be_read_back_is_not_called_safe)
{
	struct spool *s = spool_must_open(CONF_SYNC_INTERVAL);
	uint64_t number = put_batch(s, 1, 10);
	int fd = open(batch_path(number), O_WRONLY | O_CLOEXEC);

	disk_attach(s);
	ck_assert_int_eq(pwrite(fd, "x", 1, SPOOL_FILE_HEADER + 30), 1);
	(void)close(fd);
	disk_set(1, false); /* one failure is enough for a file to be never trusted again */
	ck_assert_int_eq(spool_sync(s), -EIO);
	ck_assert_int_eq(spool_sync(s), -EIO);
	ck_assert_int_eq(spool_remove(s, number, false), 0); /* the database has it */
	sync_now(s);
	ck_assert_uint_eq(spool_bytes(s), 0);
	ck_assert_uint_eq(count_names(dir), OWN_NAMES);
	spool_free(s);
}
END_TEST

/* One that cannot be synced does not keep the others from the disk. */
START_TEST(a_failing_file_leaves_the_others_alone)
{
	struct spool *s = spool_must_open(CONF_SYNC_INTERVAL);
	uint64_t bad = put_batch(s, 1, 10);
	unsigned before = open_descriptors();
	int fd = open(batch_path(bad), O_WRONLY | O_CLOEXEC);

	ck_assert_int_eq(pwrite(fd, "x", 1, SPOOL_FILE_HEADER + 30), 1);
	(void)close(fd);
	disk_attach(s);
	disk_set(1, false);
	ck_assert_int_eq(spool_sync(s), -EIO);
	(void)put_batch(s, 1, 5);
	ck_assert_int_eq(spool_sync(s), -EIO);
	ck_assert_uint_eq(disk.files, 2); /* the failed one's, and the other's */
	ck_assert_int_eq(spool_remove(s, bad, false), 0);
	sync_now(s);
	ck_assert_uint_eq(open_descriptors(), before - 1);
	spool_free(s);
}
END_TEST

static Suite *
suite(void)
{
	Suite *s = suite_create("spool_failure");
	TCase *tc = tcase_create("all");

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, dir_make, dir_clear);
	tcase_add_loop_test(tc, a_file_whose_sync_failed_is_written_anew, 0, 3);
	tcase_add_test(tc, a_sealed_file_whose_sync_failed_stays_sealed);
	tcase_add_test(tc, a_kept_file_whose_sync_failed_stays_kept);
	tcase_add_test(tc, what_cannot_be_read_back_is_not_called_safe);
	tcase_add_test(tc, a_failing_file_leaves_the_others_alone);
	suite_add_tcase(s, tc);
	return s;
}

int
main(void)
{
	SRunner *sr = srunner_create(suite());
	int failed;

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
