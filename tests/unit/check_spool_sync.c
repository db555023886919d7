/* Writing, and syncing what was written. */
#include <signal.h>
#include <sys/resource.h>

#include "spool_disk.h"

/* ---- writing ---- */

START_TEST(what_is_written_is_read_back)
{
	struct spool *s = spool_must_open((enum conf_sync)_i);
	uint64_t number = spool_number(s);
	struct spool_file *f = must_create(s, number);

	ck_assert_uint_eq(spool_bytes(s), SPOOL_DISK_BLOCK);
	for (unsigned i = 0; i < 50; i++) {
		ck_assert_int_eq(append(f, i * 20, 20), 0);
		ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
		if (i % 10 == 0)
			sync_now(s);
	}
	ck_assert_int_eq(spool_seal(f), 0);
	assert_holds(s, number, 0, 1000);
	sync_now(s);
	assert_holds(s, number, 0, 1000);
	ck_assert_int_eq(spool_remove(s, number, false), 0);
	ck_assert_uint_eq(spool_bytes(s), 0);
	ck_assert_uint_eq(bytes_on_disk(), 0);
	spool_free(s);
}
END_TEST

START_TEST(numbers_are_given_while_the_range_lasts)
{
	struct spool *s = spool_must_open(CONF_SYNC_NEVER);
	uint64_t last = 0;

	disk_attach(s);
	for (unsigned i = 0; i < 3 * SPOOL_NUMBERS; i++) {
		uint64_t number = spool_number(s);

		ck_assert_uint_gt(number, last);
		last = number;
		if (spool_numbers_low(s))
			ck_assert_int_eq(spool_numbers_reserve(s), 0);
	}
	disk_set(UINT32_MAX, false);
	for (unsigned i = 0; i <= SPOOL_NUMBERS; i++) {
		uint64_t number = spool_number(s);

		if (number == 0)
			break;
		ck_assert_uint_gt(number, last);
		last = number;
	}
	ck_assert_uint_eq(spool_number(s), 0);
	ck_assert_int_eq(spool_numbers_reserve(s), -EIO);
	ck_assert_uint_eq(spool_number(s), 0);
	disk_set(0, false);
	spool_free(s);
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_uint_gt(spool_number(s), last);
	spool_free(s);
}
END_TEST

