/*
 * spool_disk.h - for tests of the spool: a disk whose syncs fail, or wait, when they are told to.
 */
#pragma once

#include <pthread.h>

#include "spool_dir.h"

/* For other threads than the test's own: Check's assertions are not theirs to use. */
#define MUST(condition)           \
	do {                      \
		if (!(condition)) \
			abort();  \
	} while (0)

struct fake_disk {
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	bool held;          /* calls wait */
	bool waiting;       /* one does */
	unsigned files;     /* calls for files */
	unsigned all;       /* calls */
	unsigned fail_next; /* so many calls for files fail */
	unsigned fail_each; /* and each so-manieth does */
	unsigned hold_at;   /* the call for a file before which held is set */
};

static inline int
disk_hook(void *arg, int fd)
{
	struct fake_disk *d = arg;
	struct stat st;
	int r = 0;

	MUST(fstat(fd, &st) == 0);
	(void)pthread_mutex_lock(&d->mutex);
	if (S_ISREG(st.st_mode) && d->hold_at == d->files + 1)
		d->held = true;
	d->waiting = d->held;
	(void)pthread_cond_broadcast(&d->cond);
	while (d->held)
		(void)pthread_cond_wait(&d->cond, &d->mutex);
	d->waiting = false;
	d->all++;
	if (S_ISREG(st.st_mode)) {
		d->files++;
		if (d->fail_next) {
			d->fail_next--;
			r = -EIO;
		} else if (d->fail_each && d->files % d->fail_each == 0) {
			r = -EIO;
		}
	}
	(void)pthread_mutex_unlock(&d->mutex);
	return r;
}

static struct fake_disk disk = {.mutex = PTHREAD_MUTEX_INITIALIZER,
				.cond = PTHREAD_COND_INITIALIZER};

static inline void
disk_attach(struct spool *s)
{
	disk.files = disk.all = disk.fail_next = disk.fail_each = disk.hold_at = 0;
	s->hook_arg = &disk;
	s->hook = disk_hook;
}

static inline void
disk_set(unsigned fail_next, bool held)
{
	(void)pthread_mutex_lock(&disk.mutex);
	disk.fail_next = fail_next;
	disk.held = held;
	disk.files = disk.all = disk.hold_at = 0;
	(void)pthread_cond_broadcast(&disk.cond);
	(void)pthread_mutex_unlock(&disk.mutex);
}

static inline void
disk_await_caller(void)
{
	(void)pthread_mutex_lock(&disk.mutex);
	while (!disk.waiting)
		(void)pthread_cond_wait(&disk.cond, &disk.mutex);
	(void)pthread_mutex_unlock(&disk.mutex);
}

static inline unsigned
open_descriptors(void)
{
	return count_names("/proc/self/fd");
}
