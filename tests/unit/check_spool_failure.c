/* A disk that fails to sync; and loop, syncer and writers at once. */
#include "spool_waiter.h"

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
	struct spool *s = open_waiting(CONF_SYNC_ALWAYS);
	uint64_t number = spool_number(s), ticket;
	struct spool_file *f = must_create(s, number);
	ino_t first = inode(number);
	int error = -1;

	disk_attach(s);
	ck_assert_int_eq(append(f, 0, 10), 0);
	disk_set((unsigned)_i + 1, false);
	ticket = spool_sync(s);
	if (_i > 0)
		await_error(s, EIO);
	ck_assert_int_eq(append(f, 10, 10), 0); /* perhaps to the old file, perhaps to the new */
	await_ticket(s, ticket);
	(void)spool_synced(s, &error);
	ck_assert_int_eq(error, 0);
	ck_assert_uint_ne(inode(number), first);
	ck_assert_int_eq(append(f, 20, 10), 0);
	ck_assert_int_eq(spool_seal(f), 0);
	sync_now(s);
	assert_holds(s, number, 0, 30);
	ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
	ck_assert(!exists(path_of("00000000000000000001.batch.new")));
	spool_free(s);
	s = open_waiting(CONF_SYNC_ALWAYS);
	ck_assert_uint_eq(must_recover(s).h[0].summary.rows, 30);
	spool_free(s);
}
END_TEST

/* _i: the loop also seals it meanwhile. */
START_TEST(what_is_appended_while_a_file_is_written_anew_is_not_lost)
{
	struct spool *s = open_waiting(CONF_SYNC_ALWAYS);
	uint64_t number = spool_number(s), ticket;
	struct spool_file *f = must_create(s, number);

	disk_attach(s);
	ck_assert_int_eq(append(f, 0, 10), 0);
	(void)pthread_mutex_lock(&disk.mutex);
	disk.fail_next = 1; /* the fdatasync */
	disk.hold_at = 2;   /* the fsync of the copy, which has the first ten by then */
	(void)pthread_mutex_unlock(&disk.mutex);
	(void)spool_sync(s);
	disk_await_caller();
	ck_assert_int_eq(append(f, 10, 10), 0);
	ck_assert_int_eq(append(f, 20, 10), 0);
	if (_i)
		ck_assert_int_eq(spool_seal(f), 0);
	ticket = spool_sync(s);
	disk_set(0, false);
	await_ticket(s, ticket);
	if (!_i)
		spool_file_free(f);
	assert_holds(s, number, 0, 30);
	spool_free(s);
	s = open_waiting(CONF_SYNC_ALWAYS);
	ck_assert_uint_eq(must_recover(s).h[0].summary.rows, 30);
	spool_free(s);
}
END_TEST

START_TEST(a_sealed_file_whose_sync_failed_stays_sealed)
{
	struct spool *s = open_waiting(CONF_SYNC_INTERVAL);
	uint64_t number = put_batch(s, 3, 10);
	ino_t first = inode(number);
	struct found found;

	disk_attach(s);
	disk_set(1, false);
	sync_now(s);
	ck_assert_uint_ne(inode(number), first);
	assert_holds(s, number, 0, 30);
	spool_free(s);
	s = open_waiting(CONF_SYNC_INTERVAL);
	found = must_recover(s);
	ck_assert_uint_eq(found.n, 1);
	ck_assert_uint_eq(found.h[0].summary.rows, 30);
	ck_assert_uint_eq(found.h[0].summary.blocks, 3);
	spool_free(s);
}
END_TEST

START_TEST(a_kept_file_whose_sync_failed_stays_kept)
{
	struct spool *s = open_waiting(CONF_SYNC_INTERVAL);
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
	struct spool *s = open_waiting(CONF_SYNC_INTERVAL);
	uint64_t number = put_batch(s, 1, 10), ticket;
	int fd = open(batch_path(number), O_WRONLY | O_CLOEXEC);

	disk_attach(s);
	ck_assert_int_eq(pwrite(fd, "x", 1, SPOOL_FILE_HEADER + 30), 1);
	(void)close(fd);
	disk_set(1, false); /* one failure is enough for a file to be never trusted again */
	ticket = spool_sync(s);
	await_error(s, EIO);
	ck_assert_uint_lt(spool_synced(s, NULL), ticket);
	ck_assert_int_eq(spool_remove(s, number, false), 0); /* the database has it */
	await_ticket(s, ticket);
	ck_assert_uint_eq(spool_bytes(s), 0);
	spool_free(s);
}
END_TEST

