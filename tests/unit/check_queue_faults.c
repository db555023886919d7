/* check_queue_faults.c - mistakes that the queue made once; each test is named after its own. */
#include <pthread.h>
#include <sys/stat.h>

#include "buffer/spool/disk_internal.h"
#include "queue_fixture.h"
#include "spool_disk.h"

/* ---- the disk ---- */

/* Opens the queue anew; from here on the disk thread hangs in a sync. */
static void
open_with_hanging_disk(enum conf_sync sync)
{
	close_queue();
	conf.buffer.sync = sync;
	open_queue();
	disk_attach(spool);
	put(1, 1);
	queue_end_turn(queue);
	disk_set(0, true);
	queue_tick(queue);
	disk_await_caller();
}

/* Stands in the way of the files of batches that are yet to come, or no longer. */
static void
refuse_files(uint64_t first, uint64_t last, bool refuse)
{
	for (; first <= last; first++) {
		char path[192];

		(void)snprintf(path, sizeof(path), "%s/%020llu.batch", conf.buffer.spool,
			       (unsigned long long)first);
		if (refuse)
			ck_assert_int_eq(mkdir(path, 0700), 0);
		else
			(void)rmdir(path);
	}
}

/* ---- writers ---- */

#define ROUNDS 200
#define SLEEPERS 4
#define HOUR_MS 3600000

static atomic_int over;

static void *
sleeper(void *arg)
{
	(void)arg;
	queue_sleep(queue, &over, queue_kicks(queue), HOUR_MS);
	return NULL;
}

static void *
taker(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct batch *b = queue_take(queue, &running, HOUR_MS);

		b->stored = b->all.rows;
		queue_done(queue, b);
	}
	return NULL;
}

/* A writer in its back-off shares the condition: it must not swallow what another one waits for. */
START_TEST(a_sealed_batch_wakes_a_taker_beside_sleepers)
{
	pthread_t threads[SLEEPERS], take_thread;

	for (unsigned i = 0; i < SLEEPERS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, sleeper, NULL), 0);
	ck_assert_int_eq(pthread_create(&take_thread, NULL, taker, NULL), 0);
	for (uint64_t i = 1; i <= ROUNDS; i++) {
		put(1, i);
		queue_seal(queue);
		while (stats.stored < i) {
			queue_collect(queue);
			(void)usleep(100);
		}
	}
	ck_assert_int_eq(pthread_join(take_thread, NULL), 0);
	atomic_store(&over, 1);
	queue_kick(queue);
	for (unsigned i = 0; i < SLEEPERS; i++)
		ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
}
END_TEST

/* ---- sync frames ---- */

/* The batch that lost rows is neither the first one of the range nor the last. */
START_TEST(level2_fails_when_a_later_batch_lost_rows)
{
	struct queue_wait w = new_wait();
	struct batch *batches[3];

	put(30, 1);
	ck_assert_int_eq(queue_wait(queue, &w, 2, 1), QUEUE_WAIT_PENDING);
	queue_seal(queue);
	for (unsigned i = 0; i < 3; i++) {
		struct batch *b = take();

		batches[b->number - 1] = b;
	}
	batches[1]->lost = 10;
	queue_done(queue, batches[1]);
	queue_collect(queue);
	finish(batches[0]);
	finish(batches[2]);
	expect_answers(0, 1);
}
END_TEST

static struct queue_wait pair[2];

/* As a client does: the first bad news ends all that it waits for. */
static void
on_bad_news(void *arg, bool ok)
{
	(void)arg;
	answers[ok]++;
	queue_unwait(queue, &pair[0]);
	queue_unwait(queue, &pair[1]);
}

START_TEST(a_failed_wait_may_end_the_one_behind_it)
{
	uint64_t number;

	close_queue();
	conf.buffer.sync = CONF_SYNC_INTERVAL;
	conf.buffer.spool_limit = 4096;
	conf.buffer.overflow = CONF_DROP_OLDEST;
	open_queue();
	pair[0] = pair[1] = new_wait();
	pair[0].fn = pair[1].fn = on_bad_news;
	number = put(10, 1);
	ck_assert_int_eq(queue_wait(queue, &pair[0], 1, number), QUEUE_WAIT_PENDING);
	ck_assert_int_eq(queue_wait(queue, &pair[1], 1, number), QUEUE_WAIT_PENDING);
	for (unsigned i = 0; i < 100 && !stats.dropped; i++) {
		await_room();
		put(10, i);
		queue_end_turn(queue);
	}
	ck_assert_uint_gt(stats.dropped, 0);
	expect_answers(0, 1);
}
END_TEST

