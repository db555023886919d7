/* disk.c - what others hand over to the disk thread, and what they hear of it. */
#include "buffer/spool/disk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/thread.h"
#include "buffer/spool/disk_internal.h"
#include "log/log.h"

/* ---- jobs; the lock is held ---- */

void
disk_jobs_init(struct disk_jobs *jobs)
{
	jobs->head = NULL;
	jobs->tail = &jobs->head;
	jobs->n = 0;
}

void
disk_jobs_add(struct disk_jobs *jobs, struct disk_job *job)
{
	job->next = NULL;
	*jobs->tail = job;
	jobs->tail = &job->next;
	jobs->n++;
}

struct disk_job *
disk_jobs_take(struct disk_jobs *jobs)
{
	struct disk_job *job = jobs->head;

	if (!job)
		return NULL;
	jobs->head = job->next;
	if (!jobs->head)
		jobs->tail = &jobs->head;
	jobs->n--;
	return job;
}

void
disk_file_unref(struct disk_file *f)
{
	if (--f->refs > 0)
		return;
	slab_unref(f->slab);
	free(f);
}

void
disk_job_free(struct disk_job *job)
{
	if (job->file)
		disk_file_unref(job->file);
	free(job->headers);
	free(job->named);
	free(job);
}

static void
jobs_free(struct disk_jobs *jobs)
{
	struct disk_job *job;

	while ((job = disk_jobs_take(jobs)))
		disk_job_free(job);
}

/* Has the thread look again, if it is not on its way anyway. */
static void
poke(struct disk *d)
{
	if (d->waiting)
		(void)pthread_cond_signal(&d->wake);
}

/* Takes a reference of f (NULL: none). */
static int
hand_over(struct disk *d, struct disk_jobs *jobs, enum disk_task task, struct disk_file *f,
	  uint64_t number)
{
	struct disk_job *job = calloc(1, sizeof(*job));

	if (!job)
		return -ENOMEM;
	job->task = task;
	job->number = number;
	job->file = f;
	(void)pthread_mutex_lock(&d->lock);
	if (f)
		f->refs++;
	disk_jobs_add(jobs, job);
	poke(d);
	(void)pthread_mutex_unlock(&d->lock);
	return 0;
}

/* ---- start and stop ---- */

static void
init_locks(struct disk *d)
{
	(void)pthread_mutex_init(&d->lock, NULL);
	(void)thread_cond_init(&d->wake);
	(void)thread_cond_init(&d->ended);
}

/* Which one was stored in is not worth a refusal to start; but who cannot know it shall say so. */
static void
recall_database(struct disk *d)
{
	int r = spool_database_get(d->spool, d->database);

	if (r == 0)
		return;
	d->database[0] = '\0';
	if (r != -ENOENT)
		log_event(LOG_WARNING, "spool_error", LOG_STR("file", SPOOL_DATABASE),
			  LOG_STR("error", strerror(-r)),
			  LOG_STR("hint", "nobody knows in which database the batches before were "
					  "stored: the one that is met next is taken for it"));
}

int
disk_start(struct spool *s, enum conf_sync sync, void (*news)(void *arg), void *arg,
	   struct disk **ret)
{
	struct disk *d = calloc(1, sizeof(*d));
	int r;

	if (!d)
		return -ENOMEM;
	d->spool = s;
	d->sync = sync;
	d->news = news;
	d->news_arg = arg;
	d->keep_ms = d->max_bytes = UINT64_MAX; /* until disk_set_limits() */
	d->removing_floor = d->stuck_floor = UINT64_MAX;
	d->room = spool_free_bytes(s);
	recall_database(d);
	disk_jobs_init(&d->writes);
	disk_jobs_init(&d->errands);
	disk_jobs_init(&d->unkeeps);
	init_locks(d);
	r = thread_start(&d->thread, "disk", disk_main, d);
	if (r < 0) {
		d->over = true;
		disk_free(d);
		return r;
	}
	d->started = true;
	*ret = d;
	return 0;
}

bool
disk_stop(struct disk *d, uint64_t ms)
{
	uint64_t until_ms = clock_ms() + ms;
	const struct timespec until = clock_timespec(until_ms);
	bool over;

	(void)pthread_mutex_lock(&d->lock);
	d->stop = true;
	(void)pthread_cond_signal(&d->wake);
	while (!d->over && clock_ms() < until_ms)
		(void)pthread_cond_timedwait(&d->ended, &d->lock, &until);
	over = d->over;
	(void)pthread_mutex_unlock(&d->lock);
	return over;
}

void
disk_free(struct disk *d)
{
	if (!d)
		return;
	if (d->started)
		(void)pthread_join(d->thread, NULL);
	jobs_free(&d->writes);
	jobs_free(&d->errands);
	jobs_free(&d->unkeeps);
	(void)pthread_cond_destroy(&d->ended);
	(void)pthread_cond_destroy(&d->wake);
	(void)pthread_mutex_destroy(&d->lock);
	free(d);
}

/* ---- writes ---- */