/* A removed batch must not come back under its name when its copy is finished. */
START_TEST(a_file_removed_while_it_is_written_anew_stays_removed)
{
	struct spool *s = open_waiting(CONF_SYNC_INTERVAL);
	uint64_t number = put_batch(s, 1, 10), ticket;

	disk_attach(s);
	disk_set(2, false); /* the file's, and the fresh one's */
	ticket = spool_sync(s);
	await_error(s, EIO);
	disk_set(0, true);
	disk_await_caller(); /* the second try is in its fsync */
	ck_assert_int_eq(spool_remove(s, number, false), 0);
	disk_set(0, false);
	await_ticket(s, ticket);
	ck_assert_uint_eq(bytes_on_disk(), 0);
	ck_assert_uint_eq(count_names(dir), OWN_NAMES);
	spool_free(s);
}
END_TEST

/* ---- all at once ---- */

#define CROWD_BATCHES 60

struct crowd {
	struct spool *s;
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	uint64_t sealed[CROWD_BATCHES];
	unsigned n, taken;
};

/* A writer: reads batches back, and removes two of three. */
static void *
crowd_writer(void *arg)
{
	struct crowd *c = arg;

	for (;;) {
		unsigned i;

		(void)pthread_mutex_lock(&c->mutex);
		i = c->taken++;
		while (i < CROWD_BATCHES && c->n <= i)
			(void)pthread_cond_wait(&c->cond, &c->mutex);
		(void)pthread_mutex_unlock(&c->mutex);
		if (i >= CROWD_BATCHES)
			return NULL;
		if (i % 3) {
			struct spool_summary sum;
			uint8_t *data;

			MUST(spool_read(c->s, c->sealed[i], &data, &sum) == 0);
			MUST(sum.rows == 200);
			free(data);
			MUST(spool_remove(c->s, c->sealed[i], i % 3 == 2) == 0);
			spool_prune(c->s, 3600 * 1000);
		}
	}
}

START_TEST(loop_syncer_and_writers_get_along)
{
	struct crowd c = {.mutex = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
	pthread_t writers[2];
	uint64_t ticket = 0;
	struct found found = {.n = 0};

	c.s = open_waiting(CONF_SYNC_ALWAYS);
	disk_attach(c.s);
	disk.fail_each = (unsigned)_i * 5; /* 0: the disk is sound */
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&writers[i], NULL, crowd_writer, &c), 0);
	for (unsigned b = 0; b < CROWD_BATCHES; b++) {
		uint64_t number = spool_number(c.s);
		struct spool_file *f = must_create(c.s, number);

		for (unsigned i = 0; i < 20; i++) {
			ck_assert_int_eq(append(f, i * 10, 10), 0);
			ticket = spool_sync(c.s);
		}
		ck_assert_int_eq(spool_seal(f), 0);
		(void)pthread_mutex_lock(&c.mutex);
		c.sealed[c.n++] = number;
		(void)pthread_cond_broadcast(&c.cond);
		(void)pthread_mutex_unlock(&c.mutex);
	}
	for (int i = 0; i < 2; i++)
		(void)pthread_join(writers[i], NULL);
	await_ticket(c.s, ticket);
	for (unsigned i = 0; i < CROWD_BATCHES; i += 3)
		assert_holds(c.s, c.sealed[i], 0, 200);
	ck_assert_uint_eq(spool_bytes(c.s), bytes_on_disk());
	spool_prune(c.s, 0);
	ck_assert_int_eq(spool_kept(c.s, found_add, &found), 0);
	ck_assert_uint_eq(found.n, 0);
	ck_assert_uint_eq(spool_bytes(c.s), bytes_on_disk());
	ck_assert_uint_eq(count_names(dir), OWN_NAMES + CROWD_BATCHES / 3);
	spool_free(c.s);
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
	tcase_add_loop_test(tc, what_is_appended_while_a_file_is_written_anew_is_not_lost, 0, 2);
	tcase_add_test(tc, a_sealed_file_whose_sync_failed_stays_sealed);
	tcase_add_test(tc, a_kept_file_whose_sync_failed_stays_kept);
	tcase_add_test(tc, what_cannot_be_read_back_is_not_called_safe);
	tcase_add_test(tc, a_file_removed_while_it_is_written_anew_stays_removed);
	tcase_add_loop_test(tc, loop_syncer_and_writers_get_along, 0, 3);
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
