/*
 * queue_internal.h - what the parts of the queue share; nobody else includes it.
 *
 *	queue.c         the loop's side: metrics in, turns, completions
 *	queue_list.c    the batches by number, by what is due, by age
 *	queue_room.c    who decides that everything is full, and what is done about it
 *	queue_disk.c    the way to the disk thread, and what is heard of it
 *	queue_wait.c    sync frames
 *	queue_writer.c  the writers' side
 *	queue_reader.c  the thread that reads batches back
 *	queue_kept.c    batches that buffer.keep keeps: the janitor's side
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "buffer/queue/queue.h"
#include "buffer/slab.h"
#include "buffer/spool/disk.h"

struct queue_limits {
	uint64_t max_rows;
	uint64_t max_bytes;
	uint64_t memory;
	uint64_t spool;
	uint64_t keep_ms;
	enum conf_overflow overflow;
	enum conf_sync sync;
};

/* Sealed batches that somebody may have now. */
struct queue_due {
	struct tree batches;      /* by number */
	struct batch_list wanted; /* those that level 2 waits for, longest first */
};

/* Where writers get their batches from, in turn. */
enum queue_end {
	QUEUE_OLDEST, /* so that a backlog shrinks */
	QUEUE_NEWEST, /* so that fresh metrics do not wait behind it */
	QUEUE_WANTED, /* so that level 2 is answered although newer ones keep coming */
};

/* Is there room for more?  See queue_room.c. */
enum queue_fullness {
	QUEUE_HAS_ROOM,
	QUEUE_AWAITS_DISK, /* memory is short, and the disk thread is about to relieve it */
	QUEUE_IS_FULL,     /* buffer.overflow decides */
};

STAILQ_HEAD(batch_stack, batch);

struct queue {
	/* set once */
	struct stats *stats; /* borrowed; loop thread */
	struct spool *spool; /* borrowed; NULL = memory only */
	struct disk *disk;   /* NULL likewise */
	struct queue_events events;
	char collector[UUID_TEXT];
	struct queue_limits limits; /* loop thread */

	/*
	 * The loop's.  The stream of all bytes, as positions:
	 *
	 *	stored ... | on disk, synced | written | handed over | in the open batch only |
	 *	                             ^synced ^position
	 */
	uint64_t position; /* appended */
	uint64_t synced;   /* everything before it is synced (or written, with sync = never) */
	uint64_t seals;    /* handed over to the disk thread */

	struct batch *open;      /* NULL between a seal and the next append */
	size_t usual_bytes;      /* of the batch before */
	uint64_t last_number;    /* of the newest batch there has been */
	uint64_t next_number;    /* fetched ahead; 0 = none */
	uint64_t live_bytes;     /* of the files of all batches that are not stored */
	uint64_t removing_bytes; /* of those that the disk thread is to remove, or to keep */
	uint64_t job_bytes;      /* memory that its lists took when we last asked */
	uint64_t written;        /* everything before it was in files when we last asked */
	uint64_t disk_room;      /* bytes that the file system had free then */
	int disk_error;          /* why the disk refuses writes; 0: it does not */
	bool disk_stalls;        /* a call of its takes long */
	bool sync_fails;         /* what is written does not come to be synced */
	uint64_t slow_said_ms;   /* a call of the disk thread was said to take that long; 0: none */
	const char *slow_call;   /* which */
	bool away;               /* no writer can store anything; changed under the mutex */
	bool flush_due;          /* the timer wanted a flush meanwhile */
	bool reserve_used;       /* the spool's reserve is used: nothing more is taken */
	enum queue_fullness fullness;
	bool full_said; /* buffer_full was logged */
	uint64_t dropped_since_full;
	uint64_t dropped_to; /* the greatest number of a batch that lost metrics */
	struct batch_list memory;
	struct batch_list unsynced;
	struct batch_list unwritten;
	struct batch_list unfiled;       /* stored, and awaiting the files that are to be kept */
	struct batch_list unfiled_told;  /* likewise, but who waited for them has been told */
	struct batch_list filed;         /* of these, those that have got it since */
	struct queue_waits waits_level1; /* by position */
	struct queue_waits waits_level2; /* all of them; each hangs on a batch, too */

	/*
	 * Shared with writers and janitor, under the mutex.  Only the loop links and unlinks
	 * batches, so it may look at `all` without the mutex.  Nothing here takes longer when there
	 * are more batches, but for the depth of the trees.
	 */
	atomic_uint_least64_t
	    clock_start_us; /* of the database's clock, at 0 of our monotonic one */

	pthread_mutex_t mutex;
	pthread_cond_t cond;
	struct tree all; /* sealed and in flight */
	struct tree unsettled;
	struct queue_due ready;   /* sealed, in memory, and may be taken */
	struct queue_due to_read; /* the same, but they are on disk only */
	struct tree delayed;      /* sealed, and may be taken later */
	struct batch_stack done;  /* completions */
	uint64_t done_last;       /* how many there have been */
	uint64_t done_collected;  /* all up to this one have been dealt with by the loop */
	uint64_t open_number;     /* every batch from here on is the loop's; for the floor */
	uint64_t open_us;         /* when the open batch was opened; UINT64_MAX: there is none */
	uint64_t unkeeping;       /* kept batches that are on their way back */
	uint64_t unkeeping_us;    /* none of them was opened earlier; UINT64_MAX: there are none */
	unsigned idle;            /* writers that wait in queue_take() */
	uint64_t retries;         /* batches that came back */
	unsigned kicks;           /* generation: a change ends every sleep */
	enum queue_end next_end;  /* what queue_take() serves next */
	bool flush_wanted;        /* wake the loop when a writer becomes idle, or takes flushed */
	struct batch *flushed;    /* was sealed for a level-2 waiter, and no writer has it yet */

