/*
 * writer.c - see writer.h.
 *
 *	                    ┌────────────── back-off <── failed ──┐
 *	                    v                  ^                  │
 *	wait for set-up ─ connect ── take ── load ── put ─────────┴── done
 *	                               └─ idle: check the connection
 *
 * Two things stop a thread: the flag ends the queue's waits, the descriptor the store's.
 */
#include "store/writer.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/thread.h"
#include "log/log.h"
#include "store/backoff.h"
#include "store/janitor.h"
#include "store/store.h"
#include "store/stored_log.h"

#define IDLE_MS 10000        /* a wait for a batch; then the connection is checked */
#define IDLE_FAILING_MS 1000 /* the same, while the last try failed */
#define IDLE_SUMMED_MS 1000  /* the same, while the log lacks a sum of batches */
#define TURN_MS 100          /* by which a batch that is held lets another go first */
#define BATCH_RETRY_MS 1000  /* a batch with a passing trouble of its own */
#define BATCH_HOLD_MS 5000   /* a batch that waits for the operator, others do not */

struct writer {
	struct writers *pool;
	pthread_t thread;
	atomic_int status; /* enum writers_status */
	atomic_bool ended;

	/* the thread's own */
	struct store *store; /* NULL: no connection */
	struct backoff backoff;
	bool failing;   /* the last try failed, a new connection alone proves nothing */
	bool asked;     /* the janitor, to set up, since the last connection */
	unsigned kicks; /* the generation before the last try */
};

struct writers {
	struct conf *conf;   /* a reference */
	struct queue *queue; /* borrowed */
	void (*changed)(void *arg);
	void *arg;               /* borrowed */
	int stop_fd;             /* never read: once readable it stays so, for all threads */
	atomic_int stop;         /* for the queue's waits */
	struct janitor *janitor; /* has a stop of its own */
	struct stored_log stored;
	unsigned n; /* threads that were started */
	struct writer writer[];
};

/* ---- status, back-off ---- */

static void
set_status(struct writer *w, enum writers_status status)
{
	if (atomic_exchange(&w->status, (int)status) != (int)status)
		w->pool->changed(w->pool->arg);
}

static void
went_well(struct writer *w)
{
	w->failing = false;
	backoff_reset(&w->backoff);
	set_status(w, WRITERS_OK);
}

static void
disconnect(struct writer *w)
{
	store_close(w->store);
	w->store = NULL;
}

/* The store failed, not a single batch: says so, and waits.  b is NULL where none was under way. */
static void
store_failed(struct writer *w, enum store_status status, const struct store_error *err,
	     struct batch *b)
{
	struct writers *pool = w->pool;
	bool hold = status == STORE_HOLD;
	uint64_t delay_ms = 0;

	if (status != STORE_STOPPED) {
		delay_ms = backoff_next(&w->backoff);
		store_log_failure(hold ? LOG_ERR : LOG_WARNING,
				  hold && b ? "batch_held" : "database_unavailable",
				  b ? b->number : 0, err, delay_ms);
	}
	/* what only this one meets shall not keep the others waiting for ever */
	if (b)
		queue_return(pool->queue, b, hold && delay_ms ? delay_ms + TURN_MS : 0);
	if (status == STORE_STOPPED)
		return;
	w->failing = true;
	if (err->setup)
		janitor_ask_setup(pool->janitor);
	if (err->reconnect)
		disconnect(w);
	set_status(w, hold ? WRITERS_HELD : WRITERS_UNAVAILABLE);
	if (delay_ms)
		queue_sleep(pool->queue, &pool->stop, w->kicks, delay_ms);
}

/* ---- batches ---- */

/*
 * Divides the batch's rows, those that the spool lost included, by what came of them.  An
 * earlier try may have committed rows that the spool has lost since.
 */
static void
account(struct batch *b, const struct batch_view *view, const struct store_result *res)
{
	uint64_t rows = view->rows + b->lost;

	b->rejected = res->rejected < rows ? res->rejected : rows;
	rows -= b->rejected;
	b->stored = res->stored < rows ? res->stored : rows;
	b->lost = rows - b->stored;
	b->repeated = res->repeated;
}

static void
batch_failed(struct writer *w, enum store_status status, const struct store_error *err,
	     struct batch *b)
{
	bool hold = status == STORE_HOLD;
	uint64_t delay_ms = hold ? BATCH_HOLD_MS : BATCH_RETRY_MS;

