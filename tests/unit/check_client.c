/* check_client.c - what connections send, and what they are answered. */
#include <time.h>

#include "base/clock.h"
#include "client_fixture.h"

START_TEST(frames_split_at_every_byte)
{
	uint8_t buf[3 * FRAME_MAX];
	size_t len = 0;
	int fd = connect_client();

	for (unsigned i = 0; i < 3; i++)
		len += add_metric(buf + len, i);
	for (size_t i = 0; i < len; i++) {
		send_all(fd, buf + i, 1);
		await(&stats.bytes_received, i + 1);
	}
	ck_assert_uint_eq(stats.received, 3);
	ck_assert_uint_eq(stats.refused, 0);
	(void)close(fd);
}
END_TEST

START_TEST(many_frames_in_few_reads)
{
	int fd = connect_client();

	send_metrics(fd, 100000);
	await(&stats.received, 100000);
	(void)close(fd);
	while (stats.clients)
		ck_assert_int_eq(loop_turn(loop, 10), 0);
	ck_assert_uint_eq(stats.truncated_frames, 0);
}
END_TEST

START_TEST(refused_frames_do_not_end_the_stream)
{
	uint8_t buf[8 * FRAME_MAX];
	size_t len = 0;
	int fd = connect_client();

	len += add_metric(buf + len, 1);
	len += add_empty_name(buf + len);
	len += frame_encode(buf + len, 1, "\xff", 1, 1.0);
	len += add_metric(buf + len, 2);
	len += frame_encode(buf + len, 1, "a\nb", 3, 1.0);
	len += frame_encode(buf + len, FRAME_TIME_MAX + 1, "a", 1, 1.0);
	len += add_metric(buf + len, 3);
	send_all(fd, buf, len);
	await(&stats.received, 3);
	ck_assert_uint_eq(stats.refused, 4);
	ck_assert_uint_eq(stats.refused_empty_name, 1);
	ck_assert_uint_eq(stats.refused_invalid_utf8, 1);
	ck_assert_uint_eq(stats.refused_control_byte, 1);
	ck_assert_uint_eq(stats.refused_timestamp_range, 1);
	ck_assert_uint_eq(stats.clients, 1);
	(void)close(fd);
}
END_TEST

START_TEST(timestamps_outside_the_window_are_refused)
{
	int fd;

	conf.timestamps.max_age_us = 1000000;
	fd = connect_client();
	send_metrics(fd, 1); /* 1970; the database's clock is not known yet */
	await(&stats.received, 1);
	queue_set_clock(queue, clock_real_us());
	send_metrics(fd, 1);
	await(&stats.refused_timestamp_window, 1);
	queue_set_clock(queue, 500000); /* it is 1970 there, whatever ours says */
	send_metrics(fd, 1);
	await(&stats.received, 2);
	(void)close(fd);
}
END_TEST

START_TEST(too_many_refused_in_a_row_close)
{
	uint8_t buf[2 * FRAME_MAX];
	size_t bad = add_empty_name(buf);
	int fd = connect_client();

	for (unsigned i = 0; i < 4; i++)
		send_all(fd, buf, bad);
	send_metrics(fd, 1); /* starts the count again */
	for (unsigned i = 0; i < 4; i++)
		send_all(fd, buf, bad);
	await(&stats.refused, 8);
	ck_assert_uint_eq(stats.clients, 1);
	send_all(fd, buf, bad);
	expect_closed(fd);
	ck_assert_uint_eq(stats.clients_protocol_error, 1);
	ck_assert_uint_eq(stats.received, 1);
	(void)close(fd);
}
END_TEST

START_TEST(an_unfinished_frame_at_the_end_is_counted)
{
	uint8_t buf[FRAME_MAX];
	size_t len = add_metric(buf, 1);
	int fd = connect_client();

	send_all(fd, buf, len);
	send_all(fd, buf, len - 1);
	(void)close(fd);
	await(&stats.truncated_frames, 1);
	ck_assert_uint_eq(stats.truncated_bytes, len - 1);
	ck_assert_uint_eq(stats.received, 1);
	ck_assert_uint_eq(stats.clients, 0);
}
END_TEST