/* The batch is sealed while the disk is full: what it refuses is not written, still less synced. */
START_TEST(a_seal_that_the_disk_refuses_answers_nothing)
{
	struct queue_wait w = new_wait();
	uint64_t number;

	close_queue();
	conf.buffer.sync = _i ? CONF_SYNC_ALWAYS : CONF_SYNC_NEVER;
	open_queue();
	number = put(1, 1);
	queue_seal(queue);
	await_disk();
	refuse_files(number + 1, number + 1, true);
	ck_assert_int_eq(queue_wait(queue, &w, 1, put(1, 2)), QUEUE_WAIT_PENDING);
	queue_end_turn(queue);
	queue_seal(queue);
	await_disk();
	queue_end_turn(queue);
	expect_answers(0, 0);
	ck_assert_uint_eq(queue_unsafe_rows(queue), 1);
	refuse_files(number + 1, number + 1, false);
	while (!answers[true]) {
		(void)usleep(100);
		queue_collect(queue);
	}
	expect_answers(1, 0);
}
END_TEST

/* A batch that is stored again has no place in the stream of this run's bytes. */
START_TEST(a_requeued_batch_makes_nothing_durable)
{
	struct queue_wait w = new_wait();
	struct batch *first;
	uint64_t *numbers;
	size_t n;

	close_queue();
	conf.buffer.sync = CONF_SYNC_INTERVAL;
	conf.buffer.keep_ms = HOUR_MS;
	open_queue();
	put(20, 1);
	queue_seal(queue);
	first = take();
	finish(take());
	await_disk();
	ck_assert_int_eq(queue_wait(queue, &w, 1, first->number), QUEUE_WAIT_PENDING);
	ck_assert_int_eq(queue_kept(queue, &numbers, &n), 0);
	ck_assert_uint_eq(n, 1);
	ck_assert_uint_gt(numbers[0], first->number);
	ck_assert_uint_eq(queue_requeue(queue, numbers, n), 1);
	free(numbers);
	while (stats.recovered < 10) {
		(void)usleep(100);
		queue_collect(queue);
	}
	expect_answers(0, 0);
	queue_unwait(queue, &w);
}
END_TEST

/* buffer.sync is fixed at start, as the spool's own is. */
START_TEST(a_reload_does_not_change_the_sync_mode)
{
	struct queue_wait w = new_wait();

	close_queue();
	conf.buffer.sync = CONF_SYNC_INTERVAL;
	open_queue();
	conf.buffer.sync = CONF_SYNC_NEVER;
	queue_set_conf(queue, &conf);
	ck_assert_int_eq(queue_wait(queue, &w, 1, put(1, 1)), QUEUE_WAIT_PENDING);
	queue_end_turn(queue);
	expect_answers(0, 0);
	queue_unwait(queue, &w);
}
END_TEST

/* ---- overflow ---- */

/* As a client does, who is read when there is room; most of them will be on disk only. */
static void
put_batches(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		await_room();
		put(10, i);
		queue_end_turn(queue);
	}
}

/* Memory that only waits for a sync is no reason to drop: neither new metrics nor the backlog. */
START_TEST(a_slow_sync_drops_nothing)
{
	close_queue();
	conf.buffer.sync = CONF_SYNC_INTERVAL;
	open_queue();
	limit_memory(_i ? CONF_DROP_OLDEST : CONF_DROP_NEWEST);
	put_batches(100);
	ck_assert_uint_eq(stats.dropped, 0);
	ck_assert_uint_eq(stats.buffered, 1000);
	ck_assert_uint_le(stats.memory_bytes, 60 * FRAME_SIZE);
}
END_TEST

