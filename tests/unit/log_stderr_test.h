/*
 * log_stderr_test.h - pipes and sockets as stderr, and how to fill them.
 */
#pragma once

#include <fcntl.h>
#include <limits.h>
#include <sys/socket.h>

#include "log_test.h"

static inline void
pipe_as_stderr(int flags)
{
	int fds[2];

	ck_assert_int_eq(pipe2(fds, flags), 0);
	ck_assert_int_eq(fcntl(fds[0], F_SETFL, flags & ~O_NONBLOCK), 0); /* our end waits */
	stderr_is(fds[1]);
	(void)close(fds[1]);
	log_out = fds[0];
	clock_now = 1000;
	log_set_clock(still_clock);
}

static inline void
socket_as_stderr(int type)
{
	int fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, type, 0, fds), 0);
	stderr_is(fds[1]);
	(void)close(fds[1]);
	log_out = fds[0];
}

/*
 * Fills what stands behind stderr, to the last byte, whether it blocks or not; returns how many
 * went in.
 */
static inline size_t
fill_stderr(void)
{
	static const char junk[PIPE_BUF];
	int flags = fcntl(STDERR_FILENO, F_GETFL);
	size_t total = 0;

	ck_assert_int_eq(fcntl(STDERR_FILENO, F_SETFL, flags | O_NONBLOCK), 0);
	for (size_t len = sizeof(junk); len > 0; len /= 2) {
		ssize_t n;

		while ((n = write(STDERR_FILENO, junk, len)) > 0)
			total += (size_t)n;
	}
	ck_assert_int_eq(fcntl(STDERR_FILENO, F_SETFL, flags), 0);
	return total;
}

/* Takes exactly so many bytes out of the pipe. */
static inline void
drain(char *buf, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = read(log_out, buf + done, len - done);

		ck_assert_int_gt(n, 0);
		done += (size_t)n;
	}
}
