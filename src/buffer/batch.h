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
#include <sys/queue.h>

#include "base/tree.h"
#include "base/uuid.h"
#include "buffer/spool/spool_file.h"

/*
 * The content of a sealed batch as stores see it; borrowed for a call.
 * (collector, number) names the batch for ever: it is the ledger's key.
 */
struct batch_view {
	const char *collector; /* UUID as text */
	uint64_t number;
	uint64_t opened_us; /* real time; with rows and bytes it tells the batch from any other;
				0: its file's header was damaged */
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

#define BATCH_PART_NONE ((struct batch_part){0, UINT64_MAX, 0})

/* Adds b to a. */
void batch_part_add(struct batch_part *a, const struct batch_part *b);

enum batch_state { BATCH_OPEN, BATCH_SEALED, BATCH_IN_FLIGHT };

struct queue_due;
struct queue_wait;
struct disk_file;
struct slab;

TAILQ_HEAD(queue_waits, queue_wait);
TAILQ_HEAD(batch_list, batch);

struct batch {
	/* set when it is opened, or recovered */
	char collector[UUID_TEXT];
	uint64_t number;
	uint64_t opened_us; /* real time; its first frame came then, or later */

	/* the loop's while it is open, then never changed */
	struct batch_part all;
	size_t bytes;

	/* the loop's */
	TAILQ_ENTRY(batch) in_memory; /* the queue's list of sealed ones that have memory */
	TAILQ_ENTRY(batch) unsynced;  /* ... of those that a crash of the machine would lose */
	TAILQ_ENTRY(batch) unwritten; /* ... of those that are not whole in the spool */
	bool is_unsynced;
	struct disk_file *file;     /* until all of it is in the spool, and sealed */
	size_t posted;              /* bytes that the disk thread has got */
	struct batch_part unposted; /* what the other bytes hold */
	uint64_t file_size;         /* of its file, or what that will have */
	uint64_t start;             /* position of the first byte in the stream of all bytes */
	uint64_t seal;              /* its seal's place among all seals; 0: recovered */
	struct queue_waits waits;   /* level-2 syncs that this batch holds up */
	struct batch_list *unfiled; /* it is stored, and in this list until its file is written */
	TAILQ_ENTRY(batch) in_unfiled;

	/* the loop's; changed under the queue's mutex, since a writer may have it */
	struct slab *slab; /* the frames; NULL when they are on disk only */
	bool on_disk;      /* all of it is in the spool, and sealed */

	/* under the queue's mutex; the loop alone links by_number, and may walk it without */
	struct tree_node by_number; /* all that are sealed or in flight */
	struct tree_node by_opened; /* of these, the ones that are not settled */
	struct tree_node by_due;    /* sealed: those that are due, or those that are not yet */
	struct queue_due *due;      /* where it is while it is due, or NULL */
	TAILQ_ENTRY(batch) in_wanted;
	enum batch_state state;
	uint64_t not_before_ms; /* monotonic; a returned batch waits until then */
	bool wanted;            /* level 2 has come to wait for it */
	bool settled;           /* queue_done() has been called: committed, or lost */

	/* the reader's or the writer's, while it is in flight */
	uint8_t *loaded;              /* content read back from the spool; NULL: none */
	struct spool_summary content; /* what it holds */

	/* what came of it, set by the writer before queue_done() */
	uint64_t stored;
	uint64_t rejected;
	uint64_t lost; /* rows whose block on disk was damaged */
	bool repeated; /* an earlier, unanswered try had committed it */

	STAILQ_ENTRY(batch) in_done; /* the list of completions */
	uint64_t done;               /* its place among all of them */
};

/* A heap batch, open and empty; room is what it is expected to take.  NULL: memory is short. */
struct batch *batch_new(const char *collector, uint64_t number, size_t room);

/* A sealed batch that the spool holds.  NULL when memory is short. */
struct batch *batch_new_on_disk(const struct spool_header *h);

void batch_free(struct batch *b); /* but for its file; NULL is fine */

/* Appends whole valid frames.  Returns 0 or -ENOMEM (nothing appended). */
int batch_append(struct batch *b, const uint8_t *frames, size_t len, const struct batch_part *part);

/* Gives memory back that the data does not use, unless somebody reads it. */
void batch_trim(struct batch *b);
