/* check_client_gone.c - connections whose peers leave, at any time and in any way. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <time.h>

#include "client_fixture.h"

#define LIMIT 4096 /* of memory: a few hundred metrics fill it */
#define WAIT_MS 100

/* The other side of a TCP connection that the clients have; server_fd is theirs. */
static int server_fd;

static int
connect_tcp_client(void)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr *sa = (struct sockaddr *)&in;
	socklen_t len = sizeof(in);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_eq(bind(listener, sa, len), 0);
	ck_assert_int_eq(listen(listener, 1), 0);
	ck_assert_int_eq(getsockname(listener, sa, &len), 0);
	ck_assert_int_eq(connect(fd, sa, len), 0);
	server_fd = accept4(listener, sa, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
	ck_assert_int_ge(server_fd, 0);
	clients_accept(clients, server_fd, sa, len);
	(void)close(listener);
	return fd;
}

static void
reset_connection(int fd)
{
	const struct linger at_once = {.l_onoff = 1};

	ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)), 0);
	(void)close(fd);
}

static void
await_clients(uint64_t n)
{
	for (unsigned i = 0; i < TURNS_MAX && stats.clients != n; i++)
		ck_assert_int_eq(loop_turn(loop, 10), 0);
	ck_assert_uint_eq(stats.clients, n);
}

/* What is in the sockets of a pair is there at once: the loop has seen all of it then. */
static void
take_turns(void)
{
	for (unsigned i = 0; i < 5; i++)
		ck_assert_int_eq(loop_turn(loop, 0), 0);
}

/* Nothing is ready: a turn waits for as long as it may. */
static void
expect_rest(void)
{
	uint64_t start_ms = clock_ms();

	take_turns();
	ck_assert_int_eq(loop_turn(loop, WAIT_MS), 0);
	ck_assert_uint_ge(clock_ms() - start_ms, WAIT_MS / 2);
}

/* Another client fills the queue, so that whoever sends from now on is paused.  Returns it. */
static int
fill_queue(void)
{
	int fd;

	conf.buffer.memory_limit = LIMIT;
	queue_set_conf(queue, &conf);
	fd = connect_client();
	for (unsigned i = 1; i < TURNS_MAX && queue_accepts(queue); i++) {
		send_metrics(fd, 100);
		await(&stats.received, (uint64_t)i * 100);
	}
	ck_assert(!queue_accepts(queue));
	return fd;
}

/* Sends a metric that the paused client's socket keeps. */
static void
send_unread(int fd)
{
	uint64_t received = stats.received;

	send_metrics(fd, 1);
	take_turns();
	ck_assert_uint_eq(stats.received, received);
}

static void
drain_queue(void)
{
	store_all();
	ck_assert(queue_accepts(queue));
}

START_TEST(a_reset_while_paused_frees_the_place)
{
	int full = fill_queue();
	int fd = connect_tcp_client();

	send_unread(fd);
	ck_assert_uint_eq(stats.clients, 2);
	reset_connection(fd);
	await_clients(1);
	expect_rest();
	(void)close(full);
}
END_TEST

START_TEST(a_reset_before_the_pause_frees_the_place)
{
	int full = fill_queue();
	int fd = connect_tcp_client();

	send_metrics(fd, 1);
	reset_connection(fd);
	await_clients(1);
	(void)close(full);
}
END_TEST

static void
expect_read_after_the_pause(int fd, int full)
{
	uint64_t received = stats.received;

	send_unread(fd);
	(void)close(fd);
	expect_rest();
	ck_assert_uint_eq(stats.clients, 2);
	drain_queue();
	await(&stats.received, received + 1);
	await_clients(1);
	ck_assert_uint_eq(stats.truncated_frames, 0);
	(void)close(full);
}

START_TEST(what_a_close_leaves_unread_is_read_after_the_pause)
{
	int full = fill_queue();

	expect_read_after_the_pause(connect_tcp_client(), full);
}
END_TEST

/* There a close is a hang-up at once, in both directions. */
START_TEST(what_a_unix_peer_leaves_unread_is_read_after_the_pause)
{
	int full = fill_queue();

	expect_read_after_the_pause(connect_client(), full);
}
END_TEST

/* The end of the stream is heard first; then somebody resets what nobody reads. */
START_TEST(what_was_sent_before_the_end_outlives_a_reset)
{
	int full = fill_queue();
	int fd = connect_tcp_client();
	uint64_t received = stats.received;

	send_unread(fd);
	ck_assert_int_eq(shutdown(fd, SHUT_WR), 0);
	expect_rest();
	reset_connection(fd);
	expect_rest();
	ck_assert_uint_eq(stats.clients, 2);
	drain_queue();
	await(&stats.received, received + 1);
	await_clients(1);
	(void)close(full);
}
END_TEST

