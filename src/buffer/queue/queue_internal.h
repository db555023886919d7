/*
 * queue_internal.h - what queue.c (the loop's side), queue_disk.c (its way to the spool),
 * queue_wait.c (sync frames) and queue_writer.c (the writers' side) share.  Nobody else includes
 * it.
 */
#pragma once

#include <pthread.h>

#include "buffer/queue/queue.h"

struct queue_limits {
	uint64_t max_rows;
	uint64_t max_bytes;
	uint64_t memory;
	uint64_t spool;
	uint64_t keep_ms;
	enum conf_overflow overflow;
	enum conf_sync sync;
};

/* Where writers get their batches from, in turn. */
enum queue_end {
	QUEUE_OLDEST, /* so that a backlog shrinks */
	QUEUE_NEWEST, /* so that fresh metrics do not wait behind it */
	QUEUE_WANTED, /* so that level 2 is answered although newer ones keep coming */
};

struct queue {
	/* set once */
	struct stats *stats; /* borrowed; loop thread */
	struct spool *spool; /* borrowed; NULL = memory only */
	struct queue_events events;
	char collector[UUID_TEXT];
	struct queue_limits limits; /* loop thread; keep_ms also under the mutex */

	/*
	 * The stream of all bytes, as positions:
	 *
	 *	stored ... | on disk, synced | written | in memory only |
	 *	                             ^synced                    ^position
	 */
	uint64_t position; /* appended */
	uint64_t synced;   /* everything before it is synced (or written, with sync = never) */
	bool syncing;      /* a sync is under way ... */
	uint64_t sync_ticket;
	uint64_t sync_position; /* ... which covers this much */
	bool sync_wanted;       /* another one must follow it */

	struct batch *open;   /* NULL between a seal and the next append */
	uint64_t last_number; /* of the newest batch there has been */
	uint64_t next_number; /* fetched ahead; 0 = none */
	size_t unfinished;    /* sealed batches that the disk has not taken whole */
	bool disk_failing;
	bool disk_full; /* that is why */
	bool closed;    /* the spool's reserve is used: nothing more is taken */
	bool full;
	uint64_t dropped_since_full;
	uint64_t dropped_to; /* the greatest number of a batch that lost metrics */
	struct batch *memory_head, *memory_tail; /* sealed batches that have memory, by number */
	struct queue_wait *waits_head;           /* level 1, by position */
	struct queue_wait **waits_tail;

	/*
	 * Shared with the writers, under the mutex.  Only the loop links and unlinks
	 * batches, so it may walk the list without the mutex.
	 */
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	struct batch *head, *tail; /* sealed and in flight, by number */
	struct batch *done;        /* completions, newest first */
	struct batch *requeued;    /* kept batches that must be stored again */
	uint64_t open_number;      /* every batch from here on is the loop's; for the floor */
	uint64_t stuck_number;     /* the smallest one whose file could not be removed; likewise */
	uint64_t open_us;          /* when the open batch was opened; UINT64_MAX: there is none */
	unsigned idle;             /* writers that wait in queue_take() */
	uint64_t retries;          /* batches that came back */
	unsigned kicks;            /* generation: a change ends every sleep */
	enum queue_end next_end;   /* what queue_take() serves next */
	struct batch *wanted_head, *wanted_tail; /* those that level 2 waits for, longest first */
	bool flush_wanted;     /* wake the loop when a writer becomes idle, or takes flushed */
	struct batch *flushed; /* was sealed for a level-2 waiter, and no writer has it yet */
};

/*
 * The batch that a writer would get now, NULL when there is none; *next_ms becomes the
 * time at which a returned batch may be tried again, if that is earlier.  The mutex is held.
 */
struct batch *queue_ready(const struct queue *q, uint64_t now_ms, uint64_t *next_ms);

/* Would a writer get one now?  Likewise. */
bool queue_backlog(const struct queue *q);

/* Somebody waits for this batch, which stays wanted until it leaves the list; the mutex is held. */
void queue_want(struct queue *q, struct batch *b);
void queue_unwant(struct queue *q, struct batch *b);

/*
 * Removes the file of a batch that has ended.  One that stays is sent again by the next start,
 * so that its ledger row must stay too.
 */
void queue_remove_file(struct queue *q, const struct batch *b, bool keep);

/* ---- queue_disk.c; loop thread, and only with a spool ---- */

/* Brings what is not on disk yet there.  Returns 0 or the error that stopped it, which it logs. */
int queue_write_batch(struct queue *q, struct batch *b);

/* The last step of a sealed batch: its summary.  From here on it may live on disk only. */
int queue_finish_batch(struct queue *q, struct batch *b);

/* A block of the spool is at most this long, so that damage costs little. */
#define BLOCK_BYTES ((size_t)1 << 20)

/* Tries again what a full or failing disk has refused, oldest first. */
void queue_finish_all(struct queue *q);

/* Brings the open batch there, unless older ones wait for the disk. */
void queue_write_open(struct queue *q);

/* After blocks were written: what the sync mode wants at once. */
void queue_written(struct queue *q);

/* One sync is under way at a time; what is asked for meanwhile shares the next one. */
void queue_sync_start(struct queue *q);
void queue_sync_collect(struct queue *q);

/* ---- queue_wait.c; loop thread ---- */

uint64_t queue_durable(struct queue *q);   /* everything before it is on disk or stored */
void queue_release_waits(struct queue *q); /* level 1 */
void queue_pass_waits(struct queue *q, struct batch *b);       /* level 2; b is to leave the list */
void queue_fail_waits(struct queue *q, const struct batch *b); /* both levels; b has lost rows */

static inline uint64_t
batch_end(const struct batch *b)
{
	return b->start + b->bytes;
}
