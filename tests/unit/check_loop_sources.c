/* check_loop_sources.c - timers, signals and events of the loop, on both backends. */
#include "net/loop.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "loop_test.h"

/* ---- timers ---- */

struct ticker {
	struct loop_timer timer;
	unsigned calls;
	unsigned done_at; /* ends itself at this call */
	unsigned again;   /* sets itself anew so often */
};

static void
tick(void *arg)
{
	struct ticker *t = arg;

	if (++t->calls == t->done_at)
		loop_timer_done(&t->timer);
	else if (t->calls <= t->again)
		loop_timer_set(&t->timer, 1, 0);
}

static void
ticker_init(struct ticker *t)
{
	memset(t, 0, sizeof(*t));
	ck_assert_int_eq(loop_timer_init(loop, &t->timer, tick, t), 0);
}

/* Turns until a timer of its own has fired, which was set after everything else. */
static void
await_ms(uint64_t ms)
{
	struct ticker t;

	ticker_init(&t);
	loop_timer_set(&t.timer, ms, 0);
	AWAIT(t.calls == 1);
	loop_timer_done(&t.timer);
}

START_TEST(timer_fires_once)
{
	struct ticker t;

	ticker_init(&t);
	loop_timer_set(&t.timer, 1, 0);
	AWAIT(t.calls == 1);
	await_ms(20);
	ck_assert_uint_eq(t.calls, 1);
	loop_timer_done(&t.timer);
}
END_TEST

START_TEST(timer_fires_periodically)
{
	struct ticker t;

	ticker_init(&t);
	loop_timer_set(&t.timer, 1, 2);
	AWAIT(t.calls == 5);
	loop_timer_set(&t.timer, 0, 2); /* first_ms 0 disarms, whatever the period */
	await_ms(20);
	ck_assert_uint_eq(t.calls, 5);
	loop_timer_done(&t.timer);
}
END_TEST

START_TEST(timer_is_set_anew_in_its_callback)
{
	struct ticker t;

	ticker_init(&t);
	t.again = 3;
	loop_timer_set(&t.timer, 1, 0);
	AWAIT(t.calls == 4);
	await_ms(20);
	ck_assert_uint_eq(t.calls, 4);
	loop_timer_done(&t.timer);
}
END_TEST

START_TEST(timer_ends_in_its_callback)
{
	struct ticker t;

	ticker_init(&t);
	t.done_at = 2;
	loop_timer_set(&t.timer, 1, 1);
	AWAIT(t.calls == 2);
	await_ms(20);
	ck_assert_uint_eq(t.calls, 2);
	ck_assert_int_eq(t.timer.fd, -1);
	loop_timer_done(&t.timer); /* twice is fine */
}
END_TEST

/* Blocks until the loop would find t due. */
static void
wait_due(const struct ticker *t)
{
	struct pollfd due = {.fd = t->timer.fd, .events = POLLIN};

	ck_assert_int_eq(poll(&due, 1, DEADLINE_MS), 1);
}

static struct ticker later;

/* The first call lasts for several periods. */
static void
tick_slowly(void *arg)
{
	struct ticker *t = arg;

	if (++t->calls == 1) {
		loop_timer_set(&later.timer, 10, 0);
		wait_due(&later);
	}
}

START_TEST(timer_does_not_make_up_for_missed_periods)
{
	struct ticker t = {0};

	ticker_init(&later);
	ck_assert_int_eq(loop_timer_init(loop, &t.timer, tick_slowly, &t), 0);
	loop_timer_set(&t.timer, 1, 1);
	AWAIT(t.calls == 1);
	turn();
	ck_assert_uint_eq(t.calls, 2);
	loop_timer_done(&t.timer);
	loop_timer_done(&later.timer);
}
END_TEST

/* Both are due in one turn; whichever comes first disarms both, which cannot be unheard. */
static struct ticker rivals[2];

static void
disarm_both(void *arg)
{
	struct ticker *t = arg;

	t->calls++;
	loop_timer_set(&rivals[0].timer, 0, 0);
	loop_timer_set(&rivals[1].timer, 0, 0);
}

START_TEST(timer_is_disarmed_within_the_turn)
{
	for (int i = 0; i < 2; i++) {
		struct ticker *t = &rivals[i];

		ck_assert_int_eq(loop_timer_init(loop, &t->timer, disarm_both, t), 0);
		loop_timer_set(&t->timer, 1, 0);
	}
	wait_due(&rivals[0]);
	wait_due(&rivals[1]);
	turn();
	turn();
	ck_assert_uint_eq(rivals[0].calls + rivals[1].calls, 1);
	for (int i = 0; i < 2; i++)
		loop_timer_done(&rivals[i].timer);
}
END_TEST

START_TEST(done_on_zeroes)
{
	struct loop_timer t = {0};
	struct loop_signals s = {0};
	struct loop_event e = {0};
	int before = fcntl(0, F_GETFD);

	loop_timer_done(&t);
	loop_signals_done(&s);
	loop_event_done(&e);
	ck_assert_int_eq(fcntl(0, F_GETFD), before); /* the fd 0 of the zeroes is not theirs */
}
END_TEST

/* ---- signals ---- */

static unsigned seen[NSIG];
static struct loop_signals signals;

