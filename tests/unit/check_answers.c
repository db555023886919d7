/* check_answers.c - questions that wait for a real queue, answers over a socket pair. */
#include "net/answers.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "queue_open.h"
#include "wire/bytes.h"

static const atomic_int running = 0;

static struct answers_common common;
static struct answers answers;
static int ours, theirs;
static unsigned due, lost; /* what the owner was told */

static void
told(void *arg, bool ok)
{
	ck_assert_ptr_eq(arg, &due);
	if (ok)
		due++;
	else
		lost++;
}

static void
nothing(void *arg)
{
	(void)arg;
}

static void
setup(void)
{
	static const struct queue_events events = {nothing, nothing, NULL};
	int fds[2];

	memset(&conf, 0, sizeof(conf));
	conf.batch.max_rows = 1000;
	conf.batch.max_bytes = 64 * 1024;
	conf.buffer.memory_limit = 1 << 20;
	open_queue_for(&events);
	common = (struct answers_common){.queue = queue, .stats = &stats, .fn = told};
	answers_init(&answers, &common, &due);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	ours = fds[0];
	theirs = fds[1];
}

static void
teardown(void)
{
	answers_done(&answers);
	ck_assert_uint_eq(common.open, 0);
	close_queue();
	(void)close(ours);
	(void)close(theirs);
}

static void
send_metric(void)
{
	const struct batch_part part = {1, 5, 5};
	uint8_t frame[FRAME_MAX];
	size_t len = frame_encode(frame, 5, "m", 1, 1.0);

	answers_cover(&answers, queue_append(queue, frame, len, &part));
}

static int
ask(unsigned level, uint64_t token)
{
	uint8_t bytes[FRAME_ANSWER_SIZE];

	frame_encode_answer(bytes, token, 3);
	return answers_add(&answers, level, bytes);
}

static struct batch *
take(void)
{
	struct batch *b = queue_take(queue, &running, 0);

	ck_assert_ptr_nonnull(b);
	return b;
}

/* As a writer would. */
static void
store(struct batch *b)
{
	b->stored = b->all.rows;
	queue_done(queue, b);
	queue_collect(queue);
}

static void
store_open(void)
{
	queue_seal(queue);
	store(take());
}

static void
expect_answer(uint64_t token)
{
	uint8_t bytes[FRAME_ANSWER_SIZE];

	ck_assert_int_eq(recv(theirs, bytes, sizeof(bytes), 0), sizeof(bytes));
	ck_assert_uint_eq(be64_load(bytes), token);
	ck_assert_uint_eq(be64_load(bytes + 9), 3);
}

START_TEST(nothing_to_wait_for)
{
	ck_assert(!answers_due(&answers));
	ck_assert_uint_eq(answers_send(&answers, ours), 0);
	ck_assert_int_eq(ask(1, 1), 0);
	ck_assert_int_eq(ask(2, 2), 0);
	ck_assert(answers_due(&answers));
	ck_assert_uint_eq(common.open, 2);
	ck_assert_uint_eq(answers_send(&answers, ours), (size_t)2 * FRAME_ANSWER_SIZE);
	ck_assert_uint_eq(due, 0); /* whoever asks sees it */
	ck_assert_uint_eq(answers.open, 0);
	ck_assert_uint_eq(common.open, 0);
	ck_assert_uint_eq(stats.syncs_level1, 1);
	ck_assert_uint_eq(stats.syncs_level2, 1);
	expect_answer(1);
	expect_answer(2);
}
END_TEST

START_TEST(an_answer_is_due_once_its_metrics_are_stored)
{
	send_metric();
	ck_assert_int_eq(ask(2, 1), 0);
	ck_assert(!answers_due(&answers));
	ck_assert_uint_eq(answers_send(&answers, ours), 0);
	store_open();
	ck_assert_uint_eq(due, 1);
	ck_assert_uint_eq(answers_send(&answers, ours), FRAME_ANSWER_SIZE);
	expect_answer(1);
}
END_TEST

/* The second question is about nothing of its own, the third about a batch that is stored first. */
START_TEST(a_later_answer_waits_for_the_first)
{
	struct batch *older, *newer;

	send_metric();
	ck_assert_int_eq(ask(2, 1), 0);
	ck_assert_int_eq(ask(2, 2), 0);
	queue_seal(queue);
	send_metric();
	ck_assert_int_eq(ask(2, 3), 0);
	queue_seal(queue);
	ck_assert(!answers_due(&answers));
	ck_assert_uint_eq(answers.open, 3);
	older = take();
	newer = take();
	if (older->number > newer->number) {
		struct batch *swap = older;

		older = newer;
		newer = swap;
	}
	store(newer);
	ck_assert_uint_eq(due, 0);
	ck_assert_uint_eq(answers_send(&answers, ours), 0);
	store(older);
	ck_assert_uint_eq(due, 1); /* only for the first */
	ck_assert_uint_eq(answers_send(&answers, ours), (size_t)3 * FRAME_ANSWER_SIZE);
	for (uint64_t token = 1; token <= 3; token++)
		expect_answer(token);
}
END_TEST

