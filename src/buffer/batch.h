/*
 * batch.h - a run of metrics in wire form, the unit that a store commits.
 *
 * A batch is open, then sealed, and never reopens: what was sealed is what the database gets.
 *
 *	open ──seal──> sealed ──take──> in flight ──done──> stored, freed
 *	                 ^                  │
 *	                 └──────return──────┘
 *
 * The queue owns every batch and its states (queue.h); this header is what queue, writers and
 * stores share.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer/spool/spool_file.h"

/*
 * The content of a sealed batch as stores see it; borrowed for a call.
 * (collector, number) names the batch for ever: it is the ledger's key.
 */
struct batch_view {
	const char *collector; /* UUID as text */
	uint64_t number;
	uint64_t rows;
	uint64_t min_us;
	uint64_t max_us;
	const uint8_t *data; /* frames back to back, all valid */
	size_t bytes;
	uint64_t complete_until_us; /* real time: with this batch stored, all that came before is;
				       0: unknown */
};

/* Rows that are counted together. */
struct batch_part {
	uint64_t rows;
	uint64_t min_us;
	uint64_t max_us;
};

enum batch_state { BATCH_OPEN, BATCH_SEALED, BATCH_IN_FLIGHT };

struct queue_wait;
struct spool_file;

struct batch {
	struct batch *prev, *next; /* the queue's list, by number */
	struct batch *done_next;   /* the list of completions */
	enum batch_state state;
	char collector[UUID_TEXT];
	uint64_t number;
	struct batch_part all;
	size_t bytes;
	uint8_t *data; /* NULL when the content is on disk only */
	size_t capacity;
	uint64_t not_before_ms; /* monotonic; a returned batch waits until then */
	uint64_t opened_us;     /* real time; its first frame came then, or later */

	/* loop thread */
	struct batch *memory_prev, *memory_next; /* the queue's list of those in memory */
	struct spool_file
	    *file;      /* while it grows, or while sealing it waits for a disk that is full */
	size_t written; /* bytes that stand in spool blocks */
	struct batch_part unwritten; /* what the other bytes hold */
	uint64_t start;              /* position of the first byte in the stream of all bytes */
	struct queue_wait *waits;    /* level-2 syncs that this batch holds up */

	/* under the queue's mutex */
	struct batch *wanted_prev, *wanted_next; /* the queue's list of those that are wanted */
	bool wanted;                             /* level 2 has come to wait for it */
	uint64_t earliest_us; /* neither it nor any behind it in the list was opened before then */
	bool on_disk;         /* all of it is in the spool, and sealed */
	bool removed;         /* its writer has removed the spool file */
	bool settled;         /* queue_done() has been called: committed, or lost */

	/* the writer's, while it is in flight */
	uint8_t *loaded;              /* content read back from the spool */
	struct spool_summary content; /* what it holds */

	/* what came of it, set by the writer before queue_done() */
	uint64_t stored;
	uint64_t rejected;
	uint64_t lost; /* rows whose block on disk was damaged */
	bool repeated; /* an earlier, unanswered try had committed it */
};

/* A heap batch, open and empty.  NULL when memory is short. */
struct batch *batch_new(const char *collector, uint64_t number);

/* A sealed batch that the spool holds.  NULL when memory is short. */
struct batch *batch_new_on_disk(const struct spool_header *h);

void batch_free(struct batch *b); /* NULL is fine */

/* Appends whole valid frames.  Returns 0 or -ENOMEM (nothing appended). */
int batch_append(struct batch *b, const uint8_t *frames, size_t len, const struct batch_part *part);

/* Adds b to a. */
void batch_part_add(struct batch_part *a, const struct batch_part *b);
#define BATCH_PART_NONE ((struct batch_part){0, UINT64_MAX, 0})

/* Gives memory back that the data does not use. */
void batch_trim(struct batch *b);
