#include "wire/frame.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* A string literal that holds NULs, as bytes and their number. */
#define BYTES(literal) (const uint8_t *)(literal), sizeof(literal) - 1

/* 2024-03-01T12:00:00Z */
#define SOME_TIME UINT64_C(1709294400000000)
#define SOME_TIME_BYTES "\x00\x06\x12\x98\x1D\x87\x50\x00"
#define SOME_VALUE 50.125
#define SOME_VALUE_BYTES "\x40\x49\x10\x00\x00\x00\x00\x00"

/* The frame of the description's shell example. */
#define EXAMPLE "\x00\x00\x01\x88\xD2\xE9\xA0\x00\x06metric\x40\x49\x0F\xDB\x00\x00\x00\x00"

#define NAMELESS SOME_TIME_BYTES "\x00"
#define LONGEST_NAME                                                       \
	"0123456789012345678901234567890123456789012345678901234567890123" \
	"0123456789012345678901234567890123456789012345678901234567890123" \
	"0123456789012345678901234567890123456789012345678901234567890123" \
	"012345678901234567890123456789012345678901234567890123456789012"

/* Frames and what they are, with a window of SOME_TIME and the second after it. */
static const struct {
	const uint8_t *bytes;
	size_t len;
	enum frame_kind kind;
	uint8_t sync_level;
} frames[] = {
    {BYTES(SOME_TIME_BYTES "\x01m" SOME_VALUE_BYTES), FRAME_METRIC, 0},
    {BYTES(SOME_TIME_BYTES "\x08"
			   "cpu.load" SOME_VALUE_BYTES),
     FRAME_METRIC, 0},
    {BYTES(SOME_TIME_BYTES "\x10"
			   "temp\xC3\xA9rature \xC2\xB0"
			   "C" SOME_VALUE_BYTES),
     FRAME_METRIC, 0},
    {BYTES(SOME_TIME_BYTES "\xFF" LONGEST_NAME SOME_VALUE_BYTES), FRAME_METRIC, 0},

    {BYTES(NAMELESS "MCSYNC\x00\x01"), FRAME_SYNC, 1},
    {BYTES(NAMELESS "MCSYNC\x00\x02"), FRAME_SYNC, 2},
    {BYTES("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x00MCSYNC\x00\x02"), FRAME_SYNC, 2},
    {BYTES("\x00\x00\x00\x00\x00\x00\x00\x00\x00MCSYNC\x00\x01"), FRAME_SYNC, 1},
    {BYTES(NAMELESS "MCSYNC\x00\x00"), FRAME_EMPTY_NAME, 0},
    {BYTES(NAMELESS "MCSYNC\x00\x03"), FRAME_EMPTY_NAME, 0},
    {BYTES(NAMELESS "MCSYNC\x00\x81"), FRAME_EMPTY_NAME, 0},
    {BYTES(NAMELESS "MCSYNC\x01\x01"), FRAME_EMPTY_NAME, 0},
    {BYTES(NAMELESS "mCSYNC\x00\x01"), FRAME_EMPTY_NAME, 0},
    {BYTES(NAMELESS SOME_VALUE_BYTES), FRAME_EMPTY_NAME, 0},
    /* the magic makes no question of a frame with a name */
    {BYTES(SOME_TIME_BYTES "\x01mMCSYNC\x00\x01"), FRAME_METRIC, 0},

    {BYTES(SOME_TIME_BYTES "\x04"
			   "caf\xE9" SOME_VALUE_BYTES),
     FRAME_INVALID_UTF8, 0},
    {BYTES(SOME_TIME_BYTES "\x01\xC3" SOME_VALUE_BYTES), FRAME_INVALID_UTF8, 0},
    /* the tail that the name lacks must not be taken from the value */
    {BYTES(SOME_TIME_BYTES "\x02m\xC3\xA9\x49\x10\x00\x00\x00\x00\x00"), FRAME_INVALID_UTF8, 0},
    {BYTES(SOME_TIME_BYTES "\x01\x00" SOME_VALUE_BYTES), FRAME_CONTROL_BYTE, 0},
    {BYTES(SOME_TIME_BYTES "\x07metric\n" SOME_VALUE_BYTES), FRAME_CONTROL_BYTE, 0},
    {BYTES("\x03\x84\x44\x0C\xCC\x73\x60\x00\x01m" SOME_VALUE_BYTES), FRAME_TIMESTAMP_RANGE, 0},
    {BYTES("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01m" SOME_VALUE_BYTES), FRAME_TIMESTAMP_RANGE, 0},
    {BYTES("\x03\x84\x44\x0C\xCC\x73\x5F\xFF\x01m" SOME_VALUE_BYTES), FRAME_TIMESTAMP_WINDOW, 0},
    {BYTES(EXAMPLE), FRAME_TIMESTAMP_WINDOW, 0},
    {BYTES("\x00\x00\x00\x00\x00\x00\x00\x00\x01m" SOME_VALUE_BYTES), FRAME_TIMESTAMP_WINDOW, 0},

    /* several reasons: the first of the order is given */
    {BYTES("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x00" SOME_VALUE_BYTES), FRAME_EMPTY_NAME, 0},
    {BYTES("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x02\n\xFF" SOME_VALUE_BYTES), FRAME_INVALID_UTF8, 0},
    {BYTES("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01\n" SOME_VALUE_BYTES), FRAME_CONTROL_BYTE, 0},
    {BYTES("\x00\x00\x00\x00\x00\x00\x00\x00\x01\n" SOME_VALUE_BYTES), FRAME_CONTROL_BYTE, 0},
};

