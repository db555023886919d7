/* check_queue.c - the queue, driven from one thread that plays loop and writer in turn. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "queue_fixture.h"

START_TEST(open_batch_is_not_taken)
{
	put(3, 1);
	ck_assert_ptr_null(take());
	queue_seal(queue);
	ck_assert_uint_eq(stats.batches_waiting, 1);
	finish(take());
	ck_assert_uint_eq(stats.stored, 3);
	ck_assert_uint_eq(stats.buffered, 0);
	ck_assert_uint_eq(stats.memory_bytes, 0);
}
END_TEST

START_TEST(sealing_nothing_is_nothing)
{
	queue_seal(queue);
	ck_assert_ptr_null(take());
	ck_assert_uint_eq(stats.batches_waiting, 0);
}
END_TEST

START_TEST(batches_are_sealed_at_max_rows)
{
	struct batch *b;

	put(25, 1);
	ck_assert_uint_eq(stats.batches_waiting, 2);
	b = take();
	ck_assert_uint_eq(b->all.rows, 10);
	ck_assert_uint_eq(b->all.min_us, 1);
	ck_assert_uint_eq(b->all.max_us, 10);
	finish(b);
	finish(take());
	ck_assert_ptr_null(take());
	ck_assert_uint_eq(stats.buffered, 5);
}
END_TEST

START_TEST(batches_are_sealed_at_max_bytes)
{
	conf.batch.max_rows = 1000000;
	queue_set_conf(queue, &conf);
	put(5000, 1);
	queue_seal(queue);
	for (struct batch *b = take(); b; b = take()) {
		ck_assert_uint_le(b->bytes, conf.batch.max_bytes);
		finish(b);
	}
	ck_assert_uint_eq(stats.stored, 5000);
	ck_assert_uint_ge(stats.batches_stored, 2);
}
END_TEST

START_TEST(newest_and_oldest_in_turn)
{
	uint64_t order[4];

	put(40, 1);
	queue_seal(queue);
	for (int i = 0; i < 4; i++) {
		struct batch *b = take();

		order[i] = b->number;
		finish(b);
	}
	ck_assert_uint_eq(order[0], 1);
	ck_assert_uint_eq(order[1], 4);
	ck_assert_uint_eq(order[2], 2);
	ck_assert_uint_eq(order[3], 3);
}
END_TEST

START_TEST(a_returned_batch_comes_again)
{
	struct batch *b;

	put(1, 1);
	queue_seal(queue);
	b = take();
	ck_assert_ptr_null(take());
	queue_return(queue, b, 0);
	ck_assert_ptr_eq(take(), b);
	queue_return(queue, b, 3600000);
	ck_assert_ptr_null(take());
	ck_assert_uint_eq(queue_floor(queue), b->number);
	queue_collect(queue);
	ck_assert_uint_eq(stats.store_retries, 2);
}
END_TEST

START_TEST(rejected_and_lost_rows_are_conserved)
{
	struct batch *b;

	put(10, 1);
	queue_seal(queue);
	b = take();
	b->stored = 7;
	b->rejected = 2;
	b->lost = 1;
	queue_done(queue, b);
	queue_collect(queue);
	ck_assert_uint_eq(stats.stored, 7);
	ck_assert_uint_eq(stats.rejected, 2);
	ck_assert_uint_eq(stats.dropped, 1);
	ck_assert(stats_conserved(&stats));
}
END_TEST

/* ---- overflow ---- */

START_TEST(block_stops_readers_and_resumes)
{
	limit_memory(CONF_BLOCK);
	ck_assert(queue_accepts(queue));
	put(50, 1);
	ck_assert(!queue_accepts(queue));
	ck_assert_uint_eq(stats.batches_waiting, 5); /* sealed, since nothing more comes */
	finish(take());
	ck_assert_uint_eq(drained, 1);
	ck_assert(queue_accepts(queue));
	ck_assert_uint_eq(stats.dropped, 0);
}
END_TEST

START_TEST(drop_newest_keeps_what_is_there)
{
	limit_memory(CONF_DROP_NEWEST);
	put(50, 1);
	ck_assert(queue_accepts(queue));
	ck_assert_uint_eq(put(5, 1000), 0);
	ck_assert_uint_eq(stats.received, 55);
	ck_assert_uint_eq(stats.dropped, 5);
	ck_assert_uint_eq(stats.buffered, 50);
	finish(take());
	ck_assert_uint_ne(put(1, 2000), 0);
}
END_TEST

