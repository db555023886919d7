/* check_loop.c - the loop and its descriptors; every case runs on both backends. */
#include "net/loop.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "loop_test.h"

#ifndef LOOP_DEFAULT_BACKEND
#define LOOP_DEFAULT_BACKEND LOOP_EPOLL
#endif

#define PAIRS 2000
#define TURNS_FOR_ALL 8 /* PAIRS in batches of 256 */

/* A connected pair; peer is the test's end. */
struct end {
	struct loop_io io;
	int fd;
	int peer;
	unsigned calls;
	unsigned last;      /* the events of the last call */
	struct end *victim; /* what the callback removes */
	bool drain;         /* the callback reads a byte */
};

static void
end_remove(struct end *e)
{
	ck_assert_int_eq(loop_io_set(&e->io, e->fd, 0), 0);
}

static void
end_called(void *arg, unsigned events)
{
	struct end *e = arg;
	char c;

	e->calls++;
	e->last = events;
	if (e->drain)
		ck_assert_int_eq(read(e->fd, &c, 1), 1);
	if (e->victim)
		end_remove(e->victim);
}

static void
end_open(struct end *e)
{
	int fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds),
			 0);
	*e = (struct end){.fd = fds[0], .peer = fds[1]};
	loop_io_init(loop, &e->io, end_called, e);
}

static void
end_watch(struct end *e, unsigned events)
{
	ck_assert_int_eq(loop_io_set(&e->io, e->fd, events), 0);
}

static void
end_feed(const struct end *e)
{
	ck_assert_int_eq(write(e->peer, "x", 1), 1);
}

static void
end_close(struct end *e)
{
	end_remove(e);
	(void)close(e->fd);
	if (e->peer >= 0)
		(void)close(e->peer);
}

/* ---- the loop ---- */

START_TEST(names)
{
	ck_assert_str_eq(loop_backend_name(loop), backend == LOOP_POLL ? "poll" : "epoll");
	loop_free(NULL);
}
END_TEST

START_TEST(default_is_as_configured)
{
	struct loop *l;

	ck_assert_int_eq(loop_new(LOOP_DEFAULT, &l), 0);
	ck_assert_str_eq(loop_backend_name(l),
			 LOOP_DEFAULT_BACKEND == LOOP_POLL ? "poll" : "epoll");
	loop_free(l);
}
END_TEST

static volatile sig_atomic_t alarms;

static void
alarm_handler(int signo)
{
	(void)signo;
	alarms++;
}

/* The timer fires again and again: none can be lost before the wait begins. */
START_TEST(signal_handler_ends_the_wait)
{
	struct sigaction act = {.sa_handler = alarm_handler};
	struct itimerval on = {.it_interval = {.tv_usec = 2000}, .it_value = {.tv_usec = 2000}};
	struct itimerval off = {0};

	ck_assert_int_eq(sigaction(SIGALRM, &act, NULL), 0);
	ck_assert_int_eq(setitimer(ITIMER_REAL, &on, NULL), 0);
	ck_assert_int_eq(loop_turn(loop, -1), 0);
	ck_assert_int_eq(setitimer(ITIMER_REAL, &off, NULL), 0);
	ck_assert_int_gt(alarms, 0);
}
END_TEST

struct order {
	char text[16];
	size_t len;
};

static struct order order;
static char letter_i[] = "i", letter_1[] = "1", letter_2[] = "2", letter_3[] = "3";

static void
note(void *arg)
{
	const char *letter = arg;

	ck_assert_uint_lt(order.len, sizeof(order.text) - 1);
	order.text[order.len++] = *letter;
	order.text[order.len] = '\0';
}

static void
note_io(void *arg, unsigned events)
{
	(void)events;
	note(arg);
}

START_TEST(hooks_follow_the_callbacks_in_order)
{
	struct end e;

	end_open(&e);
	loop_io_init(loop, &e.io, note_io, letter_i);
	end_watch(&e, LOOP_READ);
	loop_on_turn(loop, note, letter_1);
	loop_on_turn(loop, note, letter_2);
	loop_on_turn(loop, note, letter_3);

	turn();
	ck_assert_str_eq(order.text, "123"); /* also when nothing was ready */
	end_feed(&e);
	turn();
	ck_assert_str_eq(order.text, "123i123");
	end_close(&e);
}
END_TEST

/* ---- how long turns take ---- */

static uint64_t busy_ms;

