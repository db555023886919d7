#include "store/pg/batch/copy.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "wire/frame.h"

#define PIECE_MIN (COPY_ROW_MAX + 32)
#define HEADER "PGCOPY\n\xFF\r\n\0\0\0\0\0\0\0\0\0"
#define TRAILER "\xFF\xFF"

/* Everything that copy_fill() gives in pieces of at most size bytes; to be freed. */
static uint8_t *
fill_all(const uint8_t *frames, size_t len, size_t size, size_t *ret)
{
	uint8_t *all = NULL;
	uint8_t *piece = malloc(size); /* exact: ASan sees what is written behind */
	struct copy c;
	size_t n;

	*ret = 0;
	copy_init(&c, frames, len);
	while ((n = copy_fill(&c, piece, size)) > 0) {
		ck_assert_uint_le(n, size);
		all = realloc(all, *ret + n);
		memcpy(all + *ret, piece, n);
		*ret += n;
	}
	ck_assert_uint_eq(copy_fill(&c, piece, size), 0);
	free(piece);
	return all;
}

static void
assert_bytes(const uint8_t *frames, size_t len, const char *expected, size_t expected_len)
{
	size_t n;
	uint8_t *all = fill_all(frames, len, PIECE_MIN, &n);

	ck_assert_uint_eq(n, expected_len);
	ck_assert_mem_eq(all, expected, expected_len);
	free(all);
}

START_TEST(nothing_is_header_and_trailer)
{
	static const char expected[] = HEADER TRAILER;

	assert_bytes((const uint8_t *)"", 0, expected, sizeof(expected) - 1);
}
END_TEST

static const struct {
	uint64_t time_us;
	double value;
	const char *row;
} rows[] = {
    /* 2000-01-01, where PostgreSQL counts from */
    {946684800000000, 1.0,
     "\0\3\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\3abc\0\0\0\x08\x3F\xF0\0\0\0\0\0\0"},
    {946684800000001, -0.0,
     "\0\3\0\0\0\x08\0\0\0\0\0\0\0\1\0\0\0\3abc\0\0\0\x08\x80\0\0\0\0\0\0\0"},
    {946684799999999, 0.5,
     "\0\3\0\0\0\x08\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0\0\0\3abc\0\0\0\x08\x3F\xE0\0\0\0\0\0\0"},
    /* 1970-01-01 */
    {0, INFINITY,
     "\0\3\0\0\0\x08\xFF\xFC\xA2\xFE\xC4\xC8\x20\0\0\0\0\3abc\0\0\0\x08\x7F\xF0\0\0\0\0\0\0"},
    {FRAME_TIME_MAX, -2.0,
     "\0\3\0\0\0\x08\x03\x80\xE7\x0B\x91\x3B\x7F\xFF\0\0\0\3abc\0\0\0\x08\xC0\0\0\0\0\0\0\0"},
};

#define ROW_SIZE 33

START_TEST(a_row_is_exact)
{
	uint8_t frame[FRAME_MAX];
	size_t len = frame_encode(frame, rows[_i].time_us, "abc", 3, rows[_i].value);
	char expected[19 + ROW_SIZE + 2];

	memcpy(expected, HEADER, 19);
	memcpy(expected + 19, rows[_i].row, ROW_SIZE);
	memcpy(expected + 19 + ROW_SIZE, TRAILER, 2);
	assert_bytes(frame, len, expected, sizeof(expected));
}
END_TEST

/* A NaN keeps its bits, a signalling one too. */
START_TEST(values_are_not_touched)
{
	uint8_t frame[FRAME_MAX];
	size_t len = frame_encode(frame, 0, "n", 1, 0.0);
	static const uint8_t nan[8] = {0x7F, 0xF4, 1, 2, 3, 4, 5, 6};
	size_t n;
	uint8_t *all;

	memcpy(frame + len - 8, nan, 8);
	all = fill_all(frame, len, PIECE_MIN, &n);
	ck_assert_mem_eq(all + n - 2 - 8, nan, 8);
	free(all);
}
END_TEST