START_TEST(drop_oldest_makes_room)
{
	struct batch *b;

	limit_memory(CONF_DROP_OLDEST);
	put(50, 1);
	ck_assert_uint_ne(put(10, 1000), 0);
	ck_assert_uint_gt(stats.dropped, 0);
	ck_assert_uint_eq(stats.dropped % 10, 0);
	queue_seal(queue);
	b = take();
	ck_assert_uint_gt(b->number, 1); /* the first went */
	queue_return(queue, b, 0);
}
END_TEST

START_TEST(drop_oldest_spares_what_a_writer_has)
{
	struct batch *b;

	limit_memory(CONF_DROP_OLDEST);
	put(50, 1);
	queue_seal(queue);
	b = take();
	put(30, 1000);
	finish(b);
	ck_assert_uint_eq(stats.stored, 10);
	ck_assert(stats_conserved(&stats));
}
END_TEST

/* ---- sync frames ---- */

START_TEST(nothing_sent_is_safe)
{
	struct queue_wait w = new_wait();

	ck_assert_int_eq(queue_wait(queue, &w, 1, 0), QUEUE_WAIT_DONE);
	ck_assert_int_eq(queue_wait(queue, &w, 2, 0), QUEUE_WAIT_DONE);
}
END_TEST

START_TEST(level2_waits_for_every_batch_of_its_range)
{
	struct queue_wait w = new_wait();
	struct batch *first, *second;

	put(10, 1);
	put(10, 1);
	ck_assert_int_eq(queue_wait(queue, &w, 2, 1), QUEUE_WAIT_PENDING);
	put(10, 1); /* behind the question */
	queue_seal(queue);
	first = take();
	ck_assert_uint_eq(first->number, 1);
	finish(take()); /* the newest: not asked for */
	expect_answers(0, 0);
	second = take();
	ck_assert_uint_eq(second->number, 2);
	finish(second);
	expect_answers(0, 0);
	finish(first);
	expect_answers(1, 0);
}
END_TEST

START_TEST(level2_of_stored_batches_is_done)
{
	struct queue_wait w = new_wait();
	uint64_t number = put(1, 1);

	queue_seal(queue);
	finish(take());
	ck_assert_int_eq(queue_wait(queue, &w, 2, number), QUEUE_WAIT_DONE);
}
END_TEST

START_TEST(level2_on_a_dropped_batch_is_never_answered)
{
	struct queue_wait w = new_wait(), later = new_wait();
	uint64_t number;

	limit_memory(CONF_DROP_OLDEST);
	number = put(10, 1);
	queue_seal(queue);
	ck_assert_int_eq(queue_wait(queue, &w, 2, number), QUEUE_WAIT_PENDING);
	put(60, 1000);
	expect_answers(0, 1);
	ck_assert_int_eq(queue_wait(queue, &later, 2, number), QUEUE_WAIT_LOST);
}
END_TEST

START_TEST(level2_fails_when_rows_were_lost_to_damage)
{
	struct queue_wait w = new_wait();
	uint64_t number = put(2, 1);
	struct batch *b;

	queue_seal(queue);
	ck_assert_int_eq(queue_wait(queue, &w, 2, number), QUEUE_WAIT_PENDING);
	b = take();
	b->stored = 1;
	b->lost = 1;
	queue_done(queue, b);
	queue_collect(queue);
	expect_answers(0, 1);
}
END_TEST

START_TEST(a_wait_that_is_given_up_is_not_called)
{
	struct queue_wait w = new_wait();
	uint64_t number = put(1, 1);

	ck_assert_int_eq(queue_wait(queue, &w, 2, number), QUEUE_WAIT_PENDING);
	queue_unwait(queue, &w);
	queue_unwait(queue, &w);
	queue_seal(queue);
	finish(take());
	expect_answers(0, 0);
}
END_TEST

/* A writer that waits: level 2 must not wait for the timer. */
static void *
writer(void *arg)
{
	struct batch *b = queue_take(queue, &running, 10000);

	(void)arg;
	if (b) {
		b->stored = b->all.rows;
		queue_done(queue, b);
	}
	return NULL;
}