/* Where the disk refuses writes, dropping what it holds already helps nobody. */
START_TEST(a_failing_disk_keeps_the_backlog)
{
	uint64_t last;

	limit_memory(_i ? CONF_DROP_OLDEST : CONF_DROP_NEWEST);
	put_batches(20);
	ck_assert_uint_eq(stats.dropped, 0);
	last = put(1, 1);
	queue_end_turn(queue);
	await_disk();
	refuse_files(last + 1, last + 100, true);
	put_batches(2);
	await_disk();
	ck_assert_uint_gt(queue_unsafe_rows(queue), 0);
	ck_assert_uint_eq(stats.dropped, 0); /* there is room in memory */
	put_batches(20);
	ck_assert_uint_gt(stats.dropped, 0);
	ck_assert_uint_ge(stats.buffered, 200);
	ck_assert_uint_le(stats.memory_bytes, 60 * FRAME_SIZE);
	refuse_files(last + 1, last + 100, false);
	await_written();
	ck_assert_uint_eq(queue_unsafe_rows(queue), 0);
}
END_TEST

/* ---- the ledger ---- */

/* The next start sends a batch again whose file could not be removed: the ledger must know it. */
START_TEST(a_file_that_stays_holds_the_floor)
{
	char path[192];
	struct batch *b;

	put(1, 1);
	queue_seal(queue);
	await_disk();
	b = take();
	(void)snprintf(path, sizeof(path), "%s/%020llu.batch", conf.buffer.spool,
		       (unsigned long long)b->number);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(mkdir(path, 0700), 0); /* nobody unlinks a directory */
	b->stored = 1;
	queue_done(queue, b);
	ck_assert_uint_eq(queue_floor(queue), 1);
	queue_collect(queue);
	ck_assert_uint_eq(queue_floor(queue), 1);
	await_disk();
	ck_assert_uint_eq(queue_floor(queue), 1);
	(void)rmdir(path);
}
END_TEST

/* Files that wait to be removed take room, too. */
START_TEST(a_file_that_is_not_removed_yet_fills_the_spool)
{
	conf.buffer.spool_limit = 64 * 1024;
	open_with_hanging_disk(CONF_SYNC_INTERVAL);
	for (unsigned i = 0; i < 1000 && queue_accepts(queue); i++) {
		put(10, i);
		queue_end_turn(queue);
		finish(take());
	}
	ck_assert(!queue_accepts(queue));
	ck_assert_uint_le(queue->live_bytes, SPOOL_DISK_BLOCK);
	ck_assert_uint_ge(stats.spool_bytes, 64 * 1024 / 8 * 7);
	disk_set(0, false);
	await_room();
	ck_assert_uint_eq(stats.dropped, 0);
}
END_TEST

/* What the disk thread is to do takes memory, although the batches have been stored. */
START_TEST(what_waits_for_a_hanging_disk_has_a_limit)
{
	conf.buffer.memory_limit = 64 * 1024;
	open_with_hanging_disk(CONF_SYNC_INTERVAL);
	for (unsigned i = 0; i < 10000 && queue_accepts(queue); i++) {
		put(10, i);
		queue_end_turn(queue);
		finish(take());
	}
	ck_assert(!queue_accepts(queue));
	disk_set(0, false);
	await_room();
	ck_assert_uint_eq(stats.dropped, 0);
}
END_TEST

/* Stores a batch of n rows, which cannot be in its file while the disk hangs. */
static void
store_unfiled(struct queue_wait *w, uint64_t n)
{
	uint64_t number = put(n, 1);

	queue_seal(queue);
	*w = new_wait();
	ck_assert_int_eq(queue_wait(queue, w, 2, number), QUEUE_WAIT_PENDING);
	finish(take());
}

/* Whoever asked is not kept waiting, and the batch is kept once the disk works. */
START_TEST(a_hanging_disk_gets_what_is_to_be_kept)
{
	struct queue_wait w;
	uint64_t *numbers;
	size_t n;

	conf.buffer.keep_ms = HOUR_MS;
	open_with_hanging_disk(CONF_SYNC_INTERVAL);
	store_unfiled(&w, 9);
	ck_assert_uint_eq(stats.buffered, 0);
	while (!answers[true]) {
		(void)usleep(1000);
		queue_collect(queue);
	}
	ck_assert(queue->disk_stalls);
	ck_assert_int_eq(queue_wait(queue, &w, 2, queue->last_number), QUEUE_WAIT_DONE);
	disk_set(0, false);
	await_disk();
	ck_assert_int_eq(queue_kept(queue, &numbers, &n), 0);
	ck_assert_uint_eq(n, 1);
	free(numbers);
	ck_assert_uint_eq(stats.memory_bytes, 0);
}
END_TEST