/* No assertions under a limit: Check writes each into a file of its own. */
static void
limit_file_size(rlim_t bytes)
{
	struct rlimit limit;

	(void)signal(SIGXFSZ, SIG_IGN);
	MUST(getrlimit(RLIMIT_FSIZE, &limit) == 0);
	limit.rlim_cur = bytes;
	MUST(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

static int
append_limited(struct spool_file *f, rlim_t bytes, unsigned first, uint32_t rows)
{
	int r;

	limit_file_size(bytes);
	r = append(f, first, rows);
	limit_file_size(RLIM_INFINITY);
	return r;
}

START_TEST(an_append_that_fails_changes_nothing)
{
	struct spool *s = spool_must_open(CONF_SYNC_INTERVAL);
	uint64_t number = spool_number(s), bytes, size;
	struct spool_file *f = must_create(s, number), *none;
	int crash = _i, r;

	ck_assert_int_eq(append(f, 0, 10), 0);
	bytes = spool_bytes(s);
	size = f->header.summary.file_size;
	for (rlim_t room = 0; room < 300; room += 7) { /* room for a part of the block */
		ck_assert_int_eq(append_limited(f, size + room, 1000, 20), -EFBIG);
		ck_assert_uint_eq(spool_bytes(s), bytes);
	}
	limit_file_size(SPOOL_FILE_HEADER - 1);
	r = spool_create(s, spool_number(s), 1, &none);
	limit_file_size(RLIM_INFINITY);
	ck_assert_int_eq(r, -EFBIG);
	ck_assert_uint_eq(bytes_on_disk(), bytes); /* no empty file is left */
	if (crash) {
		spool_file_free(f);
	} else {
		ck_assert_int_eq(append(f, 10, 1), 0);
		ck_assert_int_eq(spool_seal(f), 0);
		assert_holds(s, number, 0, 11);
	}
	spool_free(s);
	s = spool_must_open(CONF_SYNC_INTERVAL);
	ck_assert_uint_eq(must_recover(s).n, 1);
	assert_holds(s, number, 0, crash ? 10 : 11);
	ck_assert(!exists(path_of("corrupt")));
	spool_free(s);
}
END_TEST

START_TEST(blocks_beyond_the_format_are_refused)
{
	struct spool *s = spool_must_open(CONF_SYNC_NEVER);
	struct spool_file *f = must_create(s, spool_number(s));
	uint8_t byte = 0;

	ck_assert_int_eq(spool_append(f, &byte, SPOOL_BLOCK_MAX + 1, 1, 0, 0), -EMSGSIZE);
	ck_assert_uint_eq(spool_bytes(s), SPOOL_DISK_BLOCK);
	spool_file_free(f);
	spool_file_free(NULL);
	spool_free(s);
}
END_TEST

/* ---- syncing ---- */

START_TEST(the_directory_is_synced_for_a_new_file)
{
	struct spool *s = spool_must_open(CONF_SYNC_ALWAYS);
	struct spool_file *f = must_create(s, spool_number(s));

	disk_attach(s);
	sync_now(s);
	ck_assert_uint_eq(disk.files, 1);
	ck_assert_uint_eq(disk.all, 2);
	ck_assert_int_eq(append(f, 0, 1), 0);
	sync_now(s);
	ck_assert_uint_eq(disk.files, 2);
	ck_assert_uint_eq(disk.all, 3); /* once is enough */
	sync_now(s);
	ck_assert_uint_eq(disk.all, 3); /* nothing has changed */
	ck_assert_int_eq(spool_seal(f), 0);
	sync_now(s);
	ck_assert_uint_eq(disk.all, 4);
	spool_free(s);
}
END_TEST

START_TEST(sealed_files_are_closed_once_they_are_synced)
{
	struct spool *s = spool_must_open(CONF_SYNC_INTERVAL);
	unsigned before = open_descriptors();

	for (int i = 0; i < 5; i++)
		(void)put_batch(s, 1, 1);
	ck_assert_uint_eq(open_descriptors(), before + 5);
	sync_now(s);
	ck_assert_uint_eq(open_descriptors(), before);
	spool_free(s);
}
END_TEST

START_TEST(never_closes_at_once_and_syncs_nothing)
{
	struct spool *s = spool_must_open(CONF_SYNC_NEVER);
	unsigned before = open_descriptors();
	uint64_t number = 0;

	disk_attach(s);
	for (int i = 0; i < 5; i++)
		number = put_batch(s, 1, 1);
	ck_assert_uint_eq(open_descriptors(), before);
	sync_now(s);
	ck_assert_uint_eq(disk.all, 0);
	assert_holds(s, number, 0, 1);
	spool_free(s);
}
END_TEST

START_TEST(a_removed_file_needs_no_sync)
{
	struct spool *s = spool_must_open(CONF_SYNC_INTERVAL);
	unsigned before = open_descriptors();
	uint64_t number = put_batch(s, 1, 1);

	disk_attach(s);
	ck_assert_int_eq(spool_remove(s, number, false), 0);
	sync_now(s);
	ck_assert_uint_eq(disk.all, 0);
	ck_assert_uint_eq(open_descriptors(), before);
	spool_free(s);
}
END_TEST

START_TEST(a_file_may_be_removed_while_it_grows)
{
	struct spool *s = spool_must_open(CONF_SYNC_INTERVAL);
	uint64_t number = spool_number(s);
	struct spool_file *f = must_create(s, number);

	ck_assert_int_eq(append(f, 0, 5), 0);
	ck_assert_int_eq(spool_remove(s, number, false), 0);
	ck_assert_uint_eq(spool_bytes(s), 0);
	ck_assert_int_eq(append(f, 5, 5), 0);
	ck_assert_uint_eq(spool_bytes(s), 0);
	sync_now(s);
	ck_assert_int_eq(spool_seal(f), 0);
	sync_now(s);
	ck_assert_uint_eq(spool_bytes(s), 0);
	spool_free(s);
}
END_TEST

/* What comes while it lasts is for the next one; what ends meanwhile is left out. */
START_TEST(a_sync_goes_file_by_file)
{
	struct spool *s = spool_must_open(CONF_SYNC_INTERVAL);
	struct spool_file *files[4], *late;
	unsigned before = open_descriptors();
	unsigned calls = 0;

	disk_attach(s);
	for (unsigned i = 0; i < 4; i++) {
		files[i] = must_create(s, spool_number(s));
		ck_assert_int_eq(append(files[i], i * 5, 5), 0);
		ck_assert_int_eq(spool_seal(files[i]), 0);
	}
	ck_assert_int_eq(spool_sync_some(s, 0), 1);
	ck_assert_uint_eq(disk.files, 1);
	ck_assert_uint_eq(open_descriptors(), before + 3);
	ck_assert_int_eq(spool_remove(s, files[2]->header.number, false), 0); /* the next one */
	late = must_create(s, spool_number(s));
	while (spool_sync_some(s, 0) > 0)
		ck_assert_uint_lt(++calls, 10);
	ck_assert_uint_eq(disk.files, 3);
	ck_assert_uint_eq(disk.all, 4); /* the directory, too */
	ck_assert(late->changed);
	sync_now(s);
	ck_assert_uint_eq(disk.files, 4);
	spool_file_free(late);
	spool_free(s);
}
END_TEST

static Suite *
suite(void)
{
	Suite *s = suite_create("spool_sync");
	TCase *tc = tcase_create("all");

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, dir_make, dir_clear);
	tcase_add_loop_test(tc, what_is_written_is_read_back, 0, 3);
	tcase_add_test(tc, numbers_are_given_while_the_range_lasts);
	tcase_add_loop_test(tc, an_append_that_fails_changes_nothing, 0, 2);
	tcase_add_test(tc, blocks_beyond_the_format_are_refused);
	tcase_add_test(tc, the_directory_is_synced_for_a_new_file);
	tcase_add_test(tc, sealed_files_are_closed_once_they_are_synced);
	tcase_add_test(tc, never_closes_at_once_and_syncs_nothing);
	tcase_add_test(tc, a_removed_file_needs_no_sync);
	tcase_add_test(tc, a_file_may_be_removed_while_it_grows);
	tcase_add_test(tc, a_sync_goes_file_by_file);
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
