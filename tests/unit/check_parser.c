/* check_parser.c - streams, and the steps that they ask for. */
#include "wire/parser.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

#define STREAM_MAX 16 /* frames */
#define BYTES_MAX ((size_t)STREAM_MAX * FRAME_MAX)

static const struct frame_window window = {1000, 2000};
static const struct parser_room unlimited = {UINT64_MAX, SIZE_MAX};

/*
 * A letter is a frame:
 *
 *	m  metric; number i of the stream is at 1000 + i, and its name has i + 1 bytes
 *	L  metric with the longest name
 *	1 2  question of that level
 *	e u c r w  refused: empty name, UTF-8, control byte, range, window
 *
 * and the steps are: the number of metrics, or the letter itself; "." wants more bytes.
 */
static const struct {
	const char *stream;
	const char *steps;
} streams[] = {
    {"", "."},
    {"m", "1 ."},
    {"mmm", "3 ."},
    {"1", "1? ."},
    {"12", "1? 2? ."},
    {"m1m", "1 1? 1 ."},
    {"mm2mmm1", "2 2? 3 1? ."},
    {"e", "e ."},
    {"mem", "1 e 1 ."},
    {"eucrw", "e u c r w ."},
    {"mmumm", "2 u 2 ."},
    {"mcmrmwm", "1 c 1 r 1 w 1 ."},
    {"w1e2", "w 1? e 2? ."},
    {"LmL", "3 ."},
    {"LwL1", "1 w 1 1? ."},
    {"mmmmmmmmmmmmmmm", "15 ."},
};

static size_t
add_frame(uint8_t *out, char letter, unsigned i)
{
	char name[FRAME_NAME_MAX];

	memset(name, 'n', sizeof(name));
	switch (letter) {
	case 'm':
		return frame_encode(out, 1000 + i, name, i + 1, i);
	case 'L':
		return frame_encode(out, 1000 + i, name, FRAME_NAME_MAX, i);
	case '1':
	case '2':
		return frame_encode_sync(out, i, (uint8_t)(letter - '0'));
	case 'e':
		memset(out, 0, FRAME_FIXED);
		return FRAME_FIXED;
	case 'u':
		return frame_encode(out, 1000, "\xff", 1, i);
	case 'c':
		return frame_encode(out, 1000, "a\nb", 3, i);
	case 'r':
		return frame_encode(out, FRAME_TIME_MAX + 1, "a", 1, i);
	case 'w':
		return frame_encode(out, 999, "a", 1, i);
	}
	ck_abort_msg("no frame is called %c", letter);
	return 0;
}

static size_t
make_stream(const char *letters, uint8_t out[BYTES_MAX])
{
	size_t len = 0;

	ck_assert_uint_le(strlen(letters), STREAM_MAX);
	for (unsigned i = 0; letters[i]; i++)
		len += add_frame(out + len, letters[i], i);
	return len;
}

static char
refusal_letter(enum frame_kind kind)
{
	switch (kind) {
	case FRAME_EMPTY_NAME:
		return 'e';
	case FRAME_INVALID_UTF8:
		return 'u';
	case FRAME_CONTROL_BYTE:
		return 'c';
	case FRAME_TIMESTAMP_RANGE:
		return 'r';
	case FRAME_TIMESTAMP_WINDOW:
		return 'w';
	case FRAME_METRIC:
	case FRAME_SYNC:
		break;
	}
	return '!';
}

/* A step as text; what must hold for each is checked on the way. */
static size_t
describe(enum parser_kind kind, const struct parser_step *step, const uint8_t *buf,
	 char out[STREAM_MAX])
{
	switch (kind) {
	case PARSER_MORE:
		ck_assert_uint_eq(step->used, 0);
		return (size_t)sprintf(out, ".");
	case PARSER_METRICS:
		ck_assert_ptr_eq(step->frames, buf);
		ck_assert_uint_eq(step->len, step->used);
		return (size_t)sprintf(out, "%u ", (unsigned)step->rows);
	case PARSER_QUESTION:
		ck_assert_uint_eq(step->used, FRAME_FIXED);
		return (size_t)sprintf(out, "%u? ", (unsigned)step->frame.sync_level);
	case PARSER_REFUSED:
		ck_assert_uint_eq(step->used, frame_size_at(buf));
		return (size_t)sprintf(out, "%c ", refusal_letter(step->frame.kind));
	}
	return 0;
}

