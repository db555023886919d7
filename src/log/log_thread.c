#include "log/log_thread.h"

#include <pthread.h>
#include <time.h>

#include "base/clock.h"
#include "base/thread.h"
#include "log/log_ring.h"
#include "log/log_sink.h"

#define STALL_TOLD_MS 60000 /* one log_stalled in this time */
#define OWN_LINE_MAX 1024   /* bytes of an event of the thread's own */

enum state {
	NONE,
	RUNNING,
	LEFT_BEHIND, /* its sink hangs, and nobody waits for it any more */
};

/*
 * As the log itself: there is one for the process.  The lock guards everything, and is
 * never held while the sink is written to.
 */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t work;  /* for the thread: a line, or the end */
	pthread_cond_t moved; /* for who waits for the end */
	bool made;            /* the conditions are */
	pthread_t thread;
	enum state state;
	bool ending;
	uint64_t lost;    /* lines since the last log_lost; while it counts, none is taken */
	uint64_t written; /* lines: tells whether anything moves */
	struct log_ring ring;
} t = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- what the thread itself has to say; the lock is held ---- */

static bool
tell(const struct log_line *as, const char *event, const struct log_field *fields)
{
	const struct log_event e = {
	    .level = LOG_WARNING, .name = event, .time_us = clock_real_us(), .fields = fields};
	char buf[OWN_LINE_MAX];
	struct log_line line;

	if (!log_enabled(e.level))
		return true;
	log_line_make(&line, buf, sizeof(buf), &e, as->n > 1);
	return log_ring_put(&t.ring, &line);
}

static void
tell_lost(const struct log_line *last)
{
	if (t.lost > 0 && t.ring.used <= LOG_RING_BYTES / 2 &&
	    tell(last, "log_lost", (const struct log_field[]){LOG_U64("lines", t.lost), LOG_END}))
		t.lost = 0;
}

/* A stall that was not told yet, and when one was told last. */
struct stalls {
	uint64_t longest_ms;
	uint64_t told_ms;
};

/* Does not feed itself: a line of its own that stalls is too soon after it. */
static void
tell_stalled(const struct log_line *last, uint64_t took_ms, struct stalls *s)
{
	uint64_t now;

	if (took_ms >= LOG_STALL_MS && took_ms > s->longest_ms)
		s->longest_ms = took_ms;
	if (s->longest_ms == 0)
		return;
	now = clock_ms();
	if (s->told_ms && now - s->told_ms < STALL_TOLD_MS)
		return;
	if (tell(last, "log_stalled",
		 (const struct log_field[]){LOG_STR("sink", log_sink_name(last)),
					    LOG_F64("seconds", (double)s->longest_ms / 1000),
					    LOG_END}))
		*s = (struct stalls){.told_ms = now};
}

/* ---- the thread ---- */

static void *
log_thread_main(void *arg)
{
	struct stalls stalls = {0};
	struct log_line line;

	(void)arg;
	(void)pthread_mutex_lock(&t.lock);
	while (t.state == RUNNING) {
		uint64_t start_ms;

		while (!log_ring_look(&t.ring, &line) && !t.ending)
			(void)pthread_cond_wait(&t.work, &t.lock);
		if (t.ring.used == 0)
			break;
		(void)pthread_mutex_unlock(&t.lock);
		start_ms = clock_ms();
		log_sink_write(&line);
		(void)pthread_mutex_lock(&t.lock);
		log_ring_drop(&t.ring);
		tell_stalled(&line, clock_ms() - start_ms, &stalls);
		tell_lost(&line);
		t.written++;
		(void)pthread_cond_signal(&t.moved);
	}
	if (t.state == RUNNING)
		t.state = NONE;
	(void)pthread_cond_signal(&t.moved);
	(void)pthread_mutex_unlock(&t.lock);
	return NULL;
}

static int
make_conditions(void)
{
	int r;

	if (t.made)
		return 0;
	r = thread_cond_init(&t.work);
	if (r == 0)
		r = thread_cond_init(&t.moved);
	t.made = r == 0;
	return r;
}

int
log_thread_start(void)
{
	int r = 0;

	(void)pthread_mutex_lock(&t.lock);
	if (t.state == NONE) {
		r = make_conditions();
		t.ending = false;
		if (r == 0)
			r = thread_start(&t.thread, "log", log_thread_main, NULL);
		if (r == 0)
			t.state = RUNNING;
	}
	(void)pthread_mutex_unlock(&t.lock);
	return r;
}

/* ---- who logs ---- */

bool
log_thread_put(const struct log_line *l)
{
	bool wake = false, taken = true;

	(void)pthread_mutex_lock(&t.lock);
	if (t.state == NONE)
		taken = false;
	else if (t.lost > 0 || t.state == LEFT_BEHIND || !log_ring_put(&t.ring, l))
		t.lost++;
	else
		wake = true;
	(void)pthread_mutex_unlock(&t.lock);
	if (wake)
		(void)pthread_cond_signal(&t.work); /* no system call while nobody waits for it */
	return taken;
}

bool
log_thread_skip(void)
{
	bool losing;

	(void)pthread_mutex_lock(&t.lock);
	losing = t.state == LEFT_BEHIND || t.lost > 0;
	if (losing)
		t.lost++;
	(void)pthread_mutex_unlock(&t.lock);
	return losing;
}

/* ---- the end ---- */

/* Waits for the thread to end, within bounds.  The lock is held. */
static bool
await_end(void)
{
	uint64_t now = clock_ms(), last_ms = now + LOG_CLOSE_MS;
	uint64_t still_ms = now + LOG_CLOSE_STILL_MS, written = t.written;

	while (t.state == RUNNING && now < still_ms && now < last_ms) {
		struct timespec until = clock_timespec(still_ms < last_ms ? still_ms : last_ms);

		(void)pthread_cond_timedwait(&t.moved, &t.lock, &until);
		now = clock_ms();
		if (t.written != written)
			still_ms = now + LOG_CLOSE_STILL_MS;
		written = t.written;
	}
	return t.state != RUNNING;
}

void
log_thread_stop(void)
{
	bool ended;

	(void)pthread_mutex_lock(&t.lock);
	if (t.state != RUNNING) {
		(void)pthread_mutex_unlock(&t.lock);
		return;
	}
	t.ending = true;
	(void)pthread_cond_signal(&t.work);
	ended = await_end();
	if (!ended)
		t.state = LEFT_BEHIND;
	(void)pthread_mutex_unlock(&t.lock);
	if (ended)
		(void)pthread_join(t.thread, NULL);
	else
		(void)pthread_detach(t.thread);
}
