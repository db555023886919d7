/*
 * copy.h - PostgreSQL's binary COPY format (documentation of COPY, "Binary Format").
 *
 * Turns frames into the rows of COPY metrics (time, metric_name, value), a piece at a time, so that
 * a batch is never held twice in memory.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "buffer/batch.h"
#include "store/sort.h"

/* One row at the most: field count, and three fields with their lengths. */
#define COPY_ROW_MAX (2 + 4 + 8 + 4 + 255 + 4 + 8)

/* A walk over the frames of a batch, or a part of them; what it walks over is borrowed. */
struct copy {
	const uint8_t *p;               /* the next frame, or, in a given order, all of them */
	const uint8_t *end;             /* behind the last */
	const struct sort_row *row;     /* the next in a given order; NULL: as they stand */
	const struct sort_row *row_end; /* behind the last */
	int stage;                      /* header, rows, trailer */
};

void copy_init(struct copy *c, const uint8_t *frames, size_t len);

/* In the order that sort_frames() gave, or a part of it. */
void copy_init_order(struct copy *c, const uint8_t *frames, const struct sort_row *rows, size_t n);

/*
 * Fills buf with as much as fits, whole rows only; returns the bytes written, 0 once the
 * trailer has been given.  size is at least COPY_ROW_MAX + 32.
 */
size_t copy_fill(struct copy *c, uint8_t *buf, size_t size);
