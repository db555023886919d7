/*
 * writer.c - see writer.h.
 *
 *	        ┌────────────── back-off <── failed ──┐
 *	        v                  ^                  │
 *	    connect ── kept? ── take ── load ── put ──┴── done
 *	                           └─ idle: housekeeping
 *
 * Two things stop a thread: the flag ends the queue's waits, the descriptor the store's.
 */
#include "store/writer.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "log/log.h"
#include "store/store.h"

#define BACKOFF_FIRST_MS 100
#define BACKOFF_MAX_MS 5000
#define BACKOFF_LEAST_MAX_MS 500 /* however short the batch interval */

#define IDLE_MS 10000        /* a wait for a batch */
#define IDLE_FAILING_MS 1000 /* the same, while the last try failed */
#define MAINTAIN_MS 60000    /* between housekeepings */
#define BATCH_RETRY_MS 1000  /* a batch with a passing trouble of its own */
#define BATCH_HOLD_MS 5000   /* a batch that waits for the operator, others do not */
#define SPOOL_RETRY_MS 1000  /* a batch that the disk did not give */

struct writer {
	struct writers *pool;
	pthread_t thread;
	unsigned index;
	atomic_int status; /* enum writers_status */
	atomic_bool ended;

	/* the thread's own */
	struct store *store;     /* NULL: no connection */
	uint64_t next_delay_ms;  /* the most that the next back-off takes; 0: at once */
	uint64_t maintain_at_ms; /* monotonic */
	bool failing;            /* the last try failed, a new connection alone proves nothing */
	bool keep_due;           /* kept batches are to be compared with the ledger */
	unsigned seed;
};

struct writers {
	struct conf *conf;   /* a reference */
	struct queue *queue; /* borrowed */
	void (*changed)(void *arg);
	void *arg;            /* borrowed */
	int stop_fd;          /* never read: once readable it stays so, for all threads */
	atomic_int stop;      /* for the queue's waits */
	pthread_mutex_t kept; /* one thread at a time looks after kept batches */
	unsigned n;           /* threads that were started */
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
	w->next_delay_ms = 0;
	set_status(w, WRITERS_OK);
}

/*
 * How long to wait before the next try: "full jitter" (M. Brooker, Exponential Backoff And Jitter,
 * AWS Architecture Blog, 2015), so that a crowd of collectors spreads out.  What had worked until
 * now is tried again at once.
 */
static uint64_t
backoff(struct writer *w)
{
	const struct conf *conf = w->pool->conf;
	uint64_t delay_ms = w->next_delay_ms;
	uint64_t max_ms = conf->batch.interval_ms;

	if (max_ms < BACKOFF_LEAST_MAX_MS)
		max_ms = BACKOFF_LEAST_MAX_MS;
	if (max_ms > BACKOFF_MAX_MS)
		max_ms = BACKOFF_MAX_MS;
	w->next_delay_ms = delay_ms ? delay_ms * 2 : BACKOFF_FIRST_MS;
	if (w->next_delay_ms > max_ms)
		w->next_delay_ms = max_ms;
	return delay_ms ? 1 + (uint64_t)rand_r(&w->seed) % delay_ms : 0;
}

static const char *
text_or_null(const char *s)
{
	return *s ? s : NULL;
}

static void
log_failure(int level, const char *event, const struct batch *b, const struct store_error *err,
	    uint64_t retry_ms)
{
	log_event_limited(level, event, event, b ? LOG_U64("batch", b->number) : LOG_NONE,
			  LOG_STR("error", err->text),
			  LOG_STR("sqlstate", text_or_null(err->sqlstate)),
			  LOG_F64("retry_in", (double)retry_ms / 1000), LOG_STR("hint", err->hint));
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
	uint64_t delay_ms;

	if (status != STORE_STOPPED) {
		delay_ms = backoff(w);
		log_failure(hold ? LOG_ERR : LOG_WARNING,
			    hold && b ? "batch_held" : "database_unavailable", b, err, delay_ms);
	}
	if (b)
		queue_return(pool->queue, b, 0);
	if (status == STORE_STOPPED)
		return;
	w->failing = true;
	if (err->reconnect)
		disconnect(w);
	set_status(w, hold ? WRITERS_HELD : WRITERS_UNAVAILABLE);
	if (delay_ms)
		queue_sleep(pool->queue, &pool->stop, delay_ms);
}