START_TEST(level2_flushes_for_an_idle_writer)
{
	struct queue_wait w = new_wait();
	pthread_t thread;

	ck_assert_int_eq(queue_wait(queue, &w, 2, put(1, 1)), QUEUE_WAIT_PENDING);
	queue_end_turn(queue); /* no writer is free: others may still join */
	ck_assert_uint_eq(stats.batches_waiting, 0);
	atomic_store(&woken, 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, writer, NULL), 0);
	while (!atomic_load(&woken)) /* the writer that became free wakes the loop */
		(void)usleep(100);
	queue_end_turn(queue);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	queue_collect(queue);
	expect_answers(1, 0);
}
END_TEST

/* With a backlog no writer waits for long; one batch at a time is sealed for those who ask. */
START_TEST(level2_does_not_wait_behind_a_backlog)
{
	struct queue_wait first = new_wait(), second = new_wait();
	uint64_t asked, number = 0;

	for (uint64_t i = 0; i < 5; i++) {
		(void)put(1, i);
		queue_seal(queue);
	}
	asked = put(1, 10);
	ck_assert_int_eq(queue_wait(queue, &first, 2, asked), QUEUE_WAIT_PENDING);
	queue_end_turn(queue);
	ck_assert_int_eq(queue_wait(queue, &second, 2, put(1, 20)), QUEUE_WAIT_PENDING);
	queue_end_turn(queue); /* no writer has the first one yet: others may still join */
	ck_assert_uint_eq(put(1, 30), asked + 1);
	atomic_store(&woken, 0);
	for (int i = 0; i < 2 && number != asked; i++)
		number = take()->number;
	ck_assert_uint_eq(number, asked);
	ck_assert_int_gt(atomic_load(&woken), 0);
	queue_end_turn(queue);
	ck_assert_uint_eq(put(1, 40), asked + 2);
	queue_unwait(queue, &first);
	queue_unwait(queue, &second);
}
END_TEST

/*
 * Metrics come faster than the store takes them: two batches for each that is taken.  What level
 * 2 waits for is taken all the same, whether it was sealed before the question came or after.
 */
START_TEST(level2_does_not_wait_behind_newer_batches)
{
	struct queue_wait before = new_wait(), after = new_wait();
	int takes = 0;
	uint64_t asked;

	for (uint64_t i = 0; i < 5; i++)
		(void)put(10, i);
	asked = put(3, 10);
	queue_seal(queue);
	(void)put(10, 20);
	ck_assert_int_eq(queue_wait(queue, &before, 2, asked), QUEUE_WAIT_PENDING);
	ck_assert_int_eq(queue_wait(queue, &after, 2, put(1, 30)), QUEUE_WAIT_PENDING);
	for (; answers[true] < 2; takes++) {
		ck_assert_int_lt(takes, 9); /* three batches have waits, and each third is theirs */
		(void)put(20, 40);
		queue_end_turn(queue);
		finish(take());
	}
	ck_assert_uint_gt(stats.batches_waiting, 10);
}
END_TEST

/* Not by number, and past those that a writer has or that have to wait. */
START_TEST(who_has_waited_longest_comes_first)
{
	struct queue_wait first = new_wait(), second = new_wait();
	struct batch *third, *fifth, *sixth;

	for (uint64_t i = 0; i < 8; i++) {
		(void)put(1, i);
		queue_seal(queue);
	}
	ck_assert_int_eq(queue_wait(queue, &first, 2, 5), QUEUE_WAIT_PENDING);
	ck_assert_int_eq(queue_wait(queue, &second, 2, 3), QUEUE_WAIT_PENDING);
	ck_assert_uint_eq(take()->number, 1);
	ck_assert_uint_eq(take()->number, 8);
	fifth = take();
	ck_assert_uint_eq(fifth->number, 5);
	ck_assert_uint_eq(take()->number, 2);
	ck_assert_uint_eq(take()->number, 7);
	third = take();
	ck_assert_uint_eq(third->number, 3);
	ck_assert_uint_eq(take()->number, 4);
	sixth = take();
	ck_assert_uint_eq(sixth->number, 6);
	queue_return(queue, sixth, 3600000);
	queue_return(queue, third, 0);
	ck_assert_uint_eq(take()->number, 3);
	finish(third); /* whoever waited for it waits for the next of the range now */
	ck_assert_ptr_null(take());
	queue_return(queue, fifth, 0);
	ck_assert_uint_eq(take()->number, 5);
	queue_unwait(queue, &first);
	queue_unwait(queue, &second);
}
END_TEST

