/*
 * loop.h - a readiness loop: everything is a descriptor with a callback.
 *
 * One thread turns it.  Sockets, timers (timerfd), signals (signalfd) and
 * wake-ups from other threads (eventfd) are all struct loop_io.  Readiness is
 * level-triggered.  Two backends stand behind this header, poll(2) and
 * epoll(7); ./configure --with-loop= chooses the default, both are always built.
 *
 * A callback may change, add or remove any loop_io, its own included: once
 * loop_io_set(io, fd, 0) has returned, io's callback is not called again in this
 * turn, even if the kernel had already reported it ready.  The memory of a removed
 * loop_io may be freed at once.
 *
 * A descriptor has one loop_io at most, and is removed before it is closed.
 */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#define LOOP_READ 0x1u
#define LOOP_WRITE 0x2u
#define LOOP_HANGUP 0x4u /* error, or both directions closed: reported whatever is asked for */
#define LOOP_END 0x8u    /* the peer sends no more: what is unread is all that there is */

#define LOOP_HOOKS_MAX 8

enum loop_backend { LOOP_DEFAULT, LOOP_EPOLL, LOOP_POLL };

struct loop;
struct loop_io;
typedef void loop_io_fn(void *arg, unsigned events);
typedef void loop_fn(void *arg);
typedef void loop_signal_fn(void *arg, int signo);

struct loop_io {
	struct loop *loop; /* borrowed */
	loop_io_fn *fn;
	void *arg;
	int fd;          /* -1 while unwatched; never closed by the loop */
	unsigned events; /* what is watched */
	unsigned slot;   /* the backend's */
	unsigned ready;  /* the loop's: its place in the turn's list, plus one */
};

int loop_new(enum loop_backend backend, struct loop **ret);
void loop_free(struct loop *l); /* NULL is fine; every loop_io must be removed before */
const char *loop_backend_name(const struct loop *l); /* "epoll", "poll" */

void loop_io_init(struct loop *l, struct loop_io *io, loop_io_fn *fn, void *arg);

/*
 * Watches fd for events instead of what io watched before; 0 stops watching.
 * A hang-up comes as LOOP_HANGUP, with LOOP_READ if that is asked for; LOOP_HANGUP alone watches
 * for nothing else.  Like all readiness it is reported in each turn, so that a callback that
 * leaves it at that stops watching.  Returns 0 or a negative errno; then a mask is unchanged,
 * and a new fd is not watched.
 */
int loop_io_set(struct loop_io *io, int fd, unsigned events);

/*
 * One turn: waits until something is ready (at most timeout_ms, -1 = for ever),
 * calls the callbacks, then every end-of-turn hook.  A signal handler ends the wait
 * early.  Not to be called from a callback.  Returns 0 or a negative errno; then
 * nothing was called.
 */
int loop_turn(struct loop *l, int timeout_ms);

/*
 * Adds an end-of-turn hook, called once per turn after the callbacks.  Hooks, LOOP_HOOKS_MAX
 * of them at most, are called in the order in which they were added.  The daemon's, in this order:
 *
 *	clients.c  frees the connections that were closed
 *	server.c   at a stop, reads the clients for the last time; queue_end_turn() hands the
 *	           spool what was appended in this turn; the end is decided
 *
 * The server's stays the last: what is appended behind it is in no spool block until the next turn
 * ends, and there may be none for a while.  Clients that are closed behind the clients' hook, by
 * queue_end_turn(), are freed at the end of the next turn.
 */
void loop_on_turn(struct loop *l, loop_fn *fn, void *arg);

/*
 * How long turns took since the last call of this, from the end of the wait to the end of
 * the last hook.  The one that calls it counts next time.  0 when there was none.
 */
struct loop_turns {
	uint64_t max_ns;
	uint64_t p99_ns; /* 99 % of them took no longer; see histogram.h for how exact it is */
};
void loop_take_turns(struct loop *l, struct loop_turns *ret);

/*
 * Timers, signals and events stay watched from init to done; fd is their own.
 * After an init that failed, on zeroed memory, and twice, done does nothing.  The callback may call
 * done.
 */

/* A periodic or single timer.  Missed periods are not made up for. */
struct loop_timer {
	struct loop_io io;
	loop_fn *fn;
	void *arg;
	int fd;
};
int loop_timer_init(struct loop *l, struct loop_timer *t, loop_fn *fn, void *arg);
/* First after first_ms, then every period_ms (0 = once).  first_ms 0 disarms. */
void loop_timer_set(struct loop_timer *t, uint64_t first_ms, uint64_t period_ms);
void loop_timer_done(struct loop_timer *t);

/*
 * Signals: blocked in the calling thread (do it before starting threads), read by the loop.
 * They stay blocked after done: one that is pending then must not kill the process.
 */
struct loop_signals {
	struct loop_io io;
	loop_signal_fn *fn;
	void *arg;
	int fd;
};
int loop_signals_init(struct loop *l, struct loop_signals *s, const sigset_t *set,
		      loop_signal_fn *fn, void *arg);
void loop_signals_done(struct loop_signals *s);

/* A wake-up that any thread, or a signal handler, may raise with loop_event_raise(). */
struct loop_event {
	struct loop_io io;
	loop_fn *fn;
	void *arg;
	int fd;
};
int loop_event_init(struct loop *l, struct loop_event *e, loop_fn *fn, void *arg);
/* Thread-safe and async-signal-safe, keeps errno; several raises may be one call. */
void loop_event_raise(struct loop_event *e);
void loop_event_done(struct loop_event *e);
