#include "conf/conf_value.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define UNTOUCHED 4711u

typedef int parse_fn(const char *text, uint64_t *ret);

static const struct row {
	parse_fn *parse;
	const char *text;
	int want; /* the result */
	uint64_t value;
} numbers[] = {
    {conf_value_integer, "0", 0, 0},
    {conf_value_integer, " 42\t", 0, 42},
    {conf_value_integer, "007", 0, 7},
    {conf_value_integer, "18446744073709551615", 0, UINT64_MAX},
    {conf_value_integer, "18446744073709551616", -ERANGE, 0},
    {conf_value_integer, "99999999999999999999999", -ERANGE, 0},
    {conf_value_integer, "-1", -ERANGE, 0},
    {conf_value_integer, "", -EINVAL, 0},
    {conf_value_integer, " ", -EINVAL, 0},
    {conf_value_integer, "-", -EINVAL, 0},
    {conf_value_integer, "+1", -EINVAL, 0},
    {conf_value_integer, "ten", -EINVAL, 0},
    {conf_value_integer, "1.0", -EINVAL, 0},
    {conf_value_integer, "1e3", -EINVAL, 0},
    {conf_value_integer, "0x10", -EINVAL, 0},
    {conf_value_integer, "1 2", -EINVAL, 0},
    {conf_value_integer, "1_000", -EINVAL, 0},
    {conf_value_integer, "10K", -EINVAL, 0},

    {conf_value_size, "0", 0, 0},
    {conf_value_size, "4096", 0, 4096},
    {conf_value_size, "1B", 0, 1},
    {conf_value_size, "1K", 0, 1024},
    {conf_value_size, "1k", 0, 1024},
    {conf_value_size, "1KB", 0, 1024},
    {conf_value_size, "1KiB", 0, 1024},
    {conf_value_size, "16M", 0, 16777216},
    {conf_value_size, "16 MB", 0, 16777216},
    {conf_value_size, "16mib", 0, 16777216},
    {conf_value_size, "8G", 0, 8589934592},
    {conf_value_size, "8GB", 0, 8589934592},
    {conf_value_size, "8GiB", 0, 8589934592},
    {conf_value_size, "1T", 0, 1099511627776},
    {conf_value_size, "1TB", 0, 1099511627776},
    {conf_value_size, "1TiB", 0, 1099511627776},
    {conf_value_size, "1.5K", 0, 1536},
    {conf_value_size, "0.999999T", 0, 1099510528265},
    {conf_value_size, "1.1B", 0, 2},
    {conf_value_size, "16777215T", 0, 18446742974197923840u},
    {conf_value_size, "16777216T", -ERANGE, 0},
    {conf_value_size, "-1M", -ERANGE, 0},
    {conf_value_size, "99999999999999999999M", -ERANGE, 0},
    {conf_value_size, "99999999999999999999X", -EINVAL, 0},
    {conf_value_size, "", -EINVAL, 0},
    {conf_value_size, "M", -EINVAL, 0},
    {conf_value_size, "16X", -EINVAL, 0},
    {conf_value_size, "16MM", -EINVAL, 0},
    {conf_value_size, "16 M B", -EINVAL, 0},
    {conf_value_size, "1,5G", -EINVAL, 0},

    {conf_value_duration, "", 0, 0},
    {conf_value_duration, " ", 0, 0},
    {conf_value_duration, "0", 0, 0},
    {conf_value_duration, "500 ms", 0, 500000},
    {conf_value_duration, "1 millisecond", 0, 1000},
    {conf_value_duration, "2 milliseconds", 0, 2000},
    {conf_value_duration, "90s", 0, 90000000},
    {conf_value_duration, "1 sec", 0, 1000000},
    {conf_value_duration, "2 secs", 0, 2000000},
    {conf_value_duration, "1 second", 0, 1000000},
    {conf_value_duration, "2 Seconds", 0, 2000000},
    {conf_value_duration, "1m", 0, 60000000},
    {conf_value_duration, "1 min", 0, 60000000},
    {conf_value_duration, "2 mins", 0, 120000000},
    {conf_value_duration, "1 minute", 0, 60000000},
    {conf_value_duration, "2 minutes", 0, 120000000},
    {conf_value_duration, "1h", 0, 3600000000},
    {conf_value_duration, "1 hour", 0, 3600000000},
    {conf_value_duration, "1.5 hours", 0, 5400000000},
    {conf_value_duration, "1d", 0, 86400000000},
    {conf_value_duration, "1 DAY", 0, 86400000000},
    {conf_value_duration, "30 days", 0, 2592000000000},
    {conf_value_duration, "1w", 0, 604800000000},
    {conf_value_duration, "1 week", 0, 604800000000},
    {conf_value_duration, "2 weeks", 0, 1209600000000},
    {conf_value_duration, "0 days", 0, 0},
    {conf_value_duration, "0.0000001 s", 0, 1},
    {conf_value_duration, "90", -EINVAL, 0},
    {conf_value_duration, "days", -EINVAL, 0},
    {conf_value_duration, "3 fortnights", -EINVAL, 0},
    {conf_value_duration, "1 month", -EINVAL, 0},
    {conf_value_duration, "1 year", -EINVAL, 0},
    {conf_value_duration, "1 day 2 hours", -EINVAL, 0},
    {conf_value_duration, "never", -EINVAL, 0},
    {conf_value_duration, "-1 day", -ERANGE, 0},
    {conf_value_duration, "30500568904943 days", -ERANGE, 0},

    {conf_value_seconds, "5", 0, 5000000},
    {conf_value_seconds, "0", 0, 0},
    {conf_value_seconds, "0.25", 0, 250000},
    {conf_value_seconds, ".5", 0, 500000},
    {conf_value_seconds, "1.234567", 0, 1234567},
    {conf_value_seconds, "1.2345670", 0, 1234567},
    {conf_value_seconds, "1.2345671", 0, 1234568},
    {conf_value_seconds, "0.9999999", 0, 1000000},
    {conf_value_seconds, "500 ms", 0, 500000},
    {conf_value_seconds, "2 min", 0, 120000000},
    {conf_value_seconds, "18446744073709", 0, 18446744073709000000u},
    {conf_value_seconds, "18446744073709.551616", -ERANGE, 0},
    {conf_value_seconds, "18446744073710", -ERANGE, 0},
    {conf_value_seconds, "-0.5", -ERANGE, 0},
    {conf_value_seconds, "", -EINVAL, 0},
    {conf_value_seconds, ".", -EINVAL, 0},
    {conf_value_seconds, "5.", -EINVAL, 0},
    {conf_value_seconds, "1.2.3", -EINVAL, 0},
    {conf_value_seconds, "5,5", -EINVAL, 0},
    {conf_value_seconds, "nan", -EINVAL, 0},
    {conf_value_seconds, "inf", -EINVAL, 0},
    {conf_value_seconds, "soon", -EINVAL, 0},
};

