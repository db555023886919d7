/* loop.c - turns, and what is made of descriptors: timers, signals, events. */
#include "net/loop.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/histogram.h"
#include "net/loop_backend.h"

#ifndef LOOP_DEFAULT_BACKEND
#define LOOP_DEFAULT_BACKEND LOOP_EPOLL
#endif

struct hook {
	loop_fn *fn;
	void *arg;
};

struct loop {
	const struct loop_ops *ops;
	void *state; /* the backend's */
	size_t watched;
	bool turning;
	unsigned n_hooks;
	struct hook hooks[LOOP_HOOKS_MAX];
	struct loop_ready ready[LOOP_BATCH]; /* what this turn still has to call */
	struct histogram turns;              /* ns, without the wait */
};

/* ---- construction ---- */

int
loop_new(enum loop_backend backend, struct loop **ret)
{
	struct loop *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return -ENOMEM;
	if (backend == LOOP_DEFAULT)
		backend = LOOP_DEFAULT_BACKEND;
	l->ops = backend == LOOP_POLL ? &loop_ops_poll : &loop_ops_epoll;
	r = l->ops->open(&l->state);
	if (r < 0) {
		free(l);
		return r;
	}
	*ret = l;
	return 0;
}

void
loop_free(struct loop *l)
{
	if (!l)
		return;
	assert(l->watched == 0 && !l->turning);
	l->ops->close(l->state);
	free(l);
}

const char *
loop_backend_name(const struct loop *l)
{
	return l->ops->name;
}

/* ---- descriptors ---- */

void
loop_io_init(struct loop *l, struct loop_io *io, loop_io_fn *fn, void *arg)
{
	*io = (struct loop_io){.loop = l, .fn = fn, .arg = arg, .fd = -1};
}

/*
 * What the kernel reported before io was removed must not reach it, nor
 * whoever lives in its memory by then: its place in the turn's list is cleared.
 */
static void
unwatch(struct loop_io *io)
{
	struct loop *l = io->loop;

	l->ops->remove(l->state, io);
	l->watched--;
	if (io->ready)
		l->ready[io->ready - 1].io = NULL;
	io->ready = 0;
	io->fd = -1;
	io->events = 0;
}

int
loop_io_set(struct loop_io *io, int fd, unsigned events)
{
	struct loop *l = io->loop;
	int r;

	events &= LOOP_READ | LOOP_WRITE | LOOP_HANGUP | LOOP_END;
	if (io->fd >= 0 && (!events || fd != io->fd))
		unwatch(io);
	if (!events || (io->fd >= 0 && events == io->events))
		return 0;
	if (fd < 0)
		return -EBADF;

	if (io->fd >= 0)
		r = l->ops->change(l->state, io, events);
	else
		r = l->ops->add(l->state, io, fd, events);
	if (r < 0)
		return r;
	if (io->fd < 0)
		l->watched++;
	io->fd = fd;
	io->events = events;
	return 0;
}

/* ---- turns ---- */

static void
call_ready(struct loop *l, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		l->ready[i].io->ready = i + 1;

	for (unsigned i = 0; i < n; i++) {
		struct loop_io *io = l->ready[i].io;
		unsigned events;

		if (!io)
			continue;
		io->ready = 0;
		/* as io asks now: an earlier callback may have changed its mask */
		events = l->ready[i].events & (io->events | LOOP_HANGUP);
		if (events)
			io->fn(io->arg, events);
	}
}

int
loop_turn(struct loop *l, int timeout_ms)
{
	uint64_t start_ns;
	int n;

	assert(!l->turning);
	n = l->ops->wait(l->state, timeout_ms, l->ready);
	if (n == -EINTR)
		n = 0;
	if (n < 0)
		return n;

	start_ns = clock_ns();
	l->turning = true;
	call_ready(l, (unsigned)n);
	for (unsigned i = 0; i < l->n_hooks; i++)
		l->hooks[i].fn(l->hooks[i].arg);
	l->turning = false;
	histogram_record(&l->turns, clock_ns() - start_ns);
	return 0;
}

void
loop_take_turns(struct loop *l, struct loop_turns *ret)
{
	*ret = (struct loop_turns){
	    .max_ns = l->turns.max,
	    .p99_ns = histogram_percentile(&l->turns, 99),
	};
	histogram_reset(&l->turns);
}

