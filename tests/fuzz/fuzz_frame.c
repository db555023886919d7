/*
 * fuzz_frame.c - the input is a stream as a sender would send it (a corpus
 * file can be replayed with nc).  Frame by frame it must decode to what
 * parser_next() makes of it in pieces, whose sizes are the input's bytes read
 * backwards: bytes added at the end cut the stream anew.  The same bytes say
 * how much room there is for a stretch of metrics.
 */
#include "fuzz.h"

#include <string.h>

#include "wire/frame.h"
#include "wire/parser.h"

/* Around the seeds' timestamps, so that both sides of it are near. */
static const struct frame_window window = {UINT64_C(1500000000000000), UINT64_C(2000000000000000)};

static void
check_same(const struct frame *a, const struct frame *b)
{
	FUZZ_CHECK(a->kind == b->kind);
	FUZZ_CHECK(a->time_us == b->time_us);
	FUZZ_CHECK(a->name_len == b->name_len);
	FUZZ_CHECK(memcmp(a->name, b->name, a->name_len) == 0);
	if (a->kind == FRAME_SYNC)
		FUZZ_CHECK(a->sync_level == b->sync_level);
	else
		FUZZ_CHECK(memcmp(&a->value, &b->value, sizeof(a->value)) == 0);
}

/* Every frame gives its own bytes when it is encoded again, the refused ones too. */
static void
check_encodes(const uint8_t *bytes, size_t size, const struct frame *f)
{
	uint8_t again[FRAME_MAX];
	size_t len;

	if (f->kind == FRAME_EMPTY_NAME)
		return; /* no function writes one */
	if (f->kind == FRAME_SYNC)
		len = frame_encode_sync(again, f->time_us, f->sync_level);
	else
		len = frame_encode(again, f->time_us, f->name, f->name_len, f->value);
	FUZZ_CHECK(len == size);
	FUZZ_CHECK(memcmp(again, bytes, len) == 0);
}

static void
check_metric(const uint8_t *bytes, size_t size, const struct frame *f)
{
	struct frame read;

	FUZZ_CHECK(frame_read(bytes, &read) == size);
	check_same(&read, f);
	FUZZ_CHECK(f->time_us <= FRAME_TIME_MAX);
	FUZZ_CHECK(f->name_len > 0);
	for (size_t i = 0; i < f->name_len; i++)
		FUZZ_CHECK((uint8_t)f->name[i] >= 0x20);
}

/* The window changes nothing but the verdict on metrics outside of it. */
static void
check_window(const uint8_t *bytes, size_t size, const struct frame *f)
{
	struct frame expected = *f, windowed;

	if (f->kind == FRAME_METRIC && (f->time_us < window.min_us || f->time_us > window.max_us))
		expected.kind = FRAME_TIMESTAMP_WINDOW;
	FUZZ_CHECK(frame_decode(bytes, size, &window, &windowed) == size);
	check_same(&windowed, &expected);
}

/* The frame at *at of the whole stream; what its pieces gave must equal it. */
static void
check_frame(const uint8_t *data, size_t size, size_t *at, const struct frame *from_pieces)
{
	const uint8_t *bytes = data + *at;
	struct frame f;
	size_t n = frame_decode(bytes, size - *at, &FRAME_WINDOW_ALL, &f);

	FUZZ_CHECK(n >= FRAME_FIXED && n <= FRAME_MAX);
	FUZZ_CHECK(n == frame_size_at(bytes));
	FUZZ_CHECK(f.name == (const char *)bytes + 9);
	check_same(&f, from_pieces);
	check_encodes(bytes, n, &f);
	check_window(bytes, n, &f);
	if (f.kind == FRAME_METRIC)
		check_metric(bytes, n, &f);
	*at += n;
}

