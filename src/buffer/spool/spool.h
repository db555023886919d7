/*
 * spool.h - the directory that keeps batches across crashes.
 *
 *	spool/identity                     the collector's UUID, made once
 *	spool/sequence                     no number from this one on has been used; and a CRC
 *	spool/database                     the database in which batches were stored
 *	spool/lock                         held (flock) by the daemon that runs
 *	spool/reserve                      room that is given up when a stop meets a full disk
 *	spool/00000000000000000042.batch   a batch that is not stored yet
 *	spool/00000000000000000041.stored  a stored one that buffer.keep still keeps
 *	spool/corrupt/                     what was damaged, moved aside
 *
 * These functions call the system and wait for the disk.  In the daemon the disk thread alone calls
 * them (disk.h) once it runs; what others may call says so.  What goes wrong on the disk is
 * returned, never fatal, and a failed append leaves the file as it was.
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
 * touched); or any errno of the system's: a file of another user's, a directory that cannot be
 * written, a file system without locks.  What cannot be read now is no damage.  In each case why
 * holds a sentence for the operator.  A lost or damaged identity is made anew: batches carry the
 * identity they were written under.  So it is when the sequence is lost or damaged, since then
 * nobody knows which numbers the old identity has used.
 */
#define SPOOL_WHY_MAX 1024
int spool_open(const char *dir, enum conf_sync sync, struct spool **ret, char why[SPOOL_WHY_MAX]);

/* Closes what is open, as it is, and unlocks.  NULL is fine. */
void spool_free(struct spool *s);

/*
 * From here on what the disk cannot read (EIO) is taken for damaged, instead of waited for:
 * metric-spool repair.
 */
void spool_salvage(struct spool *s);

/*
 * Makes the identity anew, for a spool that was copied with its machine.  Batches keep the one that
 * they were written under: some may be stored.
 */
int spool_new_identity(struct spool *s);

/*
 * What would a start make of identity and sequence?  0 for a sound one, -ENOENT, -EBADMSG and
 * friends for damage, or why it cannot be read.  Changes nothing, and needs no lock.
 */
int spool_look_at_names(const char *dir, int *identity, int *sequence);

/* The collector's UUID as text.  Any thread. */
const char *spool_identity(const struct spool *s);

/*
 * Finds what an earlier run left, oldest number first.  Sealed files cost a read of
 * their header; one that was still growing is scanned, its torn end cut off, and
 * sealed (spool_torn event {file, bytes}).  Damaged stretches and unusable files go to corrupt/
 * with a spool_corrupt event {file, lost_bytes, error}; files that are not ours are left alone.
 * Sound blocks behind a damaged header are taken for a batch of ours with the number that the
 * name says.  A file that cannot be read now stays where it is, with a spool_error event.
 * found() is called for each batch that is left.  What a file's content or state may be
 * is never an error; -ENOMEM or the directory cannot be read.  Once, before anything else.
 */
typedef void spool_found_fn(void *arg, const struct spool_header *h);
int spool_recover(struct spool *s, spool_found_fn *found, void *arg);

/*
 * The database in which batches were stored, as a line of text that the store gives meaning to;
 * -ENOENT when none was, or metric-spool has been told to forget it.  Any thread, one at a time.
 */
#define SPOOL_DATABASE "database"
#define SPOOL_DATABASE_MAX 128
int spool_database_get(const struct spool *s, char text[SPOOL_DATABASE_MAX]);
int spool_database_put(const struct spool *s, const char *text);

/* What all files that hold batches (.batch and .stored) take of the disk.  Any thread. */
uint64_t spool_bytes(const struct spool *s);

/* Is it the number of files that the file system has no room for, whatever its bytes are? */
bool spool_lacks_inodes(const struct spool *s);

/* Bytes that the file system has room for; UINT64_MAX where it does not say. */
uint64_t spool_free_bytes(const struct spool *s);

/* ---- numbers ---- */

/*
 * A batch number, greater than every one ever given.  Numbers are reserved in ranges, ahead of
 * time, so that this never waits for the disk.  Returns 0 (no number) once the range is used up.
 * One thread: the loop.
 */
uint64_t spool_number(struct spool *s);

/* Is it time to reserve the next range?  Any thread. */
bool spool_numbers_low(const struct spool *s);

/* Reserves it. */
int spool_numbers_reserve(struct spool *s);

