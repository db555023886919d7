#include "wire/parser.h"

#include <assert.h>

/* A stretch that begins at buf with f, which is a metric of that size. */
static void
parse_stretch(const uint8_t *buf, size_t len, const struct frame_window *w,
	      const struct parser_room *room, struct frame *f, size_t size, struct parser_step *ret)
{
	uint64_t rows = 0, min_us = UINT64_MAX, max_us = 0;
	size_t done = 0;

	do {
		done += size;
		rows++;
		if (f->time_us < min_us)
			min_us = f->time_us;
		if (f->time_us > max_us)
			max_us = f->time_us;
		if (rows == room->rows)
			break;
		size = frame_decode(buf + done, len - done, w, f);
	} while (size && f->kind == FRAME_METRIC && done + size <= room->bytes);

	ret->used = done;
	ret->frames = buf;
	ret->len = done;
	ret->rows = rows;
	ret->min_us = min_us;
	ret->max_us = max_us;
}

enum parser_kind
parser_next(const uint8_t *buf, size_t len, const struct frame_window *w,
	    const struct parser_room *room, struct parser_step *ret)
{
	struct frame f;
	size_t size = frame_decode(buf, len, w, &f);

	assert(room->rows >= 1 && room->bytes >= FRAME_MAX);
	ret->used = size;
	if (!size)
		return PARSER_MORE;
	if (f.kind == FRAME_METRIC) {
		parse_stretch(buf, len, w, room, &f, size, ret);
		return PARSER_METRICS;
	}
	ret->frame = f;
	return f.kind == FRAME_SYNC ? PARSER_QUESTION : PARSER_REFUSED;
}