/* The steps of these bytes, in memory that ends where they end: ASan sees an overread. */
static size_t
steps_of(const uint8_t *bytes, size_t len, char text[8 * STREAM_MAX])
{
	uint8_t *copy = malloc(len + !len);
	enum parser_kind kind;
	size_t done = 0;

	memcpy(copy, bytes, len);
	do {
		struct parser_step step;

		kind = parser_next(copy + done, len - done, &window, &unlimited, &step);
		text += describe(kind, &step, copy + done, text);
		done += step.used;
	} while (kind != PARSER_MORE);
	free(copy);
	return done;
}

/* What a stream of metrics, questions and refused frames comes to, however it is cut. */
struct sums {
	uint64_t rows, questions, refused;
	uint64_t min_us, max_us;
	size_t metric_bytes;
};

static size_t
sum_up(const uint8_t *bytes, size_t len, const struct parser_room *room, struct sums *sums)
{
	size_t done = 0;

	for (;;) {
		struct parser_step step;

		switch (parser_next(bytes + done, len - done, &window, room, &step)) {
		case PARSER_MORE:
			return done;
		case PARSER_METRICS:
			ck_assert_uint_le(step.rows, room->rows);
			ck_assert_uint_le(step.len, room->bytes);
			sums->rows += step.rows;
			sums->metric_bytes += step.len;
			if (step.min_us < sums->min_us)
				sums->min_us = step.min_us;
			if (step.max_us > sums->max_us)
				sums->max_us = step.max_us;
			break;
		case PARSER_QUESTION:
			sums->questions++;
			break;
		case PARSER_REFUSED:
			sums->refused++;
			break;
		}
		done += step.used;
	}
}

START_TEST(table)
{
	uint8_t bytes[BYTES_MAX];
	size_t len = make_stream(streams[_i].stream, bytes);
	char text[8 * STREAM_MAX];

	ck_assert_uint_eq(steps_of(bytes, len, text), len);
	ck_assert_str_eq(text, streams[_i].steps);
}
END_TEST

/* A prefix gives the steps of the frames that are whole in it. */
START_TEST(every_prefix)
{
	const char *stream = streams[_i].stream;
	uint8_t bytes[BYTES_MAX];
	size_t len = make_stream(stream, bytes);
	size_t whole = 0, n = 0;
	char begun[STREAM_MAX + 1] = "";

	for (size_t cut = 0; cut <= len; cut++) {
		uint8_t again[BYTES_MAX];
		char text[8 * STREAM_MAX], expected[8 * STREAM_MAX];

		if (stream[n] && cut - whole == add_frame(again, stream[n], (unsigned)n)) {
			begun[n] = stream[n];
			n++;
			whole = cut;
		}
		ck_assert_uint_eq(steps_of(bytes, cut, text), whole);
		ck_assert_uint_eq(make_stream(begun, again), whole);
		(void)steps_of(again, whole, expected);
		ck_assert_str_eq(text, expected);
	}
	ck_assert_str_eq(begun, stream);
}
END_TEST

START_TEST(every_split)
{
	uint8_t bytes[BYTES_MAX];
	size_t len = make_stream(streams[_i].stream, bytes);
	struct sums all = {.min_us = UINT64_MAX};

	ck_assert_uint_eq(sum_up(bytes, len, &unlimited, &all), len);
	for (size_t cut = 0; cut <= len; cut++) {
		struct sums parts = {.min_us = UINT64_MAX};
		size_t done = sum_up(bytes, cut, &unlimited, &parts);

		ck_assert_uint_eq(sum_up(bytes + done, len - done, &unlimited, &parts), len - done);
		ck_assert_mem_eq(&parts, &all, sizeof(all));
	}
}
END_TEST

