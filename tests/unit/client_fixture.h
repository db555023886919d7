/*
 * client_fixture.h - connections over socket pairs, with the real loop, on both backends, and a
 * queue in memory, which the tests empty as a writer would.
 */
#pragma once

#include <check.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop_test.h"
#include "net/clients.h"
#include "wire/bytes.h"
#include "wire/frame.h"

#define TURNS_MAX 100000 /* each waits at most 10 ms */

static struct conf conf;
static struct stats stats;
static struct queue *queue;
static struct clients *clients;
static const atomic_int running = 0;

static inline void
on_drained(void *arg)
{
	(void)arg;
	clients_resume(clients);
}

static inline void
on_wake(void *arg)
{
	(void)arg;
}

static inline void
on_turn(void *arg)
{
	(void)arg;
	queue_end_turn(queue);
}

static inline void
setup(void)
{
	static const struct queue_events events = {on_drained, on_wake, NULL};

	memset(&conf, 0, sizeof(conf));
	memset(&stats, 0, sizeof(stats));
	conf.refs = 1;
	conf.max_clients = 100;
	conf.max_invalid_frames = 5;
	conf.batch.max_rows = 100000;
	conf.batch.max_bytes = 1 << 20;
	conf.buffer.memory_limit = 16 << 20;
	conf.log.level = LOG_ERR;
	log_set_level(LOG_ERR);
	ck_assert_int_eq(queue_new(&conf, &stats, NULL, &events, &queue), 0);
	ck_assert_int_eq(clients_new(loop, queue, &stats, conf_ref(&conf), &clients), 0);
	loop_on_turn(loop, on_turn, NULL);
}

static inline void
teardown(void)
{
	clients_free(clients);
	ck_assert(queue_close(queue, 0));
	queue_free(queue);
}

static inline int
connect_client(void)
{
	struct sockaddr sa = {.sa_family = AF_UNIX};
	int fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
			 0);
	clients_accept(clients, fds[0], &sa, sizeof(sa_family_t));
	return fds[1];
}

/* Turns the loop until counter has reached at least n. */
static inline void
await(const uint64_t *counter, uint64_t n)
{
	for (unsigned i = 0; i < TURNS_MAX && *counter < n; i++)
		ck_assert_int_eq(loop_turn(loop, 10), 0);
	ck_assert_uint_eq(*counter, n);
}

static inline void
send_all(int fd, const void *p, size_t len)
{
	const uint8_t *at = p;

	while (len) {
		ssize_t n = send(fd, at, len, MSG_NOSIGNAL);

		if (n > 0) {
			at += n;
			len -= (size_t)n;
			continue;
		}
		ck_assert_int_eq(errno, EAGAIN);
		ck_assert_int_eq(loop_turn(loop, 10), 0);
	}
}

static inline size_t
add_metric(uint8_t *p, uint64_t i)
{
	return frame_encode(p, i, "metric", 6, (double)i);
}

/* A frame that must be refused, and is no sync frame. */
static inline size_t
add_empty_name(uint8_t *p)
{
	memset(p, 0, FRAME_FIXED);
	return FRAME_FIXED;
}

static inline void
send_metrics(int fd, uint64_t n)
{
	uint8_t *buf = malloc(n * FRAME_MAX);
	size_t len = 0;

	for (uint64_t i = 0; i < n; i++)
		len += add_metric(buf + len, i);
	send_all(fd, buf, len);
	free(buf);
}

static inline void
send_sync(int fd, uint64_t token, uint8_t level)
{
	uint8_t buf[FRAME_FIXED];

	send_all(fd, buf, frame_encode_sync(buf, token, level));
}

/* Stores everything that is sealed, as a writer would. */
static inline void
store_all(void)
{
	queue_seal(queue);
	for (struct batch *b = queue_take(queue, &running, 0); b;
	     b = queue_take(queue, &running, 0)) {
		b->stored = b->all.rows;
		queue_done(queue, b);
	}
	queue_collect(queue);
}

static inline void
expect_answer(int fd, uint64_t token, uint64_t refused)
{
	uint8_t buf[FRAME_ANSWER_SIZE];
	size_t got = 0;

	for (unsigned i = 0; i < TURNS_MAX && got < sizeof(buf); i++) {
		ssize_t n = recv(fd, buf + got, sizeof(buf) - got, 0);

		if (n > 0)
			got += (size_t)n;
		else
			ck_assert_int_eq(loop_turn(loop, 10), 0);
	}
	ck_assert_uint_eq(got, sizeof(buf));
	ck_assert_uint_eq(be64_load(buf), token);
	ck_assert_uint_eq(buf[8], 0);
	ck_assert_uint_eq(be64_load(buf + 9), refused);
}

static inline void
expect_no_answer(int fd)
{
	uint8_t byte;

	ck_assert_int_eq(loop_turn(loop, 0), 0);
	ck_assert_int_eq(recv(fd, &byte, 1, 0), -1);
	ck_assert_int_eq(errno, EAGAIN);
}

static inline void
expect_closed(int fd)
{
	uint8_t byte;
	ssize_t n = -1;

	for (unsigned i = 0; i < TURNS_MAX && n < 0; i++) {
		ck_assert_int_eq(loop_turn(loop, 10), 0);
		n = recv(fd, &byte, 1, 0);
		if (n < 0 && errno == ECONNRESET)
			n = 0;
	}
	ck_assert_int_eq(n, 0);
}