START_TEST(max_clients_and_strangers_are_closed_at_once)
{
	struct sockaddr_storage peer = {.ss_family = AF_INET};
	struct cidr allow;
	const char *why;
	int fds[2], first, second;

	conf.max_clients = 1;
	first = connect_client();
	second = connect_client();
	expect_closed(second);
	ck_assert_uint_eq(stats.clients_refused, 1);
	(void)close(first);
	(void)close(second);
	while (stats.clients)
		ck_assert_int_eq(loop_turn(loop, 10), 0);

	ck_assert_int_eq(cidr_parse("192.0.2.0/24", &allow, &why), 0);
	conf.allow = &allow;
	conf.n_allow = 1;
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	clients_accept(clients, fds[0], (struct sockaddr *)&peer, sizeof(struct sockaddr_in6));
	expect_closed(fds[1]);
	ck_assert_uint_eq(stats.clients_refused, 2);
	(void)close(fds[1]);
}
END_TEST

START_TEST(silent_clients_time_out_unless_they_wait_for_us)
{
	int silent, waiting;

	conf.client_timeout_ms = 1;
	silent = connect_client();
	waiting = connect_client();
	send_metrics(waiting, 1);
	send_sync(waiting, 7, 2);
	await(&stats.received, 1);
	while (stats.clients_timed_out < 1) {
		ck_assert_int_eq(loop_turn(loop, 1), 0);
		clients_tick(clients);
	}
	expect_closed(silent);
	ck_assert_uint_eq(stats.clients, 1);
	store_all();
	expect_answer(waiting, 7, 0);
	(void)close(silent);
	(void)close(waiting);
}
END_TEST

static void
silence(uint64_t ms)
{
	const struct timespec ts = {.tv_nsec = (long)ms * 1000000};

	(void)nanosleep(&ts, NULL);
}

/* It waited for us longer than client_timeout: its time begins with the answer. */
START_TEST(an_answer_is_no_silence)
{
	int fd;

	conf.client_timeout_ms = 50;
	fd = connect_client();
	send_metrics(fd, 1);
	send_sync(fd, 1, 2);
	await(&stats.received, 1);
	silence(60);
	conf.client_timeout_ms = 60000;
	store_all();
	conf.client_timeout_ms = 50;
	clients_tick(clients);
	ck_assert_uint_eq(stats.clients, 1);
	expect_answer(fd, 1, 0);
	(void)close(fd);
}
END_TEST

START_TEST(a_client_that_takes_no_answers_times_out)
{
	const size_t n = 100000; /* more answers than the sockets hold */
	uint8_t frame[FRAME_FIXED];
	size_t len = frame_encode_sync(frame, 1, 2);
	int fd = connect_client();

	for (size_t i = 0; i < n && send(fd, frame, len, MSG_NOSIGNAL) == (ssize_t)len; i++)
		ck_assert_int_eq(loop_turn(loop, 0), 0);
	while (clients_waiting(clients) < CLIENT_SYNCS_MAX) {
		(void)send(fd, frame, len, MSG_NOSIGNAL);
		ck_assert_int_eq(loop_turn(loop, 0), 0);
	}
	conf.client_timeout_ms = 20;
	while (stats.clients) {
		silence(10);
		clients_tick(clients);
	}
	ck_assert_uint_eq(stats.clients_timed_out, 1);
	(void)close(fd);
}
END_TEST

START_TEST(a_full_queue_pauses_clients_and_loses_nothing)
{
	int fd;

	conf.buffer.memory_limit = 300000;
	queue_set_conf(queue, &conf);
	fd = connect_client();
	for (unsigned i = 0; i < 20; i++) {
		uint8_t buf[1000 * 32];
		size_t len = 0, sent = 0;

		for (uint64_t k = 0; k < 1000; k++)
			len += add_metric(buf + len, k);
		for (unsigned turns = 0; sent < len && turns < TURNS_MAX; turns++) {
			ssize_t n = send(fd, buf + sent, len - sent, MSG_NOSIGNAL);

			if (n > 0)
				sent += (size_t)n;
			else
				store_all();
			ck_assert_int_eq(loop_turn(loop, 0), 0);
			ck_assert_uint_le(stats.memory_bytes, 300000 + 256 * 1024);
		}
	}
	(void)close(fd);
	for (unsigned i = 0; i < TURNS_MAX && stats.clients; i++) {
		store_all();
		ck_assert_int_eq(loop_turn(loop, 1), 0);
	}
	store_all();
	ck_assert_uint_eq(stats.stored, 20000);
	ck_assert_uint_eq(stats.dropped, 0);
}
END_TEST

