#include "store/resolve.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "service/clock.h"

/* Shared by the one who asks and the thread; the last to let go frees it. */
struct job {
	atomic_int refs;
	int done_fd;
	char *host;
	struct addrinfo *result;
	int code; /* of getaddrinfo() */
};

static void
job_unref(struct job *j)
{
	if (!j || atomic_fetch_sub(&j->refs, 1) > 1)
		return;
	if (j->result)
		freeaddrinfo(j->result);
	if (j->done_fd >= 0)
		(void)close(j->done_fd);
	free(j->host);
	free(j);
}

static struct job *
job_new(const char *host)
{
	struct job *j = calloc(1, sizeof(*j));

	if (!j)
		return NULL;
	atomic_init(&j->refs, 1);
	j->host = strdup(host);
	j->done_fd = eventfd(0, EFD_CLOEXEC);
	if (j->host && j->done_fd >= 0)
		return j;
	job_unref(j);
	return NULL;
}

static void *
job_run(void *arg)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC};
	struct job *j = arg;

	j->code = getaddrinfo(j->host, NULL, &hints, &j->result);
	(void)eventfd_write(j->done_fd, 1);
	job_unref(j);
	return NULL;
}

static int
job_start(struct job *j)
{
	pthread_attr_t attr;
	pthread_t thread;
	int r = pthread_attr_init(&attr);

	if (r)
		return -r;
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	atomic_fetch_add(&j->refs, 1);
	r = pthread_create(&thread, &attr, job_run, j);
	if (r)
		job_unref(j);
	(void)pthread_attr_destroy(&attr);
	return -r;
}

static int
job_wait(struct job *j, int stop_fd, uint64_t deadline_ms)
{
	struct pollfd fds[2] = {{j->done_fd, POLLIN, 0}, {stop_fd, POLLIN, 0}};
	eventfd_t count;
	int n;

	do {
		uint64_t now = clock_ms();
		uint64_t left = deadline_ms > now ? deadline_ms - now : 0;

		n = poll(fds, 2, (int)(left < INT_MAX ? left : INT_MAX));
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (fds[1].revents)
		return -ECANCELED;
	if (!fds[0].revents)
		return -ETIMEDOUT;
	return eventfd_read(j->done_fd, &count) < 0 ? -errno : 0;
}

int
resolve(const char *host, int stop_fd, uint64_t timeout_ms, struct addrinfo **ret, const char **why)
{
	struct job *j = job_new(host);
	int r;

	if (!j)
		return -ENOMEM;
	r = job_start(j);
	if (!r)
		r = job_wait(j, stop_fd, clock_ms() + timeout_ms);
	if (!r && j->code) {
		*why = gai_strerror(j->code);
		r = -ENOENT;
	}
	if (!r) {
		*ret = j->result;
		j->result = NULL;
	}
	job_unref(j);
	return r;
}
