#include "store/pg/link/resolve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "store/pg/link/aside.h"

struct job {
	struct aside aside;
	char *host;
	struct addrinfo *result;
	int code; /* of getaddrinfo() */
};

static void
job_free(struct aside *a)
{
	struct job *j = (struct job *)a;

	if (j->result)
		freeaddrinfo(j->result);
	free(j->host);
	free(j);
}

static void
job_run(struct aside *a)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC};
	struct job *j = (struct job *)a;

	j->code = getaddrinfo(j->host, NULL, &hints, &j->result);
}

int
resolve(const char *host, int stop_fd, uint64_t timeout_ms, struct addrinfo **ret, const char **why)
{
	struct job *j = calloc(1, sizeof(*j));
	int r;

	if (!j)
		return -ENOMEM;
	j->host = strdup(host);
	if (!j->host) {
		free(j);
		return -ENOMEM;
	}
	r = aside_start(&j->aside, job_run, job_free);
	if (r < 0)
		return r;
	r = aside_wait(&j->aside, stop_fd, clock_ms() + timeout_ms);
	if (!r && j->code) {
		*why = gai_strerror(j->code);
		r = -ENOENT;
	}
	if (!r) {
		*ret = j->result;
		j->result = NULL;
	}
	aside_unref(&j->aside);
	return r;
}
