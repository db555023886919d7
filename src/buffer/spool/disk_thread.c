/*
 * disk_thread.c - the disk thread itself.
 *
 * It goes round: one errand, the writes that wait by now, a sync if one is asked for, a slice of
 * kept batches to be unstored, and once a second a look after kept files, numbers and the reserve.
 * The lock is given up for each call of the spool's, which may take seconds.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "buffer/spool/disk_internal.h"
#include "log/log.h"

#define UPKEEP_MS 1000
#define UPKEEP_FILES 256 /* deleted between two looks at what else waits */
#define UNKEEP_MS 20     /* of renaming, likewise */

/* ---- calls ---- */

/* From here to call_end() the lock is not held, and others see what the thread does. */
static void
call_begin(struct disk *d, const char *what)
{
	d->call = what;
	d->call_since_ms = clock_ms();
	(void)pthread_mutex_unlock(&d->lock);
}

static void
call_end(struct disk *d)
{
	(void)pthread_mutex_lock(&d->lock);
	d->call = NULL;
}

static void
tell(struct disk *d)
{
	(void)pthread_mutex_unlock(&d->lock);
	d->news(d->news_arg);
	(void)pthread_mutex_lock(&d->lock);
}

/* Metrics that are not stored yet need the room more than those that are. */
static size_t
give_way(const struct disk *d, uint64_t max_bytes, size_t most)
{
	size_t files = spool_release(d->spool, max_bytes, most);

	if (files)
		log_event_limited(
		    LOG_WARNING, "kept_released", "kept_released", LOG_U64("files", files),
		    LOG_STR("hint", "buffer.spool_limit, or the disk, is too small for "
				    "buffer.keep"));
	return files;
}

/* ---- writes ---- */

/*
 * One block.  A full disk takes it once stored batches that are only kept have given way, one after
 * the other: what is not stored yet has no other copy.
 */
static int
append(struct disk *d, struct disk_job *job)
{
	struct disk_file *f = job->file;
	int r;

	do {
		r = f->made ? 0 : spool_create(d->spool, f->number, f->created_us, &f->file);
		if (r == 0) {
			f->made = true;
			r = spool_append(f->file, job->slab->data + job->offset, (uint32_t)job->len,
					 (uint32_t)job->part.rows, job->part.min_us,
					 job->part.max_us);
		}
	} while ((r == -ENOSPC || r == -EDQUOT) && give_way(d, 0, 1));
	return r;
}

static int
seal(struct disk_file *f)
{
	int r = f->file ? spool_seal(f->file) : 0;

	if (r == 0)
		f->file = NULL;
	return r;
}

/* The batch has ended: nothing more is written to its file. */
static void
give_up(struct disk_file *f)
{
	spool_file_free(f->file);
	f->file = NULL;
}

/* A kept batch that was stored again may still have to get its name back. */
static int
find_name(struct disk *d, uint64_t number, bool may_be_kept)
{
	return may_be_kept ? spool_unkeep(d->spool, number) : -ENOENT;
}

static void
remove_file(struct disk *d, uint64_t number, bool keep)
{
	bool may_be_kept = d->unkeeping > 0;
	int r;

	call_begin(d, keep ? "rename" : "unlink");
	r = spool_remove(d->spool, number, keep);
	if (r == -ENOENT && find_name(d, number, may_be_kept) == 0)
		r = spool_remove(d->spool, number, keep);
	call_end(d);
	if (r == 0 || r == -ENOENT)
		return;
	log_event_limited(LOG_WARNING, "spool_error/remove", "spool_error",
			  LOG_U64("batch", number), LOG_STR("error", strerror(-r)));
	if (number < d->stuck_floor)
		d->stuck_floor = number;
}

static void
end_file(struct disk *d, struct disk_job *job)
{
	struct disk_file *f = job->file;

	if (f)
		give_up(f);
	if (!f || f->made)
		remove_file(d, job->number, job->task == DISK_KEEP);
	d->keeps_done += job->task == DISK_KEEP;
	if (--d->removing == 0)
		d->removing_floor = UINT64_MAX;
	d->sync_retry_ms = 0;  /* perhaps it was the file that could not be synced */
	d->write_retry_ms = 0; /* perhaps there is room now */
}

/* Without the lock. */
static int
write_job(struct disk *d, struct disk_job *job)
{
	return job->task == DISK_WRITE ? append(d, job) : seal(job->file);
}

