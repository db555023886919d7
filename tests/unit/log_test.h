/*
 * log_test.h - what the tests of the log share: a stderr and a clock of their own.
 *
 * Check runs each test in its own process, so none of this needs to be undone.
 */
#pragma once

#include <check.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#include "log/log.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static inline void
starts_with(const char *s, const char *start)
{
	ck_assert_msg(strncmp(s, start, strlen(start)) == 0, "%.100s does not start with %s", s,
		      start);
}

static int log_out = -1; /* what stands behind stderr; read from here */

static uint64_t clock_now; /* the tests' clock */

static inline uint64_t
still_clock(void)
{
	return clock_now;
}

static inline void
stderr_is(int fd)
{
	ck_assert_int_eq(dup2(fd, STDERR_FILENO), STDERR_FILENO);
}

/* A file as stderr; Check forks, so that only the test's own process has it. */
static inline void
capture(void)
{
	log_out = memfd_create("log", 0);
	ck_assert_int_ge(log_out, 0);
	stderr_is(log_out);
	clock_now = 1000;
	log_set_clock(still_clock);
}

/* What was written since the last call, with every timestamp made "T". */
static inline const char *
captured(void)
{
	static char buf[1 << 20];
	static off_t seen;
	static const char key[] = "\"timestamp\":\"";
	static const char shape[] = "0000-00-00T00:00:00.000000Z";
	ssize_t n = pread(log_out, buf, sizeof(buf) - 1, seen);

	ck_assert_int_ge(n, 0);
	seen += n;
	buf[n] = '\0';
	for (char *p = buf; (p = strstr(p, key));) {
		p += strlen(key);
		for (size_t i = 0; i < strlen(shape); i++)
			ck_assert_msg(shape[i] == '0' ? p[i] >= '0' && p[i] <= '9'
						      : p[i] == shape[i],
				      "timestamp: %s", p);
		*p = 'T';
		memmove(p + 1, p + strlen(shape), strlen(p + strlen(shape)) + 1);
	}
	return buf;
}

#define LINE(event, level, rest) \
	"{\"event\":\"" event "\",\"timestamp\":\"T\",\"level\":\"" level "\"" rest "}\n"

/* s, over and over, as often as it fits into len bytes; to be freed. */
static inline char *
repeat(const char *s, size_t len)
{
	size_t unit = strlen(s);
	char *p = malloc(len / unit * unit + 1);

	for (size_t i = 0; i < len / unit; i++)
		memcpy(p + i * unit, s, unit);
	p[len / unit * unit] = '\0';
	return p;
}

static inline void
refuse(int i)
{
	log_event_limited(LOG_WARNING, "frame_refused/empty_name", "refused", LOG_I64("i", i));
}

static inline TCase *
new_case(Suite *s, const char *name, SFun setup)
{
	TCase *tc = tcase_create(name);

	tcase_set_timeout(tc, 60);
	if (setup)
		tcase_add_checked_fixture(tc, setup, NULL);
	suite_add_tcase(s, tc);
	return tc;
}