START_TEST(kick_ends_take_and_sleep)
{
	pthread_t thread;

	atomic_store(&woken, 0);
	ck_assert_int_eq(queue_wait(queue, &(struct queue_wait){.fn = on_answer}, 2, 0),
			 QUEUE_WAIT_DONE);
	ck_assert_int_eq(pthread_create(&thread, NULL, writer, NULL), 0);
	put(1, 1); /* stays open: the writer has nothing to take */
	for (;;) {
		int r;

		queue_kick(queue);
		r = pthread_tryjoin_np(thread, NULL);
		if (r == 0)
			break;
		ck_assert_int_eq(r, EBUSY);
		(void)usleep(100);
	}
	ck_assert_uint_eq(stats.batches_waiting, 0);
}
END_TEST

/* ---- with a spool ---- */

static unsigned
files(const char *pattern)
{
	char command[192];
	unsigned n = 0;
	FILE *p;

	(void)snprintf(command, sizeof(command), "ls %s/%s 2>/dev/null | wc -l", conf.buffer.spool,
		       pattern);
	p = popen(command, "r");
	ck_assert_int_eq(fscanf(p, "%u", &n), 1);
	(void)pclose(p);
	return n;
}

START_TEST(a_turn_writes_one_block_and_done_removes_the_file)
{
	put(3, 1);
	ck_assert_uint_eq(queue_unsafe_rows(queue), 3);
	queue_end_turn(queue);
	await_disk();
	ck_assert_uint_eq(queue_unsafe_rows(queue), 0);
	ck_assert_uint_eq(files("*.batch"), 1);
	queue_seal(queue);
	finish(take());
	await_disk();
	ck_assert_uint_eq(files("*.batch"), 0);
}
END_TEST

START_TEST(what_was_not_stored_is_recovered)
{
	struct batch *b;
	struct batch_view v;
	uint64_t number;

	put(13, 100); /* one sealed batch, and three rows in the open one */
	queue_end_turn(queue);
	close_queue();
	open_queue();
	ck_assert_uint_eq(stats.recovered, 13);
	ck_assert_uint_eq(stats.received, 13);
	ck_assert_uint_eq(stats.buffered, 13);
	b = take();
	queue_view(queue, b, &v);
	ck_assert_uint_eq(v.rows, 10);
	ck_assert_uint_eq(v.min_us, 100);
	ck_assert_uint_eq(v.max_us, 109);
	ck_assert_uint_eq(v.bytes, 10 * FRAME_SIZE);
	ck_assert_str_eq(v.collector, queue_collector(queue));
	number = v.number;
	b->stored = v.rows;
	queue_done(queue, b);
	queue_collect(queue);
	b = take();
	ck_assert_uint_gt(b->number, number);
	finish(b);
	ck_assert_uint_gt(put(1, 1), number + 1); /* numbers never repeat */
}
END_TEST

START_TEST(backlog_beyond_the_memory_limit_lives_on_disk)
{
	conf.buffer.memory_limit = 100 * FRAME_SIZE;
	queue_set_conf(queue, &conf);
	for (unsigned i = 0; i < 100; i++) {
		await_room();
		put(10, i * 10);
		queue_end_turn(queue);
		ck_assert_uint_le(stats.memory_bytes, 110 * FRAME_SIZE);
	}
	queue_seal(queue);
	ck_assert_uint_eq(stats.buffered, 1000);
	for (struct batch *b = take(); b; b = take())
		finish(b);
	ck_assert_uint_eq(stats.stored, 1000);
	await_disk();
	ck_assert_uint_eq(files("*.batch"), 0);
}
END_TEST