START_TEST(number)
{
	const struct row *row = &numbers[_i];
	uint64_t value = UNTOUCHED;

	ck_assert_msg(row->parse(row->text, &value) == row->want, "\"%s\": result", row->text);
	ck_assert_msg(value == (row->want ? UNTOUCHED : row->value), "\"%s\": %llu", row->text,
		      (unsigned long long)value);
}
END_TEST

static const struct {
	const char *text;
	int want; /* 1, 0, or -EINVAL */
} bools[] = {
    {"true", 1},         {"yes", 1},          {"on", 1},          {"1", 1},       {"TRUE", 1},
    {" Yes ", 1},        {"false", 0},        {"no", 0},          {"off", 0},     {"0", 0},
    {"False", 0},        {"", -EINVAL},       {"maybe", -EINVAL}, {"2", -EINVAL}, {"t", -EINVAL},
    {"truely", -EINVAL}, {"yes no", -EINVAL},
};

START_TEST(boolean)
{
	bool value = bools[_i].want != 1; /* the wrong one */
	bool before = value;
	int r = conf_value_bool(bools[_i].text, &value);

	ck_assert_msg(r == (bools[_i].want < 0 ? -EINVAL : 0), "\"%s\": result", bools[_i].text);
	ck_assert_msg(value == (r < 0 ? before : bools[_i].want == 1), "\"%s\"", bools[_i].text);
}
END_TEST

START_TEST(choice)
{
	static const struct conf_choice words[] = {
	    {"warning", 4, false}, {"warn", 4, true}, {"info", 6, false}, {NULL, 0, false}};
	int value = 0;

	ck_assert_int_eq(conf_value_choice("info", words, &value), 0);
	ck_assert_int_eq(value, 6);
	ck_assert_int_eq(conf_value_choice(" WARN ", words, &value), 0);
	ck_assert_int_eq(value, 4);
	ck_assert_int_eq(conf_value_choice("Warning", words, &value), 0);
	ck_assert_int_eq(value, 4);
	ck_assert_int_eq(conf_value_choice("", words, &value), -EINVAL);
	ck_assert_int_eq(conf_value_choice("inf", words, &value), -EINVAL);
	ck_assert_int_eq(conf_value_choice("infos", words, &value), -EINVAL);
	ck_assert_int_eq(value, 4);
}
END_TEST

static const struct {
	const char *text;
	const char *want;
} shown[] = {
    {"5", "5"},
    {"-1.5", "-1.5"},
    {"", "\"\""},
    {"ten", "\"ten\""},
    {"5 s", "\"5 s\""},
    {"a\"b\n", "\"a\\\"b\\u000a\""},
    {"\x1B[31m", "\"\\u001b[31m\""},
};

START_TEST(show)
{
	char buf[CONF_VALUE_SHOWN];

	ck_assert_str_eq(conf_value_show(shown[_i].text, buf), shown[_i].want);
}
END_TEST

/* Any length fits, and what is cut stays a string in quotes. */
START_TEST(show_long)
{
	char text[3 * CONF_VALUE_SHOWN + 1], buf[CONF_VALUE_SHOWN];

	for (size_t len = 1; len < sizeof(text); len++) {
		memset(text, '9', len);
		text[len] = '\0';
		ck_assert_uint_lt(strlen(conf_value_show(text, buf)), CONF_VALUE_SHOWN);
		text[0] = 'x';
		ck_assert_uint_lt(strlen(conf_value_show(text, buf)), CONF_VALUE_SHOWN);
		ck_assert_int_eq(buf[0], '"');
		ck_assert_int_eq(buf[strlen(buf) - 1], '"');
	}
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("conf_value");
	TCase *tc = tcase_create("conf_value");
	SRunner *sr = srunner_create(s);
	int failed;

	suite_add_tcase(s, tc);
	tcase_add_loop_test(tc, number, 0, (int)COUNT(numbers));
	tcase_add_loop_test(tc, boolean, 0, (int)COUNT(bools));
	tcase_add_test(tc, choice);
	tcase_add_loop_test(tc, show, 0, (int)COUNT(shown));
	tcase_add_test(tc, show_long);

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