static const struct frame_window window = {SOME_TIME, SOME_TIME + 1000000};

/* Decodes a copy whose memory ends where the bytes end: ASan sees an overread. */
static size_t
decode_exact(const uint8_t *bytes, size_t len, const struct frame_window *w, struct frame *ret)
{
	uint8_t *copy = malloc(len + !len);
	size_t n;

	memcpy(copy, bytes, len);
	n = frame_decode(copy, len, w, ret);
	if (n > 0 && ret->name == (const char *)copy + 9)
		ret->name = (const char *)bytes + 9; /* outlives the copy */
	free(copy);
	return n;
}

/* By the bytes: NaN equals itself. */
static void
assert_same_double(double a, double b)
{
	ck_assert_mem_eq(&a, &b, sizeof(a));
}

START_TEST(table)
{
	const uint8_t *bytes = frames[_i].bytes;
	size_t len = frames[_i].len;
	uint64_t time_us = 0;
	struct frame f;

	for (size_t i = 0; i < 8; i++)
		time_us = time_us << 8 | bytes[i];
	ck_assert_uint_eq(decode_exact(bytes, len, &window, &f), len);
	ck_assert_str_eq(frame_kind_name(f.kind), frame_kind_name(frames[_i].kind));
	ck_assert_uint_eq(f.time_us, time_us);
	ck_assert_uint_eq(f.name_len, len - FRAME_FIXED);
	ck_assert_ptr_eq(f.name, bytes + 9);
	ck_assert_uint_eq(f.sync_level, frames[_i].sync_level);
	ck_assert_uint_eq(frame_size_at(bytes), len);
	if (memcmp(bytes + len - 8, SOME_VALUE_BYTES, 8) == 0)
		assert_same_double(f.value, SOME_VALUE);
}
END_TEST

START_TEST(every_prefix_wants_more)
{
	struct frame untouched, f;

	memset(&untouched, 0xA5, sizeof(untouched));
	for (size_t len = 0; len < frames[_i].len; len++) {
		memcpy(&f, &untouched, sizeof(f));
		ck_assert_uint_eq(decode_exact(frames[_i].bytes, len, &window, &f), 0);
		ck_assert_mem_eq(&f, &untouched, sizeof(f));
	}
}
END_TEST

START_TEST(bytes_behind_do_not_matter)
{
	uint8_t buf[FRAME_MAX + 64];
	struct frame f;

	memset(buf, 0xFF, sizeof(buf));
	memcpy(buf, frames[_i].bytes, frames[_i].len);
	ck_assert_uint_eq(frame_decode(buf, sizeof(buf), &window, &f), frames[_i].len);
	ck_assert_int_eq(f.kind, frames[_i].kind);
}
END_TEST

/* The table's frames back to back, returned with their number of bytes. */
static size_t
stream_of_all(uint8_t *out, size_t size)
{
	size_t len = 0;

	for (size_t i = 0; i < COUNT(frames); i++) {
		ck_assert_uint_le(len + frames[i].len, size);
		memcpy(out + len, frames[i].bytes, frames[i].len);
		len += frames[i].len;
	}
	return len;
}

