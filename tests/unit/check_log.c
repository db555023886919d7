#include "log/log.h"

#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "log_test.h"
#include "log/log_event.h"

#define LOG_TEST_KINDS 64 /* the table's size in log.c */
#define NOW UINT64_C(1769851800000000)
#define HEAD "{\"event\":\"e\",\"timestamp\":\"2026-01-31T09:30:00.000000Z\",\"level\":\"info\""
#define FIELDS(...) ((const struct log_field[]){__VA_ARGS__, LOG_END})

/* ---- the text ---- */

static char text[2 * LOG_EVENT_MAX];

static size_t
format(const struct log_field *fields)
{
	size_t len = log_format(text, sizeof(text), NOW, LOG_INFO, "e", fields);

	ck_assert_uint_eq(strlen(text), len);
	return len;
}

START_TEST(no_fields)
{
	(void)format(FIELDS(LOG_NONE));
	ck_assert_str_eq(text, HEAD "}");
}
END_TEST

START_TEST(every_type)
{
	(void)format(FIELDS(LOG_NONE, LOG_STR("s", "a \"b\""), LOG_STR("none", NULL),
			    LOG_BYTES("bytes", "x\0y\xFF", 4), LOG_STR("empty", ""),
			    LOG_U64("u", UINT64_MAX), LOG_I64("i", INT64_MIN), LOG_F64("f", 0.25),
			    LOG_F64("nan", NAN), LOG_F64("inf", -INFINITY), LOG_BOOL("yes", true),
			    LOG_BOOL("no", false), LOG_HEX("hex", "\x01\xAB", 2),
			    LOG_HEX("no_hex", NULL, 0), LOG_TIME("time", NOW + 1)));
	ck_assert_str_eq(text, HEAD ",\"s\":\"a \\\"b\\\"\",\"bytes\":\"x\\u0000y\xEF\xBF\xBD\""
				    ",\"empty\":\"\",\"u\":18446744073709551615"
				    ",\"i\":-9223372036854775808,\"f\":0.25,\"nan\":\"NaN\""
				    ",\"inf\":\"-Infinity\",\"yes\":true,\"no\":false"
				    ",\"hex\":\"01ab\",\"no_hex\":\"\""
				    ",\"time\":\"2026-01-31T09:30:00.000001Z\"}");
}
END_TEST

static const struct {
	int level;
	const char *name;
} levels[] = {
    {LOG_EMERG, "error"},   {LOG_CRIT, "error"}, {LOG_ERR, "error"},   {LOG_WARNING, "warning"},
    {LOG_NOTICE, "notice"}, {LOG_INFO, "info"},  {LOG_DEBUG, "debug"},
};

START_TEST(level_names)
{
	char want[200];

	(void)snprintf(want, sizeof(want),
		       "{\"event\":\"x\",\"timestamp\":\"1970-01-01T00:00:00.000000Z\","
		       "\"level\":\"%s\"}",
		       levels[_i].name);
	(void)log_format(text, sizeof(text), 0, levels[_i].level, "x", FIELDS(LOG_NONE));
	ck_assert_str_eq(text, want);
}
END_TEST

START_TEST(format_is_like_snprintf)
{
	const struct log_field *fields = FIELDS(LOG_STR("s", "abc"), LOG_U64("n", 7));
	char whole[200];
	size_t len = log_format(whole, sizeof(whole), NOW, LOG_INFO, "e", fields);

	ck_assert_uint_eq(log_format(NULL, 0, NOW, LOG_INFO, "e", fields), len);
	for (size_t size = 1; size <= len + 2; size++) {
		char *buf = malloc(size); /* exact size: ASan sees an overrun */
		size_t fits = size - 1 < len ? size - 1 : len;

		ck_assert_uint_eq(log_format(buf, size, NOW, LOG_INFO, "e", fields), len);
		ck_assert_uint_eq(strlen(buf), fits);
		ck_assert_mem_eq(buf, whole, fits);
		free(buf);
	}
}
END_TEST

/* What a long string is made of, and what one of these becomes. */
static const struct {
	const char *in, *out;
} long_strings[] = {
    {"a", "a"},
    {"\"", "\\\""},
    {"\x01", "\\u0001"},
    {"\xE2\x82\xAC", "\xE2\x82\xAC"},
    {"\xFF", "\xEF\xBF\xBD"},
    {"\xF0\x9F\x98\x80", "\xF0\x9F\x98\x80"},
};

