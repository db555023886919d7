/*
 * loop_epoll.c - the loop's backend on epoll(7).
 *
 * The kernel's events carry pointers to struct loop_io.  None outlives its
 * object: EPOLL_CTL_DEL forgets it in the kernel, and loop.c in the turn's list.
 * Fairness is the kernel's: it puts level-triggered descriptors that it has
 * reported behind those that it has not.
 */
#include "net/loop_backend.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

_Static_assert((unsigned)EPOLLIN == POLLIN && (unsigned)EPOLLOUT == POLLOUT &&
		   (unsigned)EPOLLHUP == POLLHUP && (unsigned)EPOLLERR == POLLERR &&
		   (unsigned)EPOLLRDHUP == POLLRDHUP,
	       "epoll's bits are poll's");

struct epoll_state {
	int fd;
	struct epoll_event events[LOOP_BATCH];
};

static int
epoll_open(void **ret)
{
	struct epoll_state *e = calloc(1, sizeof(*e));

	if (!e)
		return -ENOMEM;
	e->fd = epoll_create1(EPOLL_CLOEXEC);
	if (e->fd < 0) {
		int r = -errno;

		free(e);
		return r;
	}
	*ret = e;
	return 0;
}

static void
epoll_close(void *state)
{
	struct epoll_state *e = state;

	if (!e)
		return;
	(void)close(e->fd);
	free(e);
}

static int
control(const struct epoll_state *e, int op, struct loop_io *io, int fd, unsigned events)
{
	struct epoll_event ev = {
	    .events = (uint32_t)loop_to_poll(events),
	    .data.ptr = io,
	};

	return epoll_ctl(e->fd, op, fd, &ev) < 0 ? -errno : 0;
}

static int
epoll_add(void *state, struct loop_io *io, int fd, unsigned events)
{
	return control(state, EPOLL_CTL_ADD, io, fd, events);
}

static int
epoll_change(void *state, struct loop_io *io, unsigned events)
{
	return control(state, EPOLL_CTL_MOD, io, io->fd, events);
}

static void
epoll_remove(void *state, struct loop_io *io)
{
	(void)control(state, EPOLL_CTL_DEL, io, io->fd, 0);
}

static int
epoll_wait_ready(void *state, int timeout_ms, struct loop_ready ready[LOOP_BATCH])
{
	struct epoll_state *e = state;
	int n = epoll_wait(e->fd, e->events, LOOP_BATCH, timeout_ms);

	if (n < 0)
		return -errno;
	for (int i = 0; i < n; i++) {
		ready[i].io = e->events[i].data.ptr;
		ready[i].events = loop_from_poll(e->events[i].events);
	}
	return n;
}

const struct loop_ops loop_ops_epoll = {
    .name = "epoll",
    .open = epoll_open,
    .close = epoll_close,
    .add = epoll_add,
    .change = epoll_change,
    .remove = epoll_remove,
    .wait = epoll_wait_ready,
};
