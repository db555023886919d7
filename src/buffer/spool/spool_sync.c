/*
 * A ticket is a number that goes up with each request.  A round takes the greatest one, syncs every
 * file that has changed by then, and only if all of that has worked is the ticket, with
 * all below it, safe.  Requests that arrive during a round share the next one.
 */
#include "buffer/spool/spool_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/crash_point.h"
#include "log/log.h"

/* ---- a file whose fdatasync failed ---- */

/*
 * After a failed fdatasync the kernel takes the pages for clean, and calling it again would
 * report success for data that never reached the disk.  So the content is read back (the page
 * cache may still have it, or the disk) and, if it is sound, written to a new file.
 */

/* Copies whole blocks that hold so many metrics; -EIO if they are not there any more. */
static int
copy_blocks(int from, int to, const struct spool_summary *begin, const struct spool_summary *end)
{
	size_t len = (size_t)(end->file_size - begin->file_size);
	struct spool_summary have = {0};
	size_t got, torn;
	uint8_t *data;
	int r;

	if (len == 0)
		return 0;
	data = malloc(len);
	if (!data)
		return -ENOMEM;
	r = io_read(from, data, len, begin->file_size, &got);
	if (r == 0) {
		spool_walk(data, got, &(struct spool_walk){0}, &have, &torn);
		if (have.blocks != end->blocks - begin->blocks ||
		    have.rows != end->rows - begin->rows || have.bytes != end->bytes - begin->bytes)
			r = -EIO;
	}
	if (r == 0)
		r = io_write(to, data, len, begin->file_size);
	free(data);
	return r;
}

static int
write_header(int fd, const struct spool_header *h)
{
	uint8_t header[SPOOL_FILE_HEADER];

	spool_header_encode(header, h);
	return io_write(fd, header, sizeof(header), 0);
}

/* Gives the copy the file's name, whatever that is now. */
static int
copy_takes_name(struct spool_file *f, const char *copy)
{
	struct spool *s = f->spool;
	char name[SPOOL_NAME_MAX];
	bool removed, kept;
	int r = 0;

	(void)pthread_mutex_lock(&s->names);
	(void)pthread_mutex_lock(&s->lock);
	removed = f->removed;
	kept = f->kept;
	(void)pthread_mutex_unlock(&s->lock);
	spool_name_as(name, f->header.number, kept ? SPOOL_STORED : SPOOL_BATCH);
	if (removed)
		r = -ENOENT;
	else if (renameat(s->fd, copy, s->fd, name) < 0)
		r = -errno;
	(void)pthread_mutex_unlock(&s->names);
	return r;
}

/* Adds to the copy what the loop has appended meanwhile, and has the loop go on with it. */
static int
copy_takes_over(struct spool_file *f, int fd, const char *copy, const struct spool_summary *copied,
		uint64_t *changes)
{
	int r;

	(void)pthread_mutex_lock(&f->lock);
	r = copy_blocks(f->fd, fd, copied, &f->header.summary);
	if (r == 0)
		r = write_header(fd, &f->header);
	if (r == 0)
		r = copy_takes_name(f, copy);
	if (r == 0) {
		(void)close(f->fd);
		f->fd = fd;
		f->longer = false;
		*changes = f->changes;
	}
	(void)pthread_mutex_unlock(&f->lock);
	return r;
}

