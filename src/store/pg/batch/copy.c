#include "store/pg/batch/copy.h"

#include <string.h>

#include "wire/bytes.h"
#include "wire/frame.h"

/* Frames in order lie anywhere in a batch that is larger than the cache. */
#define PREFETCH_ROWS 8

#define FIELDS 3
#define TIME_SIZE 8
#define VALUE_SIZE 8
#define ROW_FIXED (COPY_ROW_MAX - FRAME_NAME_MAX)

enum stage { HEADER, ROWS, TRAILER, DONE };

/* Signature, then flags and the length of the header's extension, both 0. */
static const uint8_t header[19] = "PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0";
/* A row of -1 fields. */
static const uint8_t trailer[2] = {0xFF, 0xFF};

void
copy_init(struct copy *c, const uint8_t *frames, size_t len)
{
	*c = (struct copy){.p = frames, .end = frames + len, .fields = FIELDS, .stage = HEADER};
}

void
copy_init_order(struct copy *c, const uint8_t *frames, const struct sort_row *rows, size_t n)
{
	*c = (struct copy){
	    .p = frames, .row = rows, .row_end = rows + n, .fields = FIELDS, .stage = HEADER};
}

/* The frame whose turn it is; NULL behind the last. */
static const uint8_t *
current(const struct copy *c)
{
	if (c->row)
		return c->row < c->row_end ? c->p + c->row->offset : NULL;
	return c->p < c->end ? c->p : NULL;
}

static void
advance(struct copy *c)
{
	if (!c->row) {
		c->p += frame_size_at(c->p);
		return;
	}
	c->row++;
	if (c->row_end - c->row > PREFETCH_ROWS)
		__builtin_prefetch(c->p + c->row[PREFETCH_ROWS].offset);
}

void
copy_set_tail(struct copy *c, const uint8_t *tail, size_t len, uint16_t fields)
{
	c->tail = tail;
	c->tail_len = len;
	c->fields = (uint16_t)(FIELDS + fields);
}

bool
copy_begun(const struct copy *c)
{
	return c->stage != HEADER;
}

size_t
copy_put_field(uint8_t *out, const void *value, uint32_t len)
{
	be32_store(out, len);
	memcpy(out + 4, value, len);
	return 4 + (size_t)len;
}

/* Writes the row of the frame at p; returns its size. */
static size_t
put_row(const struct copy *c, uint8_t *out, const uint8_t *p)
{
	uint8_t *o = out;

	be16_store(o, c->fields);
	o += 2;
	be32_store(o, TIME_SIZE);
	o += 4;
	be64_store(o, copy_time(be64_load(p)));
	o += TIME_SIZE;
	o += copy_put_field(o, frame_name_at(p), (uint32_t)frame_name_len_at(p));
	o += copy_put_field(o, frame_value_at(p), VALUE_SIZE); /* float8 travels as on our wire */
	if (c->tail_len) {
		memcpy(o, c->tail, c->tail_len);
		o += c->tail_len;
	}
	return (size_t)(o - out);
}

size_t
copy_fill(struct copy *c, uint8_t *buf, size_t size)
{
	const uint8_t *frame = current(c);
	size_t rest = ROW_FIXED + c->tail_len;
	size_t used = 0;

	if (c->stage == HEADER) {
		memcpy(buf, header, sizeof(header));
		used = sizeof(header);
		c->stage = ROWS;
	}
	while (c->stage == ROWS && frame && size - used >= rest + frame_name_len_at(frame)) {
		used += put_row(c, buf + used, frame);
		advance(c);
		frame = current(c);
	}
	if (c->stage == ROWS && !frame)
		c->stage = TRAILER;
	if (c->stage == TRAILER && size - used >= sizeof(trailer)) {
		memcpy(buf + used, trailer, sizeof(trailer));
		used += sizeof(trailer);
		c->stage = DONE;
	}
	return used;
}