START_TEST(who_sends_nothing_and_leaves_needs_no_room)
{
	int full = fill_queue();
	int fd = connect_tcp_client(), local = connect_client();

	take_turns();
	(void)close(fd);
	(void)close(local);
	await_clients(1);
	ck_assert(!queue_accepts(queue));
	(void)close(full);
}
END_TEST

static void
ask(int fd, unsigned n)
{
	uint8_t *buf = malloc((n + 1) * FRAME_MAX);
	size_t len = add_metric(buf, 0);

	for (unsigned i = 0; i < n; i++)
		len += frame_encode_sync(buf + len, i, 2);
	send_all(fd, buf, len);
	free(buf);
	for (unsigned i = 0; i < TURNS_MAX && clients_waiting(clients) < CLIENT_SYNCS_MAX; i++)
		ck_assert_int_eq(loop_turn(loop, 10), 0);
	ck_assert_uint_eq(clients_waiting(clients), CLIENT_SYNCS_MAX);
}

START_TEST(a_reset_behind_all_questions_frees_the_place)
{
	int fd = connect_tcp_client();

	ask(fd, CLIENT_SYNCS_MAX);
	expect_rest();
	reset_connection(fd);
	await_clients(0);
	ck_assert_uint_eq(clients_waiting(clients), 0);
	ck_assert_uint_eq(stats.received, 1);
}
END_TEST

START_TEST(a_reset_while_the_last_answer_waits_frees_the_place)
{
	int fd = connect_tcp_client();

	send_metrics(fd, 1);
	send_sync(fd, 1, 2);
	ck_assert_int_eq(shutdown(fd, SHUT_WR), 0);
	await(&stats.received, 1);
	expect_rest();
	ck_assert_uint_eq(stats.clients, 1);
	reset_connection(fd);
	await_clients(0);
	ck_assert_uint_eq(clients_waiting(clients), 0);
}
END_TEST

/* All their tries together take no place for good. */
START_TEST(many_that_reset_while_paused_leave_room)
{
	int full = fill_queue();
	int fd;

	conf.max_clients = 3;
	for (unsigned i = 0; i < 50; i++) {
		fd = connect_tcp_client();
		send_unread(fd);
		reset_connection(fd);
		await_clients(1);
	}
	ck_assert_uint_eq(stats.clients_refused, 0);
	(void)close(full);
}
END_TEST

static int
option_of(int fd, int level, int option)
{
	int value = -1;
	socklen_t len = sizeof(value);

	ck_assert_int_eq(getsockopt(fd, level, option, &value, &len), 0);
	return value;
}

/* The kernel's own limit is two hours. */
START_TEST(who_is_gone_without_a_word_is_missed_within_minutes)
{
	int fd = connect_tcp_client();

	ck_assert_int_eq(option_of(server_fd, SOL_SOCKET, SO_KEEPALIVE), 1);
	ck_assert_int_eq(option_of(server_fd, IPPROTO_TCP, TCP_KEEPIDLE), 60);
	ck_assert_int_le(option_of(server_fd, IPPROTO_TCP, TCP_KEEPINTVL) *
			     option_of(server_fd, IPPROTO_TCP, TCP_KEEPCNT),
			 60);
	(void)close(fd);
}
END_TEST

/* ---- half a frame, however the connection ends ---- */

static size_t
send_half(int fd)
{
	uint8_t buf[FRAME_MAX];
	size_t len = add_metric(buf, 1) - 3;

	send_all(fd, buf, len);
	take_turns();
	return len;
}

/* Once, that is. */
static void
expect_truncated(size_t len)
{
	ck_assert_uint_eq(stats.truncated_frames, 1);
	ck_assert_uint_eq(stats.truncated_bytes, len);
}

START_TEST(half_a_frame_at_a_timeout_is_counted)
{
	const struct timespec ts = {.tv_nsec = 2000000};
	int fd = connect_client();
	size_t len = send_half(fd);

	conf.client_timeout_ms = 1;
	for (unsigned i = 0; i < TURNS_MAX && !stats.clients_timed_out; i++) {
		(void)nanosleep(&ts, NULL);
		clients_tick(clients);
	}
	expect_closed(fd);
	expect_truncated(len);
	(void)close(fd);
}
END_TEST

START_TEST(half_a_frame_at_a_stop_is_counted)
{
	int fd = connect_client();
	size_t len = send_half(fd);

	clients_drain(clients);
	expect_closed(fd);
	expect_truncated(len);
	(void)close(fd);
}
END_TEST

