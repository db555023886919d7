/*
 * chunk_guard.h - which rows of a batch would create too many chunks.
 *
 * A hypertable makes a chunk, which is a table with indexes, for each interval of time that a row
 * falls into; so do partitions.  Senders with a clock or a unit gone wrong would scatter theirs
 * over centuries.  Rows for chunks that exist are always kept, then those for the new chunks
 * nearest to the present, up to a number of them.
 *
 * Pure functions over the batch's times and the ranges that exist.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A chunk that exists: µs since 1970, the end not included. */
struct chunk_range {
	uint64_t start_us;
	uint64_t end_us;
};

struct chunk_limits {
	uint64_t interval_us; /* new chunks begin at its multiples since 1970 */
	size_t max_new;
	uint64_t now_us;                  /* by the server's clock */
	const struct chunk_range *ranges; /* by start, none overlaps another; borrowed */
	size_t n_ranges;
};

/* A chunk that the batch would create. */
struct chunk_new {
	uint64_t number;   /* start / interval */
	size_t gap;        /* ranges before it: one of another interval may cut it in two */
	uint64_t distance; /* from the present, in intervals */
};

struct chunk_guard {
	struct chunk_limits limits;
	struct chunk_new *news; /* those that are kept, by number and gap */
	size_t n_kept;
	size_t n_new; /* that the batch asks for */
};

/* Can rows between two instants ask for more than max_new chunks at all?  Costs nothing. */
bool chunk_guard_concerns(const struct chunk_limits *limits, uint64_t min_us, uint64_t max_us);

/*
 * Looks at all frames.  Everything is kept unless n_new is greater than max_new.  The memory that
 * it takes is bounded by the batch's.  Returns 0 or -ENOMEM.
 */
int chunk_guard_init(struct chunk_guard *g, const struct chunk_limits *limits,
		     const uint8_t *frames, size_t len);
void chunk_guard_done(struct chunk_guard *g); /* a zeroed one is fine */

/* Is a row of the batch kept? */
bool chunk_guard_keeps(const struct chunk_guard *g, uint64_t time_us);