/* The database is quicker than the disk: that is no reason to drop. */
START_TEST(what_awaits_its_file_drops_nothing)
{
	conf.buffer.keep_ms = HOUR_MS;
	conf.buffer.memory_limit = 50 * FRAME_SIZE;
	conf.buffer.overflow = _i ? CONF_DROP_NEWEST : CONF_DROP_OLDEST;
	open_with_hanging_disk(CONF_SYNC_INTERVAL);
	for (unsigned i = 0; i < 100 && queue_accepts(queue); i++) {
		put(4, i);
		queue_seal(queue);
		finish(take());
	}
	ck_assert(!queue_accepts(queue));
	ck_assert(!queue->disk_stalls); /* it has not hung for long */
	disk_set(0, false);
	await_room();
	ck_assert_uint_eq(stats.dropped, 0);
}
END_TEST

/* What is stored takes no memory from what is not. */
START_TEST(memory_that_is_short_is_not_for_keeping)
{
	struct queue_wait w;

	conf.buffer.keep_ms = HOUR_MS;
	conf.buffer.memory_limit = 50 * FRAME_SIZE;
	open_with_hanging_disk(CONF_SYNC_INTERVAL);
	for (unsigned i = 0; i < 100 && !queue->disk_stalls; i++) {
		store_unfiled(&w, 4);
		while (!answers[true]) {
			(void)usleep(1000);
			queue_collect(queue);
		}
	}
	for (unsigned i = 0; i < 20; i++) {
		store_unfiled(&w, 4);
		ck_assert_int_eq(answers[true], 1);
		ck_assert_uint_le(stats.memory_bytes, conf.buffer.memory_limit);
	}
	ck_assert_uint_eq(stats.dropped, 0);
	disk_set(0, false);
}
END_TEST

/* Also where the file system has little room: that matters once the disk answers. */
START_TEST(a_hanging_disk_drops_nothing_while_there_is_memory)
{
	uint64_t first;

	conf.buffer.overflow = _i ? CONF_DROP_NEWEST : CONF_DROP_OLDEST;
	open_with_hanging_disk(CONF_SYNC_INTERVAL);
	first = queue->last_number;
	while (!queue->disk_stalls) {
		(void)usleep(1000);
		queue_collect(queue);
	}
	(void)pthread_mutex_lock(&queue->disk->lock);
	queue->disk->room = 0;
	(void)pthread_mutex_unlock(&queue->disk->lock);
	for (unsigned i = 0; i < 1000; i++) {
		put(1, i);
		queue_end_turn(queue);
	}
	ck_assert_uint_eq(stats.dropped, 0);
	ck_assert(queue_accepts(queue));
	ck_assert_uint_le(queue->last_number, first + 100); /* ten rows each: no batch of one */
	disk_set(0, false);
}
END_TEST

static Suite *
suite(void)
{
	Suite *s = suite_create("queue_faults");
	TCase *tc = tcase_create("memory");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup_memory, teardown);
	tcase_add_test(tc, a_sealed_batch_wakes_a_taker_beside_sleepers);
	tcase_add_test(tc, level2_fails_when_a_later_batch_lost_rows);
	suite_add_tcase(s, tc);
	tc = tcase_create("spool");
	tcase_add_checked_fixture(tc, setup_spool, teardown);
	tcase_add_test(tc, a_failed_wait_may_end_the_one_behind_it);
	tcase_add_loop_test(tc, a_seal_that_the_disk_refuses_answers_nothing, 0, 2);
	tcase_add_test(tc, a_requeued_batch_makes_nothing_durable);
	tcase_add_test(tc, a_reload_does_not_change_the_sync_mode);
	tcase_add_loop_test(tc, a_slow_sync_drops_nothing, 0, 2);
	tcase_add_loop_test(tc, a_failing_disk_keeps_the_backlog, 0, 2);
	tcase_add_test(tc, a_file_that_stays_holds_the_floor);
	tcase_add_test(tc, a_file_that_is_not_removed_yet_fills_the_spool);
	tcase_add_test(tc, what_waits_for_a_hanging_disk_has_a_limit);
	tcase_add_test(tc, a_hanging_disk_gets_what_is_to_be_kept);
	tcase_add_loop_test(tc, what_awaits_its_file_drops_nothing, 0, 2);
	tcase_add_test(tc, memory_that_is_short_is_not_for_keeping);
	tcase_add_loop_test(tc, a_hanging_disk_drops_nothing_while_there_is_memory, 0, 2);
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
