/*
 * queue.h - where the loop and the writers meet.
 *
 *	loop ── append ──> open batch ── seal ──> sealed batches ── take ──> writers
 *	  ^                    └─ disk thread: the same bytes in the spool      │
 *	  └───────────────────── completions <──────── done / return ───────────┘
 *
 * One mutex and one condition guard the list of sealed batches and the list of completions;
 * the open batch, the counters and everything else belong to the loop thread.  No function
 * here waits for the disk, but queue_close().
 *
 * Order: of the sealed batches writers get the newest and the oldest in turn, so that fresh
 * data does not wait behind a backlog and the backlog does not starve.
 *
 * Memory: batches whose content is on disk (and synced, unless buffer.sync is
 * never) give up their memory, oldest first, when memory_limit is passed; a writer reads them back.
 *
 * Full: when neither memory nor spool has room, buffer.overflow decides (queue_room.c).
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
	void (*drained)(void *arg); /* queue_accepts() again, after it did not; loop thread */
	void (*wake)(void *arg);    /* queue_collect() has work; called from any thread */
	void *arg;
};

/*
 * spool is NULL for memory only; then collector is a fresh random UUID of this
 * process.  stats and spool are borrowed.  With a spool, what it holds is recovered
 * here (spool_recovered event), and the disk thread started.
 */
int queue_new(const struct conf *conf, struct stats *stats, struct spool *spool,
	      const struct queue_events *events, struct queue **ret);

/*
 * For a stop, when the writers have ended: has the disk thread finish what it can, and waits so
 * long for that.  False when a call of the disk's hangs; then q must not be freed.
 */
bool queue_close(struct queue *q, uint64_t ms);
void queue_free(struct queue *q); /* after queue_close() was true */

/* Applies changed limits (a reload); the open batch keeps going. */
void queue_set_conf(struct queue *q, const struct conf *conf);

const char *queue_collector(const struct queue *q);

/* ---- the loop thread: metrics in ---- */

/*
 * May clients be read?  False under the policy "block" while everything is full, under any policy
 * while memory is full and the disk thread about to relieve it, and at a stop once the
 * spool's reserve is used.  drained() says when it is true again.
 */
bool queue_accepts(const struct queue *q);

/* How much one queue_append() may bring at the most; seals the open batch if it takes no more. */
struct queue_room {
	uint64_t rows; /* 1 or more */
	size_t bytes;  /* FRAME_MAX or more */
};
struct queue_room queue_make_room(struct queue *q);

/*
 * Takes valid frames, at most queue_make_room() of them.  Returns the number of the
 * batch that holds them, or 0 when they were dropped (counted; policy, or memory is short).
 */
uint64_t queue_append(struct queue *q, const uint8_t *frames, size_t len,
		      const struct batch_part *part);

/* Seals the open batch, if it holds anything: SIGUSR1, stop. */
void queue_seal(struct queue *q);

/*
 * The same for the flush timer, but while no writer can store anything the batch grows on: an
 * outage would only leave many small ones.
 */
void queue_flush(struct queue *q);

/* Can none?  When one can again, what was due is sealed. */
void queue_set_away(struct queue *q, bool away);

/*
 * End of a turn of the loop: this turn's frames are handed to the disk thread, and level-2 waiters
 * get their flush.
 */
void queue_end_turn(struct queue *q);

/* Once a second: interval syncs; says so when the disk does not answer. */
void queue_tick(struct queue *q);

/* Takes completions and the disk thread's progress in; calls waiters. */
void queue_collect(struct queue *q);

/* Rows that a crash of the daemon would lose now: those that no spool block holds. */
uint64_t queue_unsafe_rows(struct queue *q);

/*
 * Asks for everything to be written and synced; true once everything is in the spool and, unless
 * buffer.sync is never, synced.  Always false without a spool.  For shutdown: on a full disk it
 * uses the spool's reserve, after which queue_accepts() is false for good.
 */
