/*
 * spool_internal.h - what the parts of the spool share; nobody else includes it, but the tests
 * that have to make a disk fail.
 *
 *	spool.c          the directory: lock, identity, numbers; files while they grow
 *	spool_io.c     system calls: whole reads and writes, listing, small text files, corrupt/
 *	spool_sync.c     the syncer thread, and files whose fdatasync failed
 *	spool_recover.c  files of earlier runs, damage, reading back
 *	spool_keep.c     the end of a batch's file: removing, keeping, pruning
 *	spool_reserve.c  room for a stop on a full disk
 *
 * Locks, each to be taken after those above it:
 *
 *	spool_file.lock  the descriptor, and writing to it.  The loop takes it, so it is held
 *	                 across slow disk work only while a failed file is being replaced
 *	spool.names      unlink and rename of batch files.  The loop takes it only where
 *	                 it removes files itself
 *	spool.lock       everything else; never held across a system call
 *	spool.notify     the callback, alone
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

#define SPOOL_RETRY_MS 1000 /* between tries at a disk that failed */

#define SPOOL_BATCH ".batch"
#define SPOOL_STORED ".stored"
#define SPOOL_NEW ".batch.new" /* being made; it becomes, or replaces, the file of its number */

struct spool_file {
	struct spool *spool; /* borrowed */

	/* under spool.lock */
	struct spool_file *next;
	unsigned refs;    /* the list's and the syncer's; the loop has it until it is closed */
	bool closed;      /* sealed or given up: nothing will be appended */
	bool removed;     /* its name is gone */
	bool kept;        /* renamed to .stored */
	uint64_t counted; /* its part of spool.bytes */

	/* the syncer alone */
	struct spool_file *sync_next;
	uint64_t synced; /* the changes that have reached the disk */
	bool named;      /* its name has, too */
	bool failed;     /* fdatasync has failed: the file is not trusted */

	_Atomic uint64_t changes; /* appends and the seal */

	pthread_mutex_t lock;
	int fd;
	bool longer;                /* remains of a failed append may lie behind the end */
	struct spool_header header; /* summary is kept current while the file grows */
};

/* Replaces fdatasync() and fsync(), for tests.  Returns 0 or a negative errno. */
typedef int spool_sync_hook(void *arg, int fd);

struct spool {
	char *dir; /* for messages */
	int fd;    /* the directory */
	int lock_fd;
	enum conf_sync sync;
	char identity[UUID_TEXT];
	pthread_t thread;
	bool running;

	_Atomic(spool_sync_hook *) hook; /* NULL: the real thing */
	void *hook_arg;

	_Atomic uint64_t bytes;
	_Atomic uint64_t synced; /* ticket */
	atomic_int sync_error;   /* errno */

	pthread_mutex_t names;
	uint64_t stored_since_us; /* no .stored file is older; 0 = unknown, UINT64_MAX = none */

	pthread_mutex_t lock;
	pthread_cond_t wake; /* of the syncer */
	struct spool_file *files;
	uint64_t requested;        /* the last ticket given out */
	uint64_t retry_ms;         /* monotonic; a failed round waits until then, 0 = none failed */
	uint64_t next;             /* number */
	uint64_t limit;            /* numbers below it are reserved */
	bool numbers_wanted;       /* the reserve is to be renewed */
	uint64_t numbers_retry_ms; /* as retry_ms */
	bool reserve_wanted;       /* the disk did not have the room for it */
	uint64_t reserve_retry_ms; /* as retry_ms */
	bool reap;                 /* a file that is open is closed and removed */
	bool closed_unsynced;      /* sync = never: files were closed as they were */
	bool stop;

	pthread_mutex_t notify;
	void (*on_synced)(void *arg);
	void *on_synced_arg;
};

/* ---- spool_io.c; errors are negative errnos ---- */

/* Writes everything, or fails. */
int io_write(int fd, const void *data, size_t len, uint64_t offset);
int io_write_block(int fd, const uint8_t *header, const uint8_t *frames, size_t len,
		   uint64_t offset);

/*
 * Reads up to len bytes; *got tells how many there were.  Pages that the disk cannot give
 * (EIO) are read as zeros: the CRCs tell what that costs.
 */
int io_read(int fd, void *data, size_t len, uint64_t offset, size_t *got);

/* fdatasync(), or fsync() for the directory, or the tests' hook. */
int io_sync(const struct spool *s, int fd);

/* Opens a file that is there.  -ELOOP for a link, -EISDIR for anything else that is no file. */
int io_open(const struct spool *s, const char *name, int flags, uint64_t *size);

/* The size of a file; 0 for what is not there or is no file. */
uint64_t io_size(const struct spool *s, const char *name);

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

/* The file of that number, if it is open; spool.lock is held. */
struct spool_file *spool_file_find(struct spool *s, uint64_t number);

/* Takes a file off the list; spool.lock is held.  The list's reference is then the caller's. */
void spool_file_unlist(struct spool *s, struct spool_file *f);

/* Gives a reference back; spool.lock is not held. */
void spool_file_put(struct spool_file *f);

/* Says that numbers from this one on are free; lasting. */
int spool_put_sequence(const struct spool *s, uint64_t number);

/* Writes the summary over its place in the header. */
int spool_write_summary(int fd, const struct spool_header *h);

/* ---- spool_keep.c ---- */

/* The batch's file of so many bytes has lost its name: it no longer counts.  names is held. */
void spool_name_gone(struct spool *s, uint64_t number, uint64_t size);

/* ---- spool_reserve.c ---- */

int spool_reserve_make(const struct spool *s);

/* ---- spool_sync.c ---- */

int syncer_start(struct spool *s);
void syncer_stop(struct spool *s); /* after a last round, unless sync is never */
