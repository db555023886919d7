#include "store/backoff.h"

#include <check.h>
#include <stdlib.h>

#define TRIES 200

/* No wait of many is longer than the bound that stands for it, and some come near to it. */
static void
assert_bound(uint64_t interval_ms, unsigned failures, uint64_t bound_ms)
{
	uint64_t longest_ms = 0;

	for (int i = 0; i < TRIES; i++) {
		struct backoff b;
		uint64_t ms = 0;

		backoff_init(&b, interval_ms);
		for (unsigned n = 0; n < failures; n++)
			ms = backoff_next(&b);
		ck_assert_uint_ge(ms, 1);
		ck_assert_uint_le(ms, bound_ms);
		longest_ms = ms > longest_ms ? ms : longest_ms;
	}
	ck_assert_uint_gt(longest_ms, bound_ms / 2);
}

START_TEST(waits_double_up_to_the_batch_interval)
{
	assert_bound(3000, 1, 100);
	assert_bound(3000, 2, 200);
	assert_bound(3000, 5, 1600);
	assert_bound(3000, 6, 3000);
	assert_bound(3000, 50, 3000);
}
END_TEST

START_TEST(the_interval_counts_within_bounds)
{
	assert_bound(1, 50, 500);
	assert_bound(3600 * 1000, 50, 5000);
}
END_TEST

START_TEST(what_had_worked_is_tried_again_at_once)
{
	struct backoff b;

	backoff_init(&b, 1000);
	for (int i = 0; i < 10; i++)
		(void)backoff_next(&b);
	backoff_reset(&b);
	ck_assert_uint_eq(backoff_next(&b), 0);
	ck_assert_uint_le(backoff_next(&b), 100);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("backoff");
	TCase *tc = tcase_create("backoff");
	SRunner *sr = srunner_create(s);
	int failed;

	suite_add_tcase(s, tc);
	tcase_add_test(tc, waits_double_up_to_the_batch_interval);
	tcase_add_test(tc, the_interval_counts_within_bounds);
	tcase_add_test(tc, what_had_worked_is_tried_again_at_once);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