/* Cut between two characters, as long as may be, and the fields behind it are there. */
START_TEST(long_string_is_cut)
{
	const char *out = long_strings[_i].out;
	char *s = repeat(long_strings[_i].in, 200000);
	const char *p = text + strlen(HEAD ",\"s\":\"");
	size_t n = 0;

	(void)format(FIELDS(LOG_STR("s", s), LOG_U64("n", 7)));
	ck_assert_mem_eq(text, HEAD ",\"s\":\"", strlen(HEAD ",\"s\":\""));
	for (; strncmp(p, out, strlen(out)) == 0; p += strlen(out))
		n += strlen(out);
	ck_assert_str_eq(p, "\",\"n\":7}");
	ck_assert_uint_le(n + 2, LOG_VALUE_MAX);
	ck_assert_uint_gt(n + 2 + strlen(out), LOG_VALUE_MAX);
	free(s);
}
END_TEST

START_TEST(long_hex_is_cut)
{
	char *s = repeat("\xAB", 200000);
	const char *p = text + strlen(HEAD ",\"h\":\"");

	(void)format(FIELDS(LOG_HEX("h", s, 200000), LOG_U64("n", 7)));
	ck_assert_uint_eq(strspn(p, "ab"), LOG_VALUE_MAX - 2);
	ck_assert_str_eq(p + LOG_VALUE_MAX - 2, "\",\"n\":7}");
	free(s);
}
END_TEST

/* Strings of every length around the limit: the object is closed, and never longer. */
START_TEST(event_is_bounded)
{
	char *s = repeat("x", 200000);
	struct log_field fields[40];
	size_t len, last;

	for (size_t i = 0; i < COUNT(fields) - 1; i++)
		fields[i] = i < 3 ? LOG_STR("s", s) : LOG_U64("n", UINT64_MAX);
	fields[COUNT(fields) - 1] = LOG_END;
	for (last = 15000; last < 16400; last++) {
		fields[3] = LOG_BYTES("s", s, last);
		len = format(fields);
		ck_assert_uint_le(len, LOG_EVENT_MAX);
		ck_assert_int_eq(text[len - 1], '}');
		ck_assert(text[len - 2] == '"' || text[len - 2] == '5');
	}
	/* the last of them left no room for any number */
	ck_assert_int_eq(text[len - 2], '"');
	ck_assert_uint_gt(len, LOG_EVENT_MAX - 200);
	free(s);
}
END_TEST

/* ---- events ---- */

START_TEST(before_open)
{
	ck_assert(log_enabled(LOG_INFO));
	ck_assert(!log_enabled(LOG_DEBUG));
	log_event(LOG_DEBUG, "hidden");
	log_event(LOG_INFO, "shown", LOG_U64("n", 1));
	log_event(LOG_ERR, "bare");
	ck_assert_str_eq(captured(), LINE("shown", "info", ",\"n\":1") LINE("bare", "error", ""));
}
END_TEST

START_TEST(levels_filter)
{
	ck_assert_int_eq(log_open(LOG_TARGET_STDERR, LOG_WARNING), 0);
	log_event(LOG_NOTICE, "hidden");
	log_event_limited(LOG_NOTICE, "kind", "hidden");
	log_event(LOG_WARNING, "shown");
	log_debug("hidden");
	log_set_level(LOG_DEBUG);
	ck_assert(log_enabled(LOG_DEBUG));
	log_debug("%s: %d", "tab\there", 7);
	log_close();
	log_event(LOG_DEBUG, "hidden");
	ck_assert_str_eq(captured(), LINE("shown", "warning", "") LINE(
					 "debug", "debug", ",\"message\":\"tab\\u0009here: 7\""));
}
END_TEST

START_TEST(timestamp_is_now)
{
	struct timespec before, after;
	char line[300] = "", want[2][300];

	(void)clock_gettime(CLOCK_REALTIME, &before);
	log_event(LOG_INFO, "e");
	(void)clock_gettime(CLOCK_REALTIME, &after);
	ck_assert_int_gt(pread(log_out, line, sizeof(line) - 1, 0), 0);
	/* ISO 8601 sorts as time does. */
	(void)log_format(want[0], sizeof(want[0]),
			 (uint64_t)before.tv_sec * 1000000 + (uint64_t)before.tv_nsec / 1000,
			 LOG_INFO, "e", FIELDS(LOG_NONE));
	(void)log_format(want[1], sizeof(want[1]),
			 (uint64_t)after.tv_sec * 1000000 + (uint64_t)after.tv_nsec / 1000,
			 LOG_INFO, "e", FIELDS(LOG_NONE));
	line[strcspn(line, "\n")] = '\0';
	ck_assert_str_le(want[0], line);
	ck_assert_str_le(line, want[1]);
}
END_TEST