static void
written(struct disk *d, const struct disk_job *job)
{
	struct disk_file *f = job->file;

	if (job->task == DISK_SEAL)
		d->sealed++;
	if (job->task != DISK_WRITE)
		return;
	d->written += job->len;
	d->pending -= job->len;
	if (f->removed)
		return;
	d->unsafe -= job->part.rows;
	f->unsafe -= job->part.rows;
}

static void
refused(struct disk *d, struct disk_job *job, int error)
{
	log_event_limited(LOG_ERR, "spool_error", "spool_error", LOG_U64("batch", job->number),
			  LOG_STR("error", strerror(-error)),
			  LOG_STR("hint", "the spool's file system refuses writes; metrics stay in "
					  "memory until it takes them or the database has them"));
	d->error = error;
	d->write_retry_ms = clock_ms() + SPOOL_RETRY_MS;
	job->next = d->writes.head; /* it stays the first */
	if (!job->next)
		d->writes.tail = &job->next;
	d->writes.head = job;
	d->writes.n++;
}

/* What a batch that has ended still had to write is left out.  Returns 0, or why it was refused. */
static int
do_write(struct disk *d, struct disk_job *job)
{
	uint64_t room = d->room;
	int r = 0;

	if (!job->file->removed) {
		call_begin(d, job->task == DISK_WRITE ? "write" : "seal");
		r = write_job(d, job);
		room = spool_free_bytes(d->spool);
		call_end(d);
		d->room = room;
	}
	if (r < 0 && !job->file->removed)
		return r;
	written(d, job);
	return 0;
}

/* Those that wait by now: others must get their turn, too. */
static void
do_writes(struct disk *d)
{
	bool news = false;

	for (size_t n = d->writes.n; n && d->write_retry_ms <= clock_ms(); n--) {
		struct disk_job *job = disk_jobs_take(&d->writes);
		bool had_error = d->error != 0;
		int r;

		if (job == d->last_write)
			d->last_write = NULL;
		r = do_write(d, job);
		if (r < 0) {
			refused(d, job, r);
			news |= !had_error;
			break;
		}
		d->error = 0;
		d->write_retry_ms = 0;
		news |= had_error || job->task != DISK_WRITE;
		disk_job_free(job);
	}
	if (news)
		tell(d);
}

/* ---- syncs ---- */

static bool
sync_due(const struct disk *d)
{
	return d->sync_wanted > d->synced && d->written > d->synced;
}

/* What is written by now is synced, also if that is not all that was asked for. */
static void
do_sync(struct disk *d)
{
	uint64_t position = d->written;
	int r;

	call_begin(d, "sync");
	r = spool_sync(d->spool);
	call_end(d);
	d->sync_retry_ms = r < 0 ? clock_ms() + SPOOL_RETRY_MS : 0;
	if (r < 0)
		return; /* the spool has logged it; answers wait */
	d->synced = position;
	tell(d);
}

/* ---- errands ---- */

static void
do_errand(struct disk *d)
{
	struct disk_job *job = disk_jobs_take(&d->errands);
	bool may_be_kept = d->unkeeping > 0;

	if (job->task == DISK_KEEP || job->task == DISK_REMOVE) {
		end_file(d, job);
	} else {
		call_begin(d, "repair");
		(void)find_name(d, job->number, may_be_kept);
		if (job->task == DISK_REPAIR)
			spool_repair(d->spool, job->number);
		else
			spool_set_aside(d->spool, job->number);
		call_end(d);
	}
	disk_job_free(job);
	tell(d);
}

static void
do_reserve(struct disk *d)
{
	d->use_reserve = false;
	call_begin(d, "unlink");
	(void)spool_reserve_use(d->spool);
	call_end(d);
	d->write_retry_ms = 0;
}

/* ---- batches that are to be stored again ---- */

/* One that is gone has been stored and removed meanwhile, or whoever reads it will say so. */
static bool
unkeep(struct disk *d, uint64_t number, int *error)
{
	*error = spool_unkeep(d->spool, number);
	return *error == 0 || *error == -ENOENT;
}

static void
do_unkeep(struct disk *d)
{
	struct disk_job *job = disk_unkeep_next(d, true);
	uint64_t until_ms = clock_ms() + UNKEEP_MS;
	size_t at = job->done;
	int error;

	call_begin(d, "rename");
	while (unkeep(d, job->headers[at].number, &error) && ++at < job->n && clock_ms() < until_ms)
		;
	call_end(d);
	d->unkeeping -= at - job->done;
	job->done = at;
	disk_unkeep_end(d);
	d->unkeep_retry_ms = 0;
	if (error == 0 || error == -ENOENT)
		return;
	d->unkeep_retry_ms = clock_ms() + SPOOL_RETRY_MS;
	log_event_limited(
	    LOG_WARNING, "spool_error/unkeep", "spool_error", LOG_STR("error", strerror(-error)),
	    LOG_STR("hint", "a batch that the database lacks cannot get its name back; "
			    "a restart would take it for stored"));
}

