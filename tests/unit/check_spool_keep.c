/* The end of a batch: read, removed, kept, taken back. */
#include "spool_waiter.h"

START_TEST(what_is_not_there_is_said_so)
{
	struct spool *s = open_waiting(CONF_SYNC_NEVER);
	struct spool_summary sum;
	uint8_t *data;

	ck_assert_int_eq(spool_read(s, 7, &data, &sum), -ENOENT);
	ck_assert_int_eq(spool_remove(s, 7, false), -ENOENT);
	ck_assert_int_eq(spool_remove(s, 7, true), -ENOENT);
	ck_assert_int_eq(spool_unkeep(s, 7), -ENOENT);
	spool_free(s);
}
END_TEST

START_TEST(a_batch_of_which_nothing_is_sound_goes_aside)
{
	struct spool *s = open_waiting(CONF_SYNC_INTERVAL);
	uint64_t number = put_batch(s, 1, 10);
	struct spool_summary sum;
	uint8_t *data;
	int fd;

	if (_i)
		sync_now(s);
	fd = open(batch_path(number), O_WRONLY | O_CLOEXEC);
	ck_assert_int_eq(pwrite(fd, "x", 1, SPOOL_FILE_HEADER + 30), 1);
	(void)close(fd);
	ck_assert_int_eq(spool_read(s, number, &data, &sum), -ENODATA);
	ck_assert(!exists(batch_path(number)));
	ck_assert_uint_eq(count_names(path_of("corrupt")), 1);
	ck_assert_uint_eq(spool_bytes(s), 0);
	sync_now(s);
	ck_assert_int_eq(spool_read(s, number, &data, &sum), -ENOENT);
	spool_free(s);
}
END_TEST

START_TEST(kept_batches_give_way_oldest_first)
{
	struct spool *s = open_waiting(CONF_SYNC_NEVER);
	uint64_t a = put_batch(s, 1, 10), b = put_batch(s, 1, 10), c = put_batch(s, 1, 10);
	struct found found = {.n = 0};
	uint64_t each = spool_bytes(s) / 3;

	ck_assert_uint_eq(spool_release(s, 0), 0); /* none is kept */
	ck_assert_int_eq(spool_remove(s, a, true), 0);
	ck_assert_int_eq(spool_remove(s, b, true), 0);
	ck_assert_uint_eq(spool_release(s, 3 * each), 0);
	ck_assert_uint_eq(spool_release(s, 2 * each), 1);
	ck_assert_int_eq(spool_kept(s, found_add, &found), 0);
	ck_assert_uint_eq(found.n, 1);
	ck_assert_uint_eq(found.h[0].number, b);
	ck_assert_uint_eq(spool_release(s, 0), 1);
	ck_assert_uint_eq(spool_bytes(s), each);
	ck_assert(exists(batch_path(c))); /* it is not stored yet */
	spool_free(s);
}
END_TEST

/* While the spool is full it is asked at each read of a client. */
START_TEST(without_kept_batches_nobody_looks_for_them)
{
	struct spool *s = open_waiting(CONF_SYNC_NEVER);
	uint64_t a = put_batch(s, 1, 10);
	char name[SPOOL_NAME_MAX];
	const char *stored;

	spool_name_as(name, a, ".stored");
	stored = path_of(name);
	ck_assert_uint_eq(spool_release(s, 0), 0);
	ck_assert_int_eq(rename(batch_path(a), stored), 0); /* behind its back */
	ck_assert_uint_eq(spool_release(s, 0), 0);
	ck_assert_int_eq(rename(stored, batch_path(a)), 0);
	ck_assert_int_eq(spool_remove(s, a, true), 0);
	ck_assert_uint_eq(spool_release(s, 0), 1);
	spool_free(s);
}
END_TEST