uint64_t
disk_number(struct disk *d)
{
	uint64_t number = spool_number(d->spool);

	if (!spool_numbers_low(d->spool))
		return number;
	(void)pthread_mutex_lock(&d->lock);
	poke(d);
	(void)pthread_mutex_unlock(&d->lock);
	return number;
}

struct disk_file *
disk_create(struct disk *d, uint64_t number, uint64_t created_us)
{
	struct disk_file *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->disk = d;
	f->number = number;
	f->created_us = created_us;
	f->refs = 1;
	return f;
}

/*
 * The last job, if these frames continue what it is to write.  A job that the thread has taken is
 * not in the list any more.
 */
static struct disk_job *
job_to_lengthen(const struct disk *d, const struct disk_file *f, size_t offset, size_t len)
{
	struct disk_job *job = d->last_write;

	if (!job || job->file != f || job->offset + job->len != offset ||
	    job->len + len > DISK_BLOCK_BYTES)
		return NULL;
	return job;
}

static int
add_write(struct disk *d, struct disk_file *f, size_t offset, size_t len,
	  const struct batch_part *part)
{
	struct disk_job *job = calloc(1, sizeof(*job));

	if (!job)
		return -ENOMEM;
	job->task = DISK_WRITE;
	job->number = f->number;
	job->file = f;
	job->offset = offset;
	job->len = len;
	job->part = *part;
	f->refs++;
	f->writes++;
	disk_jobs_add(&d->writes, job);
	d->last_write = job;
	return 1;
}

/* A file that is written needs one slab, the newest: the others' content is there, too. */
static void
hold_slab(struct disk_file *f, struct slab *slab)
{
	if (f->slab == slab)
		return;
	slab_unref(f->slab);
	f->slab = slab_ref(slab);
}

int
disk_append(struct disk_file *f, struct slab *slab, size_t offset, size_t len,
	    const struct batch_part *part)
{
	struct disk *d = f->disk;
	struct disk_job *job;
	int r = 0;

	(void)pthread_mutex_lock(&d->lock);
	job = job_to_lengthen(d, f, offset, len);
	if (job) {
		job->len += len;
		batch_part_add(&job->part, part);
	} else {
		r = add_write(d, f, offset, len, part);
	}
	if (r >= 0) {
		hold_slab(f, slab);
		d->appended += len;
		d->pending += len;
		d->unsafe += part->rows;
		f->unsafe += part->rows;
		poke(d);
	}
	(void)pthread_mutex_unlock(&d->lock);
	return r;
}

int
disk_seal(struct disk_file *f)
{
	return hand_over(f->disk, &f->disk->writes, DISK_SEAL, f, f->number);
}

void
disk_release(struct disk_file *f)
{
	struct disk *d = f ? f->disk : NULL;

	if (!f)
		return;
	(void)pthread_mutex_lock(&d->lock);
	disk_file_unref(f);
	(void)pthread_mutex_unlock(&d->lock);
}

void
disk_sync(struct disk *d)
{
	(void)pthread_mutex_lock(&d->lock);
	if (d->sync_wanted < d->appended) {
		d->sync_wanted = d->appended;
		poke(d);
	}
	(void)pthread_mutex_unlock(&d->lock);
}

/* ---- errands ---- */

/* What it had to write is left out; the lock is held. */
static void
file_removed(struct disk *d, struct disk_file *f)
{
	f->removed = true;
	d->unsafe -= f->unsafe;
	f->unsafe = 0;
	slab_unref(f->slab);
	f->slab = NULL;
}

static void
end_batch(struct disk *d, enum disk_task task, struct disk_file *f, uint64_t number, uint64_t bytes)
{
	struct disk_job *job = calloc(1, sizeof(*job));

	(void)pthread_mutex_lock(&d->lock);
	if (f)
		file_removed(d, f);
	if (job) {
		job->task = task;
		job->number = number;
		job->file = f;
		job->len = bytes;
		if (f)
			f->refs++;
		d->removing++;
		d->removing_bytes += bytes;
		d->keeps_asked += task == DISK_KEEP;
		if (number < d->removing_floor)
			d->removing_floor = number;
		disk_jobs_add(&d->errands, job);
		poke(d);
	} else if (number < d->stuck_floor) {
		d->stuck_floor = number; /* it stays, and the next start finds it in the ledger */
	}
	(void)pthread_mutex_unlock(&d->lock);
}

void
disk_remove(struct disk *d, struct disk_file *f, uint64_t number, uint64_t bytes)
{
	end_batch(d, DISK_REMOVE, f, number, bytes);
	disk_release(f);
}

void
disk_keep(struct disk *d, uint64_t number, uint64_t bytes)
{
	end_batch(d, DISK_KEEP, NULL, number, bytes);
}

void
disk_set_limits(struct disk *d, uint64_t keep_ms, uint64_t max_bytes)
{
	(void)pthread_mutex_lock(&d->lock);
	d->keep_ms = keep_ms;
	d->max_bytes = max_bytes;
	d->upkeep_ms = 0;
	poke(d);
	(void)pthread_mutex_unlock(&d->lock);
}