bool queue_secure(struct queue *q);

/* ---- the loop thread: sync frames ---- */

/*
 * One sync frame's wait; embedded in its owner, zeroed but for fn and arg.  fn is called at most
 * once, from queue_collect(), queue_end_turn(), queue_tick() or queue_append(); ok is false when
 * metrics of the range were dropped or lost, so that no answer may be given.
 */
typedef void queue_wait_fn(void *arg, bool ok);
struct queue_wait {
	queue_wait_fn *fn;
	void *arg;

	/* the queue's */
	TAILQ_ENTRY(queue_wait) next;
	TAILQ_ENTRY(queue_wait) next_level2;
	struct queue_waits *list; /* NULL when it does not wait */
	bool on_batch;            /* level 2 */
	uint64_t first;           /* batches first..last can hold the client's metrics */
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

/*
 * Sleeps up to ms; *stop ends it early, and so does a queue_kick() that came since queue_kicks()
 * was `since`: whoever looks at something after queue_kicks(), and sleeps when it is not so, misses
 * nothing.
 */
unsigned queue_kicks(struct queue *q);
void queue_sleep(struct queue *q, const atomic_int *stop, unsigned since, uint64_t ms);

/* The content of a batch that was taken, in memory.  b->lost is set: what the spool has lost of it. */
void queue_view(struct queue *q, struct batch *b, struct batch_view *ret);

/* It is in the database (stored, rejected, lost and repeated are set). */
void queue_done(struct queue *q, struct batch *b);

/* It is not: another try, no earlier than after_ms from now. */
void queue_return(struct queue *q, struct batch *b, uint64_t after_ms);

/*
 * Real time, in microseconds: everything that came before is in the database, or was dropped,
 * rejected or lost.  0: our clock was set back, and there is nothing to be said.
 */
uint64_t queue_complete_until(struct queue *q);

/* The real time by the clock of the database; 0 while it is not known.  Any thread. */
uint64_t queue_clock_us(const struct queue *q);

/*
 * The smallest number of any batch not yet stored and reported: ledger rows below it are settled.
 */
uint64_t queue_floor(struct queue *q);

/* Ends every queue_sleep() and queue_take() early: stop, reload, SIGUSR1.  Any thread. */
void queue_kick(struct queue *q);

/* ---- the janitor ---- */

/*
 * A server that failed over may miss batches that are kept (buffer.keep).
 * queue_kept() lists the numbers of those of our own collector, in rising order, in memory that the
 * caller frees; 0 or -ENOMEM.  queue_requeue() makes some of them unstored again and returns how
 * many; the disk thread puts them back into the queue, and goes on trying where the disk refuses.
 */
int queue_kept(struct queue *q, uint64_t **numbers, size_t *n);

/*
 * A batch that was stored is among the kept ones only when the loop and the disk thread have done
 * their part.  queue_passed() says whether that is so for all that were stored at the mark.
 */
struct queue_mark {
	uint64_t done;
	uint64_t keeps;
	bool collected;
};
void queue_mark(struct queue *q, struct queue_mark *m);
bool queue_passed(struct queue *q, struct queue_mark *m);

size_t queue_requeue(struct queue *q, const uint64_t *numbers, size_t n);

/* What the clock of the database says now: it goes on by our monotonic one. */
void queue_set_clock(struct queue *q, uint64_t now_us);

/*
 * The database in which batches were stored, as it is remembered; "" when none is, or without a
 * spool.  queue_database_look() reads the file, which metric-spool may have removed: it may wait for
 * the disk.
 */
void queue_database(struct queue *q, char text[SPOOL_DATABASE_MAX]);
void queue_database_look(struct queue *q, char text[SPOOL_DATABASE_MAX]);
void queue_database_put(struct queue *q, const char *text);

/* The server lacks none of the kept ones: from here on those whose time is over may go. */
void queue_compared(struct queue *q);