/* Takes its time, once. */
static void
be_busy(void *arg)
{
	uint64_t until = clock_ms() + busy_ms;

	(void)arg;
	while (clock_ms() < until)
		;
	busy_ms = 0;
}

static void
be_busy_io(void *arg, unsigned events)
{
	(void)events;
	be_busy(arg);
}

/* What callbacks and hooks take counts, and the wait does not. */
START_TEST(turns_are_measured)
{
	uint64_t start_ns;
	struct loop_turns t;
	struct end e;

	loop_take_turns(loop, &t);
	ck_assert_uint_eq(t.max_ns, 0);
	ck_assert_uint_eq(t.p99_ns, 0);
	for (int i = 0; i < 200; i++)
		turn();
	loop_take_turns(loop, &t);
	ck_assert_uint_gt(t.p99_ns, 0);
	ck_assert_uint_ge(t.max_ns, t.p99_ns);

	start_ns = clock_ns();
	ck_assert_int_eq(loop_turn(loop, 50), 0); /* nothing is ready: it waits so long */
	loop_take_turns(loop, &t);
	ck_assert_uint_le(t.max_ns + 49000000, clock_ns() - start_ns);

	end_open(&e);
	loop_io_init(loop, &e.io, be_busy_io, &e);
	end_watch(&e, LOOP_READ);
	end_feed(&e);
	busy_ms = 20; /* the callback */
	turn();
	loop_take_turns(loop, &t);
	ck_assert_uint_ge(t.max_ns, 19000000);
	end_close(&e);

	loop_on_turn(loop, be_busy, NULL);
	busy_ms = 20; /* the hook */
	for (int i = 0; i < 200; i++)
		turn();
	loop_take_turns(loop, &t);
	ck_assert_uint_ge(t.max_ns, 19000000);
	turn();
	loop_take_turns(loop, &t); /* what was taken is gone */
	ck_assert_uint_eq(t.p99_ns, t.max_ns);
}
END_TEST

/* ---- readiness ---- */

START_TEST(readiness_is_level_triggered)
{
	struct end e;

	end_open(&e);
	end_watch(&e, LOOP_READ);
	turn();
	ck_assert_uint_eq(e.calls, 0);
	end_feed(&e);
	turn();
	turn();
	ck_assert_uint_eq(e.calls, 2);
	ck_assert_uint_eq(e.last, LOOP_READ);

	e.drain = true;
	turn();
	turn();
	ck_assert_uint_eq(e.calls, 3);
	end_close(&e);
}
END_TEST

START_TEST(mask_changes)
{
	struct end e;

	end_open(&e);
	end_feed(&e);
	end_watch(&e, LOOP_WRITE);
	ck_assert_int_eq(e.io.fd, e.fd);
	ck_assert_uint_eq(e.io.events, LOOP_WRITE);
	turn();
	ck_assert_uint_eq(e.last, LOOP_WRITE);
	end_watch(&e, LOOP_READ);
	turn();
	ck_assert_uint_eq(e.last, LOOP_READ);
	end_watch(&e, LOOP_READ | LOOP_WRITE);
	turn();
	ck_assert_uint_eq(e.last, LOOP_READ | LOOP_WRITE);
	ck_assert_uint_eq(e.calls, 3);

	end_watch(&e, 0);
	ck_assert_int_eq(e.io.fd, -1);
	turn();
	ck_assert_uint_eq(e.calls, 3);
	end_watch(&e, 0); /* twice is fine */
	ck_assert_int_eq(e.io.fd, -1);

	end_watch(&e, LOOP_READ);
	turn();
	ck_assert_uint_eq(e.calls, 4);
	end_close(&e);
}
END_TEST

START_TEST(no_descriptor_is_an_error)
{
	struct end e;

	end_open(&e);
	ck_assert_int_eq(loop_io_set(&e.io, -1, LOOP_READ), -EBADF);
	ck_assert_int_eq(e.io.fd, -1);
	end_close(&e);
}
END_TEST

START_TEST(descriptor_of_a_live_io_changes)
{
	struct end a, b;

	end_open(&a);
	end_open(&b);
	end_watch(&a, LOOP_READ);
	ck_assert_int_eq(loop_io_set(&a.io, b.fd, LOOP_READ), 0);
	ck_assert_int_eq(a.io.fd, b.fd);
	end_feed(&a);
	turn();
	ck_assert_uint_eq(a.calls, 0);
	end_feed(&b);
	turn();
	ck_assert_uint_eq(a.calls, 1);
	end_close(&a);
	end_close(&b);
}
END_TEST