/* ---- batches that buffer.keep keeps ---- */

/* Batches that a failed-over server lacks are stored once more. */
static enum store_status
requeue_missing(struct writer *w, struct store_error *err)
{
	struct queue *q = w->pool->queue;
	enum store_status status;
	uint64_t *numbers;
	size_t n, done;
	int r;

	r = queue_kept(q, &numbers, &n);
	if (r < 0) {
		log_event_limited(LOG_WARNING, "spool_read_failed/kept", "spool_read_failed",
				  LOG_STR("error", strerror(-r)));
		return STORE_OK; /* still due */
	}
	status = store_missing(w->store, queue_collector(q), numbers, &n, err);
	if (status == STORE_OK) {
		done = n ? queue_requeue(q, numbers, n) : 0;
		if (done)
			log_event(LOG_WARNING, "batches_requeued", LOG_U64("count", done));
		w->keep_due = done < n;
	}
	free(numbers);
	return status;
}

static enum store_status
check_kept(struct writer *w, struct store_error *err)
{
	enum store_status status;

	if (!w->keep_due)
		return STORE_OK;
	/* The list of another thread would be stale once we have put some back. */
	(void)pthread_mutex_lock(&w->pool->kept);
	status = requeue_missing(w, err);
	(void)pthread_mutex_unlock(&w->pool->kept);
	return status;
}

/* ---- housekeeping ---- */

/*
 * Ledger rows from here on must stay: those of batches that are not settled, and those of kept
 * ones, or the ledger would seem to miss them.  A batch that is stored meanwhile is in one of
 * the lists at least, since the floor is read first.
 */
static uint64_t
ledger_floor(struct writer *w)
{
	struct queue *q = w->pool->queue;
	uint64_t floor = queue_floor(q);
	uint64_t *numbers;
	size_t n;

	if (w->pool->conf->buffer.keep_ms == 0)
		return floor;
	if (queue_kept(q, &numbers, &n) < 0)
		return 0; /* all of them */
	if (n && numbers[0] < floor)
		floor = numbers[0];
	free(numbers);
	return floor;
}

/* Tells readers that the collector is alive, and until when what it received is stored. */
static enum store_status
claim(struct writer *w, struct store_error *err)
{
	struct queue *q = w->pool->queue;

	return store_claim(w->store, queue_collector(q), queue_complete_until(q), err);
}

static void
maintain(struct writer *w)
{
	struct store_error err = {0};
	enum store_status status = check_kept(w, &err);

	w->maintain_at_ms = clock_ms() + MAINTAIN_MS;
	if (status == STORE_OK)
		status = store_maintain(w->store, queue_collector(w->pool->queue), ledger_floor(w),
					&err);
	if (status == STORE_OK)
		status = claim(w, &err);
	if (status == STORE_OK)
		went_well(w);
	else
		store_failed(w, status, &err, NULL);
}

static void
stand_by(struct writer *w)
{
	struct store_error err = {0};
	enum store_status status = claim(w, &err);

	if (status != STORE_OK)
		store_failed(w, status, &err, NULL);
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
	log_failure(hold ? LOG_ERR : LOG_WARNING, "batch_held", b, err, delay_ms);
	queue_return(w->pool->queue, b, delay_ms);
	if (err->reconnect)
		disconnect(w);
}

