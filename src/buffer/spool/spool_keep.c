/*
 * spool_keep.c - the end of a batch's file: it is removed, or kept for a while.
 *
 * The list of kept files is in memory, in the order in which they were stored, so that nothing has
 * to look at the directory: pruning and giving way take from its front.  How old a file is
 * goes by the monotonic clock, which nobody sets; only for files of an earlier run is the real
 * clock asked, once, when the spool is opened.
 */
#include "buffer/spool/spool_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/crash_point.h"

#define KEPT_FIRST 64 /* entries of a list that begins */

/* ---- the list; kept_lock is held, but when the spool is opened ---- */

static int
kept_add(struct spool_kept_list *l, const struct spool_kept *k)
{
	if (l->end == l->room && l->first > l->room / 2) { /* half of it is free in front */
		memmove(l->entries, l->entries + l->first, (l->end - l->first) * sizeof(*k));
		l->end -= l->first;
		l->first = 0;
	}
	if (l->end == l->room) {
		size_t room = l->room ? l->room * 2 : KEPT_FIRST;
		struct spool_kept *grown = reallocarray(l->entries, room, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		l->entries = grown;
		l->room = room;
	}
	l->entries[l->end++] = *k;
	return 0;
}

int
spool_kept_found(struct spool *s, uint64_t number, const struct spool_header *h)
{
	struct spool_kept k = {.header.number = number};
	char name[SPOOL_NAME_MAX];
	struct stat st;

	spool_name_as(name, number, SPOOL_STORED);
	if (fstatat(s->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
		return 0;
	if (h)
		k.header = *h;
	k.disk_bytes = spool_disk_bytes((uint64_t)st.st_size);
	k.stored_ms = (int64_t)clock_ms(); /* our clock may be wrong: its time counts anew */
	s->kept_bytes += k.disk_bytes;
	return kept_add(&s->kept, &k);
}

uint64_t
spool_kept_bytes(const struct spool *s)
{
	return s->kept_bytes;
}

/* Can it be stored again, and under our identity? */
static bool
is_ours(const struct spool *s, const struct spool_kept *k)
{
	return k->header.sealed && k->header.summary.rows &&
	       strcmp(k->header.collector, s->identity) == 0;
}

int
spool_number_compare(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

int
spool_kept(struct spool *s, uint64_t **ret, size_t *n)
{
	uint64_t *numbers = NULL;
	size_t count;

	*ret = NULL;
	*n = 0;
	(void)pthread_mutex_lock(&s->kept_lock);
	count = s->kept.end - s->kept.first;
	if (count)
		numbers = reallocarray(NULL, count, sizeof(*numbers));
	for (size_t i = s->kept.first; numbers && i < s->kept.end; i++)
		if (is_ours(s, &s->kept.entries[i]))
			numbers[(*n)++] = s->kept.entries[i].header.number;
	(void)pthread_mutex_unlock(&s->kept_lock);
	if (count && !numbers)
		return -ENOMEM;
	if (*n)
		qsort(numbers, *n, sizeof(*numbers), spool_number_compare);
	*ret = numbers;
	return 0;
}

static int
header_compare(const void *a, const void *b)
{
	const struct spool_header *x = a, *y = b;

	return spool_number_compare(&x->number, &y->number);
}

/* Moves the headers of what is wanted to *out, and closes the gaps; kept_lock is held. */
static size_t
take_wanted(struct spool *s, const uint64_t *numbers, size_t n, struct spool_header *out)
{
	struct spool_kept_list *l = &s->kept;
	size_t to = l->first, taken = 0;

	for (size_t i = l->first; i < l->end; i++) {
		const struct spool_kept *k = &l->entries[i];

		if (taken < n && is_ours(s, k) &&
		    bsearch(&k->header.number, numbers, n, sizeof(*numbers),
			    spool_number_compare)) {
			s->kept_bytes -= k->disk_bytes;
			out[taken++] = k->header;
		} else {
			l->entries[to++] = *k;
		}
	}
	l->end = to;
	return taken;
}

struct spool_header *
spool_kept_take(struct spool *s, const uint64_t *numbers, size_t n, size_t *ret)
{
	struct spool_header *headers = n ? reallocarray(NULL, n, sizeof(*headers)) : NULL;

	*ret = 0;
	if (!headers)
		return NULL;
	(void)pthread_mutex_lock(&s->kept_lock);
	*ret = take_wanted(s, numbers, n, headers);
	(void)pthread_mutex_unlock(&s->kept_lock);
	if (*ret == 0) {
		free(headers);
		return NULL;
	}
	qsort(headers, *ret, sizeof(*headers), header_compare);
	return headers;
}

/* ---- files ---- */

void
spool_name_gone(struct spool *s, uint64_t number, uint64_t bytes)
{
	struct spool_file *f = spool_file_find(s, number);

	if (f) {
		bytes = f->removed ? 0 : spool_disk_bytes(f->header.summary.file_size);
		f->removed = true;
		if (f->closed)
			spool_file_close(f);
	}
	s->bytes -= bytes;
}

/* A name goes: it lasts once the directory is synced. */
static void
name_goes(struct spool *s, uint64_t number)
{
	if (number < s->gone_floor)
		s->gone_floor = number;
}

static int
delete_file(struct spool *s, uint64_t number, const char *suffix)
{
	char name[SPOOL_NAME_MAX];
	uint64_t bytes;

	spool_name_as(name, number, suffix);
	bytes = io_disk_bytes(s, name);
	name_goes(s, number);
	if (unlinkat(s->fd, name, 0) < 0)
		return -errno;
	spool_name_gone(s, number, bytes);
	return 0;
}

/* A file changes between .batch and .stored. */
static int
rename_file(struct spool *s, uint64_t number, bool kept)
{
	char from[SPOOL_NAME_MAX], to[SPOOL_NAME_MAX];
	struct spool_file *f = spool_file_find(s, number);
	uint64_t replaced;

	spool_name_as(from, number, kept ? SPOOL_BATCH : SPOOL_STORED);
	spool_name_as(to, number, kept ? SPOOL_STORED : SPOOL_BATCH);
	replaced = io_disk_bytes(s, to);
	name_goes(s, number);
	if (renameat(s->fd, from, s->fd, to) < 0)
		return -errno;
	if (f)
		f->kept = kept;
	s->bytes -= replaced;
	return 0;
}

static int
keep_file(struct spool *s, uint64_t number)
{
	struct spool_kept k = {.stored_ms = (int64_t)clock_ms()};
	char name[SPOOL_NAME_MAX];
	uint64_t size;
	int r;

	spool_name(name, number);
	r = io_get_header(s, name, number, &k.header, &size);
	k.disk_bytes = spool_disk_bytes(size);
	if (r == 0)
		r = rename_file(s, number, true);
	if (r < 0)
		return r;
	(void)pthread_mutex_lock(&s->kept_lock);
	r = kept_add(&s->kept, &k);
	s->kept_bytes += r == 0 ? k.disk_bytes : 0; /* before anybody can take it */
	(void)pthread_mutex_unlock(&s->kept_lock);
	/* nobody would ever look for it: better without */
	return r < 0 ? delete_file(s, number, SPOOL_STORED) : 0;
}

int
spool_remove(struct spool *s, uint64_t number, bool keep)
{
	int r;

	crash_point("before_unlink");
	r = keep ? keep_file(s, number) : delete_file(s, number, SPOOL_BATCH);
	crash_point("after_unlink");
	return r;
}

int
spool_unkeep(struct spool *s, uint64_t number)
{
	return rename_file(s, number, false);
}

/* ---- pruning, giving way ---- */

/*
 * Takes the first entry off the list if it was stored before an instant, and deletes its file.  One
 * that cannot be deleted is the next start's business.
 */
static bool
delete_first(struct spool *s, int64_t before_ms)
{
	struct spool_kept k;
	bool found;

	(void)pthread_mutex_lock(&s->kept_lock);
	found =
	    s->kept.first < s->kept.end && s->kept.entries[s->kept.first].stored_ms <= before_ms;
	if (found) {
		k = s->kept.entries[s->kept.first++];
		name_goes(s, k.header.number); /* who reads the list without it, reads this */
	}
	(void)pthread_mutex_unlock(&s->kept_lock);
	if (!found)
		return false;
	s->kept_bytes -= k.disk_bytes;
	(void)delete_file(s, k.header.number, SPOOL_STORED);
	return true;
}

size_t
spool_prune(struct spool *s, uint64_t keep_ms, size_t most)
{
	int64_t now_ms = (int64_t)clock_ms();
	size_t n = 0;

	if (keep_ms > INT64_MAX / 2)
		return 0;
	while (n < most && delete_first(s, now_ms - (int64_t)keep_ms))
		n++;
	return n;
}

size_t
spool_release(struct spool *s, uint64_t max, size_t most)
{
	size_t n = 0;

	while (n < most && s->bytes > max && delete_first(s, INT64_MAX))
		n++;
	return n;
}
