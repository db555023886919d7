#include "buffer/spool/spool_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/crash_point.h"

#define NO_STORED UINT64_MAX

void
spool_name_gone(struct spool *s, uint64_t number, uint64_t size)
{
	struct spool_file *f;

	(void)pthread_mutex_lock(&s->lock);
	f = spool_file_find(s, number);
	if (f) {
		size = f->counted;
		f->counted = 0;
		f->removed = true;
		s->reap |= f->closed;
		if (s->retry_ms) /* perhaps it was the one that failed: try at once */
			s->retry_ms = 1;
		(void)pthread_cond_signal(&s->wake);
	}
	s->bytes -= size;
	(void)pthread_mutex_unlock(&s->lock);
}

/* names is held. */
static int
delete_file(struct spool *s, uint64_t number, const char *suffix)
{
	char name[SPOOL_NAME_MAX];
	uint64_t size;

	spool_name_as(name, number, suffix);
	size = io_size(s, name);
	if (unlinkat(s->fd, name, 0) < 0)
		return -errno;
	spool_name_gone(s, number, size);
	return 0;
}

/* A file changes between .batch and .stored; names is held. */
static int
rename_file(struct spool *s, uint64_t number, bool kept)
{
	char from[SPOOL_NAME_MAX], to[SPOOL_NAME_MAX];
	struct spool_file *f;
	uint64_t replaced;

	spool_name_as(from, number, kept ? SPOOL_BATCH : SPOOL_STORED);
	spool_name_as(to, number, kept ? SPOOL_STORED : SPOOL_BATCH);
	replaced = io_size(s, to);
	if (renameat(s->fd, from, s->fd, to) < 0)
		return -errno;
	(void)pthread_mutex_lock(&s->lock);
	f = spool_file_find(s, number);
	if (f)
		f->kept = kept;
	s->bytes -= replaced;
	(void)pthread_mutex_unlock(&s->lock);
	return 0;
}

/* When a batch was stored is its file's time of modification: it outlasts the daemon. */
static int
touch(struct spool *s, const char *name)
{
	return utimensat(s->fd, name, NULL, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int
keep_file(struct spool *s, uint64_t number)
{
	char name[SPOOL_NAME_MAX];
	uint64_t now = clock_real_us();
	int r;

	spool_name(name, number);
	r = touch(s, name);
	if (r == 0)
		r = rename_file(s, number, true);
	if (r == 0 && s->stored_since_us > now)
		s->stored_since_us = now;
	return r;
}

int
spool_remove(struct spool *s, uint64_t number, bool keep)
{
	int r;

	crash_point("before_unlink");
	(void)pthread_mutex_lock(&s->names);
	r = keep ? keep_file(s, number) : delete_file(s, number, SPOOL_BATCH);
	(void)pthread_mutex_unlock(&s->names);
	crash_point("after_unlink");
	return r;
}

/* The time a .stored file was stored; one that is yet to come (the clock was set) is now. */
static uint64_t
stored_us(struct spool *s, uint64_t number, uint64_t now)
{
	char name[SPOOL_NAME_MAX];
	struct stat st;
	uint64_t us;

	spool_name_as(name, number, SPOOL_STORED);
	if (fstatat(s->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return now;
	if (st.st_mtim.tv_sec < 0)
		return 0;
	us = (uint64_t)st.st_mtim.tv_sec * 1000000 + (uint64_t)st.st_mtim.tv_nsec / 1000;
	if (us <= now)
		return us;
	(void)touch(s, name);
	return now;
}

/* Deletes what is old enough; returns when the oldest of the others was stored. */
static uint64_t
prune_files(struct spool *s, uint64_t now, uint64_t keep_us)
{
	uint64_t since = NO_STORED;
	uint64_t *numbers;
	size_t n;

	if (io_list(s, SPOOL_STORED, &numbers, &n) < 0)
		return 0;
	for (size_t i = 0; i < n; i++) {
		uint64_t us = stored_us(s, numbers[i], now);

		if (now - us >= keep_us && delete_file(s, numbers[i], SPOOL_STORED) == 0)
			continue;
		if (us < since)
			since = us;
	}
	free(numbers);
	return since;
}

void
spool_prune(struct spool *s, uint64_t keep_ms)
{
	uint64_t keep_us = keep_ms > UINT64_MAX / 1000 ? UINT64_MAX : keep_ms * 1000;
	uint64_t now;

	(void)pthread_mutex_lock(&s->names);
	now = clock_real_us();
	/* mostly it is known that there is nothing to do, without a look at the directory */
	if (s->stored_since_us != NO_STORED &&
	    (s->stored_since_us > now || now - s->stored_since_us >= keep_us))
		s->stored_since_us = prune_files(s, now, keep_us);
	(void)pthread_mutex_unlock(&s->names);
}

size_t
spool_release(struct spool *s, uint64_t max)
{
	uint64_t *numbers;
	size_t n, done = 0;

	(void)pthread_mutex_lock(&s->names);
	if (s->stored_since_us == NO_STORED || io_list(s, SPOOL_STORED, &numbers, &n) < 0) {
		(void)pthread_mutex_unlock(&s->names);
		return 0;
	}
	for (size_t i = 0; i < n && s->bytes > max; i++)
		if (delete_file(s, numbers[i], SPOOL_STORED) == 0)
			done++;
	if (done == n) /* who is full asks often: without a look at the directory from now on */
		s->stored_since_us = NO_STORED;
	free(numbers);
	(void)pthread_mutex_unlock(&s->names);
	return done;
}

int
spool_kept(struct spool *s, spool_found_fn *fn, void *arg)
{
	uint64_t *numbers;
	size_t n;
	int r = io_list(s, SPOOL_STORED, &numbers, &n);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++) {
		char name[SPOOL_NAME_MAX];
		struct spool_header h;
		uint64_t size;

		spool_name_as(name, numbers[i], SPOOL_STORED);
		r = io_get_header(s, name, numbers[i], &h, &size);
		if (r == 0 && h.sealed && h.summary.rows)
			fn(arg, &h);
	}
	free(numbers);
	return 0;
}

int
spool_unkeep(struct spool *s, uint64_t number)
{
	int r;

	(void)pthread_mutex_lock(&s->names);
	r = rename_file(s, number, false);
	(void)pthread_mutex_unlock(&s->names);
	return r;
}
