/*
 * disk.h - the disk thread: what others want done to the spool, in order.
 *
 *	loop ── create, append, seal ──> writes ──┐
 *	  └──── remove, ... ───────────> errands ─┴─> disk thread ──> spool.h
 *	  ^                                                │
 *	  └────────────── progress, news() <───────────────┘
 *
 * The loop hands over jobs and memory and goes on; nothing here waits for the disk but
 * disk_stop().  One thread does the jobs, so that a disk that takes seconds for a call delays
 * what is to be done on the disk, and nobody else.
 *
 * Order: writes are done in the order in which they were handed over, and a write that the
 * disk refuses stays the first one, to be tried again every SPOOL_RETRY_MS; so what has been
 * written and synced is told by one position in the stream of all bytes.  Errands (files to
 * remove, ...) do not wait behind writes, since they may be what makes room: some of them, then
 * the writes that wait, and where the files together are too large, all of them first.
 *
 * Blocks: what is appended to one file while the thread is busy becomes one block of the file,
 * of DISK_BLOCK_BYTES at the most.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer/batch.h"
#include "buffer/slab.h"
#include "buffer/spool/spool.h"

struct disk;
struct disk_file; /* a batch's file that is being written */

/* A block of a spool file is at most this long, so that damage costs little. */
#define DISK_BLOCK_BYTES ((size_t)1 << 20)

/*
 * Starts the thread on an open and recovered spool (borrowed).  news(arg) is called from the thread
 * when there is progress that somebody may wait for: a sync that was asked for, a seal, a removal,
 * an error that begins or ends.
 */
int disk_start(struct spool *s, enum conf_sync sync, void (*news)(void *arg), void *arg,
	       struct disk **ret);

/*
 * Asks the thread to do what waits, as far as the disk takes it, to sync (unless sync is never)
 * and to end; waits so long for that.  False when it has not ended: a call hangs, and d must not be
 * freed.  news() is not called any more once it has ended.
 */
bool disk_stop(struct disk *d, uint64_t ms);
void disk_free(struct disk *d); /* after disk_stop() was true; NULL is fine */

/* ---- the loop: writes ---- */

/* A batch number (spool_number()), or 0. */
uint64_t disk_number(struct disk *d);

/* A file to be; nothing happens on the disk until something is appended.  NULL: memory is short. */
struct disk_file *disk_create(struct disk *d, uint64_t number, uint64_t created_us);

/*
 * Appends whole frames, which stand at slab->data + offset and which nobody changes any more.  The
 * file holds a reference of the slab until they are written, or the batch has ended; another slab
 * must hold what the one before it did.  part tells what they hold.  Returns 1 when they begin a block of the
 * file, 0 when they lengthen one that was not written yet, or -ENOMEM.
 */
int disk_append(struct disk_file *f, struct slab *slab, size_t offset, size_t len,
		const struct batch_part *part);

/* To be sealed when all of it is written.  Returns 0 or -ENOMEM. */
int disk_seal(struct disk_file *f);

/* Lets go of f: what was handed over is still done.  NULL is fine. */
void disk_release(struct disk_file *f);

/* Everything that has been appended so far is to be synced, as the spool's sync mode has it. */
void disk_sync(struct disk *d);

/* ---- the loop: errands ---- */

/*
 * The batch has ended: its file, which takes so many bytes, is removed.  f is its file where it is
 * not known to be sealed (then it is let go of, and what was not written yet will not be), else
 * NULL.
 */
void disk_remove(struct disk *d, struct disk_file *f, uint64_t number, uint64_t bytes);

/* The same for a file that is sealed, and that is to be kept as .stored. */
void disk_keep(struct disk *d, uint64_t number, uint64_t bytes);

/* For how long stored files are kept, and above how many bytes of all files they give way. */
void disk_set_limits(struct disk *d, uint64_t keep_ms, uint64_t max_bytes);

/*
 * Until this, files that were stored before the start stay however old they are, unless room is
 * short or keep_ms is 0: the end of the process before may have come while they were to be stored
 * again.  Any thread.
 */
void disk_may_prune(struct disk *d);

/*
 * The database in which batches were stored (spool_database_put()) is written down soon.  Any
 * thread.  disk_database() says what was written down last, as far as this process knows; "" when
 * nothing was.
 */
void disk_put_database(struct disk *d, const char *text);
void disk_database(struct disk *d, char text[SPOOL_DATABASE_MAX]);

/* The reserve is given up, and what waits to be written is tried at once. */
void disk_use_reserve(struct disk *d);

/* ---- any thread: errands ---- */

/* Some of a batch's file was found damaged, or all of it: spool_repair(), spool_set_aside(). */
void disk_repair(struct disk *d, uint64_t number, bool all);

/*
 * Makes kept batches unstored again: disk_take_unkept() gives their headers at once, and their
 * files are renamed one after the other (spool_unkeep()).  headers become the disk's; n is 1 or
 * more. Returns 0 or -ENOMEM.
 */
int disk_unkeep(struct disk *d, struct spool_header *headers, size_t n);

/* ---- what has been done ---- */

struct disk_progress {
	uint64_t written;   /* so many of the bytes appended are in files, or no longer wanted */
	uint64_t synced;    /* so many survive as the sync mode promises */
	uint64_t sealed;    /* seals, in the order of disk_seal() */
	uint64_t pending;   /* bytes that wait to be written */
	uint64_t unsafe;    /* rows of these */
	uint64_t jobs;      /* blocks, seals and errands that wait */
	uint64_t job_bytes; /* memory that the lists of these take */
	uint64_t room;      /* bytes that the file system had free after the last write */
	uint64_t removing;  /* files that wait to be removed */
	uint64_t removing_bytes; /* theirs */
	uint64_t unkeeping;      /* files that wait to get their names back */
	int error;               /* why the disk refuses writes, a negative errno; 0: it does not */
	bool sync_fails;         /* the last sync did, and is to be tried again */
	bool unkeep_fails;       /* likewise */
	const char *call;        /* what the thread does now, a static string; NULL: nothing */
	uint64_t call_ms;        /* for how long */
};
void disk_progress(struct disk *d, struct disk_progress *ret);

/* Copies at most max headers of batches that are unstored again; returns how many. */
size_t disk_take_unkept(struct disk *d, struct spool_header *out, size_t max);

/* How many disk_keep() there have been, and how many of them are done: in order. */
uint64_t disk_keeps_asked(struct disk *d);
uint64_t disk_keeps_done(struct disk *d);

/*
 * No file that waits to be removed, or could not be, or that a power cut would bring back, has a
 * smaller number.  Asking has the removals synced, so that the next answer is a greater one.
 */
uint64_t disk_floor(struct disk *d);
