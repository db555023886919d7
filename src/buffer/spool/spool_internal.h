/*
 * spool_internal.h - what the parts of the spool share; nobody else includes it, but metric-spool's
 * look at a file, and the tests that have to make a disk fail.
 *
 *	spool.c          the directory: lock, identity, numbers
 *	spool_grow.c     files while they grow
 *	spool_sync.c     syncing, and files whose fdatasync failed
 *	spool_io.c       system calls: whole reads and writes, listing, small text files, corrupt/
 *	spool_judge.c    what a file holds, in pieces
 *	spool_database.c the database in which batches were stored
 *	spool_recover.c  files of earlier runs, damage, reading back
 *	spool_keep.c     the end of a batch's file: removing, keeping, pruning
 *	spool_reserve.c  room for a stop on a full disk
 *
 * All of it belongs to the disk thread, but for what is atomic, for reading (the reader's batches,
 * and the janitor's look at the database), and for the list of kept files, which has a lock of its
 * own: the janitor reads it, and takes from it.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer/spool/spool.h"

/* So many numbers are reserved at a time; the next ones when half of them are used. */
#define SPOOL_NUMBERS 65536

#define SPOOL_BATCH ".batch"
#define SPOOL_STORED ".stored"
#define SPOOL_NEW ".batch.new" /* being made; it becomes, or replaces, the file of its number */

struct spool_file {
	struct spool *spool; /* borrowed */
	struct spool_file *prev, *next;
	int fd;
	struct spool_header header; /* summary is kept current while the file grows */
	bool longer;                /* remains of a failed append may lie behind the end */
	bool closed;                /* sealed or given up: nothing will be appended */
	bool removed;               /* its name is gone */
	bool kept;                  /* renamed to .stored */
	bool changed;               /* since it was synced */
	bool named;                 /* its name has reached the disk */
	bool failed;                /* fdatasync has failed: the file is not trusted */
};

/* A .stored file. */
struct spool_kept {
	struct spool_header header; /* what it holds */
	uint64_t disk_bytes;        /* of the file */
	int64_t stored_ms;          /* monotonic; of an earlier run: the start */
};

/* Those that were stored first come first. */
struct spool_kept_list {
	struct spool_kept *entries;
	size_t first, end; /* the entries from first to end - 1 */
	size_t room;
};

/* Replaces fdatasync() and fsync(), for tests.  Returns 0 or a negative errno. */
typedef int spool_sync_hook(void *arg, int fd);

struct spool {
	char *dir; /* for messages */
	int fd;    /* the directory */
	int lock_fd;
	enum conf_sync sync;
	char identity[UUID_TEXT];

	_Atomic(spool_sync_hook *) hook; /* NULL: the real thing */
	void *hook_arg;

	_Atomic uint64_t bytes;
	_Atomic uint64_t kept_bytes;
	_Atomic uint64_t next;       /* number */
	_Atomic uint64_t limit;      /* numbers below it are reserved */
	uint64_t left_floor;         /* likewise, of files that could not be read at the start */
	_Atomic uint64_t gone_floor; /* the smallest number of a name that was removed or changed
				       since the directory was synced; UINT64_MAX: none */
	bool reserve_missing;        /* the disk did not have the room for it */
	bool salvage;                /* spool_salvage() */
	struct spool_file *files;    /* those that are open */

	/* a sync that is under way, spool_sync_some() */
	bool syncing;
	bool names_due; /* a file was closed whose name has not reached the disk */
	int sync_error;
	struct spool_file *sync_next;

	pthread_mutex_t kept_lock; /* never held across a system call */
	struct spool_kept_list kept;
};

/* ---- spool_io.c; errors are negative errnos ---- */

/* Writes everything, or fails. */
int io_write(int fd, const void *data, size_t len, uint64_t offset);
int io_write_block(int fd, const uint8_t *header, const uint8_t *frames, size_t len,
		   uint64_t offset);

/* Reads up to len bytes; *got tells how many there were. */
int io_read(int fd, void *data, size_t len, uint64_t offset, size_t *got);

/* The same, but pages that the disk cannot give (EIO) are zeros: the CRCs tell what that costs. */
int io_salvage(int fd, void *data, size_t len, uint64_t offset, size_t *got);

/* Where the first byte is, from offset on, that is in no hole; the end where there is none. */
uint64_t io_next(int fd, uint64_t offset);

/*
 * Is it the content that is wrong, or is it no file?  Everything else (rights, descriptors, memory,
 * a disk that does not read) says nothing of the content, which may be there the next time.
 */
bool io_is_damage(int error);

/* fdatasync(), or fsync() for the directory, or the tests' hook. */
int io_sync(const struct spool *s, int fd);

/* Opens a file.  -ELOOP for a link, -EISDIR for anything else that is no file. */
int io_open(const struct spool *s, const char *name, int flags, uint64_t *size);

/*
 * A new file for writing, in the place of whatever has that name: nothing that counts has a
 * temporary name.
 */
int io_create(const struct spool *s, const char *name);

/* The size of a file; 0 for what is not there or is no file. */
uint64_t io_size(const struct spool *s, const char *name);

/* What it takes of the disk: spool_disk_bytes() of it. */
uint64_t io_disk_bytes(const struct spool *s, const char *name);

/* Replaces a small file in one step that lasts. */
int io_put_text(const struct spool *s, const char *name, const char *text);

/* The same for one that is there, in its place: needs no space, and may be cut short. */
int io_overwrite_text(const struct spool *s, const char *name, const char *text);

/* Reads one, with a NUL behind it.  -EFBIG when it is longer than size - 1. */
int io_get_text(const struct spool *s, const char *name, char *text, size_t size);

/* The header of a batch's file, if it is sound and of that number; *size is the file's. */
int io_get_header(const struct spool *s, const char *name, uint64_t number,
		  struct spool_header *ret, uint64_t *size);

/* The numbers of all names with that suffix, in ascending order; the caller frees them. */
int io_list(const struct spool *s, const char *suffix, uint64_t **ret, size_t *n);

/*
 * Copies a stretch of a file to corrupt/<name>.<offset>; where another one has that name, a
 * suffix is added.  Returns 1, or 0 if the same bytes were saved there before.
 */
int io_save(const struct spool *s, const char *name, int fd, uint64_t offset, uint64_t len);

/* Moves a file, or whatever it is, to corrupt/<name>; likewise. */
int io_move_aside(const struct spool *s, const char *name);

/* ---- spool.c ---- */

/* A file's name as logs show it. */
#define SPOOL_PATH_MAX 1024
void spool_path(const struct spool *s, const char *name, char buf[SPOOL_PATH_MAX]);

/* The spool_corrupt event. */
void spool_corrupt(const struct spool *s, const char *name, uint64_t lost_bytes, const char *error);

/* Compares two uint64_t, for qsort() and bsearch(). */
int spool_number_compare(const void *a, const void *b);

/* ---- spool_grow.c ---- */

/* The file of that number, if it is open. */
struct spool_file *spool_file_find(struct spool *s, uint64_t number);

/* Closes it and frees it. */
void spool_file_close(struct spool_file *f);

/* Writes the summary over its place in the header. */
int spool_write_summary(int fd, const struct spool_header *h);

/* ---- spool_keep.c ---- */

/* The batch's file, which took so many bytes of the disk, has lost its name: it no longer counts. */
void spool_name_gone(struct spool *s, uint64_t number, uint64_t bytes);

/* At start, by number: a .stored file with this header, or without a sound one (NULL). */
int spool_kept_found(struct spool *s, uint64_t number, const struct spool_header *h);
