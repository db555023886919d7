/*
 * spool.h - the directory that keeps batches across crashes.
 *
 *	spool/identity                     the collector's UUID, made once
 *	spool/sequence                     no number from this one on has been used; and a CRC
 *	spool/lock                         held (flock) by the daemon that runs
 *	spool/reserve                      room that is given up when a stop meets a full disk
 *	spool/00000000000000000042.batch   a batch that is not stored yet
 *	spool/00000000000000000041.stored  a stored one that buffer.keep still keeps
 *	spool/corrupt/                     what was damaged, moved aside
 *
 * Two threads use a spool besides the one that made it: the loop appends and never
 * waits for the disk, the syncer (a thread of the spool's own) calls fdatasync for
 * all who wait, and writers read batches back and remove them.  Each function says
 * who may call it.
 *
 * What goes wrong on the disk is returned, never fatal; a failed append leaves the
 * file as it was.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer/spool/spool_file.h"
#include "conf/conf.h"

struct spool;      /* the directory */
struct spool_file; /* one batch's file while it grows */

/*
 * Opens dir, making it (mode 0700) where it is missing, and locks it.  Errors:
 * -EBUSY another process holds the lock; -ENOTSUP a newer format version (nothing was
 * touched); or any errno of the system's.  In each case why holds a sentence for
 * the operator.  A lost or damaged identity is made anew: batches carry the
 * identity they were written under.  So it is when the sequence is lost or damaged, since then
 * nobody knows which numbers the old identity has used.
 */
#define SPOOL_WHY_MAX 512
int spool_open(const char *dir, enum conf_sync sync, struct spool **ret, char why[SPOOL_WHY_MAX]);

/* Stops the syncer after a last sync (unless sync is never) and unlocks.  NULL is fine. */
void spool_free(struct spool *s);

/* The collector's UUID as text. */
const char *spool_identity(const struct spool *s);

/*
 * Finds what an earlier run left, oldest number first.  Sealed files cost a read of
 * their header; one that was still growing is scanned, its torn end cut off, and
 * sealed (spool_torn event {file, bytes}).  Damaged stretches and unusable files go to corrupt/
 * with a spool_corrupt event {file, lost_bytes, error}; files that are not ours are left alone.
 * Sound blocks behind a damaged header are taken for a batch of ours with the number that the
 * name says.  found() is called for each batch that is left.  What a file's content or state may be
 * is never an error; -ENOMEM or the directory cannot be read.  Loop thread, once, before
 * anything else.
 */
typedef void spool_found_fn(void *arg, const struct spool_header *h);
int spool_recover(struct spool *s, spool_found_fn *found, void *arg);

/*
 * A batch number, greater than every one ever given.  Never waits for the disk: numbers are
 * reserved in runs, ahead of time, by the syncer.  Returns 0 (no number) while the
 * reserve cannot be renewed, which is a full or failing disk.  Loop thread.
 */
uint64_t spool_number(struct spool *s);

/* ---- writing; loop thread ---- */

/*
 * A new file with its header; created_us is when the batch was opened.  -ENOSPC and friends: try
 * again later.
 */
int spool_create(struct spool *s, uint64_t number, uint64_t created_us, struct spool_file **ret);

/*
 * Appends one block.  All or nothing: after an error the next call writes at the same place.
 * min_us and max_us are those of these frames.  -EMSGSIZE when len is above SPOOL_BLOCK_MAX.
 */
int spool_append(struct spool_file *f, const uint8_t *frames, uint32_t len, uint32_t rows,
		 uint64_t min_us, uint64_t max_us);

/*
 * Writes the summary and lets go of f, which must not be used again (the descriptor stays open
 * until it has been synced).  After an error f is still the caller's.
 */
int spool_seal(struct spool_file *f);

/* Lets go of f without sealing (shutdown after an error).  NULL is fine. */
void spool_file_free(struct spool_file *f);

/*
 * So much room is put by, from the start or as soon as the disk has it, so that a stop can write
 * down what was read but never acknowledged when the disk was found full.  Under the policy "block"
 * that is less than the reserve, since senders wait; under the others it may be all that
 * memory_limit allows.
 */
#define SPOOL_RESERVE ((size_t)2 << 20)

/* Gives the reserve up, for good; false when there is none (any more).  Loop thread. */
bool spool_reserve_use(struct spool *s);

/* Bytes of all files that hold batches (.batch and .stored).  Any thread. */
uint64_t spool_bytes(const struct spool *s);

/* ---- syncing ---- */

/*
 * Asks for everything appended and sealed so far to reach the disk; returns its ticket at once.
 * Requests made while a sync is under way share the next one.  Files that were removed meanwhile
 * count as safe.  With sync = never, which closes sealed files unsynced, this syncs the whole
 * file system (syncfs).  Loop thread.
 */
uint64_t spool_sync(struct spool *s);

/*
 * The greatest ticket that is safe on disk.  A file whose fdatasync failed is not trusted any more:
 * its content is read back, verified, and written to a fresh file that replaces it; until that has
 * worked its tickets stay unfinished, and it is tried again about once a second.  *err (may be
 * NULL) is the errno of the last round, 0 when it worked.  Any thread.
 */
uint64_t spool_synced(const struct spool *s, int *err);

/*
 * fn is called, from the syncer's thread, whenever spool_synced() or its error has changed.  Once
 * this has returned, the fn before it does not run and will not be called.  fn must not call it.
 */
void spool_on_synced(struct spool *s, void (*fn)(void *arg), void *arg);

/* ---- sealed batches; any thread ---- */

/*
 * Reads a sealed batch's frames into memory that the caller frees.  Damaged stretches go to
 * corrupt/ with a spool_corrupt event, and the rest is returned; *sum tells what that is.
 * -ENOENT when the file is gone; -ENODATA when nothing of it is sound (the file was then moved
 * aside).
 */
int spool_read(struct spool *s, uint64_t number, uint8_t **data, struct spool_summary *sum);

/* Deletes a batch's file, or keeps it as .stored where keep is true. */
int spool_remove(struct spool *s, uint64_t number, bool keep);

/* Deletes .stored files that were stored longer ago than keep_ms. */
void spool_prune(struct spool *s, uint64_t keep_ms);

/*
 * Deletes .stored files, the lowest numbers first, until spool_bytes() is at most max or none is
 * left; returns how many.
 */
size_t spool_release(struct spool *s, uint64_t max);

/* Calls fn for each .stored batch (headers are read).  */
int spool_kept(struct spool *s, spool_found_fn *fn, void *arg);

/* Makes a .stored file a .batch again: it must be stored once more. */
int spool_unkeep(struct spool *s, uint64_t number);
