/*
 * copy.h - PostgreSQL's binary COPY format (documentation of COPY, "Binary Format").
 *
 * Turns frames into the rows of COPY metrics (time, metric_name, value), a piece at a time, so that
 * a batch is never held twice in memory.  For other tables, fields that are the same in each row
 * may follow.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer/batch.h"
#include "store/pg/batch/sort.h"

/* One row at the most: field count, and three fields with their lengths. */
#define COPY_ROW_MAX (2 + 4 + 8 + 4 + 255 + 4 + 8)

/*
 * A timestamptz as it travels: PostgreSQL counts microseconds from 2000-01-01.  Before that it
 * wraps, which is two's complement.
 */
static inline uint64_t
copy_time(uint64_t us)
{
	return us - UINT64_C(946684800000000);
}

/* A walk over the frames of a batch, or a part of them; what it walks over is borrowed. */
struct copy {
	const uint8_t *p;               /* the next frame, or, in a given order, all of them */
	const uint8_t *end;             /* behind the last */
	const struct sort_row *row;     /* the next in a given order; NULL: as they stand */
	const struct sort_row *row_end; /* behind the last */
	const uint8_t *tail;            /* what each row ends with: whole fields */
	size_t tail_len;
	uint16_t fields; /* of a row */
	int stage;       /* header, rows, trailer */
};

void copy_init(struct copy *c, const uint8_t *frames, size_t len);

/* In the order that sort_frames() gave, or a part of it. */
void copy_init_order(struct copy *c, const uint8_t *frames, const struct sort_row *rows, size_t n);

/* Ends each row with that many more fields, encoded by copy_put_field(); tail is borrowed. */
void copy_set_tail(struct copy *c, const uint8_t *tail, size_t len, uint16_t fields);

/* Writes a field, which takes four bytes more than its value; returns what it took. */
size_t copy_put_field(uint8_t *out, const void *value, uint32_t len);

/* Has anything been asked for? */
bool copy_begun(const struct copy *c);

/*
 * Fills buf with as much as fits, whole rows only; returns the bytes written, 0 once the
 * trailer has been given.  size is at least COPY_ROW_MAX + 32, and
 * what copy_set_tail() added.
 */
size_t copy_fill(struct copy *c, uint8_t *buf, size_t size);