void
disk_may_prune(struct disk *d)
{
	(void)pthread_mutex_lock(&d->lock);
	d->may_prune = true;
	(void)pthread_mutex_unlock(&d->lock);
}

void
disk_put_database(struct disk *d, const char *text)
{
	(void)pthread_mutex_lock(&d->lock);
	(void)snprintf(d->database, sizeof(d->database), "%s", text);
	d->database_wanted = true;
	d->database_retry_ms = 0;
	poke(d);
	(void)pthread_mutex_unlock(&d->lock);
}

void
disk_database(struct disk *d, char text[SPOOL_DATABASE_MAX])
{
	(void)pthread_mutex_lock(&d->lock);
	memcpy(text, d->database, sizeof(d->database));
	(void)pthread_mutex_unlock(&d->lock);
}

void
disk_use_reserve(struct disk *d)
{
	(void)pthread_mutex_lock(&d->lock);
	d->use_reserve = true;
	poke(d);
	(void)pthread_mutex_unlock(&d->lock);
}

void
disk_repair(struct disk *d, uint64_t number, bool all)
{
	/* without memory for the job, the next one who reads the file finds the damage again */
	(void)hand_over(d, &d->errands, all ? DISK_SET_ASIDE : DISK_REPAIR, NULL, number);
}

int
disk_unkeep(struct disk *d, struct spool_header *headers, size_t n)
{
	struct disk_job *job = calloc(1, sizeof(*job));
	bool *named = calloc(n, sizeof(*named));

	if (!job || !named) {
		free(job);
		free(named);
		free(headers);
		return -ENOMEM;
	}
	job->task = DISK_UNKEEP;
	job->headers = headers;
	job->named = named;
	job->n = n;
	(void)pthread_mutex_lock(&d->lock);
	disk_jobs_add(&d->unkeeps, job);
	d->unkeeping += n;
	poke(d);
	(void)pthread_mutex_unlock(&d->lock);
	d->news(d->news_arg);
	return 0;
}

/* ---- what has been done ---- */

void
disk_progress(struct disk *d, struct disk_progress *ret)
{
	(void)pthread_mutex_lock(&d->lock);
	*ret = (struct disk_progress){
	    .written = d->written,
	    .synced = d->sync == CONF_SYNC_NEVER ? d->written : d->synced,
	    .sealed = d->sealed,
	    .pending = d->pending,
	    .unsafe = d->unsafe,
	    .jobs = d->writes.n + d->errands.n,
	    .job_bytes = (d->writes.n + d->errands.n) * sizeof(struct disk_job),
	    .room = d->room,
	    .removing = d->removing,
	    .removing_bytes = d->removing_bytes,
	    .unkeeping = d->unkeeping,
	    .error = d->error,
	    .sync_fails = d->sync_retry_ms > 0,
	    .unkeep_fails = d->unkeep_retry_ms > 0,
	    .call = d->call,
	    .call_ms = d->call ? clock_ms() - d->call_since_ms : 0,
	};
	(void)pthread_mutex_unlock(&d->lock);
}

struct disk_job *
disk_unkeep_next(struct disk *d, bool rename)
{
	struct disk_job *job = d->unkeeps.head;

	while (job && (rename ? job->done : job->taken) == job->n)
		job = job->next;
	return job;
}

void
disk_unkeep_end(struct disk *d)
{
	struct disk_job *job;

	while ((job = d->unkeeps.head) && job->done == job->n && job->taken == job->n)
		disk_job_free(disk_jobs_take(&d->unkeeps));
}

size_t
disk_take_unkept(struct disk *d, struct spool_header *out, size_t max)
{
	struct disk_job *job;
	size_t n = 0;

	(void)pthread_mutex_lock(&d->lock);
	while (n < max && (job = disk_unkeep_next(d, false)))
		while (n < max && job->taken < job->n)
			out[n++] = job->headers[job->taken++];
	disk_unkeep_end(d);
	(void)pthread_mutex_unlock(&d->lock);
	return n;
}

uint64_t
disk_floor(struct disk *d)
{
	uint64_t floor, gone;

	(void)pthread_mutex_lock(&d->lock);
	floor = d->removing_floor < d->stuck_floor ? d->removing_floor : d->stuck_floor;
	if (spool_left_floor(d->spool) < floor)
		floor = spool_left_floor(d->spool);
	gone = spool_gone_floor(d->spool); /* after it: what is removed is either here or there */
	if (gone != UINT64_MAX) {
		d->names_wanted = true;
		poke(d);
	}
	(void)pthread_mutex_unlock(&d->lock);
	return gone < floor ? gone : floor;
}

uint64_t
disk_keeps_asked(struct disk *d)
{
	uint64_t n;

	(void)pthread_mutex_lock(&d->lock);
	n = d->keeps_asked;
	(void)pthread_mutex_unlock(&d->lock);
	return n;
}

uint64_t
disk_keeps_done(struct disk *d)
{
	uint64_t n;

	(void)pthread_mutex_lock(&d->lock);
	n = d->keeps_done;
	(void)pthread_mutex_unlock(&d->lock);
	return n;
}
