/*
 * disk_thread.c - the disk thread itself.
 *
 * It goes round: some errands, the writes that wait by now, a sync if one is asked for, a slice of
 * kept batches to be unstored, and once a second a look after kept files, numbers and the reserve.
 * The lock is given up for each call of the spool's, which may take seconds.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "buffer/spool/disk_internal.h"
#include "log/log.h"

#define UPKEEP_MS 1000
#define DATABASE_RETRY_MS 60000
#define SLICE_MS 20 /* of what is done in bulk, between two looks at what else waits */

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

/* The call goes on with another file, which is not slow because there were some before it. */
static void
call_again(struct disk *d)
{
	(void)pthread_mutex_lock(&d->lock);
	d->call_since_ms = clock_ms();
	(void)pthread_mutex_unlock(&d->lock);
}

static void
tell(struct disk *d)
{
	(void)pthread_mutex_unlock(&d->lock);
	d->news(d->news_arg);
	(void)pthread_mutex_lock(&d->lock);
}

/*
 * Metrics that are not stored yet need the room more than those that are only kept.  Deletes one of
 * these, if there is one, and counts it.
 */
static bool
give_way(struct disk *d, uint64_t max_bytes, uint64_t *files)
{
	bool gone = spool_release(d->spool, max_bytes, 1) > 0;

	*files += gone;
	call_again(d);
	return gone;
}

static void
say_released(uint64_t files)
{
	if (files)
		log_event_limited(
		    LOG_WARNING, "kept_released", "kept_released", LOG_U64("files", files),
		    LOG_STR("hint", "buffer.spool_limit, or the disk, is too small for "
				    "buffer.keep"));
}

static bool
is_no_space(int r)
{
	return r == -ENOSPC || r == -EDQUOT;
}

/* ---- writes ---- */

/* One block. */
static int
append(struct disk *d, struct disk_job *job, const struct slab *slab)
{
	struct disk_file *f = job->file;
	int r = f->made ? 0 : spool_create(d->spool, f->number, f->created_us, &f->file);

	if (r < 0)
		return r;
	f->made = true;
	return spool_append(f->file, slab->data + job->offset, (uint32_t)job->len,
			    (uint32_t)job->part.rows, job->part.min_us, job->part.max_us);
}

static int
seal(struct disk_file *f)
{
	int r = f->file ? spool_seal(f->file) : 0;

	if (r == 0)
		f->file = NULL;
	return r;
}

/* Sealed files keep their descriptors until they are synced. */
static bool
frees_descriptors(struct disk *d, int r)
{
	return (r == -EMFILE || r == -ENFILE) && spool_sync(d->spool) == 0;
}

/*
 * A full disk takes it once stored batches that are only kept have given way, one after the other:
 * what is not stored yet has no other copy.
 */
static int
append_or_seal(struct disk *d, struct disk_job *job, const struct slab *slab)
{
	uint64_t files = 0;
	int r;

	do
		r = job->task == DISK_WRITE ? append(d, job, slab) : seal(job->file);
	while (is_no_space(r) && give_way(d, 0, &files));
	if (job->task == DISK_WRITE && frees_descriptors(d, r))
		r = append(d, job, slab);
	say_released(files);
	return r;
}

/* A file whose sync failed is written anew, and needs room for that. */
static int
sync_some(struct disk *d)
{
	uint64_t until_ms = clock_ms() + SLICE_MS;
	uint64_t files = 0;
	int r;

	do
		r = spool_sync_some(d->spool, until_ms);
	while (is_no_space(r) && give_way(d, 0, &files));
	say_released(files);
	return r;
}

/* The batch has ended: nothing more is written to its file. */
static void
give_up(struct disk_file *f)
{
	spool_file_free(f->file);
	f->file = NULL;
}

static int
compare_number(const void *key, const void *header)
{
	uint64_t number = *(const uint64_t *)key;
	uint64_t other = ((const struct spool_header *)header)->number;

	return number < other ? -1 : number > other;
}

/*
 * The mark of a kept batch that is stored again before its file has got its name back; NULL when
 * it is none.  It stays valid without the lock, since only the thread ends such a job.
 */