/* ---- hanging up ---- */

START_TEST(hangup_is_readable_too)
{
	struct end e;

	end_open(&e);
	end_watch(&e, LOOP_READ);
	end_feed(&e);
	(void)close(e.peer);
	e.peer = -1;
	turn();
	ck_assert_uint_eq(e.last, LOOP_READ | LOOP_HANGUP);
	end_close(&e);
}
END_TEST

START_TEST(hangup_comes_unasked)
{
	struct end e;

	end_open(&e);
	end_watch(&e, LOOP_WRITE);
	(void)close(e.peer);
	e.peer = -1;
	turn();
	ck_assert_uint_eq(e.last & LOOP_HANGUP, LOOP_HANGUP);
	ck_assert_uint_eq(e.last & LOOP_READ, 0);
	end_close(&e);
}
END_TEST

START_TEST(hangup_alone_may_be_asked_for)
{
	struct end e;

	end_open(&e);
	end_watch(&e, LOOP_HANGUP);
	end_feed(&e);
	turn();
	ck_assert_uint_eq(e.calls, 0);
	ck_assert_int_eq(shutdown(e.peer, SHUT_WR), 0);
	turn();
	ck_assert_uint_eq(e.calls, 0);
	(void)close(e.peer);
	e.peer = -1;
	turn();
	ck_assert_uint_eq(e.last, LOOP_HANGUP);
	end_close(&e);
}
END_TEST

/* Whatever is unread, and without a word of that. */
START_TEST(the_end_of_the_stream_may_be_asked_for)
{
	struct end e;

	end_open(&e);
	end_watch(&e, LOOP_END);
	end_feed(&e);
	turn();
	ck_assert_uint_eq(e.calls, 0);
	ck_assert_int_eq(shutdown(e.peer, SHUT_WR), 0);
	turn();
	ck_assert_uint_eq(e.last, LOOP_END);
	end_watch(&e, LOOP_READ);
	turn();
	ck_assert_uint_eq(e.last, LOOP_READ);
	end_close(&e);
}
END_TEST