/* ---- limits ---- */

/* A kind that is equal, but not the same string. */
static const char *
kind_named(int n)
{
	static char names[2 * LOG_TEST_KINDS][16];

	(void)snprintf(names[n], sizeof(names[n]), "kind/%d", n);
	return names[n];
}

START_TEST(next_event_tells_how_many_were_not)
{
	for (int i = 0; i < 5; i++)
		refuse(i);
	ck_assert_str_eq(captured(), LINE("refused", "warning", ",\"i\":0"));
	clock_now += 999;
	refuse(5);
	log_tick();
	ck_assert_str_eq(captured(), "");
	clock_now += 1;
	refuse(6);
	ck_assert_str_eq(captured(), LINE("refused", "warning", ",\"i\":6,\"suppressed\":5"));
	refuse(7);
	ck_assert_str_eq(captured(), "");
	clock_now += 5000;
	refuse(8);
	ck_assert_str_eq(captured(), LINE("refused", "warning", ",\"i\":8,\"suppressed\":1"));
	clock_now += 1000;
	refuse(9);
	ck_assert_str_eq(captured(), LINE("refused", "warning", ",\"i\":9"));
}
END_TEST

/* Lines and the sum of "suppressed" together are the events. */
START_TEST(tick_writes_the_last_of_a_silent_kind)
{
	for (int i = 0; i < 5; i++)
		refuse(i);
	(void)captured();
	log_tick();
	ck_assert_str_eq(captured(), "");
	clock_now += 1000;
	log_tick();
	ck_assert_str_eq(captured(), LINE("refused", "warning", ",\"i\":4,\"suppressed\":3"));
	log_tick();
	ck_assert_str_eq(captured(), "");
	refuse(5); /* what the tick wrote counts: one a second */
	ck_assert_str_eq(captured(), "");
	clock_now += 1000;
	log_tick();
	ck_assert_str_eq(captured(), LINE("refused", "warning", ",\"i\":5"));
}
END_TEST

START_TEST(close_writes_what_is_withheld)
{
	for (int i = 0; i < 3; i++) {
		refuse(i);
		log_limited(LOG_ERR, "other", "other", FIELDS(LOG_I64("i", i)));
	}
	(void)captured();
	log_close();
	ck_assert_str_eq(captured(), LINE("refused", "warning", ",\"i\":2,\"suppressed\":1")
					 LINE("other", "error", ",\"i\":2,\"suppressed\":1"));
	refuse(3); /* as before log_open() */
	ck_assert_str_eq(captured(), LINE("refused", "warning", ",\"i\":3"));
}
END_TEST

START_TEST(kinds_are_compared_as_strings)
{
	char copy[16];

	(void)snprintf(copy, sizeof(copy), "%s", kind_named(0));
	log_event_limited(LOG_INFO, kind_named(0), "a");
	log_event_limited(LOG_INFO, copy, "b");
	log_event_limited(LOG_INFO, kind_named(1), "c");
	ck_assert_str_eq(captured(), LINE("a", "info", "") LINE("c", "info", ""));
	clock_now += 1000;
	log_tick();
	ck_assert_str_eq(captured(), LINE("b", "info", ""));
}
END_TEST

START_TEST(once_is_once_for_each_kind)
{
	char copy[16];

	(void)snprintf(copy, sizeof(copy), "%s", kind_named(0));
	log_event_once(LOG_DEBUG, kind_named(0), "below_the_level");
	for (int i = 0; i < 3; i++) {
		log_event_once(LOG_INFO, kind_named(0), "a");
		log_event_once(LOG_INFO, copy, "b");
		log_event_once(LOG_INFO, kind_named(1), "c");
		clock_now += 1000;
		log_tick();
	}
	ck_assert_str_eq(captured(), LINE("a", "info", "") LINE("c", "info", ""));
}
END_TEST

/* More kinds at once than the table holds: nothing is lost, and idle slots are taken over. */
START_TEST(many_kinds)
{
	int lines = 0;

	for (int round = 0; round < 3; round++)
		for (int i = 0; i < LOG_TEST_KINDS + 1; i++)
			log_event_limited(LOG_INFO, kind_named(i), "e");
	for (const char *p = captured(); (p = strchr(p, '\n')); p++)
		lines++;
	ck_assert_int_eq(lines, LOG_TEST_KINDS + 3);
	clock_now += 1000;
	log_tick(); /* the last of each; slots become idle a second later */
	lines = 0;
	for (const char *p = captured(); (p = strstr(p, ",\"suppressed\":1}\n")); p++)
		lines++;
	ck_assert_int_eq(lines, LOG_TEST_KINDS);
	clock_now += 1000;
	for (int round = 0; round < 2; round++)
		for (int i = LOG_TEST_KINDS; i < 2 * LOG_TEST_KINDS; i++)
			log_event_limited(LOG_INFO, kind_named(i), "e");
	lines = 0;
	for (const char *p = captured(); (p = strchr(p, '\n')); p++)
		lines++;
	ck_assert_int_eq(lines, LOG_TEST_KINDS);
}
END_TEST

