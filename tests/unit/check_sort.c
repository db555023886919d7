#include "store/pg/batch/sort.h"

#include <check.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/bytes.h"
#include "wire/frame.h"

/* A batch that a test makes; value i is row i's place in it. */
static uint8_t *frames;
static size_t len, n;
static uint64_t rng;

static uint64_t
any(void)
{
	rng ^= rng << 13; /* xorshift64, Marsaglia 2003 */
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

static void
add(uint64_t time_us, const char *name, size_t name_len)
{
	len += frame_encode(frames + len, time_us, name, name_len, (double)n++);
}

static void
add_f(uint64_t time_us, const char *format, unsigned i)
{
	char name[64];
	int used;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	used = snprintf(name, sizeof(name), format, i);
#pragma GCC diagnostic pop
	add(time_us, name, (size_t)used);
}

/* ---- shapes of batches ---- */

#define START UINT64_C(1700000000000000)

static void
nothing(size_t rows)
{
	(void)rows;
}

static void
one_row(size_t rows)
{
	(void)rows;
	add(5, "x", 1);
}

static void
interleaved(size_t rows)
{
	for (size_t i = 0; i < rows; i++)
		add_f(START + i, "bench.metric.%04u", (unsigned)(i % 200));
}

static void
random_names_and_times(size_t rows)
{
	for (size_t i = 0; i < rows; i++)
		add_f(any() % FRAME_TIME_MAX, "%u", (unsigned)(any() % 500));
}

static void
all_equal(size_t rows)
{
	for (size_t i = 0; i < rows; i++)
		add(START, "same", 4);
}

static void
one_name_descending(size_t rows)
{
	for (size_t i = 0; i < rows; i++)
		add(START - i, "same", 4);
}

static void
one_name_some_late(size_t rows)
{
	for (size_t i = 0; i < rows; i++)
		add(any() % 50 ? START + i : START + i - 10000, "same", 4);
}

static void
all_names_distinct(size_t rows)
{
	for (size_t i = 0; i < rows; i++)
		add_f(START, "a.long.common.prefix.%u", (unsigned)(i * 2654435761U));
}

static void
long_names(size_t rows)
{
	char name[FRAME_NAME_MAX];

	memset(name, 'x', sizeof(name));
	for (size_t i = 0; i < rows; i++) {
		name[FRAME_NAME_MAX - 1] = (char)('a' + any() % 26);
		name[any() % FRAME_NAME_MAX] = (char)('x' + any() % 2);
		add(START + any() % 9, name, FRAME_NAME_MAX - any() % 2);
	}
}

/* Prefixes of each other, of every length, and bytes with the high bit set. */
static void
prefixes(size_t rows)
{
	char name[FRAME_NAME_MAX];

	memset(name, 'p', sizeof(name));
	name[7] = name[8] = (char)0xC3;
	for (size_t i = 0; i < rows; i++)
		add(any() % 1000, name, 1 + any() % FRAME_NAME_MAX);
}

/* A handful a metric: insertion sort on one side, radix on the other. */
static void
few_a_name(size_t rows)
{
	for (size_t i = 0; i < rows; i++)
		add_f(START + any() % 100000, "n%u", (unsigned)(any() % (1 + rows / 20)));
}

static const struct {
	const char *name;
	void (*make)(size_t rows);
	size_t rows;
} shapes[] = {
    {"nothing", nothing, 0},
    {"one row", one_row, 1},
    {"interleaved", interleaved, 20000},
    {"interleaved, few", interleaved, 30},
    {"random", random_names_and_times, 20000},
    {"all equal", all_equal, 5000},
    {"descending", one_name_descending, 20000},
    {"descending, few", one_name_descending, 20},
    {"some late", one_name_some_late, 20000},
    {"distinct", all_names_distinct, 70000},
    {"distinct, few", all_names_distinct, 24},
    {"distinct, one more", all_names_distinct, 25},
    {"long names", long_names, 3000},
    {"prefixes", prefixes, 5000},
    {"few a name", few_a_name, 10000},
};
#define SHAPES ((int)(sizeof(shapes) / sizeof(shapes[0])))

static void
make(int shape)
{
	free(frames);
	len = n = 0;
	rng = 88172645463325252U;
	frames = malloc((shapes[shape].rows + 1) * FRAME_MAX);
	ck_assert_ptr_nonnull(frames);
	shapes[shape].make(shapes[shape].rows);
	/* exact: ASan sees what is read behind the last frame */
	frames = realloc(frames, len ? len : 1);
}

/* ---- the reference ---- */

static int
compare_names(const uint8_t *a, const uint8_t *b)
{
	int r = memcmp(a + 9, b + 9, a[8] < b[8] ? a[8] : b[8]);

	return r ? r : (int)a[8] - (int)b[8];
}

static int
compare(const void *a, const void *b)
{
	const struct sort_row *x = a, *y = b;
	int r = compare_names(frames + x->offset, frames + y->offset);

	if (r == 0)
		r = (x->key > y->key) - (x->key < y->key);
	return r ? r : (x->offset > y->offset) - (x->offset < y->offset);
}

static void
assert_sorted(const struct sort_order *o)
{
	struct sort_row *rows = calloc(n + 1, sizeof(*rows));
	size_t at = 0, names = 0, i;

	for (i = 0; i < n; i++) {
		rows[i].key = be64_load(frames + at);
		rows[i].offset = (uint32_t)at;
		at += frame_size_at(frames + at);
	}
	qsort(rows, n, sizeof(*rows), compare);
	ck_assert_uint_eq(o->n, n);
	for (i = 0; i < n; i++) {
		bool same = i > 0 && compare_names(frames + rows[i - 1].offset,
						   frames + rows[i].offset) == 0;

		ck_assert_uint_eq(o->rows[i].offset, rows[i].offset);
		ck_assert_uint_eq(o->rows[i].key, rows[i].key);
		if (i > 0)
			ck_assert_int_eq(o->rows[i].name == o->rows[i - 1].name, same);
		names += !same;
	}
	ck_assert_uint_eq(o->names, names);
	free(rows);
}

/* ---- tests ---- */

static void
assert_sorts(int shape, unsigned probes)
{
	struct sort_order order;
	struct sort s;

	make(shape);
	sort_init(&s);
	s.probes = probes;
	ck_assert_int_eq(sort_frames(&s, frames, len, n, &order), 0);
	assert_sorted(&order);
	sort_done(&s);
	free(frames);
	frames = NULL;
}

START_TEST(is_what_qsort_makes)
{
	assert_sorts(_i, 8);
}
END_TEST

START_TEST(newest_first_turns_each_metric_round)
{
	struct sort_order order;
	struct sort_row *rows;
	struct sort s;
	size_t i, end;

	make(_i);
	sort_init(&s);
	ck_assert_int_eq(sort_frames(&s, frames, len, n, &order), 0);
	rows = calloc(n + 1, sizeof(*rows));
	ck_assert_ptr_nonnull(rows);
	for (i = 0; i < n; i++)
		rows[i] = order.rows[i];
	sort_newest_first(&order);
	for (i = 0; i < n; i = end) {
		for (end = i + 1; end < n && rows[end].name == rows[i].name; end++)
			;
		for (size_t j = i; j < end; j++)
			ck_assert_mem_eq(&order.rows[j], &rows[end - 1 - (j - i)], sizeof(*rows));
	}
	sort_newest_first(&order);
	assert_sorted(&order);
	free(rows);
	sort_done(&s);
	free(frames);
	frames = NULL;
}
END_TEST

/* A hash table that may not take a step beyond the first slot: what hostile names lead to. */
START_TEST(colliding_names_change_nothing)
{
	assert_sorts(_i, 0);
}
END_TEST

/* As a writer uses it: one workspace for all batches, large ones and small ones. */
START_TEST(workspace_serves_any_batch)
{
	struct sort_order order;
	struct sort s;
	int i;

	sort_init(&s);
	for (i = 0; i < 2 * SHAPES; i++) {
		make(i * 7 % SHAPES);
		s.probes = i % 3 == 2 ? 0 : 8;
		ck_assert_int_eq(sort_frames(&s, frames, len, n, &order), 0);
		assert_sorted(&order);
	}
	sort_done(&s);
	free(frames);
	frames = NULL;
}
END_TEST

/* What a huge batch needed is given back. */
START_TEST(workspace_shrinks)
{
	struct sort_order order;
	struct sort s;
	size_t i, rows = SORT_ROWS_MAX;

	frames = malloc(rows * (FRAME_FIXED + 1));
	ck_assert_ptr_nonnull(frames);
	for (i = 0; i < rows; i++)
		add(rows - i, "x", 1);
	sort_init(&s);
	ck_assert_int_eq(sort_frames(&s, frames, len, n, &order), 0);
	ck_assert_uint_eq(order.rows[0].key, 1);
	ck_assert_uint_ge(s.capacity, rows);
	ck_assert_int_eq(sort_frames(&s, frames, FRAME_FIXED + 1, 1, &order), 0);
	ck_assert_uint_lt(s.capacity, rows / 8);
	ck_assert_uint_eq(order.n, 1);
	sort_done(&s);
	free(frames);
	frames = NULL;
}
END_TEST

START_TEST(too_many_rows_are_refused)
{
	struct sort_order order;
	struct sort s;

	sort_init(&s);
	ck_assert_int_eq(sort_frames(&s, (const uint8_t *)"", 0, SORT_ROWS_MAX + 1, &order),
			 -EFBIG);
	sort_done(&s);
}
END_TEST

START_TEST(count_must_be_right)
{
	struct sort_order order;
	struct sort s;

	make(3);
	sort_init(&s);
	ck_assert_int_eq(sort_frames(&s, frames, len, n - 1, &order), -EINVAL);
	ck_assert_int_eq(sort_frames(&s, frames, len, n + 1, &order), -EINVAL);
	ck_assert_int_eq(sort_frames(&s, frames, len, n, &order), 0);
	sort_done(&s);
	free(frames);
	frames = NULL;
}
END_TEST

START_TEST(seeds_differ)
{
	struct sort a, b;

	sort_init(&a);
	sort_init(&b);
	ck_assert(a.seed[0] != b.seed[0] || a.seed[1] != b.seed[1]);
	sort_done(&a);
	sort_done(&b);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("sort");
	TCase *tc = tcase_create("sort");
	SRunner *sr;
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, is_what_qsort_makes, 0, SHAPES);
	tcase_add_loop_test(tc, colliding_names_change_nothing, 0, SHAPES);
	tcase_add_loop_test(tc, newest_first_turns_each_metric_round, 0, SHAPES);
	tcase_add_test(tc, workspace_serves_any_batch);
	tcase_add_test(tc, workspace_shrinks);
	tcase_add_test(tc, too_many_rows_are_refused);
	tcase_add_test(tc, count_must_be_right);
	tcase_add_test(tc, seeds_differ);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
