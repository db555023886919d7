/* The end of a batch: read, removed, kept, taken back. */
#include "spool_dir.h"

START_TEST(what_is_not_there_is_said_so)
{
	struct spool *s = spool_must_open(CONF_SYNC_NEVER);
	struct spool_summary sum;
	uint8_t *data;

	ck_assert_int_eq(read_and_repair(s, 7, &data, &sum), -ENOENT);
	ck_assert_int_eq(spool_remove(s, 7, false), -ENOENT);
	ck_assert_int_eq(spool_remove(s, 7, true), -ENOENT);
	ck_assert_int_eq(spool_unkeep(s, 7), -ENOENT);
	spool_free(s);
}
END_TEST

START_TEST(a_batch_of_which_nothing_is_sound_goes_aside)
{
	struct spool *s = spool_must_open(CONF_SYNC_INTERVAL);
	uint64_t number = put_batch(s, 1, 10);
	struct spool_summary sum;
	uint8_t *data;
	int fd;

	if (_i)
		sync_now(s);
	fd = open(batch_path(number), O_WRONLY | O_CLOEXEC);
	ck_assert_int_eq(pwrite(fd, "x", 1, SPOOL_FILE_HEADER + 30), 1);
	(void)close(fd);
	ck_assert_int_eq(read_and_repair(s, number, &data, &sum), -ENODATA);
	ck_assert(!exists(batch_path(number)));
	ck_assert_uint_eq(count_names(path_of("corrupt")), 1);
	ck_assert_uint_eq(spool_bytes(s), 0);
	sync_now(s);
	ck_assert_int_eq(read_and_repair(s, number, &data, &sum), -ENOENT);
	spool_free(s);
}
END_TEST

START_TEST(kept_batches_give_way_those_stored_first_first)
{
	struct spool *s = spool_must_open(CONF_SYNC_NEVER);
	uint64_t a = put_batch(s, 1, 10), b = put_batch(s, 1, 10), c = put_batch(s, 1, 10);
	uint64_t each = spool_bytes(s) / 3, left = 0;

	ck_assert_uint_eq(spool_release(s, 0, SIZE_MAX), 0); /* none is kept */
	ck_assert_int_eq(spool_remove(s, b, true), 0);
	ck_assert_int_eq(spool_remove(s, a, true), 0);
	ck_assert_uint_eq(spool_kept_bytes(s), 2 * each);
	ck_assert_uint_eq(spool_release(s, 3 * each, SIZE_MAX), 0);
	ck_assert_uint_eq(spool_release(s, 0, 0), 0);
	ck_assert_uint_eq(spool_release(s, 2 * each, SIZE_MAX), 1);
	ck_assert_uint_eq(count_kept(s, &left, NULL), 1);
	ck_assert_uint_eq(left, a);
	ck_assert_uint_eq(spool_release(s, 0, SIZE_MAX), 1);
	ck_assert_uint_eq(spool_bytes(s), each);
	ck_assert_uint_eq(spool_kept_bytes(s), 0);
	ck_assert(exists(batch_path(c))); /* it is not stored yet */
	spool_free(s);
}
END_TEST

/* Looking at the directory would take long when there are many. */
START_TEST(nobody_looks_for_kept_batches_on_the_disk)
{
	struct spool *s = spool_must_open(CONF_SYNC_NEVER);
	uint64_t a = put_batch(s, 1, 10);
	char name[SPOOL_NAME_MAX];

	spool_name_as(name, a, SPOOL_STORED);
	ck_assert_int_eq(rename(batch_path(a), path_of(name)), 0); /* behind its back */
	ck_assert_uint_eq(count_kept(s, NULL, NULL), 0);
	ck_assert_uint_eq(spool_release(s, 0, SIZE_MAX), 0);
	ck_assert_uint_eq(spool_prune(s, 0, SIZE_MAX), 0);
	ck_assert(exists(path_of(name)));
	spool_free(s);
}
END_TEST

