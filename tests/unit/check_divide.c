/* check_divide.c - a batch in parts, by time. */
#include "store/pg/batch/divide.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "wire/frame.h"

#define ROWS 100

static uint8_t frames[ROWS * FRAME_MAX];
static struct batch_view whole;

/* Times go round 7 days; values are the places in the batch; names have all lengths. */
static void
setup(void)
{
	char name[FRAME_NAME_MAX];
	size_t len = 0;

	memset(name, 'n', sizeof(name));
	for (unsigned i = 0; i < ROWS; i++)
		len += frame_encode(frames + len, 1000 + i % 7, name, 1 + i * 2, i);
	whole = (struct batch_view){.rows = ROWS, .data = frames, .bytes = len, .number = 5};
}

/* Takes the parts; each has that many rows.  Checks the order, and that each row comes once. */
static void
take(uint64_t done, uint64_t rows)
{
	bool seen[ROWS] = {false};
	struct batch_view part;
	uint64_t before = 0, total = done;
	struct divide d;

	ck_assert_int_eq(divide_init(&d, &whole, done), 0);
	while (d.done < ROWS) {
		size_t at = 0;

		divide_part(&d, rows, &part);
		ck_assert_uint_eq(part.number, 5);
		ck_assert_uint_le(part.rows, rows);
		for (uint64_t i = 0; i < part.rows; i++) {
			struct frame f;

			at += frame_read(part.data + at, &f);
			ck_assert_uint_ge(f.time_us * 1000 + (uint64_t)f.value, before);
			before = f.time_us * 1000 + (uint64_t)f.value;
			ck_assert_uint_le(part.min_us, f.time_us);
			ck_assert_uint_ge(part.max_us, f.time_us);
			ck_assert(!seen[(int)f.value]);
			seen[(int)f.value] = true;
		}
		ck_assert_uint_eq(at, part.bytes);
		total += part.rows;
		divide_advance(&d, &part);
		ck_assert_uint_eq(d.done, total);
	}
	ck_assert_uint_eq(total, ROWS);
	ck_assert_uint_eq(d.at, whole.bytes);
	divide_done(&d);
}

START_TEST(parts_are_the_whole)
{
	take(0, (uint64_t)_i);
}
END_TEST

/* Wherever an earlier try was cut off. */
START_TEST(the_rest_is_what_was_not_done)
{
	take((uint64_t)_i, 7);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("divide");
	TCase *tc = tcase_create("divide");
	SRunner *sr;
	int failed;

	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_loop_test(tc, parts_are_the_whole, 1, ROWS + 2);
	tcase_add_loop_test(tc, the_rest_is_what_was_not_done, 0, ROWS);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