/* ---- once a second ---- */

static void
reserve_numbers(struct disk *d)
{
	int r = spool_numbers_reserve(d->spool);

	if (r < 0)
		log_event_limited(
		    LOG_ERR, "spool_error/sequence", "spool_error", LOG_STR("error", strerror(-r)),
		    LOG_STR("hint", "the spool's file system refuses writes; once the numbers "
				    "for batches are used up, nothing more is received"));
}

static void
do_upkeep(struct disk *d)
{
	uint64_t keep_ms = d->keep_ms, max_bytes = d->max_bytes;
	size_t files;

	call_begin(d, "upkeep");
	if (spool_numbers_low(d->spool))
		reserve_numbers(d);
	if (spool_reserve_missing(d->spool))
		(void)spool_reserve_make(d->spool);
	files = spool_prune(d->spool, keep_ms, UPKEEP_FILES);
	if (files < UPKEEP_FILES)
		files = give_way(d, max_bytes, UPKEEP_FILES);
	call_end(d);
	d->upkeep_ms = files == UPKEEP_FILES ? 0 : clock_ms() + UPKEEP_MS;
}

/* When; 0 = now, UINT64_MAX where there is nothing to look after. */
static uint64_t
upkeep_due_ms(const struct disk *d)
{
	uint64_t kept = spool_kept_bytes(d->spool);

	if (kept && spool_bytes(d->spool) > d->max_bytes)
		return 0;
	if (kept || spool_numbers_low(d->spool) || spool_reserve_missing(d->spool))
		return d->upkeep_ms;
	return UINT64_MAX;
}

/* ---- the thread ---- */

static void
sooner(uint64_t *due_ms, bool wanted, uint64_t ms)
{
	if (wanted && ms < *due_ms)
		*due_ms = ms;
}

/* When there is something to do: 0 = now, UINT64_MAX = nothing. */
static uint64_t
due_ms(const struct disk *d)
{
	uint64_t due = upkeep_due_ms(d);

	sooner(&due, d->errands.head || d->use_reserve, 0);
	sooner(&due, d->writes.head, d->write_retry_ms);
	sooner(&due, sync_due(d), d->sync_retry_ms);
	sooner(&due, d->unkeeping > 0, d->unkeep_retry_ms);
	return due;
}

static void
wait_for_work(struct disk *d)
{
	uint64_t due = due_ms(d);

	d->waiting = true;
	while (!d->stop && due > clock_ms()) {
		const struct timespec until = clock_timespec(due);

		if (due == UINT64_MAX)
			(void)pthread_cond_wait(&d->wake, &d->lock);
		else
			(void)pthread_cond_timedwait(&d->wake, &d->lock, &until);
		due = due_ms(d);
	}
	d->waiting = false;
}

static void
go_round(struct disk *d)
{
	uint64_t now_ms = clock_ms();

	if (d->use_reserve)
		do_reserve(d);
	if (d->errands.head)
		do_errand(d);
	do_writes(d);
	if (sync_due(d) && d->sync_retry_ms <= now_ms)
		do_sync(d);
	if (d->unkeeping > 0 && d->unkeep_retry_ms <= now_ms)
		do_unkeep(d);
	if (upkeep_due_ms(d) <= now_ms)
		do_upkeep(d);
}

/* What is left at a stop is done as far as the disk takes it; each write gets one more try. */
static void
finish(struct disk *d)
{
	d->write_retry_ms = 0;
	do
		go_round(d);
	while (d->errands.head || (d->writes.head && !d->error));
	if (d->sync == CONF_SYNC_NEVER)
		return;
	call_begin(d, "sync");
	if (spool_sync(d->spool) < 0)
		(void)spool_sync(d->spool); /* a file that is written anew may work at once */
	call_end(d);
}

void *
disk_main(void *arg)
{
	struct disk *d = arg;

	(void)pthread_setname_np(pthread_self(), "disk");
	(void)pthread_mutex_lock(&d->lock);
	while (!d->stop) {
		wait_for_work(d);
		go_round(d);
	}
	finish(d);
	d->over = true;
	(void)pthread_cond_broadcast(&d->ended);
	(void)pthread_mutex_unlock(&d->lock);
	return NULL;
}