/* The read end of a pipe without a writer: POLLHUP alone. */
START_TEST(hangup_of_a_pipe_is_readable_too)
{
	struct end e;
	int fds[2];

	ck_assert_int_eq(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	e = (struct end){.fd = fds[0], .peer = -1};
	loop_io_init(loop, &e.io, end_called, &e);
	end_watch(&e, LOOP_READ);
	(void)close(fds[1]);
	turn();
	ck_assert_uint_eq(e.last, LOOP_READ | LOOP_HANGUP);
	end_close(&e);
}
END_TEST

/* The write end of a pipe without a reader: POLLERR alone. */
START_TEST(error_is_a_hangup)
{
	struct end e;
	int fds[2];

	ck_assert_int_eq(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	e = (struct end){.fd = fds[1], .peer = -1};
	loop_io_init(loop, &e.io, end_called, &e);
	end_watch(&e, LOOP_WRITE);
	(void)close(fds[0]);
	turn();
	ck_assert_uint_eq(e.last & LOOP_HANGUP, LOOP_HANGUP);
	end_close(&e);
}
END_TEST

START_TEST(half_close_is_readable_only)
{
	struct end e;

	end_open(&e);
	end_watch(&e, LOOP_READ);
	ck_assert_int_eq(shutdown(e.peer, SHUT_WR), 0);
	turn();
	ck_assert_uint_eq(e.last, LOOP_READ);
	end_close(&e);
}
END_TEST

/* ---- removal within a turn ---- */

START_TEST(callback_removes_itself)
{
	struct end e;

	end_open(&e);
	e.victim = &e;
	end_watch(&e, LOOP_READ);
	end_feed(&e);
	turn();
	turn();
	ck_assert_uint_eq(e.calls, 1);
	end_close(&e);
}
END_TEST

/* Both are ready; whichever is called first removes the other. */
START_TEST(callback_removes_another)
{
	struct end a, b;

	end_open(&a);
	end_open(&b);
	a.victim = &b;
	b.victim = &a;
	end_watch(&a, LOOP_READ);
	end_watch(&b, LOOP_READ);
	end_feed(&a);
	end_feed(&b);
	turn();
	ck_assert_uint_eq(a.calls + b.calls, 1);
	turn();
	ck_assert_uint_eq(a.calls + b.calls, 2); /* only the one that is left */
	end_close(&a);
	end_close(&b);
}
END_TEST

/* What was ready in an earlier turn and is removed now takes nobody else's call with it. */
START_TEST(removal_spares_the_others)
{
	struct end old[2], now[2];

	for (int i = 0; i < 2; i++) {
		end_open(&old[i]);
		end_open(&now[i]);
		old[i].drain = true;
		now[i].victim = &old[!i];
		end_watch(&old[i], LOOP_READ);
		end_watch(&now[i], LOOP_READ);
		end_feed(&old[i]);
	}
	turn();
	for (int i = 0; i < 2; i++) {
		ck_assert_uint_eq(old[i].calls, 1);
		end_feed(&now[i]);
	}
	turn();
	for (int i = 0; i < 2; i++) {
		ck_assert_uint_eq(now[i].calls, 1);
		end_close(&old[i]);
		end_close(&now[i]);
	}
}
END_TEST

/* Objects on the heap that free each other, and themselves, while they are listed as ready. */
struct heap_end {
	struct end end;
	struct heap_end **all; /* N_HEAP of them */
	unsigned *calls;
};

#define N_HEAP 8

static void
heap_called(void *arg, unsigned events)
{
	struct heap_end *h = arg;
	struct heap_end **all = h->all;

	(void)events;
	++*h->calls;
	for (int i = 0; i < N_HEAP; i++) {
		end_close(&all[i]->end);
		free(all[i]);
	}
}

START_TEST(callback_frees_everything)
{
	struct heap_end *all[N_HEAP];
	unsigned calls = 0;

	for (int i = 0; i < N_HEAP; i++) {
		all[i] = calloc(1, sizeof(*all[i]));
		ck_assert_ptr_nonnull(all[i]);
		end_open(&all[i]->end);
		loop_io_init(loop, &all[i]->end.io, heap_called, all[i]);
		all[i]->all = all;
		all[i]->calls = &calls;
		end_watch(&all[i]->end, LOOP_READ);
		end_feed(&all[i]->end);
	}
	turn(); /* AddressSanitizer and valgrind see a use after free */
	turn();
	ck_assert_uint_eq(calls, 1);
}
END_TEST

static void
end_open_two(struct end ends[2], loop_io_fn *fn)
{
	for (int i = 0; i < 2; i++) {
		end_open(&ends[i]);
		loop_io_init(loop, &ends[i].io, fn, &ends[i]);
		end_watch(&ends[i], LOOP_READ);
		end_feed(&ends[i]);
	}
}

/* Whoever is called first gives the other's descriptor and memory to a new loop_io. */
static struct end first_or_second[2];
static unsigned old_calls, new_calls;

static void
reborn_called(void *arg, unsigned events)
{
	(void)arg;
	(void)events;
	new_calls++;
}

static void
replace_other(void *arg, unsigned events)
{
	struct end *self = arg;
	struct end *other = &first_or_second[self == &first_or_second[0]];

	(void)events;
	old_calls++;
	end_remove(other);
	memset(&other->io, 0xA5, sizeof(other->io));
	loop_io_init(loop, &other->io, reborn_called, other);
	end_watch(other, LOOP_READ);
	end_remove(self);
}

START_TEST(reused_memory_and_descriptor)
{
	end_open_two(first_or_second, replace_other);
	turn();
	ck_assert_uint_eq(old_calls, 1);
	ck_assert_uint_eq(new_calls, 0); /* what was reported was its predecessor's */
	turn();
	ck_assert_uint_eq(old_calls, 1);
	ck_assert_uint_eq(new_calls, 1);
	for (int i = 0; i < 2; i++)
		end_close(&first_or_second[i]);
}
END_TEST

/* Whoever is called first turns the other to a descriptor that is not ready. */
static int quiet_fds[2];

static void
redirect_other(void *arg, unsigned events)
{
	struct end *self = arg;
	struct end *other = &first_or_second[self == &first_or_second[0]];

	(void)events;
	old_calls++;
	ck_assert_int_eq(loop_io_set(&other->io, quiet_fds[0], LOOP_READ), 0);
}

START_TEST(readiness_stays_with_the_descriptor)
{
	ck_assert_int_eq(pipe2(quiet_fds, O_CLOEXEC | O_NONBLOCK), 0);
	end_open_two(first_or_second, redirect_other);
	turn();
	ck_assert_uint_eq(old_calls, 1);
	for (int i = 0; i < 2; i++)
		end_close(&first_or_second[i]);
	(void)close(quiet_fds[0]);
	(void)close(quiet_fds[1]);
}
END_TEST

/* Whoever is called first has the other ask for nothing that was reported. */
static void
change_other(void *arg, unsigned events)
{
	struct end *self = arg;
	struct end *other = &first_or_second[self == &first_or_second[0]];

	old_calls++;
	ck_assert_uint_eq(events, LOOP_READ);
	end_watch(other, LOOP_WRITE);
}

START_TEST(mask_changes_within_a_turn)
{
	end_open_two(first_or_second, change_other);
	turn();
	ck_assert_uint_eq(old_calls, 1);
	for (int i = 0; i < 2; i++)
		end_close(&first_or_second[i]);
}
END_TEST

/* ---- many ---- */

static void
allow_descriptors(rlim_t n)
{
	struct rlimit lim;

	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &lim), 0);
	if (lim.rlim_cur >= n)
		return;
	lim.rlim_cur = lim.rlim_max < n ? lim.rlim_max : n;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &lim), 0);
}

