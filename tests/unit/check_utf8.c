#include "wire/utf8.h"

#include <check.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Table 3-7 of Unicode 15, row for row: the range of each byte of a sequence. */
static const struct row {
	size_t len;
	struct {
		uint8_t lo, hi;
	} byte[4];
} rows[] = {
    {1, {{0x00, 0x7F}}},
    {2, {{0xC2, 0xDF}, {0x80, 0xBF}}},
    {3, {{0xE0, 0xE0}, {0xA0, 0xBF}, {0x80, 0xBF}}},
    {3, {{0xE1, 0xEC}, {0x80, 0xBF}, {0x80, 0xBF}}},
    {3, {{0xED, 0xED}, {0x80, 0x9F}, {0x80, 0xBF}}},
    {3, {{0xEE, 0xEF}, {0x80, 0xBF}, {0x80, 0xBF}}},
    {4, {{0xF0, 0xF0}, {0x90, 0xBF}, {0x80, 0xBF}, {0x80, 0xBF}}},
    {4, {{0xF1, 0xF3}, {0x80, 0xBF}, {0x80, 0xBF}, {0x80, 0xBF}}},
    {4, {{0xF4, 0xF4}, {0x80, 0x8F}, {0x80, 0xBF}, {0x80, 0xBF}}},
};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const struct row *
row_matching(const uint8_t *s, size_t len)
{
	for (size_t r = 0; r < COUNT(rows); r++) {
		size_t i = 0;

		while (i < rows[r].len && i < len && s[i] >= rows[r].byte[i].lo &&
		       s[i] <= rows[r].byte[i].hi)
			i++;
		if (i == rows[r].len)
			return &rows[r];
	}
	return NULL;
}

/* What utf8_check() has to say, the slow way. */
static enum utf8_verdict
reference(const uint8_t *s, size_t len)
{
	bool control = false;

	for (size_t i = 0; i < len;) {
		const struct row *row = row_matching(s + i, len - i);

		if (!row)
			return UTF8_INVALID;
		control = control || s[i] < 0x20;
		i += row->len;
	}
	return control ? UTF8_CONTROL : UTF8_OK;
}

static void
print_hex(char *out, size_t size, const uint8_t *s, size_t len)
{
	out[0] = '\0';
	for (size_t i = 0; i < len && 3 * i + 4 <= size; i++)
		(void)snprintf(out + 3 * i, 4, "%02X ", s[i]);
}

/* Not ck_assert_int_eq: check notes each of those in a file, and there are millions here. */
static void
expect(const uint8_t *s, size_t len, enum utf8_verdict want)
{
	enum utf8_verdict got = utf8_check(s, len);
	char hex[800];

	if (got == want)
		return;
	print_hex(hex, sizeof(hex), s, len);
	ck_abort_msg("%zu bytes at alignment %d: verdict %d, not %d: %s", len,
		     (int)((uintptr_t)s % 8), (int)got, (int)want, hex);
}

/* The definition, not the reference: one line for each thing that must be known. */
static const struct {
	const char *bytes;
	size_t len;
	enum utf8_verdict want;
} known[] = {
    {"", 0, UTF8_OK},
    {"cpu.load", 8, UTF8_OK},
    {" ~\x7F", 3, UTF8_OK}, /* DEL is not of C0 */
    {"\x00", 1, UTF8_CONTROL},
    {"\x1F", 1, UTF8_CONTROL},
    {"metric\n", 7, UTF8_CONTROL},
    {"\xC2\x80", 2, UTF8_OK}, /* C1 is allowed */
    {"\xC3\xA9t\xC3\xA9", 5, UTF8_OK},
    {"\xE2\x82\xAC", 3, UTF8_OK},
    {"\xF0\x9F\x98\x80", 4, UTF8_OK},
    {"\xEF\xBF\xBF", 3, UTF8_OK},     /* U+FFFF: a noncharacter is well-formed */
    {"\xF4\x8F\xBF\xBF", 4, UTF8_OK}, /* U+10FFFF */
    {"\xF4\x90\x80\x80", 4, UTF8_INVALID},
    {"\xC0\x80", 2, UTF8_INVALID}, /* overlong NUL */
    {"\xC1\xBF", 2, UTF8_INVALID},
    {"\xE0\x9F\xBF", 3, UTF8_INVALID},
    {"\xF0\x8F\xBF\xBF", 4, UTF8_INVALID},
    {"\xED\xA0\x80", 3, UTF8_INVALID}, /* surrogates */
    {"\xED\xBF\xBF", 3, UTF8_INVALID},
    {"\x80", 1, UTF8_INVALID},
    {"\xE2\x82", 2, UTF8_INVALID}, /* cut */
    {"\xF0\x9F\x98", 3, UTF8_INVALID},
    {"\xFE", 1, UTF8_INVALID},
    {"\xFF", 1, UTF8_INVALID},
    {"\n\xFF", 2, UTF8_INVALID}, /* ill-formed outranks control, */
    {"\xFF\n", 2, UTF8_INVALID}, /* in either order */
    {"caf\xE9", 4, UTF8_INVALID},
};

