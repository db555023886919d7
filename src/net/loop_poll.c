/*
 * loop_poll.c - the loop's backend on poll(2).
 *
 *	fds[]   | fd 5 | fd 9 | fd 7 |  .  |  .  |
 *	ios[]   | io A | io C | io B |  .  |  .  |     A.slot 0, C.slot 1, B.slot 2
 *	                               n           cap
 *
 * Both arrays are dense: the last entry moves into the gap of a removed one, so
 * adding, changing and removing are O(1), at 16 bytes for each descriptor.
 */
#include "net/loop_backend.h"

#include <errno.h>
#include <stdlib.h>

#define CAP_MIN 64u
#define GROW_MAX 4096u /* entries: 64 KiB, so that a large table is never doubled */

struct poll_state {
	struct pollfd *fds;
	struct loop_io **ios; /* borrowed */
	unsigned n;
	unsigned cap;
	unsigned next; /* where the next scan starts, so that none is passed over for ever */
};

static int
poll_open(void **ret)
{
	struct poll_state *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	*ret = p;
	return 0;
}

static void
poll_close(void *state)
{
	struct poll_state *p = state;

	if (!p)
		return;
	free(p->fds);
	free(p->ios);
	free(p);
}

/* At no time is an array shorter than cap, also when only one of them could be resized. */
static int
resize(struct poll_state *p, unsigned cap)
{
	struct pollfd *fds;
	struct loop_io **ios;

	if (cap < p->cap)
		p->cap = cap;
	fds = realloc(p->fds, cap * sizeof(*fds));
	if (!fds)
		return -ENOMEM;
	p->fds = fds;
	ios = realloc(p->ios, cap * sizeof(struct loop_io *));
	if (!ios)
		return -ENOMEM;
	p->ios = ios;
	p->cap = cap;
	return 0;
}

static int
grow(struct poll_state *p)
{
	unsigned more = p->cap / 2;

	if (more < CAP_MIN)
		more = CAP_MIN;
	if (more > GROW_MAX)
		more = GROW_MAX;
	return resize(p, p->cap + more);
}

static int
poll_add(void *state, struct loop_io *io, int fd, unsigned events)
{
	struct poll_state *p = state;

	if (p->n == p->cap) {
		int r = grow(p);

		if (r < 0)
			return r;
	}
	p->fds[p->n] = (struct pollfd){.fd = fd, .events = loop_to_poll(events)};
	p->ios[p->n] = io;
	io->slot = p->n++;
	return 0;
}

static int
poll_change(void *state, struct loop_io *io, unsigned events)
{
	struct poll_state *p = state;

	p->fds[io->slot].events = loop_to_poll(events);
	return 0;
}

static void
poll_remove(void *state, struct loop_io *io)
{
	struct poll_state *p = state;
	unsigned last = --p->n;

	if (io->slot != last) {
		p->fds[io->slot] = p->fds[last];
		p->ios[io->slot] = p->ios[last];
		p->ios[io->slot]->slot = io->slot;
	}
	if (p->cap > CAP_MIN && p->n < p->cap / 4)
		(void)resize(p, p->cap / 2); /* if not, the arrays stay long */
}

static int
poll_wait_ready(void *state, int timeout_ms, struct loop_ready ready[LOOP_BATCH])
{
	struct poll_state *p = state;
	int n = 0;
	int most = poll(p->fds, p->n, timeout_ms);

	if (most < 0)
		return -errno;
	if (most > LOOP_BATCH)
		most = LOOP_BATCH;
	for (unsigned i = 0; i < p->n && n < most; i++) {
		unsigned slot = p->next < p->n ? p->next : 0;

		p->next = slot + 1;
		if (!p->fds[slot].revents)
			continue;
		ready[n].io = p->ios[slot];
		ready[n].events = loop_from_poll((unsigned short)p->fds[slot].revents);
		n++;
	}
	return n;
}

const struct loop_ops loop_ops_poll = {
    .name = "poll",
    .open = poll_open,
    .close = poll_close,
    .add = poll_add,
    .change = poll_change,
    .remove = poll_remove,
    .wait = poll_wait_ready,
};