static int
file_rewrite(struct spool *s, struct spool_file *f)
{
	static const struct spool_summary empty = {.file_size = SPOOL_FILE_HEADER};
	struct spool_header snapshot;
	char copy[SPOOL_NAME_MAX];
	uint64_t changes = 0;
	int fd, r;

	(void)pthread_mutex_lock(&f->lock);
	snapshot = f->header;
	(void)pthread_mutex_unlock(&f->lock);
	spool_name_as(copy, snapshot.number, SPOOL_NEW);
	fd = openat(s->fd, copy, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	/* the bulk without the lock; only this thread ever changes f->fd */
	r = copy_blocks(f->fd, fd, &empty, &snapshot.summary);
	if (r == 0)
		r = write_header(fd, &snapshot);
	if (r == 0)
		r = io_sync(s, fd);
	if (r == 0)
		r = copy_takes_over(f, fd, copy, &snapshot.summary, &changes);
	if (r < 0) {
		(void)close(fd);
		(void)unlinkat(s->fd, copy, 0);
		return r;
	}
	f->named = false;
	r = io_sync(s, fd);
	if (r < 0)
		return r; /* then the copy is no better, and is copied in turn */
	f->failed = false;
	f->synced = changes;
	return 0;
}

/* ---- a round ---- */

static int
file_sync(struct spool *s, struct spool_file *f)
{
	uint64_t changes = f->changes;
	int r = 0;

	if (!f->failed) {
		r = io_sync(s, f->fd);
		if (r == 0) {
			f->synced = changes;
			return 0;
		}
		f->failed = true;
		log_event_limited(
		    LOG_ERR, "spool_error/fdatasync", "spool_error",
		    LOG_U64("batch", f->header.number), LOG_STR("error", strerror(-r)),
		    LOG_STR("hint", "the spool's disk lost a write; the file is being "
				    "written anew"));
	}
	return file_rewrite(s, f);
}

static bool
file_removed(struct spool_file *f)
{
	bool removed;

	(void)pthread_mutex_lock(&f->spool->lock);
	removed = f->removed;
	(void)pthread_mutex_unlock(&f->spool->lock);
	return removed;
}

/* Syncs what has changed.  What was removed needs no disk: the database has it. */
static int
files_sync(struct spool *s, struct spool_file *list)
{
	bool directory = false;
	int error = 0;

	for (struct spool_file *f = list; f; f = f->sync_next) {
		int r = 0;

		if (file_removed(f))
			continue;
		if (f->synced != f->changes)
			r = file_sync(s, f);
		if (r < 0 && !file_removed(f))
			error = r;
		directory |= !f->named;
	}
	if (!directory)
		return error;
	if (error == 0)
		error = io_sync(s, s->fd);
	if (error < 0)
		return error;
	for (struct spool_file *f = list; f; f = f->sync_next)
		f->named = true;
	return 0;
}

/* sync = never closes files as they are, so only the whole file system can be synced. */
static int
all_sync(struct spool *s)
{
	spool_sync_hook *hook = s->hook;

	if (hook)
		return hook(s->hook_arg, s->fd);
	return syncfs(s->fd) < 0 ? -errno : 0;
}

/* All files that are open now, each with a reference; spool.lock is held. */
static struct spool_file *
files_borrow(struct spool *s)
{
	struct spool_file *list = NULL;

	for (struct spool_file *f = s->files; f; f = f->next) {
		f->refs++;
		f->sync_next = list;
		list = f;
	}
	return list;
}

/* Closes those that nobody needs any more. */
static void
files_return(struct spool *s, struct spool_file *list)
{
	while (list) {
		struct spool_file *f = list;
		bool finished;

		list = f->sync_next;
		(void)pthread_mutex_lock(&s->lock);
		/* with sync = never, closing took it off the list */
		finished = f->closed && s->sync != CONF_SYNC_NEVER &&
			   (f->removed || (f->synced == f->changes && f->named));
		if (finished)
			spool_file_unlist(s, f);
		(void)pthread_mutex_unlock(&s->lock);
		spool_file_put(f);
		if (finished)
			spool_file_put(f);
	}
}

static void
report(struct spool *s, uint64_t ticket, int error)
{
	bool changed;

	(void)pthread_mutex_lock(&s->notify);
	changed = s->sync_error != -error || (error == 0 && s->synced != ticket);
	s->sync_error = -error;
	if (error == 0)
		s->synced = ticket;
	if (changed && s->on_synced)
		s->on_synced(s->on_synced_arg);
	(void)pthread_mutex_unlock(&s->notify);
}

/* spool.lock is held before and after, not during. */
static void
sync_round(struct spool *s)
{
	uint64_t ticket = s->requested;
	struct spool_file *list = files_borrow(s);
	bool everything = s->closed_unsynced;
	int r;

	s->closed_unsynced = false;
	s->reap = false;
	s->retry_ms = 0;
	(void)pthread_mutex_unlock(&s->lock);
	crash_point("before_sync");
	r = files_sync(s, list);
	if (r == 0 && everything)
		r = all_sync(s);
	crash_point("after_sync");
	files_return(s, list);
	report(s, ticket, r);
	(void)pthread_mutex_lock(&s->lock);
	if (r < 0) {
		s->retry_ms = clock_ms() + SPOOL_RETRY_MS;
		s->closed_unsynced |= everything;
	}
}

/* Closes what was removed, whose disk space is free only then; as sync_round(). */
static void
reap_round(struct spool *s)
{
	struct spool_file *list = files_borrow(s);

	s->reap = false;
	(void)pthread_mutex_unlock(&s->lock);
	files_return(s, list);
	(void)pthread_mutex_lock(&s->lock);
}

static void
numbers_refused(const struct spool *s, int error)
{
	char path[SPOOL_PATH_MAX];

	spool_path(s, "sequence", path);
	log_event_limited(LOG_ERR, "spool_error/sequence", "spool_error", LOG_STR("file", path),
			  LOG_STR("error", strerror(-error)),
			  LOG_STR("hint",
				  "the spool's file system refuses writes; once the numbers "
				  "for batches are used up, nothing more is received"));
}

/* Reserves numbers up to a whole run ahead; as sync_round(). */
static void
numbers_round(struct spool *s)
{
	uint64_t limit = s->next + SPOOL_NUMBERS;
	int r;

	(void)pthread_mutex_unlock(&s->lock);
	r = spool_put_sequence(s, limit);
	if (r < 0)
		numbers_refused(s, r);
	(void)pthread_mutex_lock(&s->lock);
	if (r == 0)
		s->limit = limit;
	s->numbers_wanted = r < 0;
	s->numbers_retry_ms = r < 0 ? clock_ms() + SPOOL_RETRY_MS : 0;
}

/* As sync_round(). */
static void
reserve_round(struct spool *s)
{
	int r;

	(void)pthread_mutex_unlock(&s->lock);
	r = spool_reserve_make(s);
	(void)pthread_mutex_lock(&s->lock);
	if (r == 0)
		s->reserve_wanted = false;
	s->reserve_retry_ms = clock_ms() + SPOOL_RETRY_MS;
}

/* ---- the thread ---- */

/* When there is something to do: 0 = now, UINT64_MAX = nothing.  spool.lock is held. */
static uint64_t
due_ms(const struct spool *s)
{
	uint64_t due = s->reap ? 0 : UINT64_MAX;

	if (s->requested > s->synced && s->retry_ms < due)
		due = s->retry_ms;
	if (s->numbers_wanted && s->numbers_retry_ms < due)
		due = s->numbers_retry_ms;
	if (s->reserve_wanted && s->reserve_retry_ms < due)
		due = s->reserve_retry_ms;
	return due;
}

static void
wait_for_work(struct spool *s)
{
	uint64_t due = due_ms(s);

	while (!s->stop && due > clock_ms()) {
		struct timespec until = {(time_t)(due / 1000), (long)(due % 1000) * 1000000};

		if (due == UINT64_MAX)
			(void)pthread_cond_wait(&s->wake, &s->lock);
		else
			(void)pthread_cond_timedwait(&s->wake, &s->lock, &until);
		due = due_ms(s);
	}
}

static void *
syncer(void *arg)
{
	struct spool *s = arg;
	bool stop = false;

	(void)pthread_mutex_lock(&s->lock);
	while (!stop) {
		wait_for_work(s);
		stop = s->stop;
		if (stop && s->sync != CONF_SYNC_NEVER)
			s->requested++; /* whatever nobody has asked for yet */
		if (s->numbers_wanted && (stop || s->numbers_retry_ms <= clock_ms()))
			numbers_round(s);
		if (s->requested > s->synced && (stop || s->retry_ms <= clock_ms()))
			sync_round(s);
		if (s->reap)
			reap_round(s);
		if (s->reserve_wanted && !stop && s->reserve_retry_ms <= clock_ms())
			reserve_round(s);
	}
	(void)pthread_mutex_unlock(&s->lock);
	return NULL;
}

int
syncer_start(struct spool *s)
{
	sigset_t all, old;
	int r;

	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&s->thread, NULL, syncer, s);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	s->running = r == 0;
	return -r;
}

void
syncer_stop(struct spool *s)
{
	(void)pthread_mutex_lock(&s->lock);
	s->stop = true;
	(void)pthread_cond_signal(&s->wake);
	(void)pthread_mutex_unlock(&s->lock);
	(void)pthread_join(s->thread, NULL);
	s->running = false;
}

uint64_t
spool_sync(struct spool *s)
{
	uint64_t ticket;

	(void)pthread_mutex_lock(&s->lock);
	ticket = ++s->requested;
	(void)pthread_cond_signal(&s->wake);
	(void)pthread_mutex_unlock(&s->lock);
	return ticket;
}

uint64_t
spool_synced(const struct spool *s, int *err)
{
	if (err)
		*err = s->sync_error;
	return s->synced;
}

void
spool_on_synced(struct spool *s, void (*fn)(void *arg), void *arg)
{
	(void)pthread_mutex_lock(&s->notify);
	s->on_synced = fn;
	s->on_synced_arg = arg;
	(void)pthread_mutex_unlock(&s->notify);
}