START_TEST(known_verdicts)
{
	const uint8_t *s = (const uint8_t *)known[_i].bytes;

	expect(s, known[_i].len, known[_i].want);
	ck_assert_int_eq(reference(s, known[_i].len), known[_i].want);
}
END_TEST

START_TEST(all_up_to_three_bytes)
{
	uint8_t s[3];

	for (unsigned a = 0; a < 256; a++) {
		s[0] = (uint8_t)a;
		expect(s, 1, reference(s, 1));
		for (unsigned b = 0; b < 256; b++) {
			s[1] = (uint8_t)b;
			expect(s, 2, reference(s, 2));
			for (unsigned c = 0; c < 256; c++) {
				s[2] = (uint8_t)c;
				expect(s, 3, reference(s, 3));
			}
		}
	}
}
END_TEST

/* Four bytes: all leads and seconds, where the rules are; the edges of the rest. */
START_TEST(four_bytes)
{
	static const uint8_t edge[] = {0x00, 0x1F, 0x20, 0x7F, 0x80, 0x8F, 0x90,
				       0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xF0, 0xFF};
	uint8_t s[4];

	for (unsigned a = 0; a < 256; a++) {
		for (unsigned b = 0; b < 256; b++) {
			for (size_t n = 0; n < COUNT(edge) * COUNT(edge); n++) {
				s[0] = (uint8_t)a;
				s[1] = (uint8_t)b;
				s[2] = edge[n / COUNT(edge)];
				s[3] = edge[n % COUNT(edge)];
				expect(s, 4, reference(s, 4));
			}
		}
	}
}
END_TEST

/*
 * Each of the known byte strings at each place of plain names of each length,
 * at alignment _i.  Plain neighbours neither mend nor break a sequence, so the
 * verdict stays its own.  The memory ends where the name ends.
 */
START_TEST(every_place)
{
	size_t align = (size_t)_i;

	for (size_t len = 0; len < 256; len++) {
		uint8_t *mem = malloc(align + len + !(align + len));
		uint8_t *s = mem + align;

		memset(s, 'm', len);
		expect(s, len, UTF8_OK);
		for (size_t k = 0; k < COUNT(known); k++) {
			size_t n = known[k].len;

			for (size_t at = 0; at + n <= len; at++) {
				memcpy(s + at, known[k].bytes, n);
				expect(s, len, known[k].want);
				memset(s + at, 'm', n);
			}
		}
		free(mem);
	}
}
END_TEST

/* One of the known byte strings; an ill one seldom, so that some mixtures stay good. */
static size_t
any_known(uint32_t *seed)
{
	size_t k;

	do {
		*seed = *seed * 1664525 + 1013904223;
		k = (*seed >> 24) % COUNT(known);
	} while (known[k].want != UTF8_OK && (*seed >> 16 & 31));
	return k;
}

/* Sequences, words of plain bytes, controls and ill bytes behind one another. */
START_TEST(mixtures)
{
	int seen[] = {[UTF8_OK] = 0, [UTF8_CONTROL] = 0, [UTF8_INVALID] = 0};
	uint32_t seed = 1;

	for (int round = 0; round < 200000; round++) {
		size_t max = (size_t)round % 256, len = 0;
		enum utf8_verdict want;
		uint8_t s[255];

		for (size_t k = any_known(&seed); len + known[k].len <= max; k = any_known(&seed)) {
			memcpy(s + len, known[k].bytes, known[k].len);
			len += known[k].len;
		}
		want = reference(s, len);
		seen[want]++;
		expect(s, len, want);
	}
	ck_assert_int_gt(seen[UTF8_OK], 5000);
	ck_assert_int_gt(seen[UTF8_CONTROL], 5000);
	ck_assert_int_gt(seen[UTF8_INVALID], 5000);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("utf8");
	TCase *tc = tcase_create("utf8");
	SRunner *sr = srunner_create(s);
	int failed;

	suite_add_tcase(s, tc);
	tcase_set_timeout(tc, 120); /* sanitizers and valgrind take their time */
	tcase_add_loop_test(tc, known_verdicts, 0, (int)COUNT(known));
	tcase_add_test(tc, all_up_to_three_bytes);
	tcase_add_test(tc, four_bytes);
	tcase_add_loop_test(tc, every_place, 0, 8);
	tcase_add_test(tc, mixtures);

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