START_TEST(spool_limit_blocks)
{
	conf.buffer.spool_limit = 4096;
	queue_set_conf(queue, &conf);
	for (unsigned i = 0; i < 100 && queue_accepts(queue); i++) {
		put(10, i);
		queue_end_turn(queue);
	}
	ck_assert(!queue_accepts(queue));
	ck_assert_uint_lt(stats.received, 1000);
	while (!queue_accepts(queue)) {
		struct batch *b = take();

		if (b)
			finish(b);
		else
			queue_collect(queue); /* the files of those before are to go first */
	}
	ck_assert_uint_eq(drained, 1);
}
END_TEST

START_TEST(level1_waits_for_the_disk_only)
{
	static const enum conf_sync modes[] = {CONF_SYNC_ALWAYS, CONF_SYNC_INTERVAL,
					       CONF_SYNC_NEVER};
	struct queue_wait w = new_wait();

	close_queue();
	conf.buffer.sync = modes[_i];
	open_queue();
	ck_assert_int_eq(queue_wait(queue, &w, 1, put(2, 1)), QUEUE_WAIT_PENDING);
	atomic_store(&woken, 0);
	queue_end_turn(queue);
	if (modes[_i] == CONF_SYNC_INTERVAL) {
		expect_answers(0, 0);
		queue_tick(queue);
	}
	while (!answers[true]) {
		queue_collect(queue);
		(void)usleep(100);
	}
	expect_answers(1, 0);
	ck_assert_uint_eq(stats.stored, 0);
}
END_TEST

START_TEST(level1_is_released_by_the_database_too)
{
	struct queue_wait w = new_wait();

	close_queue();
	conf.buffer.sync = CONF_SYNC_INTERVAL;
	open_queue();
	ck_assert_int_eq(queue_wait(queue, &w, 1, put(2, 1)), QUEUE_WAIT_PENDING);
	queue_seal(queue);
	finish(take());
	expect_answers(1, 0);
}
END_TEST

START_TEST(kept_batches_can_be_stored_again)
{
	uint64_t *numbers;
	size_t n;

	conf.buffer.keep_ms = 3600000;
	queue_set_conf(queue, &conf);
	put(20, 1);
	queue_seal(queue);
	finish(take());
	finish(take());
	await_disk();
	ck_assert_uint_eq(files("*.batch"), 0);
	ck_assert_uint_eq(files("*.stored"), 2);
	ck_assert_int_eq(queue_kept(queue, &numbers, &n), 0);
	ck_assert_uint_eq(n, 2);
	ck_assert_uint_eq(queue_requeue(queue, numbers + 1, 1), 1);
	ck_assert_uint_eq(queue_requeue(queue, numbers + 1, 1), 0); /* it is on its way */
	free(numbers);
	while (stats.buffered < 10) {
		(void)usleep(100);
		queue_collect(queue);
	}
	ck_assert_uint_eq(stats.buffered, 10);
	finish(take());
	ck_assert_ptr_null(take());
	ck_assert_uint_eq(stats.stored, 30);
}
END_TEST

/* A batch that a run before this one has left. */
static void
leave_batch(struct spool *left, uint64_t number, uint64_t opened_us)
{
	uint8_t frame[FRAME_SIZE + FRAME_MAX];
	struct spool_file *f;

	(void)frame_encode(frame, opened_us, "name", 4, 1);
	ck_assert_int_eq(spool_create(left, number, opened_us, &f), 0);
	ck_assert_int_eq(spool_append(f, frame, FRAME_SIZE, 1, opened_us, opened_us), 0);
	ck_assert_int_eq(spool_seal(f), 0);
}

/* Takes a batch and stores it; returns until when everything is complete with it. */
static uint64_t
complete_with(uint64_t number)
{
	struct batch *b = take();
	struct batch_view v;

	ck_assert_uint_eq(b->number, number);
	queue_view(queue, b, &v);
	finish(b);
	return v.complete_until_us;
}

START_TEST(complete_until_the_first_that_waits)
{
	static const uint64_t opened_us[] = {1000, 3000, 2000 /* the clock was set back */, 4000};

	char why[SPOOL_WHY_MAX];
	struct spool *left;

	close_queue();
	ck_assert_int_eq(spool_open(conf.buffer.spool, CONF_SYNC_NEVER, &left, why), 0);
	for (unsigned i = 0; i < 4; i++)
		leave_batch(left, i + 1, opened_us[i]);
	spool_free(left);
	open_queue();
	ck_assert_uint_eq(queue_complete_until(queue), 1000);
	ck_assert_uint_eq(complete_with(1), 2000);
	ck_assert_uint_eq(queue_complete_until(queue), 2000);
	ck_assert_uint_eq(complete_with(3), 3000);
	ck_assert_uint_eq(complete_with(2), 4000);
	ck_assert_uint_eq(queue_complete_until(queue), 4000);
	ck_assert_uint_gt(complete_with(4), 4000);
	ck_assert_uint_gt(queue_complete_until(queue), 4000);
}
END_TEST

