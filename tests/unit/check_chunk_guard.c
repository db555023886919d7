#include "store/pg/batch/chunk_guard.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "wire/frame.h"

#define HOUR UINT64_C(3600000000)
#define DAY (24 * HOUR)
#define NOW (20000 * DAY + 5 * HOUR) /* in 2024 */
#define FRAMES_MAX 20000

static uint8_t frames[FRAMES_MAX * (FRAME_FIXED + 1)];
static size_t len;
static struct chunk_guard guard;

static void
start(void)
{
	len = 0;
	guard = (struct chunk_guard){.n_new = 0};
}

static void
finish(void)
{
	chunk_guard_done(&guard);
}

static void
add(uint64_t time_us)
{
	ck_assert_uint_le(len + FRAME_FIXED + 1, sizeof(frames));
	len += frame_encode(frames + len, time_us, "m", 1, 0.0);
}

static void
judge(size_t max_new, const struct chunk_range *ranges, size_t n)
{
	const struct chunk_limits limits = {DAY, max_new, NOW, ranges, n};

	ck_assert_int_eq(chunk_guard_init(&guard, &limits, frames, len), 0);
}

/* ---- the count ---- */

START_TEST(nothing_asks_for_nothing)
{
	judge(1, NULL, 0);
	ck_assert_uint_eq(guard.n_new, 0);
}
END_TEST

START_TEST(each_interval_is_a_chunk)
{
	add(NOW);
	add(NOW + 1);
	add(NOW - NOW % DAY);           /* the first instant of the day */
	add(NOW - NOW % DAY + DAY - 1); /* the last */
	judge(16, NULL, 0);
	ck_assert_uint_eq(guard.n_new, 1);
	chunk_guard_done(&guard);
	add(NOW - NOW % DAY - 1);
	add(NOW - NOW % DAY + DAY);
	judge(16, NULL, 0);
	ck_assert_uint_eq(guard.n_new, 3);
	ck_assert(chunk_guard_keeps(&guard, NOW - NOW % DAY - 1));
}
END_TEST

START_TEST(chunks_that_exist_are_not_new)
{
	const struct chunk_range ranges[] = {{5 * DAY, 6 * DAY}, {7 * DAY, 9 * DAY}};
	const uint64_t old[] = {5 * DAY, 6 * DAY - 1, 7 * DAY, 8 * DAY, 9 * DAY - 1};
	size_t i;

	for (i = 0; i < sizeof(old) / sizeof(old[0]); i++)
		add(old[i]);
	add(6 * DAY);
	add(9 * DAY);
	add(4 * DAY);
	judge(1, ranges, 2);
	ck_assert_uint_eq(guard.n_new, 3);
	for (i = 0; i < sizeof(old) / sizeof(old[0]); i++)
		ck_assert(chunk_guard_keeps(&guard, old[i]));
	ck_assert(chunk_guard_keeps(&guard, 9 * DAY)); /* the nearest to now */
	ck_assert(!chunk_guard_keeps(&guard, 6 * DAY));
	ck_assert(!chunk_guard_keeps(&guard, 4 * DAY));
}
END_TEST

/* A chunk made under another interval lies in the middle of a day: two new ones beside it. */
START_TEST(existing_chunk_cuts_an_interval)
{
	const struct chunk_range range = {10 * DAY + 5 * HOUR, 10 * DAY + 6 * HOUR};

	add(10 * DAY);
	add(10 * DAY + 5 * HOUR);
	add(10 * DAY + 6 * HOUR);
	add(10 * DAY + 23 * HOUR);
	judge(16, &range, 1);
	ck_assert_uint_eq(guard.n_new, 2);
}
END_TEST

/* ---- the choice ---- */

START_TEST(nearest_to_the_present_are_kept)
{
	size_t i;

	for (i = 0; i < 100; i++)
		add(NOW + i * DAY);
	for (i = 1; i < 100; i++)
		add(NOW - i * DAY);
	judge(7, NULL, 0);
	ck_assert_uint_eq(guard.n_new, 199);
	for (i = 0; i < 100; i++) {
		ck_assert_int_eq(chunk_guard_keeps(&guard, NOW + i * DAY), i <= 3);
		ck_assert_int_eq(chunk_guard_keeps(&guard, NOW - i * DAY), i <= 3);
	}
}
END_TEST

/* Of two that are equally near, the past: a clock that lags is likelier than one ahead. */
START_TEST(past_goes_before_future)
{
	add(NOW + 2 * DAY);
	add(NOW - 2 * DAY);
	judge(1, NULL, 0);
	ck_assert(chunk_guard_keeps(&guard, NOW - 2 * DAY));
	ck_assert(!chunk_guard_keeps(&guard, NOW + 2 * DAY));
}
END_TEST

START_TEST(extremes)
{
	add(0);
	add(FRAME_TIME_MAX);
	add(NOW);
	judge(1, NULL, 0);
	ck_assert_uint_eq(guard.n_new, 3);
	ck_assert(chunk_guard_keeps(&guard, NOW));
	ck_assert(!chunk_guard_keeps(&guard, 0));
	ck_assert(!chunk_guard_keeps(&guard, FRAME_TIME_MAX));
}
END_TEST

/* Hostile: every row a chunk of its own, twice over, in an order that never repeats a neighbour. */
START_TEST(many_are_counted_once)
{
	size_t i;

	for (i = 0; i < FRAMES_MAX; i++)
		add((i * 7919 % (FRAMES_MAX / 2)) * DAY);
	judge(16, NULL, 0);
	ck_assert_uint_eq(guard.n_new, FRAMES_MAX / 2);
	chunk_guard_done(&guard);
	len = 0;
	for (i = 0; i < FRAMES_MAX; i++)
		add(i % 2 ? NOW : NOW - 500 * DAY);
	judge(16, NULL, 0);
	ck_assert_uint_eq(guard.n_new, 2);
}
END_TEST

START_TEST(span_tells_whether_to_look)
{
	const struct chunk_limits limits = {DAY, 16, NOW, NULL, 0};

	ck_assert(!chunk_guard_concerns(&limits, NOW, NOW));
	ck_assert(!chunk_guard_concerns(&limits, 5 * DAY, 21 * DAY - 1));
	ck_assert(chunk_guard_concerns(&limits, 5 * DAY, 21 * DAY));
	ck_assert(chunk_guard_concerns(&limits, 0, FRAME_TIME_MAX));
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("chunk_guard");
	TCase *tc = tcase_create("chunk_guard");
	SRunner *sr;
	int failed;

	tcase_add_checked_fixture(tc, start, finish);
	tcase_add_test(tc, nothing_asks_for_nothing);
	tcase_add_test(tc, each_interval_is_a_chunk);
	tcase_add_test(tc, chunks_that_exist_are_not_new);
	tcase_add_test(tc, existing_chunk_cuts_an_interval);
	tcase_add_test(tc, nearest_to_the_present_are_kept);
	tcase_add_test(tc, past_goes_before_future);
	tcase_add_test(tc, extremes);
	tcase_add_test(tc, many_are_counted_once);
	tcase_add_test(tc, span_tells_whether_to_look);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