/* ---- writing ---- */

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
 * Writes the summary and lets go of f, which must not be used again; the spool closes it once it
 * is synced (at once with sync = never).  After an error f is still the caller's.
 */
int spool_seal(struct spool_file *f);

/* Lets go of f without sealing.  NULL is fine. */
void spool_file_free(struct spool_file *f);

/*
 * Brings everything that was appended and sealed to the disk.  A file whose fdatasync failed is not
 * trusted any more: its content is read back, verified, and written to a fresh file that
 * replaces it; until that has worked this returns an error, and is to be called again after
 * SPOOL_RETRY_MS.  Files that were removed count as safe.  With sync = never it does nothing.
 */
#define SPOOL_RETRY_MS 1000
int spool_sync(struct spool *s);

/*
 * The same, file by file until an instant (monotonic, ms): then it returns 1, and is to be called
 * again for the rest.  At 0 or an error it is over: what had been appended and sealed when
 * it began is on the disk, or the error tells why not.
 */
int spool_sync_some(struct spool *s, uint64_t until_ms);

/*
 * A power cut brings files back that were removed, or kept, since the directory was last synced: the
 * smallest number of these, UINT64_MAX where there are none.  Any thread.
 */
uint64_t spool_gone_floor(const struct spool *s);

/* The same of files that could not be read at the start, and that the next one tries again. */
uint64_t spool_left_floor(const struct spool *s);

/* Has these removals last; in each sync mode. */
int spool_sync_names(struct spool *s);

/* ---- room for a stop ---- */

/*
 * So much room is put by, so that a stop can write down what was read but never acknowledged when
 * the disk was found full.  Under the policy "block" that is less than the reserve, since
 * senders wait; under the others it may be all that memory_limit allows.
 */
#define SPOOL_RESERVE ((size_t)2 << 20)

/* Makes the reserve if it is not there.  spool_open() has tried once. */
int spool_reserve_make(struct spool *s);
bool spool_reserve_missing(const struct spool *s);

/* Gives the reserve up, for good; false when there is none (any more). */
bool spool_reserve_use(struct spool *s);

/* ---- sealed batches ---- */

/*
 * Reads a sealed batch's frames into memory that the caller frees, and changes nothing; *sum tells
 * what they are.  A batch that was taken off the list of kept ones is read under either name.
 * *damaged says that some of the file is lost: spool_repair() saves that in
 * corrupt/.  -ENOENT when the file is gone; -ENODATA when nothing of it is sound
 * (spool_set_aside() is the remedy).  Any thread.
 */
int spool_read(const struct spool *s, uint64_t number, uint8_t **data, struct spool_summary *sum,
	       bool *damaged);

/*
 * Moves damaged stretches to corrupt/ with a spool_corrupt event, and leaves the rest, so that
 * another read finds nothing new.
 */
void spool_repair(struct spool *s, uint64_t number);

/* Moves the whole file to corrupt/, with a spool_corrupt event. */
void spool_set_aside(struct spool *s, uint64_t number);

/* Deletes a batch's file, or keeps it as .stored where keep is true. */
int spool_remove(struct spool *s, uint64_t number, bool keep);

/* ---- kept batches: the list of .stored files is in memory ---- */

/* Bytes of .stored files.  Any thread. */
uint64_t spool_kept_bytes(const struct spool *s);

/* Deletes .stored files that were stored longer ago than keep_ms, at most `most` of them. */
size_t spool_prune(struct spool *s, uint64_t keep_ms, size_t most);

/*
 * Deletes .stored files, the one that was stored first, first, until spool_bytes() is at most max
 * or none is left; returns how many, at most `most`.
 */
size_t spool_release(struct spool *s, uint64_t max, size_t most);

/* The numbers of the .stored files of our own identity, in memory that the caller frees; sorted.
 * -ENOMEM.  Any thread. */
int spool_kept(struct spool *s, uint64_t **numbers, size_t *n);

/*
 * Takes those of the sorted numbers that are kept off the list, so that nothing deletes them, and
 * gives their headers, in rising order of numbers, in memory that the caller frees.  NULL and 0
 * when there is none, or memory is short.  Any thread.
 */
struct spool_header *spool_kept_take(struct spool *s, const uint64_t *numbers, size_t n,
				     size_t *ret);

/* Makes the file of a batch that was taken off the list a .batch again. */
int spool_unkeep(struct spool *s, uint64_t number);
