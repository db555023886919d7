#include "store/pg/link/resolve.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "store/pg/link/wait.h"

/* Shared by the one who asks and the thread; the last to let go frees it. */
struct job {
	atomic_int refs;
	int done_fd;
	char *host;
	struct addrinfo *result;
	int code; /* of getaddrinfo() */
};

static void
job_free(struct job *j)
{
	if (j->result)
		freeaddrinfo(j->result);
	if (j->done_fd >= 0)
		(void)close(j->done_fd);
	free(j->host);
	free(j);
}

static void
job_unref(struct job *j)
{
	if (atomic_fetch_sub(&j->refs, 1) == 1)
		job_free(j);
}

/* With both references; until the thread runs, job_free() gives up the two at once. */
static struct job *
job_new(const char *host)
{
	struct job *j = calloc(1, sizeof(*j));

	if (!j)
		return NULL;
	atomic_init(&j->refs, 2);
	j->host = strdup(host);
	j->done_fd = eventfd(0, EFD_CLOEXEC);
	if (j->host && j->done_fd >= 0)
		return j;
	job_free(j);
	return NULL;
}

static void *
job_main(void *arg)
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
	r = pthread_create(&thread, &attr, job_main, j);
	(void)pthread_attr_destroy(&attr);
	return -r;
}

static int
job_wait(struct job *j, int stop_fd, uint64_t deadline_ms)
{
	eventfd_t count;
	int r = wait_fd(j->done_fd, POLLIN, stop_fd, deadline_ms);

	if (r <= 0)
		return r < 0 ? r : -ETIMEDOUT;
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
	if (r < 0) {
		job_free(j);
		return r;
	}
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