/* Appends bytes to the unfinished tail, in memory that ends where they end. */
static uint8_t *
append(uint8_t *tail, size_t tail_len, const uint8_t *bytes, size_t len)
{
	uint8_t *grown = realloc(tail, tail_len + len);

	FUZZ_CHECK(grown != NULL);
	memcpy(grown + tail_len, bytes, len);
	return grown;
}

/* A stretch holds metrics only, and as many as it could. */
static void
check_stretch(const struct parser_step *step, const uint8_t *behind, size_t len,
	      const struct parser_room *room)
{
	uint64_t rows = 0, min_us = UINT64_MAX, max_us = 0;
	size_t done = 0, size;
	struct frame f;

	for (; done < step->len; done += size, rows++) {
		size = frame_decode(step->frames + done, step->len - done, &FRAME_WINDOW_ALL, &f);
		FUZZ_CHECK(size > 0 && f.kind == FRAME_METRIC);
		min_us = f.time_us < min_us ? f.time_us : min_us;
		max_us = f.time_us > max_us ? f.time_us : max_us;
	}
	FUZZ_CHECK(done == step->len && rows == step->rows && rows > 0);
	FUZZ_CHECK(min_us == step->min_us && max_us == step->max_us);
	FUZZ_CHECK(rows <= room->rows && step->len <= room->bytes);
	if (rows == room->rows)
		return;
	size = frame_decode(behind, len, &FRAME_WINDOW_ALL, &f);
	FUZZ_CHECK(size == 0 || f.kind != FRAME_METRIC || step->len + size > room->bytes);
}

static void
check_stretch_frames(const struct parser_step *step, const uint8_t *data, size_t size, size_t *at)
{
	struct frame f;

	for (size_t done = 0; done < step->len;) {
		done += frame_read(step->frames + done, &f);
		check_frame(data, size, at, &f);
	}
}

/* Parses and compares what is whole in buf; returns the bytes that it took. */
static size_t
take_whole_frames(const uint8_t *buf, size_t len, const uint8_t *data, size_t size, size_t *at)
{
	const struct parser_room room = {1 + data[*at % size] % 8,
					 FRAME_MAX + (size_t)data[size - 1 - *at % size]};
	size_t done = 0;

	for (;;) {
		struct parser_step step;

		switch (parser_next(buf + done, len - done, &FRAME_WINDOW_ALL, &room, &step)) {
		case PARSER_MORE:
			FUZZ_CHECK(step.used == 0);
			return done;
		case PARSER_METRICS:
			FUZZ_CHECK(step.frames == buf + done && step.len == step.used);
			check_stretch(&step, buf + done + step.used, len - done - step.used, &room);
			check_stretch_frames(&step, data, size, at);
			break;
		case PARSER_QUESTION:
			FUZZ_CHECK(step.frame.kind == FRAME_SYNC);
			check_frame(data, size, at, &step.frame);
			break;
		case PARSER_REFUSED:
			FUZZ_CHECK(step.frame.kind != FRAME_SYNC);
			FUZZ_CHECK(step.frame.kind != FRAME_METRIC);
			check_frame(data, size, at, &step.frame);
			break;
		}
		done += step.used;
		FUZZ_CHECK(done <= len);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t at = 0, fed = 0, tail_len = 0;
	uint8_t *tail = NULL;
	struct frame f;

	for (size_t piece = 0; fed < size; piece++) {
		size_t len = 1 + (size_t)data[size - 1 - piece % size];
		size_t done;

		if (len > size - fed)
			len = size - fed;
		tail = append(tail, tail_len, data + fed, len);
		tail_len += len;
		fed += len;
		done = take_whole_frames(tail, tail_len, data, size, &at);
		tail_len -= done;
		memmove(tail, tail + done, tail_len);
		FUZZ_CHECK(tail_len < FRAME_MAX);
		FUZZ_CHECK(at + tail_len == fed);
	}
	if (size > 0) /* nothing whole is left behind */
		FUZZ_CHECK(frame_decode(data + at, size - at, &FRAME_WINDOW_ALL, &f) == 0);
	free(tail);
	return 0;
}