static unsigned
called(const struct end *ends, unsigned calls)
{
	unsigned n = 0;

	for (int i = 0; i < PAIRS; i++)
		n += ends[i].calls == calls;
	return n;
}

static struct end *
many_ready(void)
{
	struct end *ends = calloc(PAIRS, sizeof(*ends));

	allow_descriptors(2 * PAIRS + 100);
	ck_assert_ptr_nonnull(ends);
	for (int i = 0; i < PAIRS; i++) {
		end_open(&ends[i]);
		end_watch(&ends[i], LOOP_READ);
		end_feed(&ends[i]);
	}
	return ends;
}

START_TEST(many_are_served_once)
{
	struct end *ends;

	ends = many_ready();
	for (int i = 0; i < PAIRS; i++)
		ends[i].drain = true;
	AWAIT(called(ends, 1) == PAIRS);
	turn();
	ck_assert_uint_eq(called(ends, 1), PAIRS);

	/* those that are left work on after the others went */
	for (int i = 0; i < PAIRS; i++) {
		if (i % 50)
			end_remove(&ends[i]);
		end_feed(&ends[i]);
	}
	AWAIT(called(ends, 2) == PAIRS / 50);
	for (int i = 0; i < PAIRS; i++)
		ck_assert_uint_eq(ends[i].calls, i % 50 ? 1 : 2);

	/* and those that went can return */
	for (int i = 0; i < PAIRS; i++)
		end_watch(&ends[i], LOOP_READ);
	AWAIT(called(ends, 2) == PAIRS);

	for (int i = 0; i < PAIRS; i++)
		end_close(&ends[i]);
	free(ends);
}
END_TEST

/* Nobody is drained: those who were served first stay ready, and yet all get their turn. */
START_TEST(many_are_served_fairly)
{
	struct end *ends;

	ends = many_ready();
	for (int i = 0; i < TURNS_FOR_ALL; i++)
		turn();
	ck_assert_uint_eq(called(ends, 0), 0);
	for (int i = 0; i < PAIRS; i++)
		end_close(&ends[i]);
	free(ends);
}
END_TEST

/* ---- */

/* For runs without fork. */
static void
forget(void)
{
	order = (struct order){0};
	alarms = 0;
	old_calls = new_calls = 0;
}

int
main(void)
{
	const TTest *const tests[] = {
	    names,
	    default_is_as_configured,
	    signal_handler_ends_the_wait,
	    hooks_follow_the_callbacks_in_order,
	    turns_are_measured,
	    readiness_is_level_triggered,
	    mask_changes,
	    no_descriptor_is_an_error,
	    descriptor_of_a_live_io_changes,
	    hangup_is_readable_too,
	    hangup_comes_unasked,
	    hangup_alone_may_be_asked_for,
	    the_end_of_the_stream_may_be_asked_for,
	    hangup_of_a_pipe_is_readable_too,
	    error_is_a_hangup,
	    half_close_is_readable_only,
	    callback_removes_itself,
	    callback_removes_another,
	    removal_spares_the_others,
	    callback_frees_everything,
	    reused_memory_and_descriptor,
	    readiness_stays_with_the_descriptor,
	    mask_changes_within_a_turn,
	    many_are_served_once,
	    many_are_served_fairly,
	};
	Suite *s = suite_create("loop");

	add_on_both(s, forget, NULL, tests, COUNT(tests));
	return run_suite(s);
}