	if (status == STORE_STOPPED || !err->batch_only) {
		store_failed(w, status, err, b);
		return;
	}
	store_log_failure(hold ? LOG_ERR : LOG_WARNING,
			  err->conflict ? "ledger_conflict" : "batch_held", b->number, err,
			  delay_ms);
	queue_return(w->pool->queue, b, delay_ms);
	if (err->reconnect)
		disconnect(w);
}

/*
 * A batch that was written under an identity which the spool has given up (metric-spool
 * new-identity) may meet a stranger under its key: a copy of the spool has gone on with that
 * identity.  Its number is this spool's alone, so under the spool's own identity it is nobody else's,
 * also at another try.
 */
static enum store_status
put(struct writer *w, struct batch_view *view, struct store_result *res, struct store_error *err)
{
	const char *own = queue_collector(w->pool->queue);
	enum store_status status = store_put(w->store, view, res, err);

	if (status != STORE_HOLD || !err->disjoint || strcmp(view->collector, own) == 0)
		return status;
	view->collector = own;
	return store_put(w->store, view, res, err);
}

static void
note_stored(struct writers *pool, const struct batch *b, const struct batch_view *view,
	    const struct store_result *res, uint64_t start_ms)
{
	uint64_t now_ms = clock_ms();
	const struct stored_log_sum one = {
	    .batches = 1,
	    .batch = b->number,
	    .rows = b->stored,
	    .bytes = view->bytes,
	    .rejected = b->rejected,
	    .lost = b->lost,
	    .ms = now_ms - start_ms,
	    .repeated = b->repeated,
	    .direct = res->direct,
	};

	stored_log_add(&pool->stored, &one, now_ms);
}

static void
write_batch(struct writer *w, struct batch *b)
{
	struct queue *q = w->pool->queue;
	struct store_error err = {0};
	struct store_result res = {0};
	struct batch_view view;
	uint64_t start_ms;
	enum store_status status;
	/* looked at first: what is put back meanwhile, the promise below knows of */
	bool compared = janitor_compared(w->pool->janitor);

	queue_view(q, b, &view);
	w->kicks = queue_kicks(q);
	if (!compared)
		view.complete_until_us = 0;
	start_ms = clock_ms();
	status = put(w, &view, &res, &err);
	if (status != STORE_OK) {
		batch_failed(w, status, &err, b);
		return;
	}
	account(b, &view, &res);
	janitor_note_stored(w->pool->janitor);
	note_stored(w->pool, b, &view, &res, start_ms);
	went_well(w); /* first: who sees the batch stored sees the status that goes with it */
	queue_done(q, b);
}

/* ---- a thread ---- */

/*
 * What is missing, the janitor is asked to make, and it says why it cannot.  Only if it could, and
 * something is missing all the same, is that a trouble of ours.
 */
static void
connect_store(struct writer *w)
{
	struct writers *pool = w->pool;
	struct store_error err = {0};
	enum store_status status;

	if (!janitor_wait_ready(pool->janitor))
		return;
	w->kicks = queue_kicks(pool->queue);
	status = store_open(pool->conf, pool->stop_fd, &w->store, &err);
	if (status == STORE_OK && !janitor_knows(pool->janitor, store_database(w->store))) {
		store_close(w->store);
		w->store = NULL;
		set_status(w, WRITERS_CONNECTING);
		janitor_ask_setup(pool->janitor);
	} else if (status == STORE_OK) {
		janitor_ask_compare(pool->janitor);
		w->asked = false;
		if (!w->failing)
			set_status(w, WRITERS_OK);
	} else if (err.setup && !w->asked) {
		w->asked = true;
		set_status(w, WRITERS_CONNECTING);
		janitor_ask_setup(pool->janitor);
	} else {
		w->asked = false;
		store_failed(w, status, &err, NULL);
	}
}

/* Also where the last try has failed: another thread may have stored what failed here. */
static void
check(struct writer *w)
{
	struct store_error err = {0};
	enum store_status status;

	w->kicks = queue_kicks(w->pool->queue);
	status = store_check(w->store, &err);
	if (status == STORE_OK)
		went_well(w);
	else
		store_failed(w, status, &err, NULL);
}

static uint64_t
idle_ms(const struct writer *w)
{
	if (w->failing)
		return IDLE_FAILING_MS;
	return stored_log_pending(&w->pool->stored) ? IDLE_SUMMED_MS : IDLE_MS;
}

static void
work(struct writer *w)
{
	struct writers *pool = w->pool;
	struct batch *b;

	if (!w->store) {
		connect_store(w);
		return;
	}
	b = queue_take(pool->queue, &pool->stop, idle_ms(w));
	if (b) {
		write_batch(w, b);
		return;
	}
	stored_log_flush(&pool->stored);
	if (!atomic_load(&pool->stop))
		check(w);
}