/* Decodes what is whole, counts it in *index and returns the bytes it took. */
static size_t
take_whole_frames(const uint8_t *bytes, size_t len, size_t *index)
{
	size_t at = 0;

	for (;;) {
		struct frame f;
		size_t n = decode_exact(bytes + at, len - at, &window, &f);

		if (n == 0)
			return at;
		ck_assert_uint_lt(*index, COUNT(frames));
		ck_assert_uint_eq(n, frames[*index].len);
		ck_assert_int_eq(f.kind, frames[*index].kind);
		(*index)++;
		at += n;
	}
}

/* A stream that arrives in two pieces, cut at every byte. */
START_TEST(every_split)
{
	uint8_t stream[COUNT(frames) * FRAME_MAX];
	size_t len = stream_of_all(stream, sizeof(stream));

	for (size_t cut = 0; cut <= len; cut++) {
		size_t index = 0;
		size_t at = take_whole_frames(stream, cut, &index);

		ck_assert_uint_lt(cut - at, FRAME_MAX);
		at += take_whole_frames(stream + at, len - at, &index);
		ck_assert_uint_eq(at, len);
		ck_assert_uint_eq(index, COUNT(frames));
	}
}
END_TEST

/* A stream that arrives in pieces of one size, from single bytes to more than a frame. */
START_TEST(pieces)
{
	uint8_t stream[COUNT(frames) * FRAME_MAX];
	size_t len = stream_of_all(stream, sizeof(stream));

	for (size_t size = 1; size <= FRAME_MAX + 1; size++) {
		size_t index = 0, at = 0;

		for (size_t have = 0; have < len;) {
			have = have + size < len ? have + size : len;
			at += take_whole_frames(stream + at, have - at, &index);
			ck_assert_uint_lt(have - at, FRAME_MAX);
		}
		ck_assert_uint_eq(at, len);
		ck_assert_uint_eq(index, COUNT(frames));
	}
}
END_TEST

START_TEST(example_of_the_description)
{
	struct frame f;

	ck_assert_uint_eq(decode_exact(BYTES(EXAMPLE), &FRAME_WINDOW_ALL, &f), 23);
	ck_assert_int_eq(f.kind, FRAME_METRIC);
	ck_assert_uint_eq(f.time_us, UINT64_C(0x188D2E9A000));
	ck_assert_uint_eq(f.name_len, 6);
	ck_assert_mem_eq(f.name, "metric", 6);
	ck_assert_double_eq_tol(f.value, 50.1239, 0.0001);
}
END_TEST

static enum frame_kind
kind_at(uint64_t time_us, const struct frame_window *w)
{
	uint8_t buf[FRAME_MAX];
	size_t len = frame_encode(buf, time_us, "m", 1, 1.0);
	struct frame f;

	ck_assert_uint_eq(decode_exact(buf, len, w, &f), len);
	return f.kind;
}

START_TEST(window_ends_are_inclusive)
{
	ck_assert_int_eq(kind_at(window.min_us, &window), FRAME_METRIC);
	ck_assert_int_eq(kind_at(window.max_us, &window), FRAME_METRIC);
	ck_assert_int_eq(kind_at(window.min_us - 1, &window), FRAME_TIMESTAMP_WINDOW);
	ck_assert_int_eq(kind_at(window.max_us + 1, &window), FRAME_TIMESTAMP_WINDOW);
	ck_assert_int_eq(kind_at(0, &window), FRAME_TIMESTAMP_WINDOW);
}
END_TEST

/* 253402300799 is `date -ud 9999-12-31T23:59:59 +%s`. */
START_TEST(year_9999_is_the_last)
{
	uint64_t last = UINT64_C(253402300799) * 1000000 + 999999;

	ck_assert_uint_eq(FRAME_TIME_MAX, last);
	ck_assert_int_eq(kind_at(0, &FRAME_WINDOW_ALL), FRAME_METRIC);
	ck_assert_int_eq(kind_at(last, &FRAME_WINDOW_ALL), FRAME_METRIC);
	ck_assert_int_eq(kind_at(last + 1, &FRAME_WINDOW_ALL), FRAME_TIMESTAMP_RANGE);
	ck_assert_int_eq(kind_at(INT64_MAX, &FRAME_WINDOW_ALL), FRAME_TIMESTAMP_RANGE);
	ck_assert_int_eq(kind_at(UINT64_MAX, &FRAME_WINDOW_ALL), FRAME_TIMESTAMP_RANGE);
}
END_TEST

