/*
 * loop_test.h - a loop for each test, once on each backend.
 */
#pragma once

#include <check.h>
#include <stdint.h>
#include <stdlib.h>

#include "net/loop.h"
#include "base/clock.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

#define DEADLINE_MS 20000 /* generous: it is only met by a loop that does not work */

/* The test's own. */
static struct loop *loop;
static enum loop_backend backend;

/* Turns until the condition holds. */
#define AWAIT(condition)                                                            \
	do {                                                                        \
		uint64_t deadline = clock_ms() + DEADLINE_MS;                       \
		while (!(condition)) {                                              \
			ck_assert_msg(clock_ms() < deadline, "never: " #condition); \
			ck_assert_int_eq(loop_turn(loop, 1000), 0);                 \
		}                                                                   \
	} while (0)

/* A turn that does not wait. */
static inline void
turn(void)
{
	ck_assert_int_eq(loop_turn(loop, 0), 0);
}

static void
open_epoll(void)
{
	backend = LOOP_EPOLL;
	ck_assert_int_eq(loop_new(backend, &loop), 0);
}

static void
open_poll(void)
{
	backend = LOOP_POLL;
	ck_assert_int_eq(loop_new(backend, &loop), 0);
}

static void
close_loop(void)
{
	loop_free(loop);
}

/*
 * Two cases of these n tests, one for each backend.  setup and teardown, both may be NULL,
 * run while the loop is there.
 */
static void
add_on_both(Suite *s, SFun setup, SFun teardown, const TTest *const *tests, size_t n)
{
	TCase *tc[] = {tcase_create("epoll"), tcase_create("poll")};

	tcase_add_checked_fixture(tc[0], open_epoll, close_loop);
	tcase_add_checked_fixture(tc[1], open_poll, close_loop);
	for (size_t c = 0; c < COUNT(tc); c++) {
		tcase_set_timeout(tc[c], 60);
		tcase_add_checked_fixture(tc[c], setup, teardown);
		for (size_t i = 0; i < n; i++)
			tcase_add_test(tc[c], tests[i]);
		suite_add_tcase(s, tc[c]);
	}
}

/* What main() returns. */
static int
run_suite(Suite *s)
{
	SRunner *sr = srunner_create(s);
	int failed;

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
