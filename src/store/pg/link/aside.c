#include "store/pg/link/aside.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "store/pg/link/wait.h"

void
aside_unref(struct aside *a)
{
	if (atomic_fetch_sub(&a->refs, 1) > 1)
		return;
	if (a->done_fd >= 0)
		(void)close(a->done_fd);
	a->free(a);
}

static void *
aside_main(void *arg)
{
	struct aside *a = arg;

	a->run(a);
	(void)eventfd_write(a->done_fd, 1);
	aside_unref(a);
	return NULL;
}

static int
start_thread(struct aside *a)
{
	pthread_attr_t attr;
	pthread_t thread;
	int r = pthread_attr_init(&attr);

	if (r)
		return -r;
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	r = pthread_create(&thread, &attr, aside_main, a);
	(void)pthread_attr_destroy(&attr);
	return -r;
}

int
aside_start(struct aside *a, void (*run)(struct aside *a), void (*free)(struct aside *a))
{
	int r;

	atomic_init(&a->refs, 2);
	a->run = run;
	a->free = free;
	a->done_fd = eventfd(0, EFD_CLOEXEC);
	r = a->done_fd < 0 ? -errno : start_thread(a);
	if (r == 0)
		return 0;
	atomic_store(&a->refs, 1);
	aside_unref(a);
	return r;
}

int
aside_wait(struct aside *a, int stop_fd, uint64_t deadline_ms)
{
	eventfd_t count;
	int r = wait_fd(a->done_fd, POLLIN, stop_fd, deadline_ms);

	if (r <= 0)
		return r < 0 ? r : -ETIMEDOUT;
	return eventfd_read(a->done_fd, &count) < 0 ? -errno : 0;
}