/* Names of every length; pieces of every size around a row's give the same stream. */
START_TEST(pieces_do_not_matter)
{
	static char name[FRAME_NAME_MAX];
	static uint8_t frames[FRAME_NAME_MAX * FRAME_MAX];
	size_t len = 0, whole_len, n, i;
	uint8_t *whole, *all;

	memset(name, 'x', sizeof(name));
	for (i = 1; i <= sizeof(name); i++)
		len += frame_encode(frames + len, i, name, i, (double)i);
	whole = fill_all(frames, len, 1 << 20, &whole_len);
	ck_assert_uint_eq(whole_len, 19 + 2 + 255 * 30 + 255 * 256 / 2);
	all = fill_all(frames, len, PIECE_MIN + (size_t)_i, &n);
	ck_assert_uint_eq(n, whole_len);
	ck_assert_mem_eq(all, whole, n);
	free(whole);
	free(all);
}
END_TEST

/* Pieces hold whole rows: each one after the first begins with a field count or the trailer. */
START_TEST(rows_are_not_cut)
{
	uint8_t frames[40 * FRAME_MAX], piece[PIECE_MIN];
	struct copy c;
	size_t len = 0, n, i, pieces = 0;

	for (i = 0; i < 40; i++)
		len += frame_encode(frames + len, i, "some.metric", 11, 0.0);
	copy_init(&c, frames, len);
	while ((n = copy_fill(&c, piece, sizeof(piece))) > 0) {
		if (pieces++ > 0 && memcmp(piece, TRAILER, 2) != 0)
			ck_assert_mem_eq(piece, "\0\3\0\0\0\x08", 6);
	}
	ck_assert_uint_gt(pieces, 3);
}
END_TEST

/* A walk in an order is the plain walk over frames that stand so. */
START_TEST(order_is_followed)
{
	static uint8_t frames[300 * FRAME_MAX], turned[300 * FRAME_MAX], piece[PIECE_MIN];
	static struct sort_row order[300];
	const size_t n = sizeof(order) / sizeof(order[0]);
	static char name[FRAME_NAME_MAX];
	size_t len = 0, turned_len = 0, expected_len, used = 0, got, i;
	struct copy c;
	uint8_t *expected;

	memset(name, 'n', sizeof(name));
	for (i = 0; i < n; i++) {
		order[n - 1 - i].offset = (uint32_t)len;
		len += frame_encode(frames + len, i, name, 1 + i % FRAME_NAME_MAX, (double)i);
	}
	for (i = n; i > 0; i--)
		turned_len += frame_encode(turned + turned_len, i - 1, name,
					   1 + (i - 1) % FRAME_NAME_MAX, (double)(i - 1));
	expected = fill_all(turned, turned_len, PIECE_MIN, &expected_len);
	copy_init_order(&c, frames, order, n);
	while ((got = copy_fill(&c, piece, sizeof(piece))) > 0) {
		ck_assert_uint_le(used + got, expected_len);
		ck_assert_mem_eq(piece, expected + used, got);
		used += got;
	}
	ck_assert_uint_eq(used, expected_len);
	free(expected);
}
END_TEST

START_TEST(order_of_nothing_is_header_and_trailer)
{
	static const char expected[] = HEADER TRAILER;
	struct sort_row row = {0, 0, 0};
	uint8_t piece[PIECE_MIN];
	struct copy c;

	copy_init_order(&c, (const uint8_t *)"", &row, 0);
	ck_assert_uint_eq(copy_fill(&c, piece, sizeof(piece)), sizeof(expected) - 1);
	ck_assert_mem_eq(piece, expected, sizeof(expected) - 1);
	ck_assert_uint_eq(copy_fill(&c, piece, sizeof(piece)), 0);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("copy");
	TCase *tc = tcase_create("copy");
	SRunner *sr;
	int failed;

	tcase_add_test(tc, nothing_is_header_and_trailer);
	tcase_add_loop_test(tc, a_row_is_exact, 0, (int)(sizeof(rows) / sizeof(rows[0])));
	tcase_add_test(tc, values_are_not_touched);
	tcase_add_loop_test(tc, pieces_do_not_matter, 0, COPY_ROW_MAX + 3);
	tcase_add_test(tc, rows_are_not_cut);
	tcase_add_test(tc, order_is_followed);
	tcase_add_test(tc, order_of_nothing_is_header_and_trailer);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