/* More than fit into one send or into the socket: none is lost, none comes twice. */
START_TEST(a_socket_that_is_full)
{
	const uint64_t n = 20000;
	int small = 1;
	uint64_t next = 0;
	size_t sent = 0, got = 0;

	ck_assert_int_eq(setsockopt(ours, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
	for (uint64_t token = 0; token < n; token++)
		ck_assert_int_eq(ask(1, token), 0);
	sent = answers_send(&answers, ours);
	ck_assert_uint_lt(sent, n * FRAME_ANSWER_SIZE);
	while (next < n) {
		uint8_t bytes[1001];
		static uint8_t unread[FRAME_ANSWER_SIZE];
		ssize_t r = recv(theirs, bytes, sizeof(bytes), 0);

		ck_assert_int_gt(r, 0);
		for (ssize_t i = 0; i < r; i++) {
			unread[got++ % FRAME_ANSWER_SIZE] = bytes[i];
			if (got % FRAME_ANSWER_SIZE == 0)
				ck_assert_uint_eq(be64_load(unread), next++);
		}
		sent += answers_send(&answers, ours);
	}
	ck_assert_uint_eq(sent, n * FRAME_ANSWER_SIZE);
	ck_assert_uint_eq(got, sent);
	ck_assert_uint_eq(stats.syncs_level1, n);
	ck_assert_uint_eq(answers.open, 0);
}
END_TEST

START_TEST(a_peer_that_has_gone_is_asked_no_more)
{
	ck_assert_int_eq(ask(1, 1), 0);
	(void)close(theirs);
	theirs = -1;
	ck_assert_uint_eq(answers_send(&answers, ours), 0);
	ck_assert(answers.mute);
	ck_assert_uint_eq(answers.open, 0);
	ck_assert_int_eq(ask(1, 2), 0);
	ck_assert_uint_eq(answers.open, 0);
	ck_assert_uint_eq(stats.syncs_level1, 0);
}
END_TEST

START_TEST(forgotten_questions_are_not_told_of)
{
	send_metric();
	ck_assert_int_eq(ask(2, 1), 0);
	ck_assert_int_eq(ask(2, 2), 0);
	answers_mute(&answers);
	ck_assert_uint_eq(common.open, 0);
	store_open();
	ck_assert_uint_eq(due, 0);
}
END_TEST

START_TEST(dropped_metrics_give_no_answer)
{
	answers_cover(&answers, 0);
	ck_assert_int_eq(ask(2, 1), -ENODATA);
	ck_assert_int_eq(ask(1, 2), -ENODATA);
	ck_assert_uint_eq(answers.open, 0);
}
END_TEST

/* Its batch is dropped while it waits; a second client asks after that. */
START_TEST(metrics_lost_before_the_answer)
{
	struct answers second;
	uint8_t bytes[FRAME_ANSWER_SIZE] = {0};

	conf.buffer.memory_limit = 4 * (FRAME_FIXED + 1);
	conf.buffer.overflow = CONF_DROP_OLDEST;
	queue_set_conf(queue, &conf);
	send_metric();
	answers_init(&second, &common, &due);
	answers_cover(&second, answers.first_batch[1]);
	ck_assert_int_eq(ask(2, 1), 0);
	for (unsigned i = 0; i < 8; i++)
		send_metric();
	ck_assert_uint_gt(stats.dropped, 0);
	ck_assert_uint_eq(lost, 1);
	ck_assert_uint_eq(due, 0);
	ck_assert(!answers_due(&answers));
	ck_assert_int_eq(answers_add(&second, 2, bytes), -ENODATA);
	ck_assert_uint_eq(second.open, 0);
	answers_done(&second);
}
END_TEST

static Suite *
suite(void)
{
	Suite *s = suite_create("answers");
	TCase *tc = tcase_create("answers");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, nothing_to_wait_for);
	tcase_add_test(tc, an_answer_is_due_once_its_metrics_are_stored);
	tcase_add_test(tc, a_later_answer_waits_for_the_first);
	tcase_add_test(tc, a_socket_that_is_full);
	tcase_add_test(tc, a_peer_that_has_gone_is_asked_no_more);
	tcase_add_test(tc, forgotten_questions_are_not_told_of);
	tcase_add_test(tc, dropped_metrics_give_no_answer);
	tcase_add_test(tc, metrics_lost_before_the_answer);
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