static bool *
mark_of(const struct disk *d, uint64_t number)
{
	for (const struct disk_job *job = d->unkeeps.head; job; job = job->next) {
		const struct spool_header *h =
		    bsearch(&number, job->headers + job->done, job->n - job->done,
			    sizeof(*job->headers), compare_number);

		if (h && !job->named[h - job->headers])
			return &job->named[h - job->headers];
	}
	return NULL;
}

/* Gives the file its name now, so that it is not renamed once more when its turn comes. */
static int
find_name(struct disk *d, uint64_t number, bool *named)
{
	int r = named ? spool_unkeep(d->spool, number) : -ENOENT;

	if (r == 0)
		*named = true;
	return r;
}

static void
remove_file(struct disk *d, uint64_t number, bool keep)
{
	bool *named = mark_of(d, number);
	int r;

	call_begin(d, keep ? "rename" : "unlink");
	r = spool_remove(d->spool, number, keep);
	if (r == -ENOENT) {
		r = find_name(d, number, named);
		if (r == 0)
			r = spool_remove(d->spool, number, keep);
	}
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

	if (!f || f->made)
		remove_file(d, job->number, job->task == DISK_KEEP);
	if (f)
		give_up(f); /* after it: the spool knows better than the disk what it has counted */
	d->keeps_done += job->task == DISK_KEEP;
	d->removing_bytes -= job->len;
	if (--d->removing == 0)
		d->removing_floor = UINT64_MAX;
	d->sync_retry_ms = 0;  /* perhaps it was the file that could not be synced */
	d->write_retry_ms = 0; /* perhaps there is room now */
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
	if (--f->writes > 0)
		return;
	slab_unref(f->slab);
	f->slab = NULL;
}

static void
say_refused(struct disk *d, const struct disk_job *job, int error)
{
	bool inodes;

	call_begin(d, "stat");
	inodes = is_no_space(error) && spool_lacks_inodes(d->spool);
	call_end(d);
	log_event_limited(
	    LOG_ERR, "spool_error", "spool_error", LOG_U64("batch", job->number),
	    LOG_STR("error", inodes ? "no inodes left" : strerror(-error)),
	    LOG_STR("hint", inodes ? "the spool's file system has room, but takes no more files "
				     "(df -i); metrics stay in memory until some are deleted or "
				     "the database has them"
				   : "the spool's file system refuses writes; metrics stay in "
				     "memory until it takes them or the database has them"));
}

static void
refused(struct disk *d, struct disk_job *job, int error)
{
	say_refused(d, job, error);
	d->error = error;
	d->write_retry_ms = clock_ms() + SPOOL_RETRY_MS;
	job->next = d->writes.head; /* it stays the first */
	if (!job->next)
		d->writes.tail = &job->next;
	d->writes.head = job;
	d->writes.n++;
}

/*
 * What a batch that has ended still had to write is left out: that is 1.  Else returns 0, or why it
 * was refused.
 */