/* As if it had been ahead by a year when the batch came. */
START_TEST(no_promise_once_the_clock_was_set_back)
{
	put(10, 1);
	ck_assert_uint_gt(queue_complete_until(queue), 0);
	queue->open->opened_us += UINT64_C(365) * 86400 * 1000000;
	queue->open_us = queue->open->opened_us;
	ck_assert_uint_eq(queue_complete_until(queue), 0);
	queue_seal(queue);
	ck_assert_uint_eq(queue_complete_until(queue), 0);
	finish(take());
	ck_assert_uint_gt(queue_complete_until(queue), 0);
}
END_TEST

START_TEST(safe_means_everything_is_on_disk)
{
	close_queue();
	conf.buffer.sync = CONF_SYNC_INTERVAL;
	open_queue();
	put(5, 1);
	ck_assert(!queue_secure(queue));
	queue_seal(queue);
	while (!queue_secure(queue)) {
		queue_collect(queue);
		(void)usleep(100);
	}
	ck_assert_uint_eq(queue_unsafe_rows(queue), 0);
}
END_TEST

static Suite *
suite(void)
{
	Suite *s = suite_create("queue");
	TCase *tc = tcase_create("memory");

	tcase_add_checked_fixture(tc, setup_memory, teardown);
	tcase_add_test(tc, open_batch_is_not_taken);
	tcase_add_test(tc, no_promise_once_the_clock_was_set_back);
	tcase_add_test(tc, sealing_nothing_is_nothing);
	tcase_add_test(tc, batches_are_sealed_at_max_rows);
	tcase_add_test(tc, batches_are_sealed_at_max_bytes);
	tcase_add_test(tc, newest_and_oldest_in_turn);
	tcase_add_test(tc, a_returned_batch_comes_again);
	tcase_add_test(tc, rejected_and_lost_rows_are_conserved);
	tcase_add_test(tc, block_stops_readers_and_resumes);
	tcase_add_test(tc, drop_newest_keeps_what_is_there);
	tcase_add_test(tc, drop_oldest_makes_room);
	tcase_add_test(tc, drop_oldest_spares_what_a_writer_has);
	tcase_add_test(tc, nothing_sent_is_safe);
	tcase_add_test(tc, level2_waits_for_every_batch_of_its_range);
	tcase_add_test(tc, level2_of_stored_batches_is_done);
	tcase_add_test(tc, level2_on_a_dropped_batch_is_never_answered);
	tcase_add_test(tc, level2_fails_when_rows_were_lost_to_damage);
	tcase_add_test(tc, a_wait_that_is_given_up_is_not_called);
	tcase_add_test(tc, level2_flushes_for_an_idle_writer);
	tcase_add_test(tc, level2_does_not_wait_behind_a_backlog);
	tcase_add_test(tc, level2_does_not_wait_behind_newer_batches);
	tcase_add_test(tc, who_has_waited_longest_comes_first);
	tcase_add_test(tc, kick_ends_take_and_sleep);
	suite_add_tcase(s, tc);
	tc = tcase_create("spool");
	tcase_add_checked_fixture(tc, setup_spool, teardown);
	tcase_add_test(tc, a_turn_writes_one_block_and_done_removes_the_file);
	tcase_add_test(tc, what_was_not_stored_is_recovered);
	tcase_add_test(tc, backlog_beyond_the_memory_limit_lives_on_disk);
	tcase_add_test(tc, spool_limit_blocks);
	tcase_add_loop_test(tc, level1_waits_for_the_disk_only, 0, 3);
	tcase_add_test(tc, level1_is_released_by_the_database_too);
	tcase_add_test(tc, kept_batches_can_be_stored_again);
	tcase_add_test(tc, complete_until_the_first_that_waits);
	tcase_add_test(tc, safe_means_everything_is_on_disk);
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