START_TEST(kept_batches_are_listed_and_taken_back)
{
	struct spool *s = spool_must_open((enum conf_sync)_i);
	uint64_t a = put_batch(s, 2, 10), b = put_batch(s, 1, 5), first = 0, second = 0;
	struct spool_header *h;
	size_t n;

	ck_assert_int_eq(spool_remove(s, b, true), 0);
	ck_assert_int_eq(spool_remove(s, a, true), 0);
	ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
	ck_assert_uint_eq(spool_kept_bytes(s), bytes_on_disk());
	spool_free(s);

	s = spool_must_open((enum conf_sync)_i); /* they are not to be stored again */
	ck_assert_uint_eq(must_recover(s).n, 0);
	ck_assert_uint_eq(spool_kept_bytes(s), bytes_on_disk());
	ck_assert_uint_eq(count_kept(s, &first, &second), 2);
	ck_assert_uint_eq(first, a);
	ck_assert_uint_eq(second, b);
	ck_assert_ptr_null(spool_kept_take(s, (uint64_t[]){a + 100}, 1, &n));
	h = spool_kept_take(s, (uint64_t[]){b, b + 100}, 2, &n);
	ck_assert_uint_eq(n, 1);
	ck_assert_uint_eq(h->number, b);
	ck_assert_uint_eq(h->summary.rows, 5);
	free(h);
	ck_assert_uint_eq(count_kept(s, NULL, NULL), 1);
	ck_assert_uint_eq(spool_prune(s, 0, SIZE_MAX), 1); /* what was taken stays */
	ck_assert_int_eq(spool_unkeep(s, b), 0);
	assert_holds(s, b, 0, 5);
	ck_assert_uint_eq(spool_kept_bytes(s), 0);
	ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
	spool_free(s);
}
END_TEST

START_TEST(those_of_another_identity_are_kept_but_not_ours)
{
	struct spool *s = spool_must_open(CONF_SYNC_NEVER);
	uint64_t a = put_batch(s, 1, 10);

	ck_assert_int_eq(spool_remove(s, a, true), 0);
	spool_free(s);
	ck_assert_int_eq(unlink(path_of("identity")), 0);
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_uint_eq(count_kept(s, NULL, NULL), 0);
	ck_assert_uint_eq(spool_kept_bytes(s), bytes_on_disk());
	ck_assert_uint_eq(spool_prune(s, 0, SIZE_MAX), 1);
	ck_assert_uint_eq(bytes_on_disk(), 0);
	spool_free(s);
}
END_TEST

/* What an earlier run kept counts from the start: no clock tells how old it is. */
START_TEST(kept_batches_go_when_they_are_old_enough)
{
	static const struct timespec ago[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};
	struct spool *s = spool_must_open(CONF_SYNC_NEVER);
	uint64_t a = put_batch(s, 1, 1), b = put_batch(s, 1, 2), first = 0, second = 0;
	char name[SPOOL_NAME_MAX];

	ck_assert_int_eq(spool_remove(s, b, true), 0);
	ck_assert_int_eq(spool_remove(s, a, true), 0);
	spool_free(s);
	spool_name_as(name, a, SPOOL_STORED);
	ck_assert_int_eq(utimensat(AT_FDCWD, path_of(name), ago, 0), 0);
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_uint_eq(spool_prune(s, UINT64_MAX, SIZE_MAX), 0);
	ck_assert_uint_eq(spool_prune(s, 1800 * 1000, SIZE_MAX), 0);
	ck_assert_uint_eq(count_kept(s, &first, &second), 2);
	ck_assert_uint_eq(first, a);
	ck_assert_uint_eq(second, b);
	ck_assert_uint_eq(spool_prune(s, 0, 1), 1);
	ck_assert_uint_eq(count_kept(s, &first, NULL), 1);
	ck_assert_uint_eq(first, b);
	ck_assert_uint_eq(spool_prune(s, 0, SIZE_MAX), 1);
	ck_assert_uint_eq(spool_bytes(s), 0);
	spool_free(s);
}
END_TEST

START_TEST(many_kept_batches_come_and_go)
{
	struct spool *s = spool_must_open(CONF_SYNC_NEVER);
	uint64_t number = 0, first = 0;

	for (unsigned i = 0; i < 300; i++) {
		number = put_batch(s, 1, 1);
		ck_assert_int_eq(spool_remove(s, number, true), 0);
		if (i >= 100)
			ck_assert_uint_eq(spool_prune(s, 0, 1), 1);
		ck_assert_uint_eq(count_kept(s, &first, NULL), i < 100 ? i + 1 : 100);
	}
	ck_assert_uint_eq(first, number - 99);
	ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
	spool_free(s);
}
END_TEST

static Suite *
suite(void)
{
	Suite *s = suite_create("spool_keep");
	TCase *tc = tcase_create("all");

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, dir_make, dir_clear);
	tcase_add_test(tc, what_is_not_there_is_said_so);
	tcase_add_loop_test(tc, a_batch_of_which_nothing_is_sound_goes_aside, 0, 2);
	tcase_add_test(tc, kept_batches_give_way_those_stored_first_first);
	tcase_add_test(tc, nobody_looks_for_kept_batches_on_the_disk);
	tcase_add_loop_test(tc, kept_batches_are_listed_and_taken_back, 0, 3);
	tcase_add_test(tc, those_of_another_identity_are_kept_but_not_ours);
	tcase_add_test(tc, kept_batches_go_when_they_are_old_enough);
	tcase_add_test(tc, many_kept_batches_come_and_go);
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
