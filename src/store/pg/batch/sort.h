/*
 * sort.h - the order of rows that suits a database: by metric, each metric's by time.
 *
 * Rows that come one after the other then fall into the same leaf of an index on
 * (metric_name, time), and into the same segment of a columnstore.  Names are compared
 * bytewise, which is COLLATE "C"; in another collation the rows of a metric stand together all
 * the same, and that is what counts.
 *
 *	frames ─> intern names ─> rank the distinct ones ─> counting sort by rank
 *	       ─> sort the times of each metric
 *
 * No step is worse than O(n log n), whatever the names and times: they come from peers.  The names'
 * hash is seeded at random; where names collide all the same, the rows are sorted by the names
 * themselves.  Equal times of a metric keep the order in which they came.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* A row of a batch. */
struct sort_row {
	uint64_t key;    /* its time, µs since 1970 */
	uint32_t offset; /* of its frame */
	uint32_t name;   /* rows of the same metric have the same number here */
};

/*
 * A larger batch is better stored as it came: sorting takes 32 bytes a row, a hundred where all
 * names differ.
 */
#define SORT_ROWS_MAX ((size_t)1 << 20)

/* A workspace, used by one thread; it grows with the largest batch, and shrinks after it. */
struct sort {
	struct sort_row *rows, *spare;
	size_t capacity; /* of each */
	struct sort_name *names;
	size_t names_capacity;
	struct sort_slot *slots;
	size_t slots_capacity;
	uint64_t seed[2];
	unsigned probes; /* steps a row that the hash table may take on average; tests lower it */
};

/* What came of it: valid until the next call. */
struct sort_order {
	struct sort_row *rows; /* in order; the caller may take some out */
	size_t n;
	size_t names; /* distinct ones */
};

void sort_init(struct sort *s);
void sort_done(struct sort *s); /* a zeroed one is fine */

/*
 * Orders the frames, of which there are n.  Returns 0; -EFBIG (SORT_ROWS_MAX, or 4 GiB);
 * -EINVAL when there are not n frames; -ENOMEM.
 */
int sort_frames(struct sort *s, const uint8_t *frames, size_t len, size_t n,
		struct sort_order *ret);

/* Turns the times of each metric round: newest first. */
void sort_newest_first(struct sort_order *o);