void
loop_on_turn(struct loop *l, loop_fn *fn, void *arg)
{
	assert(l->n_hooks < LOOP_HOOKS_MAX);
	l->hooks[l->n_hooks++] = (struct hook){.fn = fn, .arg = arg};
}

/* ---- what the kernel offers as a descriptor ---- */

/* Watches *fd, the result of timerfd_create() and the like, for as long as its owner lives. */
static int
own_fd(struct loop *l, struct loop_io *io, int *fd, loop_io_fn *fn, void *arg)
{
	int r = *fd < 0 ? -errno : 0;

	loop_io_init(l, io, fn, arg);
	if (r == 0)
		r = loop_io_set(io, *fd, LOOP_READ);
	if (r < 0 && *fd >= 0) {
		(void)close(*fd);
		*fd = -1;
	}
	return r;
}

static void
disown_fd(struct loop_io *io, int *fd)
{
	if (!io->loop || *fd < 0)
		return;
	(void)loop_io_set(io, *fd, 0);
	(void)close(*fd);
	*fd = -1;
}

/* Timers and events are a counter of 64 bits: reading takes all of it. */
static bool
take_counter(int fd)
{
	uint64_t count;

	return read(fd, &count, sizeof(count)) == (ssize_t)sizeof(count);
}

/* ---- timers ---- */

static void
timer_ready(void *arg, unsigned events)
{
	struct loop_timer *t = arg;

	(void)events;
	if (take_counter(t->fd)) /* if not, it was set anew in this turn */
		t->fn(t->arg);
}

int
loop_timer_init(struct loop *l, struct loop_timer *t, loop_fn *fn, void *arg)
{
	t->fn = fn;
	t->arg = arg;
	t->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	return own_fd(l, &t->io, &t->fd, timer_ready, t);
}

static struct timespec
timespec_of_ms(uint64_t ms)
{
	return (struct timespec){
	    .tv_sec = (time_t)(ms / 1000),
	    .tv_nsec = (long)(ms % 1000) * 1000000,
	};
}

void
loop_timer_set(struct loop_timer *t, uint64_t first_ms, uint64_t period_ms)
{
	struct itimerspec when = {
	    .it_value = timespec_of_ms(first_ms),
	    .it_interval = timespec_of_ms(first_ms ? period_ms : 0),
	};

	(void)timerfd_settime(t->fd, 0, &when, NULL); /* fails for a foreign fd only */
}

void
loop_timer_done(struct loop_timer *t)
{
	disown_fd(&t->io, &t->fd);
}

/* ---- signals ---- */

/* One for each call, since the callback may end s; the rest stay ready. */
static void
signals_ready(void *arg, unsigned events)
{
	struct loop_signals *s = arg;
	struct signalfd_siginfo info;

	(void)events;
	if (read(s->fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		s->fn(s->arg, (int)info.ssi_signo);
}

int
loop_signals_init(struct loop *l, struct loop_signals *s, const sigset_t *set, loop_signal_fn *fn,
		  void *arg)
{
	int r = -pthread_sigmask(SIG_BLOCK, set, NULL);

	s->fn = fn;
	s->arg = arg;
	s->fd = -1;
	loop_io_init(l, &s->io, signals_ready, s);
	if (r < 0)
		return r;
	s->fd = signalfd(-1, set, SFD_CLOEXEC | SFD_NONBLOCK);
	return own_fd(l, &s->io, &s->fd, signals_ready, s);
}

void
loop_signals_done(struct loop_signals *s)
{
	disown_fd(&s->io, &s->fd);
}

/* ---- events ---- */

static void
event_ready(void *arg, unsigned events)
{
	struct loop_event *e = arg;

	(void)events;
	if (take_counter(e->fd))
		e->fn(e->arg);
}

int
loop_event_init(struct loop *l, struct loop_event *e, loop_fn *fn, void *arg)
{
	e->fn = fn;
	e->arg = arg;
	e->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return own_fd(l, &e->io, &e->fd, event_ready, e);
}

void
loop_event_raise(struct loop_event *e)
{
	int saved = errno; /* a signal handler must leave it alone */
	uint64_t one = 1;
	ssize_t n = write(e->fd, &one, sizeof(one));

	(void)n; /* EAGAIN: the counter is full, so it is raised already */
	errno = saved;
}

void
loop_event_done(struct loop_event *e)
{
	disown_fd(&e->io, &e->fd);
}
