#include "base/text.h"

#include <check.h>
#include <locale.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const char *
json(const void *data, size_t len, size_t room)
{
	static char buf[4096];
	struct text t = {.buf = buf, .size = sizeof(buf)};

	text_put_json(&t, data, len, room);
	text_end(&t);
	return buf;
}

/* FFFD stands for U+FFFD, to keep the table readable. */
#define FFFD "\xEF\xBF\xBD"

static const struct {
	const char *in;
	size_t len;
	const char *out;
} strings[] = {
#define S(in, out)                                \
	{                                         \
		in, sizeof(in) - 1, "\"" out "\"" \
	}
    S("", ""),
    S("cpu.load", "cpu.load"),
    S("a\"b\\c/d", "a\\\"b\\\\c/d"),
    S("\n\r\t\b\f", "\\u000a\\u000d\\u0009\\u0008\\u000c"),
    S("\0\x01\x1F ", "\\u0000\\u0001\\u001f "),
    S("~\x7F", "~\\u007f"),
    S("\xC2\x80\xC2\x9B\xC2\x9F\xC2\xA0", "\\u0080\\u009b\\u009f\xC2\xA0"),
    S("\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80"),
    S("\xED\x9F\xBF\xEE\x80\x80\xF4\x8F\xBF\xBF", "\xED\x9F\xBF\xEE\x80\x80\xF4\x8F\xBF\xBF"),
    S("\xE2\x80\xA8", "\xE2\x80\xA8"),
    /* ill-formed: Python's errors="replace" gives the same */
    S("\xFF", FFFD),
    S("a\x80z", "a" FFFD "z"),
    S("\xC0\xAF", FFFD FFFD),
    S("\xE0\x80\xAF", FFFD FFFD FFFD),
    S("\xED\xA0\x80", FFFD FFFD FFFD),
    S("\xF4\x90\x80\x80", FFFD FFFD FFFD FFFD),
    S("\xF0\x80\x80\x80", FFFD FFFD FFFD FFFD),
    S("\xE2\x82", FFFD),
    S("\xE2\x82z", FFFD "z"),
    S("\xF0\x9F\x98", FFFD),
    S("\xF0\x9F\xE2\x82\xAC", FFFD "\xE2\x82\xAC"),
    S("\xC3\"", FFFD "\\\""),
    /* Unicode 15, table 3-8 and those after it */
    S("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A"),
    S("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", FFFD FFFD FFFD FFFD FFFD "A" FFFD FFFD "B"),
    S("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", FFFD FFFD FFFD FFFD "A"),
#undef S
};

START_TEST(json_strings)
{
	char *copy = malloc(strings[_i].len); /* exact size: ASan sees an overread */

	if (strings[_i].len > 0)
		memcpy(copy, strings[_i].in, strings[_i].len);
	ck_assert_str_eq(json(copy, strings[_i].len, 1000), strings[_i].out);
	free(copy);
}
END_TEST

/* Whatever the room, the string is closed and no escape or character is halved. */
START_TEST(json_room)
{
	static const char in[] = "a\"\xE2\x82\xAC\x01z";
	static const char *const whole[] = {"a", "\\\"", "\xE2\x82\xAC", "\\u0001", "z"};
	char want[64] = "\"";
	size_t room = (size_t)_i, left = room - 2;

	for (size_t i = 0; i < COUNT(whole) && strlen(whole[i]) <= left; i++) {
		strcat(want, whole[i]);
		left -= strlen(whole[i]);
	}
	strcat(want, "\"");
	ck_assert_str_eq(json(in, sizeof(in) - 1, room), want);
}
END_TEST

START_TEST(text_counts_what_does_not_fit)
{
	char buf[5] = "####";
	struct text t = {.buf = buf, .size = 4};
	struct text none = {.buf = NULL, .size = 0};

	text_put(&t, "ab", 2);
	text_put(&t, "cde", 3);
	text_put(&t, "f", 1);
	text_end(&t);
	ck_assert_uint_eq(t.len, 6);
	ck_assert_str_eq(buf, "abc");
	text_put(&none, "abc", 3);
	text_end(&none);
	ck_assert_uint_eq(none.len, 3);
}
END_TEST

START_TEST(hex)
{
	char buf[16];
	struct text t = {.buf = buf, .size = sizeof(buf)};

	text_put_hex(&t, "\x00\x9F\xfa\x10", 4);
	text_end(&t);
	ck_assert_str_eq(buf, "009ffa10");
}
END_TEST

static const struct {
	double value;
	const char *text;
} numbers[] = {
    {0.0, "0"},
    {-0.0, "-0"},
    {1.0, "1"},
    {-17.25, "-17.25"},
    {0.1, "0.1"},
    {0.1 + 0.2, "0.30000000000000004"},
    {1.0 / 3, "0.3333333333333333"},
    {5e-324, "4.94065645841247e-324"},
    {2.2250738585072014e-308, "2.2250738585072014e-308"},
    {1.7976931348623157e308, "1.7976931348623157e+308"},
    {1e15, "1e+15"},
    {123456789012345.0, "123456789012345"},
    {9007199254740993.0, "9007199254740992"},
    {1e22, "1e+22"},
    {NAN, "NaN"},
    {INFINITY, "Infinity"},
    {-INFINITY, "-Infinity"},
};