START_TEST(withheld_event_is_a_copy)
{
	char s[] = "before", bytes[] = {1, 2, 3};

	refuse(0);
	log_event_limited(LOG_WARNING, "frame_refused/empty_name", "second", LOG_STR("s", s),
			  LOG_STR("none", NULL), LOG_HEX("h", bytes, 3), LOG_HEX("no", NULL, 0),
			  LOG_F64("f", 0.5), LOG_TIME("t", 0), LOG_BOOL("b", true));
	memset(s, 'X', sizeof(s));
	memset(bytes, 'X', sizeof(bytes));
	(void)captured();
	clock_now += 1000;
	log_tick();
	ck_assert_str_eq(captured(), LINE("second", "warning",
					  ",\"s\":\"before\",\"h\":\"010203\",\"no\":\"\",\"f\":0.5"
					  ",\"t\":\"1970-01-01T00:00:00.000000Z\",\"b\":true"));
}
END_TEST

START_TEST(withheld_event_is_bounded)
{
	char *euros = repeat("\xE2\x82\xAC", 30000), *cut = repeat("\xE2\x82\xAC", 1024);
	char want[8192];
	struct log_field fields[LOG_COPY_FIELDS + 5];
	size_t n = COUNT(fields);

	for (size_t i = 0; i < n; i++)
		fields[i] = i < 3 ? LOG_STR("s", euros) : LOG_U64("n", 7);
	fields[n - 1] = LOG_END;
	refuse(0);
	log_limited(LOG_WARNING, "frame_refused/empty_name", "long", fields);
	(void)captured();
	clock_now += 1000;
	log_tick();
	ck_assert_uint_eq(strlen(cut), 1023);
	(void)snprintf(want, sizeof(want),
		       "{\"event\":\"long\",\"timestamp\":\"T\",\"level\":\"warning\""
		       ",\"s\":\"%s\",\"s\":\"%s\",\"s\":\"\"",
		       cut, cut);
	for (size_t i = 3; i < LOG_COPY_FIELDS; i++)
		strcat(want, ",\"n\":7");
	strcat(want, "}\n");
	ck_assert_str_eq(captured(), want);
	free(euros);
	free(cut);
}
END_TEST

START_TEST(withheld_event_obeys_the_level)
{
	refuse(0);
	refuse(1);
	(void)captured();
	log_set_level(LOG_ERR);
	clock_now += 1000;
	log_tick();
	ck_assert_str_eq(captured(), "");
}
END_TEST

static void
add_text(TCase *tc)
{
	tcase_add_test(tc, no_fields);
	tcase_add_test(tc, every_type);
	tcase_add_loop_test(tc, level_names, 0, (int)COUNT(levels));
	tcase_add_test(tc, format_is_like_snprintf);
	tcase_add_loop_test(tc, long_string_is_cut, 0, (int)COUNT(long_strings));
	tcase_add_test(tc, long_hex_is_cut);
	tcase_add_test(tc, event_is_bounded);
}
static void
add_events(TCase *tc)
{
	tcase_add_test(tc, before_open);
	tcase_add_test(tc, levels_filter);
	tcase_add_test(tc, timestamp_is_now);
}
static void
add_limits(TCase *tc)
{
	tcase_add_test(tc, next_event_tells_how_many_were_not);
	tcase_add_test(tc, tick_writes_the_last_of_a_silent_kind);
	tcase_add_test(tc, close_writes_what_is_withheld);
	tcase_add_test(tc, kinds_are_compared_as_strings);
	tcase_add_test(tc, once_is_once_for_each_kind);
	tcase_add_test(tc, many_kinds);
	tcase_add_test(tc, withheld_event_is_a_copy);
	tcase_add_test(tc, withheld_event_is_bounded);
	tcase_add_test(tc, withheld_event_obeys_the_level);
}

int
main(void)
{
	Suite *s = suite_create("log");
	SRunner *sr = srunner_create(s);
	int failed;

	add_text(new_case(s, "text", NULL));
	add_events(new_case(s, "events", capture));
	add_limits(new_case(s, "limits", capture));

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
