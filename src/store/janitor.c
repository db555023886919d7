/*
 * janitor.c - see janitor.h.
 *
 *	not ready, or asked, or a minute is over ──> open (sets up) ── kept? ── upkeep ── claim ──
 *close nothing was stored for a while ───────────> open ── claim ── close
 */
#include "store/janitor.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "log/log.h"
#include "store/backoff.h"
#include "store/store.h"

#define ROUND_MS 60000 /* between rounds of upkeep */
#define PASS_MS 10     /* until it is looked again whether they are */
#define CLAIM_MS 10000 /* without a batch: readers shall know that the collector is alive */

struct janitor {
	/* set once */
	const struct conf *conf; /* borrowed */
	struct queue *queue;     /* borrowed */
	const atomic_int *stop;  /* borrowed */
	int stop_fd;             /* borrowed */
	void (*changed)(void *arg);
	void *arg; /* borrowed */
	pthread_t thread;

	/* any thread's */
	atomic_bool ready;
	atomic_bool asked;          /* for a round */
	atomic_bool compare;        /* kept batches with the ledger */
	_Atomic uint64_t stored_ms; /* when a batch was stored last, monotonic */
	atomic_uint rounds;
	atomic_int status; /* enum writers_status */
	atomic_bool ended;

	/* the thread's own */
	struct backoff backoff;
	uint64_t round_ms;      /* monotonic: when the next one is due */
	uint64_t claim_ms;      /* when the last one was made */
	bool compare_due;       /* kept batches are to be compared with the ledger ... */
	struct queue_mark mark; /* ... once those that were stored by now are among them */
	bool done_once;
};

/* ---- what others ask for ---- */

bool
janitor_is_ready(const struct janitor *j)
{
	return atomic_load(&j->ready);
}

unsigned
janitor_rounds(const struct janitor *j)
{
	return atomic_load(&j->rounds);
}

void
janitor_look(struct janitor *j)
{
	if (!atomic_exchange(&j->asked, true))
		queue_kick(j->queue);
}

void
janitor_set_up(struct janitor *j)
{
	atomic_store(&j->ready, false);
	janitor_look(j);
}

void
janitor_compare_kept(struct janitor *j)
{
	if (j->conf->buffer.keep_ms == 0)
		return;
	atomic_store(&j->compare, true);
	queue_kick(j->queue);
}

void
janitor_note_stored(struct janitor *j)
{
	atomic_store(&j->stored_ms, clock_ms());
}

enum writers_status
janitor_status(const struct janitor *j)
{
	return (enum writers_status)atomic_load(&j->status);
}

/* ---- how it went ---- */

static void
set_status(struct janitor *j, enum writers_status status)
{
	if (atomic_exchange(&j->status, (int)status) != (int)status)
		j->changed(j->arg);
}

/* Says so, and waits, unless somebody kicks. */
static void
failed(struct janitor *j, enum store_status status, const struct store_error *err)
{
	bool hold = status == STORE_HOLD;
	uint64_t delay_ms;

	if (status == STORE_STOPPED)
		return;
	delay_ms = backoff_next(&j->backoff, j->conf->batch.interval_ms);
	store_log_failure(hold ? LOG_ERR : LOG_WARNING, "database_unavailable", NULL, err,
			  delay_ms);
	set_status(j, hold ? WRITERS_HELD : WRITERS_UNAVAILABLE);
	if (delay_ms)
		queue_sleep(j->queue, j->stop, queue_kicks(j->queue), delay_ms);
}

static void
went_well(struct janitor *j)
{
	backoff_reset(&j->backoff);
	set_status(j, WRITERS_OK);
}

/* ---- batches that buffer.keep keeps ---- */

/* Batches that a failed-over server lacks are stored once more. */
static enum store_status
requeue_missing(struct janitor *j, struct store *s, struct store_error *err)
{
	struct queue *q = j->queue;
	enum store_status status;
	uint64_t *numbers;
	size_t n, done = 0;
	int r = queue_kept(q, &numbers, &n);

	if (r < 0) {
		log_event_limited(LOG_WARNING, "spool_read_failed/kept", "spool_read_failed",
				  LOG_STR("error", strerror(-r)));
		j->compare_due = true; /* another time */
		return STORE_OK;
	}
	status = store_missing(s, queue_collector(q), numbers, &n, err);
	if (status == STORE_OK && n)
		done = queue_requeue(q, numbers, n);
	if (done)
		log_event(LOG_WARNING, "batches_requeued", LOG_U64("count", done));
	free(numbers);
	return status;
}

static enum store_status
compare_kept(struct janitor *j, struct store *s, struct store_error *err)
{
	enum store_status status;

	if (!j->compare_due || !queue_passed(j->queue, &j->mark))
		return STORE_OK;
	j->compare_due = false;
	status = requeue_missing(j, s, err);
	j->compare_due |= status != STORE_OK;
	return status;
}

/* ---- a round ---- */

/*
 * Ledger rows from here on must stay: those of batches that are not settled, and those of kept
 * ones, or the ledger would seem to miss them.  A batch that is stored meanwhile is in one of
 * the lists at least, since the floor is read first.
 */