START_TEST(room_cuts_stretches)
{
	uint8_t bytes[BYTES_MAX];
	size_t len = make_stream(streams[_i].stream, bytes);
	struct sums all = {.min_us = UINT64_MAX};

	(void)sum_up(bytes, len, &unlimited, &all);
	for (uint64_t rows = 1; rows < STREAM_MAX; rows++)
		for (size_t more = 0; more < FRAME_MAX; more += 16) {
			struct parser_room room = {rows, FRAME_MAX + more};
			struct sums cut = {.min_us = UINT64_MAX};

			ck_assert_uint_eq(sum_up(bytes, len, &room, &cut), len);
			ck_assert_mem_eq(&cut, &all, sizeof(all));
		}
}
END_TEST

/* As much as there is room for, to the byte, and no less. */
START_TEST(room_is_used)
{
	uint8_t bytes[BYTES_MAX];
	size_t len = make_stream("LLLL", bytes);
	struct parser_step step;
	const struct {
		struct parser_room room;
		uint64_t rows;
	} rooms[] = {
	    {{1, SIZE_MAX}, 1},          {{3, SIZE_MAX}, 3},          {{4, SIZE_MAX}, 4},
	    {{9, FRAME_MAX}, 1},         {{9, 2 * FRAME_MAX - 1}, 1}, {{9, 2 * FRAME_MAX}, 2},
	    {{9, 4 * FRAME_MAX - 1}, 3}, {{9, 4 * FRAME_MAX}, 4},     {{2, 4 * FRAME_MAX}, 2},
	};

	for (size_t i = 0; i < COUNT(rooms); i++) {
		ck_assert_int_eq(parser_next(bytes, len, &window, &rooms[i].room, &step),
				 PARSER_METRICS);
		ck_assert_uint_eq(step.rows, rooms[i].rows);
		ck_assert_uint_eq(step.used, rooms[i].rows * FRAME_MAX);
	}
}
END_TEST

START_TEST(times_of_a_stretch)
{
	static const uint64_t times[] = {1500, 1200, 1900, 1000, 1300};
	uint8_t bytes[BYTES_MAX];
	struct parser_step step;
	size_t len = 0;

	for (size_t i = 0; i < COUNT(times); i++)
		len += frame_encode(bytes + len, times[i], "a", 1, 0);
	ck_assert_int_eq(parser_next(bytes, len, &window, &unlimited, &step), PARSER_METRICS);
	ck_assert_uint_eq(step.min_us, 1000);
	ck_assert_uint_eq(step.max_us, 1900);
	ck_assert_int_eq(parser_next(bytes, FRAME_FIXED + 1, &window, &unlimited, &step),
			 PARSER_METRICS);
	ck_assert_uint_eq(step.min_us, 1500);
	ck_assert_uint_eq(step.max_us, 1500);
}
END_TEST

START_TEST(questions_and_refusals_bring_their_frame)
{
	uint8_t bytes[BYTES_MAX];
	size_t len = frame_encode_sync(bytes, 77, 2);
	struct parser_step step;

	ck_assert_int_eq(parser_next(bytes, len, &window, &unlimited, &step), PARSER_QUESTION);
	ck_assert_uint_eq(step.frame.time_us, 77);
	ck_assert_uint_eq(step.frame.sync_level, 2);

	len = frame_encode(bytes, 2001, "late", 4, 1.5);
	ck_assert_int_eq(parser_next(bytes, len, &window, &unlimited, &step), PARSER_REFUSED);
	ck_assert_int_eq(step.frame.kind, FRAME_TIMESTAMP_WINDOW);
	ck_assert_uint_eq(step.frame.time_us, 2001);
	ck_assert_uint_eq(step.frame.name_len, 4);
	ck_assert_mem_eq(step.frame.name, "late", 4);
}
END_TEST

static Suite *
suite(void)
{
	Suite *s = suite_create("parser");
	TCase *tc = tcase_create("parser");

	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, table, 0, (int)COUNT(streams));
	tcase_add_loop_test(tc, every_prefix, 0, (int)COUNT(streams));
	tcase_add_loop_test(tc, every_split, 0, (int)COUNT(streams));
	tcase_add_loop_test(tc, room_cuts_stretches, 0, (int)COUNT(streams));
	tcase_add_test(tc, room_is_used);
	tcase_add_test(tc, times_of_a_stretch);
	tcase_add_test(tc, questions_and_refusals_bring_their_frame);
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