START_TEST(kept_batches_are_listed_and_taken_back)
{
	struct spool *s = open_waiting((enum conf_sync)_i);
	uint64_t a = put_batch(s, 2, 10), b = put_batch(s, 1, 5);
	struct found found = {.n = 0};

	ck_assert_int_eq(spool_remove(s, a, true), 0);
	ck_assert_int_eq(spool_remove(s, b, true), 0);
	ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
	ck_assert_uint_gt(spool_bytes(s), 0);
	spool_free(s);

	s = open_waiting((enum conf_sync)_i); /* they are not to be stored again */
	ck_assert_uint_eq(must_recover(s).n, 0);
	ck_assert_int_eq(spool_kept(s, found_add, &found), 0);
	ck_assert_uint_eq(found.n, 2);
	ck_assert_uint_eq(found.h[0].number, a);
	ck_assert_uint_eq(found.h[0].summary.rows, 20);
	ck_assert_uint_eq(found.h[1].number, b);
	ck_assert_int_eq(spool_unkeep(s, b), 0);
	assert_holds(s, b, 0, 5);
	found.n = 0;
	ck_assert_int_eq(spool_kept(s, found_add, &found), 0);
	ck_assert_uint_eq(found.n, 1);
	spool_prune(s, UINT64_MAX);
	ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
	spool_prune(s, 0);
	found.n = 0;
	ck_assert_int_eq(spool_kept(s, found_add, &found), 0);
	ck_assert_uint_eq(found.n, 0);
	assert_holds(s, b, 0, 5);
	ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
	spool_free(s);
}
END_TEST

static void
set_stored(uint64_t number, time_t ago)
{
	char name[SPOOL_NAME_MAX];
	struct timespec ts[2] = {{.tv_sec = time(NULL) - ago}, {.tv_sec = time(NULL) - ago}};

	spool_name_as(name, number, SPOOL_STORED);
	ck_assert_int_eq(utimensat(AT_FDCWD, path_of(name), ts, 0), 0);
}

START_TEST(kept_batches_go_when_they_are_old_enough)
{
	struct spool *s = open_waiting(CONF_SYNC_NEVER);
	uint64_t old = put_batch(s, 1, 1), fresh = put_batch(s, 1, 2), future = put_batch(s, 1, 3);
	struct found found = {.n = 0};
	char name[SPOOL_NAME_MAX];
	struct stat st;

	ck_assert_int_eq(spool_remove(s, old, true), 0);
	ck_assert_int_eq(spool_remove(s, fresh, true), 0);
	ck_assert_int_eq(spool_remove(s, future, true), 0);
	set_stored(old, 3600);
	set_stored(future, -3600); /* the clock was set back since */
	spool_prune(s, 1800 * 1000);
	ck_assert_int_eq(spool_kept(s, found_add, &found), 0);
	ck_assert_uint_eq(found.n, 2);
	ck_assert_uint_eq(found.h[0].number, fresh);
	ck_assert_uint_eq(found.h[1].number, future);
	spool_name_as(name, future, SPOOL_STORED);
	ck_assert_int_eq(stat(path_of(name), &st), 0);
	ck_assert_int_le(st.st_mtim.tv_sec, time(NULL)); /* its time counts from now */
	set_stored(fresh, 3600);
	spool_free(s); /* what it knows about ages it has from the files */
	s = open_waiting(CONF_SYNC_NEVER);
	spool_prune(s, 1800 * 1000);
	found.n = 0;
	ck_assert_int_eq(spool_kept(s, found_add, &found), 0);
	ck_assert_uint_eq(found.n, 1);
	ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
	spool_prune(s, 0);
	ck_assert_uint_eq(spool_bytes(s), 0);
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
	tcase_add_test(tc, kept_batches_give_way_oldest_first);
	tcase_add_test(tc, without_kept_batches_nobody_looks_for_them);
	tcase_add_loop_test(tc, kept_batches_are_listed_and_taken_back, 0, 3);
	tcase_add_test(tc, kept_batches_go_when_they_are_old_enough);
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