static int
do_write(struct disk *d, struct disk_job *job)
{
	struct disk_file *f = job->file;
	struct slab *slab;
	uint64_t room;
	int r = 1;

	if (!f->removed) {
		slab = f->slab ? slab_ref(f->slab) : NULL; /* the batch may end meanwhile */
		call_begin(d, job->task == DISK_WRITE ? "write" : "seal");
		r = append_or_seal(d, job, slab);
		room = spool_free_bytes(d->spool);
		slab_unref(slab);
		call_end(d);
		d->room = room;
	}
	if (r < 0 && !f->removed)
		return r;
	written(d, job);
	return r != 0;
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
		if (r == 0 || !d->writes.head) { /* what is left out tells nothing of the disk */
			d->error = 0;
			d->write_retry_ms = 0;
		}
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

/*
 * What is written when it begins is synced, also if that is not all that was asked for.  With many
 * small files that takes a while, in which others get their turn: batches that are stored meanwhile
 * need no sync.
 */
static void
do_sync(struct disk *d)
{
	int r;

	if (!d->syncing)
		d->syncing_to = d->written;
	call_begin(d, "sync");
	r = sync_some(d);
	call_end(d);
	d->syncing = r > 0;
	d->sync_retry_ms = r < 0 ? clock_ms() + SPOOL_RETRY_MS : 0;
	if (r != 0)
		return; /* not yet, or an error, which the spool has logged; answers wait */
	d->synced = d->syncing_to;
	tell(d);
}

/* The ledger's rows of what was removed stay until this has worked: whoever asks, asks again. */
static void
do_names(struct disk *d)
{
	d->names_wanted = false;
	call_begin(d, "sync");
	(void)spool_sync_names(d->spool);
	call_end(d);
}

static void
do_database(struct disk *d)
{
	char text[SPOOL_DATABASE_MAX];
	int r;

	d->database_wanted = false;
	memcpy(text, d->database, sizeof(text));
	call_begin(d, "write");
	r = spool_database_put(d->spool, text);
	call_end(d);
	if (r == 0)
		return;
	d->database_wanted = true;
	d->database_retry_ms = clock_ms() + DATABASE_RETRY_MS;
}

/* ---- errands ---- */

static void
repair(struct disk *d, struct disk_job *job)
{
	bool *named = mark_of(d, job->number);

	call_begin(d, "repair");
	(void)find_name(d, job->number, named);
	if (job->task == DISK_REPAIR)
		spool_repair(d->spool, job->number);
	else
		spool_set_aside(d->spool, job->number);
	call_end(d);
}

/* Do files that are to be removed take room that others must not have? */
static bool
is_over_limit(const struct disk *d)
{
	return d->removing > 0 && spool_bytes(d->spool) > d->max_bytes;
}

static void
do_errands(struct disk *d)
{
	uint64_t until_ms = clock_ms() + SLICE_MS;
	struct disk_job *job;

	do {
		job = disk_jobs_take(&d->errands);
		if (job->task == DISK_KEEP || job->task == DISK_REMOVE)
			end_file(d, job);
		else
			repair(d, job);
		disk_job_free(job);
	} while (d->errands.head && (clock_ms() < until_ms || is_over_limit(d)));
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
unkeep(struct disk *d, struct disk_job *job, size_t at, int *error)
{
	*error = job->named[at] ? 0 : spool_unkeep(d->spool, job->headers[at].number);
	call_again(d);
	return *error == 0 || *error == -ENOENT;
}

static void
do_unkeep(struct disk *d)
{
	struct disk_job *job = disk_unkeep_next(d, true);
	uint64_t until_ms = clock_ms() + SLICE_MS;
	size_t at = job->done;
	int error;

	call_begin(d, "rename");
	while (unkeep(d, job, at, &error) && ++at < job->n && clock_ms() < until_ms)
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

/* One of the kept files whose time is over. */
static bool
prune(struct disk *d, uint64_t keep_ms)
{
	bool gone = spool_prune(d->spool, keep_ms, 1) > 0;

	call_again(d);
	return gone;
}

static void
do_upkeep(struct disk *d)
{
	uint64_t keep_ms = d->may_prune || !d->keep_ms ? d->keep_ms : UINT64_MAX;
	uint64_t max_bytes = d->max_bytes, until_ms = clock_ms() + SLICE_MS;
	uint64_t files = 0;
	bool gone;

	call_begin(d, "upkeep");
	if (spool_numbers_low(d->spool))
		reserve_numbers(d);
	if (spool_reserve_missing(d->spool))
		(void)spool_reserve_make(d->spool);
	do
		gone = prune(d, keep_ms) || give_way(d, max_bytes, &files);
	while (gone && clock_ms() < until_ms);
	say_released(files);
	call_end(d);
	d->upkeep_ms = gone ? 0 : clock_ms() + UPKEEP_MS;
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

	sooner(&due, d->errands.head || d->use_reserve || d->names_wanted, 0);
	sooner(&due, d->writes.head, d->write_retry_ms);
	sooner(&due, sync_due(d), d->sync_retry_ms);
	sooner(&due, d->unkeeping > 0, d->unkeep_retry_ms);
	sooner(&due, d->database_wanted, d->database_retry_ms);
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
		do_errands(d);
	do_writes(d);
	if (sync_due(d) && d->sync_retry_ms <= now_ms)
		do_sync(d);
	if (d->names_wanted)
		do_names(d);
	if (d->database_wanted && d->database_retry_ms <= now_ms)
		do_database(d);
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
	while (d->errands.head || (d->writes.head && !d->error) ||
	       (d->unkeeping > 0 && !d->unkeep_retry_ms));
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