START_TEST(number_text)
{
	char buf[TEXT_VALUE_MAX];

	ck_assert_uint_eq(text_f64(buf, numbers[_i].value), strlen(numbers[_i].text));
	ck_assert_str_eq(buf, numbers[_i].text);
}
END_TEST

/* Is s a number as RFC 8259 section 6 has it? */
static bool
json_number(const char *s)
{
	static const char digits[] = "0123456789";
	size_t n;

	s += *s == '-';
	n = strspn(s, digits);
	if (n == 0 || (*s == '0' && n > 1))
		return false;
	s += n;
	if (*s == '.') {
		n = strspn(++s, digits);
		if (n == 0)
			return false;
		s += n;
	}
	if (*s == 'e') {
		s++;
		s += *s == '-' || *s == '+';
		n = strspn(s, digits);
		if (n == 0)
			return false;
		s += n;
	}
	return *s == '\0';
}

START_TEST(numbers_read_back)
{
	uint64_t bits = 0x9E3779B97F4A7C15, finite = 0;

	for (int i = 0; i < 20000; i++) {
		char buf[TEXT_VALUE_MAX];
		double value, back;

		bits ^= bits << 13; /* xorshift64, Marsaglia 2003 */
		bits ^= bits >> 7;
		bits ^= bits << 17;
		memcpy(&value, &bits, sizeof(value));
		if (!isfinite(value))
			continue;
		finite++;
		(void)text_f64(buf, value);
		back = strtod(buf, NULL);
		if (memcmp(&back, &value, sizeof(back)) != 0 || !json_number(buf))
			ck_abort_msg("%a became %s", value, buf);
	}
	ck_assert_uint_gt(finite, 19000);
}
END_TEST

/* Says something only where one of these locales is installed. */
START_TEST(numbers_know_no_locale)
{
	static const char *const locales[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8",
					      "ps_AF.UTF-8", "ps_AF"};
	char buf[TEXT_VALUE_MAX];

	for (size_t i = 0; i < COUNT(locales); i++) {
		if (!setlocale(LC_NUMERIC, locales[i]))
			continue;
		ck_assert_str_ne(localeconv()->decimal_point, ".");
		(void)text_f64(buf, -17.25e-30);
		ck_assert_str_eq(buf, "-1.725e-29");
		(void)text_f64(buf, 0.1 + 0.2);
		ck_assert_str_eq(buf, "0.30000000000000004");
	}
	(void)setlocale(LC_NUMERIC, "C");
}
END_TEST

static const struct {
	uint64_t time_us;
	const char *text;
} times[] = {
    {0, "1970-01-01T00:00:00.000000Z"},
    {UINT64_C(951782399999999), "2000-02-28T23:59:59.999999Z"},
    {UINT64_C(951782400000001), "2000-02-29T00:00:00.000001Z"},
    {UINT64_C(1769851800000000), "2026-01-31T09:30:00.000000Z"},
    {UINT64_C(253402300799999999), "9999-12-31T23:59:59.999999Z"},
    {UINT64_C(253402300800000000), "+10000-01-01T00:00:00.000000Z"},
    {UINT64_MAX, "+586524-01-19T08:01:49.551615Z"},
};

START_TEST(time_text)
{
	char buf[TEXT_VALUE_MAX];

	ck_assert_int_eq(setenv("TZ", "Asia/Kathmandu", 1), 0); /* must not matter */
	ck_assert_uint_eq(text_time(buf, times[_i].time_us), strlen(times[_i].text));
	ck_assert_str_eq(buf, times[_i].text);
}
END_TEST

static const struct {
	const char *in;
	size_t max, want;
} cuts[] = {
    {"", 0, 0},
    {"abc", 3, 3},
    {"abc", 9, 3},
    {"abc", 2, 2},
    {"a\xC3\xA9", 2, 1},
    {"a\xC3\xA9z", 3, 3},
    {"\xE2\x82\xAC", 2, 0},
    {"a\xF0\x9F\x98\x80", 4, 1},
    {"a\xF0\x9F\x98\x80", 2, 1},
    {"\x80\x80\x80\x80\x80\x80", 5, 5},
    {"\x80\x80", 1, 1},
};

START_TEST(cut)
{
	ck_assert_uint_eq(text_cut(cuts[_i].in, strlen(cuts[_i].in), cuts[_i].max), cuts[_i].want);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("text");
	TCase *tc = tcase_create("text");
	SRunner *sr = srunner_create(s);
	int failed;

	suite_add_tcase(s, tc);
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, json_strings, 0, (int)COUNT(strings));
	tcase_add_loop_test(tc, json_room, 2, 20);
	tcase_add_test(tc, text_counts_what_does_not_fit);
	tcase_add_test(tc, hex);
	tcase_add_loop_test(tc, number_text, 0, (int)COUNT(numbers));
	tcase_add_test(tc, numbers_read_back);
	tcase_add_test(tc, numbers_know_no_locale);
	tcase_add_loop_test(tc, time_text, 0, (int)COUNT(times));
	tcase_add_loop_test(tc, cut, 0, (int)COUNT(cuts));

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
