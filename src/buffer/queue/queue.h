/*
 * queue.h - where the loop and the writers meet.
 *
 *	loop ── append ──> open batch ── seal ──> sealed batches ── take ──> writers
 *	  ^                    └────── spool (the same bytes on disk)           │
 *	  └───────────────────── completions <──────── done / return ───────────┘
 *
 * One mutex and one condition guard the list of sealed batches and the list of completions;
 * the open batch, the counters and everything else belong to the loop thread.
 *
 * Order: of the sealed batches writers get the newest and the oldest in turn, so that fresh
 * data does not wait behind a backlog and the backlog does not starve.
 *
 * Memory: batches whose content is on disk (and synced, unless buffer.sync is
 * never) give up their memory, oldest first, when memory_limit is passed; a writer reads them back.
 *
 * Full: when neither memory nor spool has room, buffer.overflow decides (conf.h).
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer/batch.h"
#include "buffer/spool/spool.h"
#include "conf/conf.h"
#include "log/stats.h"

struct queue;

/* What the queue tells its owner. */
struct queue_events {
	void (*drained)(void *arg); /* accepts again after it had been full; loop thread */
	void (*wake)(void *arg);    /* queue_collect() has work; called from any thread */
	void *arg;
};

/*
 * spool is NULL for memory only; then collector is a fresh random UUID of this
 * process.  stats and spool are borrowed.  With a spool, what it holds is recovered
 * here (spool_recovered event).
 */
int queue_new(const struct conf *conf, struct stats *stats, struct spool *spool,
	      const struct queue_events *events, struct queue **ret);
void queue_free(struct queue *q);

/* Applies changed limits (a reload); the open batch keeps going. */
void queue_set_conf(struct queue *q, const struct conf *conf);

const char *queue_collector(const struct queue *q);

/* ---- the loop thread: metrics in ---- */

/*
 * May clients be read?  False under the policy "block" while everything is full, and at a stop once
 * the spool's reserve is used.
 */
bool queue_accepts(struct queue *q);

/* How much one queue_append() may bring at the most. */
struct queue_room {
	uint64_t rows; /* 1 or more */
	size_t bytes;  /* FRAME_MAX or more */
};
struct queue_room queue_room(struct queue *q);

/*
 * Takes valid frames, at most queue_room() of them.  Returns the number of the
 * batch that holds them, or 0 when they were dropped (counted; policy, or memory is short).
 */
uint64_t queue_append(struct queue *q, const uint8_t *frames, size_t len,
		      const struct batch_part *part);

/* Seals the open batch, if it holds anything: the flush timer, SIGUSR1, stop. */
void queue_seal(struct queue *q);

/*
 * End of a turn of the loop: this turn's frames go to the spool as one block, level-2
 * waiters get their flush, memory is trimmed.
 */
void queue_turn(struct queue *q);

/*
 * Once a second: interval syncs, retries of what the disk refused, .stored files that are old
 * enough.
 */
void queue_tick(struct queue *q);

/* Takes completions and sync results in; calls waiters. */
void queue_collect(struct queue *q);

/* Rows that a crash of the daemon would lose now: those that no spool block holds. */
uint64_t queue_unsafe_rows(struct queue *q);

/*
 * Asks for a last sync, if one is needed; true once everything is in the spool and, unless
 * buffer.sync is never, synced.  Always false without a spool.  For shutdown: on a full disk it
 * uses the spool's reserve, after which queue_accepts() is false for good.
 */
bool queue_safe(struct queue *q);

/* ---- the loop thread: sync frames ---- */

/*
 * One sync frame's wait; embedded in its owner.  fn is called at most once, from
 * queue_collect(), queue_turn() or queue_append(); ok is false when metrics of the range were
 * dropped or lost, so that no answer may be given.
 */
typedef void queue_wait_fn(void *arg, bool ok);
struct queue_wait {
	struct queue_wait *next, **link; /* the queue's list; link is NULL when not waiting */
	queue_wait_fn *fn;
	void *arg;
	uint64_t first; /* batches first..last can hold the client's metrics */
	uint64_t last;
	uint64_t position; /* level 1: where the stream of all bytes stood */
};

enum queue_wait_result { QUEUE_WAIT_DONE, QUEUE_WAIT_PENDING, QUEUE_WAIT_LOST };

/*
 * Waits until what a client sent, which lies in the batches from first on (0: nothing),
 * is safe on disk (level 1) or committed (level 2).  fn is called only
 * after QUEUE_WAIT_PENDING.
 */
enum queue_wait_result queue_wait(struct queue *q, struct queue_wait *w, unsigned level,
				  uint64_t first);
void queue_unwait(struct queue *q,
		  struct queue_wait *w); /* gives up waiting; fine when it does not wait */

/* ---- writer threads ---- */

/*
 * A sealed batch to store; the caller has it alone until queue_done() or queue_return().
 * Waits at most timeout_ms; NULL on timeout, after queue_kick(), and once *stop is non-zero.
 */
struct batch *queue_take(struct queue *q, const atomic_int *stop, uint64_t timeout_ms);

/* Sleeps up to ms; queue_kick() or *stop ends it early. */
void queue_sleep(struct queue *q, const atomic_int *stop, uint64_t ms);

/*
 * Gives the content of a batch that was taken, from memory or read back from the
 * spool.  0; -ENODATA when damage left nothing (report it with queue_done()); or another
 * error of the disk's (return the batch, try later).  b->lost is set.
 */
int queue_load(struct queue *q, struct batch *b, struct batch_view *ret);

/* It is in the database (stored, rejected, lost and repeated are set).  Removes its spool file. */
void queue_done(struct queue *q, struct batch *b);

/* It is not: another try, no earlier than after_ms from now. */
void queue_return(struct queue *q, struct batch *b, uint64_t after_ms);

/*
 * Real time, in microseconds: everything that came before is in the database, or was dropped,
 * rejected or lost.
 */
uint64_t queue_complete_until(struct queue *q);

/*
 * The smallest number of any batch not yet stored and reported: ledger rows below it are settled.
 */
uint64_t queue_floor(struct queue *q);

/*
 * A server that failed over may miss batches that are kept (buffer.keep).
 * queue_kept() lists the numbers of those of our own collector, in rising order, in memory that the
 * caller frees; queue_requeue() makes some of them unstored again and returns how many.
 */
int queue_kept(struct queue *q, uint64_t **numbers, size_t *n);
size_t queue_requeue(struct queue *q, const uint64_t *numbers, size_t n);

/* Ends every queue_sleep() and queue_take() early: stop, reload, SIGUSR1.  Any thread. */
void queue_kick(struct queue *q);
