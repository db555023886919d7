/*
 * divide.h - a batch that is too large for the server, in parts.
 *
 * A batch that touches thousands of chunks may need more locks than the server has; they are held
 * until the end of the transaction, so halves must be transactions of their own.  The rows are put
 * in the order of their times, so that a part touches few chunks.  That order is the same whenever
 * the batch is the same: a number of rows says how far an earlier try came.
 *
 * Pure functions over bytes.
 */
#pragma once

#include "buffer/batch.h"

struct divide {
	const struct batch_view *whole; /* borrowed */
	uint8_t *frames;                /* by time */
	size_t at;                      /* bytes of the rows that are done */
	uint64_t done;
};

/* done rows were stored before.  Returns 0 or -ENOMEM. */
int divide_init(struct divide *d, const struct batch_view *whole, uint64_t done);
void divide_done(struct divide *d);

/* The next rows; at least one, and at most as many as there are. */
void divide_part(const struct divide *d, uint64_t rows, struct batch_view *ret);

/* That part is stored. */
void divide_advance(struct divide *d, const struct batch_view *part);
