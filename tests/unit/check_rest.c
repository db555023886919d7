/* check_rest.c - bytes that wait, and how many may. */
#include "net/rest.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint8_t bytes[4 * REST_SMALL];
static size_t heap;

static void
setup(void)
{
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)i;
	heap = 0;
}

START_TEST(every_length_comes_back)
{
	struct rest r = {0};

	for (size_t len = 0; len <= sizeof(bytes); len++) {
		ck_assert_int_eq(rest_set(&r, bytes, len, true, &heap), 0);
		ck_assert_uint_eq(r.len, len);
		ck_assert_mem_eq(rest_bytes(&r), bytes, len);
		ck_assert_uint_eq(heap, len > REST_SMALL ? len : 0);
		ck_assert(r.whole == (len > 0));
	}
	ck_assert_int_eq(rest_set(&r, bytes + 7, 3, false, &heap), 0);
	ck_assert_mem_eq(rest_bytes(&r), bytes + 7, 3);
	ck_assert(!r.whole);
	ck_assert_uint_eq(heap, 0);
	rest_clear(&r, &heap);
	ck_assert_uint_eq(r.len, 0);
}
END_TEST

START_TEST(the_heap_of_all_is_limited)
{
	struct rest a = {0}, b = {0};

	heap = REST_HEAP_MAX - 1000; /* the others' */
	ck_assert_int_eq(rest_set(&a, bytes, 600, true, &heap), 0);
	ck_assert_int_eq(rest_set(&b, bytes, 401, true, &heap), -ENOBUFS);
	ck_assert_uint_eq(b.len, 0);
	ck_assert(!b.whole);
	ck_assert_int_eq(rest_set(&b, bytes, 400, true, &heap), 0);
	ck_assert_uint_eq(heap, REST_HEAP_MAX);
	/* an unfinished frame always has its place, and so has one of the same size in its own */
	ck_assert_int_eq(rest_set(&a, bytes, 600, true, &heap), 0);
	ck_assert_int_eq(rest_set(&b, bytes, REST_SMALL, false, &heap), 0);
	ck_assert_uint_eq(heap, REST_HEAP_MAX - 400);
	rest_clear(&a, &heap);
	rest_clear(&b, &heap);
	rest_clear(&b, &heap);
	ck_assert_uint_eq(heap, REST_HEAP_MAX - 1000);
}
END_TEST

static Suite *
suite(void)
{
	Suite *s = suite_create("rest");
	TCase *tc = tcase_create("rest");

	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_test(tc, every_length_comes_back);
	tcase_add_test(tc, the_heap_of_all_is_limited);
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
