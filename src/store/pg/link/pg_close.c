/*
 * pg_close.c - how a connection is taken leave of.
 *
 *	cancel what is under way -- say goodbye -- wait until the server has closed its end
 *
 * PostgreSQL leaves its end open until the backend has ended, "if clients care to perform a
 * synchronous close" (its pqcomm.c).  libpq closes ours, so the wait is on a duplicate.
 */
#include "store/pg/link/pg_conn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "store/pg/link/aside.h"
#include "store/pg/link/pg_backends.h"
#include "store/pg/link/pg_session.h"
#include "store/pg/link/wait.h"

#define CANCEL_MS 2000     /* it is a connection of its own */
#define STOP_CANCEL_MS 200 /* the same, once stopped: what it does goes on without us */
#define IDLE_END_MS 1000
#define STOP_END_MS 200 /* others may be about to connect, after a reload */
#define CANCELLED_END_MS 5000

/* ---- cancel ---- */

struct canceller {
	struct aside aside;
	PGcancel *cancel;
};

static void
canceller_free(struct aside *a)
{
	struct canceller *j = (struct canceller *)a;

	PQfreeCancel(j->cancel);
	free(j);
}

/* PQcancel() blocks, and knows no deadline. */
static void
canceller_run(struct aside *a)
{
	struct canceller *j = (struct canceller *)a;
	char why[256];

	(void)PQcancel(j->cancel, why, sizeof(why));
}

static bool
is_stopped(const struct pg_conn *c)
{
	return wait_fd(-1, 0, c->stop_fd, 0) == -ECANCELED;
}

static void
cancel(struct pg_conn *c)
{
	struct canceller *j;

	if (!c->cancel)
		return;
	j = calloc(1, sizeof(*j));
	if (!j)
		return;
	j->cancel = c->cancel;
	c->cancel = NULL;
	if (aside_start(&j->aside, canceller_run, canceller_free) < 0)
		return;
	(void)aside_wait(&j->aside, -1, clock_ms() + (is_stopped(c) ? STOP_CANCEL_MS : CANCEL_MS));
	aside_unref(&j->aside);
}

/* ---- the end of the backend ---- */

/* Reads on until the server has closed its end; what still comes is of no use. */
static bool
await_end(const struct pg_conn *c, int fd, uint64_t deadline_ms)
{
	int stop_fd = c->stop_fd, r = 1;
	char rest[4096];
	ssize_t n = -1;

	while (r > 0 && n != 0 && clock_ms() < deadline_ms) {
		r = wait_fd(fd, POLLIN, stop_fd, deadline_ms);
		if (r > 0)
			n = recv(fd, rest, sizeof(rest), MSG_DONTWAIT);
		if (r > 0 && n < 0 && errno != EAGAIN && errno != EINTR)
			r = -errno;
		if (r == -ECANCELED && stop_fd >= 0) {
			stop_fd = -1;
			r = 1;
			if (deadline_ms > clock_ms() + STOP_END_MS)
				deadline_ms = clock_ms() + STOP_END_MS;
		}
	}
	return n == 0;
}

/* A duplicate of the connection's descriptor; -1 where there is none. */
static int
duplicate(const struct pg_conn *c)
{
	int fd = c->pg && PQstatus(c->pg) == CONNECTION_OK ? PQsocket(c->pg) : -1;

	return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

void
pg_close(struct pg_conn *c)
{
	int fd = duplicate(c);
	bool gone = c->dismissed;

	if (c->under_way && !c->dismissed)
		cancel(c);
	PQfinish(c->pg);
	if (fd >= 0) {
		/* where the goodbye found no room */
		(void)shutdown(fd, SHUT_WR);
		gone =
		    await_end(c, fd, clock_ms() + (c->under_way ? CANCELLED_END_MS : IDLE_END_MS));
		(void)close(fd);
	}
	pg_backends_close(c->backend, gone);
	PQfreeCancel(c->cancel);
	PQclear(c->failure);
	free(c->buf);
	pg_session_done(c);
	c->pg = NULL;
	c->backend = NULL;
	c->cancel = NULL;
	c->failure = NULL;
	c->buf = NULL;
	c->pid = 0;
	c->under_way = false;
	c->dismissed = false;
}