static uint64_t
ledger_floor(const struct janitor *j)
{
	uint64_t floor = queue_floor(j->queue);
	uint64_t *numbers;
	size_t n;

	if (j->conf->buffer.keep_ms == 0)
		return floor;
	if (queue_kept(j->queue, &numbers, &n) < 0)
		return 0; /* all of them */
	if (n && numbers[0] < floor)
		floor = numbers[0];
	free(numbers);
	return floor;
}

/* Tells readers that the collector is alive, and until when what it received is stored. */
static enum store_status
claim(struct janitor *j, struct store *s, struct store_error *err)
{
	struct queue *q = j->queue;

	j->claim_ms = clock_ms();
	return store_claim(s, queue_collector(q), queue_complete_until(q), err);
}

static void
become_ready(struct janitor *j)
{
	if (atomic_exchange(&j->ready, true))
		return;
	went_well(j);
	queue_kick(j->queue); /* writers wait for it */
}

static enum store_status
do_upkeep(struct janitor *j, struct store *s, struct store_error *err)
{
	uint64_t start_ms = clock_ms();
	enum store_status status = compare_kept(j, s, err);

	if (status == STORE_OK)
		status = store_maintain(s, queue_collector(j->queue), ledger_floor(j), err);
	if (status == STORE_OK)
		status = claim(j, s, err);
	if (status != STORE_OK)
		return status;
	log_event(j->done_once ? LOG_DEBUG : LOG_INFO, "upkeep_done",
		  LOG_F64("seconds", (double)(clock_ms() - start_ms) / 1000));
	j->done_once = true;
	return STORE_OK;
}

static void
go_round(struct janitor *j)
{
	struct store_error err = {0};
	struct store *s = NULL;
	enum store_status status;

	atomic_store(&j->asked, false);
	status = store_open(j->conf, j->stop_fd, STORE_FOR_UPKEEP, &s, &err);
	if (status == STORE_OK) {
		become_ready(j);
		status = do_upkeep(j, s, &err);
	}
	store_close(s);
	atomic_fetch_add(&j->rounds, 1);
	if (status != STORE_OK) {
		failed(j, status, &err);
		return;
	}
	j->round_ms = clock_ms() + ROUND_MS;
	went_well(j);
}

static void
claim_alone(struct janitor *j)
{
	struct store_error err = {0};
	struct store *s = NULL;
	enum store_status status = store_open(j->conf, j->stop_fd, STORE_FOR_CLAIMS, &s, &err);

	if (status == STORE_OK)
		status = claim(j, s, &err);
	store_close(s);
	if (status == STORE_OK)
		went_well(j);
	else
		failed(j, status, &err);
}

/* ---- the thread ---- */

/* When a claim is due, monotonic; UINT64_MAX: nobody reads them. */
static uint64_t
claim_due_ms(const struct janitor *j)
{
	uint64_t stored_ms = atomic_load(&j->stored_ms);

	if (!store_has_claims(j->conf))
		return UINT64_MAX;
	return (stored_ms > j->claim_ms ? stored_ms : j->claim_ms) + CLAIM_MS;
}

/* A writer has connected since the last look: what it and others stored before is what may be lost.
 */
static void
notice_connections(struct janitor *j)
{
	if (!atomic_exchange(&j->compare, false))
		return;
	j->compare_due = true;
	queue_mark(j->queue, &j->mark);
}

static bool
wants_round(struct janitor *j)
{
	if (!atomic_load(&j->ready) || atomic_load(&j->asked) || clock_ms() >= j->round_ms)
		return true;
	return j->compare_due && queue_passed(j->queue, &j->mark);
}

static void
work(struct janitor *j)
{
	unsigned kicks = queue_kicks(j->queue); /* before it is looked at what they are about */
	uint64_t now_ms = clock_ms(), claim_ms = claim_due_ms(j), due_ms;

	notice_connections(j);
	if (wants_round(j)) {
		go_round(j);
	} else if (now_ms >= claim_ms) {
		claim_alone(j);
	} else {
		due_ms = claim_ms < j->round_ms ? claim_ms : j->round_ms;
		if (j->compare_due && due_ms > now_ms + PASS_MS)
			due_ms = now_ms + PASS_MS;
		queue_sleep(j->queue, j->stop, kicks, due_ms - now_ms);
	}
}

static void *
janitor_main(void *arg)
{
	struct janitor *j = arg;

	(void)pthread_setname_np(pthread_self(), "janitor");
	while (!atomic_load(j->stop))
		work(j);
	atomic_store(&j->ended, true);
	j->changed(j->arg);
	return NULL;
}

int
janitor_start(const struct conf *conf, struct queue *q, const atomic_int *stop, int stop_fd,
	      void (*changed)(void *arg), void *arg, struct janitor **ret)
{
	struct janitor *j = calloc(1, sizeof(*j));
	int r;

	if (!j)
		return -ENOMEM;
	j->conf = conf;
	j->queue = q;
	j->stop = stop;
	j->stop_fd = stop_fd;
	j->changed = changed;
	j->arg = arg;
	atomic_store(&j->compare, conf->buffer.keep_ms > 0);
	backoff_init(&j->backoff, 0);
	r = pthread_create(&j->thread, NULL, janitor_main, j);
	if (r) {
		free(j);
		return -r;
	}
	*ret = j;
	return 0;
}

bool
janitor_ended(const struct janitor *j)
{
	return atomic_load(&j->ended);
}

void
janitor_free(struct janitor *j)
{
	if (!j)
		return;
	(void)pthread_join(j->thread, NULL);
	free(j);
}