static void
load_failed(struct writer *w, struct batch *b, int r)
{
	bool gone = r == -ENODATA;

	log_event_limited(LOG_ERR, "spool_read_failed/batch", "spool_read_failed",
			  LOG_U64("batch", b->number), LOG_STR("error", strerror(-r)),
			  gone ? LOG_U64("lost", b->lost) : LOG_NONE);
	if (gone)
		queue_done(w->pool->queue, b);
	else
		queue_return(w->pool->queue, b, SPOOL_RETRY_MS);
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
	int r = queue_load(q, b, &view);

	if (r < 0) {
		load_failed(w, b, r);
		return;
	}
	start_ms = clock_ms();
	status = store_put(w->store, &view, &res, &err);
	if (status != STORE_OK) {
		batch_failed(w, status, &err, b);
		return;
	}
	account(b, &view, &res);
	log_event(LOG_INFO, "batch_stored", LOG_U64("batch", b->number), LOG_U64("rows", b->stored),
		  LOG_U64("bytes", view.bytes),
		  LOG_F64("seconds", (double)(clock_ms() - start_ms) / 1000),
		  b->rejected ? LOG_U64("rejected", b->rejected) : LOG_NONE,
		  b->lost ? LOG_U64("lost", b->lost) : LOG_NONE,
		  b->repeated ? LOG_BOOL("repeated", true) : LOG_NONE,
		  res.direct ? LOG_BOOL("direct_compress", true) : LOG_NONE);
	went_well(w); /* first: who sees the batch stored sees the status that goes with it */
	queue_done(q, b);
}

/* ---- a thread ---- */

static void
connect_store(struct writer *w)
{
	struct writers *pool = w->pool;
	struct store_error err = {0};
	enum store_status status = store_open(pool->conf, pool->stop_fd, &w->store, &err);

	if (status == STORE_OK) {
		w->keep_due = pool->conf->buffer.keep_ms > 0;
		status = check_kept(w, &err);
		if (status == STORE_OK)
			status = claim(w, &err);
	}
	if (status != STORE_OK) {
		disconnect(w);
		store_failed(w, status, &err, NULL);
		return;
	}
	w->maintain_at_ms = clock_ms() + MAINTAIN_MS;
	if (!w->failing)
		set_status(w, WRITERS_OK);
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
	b = queue_take(pool->queue, &pool->stop, w->failing ? IDLE_FAILING_MS : IDLE_MS);
	if (b)
		write_batch(w, b);
	if (atomic_load(&pool->stop) || !w->store)
		return;
	/* Another thread may have stored what failed here: then idleness is the time to look. */
	if (clock_ms() >= w->maintain_at_ms || (!b && w->failing))
		maintain(w);
	else if (!b)
		stand_by(w);
}

static void *
writer_main(void *arg)
{
	struct writer *w = arg;
	struct writers *pool = w->pool;
	char name[16]; /* the kernel's limit */

	(void)snprintf(name, sizeof(name), "writer-%u", w->index % 10000);
	(void)pthread_setname_np(pthread_self(), name);
	while (!atomic_load(&pool->stop))
		work(w);
	disconnect(w);
	atomic_store(&w->ended, true);
	pool->changed(pool->arg);
	return NULL;
}

static int
start_thread(struct writers *pool)
{
	struct writer *w = &pool->writer[pool->n];
	int r;

	w->pool = pool;
	w->index = pool->n;
	w->next_delay_ms = BACKOFF_FIRST_MS;
	if (getrandom(&w->seed, sizeof(w->seed), GRND_NONBLOCK) != (ssize_t)sizeof(w->seed))
		w->seed = (unsigned)clock_real_us() + w->index;
	r = pthread_create(&w->thread, NULL, writer_main, w);
	if (r == 0)
		pool->n++;
	return -r;
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
	sigset_t all, before;
	int r = 0;

	if (!w)
		return -ENOMEM;
	w->conf = conf_ref(conf);
	w->queue = q;
	w->changed = changed;
	w->arg = arg;
	(void)pthread_mutex_init(&w->kept, NULL);
	w->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->stop_fd < 0)
		r = -errno;
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &before);
	while (r == 0 && w->n < n)
		r = start_thread(w);
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r < 0) {
		writers_stop(w);
		writers_free(w);
		return r;
	}
	*ret = w;
	return 0;
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
	return (enum writers_status)worst;
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
	queue_kick(w->queue);
}

void
writers_stop(struct writers *w)
{
	const uint64_t one = 1;

	atomic_store(&w->stop, 1);
	if (w->stop_fd >= 0)
		(void)!write(w->stop_fd, &one, sizeof(one));
	queue_kick(w->queue);
}

bool
writers_ended(const struct writers *w)
{
	for (unsigned i = 0; i < w->n; i++)
		if (!atomic_load(&w->writer[i].ended))
			return false;
	return true;
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
	(void)pthread_mutex_destroy(&w->kept);
	conf_unref(w->conf);
	free(w);
}
