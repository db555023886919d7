/*
 * disk_internal.h - what disk.c (what others hand over) and disk_thread.c (what is done about it)
 * share.  Nobody else includes it.
 */
#pragma once

#include <pthread.h>

#include "buffer/spool/disk.h"

enum disk_task {
	DISK_WRITE,
	DISK_SEAL,
	DISK_KEEP,
	DISK_REMOVE,
	DISK_REPAIR,
	DISK_SET_ASIDE,
	DISK_UNKEEP,
};

struct disk_job {
	struct disk_job *next;
	enum disk_task task;
	uint64_t number;
	struct disk_file *file; /* a reference, or NULL */

	/* DISK_WRITE: what stands there in the file's slab */
	size_t offset;
	size_t len;
	struct batch_part part;

	/* DISK_UNKEEP */
	struct spool_header *headers; /* by number */
	bool *named;                  /* those that an errand has renamed before their turn */
	size_t n;
	size_t done;  /* renamed by the thread */
	size_t taken; /* by the loop */
};

struct disk_jobs {
	struct disk_job *head, **tail;
	size_t n;
};

struct disk_file {
	struct disk *disk; /* borrowed */
	uint64_t number;
	uint64_t created_us;

	/* under disk.lock */
	unsigned refs;
	bool removed;      /* what waits to be written is no longer wanted */
	uint64_t writes;   /* that wait */
	uint64_t unsafe;   /* their rows */
	struct slab *slab; /* a reference, while something waits: the newest, which has all of it */

	/* the thread's */
	bool made;               /* there is a file of this number */
	struct spool_file *file; /* while it grows */
};

struct disk {
	/* set once */
	struct spool *spool; /* borrowed */
	enum conf_sync sync;
	void (*news)(void *arg);
	void *news_arg;
	pthread_t thread;
	bool started;

	/*
	 * Under the lock, which is never held across a system call.  Positions count the bytes that
	 * were appended:
	 *
	 *	| synced | written | handed over |
	 *	                                 ^ appended
	 */
	pthread_mutex_t lock;
	pthread_cond_t wake;  /* of the thread */
	pthread_cond_t ended; /* of disk_stop() */
	bool waiting;         /* the thread waits for wake */
	struct disk_jobs writes;
	struct disk_job *last_write; /* the newest, as long as it can be made longer; or NULL */
	struct disk_jobs errands;
	struct disk_jobs unkeeps; /* until all of a job is renamed, and taken by the loop */
	uint64_t unkeeping;       /* files that wait to be renamed */
	uint64_t appended, written, synced;
	uint64_t sync_wanted; /* to be synced up to here */
	bool syncing;         /* that has begun, */
	uint64_t syncing_to;  /* and so far it will have got */
	uint64_t sealed;
	uint64_t pending; /* bytes */
	uint64_t unsafe;  /* rows */
	uint64_t room;    /* bytes that the file system had free after the last write */
	uint64_t removing;
	uint64_t removing_bytes; /* of these files */
	uint64_t removing_floor; /* of what waits to be removed; UINT64_MAX: nothing does */
	uint64_t keeps_asked, keeps_done;
	uint64_t stuck_floor; /* of what could not be */
	int error;
	uint64_t write_retry_ms; /* monotonic; 0 = at once */
	uint64_t sync_retry_ms;
	uint64_t unkeep_retry_ms;
	uint64_t upkeep_ms; /* when kept files, numbers and the reserve are looked at again */
	uint64_t keep_ms;
	uint64_t max_bytes;
	bool may_prune;
	bool use_reserve;
	bool names_wanted; /* removals are to last */
	char database[SPOOL_DATABASE_MAX];
	bool database_wanted; /* it is to be written down */
	uint64_t database_retry_ms;
	bool stop;
	bool over;
	const char *call;
	uint64_t call_since_ms;
};

void disk_jobs_init(struct disk_jobs *jobs);
void disk_jobs_add(struct disk_jobs *jobs, struct disk_job *job);
struct disk_job *disk_jobs_take(struct disk_jobs *jobs);

/* Frees a job with what it holds; the lock is held. */
void disk_job_free(struct disk_job *job);

/* The first job that has files to be renamed, or headers to be taken; the lock is held. */
struct disk_job *disk_unkeep_next(struct disk *d, bool rename);

/* Frees those that are over; likewise. */
void disk_unkeep_end(struct disk *d);

/* Gives a reference back; the lock is held. */
void disk_file_unref(struct disk_file *f);

void *disk_main(void *arg);