START_TEST(answers_come_in_order_with_refused_counts)
{
	uint8_t bad[FRAME_MAX];
	size_t len = add_empty_name(bad);
	int fd = connect_client();

	send_sync(fd, 1, 2); /* nothing sent yet: answered at once */
	send_metrics(fd, 3);
	send_all(fd, bad, len);
	send_all(fd, bad, len);
	send_sync(fd, 2, 2);
	send_sync(fd, 3, 1);
	expect_answer(fd, 1, 0);
	await(&stats.refused, 2);
	expect_no_answer(fd);
	store_all();
	expect_answer(fd, 2, 2);
	expect_answer(fd, 3, 0);
	ck_assert_uint_eq(stats.syncs_level2, 2);
	ck_assert_uint_eq(stats.syncs_level1, 1);
	(void)close(fd);
}
END_TEST

START_TEST(answers_after_half_close)
{
	int fd = connect_client();

	send_metrics(fd, 1);
	send_sync(fd, 9, 2);
	ck_assert_int_eq(shutdown(fd, SHUT_WR), 0);
	await(&stats.received, 1);
	ck_assert_int_eq(loop_turn(loop, 10), 0);
	store_all();
	expect_answer(fd, 9, 0);
	expect_closed(fd);
	(void)close(fd);
}
END_TEST

/* More questions than a client may have open: all are answered once it takes answers. */
START_TEST(unread_answers_are_limited)
{
	const uint64_t n = 20 * CLIENT_SYNCS_MAX;
	uint8_t *buf = malloc((n + 1) * FRAME_MAX);
	size_t len = 0, sent = 0;
	int fd = connect_client();
	uint64_t answered = 0;

	for (uint64_t i = 0; i < n; i++) {
		len += frame_encode_sync(buf + len, i, 2);
		len += add_metric(buf + len, i);
	}
	for (unsigned i = 0; i < TURNS_MAX && (answered < n || sent < len); i++) {
		ssize_t got = sent < len ? send(fd, buf + sent, len - sent, MSG_NOSIGNAL) : 0;

		if (got > 0)
			sent += (size_t)got;
		ck_assert_int_eq(loop_turn(loop, 0), 0);
		ck_assert_uint_le(clients_waiting(clients), CLIENT_SYNCS_MAX);
		if (i % 3)
			store_all();
		else
			while (answered < n) {
				uint8_t answer[FRAME_ANSWER_SIZE];
				ssize_t r = recv(fd, answer, sizeof(answer), 0);

				if (r < 0)
					break;
				ck_assert_int_eq(r, sizeof(answer));
				ck_assert_uint_eq(be64_load(answer), answered);
				answered++;
			}
	}
	ck_assert_uint_eq(answered, n);
	await(&stats.received, n);
	free(buf);
	(void)close(fd);
}
END_TEST

/* So few bytes behind the last question that they fit where an unfinished frame is kept. */
START_TEST(frames_behind_the_last_question_are_not_forgotten)
{
	uint8_t buf[(CLIENT_SYNCS_MAX + 3) * FRAME_MAX];
	int fd = connect_client();
	size_t len = add_metric(buf, 0);

	for (unsigned i = 0; i < CLIENT_SYNCS_MAX; i++)
		len += frame_encode_sync(buf + len, i, 2);
	len += add_metric(buf + len, 1);
	len += frame_encode_sync(buf + len, CLIENT_SYNCS_MAX, 2);
	send_all(fd, buf, len);
	ck_assert_int_eq(shutdown(fd, SHUT_WR), 0);
	await(&stats.received, 1);
	store_all();
	await(&stats.received, 2);
	store_all();
	for (unsigned i = 0; i <= CLIENT_SYNCS_MAX; i++)
		expect_answer(fd, i, 0);
	expect_closed(fd);
	ck_assert_uint_eq(stats.truncated_frames, 0);
	(void)close(fd);
}
END_TEST