/* Values in and out, the unusual ones bit for bit. */
static const struct {
	const char *bytes;
	double value;
} values[] = {
    {"\x00\x00\x00\x00\x00\x00\x00\x00", 0.0},
    {"\x80\x00\x00\x00\x00\x00\x00\x00", -0.0},
    {"\x3F\xF0\x00\x00\x00\x00\x00\x00", 1.0},
    {"\xBF\xF8\x00\x00\x00\x00\x00\x00", -1.5},
    {"\x7F\xEF\xFF\xFF\xFF\xFF\xFF\xFF", 0x1.fffffffffffffp+1023},
    {"\x00\x00\x00\x00\x00\x00\x00\x01", 0x1p-1074},
    {"\x7F\xF0\x00\x00\x00\x00\x00\x00", (double)INFINITY},
    {"\xFF\xF0\x00\x00\x00\x00\x00\x00", (double)-INFINITY},
    {"\x7F\xF8\x00\x00\x00\x00\x00\x00", (double)NAN},
};

START_TEST(values_pass_unchanged)
{
	uint8_t buf[FRAME_MAX];
	size_t len = frame_encode(buf, SOME_TIME, "m", 1, values[_i].value);
	struct frame f;

	ck_assert_mem_eq(buf + len - 8, values[_i].bytes, 8);
	ck_assert_uint_eq(decode_exact(buf, len, &FRAME_WINDOW_ALL, &f), len);
	ck_assert_int_eq(f.kind, FRAME_METRIC);
	assert_same_double(f.value, values[_i].value);
}
END_TEST

/* NaNs keep their payload and sign. */
START_TEST(nan_payload)
{
	static const char *const nans[] = {"\x7F\xF8\xDE\xAD\xBE\xEF\x00\x01",
					   "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"};

	for (size_t i = 0; i < COUNT(nans); i++) {
		uint8_t buf[FRAME_MAX], again[FRAME_MAX];
		size_t len = frame_encode(buf, SOME_TIME, "m", 1, 0);
		struct frame f;

		memcpy(buf + len - 8, nans[i], 8);
		ck_assert_uint_eq(decode_exact(buf, len, &FRAME_WINDOW_ALL, &f), len);
		ck_assert_int_eq(f.kind, FRAME_METRIC);
		ck_assert(isnan(f.value));
		frame_encode(again, f.time_us, f.name, f.name_len, f.value);
		ck_assert_mem_eq(again, buf, len);
	}
}
END_TEST

static void
assert_same_metric(const struct frame *a, const struct frame *b)
{
	ck_assert_int_eq(a->kind, FRAME_METRIC);
	ck_assert_int_eq(b->kind, FRAME_METRIC);
	ck_assert_uint_eq(a->time_us, b->time_us);
	ck_assert_uint_eq(a->name_len, b->name_len);
	ck_assert_mem_eq(a->name, b->name, a->name_len);
	assert_same_double(a->value, b->value);
}

/* Encode, decode, read, encode: for names of every length. */
START_TEST(round_trip)
{
	for (size_t name_len = 1; name_len <= FRAME_NAME_MAX; name_len++) {
		struct frame in = {.time_us = SOME_TIME + name_len,
				   .name = LONGEST_NAME,
				   .name_len = (uint8_t)name_len,
				   .value = -0.1 * (double)name_len};
		uint8_t buf[FRAME_MAX + 1], again[FRAME_MAX];
		struct frame decoded, read;
		size_t len;

		memset(buf, 0xEE, sizeof(buf));
		len = frame_encode(buf, in.time_us, in.name, name_len, in.value);
		ck_assert_uint_eq(len, FRAME_FIXED + name_len);
		ck_assert_uint_eq(buf[len], 0xEE);

		ck_assert_uint_eq(decode_exact(buf, len, &FRAME_WINDOW_ALL, &decoded), len);
		assert_same_metric(&decoded, &in);
		ck_assert_uint_eq(frame_read(buf, &read), len);
		assert_same_metric(&read, &in);
		ck_assert_uint_eq(
		    frame_encode(again, read.time_us, read.name, read.name_len, read.value), len);
		ck_assert_mem_eq(again, buf, len);
	}
}
END_TEST

START_TEST(encoded_bytes)
{
	uint8_t buf[FRAME_MAX];

	ck_assert_uint_eq(frame_encode(buf, SOME_TIME, "metric", 6, SOME_VALUE), 23);
	ck_assert_mem_eq(buf, SOME_TIME_BYTES "\x06metric" SOME_VALUE_BYTES, 23);
}
END_TEST