START_TEST(half_a_frame_at_a_stop_with_a_question_open_is_counted_once)
{
	int fd = connect_client();
	size_t len;

	send_metrics(fd, 1);
	send_sync(fd, 1, 2);
	len = send_half(fd);
	clients_drain(clients);
	store_all();
	expect_answer(fd, 1, 0);
	expect_closed(fd);
	expect_truncated(len);
	(void)close(fd);
}
END_TEST

START_TEST(half_a_frame_before_a_half_close_is_counted_at_once)
{
	int fd = connect_client();
	size_t len;

	send_metrics(fd, 1);
	send_sync(fd, 1, 2);
	len = send_half(fd);
	ck_assert_int_eq(shutdown(fd, SHUT_WR), 0);
	await(&stats.truncated_frames, 1);
	store_all();
	expect_answer(fd, 1, 0);
	expect_closed(fd);
	expect_truncated(len);
	(void)close(fd);
}
END_TEST

/* Whole frames between the last offence and the half one are not looked at, nor counted. */
START_TEST(half_a_frame_behind_the_last_offence_is_counted)
{
	uint8_t buf[10 * FRAME_MAX];
	size_t len = 0;
	int fd = connect_client();

	for (unsigned i = 0; i < 5; i++)
		len += add_empty_name(buf + len);
	len += add_metric(buf + len, 1);
	len += add_metric(buf + len, 2) - 1;
	send_all(fd, buf, len);
	expect_closed(fd);
	ck_assert_uint_eq(stats.clients_protocol_error, 1);
	expect_truncated(FRAME_FIXED + 6 - 1);
	(void)close(fd);
}
END_TEST

/* What came of the first half is not counted again when the second one ends the connection. */
START_TEST(an_offence_in_two_halves_is_whole)
{
	uint8_t buf[5 * FRAME_MAX];
	size_t len = 0;
	int fd = connect_client();

	for (unsigned i = 0; i < 5; i++)
		len += add_empty_name(buf + len);
	send_all(fd, buf, len - 2);
	await(&stats.bytes_received, len - 2);
	send_all(fd, buf + len - 2, 2);
	expect_closed(fd);
	ck_assert_uint_eq(stats.clients_protocol_error, 1);
	ck_assert_uint_eq(stats.truncated_frames, 0);
	(void)close(fd);
}
END_TEST

START_TEST(half_a_frame_behind_dropped_metrics_is_counted)
{
	size_t len;
	int fd;

	conf.buffer.memory_limit = 8 * (FRAME_FIXED + 6);
	conf.buffer.overflow = CONF_DROP_OLDEST;
	queue_set_conf(queue, &conf);
	fd = connect_client();
	send_metrics(fd, 9);
	send_sync(fd, 1, 2);
	len = send_half(fd);
	send_metrics(connect_client(), 20); /* another's push out what the question is about */
	expect_closed(fd);
	expect_truncated(len);
	(void)close(fd);
}
END_TEST

/* One that may ask no more has whole frames unread; only what ends them is half of one. */
START_TEST(half_a_frame_behind_unread_ones_is_counted)
{
	uint8_t buf[3 * FRAME_MAX];
	size_t len = 0;
	int fd = connect_client();

	ask(fd, CLIENT_SYNCS_MAX);
	len += add_metric(buf + len, 1);
	len += add_metric(buf + len, 2) - 4;
	send_all(fd, buf, len);
	store_all();
	await(&stats.received, 2);
	(void)close(fd);
	await_clients(0);
	expect_truncated(FRAME_FIXED + 6 - 4);
}
END_TEST

int
main(void)
{
	const TTest *const tests[] = {
	    a_reset_while_paused_frees_the_place,
	    a_reset_before_the_pause_frees_the_place,
	    what_a_close_leaves_unread_is_read_after_the_pause,
	    what_a_unix_peer_leaves_unread_is_read_after_the_pause,
	    what_was_sent_before_the_end_outlives_a_reset,
	    who_sends_nothing_and_leaves_needs_no_room,
	    a_reset_behind_all_questions_frees_the_place,
	    a_reset_while_the_last_answer_waits_frees_the_place,
	    many_that_reset_while_paused_leave_room,
	    who_is_gone_without_a_word_is_missed_within_minutes,
	    half_a_frame_at_a_timeout_is_counted,
	    half_a_frame_at_a_stop_is_counted,
	    half_a_frame_at_a_stop_with_a_question_open_is_counted_once,
	    half_a_frame_before_a_half_close_is_counted_at_once,
	    half_a_frame_behind_the_last_offence_is_counted,
	    an_offence_in_two_halves_is_whole,
	    half_a_frame_behind_dropped_metrics_is_counted,
	    half_a_frame_behind_unread_ones_is_counted,
	};
	Suite *s = suite_create("client gone");

	add_on_both(s, setup, teardown, tests, COUNT(tests));
	return run_suite(s);
}