/*
 * The queue's word lets it go on, but the queue is not appended to from there: that is the loop's
 * next turn's, and until then it counts as waiting.
 */
START_TEST(frames_behind_the_last_question_wait_for_the_loop)
{
	uint8_t buf[(CLIENT_SYNCS_MAX + 2) * FRAME_MAX];
	int fd = connect_client();
	size_t len = add_metric(buf, 0);

	for (unsigned i = 0; i < CLIENT_SYNCS_MAX; i++)
		len += frame_encode_sync(buf + len, i, 2);
	len += add_metric(buf + len, 1);
	send_all(fd, buf, len);
	await(&stats.received, 1);
	ck_assert_uint_eq(clients_waiting(clients), CLIENT_SYNCS_MAX);
	store_all();
	ck_assert_uint_eq(stats.syncs_level2, CLIENT_SYNCS_MAX);
	ck_assert_uint_eq(stats.received, 1);
	ck_assert_uint_eq(clients_waiting(clients), 1);
	await(&stats.received, 2);
	ck_assert_uint_eq(clients_waiting(clients), 0);
	(void)close(fd);
}
END_TEST

/* What was read before the stop is dealt with, though nothing is read any more. */
START_TEST(drain_forgets_no_frames_behind_the_last_question)
{
	uint8_t buf[(CLIENT_SYNCS_MAX + 3) * FRAME_MAX];
	int fd = connect_client();
	size_t len = add_metric(buf, 0);

	for (unsigned i = 0; i < CLIENT_SYNCS_MAX; i++)
		len += frame_encode_sync(buf + len, i, 2);
	len += add_metric(buf + len, 1);
	len += frame_encode_sync(buf + len, CLIENT_SYNCS_MAX, 2);
	send_all(fd, buf, len);
	await(&stats.received, 1);
	clients_drain(clients);
	store_all();
	await(&stats.received, 2);
	ck_assert_uint_eq(clients_waiting(clients), 1);
	store_all();
	for (unsigned i = 0; i <= CLIENT_SYNCS_MAX; i++)
		expect_answer(fd, i, 0);
	expect_closed(fd);
	(void)close(fd);
}
END_TEST

/* Many that may go on at the same time, one of which is gone by then. */
START_TEST(all_that_may_go_on_do)
{
	uint8_t buf[(CLIENT_SYNCS_MAX + 2) * FRAME_MAX];
	int fds[10];

	for (unsigned n = 0; n < 10; n++) {
		size_t len = add_metric(buf, 0);

		fds[n] = connect_client();
		for (unsigned i = 0; i < CLIENT_SYNCS_MAX; i++)
			len += frame_encode_sync(buf + len, i, 2);
		len += add_metric(buf + len, 1);
		send_all(fds[n], buf, len);
	}
	await(&stats.received, 10);
	store_all();
	ck_assert_uint_eq(clients_waiting(clients), 10);
	(void)close(fds[5]);
	await(&stats.received, 20);
	ck_assert_uint_eq(clients_waiting(clients), 0);
	for (unsigned n = 0; n < 10; n++)
		if (n != 5)
			(void)close(fds[n]);
	while (stats.clients)
		ck_assert_int_eq(loop_turn(loop, 10), 0);
}
END_TEST

/* Its own metrics push those out that its first question is about: it ends while it is read. */
START_TEST(a_question_behind_dropped_metrics_is_not_asked)
{
	uint8_t buf[20 * FRAME_MAX];
	size_t len = 0;
	int fd;

	conf.buffer.memory_limit = 8 * (FRAME_FIXED + 6);
	conf.buffer.overflow = CONF_DROP_OLDEST;
	queue_set_conf(queue, &conf);
	fd = connect_client();
	send_metrics(fd, 9);
	send_sync(fd, 1, 2);
	await(&stats.received, 9);
	ck_assert_uint_eq(clients_waiting(clients), 1);
	for (unsigned i = 0; i < 9; i++)
		len += add_metric(buf + len, i);
	len += frame_encode_sync(buf + len, 2, 2);
	send_all(fd, buf, len);
	expect_closed(fd);
	ck_assert_uint_eq(clients_waiting(clients), 0);
	store_all(); /* whoever waits is told */
	(void)close(fd);
}
END_TEST