	/* the reader; likewise under the mutex */
	pthread_t reader;
	pthread_cond_t read_cond; /* of the reader */
	unsigned read_ahead;      /* batches that are ready, and were read back */
	bool read_wanted;         /* one that is wanted comes next */
	bool reading;
	bool reader_started;
	bool reader_stop;
	bool reader_over;
};

/* ---- queue_list.c; the mutex is held ---- */

void queue_init_lists(struct queue *q);

void queue_link(struct queue *q, struct batch *b); /* a sealed one, ready */
void queue_unlink(struct queue *q, struct batch *b);

struct batch *queue_oldest(struct queue *q); /* of all; NULL when there is none */
struct batch *queue_after(struct batch *b);
struct batch *queue_from(struct queue *q, uint64_t number); /* the first of that number or above */

/* In flight, and back again: ready, or only from a time on (monotonic). */
void queue_detach(struct queue *q, struct batch *b);
void queue_attach(struct queue *q, struct batch *b, uint64_t not_before_ms);

/*
 * The batch that a writer would get now, NULL when there is none; *next_ms becomes the
 * time at which a returned batch may be tried again, if that is earlier.
 */
struct batch *queue_ready(struct queue *q, uint64_t now_ms, uint64_t *next_ms);

struct batch *queue_due_first(struct queue_due *due); /* the oldest; NULL when there is none */

/* Would a writer get one now, or as soon as it is read? */
bool queue_backlog(struct queue *q);

/* Somebody waits for this batch, which stays wanted until it leaves the list. */
void queue_want(struct batch *b);

/* It is committed, or lost: what came before it may be promised. */
void queue_settle(struct queue *q, struct batch *b);

/* When the oldest unsettled batch was opened, one that may be left out excepted (NULL: none). */
uint64_t queue_oldest_us(struct queue *q, const struct batch *but);

/* Was one of them opened after that instant?  One opened after now tells that the clock was set back. */
bool queue_any_after(struct queue *q, uint64_t us, const struct batch *but);

/* ---- queue.c; loop thread ---- */

/* Metrics that came from the spool and not from a client. */
void queue_account_recovered(struct queue *q, uint64_t rows);

/*
 * A batch has ended, well (ok) or with the loss of metrics: who waits for it is told, its file is
 * removed, its memory is freed.
 */
void queue_forget(struct queue *q, struct batch *b, bool ok);

/*
 * Looks after those that are stored, and await the files that are to be kept: they end once these
 * are there, or where memory is short, or the disk refuses.
 */
void queue_review_unfiled(struct queue *q);
void queue_end_unfiled(struct queue *q); /* all of them, without their files */

/* Is there a number for the next batch? */
bool queue_have_number(struct queue *q);

/* ---- queue_room.c; loop thread ---- */

void queue_hold_memory(struct queue *q, struct batch *b); /* of a batch that was sealed */
void queue_release_memory(struct queue *q, struct batch *b);

/*
 * Frees what can be freed without losing anything, and brings q->fullness up to date; says so, and
 * resumes clients, where that changes what queue_accepts() answers.
 */
void queue_update_room(struct queue *q);

/* After a seal: without a number for the next batch nothing more can be taken. */
void queue_check_number(struct queue *q);

/* Is it, so that some should be freed? */
bool queue_memory_is_short(const struct queue *q);

/* As the policy "drop_oldest" has it: drops until there is room, or nothing more to drop. */
void queue_drop_oldest(struct queue *q);

void queue_account_dropped(struct queue *q, uint64_t rows);

/* Has it got to a limit, so that this is worth a call? */
bool queue_is_over_limits(const struct queue *q);

/* ---- queue_disk.c; loop thread, and only with a spool ---- */

/* Hands what the open batch has got to the disk thread.  Returns 0 or -ENOMEM. */
int queue_post(struct queue *q);

/* The last step of a batch: its seal. */
int queue_post_seal(struct queue *q);

/* What the disk thread has done since the last time; the second takes kept batches back, too. */
#define QUEUE_STALL_MS 1000 /* a disk that takes longer for a call does not answer */
void queue_collect_progress(struct queue *q);
void queue_collect_disk(struct queue *q);

/* Says whom everybody waits for, when the disk thread has been in one call for long. */
void queue_say_slow(struct queue *q);

/* ---- queue_reader.c; loop thread ---- */

#define READ_AHEAD 2 /* batches that are read, and that no writer has yet */

int queue_start_reader(struct queue *q);              /* 0 or a negative errno */
bool queue_stop_reader(struct queue *q, uint64_t ms); /* false: the disk does not answer */

/* ---- queue_wait.c; loop thread ---- */

void queue_release_waits(struct queue *q);                     /* level 1 */
void queue_pass_waits(struct queue *q, struct batch *b);       /* level 2; b is to leave the list */
void queue_fail_waits(struct queue *q, const struct batch *b); /* both levels; b has lost rows */

static inline uint64_t
batch_end(const struct batch *b)
{
	return b->start + b->bytes;
}
