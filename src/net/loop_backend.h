/*
 * loop_backend.h - what loop.c asks of poll(2) and epoll(7); private to the loop.
 *
 * A backend knows descriptors and masks.  Which loop_io is watched, and what
 * happens when one is removed in the middle of a turn, is loop.c's business:
 * wait() only lists what is ready, and add, change and remove are never called
 * while it runs.
 */
#pragma once

#include <poll.h>

#include "net/loop.h"

/* What one turn takes at most; what is left over is the next turn's, before what was served. */
#define LOOP_BATCH 256

struct loop_ready {
	struct loop_io *io; /* borrowed; NULL once io was removed */
	unsigned events;    /* may hold more than io asked for */
};

struct loop_ops {
	const char *name;
	int (*open)(void **ret);
	void (*close)(void *state); /* NULL is fine */

	/* io->fd and io->events still hold the old values; io->slot is the backend's. */
	int (*add)(void *state, struct loop_io *io, int fd, unsigned events);
	int (*change)(void *state, struct loop_io *io, unsigned events);
	void (*remove)(void *state, struct loop_io *io);

	/* Fills ready with each loop_io once at most.  Returns their number or a negative errno. */
	int (*wait)(void *state, int timeout_ms, struct loop_ready ready[LOOP_BATCH]);
};

extern const struct loop_ops loop_ops_epoll;
extern const struct loop_ops loop_ops_poll;

static inline short
loop_to_poll(unsigned events)
{
	return (short)((events & LOOP_READ ? POLLIN : 0) | (events & LOOP_WRITE ? POLLOUT : 0) |
		       (events & LOOP_END ? POLLRDHUP : 0));
}

/*
 * A hang-up counts as readable too: whoever reads meets the end of the stream
 * or the error there, after what is still in the socket.
 */
static inline unsigned
loop_from_poll(unsigned revents)
{
	unsigned events = 0;

	if (revents & POLLIN)
		events |= LOOP_READ;
	if (revents & POLLOUT)
		events |= LOOP_WRITE;
	if (revents & POLLRDHUP)
		events |= LOOP_END;
	if (revents & (POLLHUP | POLLERR | POLLNVAL))
		events |= LOOP_HANGUP | LOOP_READ;
	return events;
}