/* It asks, does not wait for the answers, and closes: its metrics count like any others. */
START_TEST(who_leaves_without_answers_is_read_to_the_end)
{
	const uint64_t metrics = 3000;
	uint8_t *buf = malloc((metrics + 1 + CLIENT_SYNCS_MAX + 50) * FRAME_MAX);
	size_t len = add_metric(buf, 0);
	int fd = connect_client();

	for (uint64_t i = 0; i < CLIENT_SYNCS_MAX + 50; i++)
		len += frame_encode_sync(buf + len, i, 2);
	for (uint64_t i = 0; i < metrics; i++)
		len += add_metric(buf + len, i);
	send_all(fd, buf, len);
	(void)close(fd);
	for (unsigned i = 0; i < TURNS_MAX && stats.clients; i++) {
		ck_assert_int_eq(loop_turn(loop, 10), 0);
		store_all();
	}
	ck_assert_uint_eq(stats.clients, 0);
	ck_assert_uint_eq(stats.received, metrics + 1);
	ck_assert_uint_eq(clients_waiting(clients), 0);
	free(buf);
}
END_TEST

START_TEST(dropped_metrics_are_never_acknowledged)
{
	int fd;

	conf.buffer.memory_limit = 100;
	conf.buffer.overflow = CONF_DROP_NEWEST;
	queue_set_conf(queue, &conf);
	fd = connect_client();
	send_metrics(fd, 10);
	await(&stats.received, 10);
	send_metrics(fd, 10);
	await(&stats.dropped, 10);
	send_sync(fd, 1, 2);
	expect_closed(fd);
	ck_assert_uint_eq(stats.syncs_level2, 0);
	(void)close(fd);
}
END_TEST

START_TEST(drain_reads_what_the_sockets_hold)
{
	int fds[10];

	for (unsigned i = 0; i < 10; i++) {
		fds[i] = connect_client();
		send_metrics(fds[i], 100);
	}
	clients_drain(clients);
	ck_assert_uint_eq(stats.received, 1000);
	ck_assert_uint_eq(stats.clients, 0);
	for (unsigned i = 0; i < 10; i++)
		(void)close(fds[i]);
}
END_TEST

START_TEST(drain_lets_waiting_clients_have_their_answers)
{
	int fd = connect_client();

	send_metrics(fd, 1);
	send_sync(fd, 5, 2);
	clients_drain(clients);
	ck_assert_uint_eq(clients_waiting(clients), 1);
	store_all();
	expect_answer(fd, 5, 0);
	expect_closed(fd);
	ck_assert_uint_eq(clients_waiting(clients), 0);
	(void)close(fd);
}
END_TEST

int
main(void)
{
	const TTest *const tests[] = {
	    frames_split_at_every_byte,
	    many_frames_in_few_reads,
	    refused_frames_do_not_end_the_stream,
	    timestamps_outside_the_window_are_refused,
	    too_many_refused_in_a_row_close,
	    an_unfinished_frame_at_the_end_is_counted,
	    max_clients_and_strangers_are_closed_at_once,
	    silent_clients_time_out_unless_they_wait_for_us,
	    an_answer_is_no_silence,
	    a_client_that_takes_no_answers_times_out,
	    a_full_queue_pauses_clients_and_loses_nothing,
	    answers_come_in_order_with_refused_counts,
	    answers_after_half_close,
	    unread_answers_are_limited,
	    frames_behind_the_last_question_are_not_forgotten,
	    frames_behind_the_last_question_wait_for_the_loop,
	    drain_forgets_no_frames_behind_the_last_question,
	    all_that_may_go_on_do,
	    a_question_behind_dropped_metrics_is_not_asked,
	    who_leaves_without_answers_is_read_to_the_end,
	    dropped_metrics_are_never_acknowledged,
	    drain_reads_what_the_sockets_hold,
	    drain_lets_waiting_clients_have_their_answers,
	};
	Suite *s = suite_create("client");

	add_on_both(s, setup, teardown, tests, COUNT(tests));
	return run_suite(s);
}
