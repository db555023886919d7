#include "base/histogram.h"

#include <check.h>
#include <stdlib.h>

static struct histogram h;

static void
setup(void)
{
	histogram_reset(&h);
}

START_TEST(empty)
{
	ck_assert_uint_eq(histogram_percentile(&h, 50), 0);
	ck_assert_uint_eq(histogram_percentile(&h, 100), 0);
	ck_assert_uint_eq(h.count, 0);
	ck_assert_uint_eq(h.max, 0);
}
END_TEST

START_TEST(small_values_are_exact)
{
	for (uint64_t v = 0; v < 32; v++)
		histogram_record(&h, v);
	ck_assert_uint_eq(h.count, 32);
	ck_assert_uint_eq(histogram_percentile(&h, 0), 0);
	for (unsigned n = 1; n <= 32; n++) /* 32nds are exact as doubles */
		ck_assert_uint_eq(histogram_percentile(&h, n * 100.0 / 32), n - 1);
}
END_TEST

/* Each power of two and its neighbours: never too small, and a sixteenth too large at most. */
START_TEST(every_magnitude_is_within_its_error)
{
	for (unsigned bit = 0; bit < 64; bit++) {
		for (int step = -1; step <= 1; step++) {
			uint64_t v = (UINT64_C(1) << bit) + (uint64_t)step, found;

			histogram_reset(&h);
			histogram_record(&h, v);
			ck_assert_uint_eq(histogram_percentile(&h, 50), v); /* the maximum */
			histogram_record(&h, UINT64_MAX);
			found = histogram_percentile(&h, 50);
			ck_assert_uint_ge(found, v);
			ck_assert_uint_le(found - v, v / 16);
			ck_assert_uint_eq(histogram_percentile(&h, 100), UINT64_MAX);
		}
	}
}
END_TEST

/* One in a thousand takes long: that is the maximum, and no percentile below the last. */
START_TEST(outlier_is_the_maximum_alone)
{
	for (int i = 0; i < 999; i++)
		histogram_record(&h, 1000 + (uint64_t)i);
	histogram_record(&h, 5000000);
	ck_assert_uint_eq(h.max, 5000000);
	ck_assert_uint_ge(histogram_percentile(&h, 99), 1989);
	ck_assert_uint_le(histogram_percentile(&h, 99), 1989 + 1989 / 16);
	ck_assert_uint_le(histogram_percentile(&h, 99.9), 1998 + 1998 / 16);
	ck_assert_uint_eq(histogram_percentile(&h, 99.99), 5000000);
}
END_TEST

START_TEST(reset_forgets)
{
	histogram_record(&h, 7);
	histogram_reset(&h);
	ck_assert_uint_eq(h.count, 0);
	ck_assert_uint_eq(h.max, 0);
	histogram_record(&h, 3);
	ck_assert_uint_eq(histogram_percentile(&h, 100), 3);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("histogram");
	TCase *tc = tcase_create("histogram");
	SRunner *sr = srunner_create(s);
	int failed;

	suite_add_tcase(s, tc);
	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_test(tc, empty);
	tcase_add_test(tc, small_values_are_exact);
	tcase_add_test(tc, every_magnitude_is_within_its_error);
	tcase_add_test(tc, outlier_is_the_maximum_alone);
	tcase_add_test(tc, reset_forgets);

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