static void
signal_seen(void *arg, int signo)
{
	ck_assert_ptr_eq(arg, seen);
	seen[signo]++;
}

static void
signals_open(loop_signal_fn *fn)
{
	sigset_t set;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGUSR1);
	(void)sigaddset(&set, SIGUSR2);
	ck_assert_int_eq(loop_signals_init(loop, &signals, &set, fn, seen), 0);
}

START_TEST(signals_are_called_back)
{
	signals_open(signal_seen);
	turn();
	ck_assert_uint_eq(seen[SIGUSR1] + seen[SIGUSR2], 0);
	ck_assert_int_eq(raise(SIGUSR1), 0);
	ck_assert_int_eq(raise(SIGUSR2), 0);
	AWAIT(seen[SIGUSR1] == 1 && seen[SIGUSR2] == 1);
	ck_assert_int_eq(raise(SIGUSR1), 0);
	AWAIT(seen[SIGUSR1] == 2);
	turn();
	ck_assert_uint_eq(seen[SIGUSR2], 1);
	loop_signals_done(&signals);
}
END_TEST

static void
signals_end(void *arg, int signo)
{
	signal_seen(arg, signo);
	loop_signals_done(&signals);
}

START_TEST(signals_end_in_their_callback)
{
	sigset_t set;
	int other;

	signals_open(signals_end);
	ck_assert_int_eq(raise(SIGUSR1), 0);
	ck_assert_int_eq(raise(SIGUSR2), 0);
	AWAIT(seen[SIGUSR1] + seen[SIGUSR2] == 1);
	turn();
	ck_assert_uint_eq(seen[SIGUSR1] + seen[SIGUSR2], 1);
	(void)sigemptyset(&set);
	(void)sigaddset(&set, seen[SIGUSR1] ? SIGUSR2 : SIGUSR1);
	ck_assert_int_eq(sigwait(&set, &other), 0); /* it waits, blocked */
}
END_TEST

/* ---- events ---- */

#define RAISES 1000

static struct loop_event event;
static _Atomic unsigned raised;
static unsigned taken;

static void
event_seen(void *arg)
{
	(void)arg;
	taken = atomic_load(&raised);
}

static void *
raise_often(void *arg)
{
	for (int i = 0; i < RAISES; i++) {
		atomic_fetch_add(&raised, 1);
		loop_event_raise(arg);
	}
	return NULL;
}

/* What a raise follows is seen by the callback; the last one is never lost. */
START_TEST(event_from_another_thread)
{
	pthread_t thread;

	ck_assert_int_eq(loop_event_init(loop, &event, event_seen, NULL), 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, raise_often, &event), 0);
	AWAIT(taken == RAISES);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	loop_event_done(&event);
}
END_TEST

static void
raise_handler(int signo)
{
	(void)signo;
	loop_event_raise(&event);
}

START_TEST(event_from_a_signal_handler)
{
	struct sigaction act = {.sa_handler = raise_handler};

	ck_assert_int_eq(loop_event_init(loop, &event, event_seen, NULL), 0);
	ck_assert_int_eq(sigaction(SIGURG, &act, NULL), 0);
	atomic_store(&raised, 1);
	ck_assert_int_eq(raise(SIGURG), 0);
	AWAIT(taken == 1);
	loop_event_done(&event);
}
END_TEST

static void
count_call(void *arg)
{
	++*(unsigned *)arg;
}

START_TEST(event_raised_to_the_brim)
{
	uint64_t full = UINT64_MAX - 1;
	unsigned calls = 0;

	ck_assert_int_eq(loop_event_init(loop, &event, count_call, &calls), 0);
	ck_assert_int_eq(write(event.fd, &full, sizeof(full)), sizeof(full));
	errno = ENOTTY;
	loop_event_raise(&event); /* does not wait for room */
	ck_assert_int_eq(errno, ENOTTY);
	turn();
	turn();
	ck_assert_uint_eq(calls, 1);
	loop_event_done(&event);
}
END_TEST

static void
event_ends(void *arg)
{
	count_call(arg);
	loop_event_done(&event);
}

START_TEST(event_ends_in_its_callback)
{
	unsigned calls = 0;

	ck_assert_int_eq(loop_event_init(loop, &event, event_ends, &calls), 0);
	loop_event_raise(&event);
	turn();
	turn();
	ck_assert_uint_eq(calls, 1);
}
END_TEST

/* ---- */

/* For runs without fork. */
static void
forget(void)
{
	memset(seen, 0, sizeof(seen));
	memset(rivals, 0, sizeof(rivals));
	atomic_store(&raised, 0);
	taken = 0;
}

int
main(void)
{
	const TTest *const tests[] = {
	    timer_fires_once,
	    timer_fires_periodically,
	    timer_is_set_anew_in_its_callback,
	    timer_ends_in_its_callback,
	    timer_does_not_make_up_for_missed_periods,
	    timer_is_disarmed_within_the_turn,
	    done_on_zeroes,
	    signals_are_called_back,
	    signals_end_in_their_callback,
	    event_from_another_thread,
	    event_from_a_signal_handler,
	    event_raised_to_the_brim,
	    event_ends_in_its_callback,
	};
	Suite *s = suite_create("loop sources");

	add_on_both(s, forget, NULL, tests, COUNT(tests));
	return run_suite(s);
}
