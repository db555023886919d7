#include "store/copy.h"

#include <string.h>

#include "wire/bytes.h"
#include "wire/frame.h"

/* PostgreSQL counts microseconds from 2000-01-01. */
#define EPOCH_US UINT64_C(946684800000000)

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
	*c = (struct copy){.p = frames, .end = frames + len, .stage = HEADER};
}

void
copy_init_order(struct copy *c, const uint8_t *frames, const struct sort_row *rows, size_t n)
{
	*c = (struct copy){.p = frames, .row = rows, .row_end = rows + n, .stage = HEADER};
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
	if (c->row)
		c->row++;
	else
		c->p += frame_size_at(c->p);
}

/* Writes the row of the frame at p; returns its size. */
static size_t
put_row(uint8_t *out, const uint8_t *p)
{
	const uint8_t name_len = p[8];
	const uint8_t *name = p + 9;
	uint8_t *o = out;

	be16_store(o, 3);
	o += 2;
	be32_store(o, TIME_SIZE);
	o += 4;
	be64_store(o, be64_load(p) - EPOCH_US); /* wraps: two's complement before 2000 */
	o += TIME_SIZE;
	be32_store(o, name_len);
	o += 4;
	memcpy(o, name, name_len);
	o += name_len;
	be32_store(o, VALUE_SIZE);
	o += 4;
	memcpy(o, name + name_len, VALUE_SIZE); /* float8 travels as on our wire */
	o += VALUE_SIZE;
	return (size_t)(o - out);
}

size_t
copy_fill(struct copy *c, uint8_t *buf, size_t size)
{
	const uint8_t *frame = current(c);
	size_t used = 0;

	if (c->stage == HEADER) {
		memcpy(buf, header, sizeof(header));
		used = sizeof(header);
		c->stage = ROWS;
	}
	while (c->stage == ROWS && frame && size - used >= ROW_FIXED + (size_t)frame[8]) {
		used += put_row(buf + used, frame);
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