static void *
writer_main(void *arg)
{
	struct writer *w = arg;
	struct writers *pool = w->pool;

	while (!atomic_load(&pool->stop))
		work(w);
	stored_log_flush(&pool->stored);
	disconnect(w);
	atomic_store(&w->ended, true);
	pool->changed(pool->arg);
	return NULL;
}

static int
start_thread(struct writers *pool)
{
	struct writer *w = &pool->writer[pool->n];
	char name[THREAD_NAME_MAX];
	int r;

	w->pool = pool;
	backoff_init(&w->backoff, pool->conf->batch.interval_ms);
	(void)snprintf(name, sizeof(name), "writer-%u", pool->n % 10000);
	r = thread_start(&w->thread, name, writer_main, w);
	if (r == 0)
		pool->n++;
	return r;
}

/* ---- the pool ---- */

static unsigned
threads_wanted(const struct conf *conf)
{
	/* SQLite lets one connection write at a time. */
	return conf->database.store == CONF_STORE_SQLITE ? 1 : conf->database.connections;
}

int
writers_start(struct conf *conf, struct queue *q, void (*changed)(void *arg), void *arg,
	      struct writers **ret)
{
	unsigned n = threads_wanted(conf);
	struct writers *w = calloc(1, sizeof(*w) + n * sizeof(w->writer[0]));
	int r = 0;

	if (!w)
		return -ENOMEM;
	w->conf = conf_ref(conf);
	w->queue = q;
	w->changed = changed;
	w->arg = arg;
	stored_log_init(&w->stored);
	w->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->stop_fd < 0)
		r = -errno;
	if (r == 0)
		r = janitor_start(conf, q, changed, arg, &w->janitor);
	while (r == 0 && w->n < n)
		r = start_thread(w);
	if (r < 0) {
		writers_stop(w);
		writers_free(w);
		return r;
	}
	*ret = w;
	return 0;
}

static enum writers_status
status_of(enum store_status setup)
{
	switch (setup) {
	case STORE_OK:
	case STORE_STOPPED:
		return WRITERS_CONNECTING;
	case STORE_RETRY:
		return WRITERS_UNAVAILABLE;
	case STORE_HOLD:
		return WRITERS_HELD;
	}
	return WRITERS_CONNECTING;
}

enum writers_status
writers_status(const struct writers *w)
{
	int worst = WRITERS_CONNECTING;

	for (unsigned i = 0; i < w->n; i++) {
		int status = atomic_load(&w->writer[i].status);

		if (status > worst)
			worst = status;
	}
	if (worst == WRITERS_CONNECTING && w->janitor) /* they wait for it */
		return status_of(janitor_status(w->janitor));
	return (enum writers_status)worst;
}

bool
writers_can_store(const struct writers *w)
{
	unsigned i = 0;

	while (i < w->n && atomic_load(&w->writer[i].status) != WRITERS_OK)
		i++;
	return i < w->n;
}

const char *
writers_status_name(enum writers_status s)
{
	switch (s) {
	case WRITERS_CONNECTING:
		return "connecting";
	case WRITERS_OK:
		return "ok";
	case WRITERS_UNAVAILABLE:
		return "unavailable";
	case WRITERS_HELD:
		return "held";
	}
	return "unknown";
}

void
writers_retire(struct writers *w)
{
	if (writers_status(w) != WRITERS_OK) {
		writers_stop(w);
		return;
	}
	atomic_store(&w->stop, 1);
	janitor_stop(w->janitor);
	queue_kick(w->queue);
}

void
writers_stop(struct writers *w)
{
	const uint64_t one = 1;

	atomic_store(&w->stop, 1);
	if (w->stop_fd >= 0)
		(void)!write(w->stop_fd, &one, sizeof(one));
	if (w->janitor)
		janitor_stop(w->janitor);
	queue_kick(w->queue);
}

bool
writers_ended(const struct writers *w)
{
	for (unsigned i = 0; i < w->n; i++)
		if (!atomic_load(&w->writer[i].ended))
			return false;
	return !w->janitor || janitor_ended(w->janitor);
}

void
writers_free(struct writers *w)
{
	if (!w)
		return;
	for (unsigned i = 0; i < w->n; i++)
		(void)pthread_join(w->writer[i].thread, NULL);
	if (w->stop_fd >= 0)
		(void)close(w->stop_fd);
	janitor_free(w->janitor);
	stored_log_done(&w->stored);
	conf_unref(w->conf);
	free(w);
}