START_TEST(encoded_sync)
{
	uint8_t buf[FRAME_FIXED];
	struct frame f;

	ck_assert_uint_eq(frame_encode_sync(buf, UINT64_C(0x0102030405060708), 1), FRAME_FIXED);
	ck_assert_mem_eq(buf, "\x01\x02\x03\x04\x05\x06\x07\x08\x00MCSYNC\x00\x01", FRAME_FIXED);
	ck_assert_uint_eq(frame_encode_sync(buf, UINT64_MAX, 2), FRAME_FIXED);
	ck_assert_uint_eq(decode_exact(buf, sizeof(buf), &window, &f), FRAME_FIXED);
	ck_assert_int_eq(f.kind, FRAME_SYNC);
	ck_assert_uint_eq(f.time_us, UINT64_MAX);
	ck_assert_uint_eq(f.sync_level, 2);
}
END_TEST

START_TEST(encoded_answer)
{
	uint8_t buf[FRAME_ANSWER_SIZE];

	memset(buf, 0xEE, sizeof(buf));
	frame_encode_answer(buf, UINT64_C(0x0102030405060708), UINT64_C(0xA1A2A3A4A5A6A7A8));
	ck_assert_mem_eq(buf,
			 "\x01\x02\x03\x04\x05\x06\x07\x08\x00"
			 "\xA1\xA2\xA3\xA4\xA5\xA6\xA7\xA8",
			 sizeof(buf));
}
END_TEST

/* Logs and dashboards know these words: DESIGN's, letter for letter. */
START_TEST(kind_names)
{
	ck_assert_str_eq(frame_kind_name(FRAME_METRIC), "metric");
	ck_assert_str_eq(frame_kind_name(FRAME_SYNC), "sync");
	ck_assert_str_eq(frame_kind_name(FRAME_EMPTY_NAME), "empty_name");
	ck_assert_str_eq(frame_kind_name(FRAME_INVALID_UTF8), "invalid_utf8");
	ck_assert_str_eq(frame_kind_name(FRAME_CONTROL_BYTE), "control_byte");
	ck_assert_str_eq(frame_kind_name(FRAME_TIMESTAMP_RANGE), "timestamp_range");
	ck_assert_str_eq(frame_kind_name(FRAME_TIMESTAMP_WINDOW), "timestamp_window");
}
END_TEST

/* ---- units ---- */

static const struct {
	uint64_t time_us;
	const char *unit;
} units[] = {
    {SOME_TIME, NULL},
    {SOME_TIME - UINT64_C(3000) * 86400 * 1000000, NULL},
    {SOME_TIME / 1000000, "seconds"},
    {SOME_TIME / 1000, "milliseconds"},
    {SOME_TIME / 1000 + 12345, "milliseconds"},
    {SOME_TIME * 1000, "nanoseconds"},
    {0, NULL},
    {1, NULL},
    {FRAME_TIME_MAX, NULL},
    {UINT64_MAX, NULL},
};

START_TEST(unit_is_recognised)
{
	ck_assert_pstr_eq(frame_time_unit(units[_i].time_us, SOME_TIME), units[_i].unit);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("frame");
	TCase *tc = tcase_create("frame");
	SRunner *sr = srunner_create(s);
	int failed;

	suite_add_tcase(s, tc);
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, table, 0, (int)COUNT(frames));
	tcase_add_loop_test(tc, every_prefix_wants_more, 0, (int)COUNT(frames));
	tcase_add_loop_test(tc, bytes_behind_do_not_matter, 0, (int)COUNT(frames));
	tcase_add_test(tc, every_split);
	tcase_add_test(tc, pieces);
	tcase_add_test(tc, example_of_the_description);
	tcase_add_test(tc, window_ends_are_inclusive);
	tcase_add_test(tc, year_9999_is_the_last);
	tcase_add_loop_test(tc, values_pass_unchanged, 0, (int)COUNT(values));
	tcase_add_test(tc, nan_payload);
	tcase_add_test(tc, round_trip);
	tcase_add_test(tc, encoded_bytes);
	tcase_add_test(tc, encoded_sync);
	tcase_add_test(tc, encoded_answer);
	tcase_add_test(tc, kind_names);
	tcase_add_loop_test(tc, unit_is_recognised, 0, (int)COUNT(units));

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
