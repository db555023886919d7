/*
 * janitor.c - see janitor.h.
 *
 *	          +-------- back-off <-- failed --+
 *	          v                               |
 *	wait until something is due -- connect -- set up -- compare -- claim -- maintain
 *	          ^                                                                |
 *	          +--------------------------- disconnect -------------------------+
 *
 * Claims are made on a connection that is opened for them: one each CLAIM_MS, and only while
 * nothing is stored, since batches make the same promise.  So a collector that is busy connects
 * once in MAINTAIN_MS, and an idle one costs the server a short backend each CLAIM_MS.
 */
#include "store/janitor.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/thread.h"
#include "log/log.h"
#include "store/backoff.h"

#define CLAIM_MS 10000
#define MAINTAIN_MS 60000
#define COMPARE_AGAIN_MS 10000 /* what the spool did not give */
#define PASSED_AGAIN_MS 10     /* until it is looked again whether all is kept by now */
#define SETUP_AGAIN_MS 10000   /* at the least, from one that went well to the next */

struct janitor {
	struct conf *conf;   /* a reference */
	struct queue *queue; /* borrowed */
	void (*changed)(void *arg);
	void *arg; /* borrowed */
	pthread_t thread;
	bool started;    /* there is a thread */
	int stop_fd;     /* for the store's waits; once readable it stays so */
	atomic_int stop; /* for all others */
	atomic_bool ended;
	atomic_int status;                  /* enum store_status */
	atomic_uint_least64_t stored_at_ms; /* the last batch */
	atomic_bool stored;                 /* there was one */

	pthread_mutex_t mutex;
	pthread_cond_t cond;          /* with the monotonic clock: something is due, or ready */
	bool ready;                   /* under mutex, as all of these */
	uint64_t setup_at_ms;         /* not ready: when it is due */
	unsigned compare_asked;       /* how often somebody asked */
	unsigned compare_answered;    /* ... when the last comparison that was completed began */
	struct queue_mark mark;       /* what was stored when somebody asked last: see passed() */
	char met[STORE_DATABASE_MAX]; /* the database that was connected to last; "": none yet */

	/* the thread's own */
	struct upkeep *upkeep;
	struct backoff backoff;
	char known[STORE_DATABASE_MAX]; /* in which batches were stored; "": in none */
	uint64_t server;                /* whose ledger was compared, see upkeep_server() */
	uint64_t compare_at_ms;         /* not before */
	uint64_t claim_at_ms;
	uint64_t maintain_at_ms;
};

/* What a round has to do. */
struct due {
	bool setup;
	bool compare;
	bool claim;
	bool maintain;
	bool remember;  /* needs no connection */
	unsigned asked; /* compare_asked, before it connects */
};

/* ---- what others ask for ---- */

bool
janitor_wait_ready(struct janitor *j)
{
	bool ready;

	(void)pthread_mutex_lock(&j->mutex);
	while (!j->ready && !atomic_load(&j->stop))
		(void)pthread_cond_wait(&j->cond, &j->mutex);
	ready = j->ready && !atomic_load(&j->stop);
	(void)pthread_mutex_unlock(&j->mutex);
	return ready;
}

/*
 * Who asks again and again, since his trouble is one that no set-up can mend, is answered less
 * often; setup_at_ms stands at that since the last one.
 */
void
janitor_ask_setup(struct janitor *j)
{
	(void)pthread_mutex_lock(&j->mutex);
	j->ready = false;
	(void)pthread_cond_broadcast(&j->cond);
	(void)pthread_mutex_unlock(&j->mutex);
}

void
janitor_ask_compare(struct janitor *j)
{
	if (j->conf->buffer.keep_ms == 0)
		return;
	(void)pthread_mutex_lock(&j->mutex);
	j->compare_asked++;
	queue_mark(j->queue, &j->mark);
	(void)pthread_cond_broadcast(&j->cond);
	(void)pthread_mutex_unlock(&j->mutex);
}

bool
janitor_compared(struct janitor *j)
{
	bool compared;

	(void)pthread_mutex_lock(&j->mutex);
	compared = j->compare_asked == j->compare_answered;
	(void)pthread_mutex_unlock(&j->mutex);
	return compared;
}

void
janitor_note_stored(struct janitor *j)
{
	atomic_store(&j->stored_at_ms, clock_ms());
	if (atomic_exchange(&j->stored, true))
		return;
	(void)pthread_mutex_lock(&j->mutex);
	(void)pthread_cond_broadcast(&j->cond);
	(void)pthread_mutex_unlock(&j->mutex);
}

bool
janitor_knows(struct janitor *j, const char *database)
{
	bool knows;

	(void)pthread_mutex_lock(&j->mutex);
	knows = strcmp(j->met, database) == 0;
	(void)pthread_mutex_unlock(&j->mutex);
	return knows;
}

enum store_status
janitor_status(const struct janitor *j)
{
	return (enum store_status)atomic_load(&j->status);
}

static void
set_status(struct janitor *j, enum store_status status)
{
	if (atomic_exchange(&j->status, (int)status) != (int)status)
		j->changed(j->arg);
}

/* ---- the database that is meant ---- */

static bool
is_to_remember(struct janitor *j)
{
	return atomic_load(&j->stored) && *j->met && strcmp(j->known, j->met) != 0;
}

static void
remember(struct janitor *j)
{
	queue_database_put(j->queue, j->met);
	memcpy(j->known, j->met, sizeof(j->known));
}

/* What the spool says now: metric-spool may have been told to forget it. */
static void
recall(struct janitor *j)
{
	queue_database_look(j->queue, j->known);
	upkeep_expect(j->upkeep, j->known);
}

static enum store_status
other_database(struct store_error *err, const char *text)
{
	if (text)
		(void)snprintf(err->text, sizeof(err->text), "%s", text);
	err->hint =
	    "restore it, or correct database.uri; if a new one is meant, which lacks what was "
	    "stored before: metric-spool forget-database";
	err->setup = true;
	return STORE_HOLD;
}

/*
 * Connects.  A database in the place of the one in which batches were stored is empty, or somebody
 * else's: an operator has to say that it is meant.
 */
static enum store_status
connect_known(struct janitor *j, struct store_error *err)
{
	enum store_status status;

	upkeep_expect(j->upkeep, j->known);
	status = upkeep_connect(j->upkeep, err);
	if (status == STORE_HOLD && strcmp(err->sqlstate, "3D000") == 0 && *j->known) {
		recall(j);
		return *j->known ? other_database(err, NULL) : status;
	}
	if (status != STORE_OK)
		return status;
	if (store_database_differs(j->known, upkeep_database(j->upkeep)))
		recall(j);
	if (store_database_differs(j->known, upkeep_database(j->upkeep)))
		return other_database(err, "this is not the database in which this collector has "
					   "stored: that was renamed, made anew, or restored");
	if (upkeep_now_us(j->upkeep))
		queue_set_clock(j->queue, upkeep_now_us(j->upkeep));
	(void)pthread_mutex_lock(&j->mutex);
	(void)snprintf(j->met, sizeof(j->met), "%s", upkeep_database(j->upkeep));
	(void)pthread_mutex_unlock(&j->mutex);
	return STORE_OK;
}

/* ---- set up ---- */

static enum store_status
set_up(struct janitor *j, struct store_error *err)
{
	enum store_status status = upkeep_setup(j->upkeep, err);

	if (status != STORE_OK)
		return status;
	j->maintain_at_ms = 0;
	set_status(j, STORE_OK);
	(void)pthread_mutex_lock(&j->mutex);
	j->ready = true;
	j->setup_at_ms = clock_ms() + SETUP_AGAIN_MS;
	(void)pthread_cond_broadcast(&j->cond);
	(void)pthread_mutex_unlock(&j->mutex);
	return STORE_OK;
}

/* ---- compare: batches that buffer.keep keeps ---- */

/* Batches that a failed-over server lacks are stored once more.  *all: none is left to be. */
static enum store_status
requeue_missing(struct janitor *j, bool *all, struct store_error *err)
{
	enum store_status status;
	uint64_t *numbers;
	size_t n, done;
	int r = queue_kept(j->queue, &numbers, &n);

	*all = false;
	if (r < 0) {
		log_event_limited(LOG_WARNING, "spool_read_failed/kept", "spool_read_failed",
				  LOG_STR("error", strerror(-r)));
		return STORE_OK;
	}
	status = upkeep_missing(j->upkeep, queue_collector(j->queue), numbers, &n, err);
	if (status == STORE_OK) {
		done = n ? queue_requeue(j->queue, numbers, n) : 0;
		if (done)
			log_event(LOG_WARNING, "batches_requeued", LOG_U64("count", done));
		*all = done == n;
	}
	free(numbers);
	return status;
}

static enum store_status
compare(struct janitor *j, const struct due *due, struct store_error *err)
{
	bool all;
	enum store_status status = requeue_missing(j, &all, err);

	if (status != STORE_OK)
		return status;
	j->compare_at_ms = 0;
	if (!all) {
		j->compare_at_ms = clock_ms() + COMPARE_AGAIN_MS;
		return STORE_OK;
	}
	queue_compared(j->queue);
	j->server = upkeep_server(j->upkeep);
	(void)pthread_mutex_lock(&j->mutex);
	j->compare_answered = due->asked;
	(void)pthread_mutex_unlock(&j->mutex);
	return STORE_OK;
}

/* No writer may have noticed yet. */
static bool
is_other_server(const struct janitor *j)
{
	return j->conf->buffer.keep_ms > 0 && upkeep_server(j->upkeep) != j->server;
}

/* ---- claim, maintain ---- */

/* Tells readers that the collector is alive, and until when what it received is stored. */
static enum store_status
claim(struct janitor *j, struct store_error *err)
{
	j->claim_at_ms = clock_ms() + CLAIM_MS;
	if (!janitor_compared(j) || is_other_server(j))
		return STORE_OK; /* batches may be missing */
	return upkeep_claim(j->upkeep, queue_collector(j->queue), queue_complete_until(j->queue),
			    err);
}

/*
 * Ledger rows from here on must stay: those of batches that are not settled, and those of kept
 * ones, or the ledger would seem to miss them.  A batch that is stored meanwhile is in one of
 * the lists at least, since the floor is read first; one whose kept file goes meanwhile is in the
 * floor then, so that is read again.
 */
static uint64_t
ledger_floor(struct janitor *j)
{
	uint64_t floor = queue_floor(j->queue), again;
	uint64_t *numbers;
	size_t n;

	if (j->conf->buffer.keep_ms == 0)
		return floor;
	if (queue_kept(j->queue, &numbers, &n) < 0)
		return 0; /* all of them */
	if (n && numbers[0] < floor)
		floor = numbers[0];
	free(numbers);
	again = queue_floor(j->queue);
	return again < floor ? again : floor;
}

static enum store_status
maintain(struct janitor *j, struct store_error *err)
{
	bool first = j->maintain_at_ms == 0;
	uint64_t start_ms = clock_ms();
	enum store_status status =
	    upkeep_maintain(j->upkeep, queue_collector(j->queue), ledger_floor(j), err);

	if (status != STORE_RETRY) /* what an operator must mend is not tried again at once */
		j->maintain_at_ms = clock_ms() + MAINTAIN_MS;
	if (status != STORE_OK)
		return status;
	log_event(first ? LOG_INFO : LOG_DEBUG, "maintenance_done",
		  LOG_F64("seconds", (double)(clock_ms() - start_ms) / 1000));
	return STORE_OK;
}

/* ---- a round ---- */

static uint64_t
claim_due_ms(struct janitor *j)
{
	uint64_t stored_ms = atomic_load(&j->stored_at_ms) + CLAIM_MS;

	if (!upkeep_claims(j->upkeep))
		return UINT64_MAX;
	return stored_ms > j->claim_at_ms ? stored_ms : j->claim_at_ms;
}

/*
 * When kept batches are to be compared: not before all that were stored when somebody asked are
 * among them, or those on their way would be missed.  The mutex is held.
 */
static uint64_t
compare_due_ms(struct janitor *j, uint64_t now_ms)
{
	if (j->compare_asked == j->compare_answered)
		return UINT64_MAX;
	return queue_passed(j->queue, &j->mark) ? j->compare_at_ms : now_ms + PASSED_AGAIN_MS;
}

/* Fills in what is due now; returns when something will be, if nothing is.  The mutex is held. */
static uint64_t
look(struct janitor *j, struct due *due)
{
	uint64_t now_ms = clock_ms();
	uint64_t claim_ms = claim_due_ms(j), compare_ms = compare_due_ms(j, now_ms), next_ms;

	*due = (struct due){.asked = j->compare_asked};
	due->remember = is_to_remember(j);
	if (!j->ready) {
		due->setup = now_ms >= j->setup_at_ms;
		due->compare = due->setup && now_ms >= compare_ms;
		due->claim = due->maintain = due->setup;
		return j->setup_at_ms;
	}
	due->compare = now_ms >= compare_ms;
	due->claim = now_ms >= claim_ms;
	due->maintain = now_ms >= j->maintain_at_ms;
	next_ms = claim_ms < j->maintain_at_ms ? claim_ms : j->maintain_at_ms;
	return compare_ms < next_ms ? compare_ms : next_ms;
}

static bool
is_due(const struct due *due)
{
	return due->setup || due->compare || due->claim || due->maintain || due->remember;
}

/* Waits until something is due; false once stopped. */
static bool
wait_due(struct janitor *j, struct due *due)
{
	(void)pthread_mutex_lock(&j->mutex);
	while (!atomic_load(&j->stop)) {
		uint64_t next_ms = look(j, due);
		const struct timespec ts = clock_timespec(next_ms);

		if (is_due(due))
			break;
		(void)pthread_cond_timedwait(&j->cond, &j->mutex, &ts);
	}
	(void)pthread_mutex_unlock(&j->mutex);
	return !atomic_load(&j->stop);
}

/* A claim is worth nothing before the comparison. */
static enum store_status
compare_and_claim(struct janitor *j, const struct due *due, struct store_error *err)
{
	enum store_status status = STORE_OK;

	if (due->compare)
		status = compare(j, due, err);
	else if (is_other_server(j))
		janitor_ask_compare(j);
	if (status == STORE_OK && due->claim)
		status = claim(j, err);
	return status;
}

/* What troubles one duty does not keep the others from being done; the first trouble is returned. */
static enum store_status
do_round(struct janitor *j, const struct due *due, struct store_error *err)
{
	enum store_status status, maintained;
	struct store_error other = {0};

	if (due->remember)
		remember(j);
	if (!due->setup && !due->compare && !due->claim && !due->maintain)
		return STORE_OK;
	status = connect_known(j, err);
	if (status == STORE_OK && due->setup)
		status = set_up(j, err);
	if (status != STORE_OK)
		return status;
	status = compare_and_claim(j, due, err);
	if (!due->maintain || status == STORE_STOPPED || (status != STORE_OK && err->reconnect))
		return status;
	maintained = maintain(j, &other);
	if (status != STORE_OK || maintained == STORE_OK)
		return status;
	*err = other;
	return maintained;
}

static bool
is_ready(struct janitor *j)
{
	bool ready;

	(void)pthread_mutex_lock(&j->mutex);
	ready = j->ready;
	(void)pthread_mutex_unlock(&j->mutex);
	return ready;
}

/*
 * While it has to set up, its troubles are everybody's: the writers wait for it.  Others are its
 * own; so is what is missing right after a set-up, which another one would not make either.
 */
static void
failed(struct janitor *j, const struct due *due, enum store_status status,
       const struct store_error *err, unsigned kicks)
{
	bool hold = status == STORE_HOLD, setup = due->setup && !is_ready(j);
	uint64_t delay_ms = backoff_next(&j->backoff);

	if (err->setup && !due->setup)
		janitor_ask_setup(j);
	store_log_failure(hold ? LOG_ERR : LOG_WARNING,
			  setup ? "database_unavailable" : "maintenance_failed", 0, err, delay_ms);
	if (setup)
		set_status(j, status);
	if (delay_ms)
		queue_sleep(j->queue, &j->stop, kicks, delay_ms);
}

static void *
janitor_main(void *arg)
{
	struct janitor *j = arg;
	struct due due = {.asked = 0};

	while (wait_due(j, &due)) {
		struct store_error err = {0};
		unsigned kicks = queue_kicks(j->queue);
		enum store_status status = do_round(j, &due, &err);

		upkeep_disconnect(j->upkeep);
		if (status == STORE_OK)
			backoff_reset(&j->backoff);
		else if (status != STORE_STOPPED)
			failed(j, &due, status, &err, kicks);
	}
	upkeep_disconnect(j->upkeep);
	if (is_to_remember(j))
		remember(j);
	atomic_store(&j->ended, true);
	j->changed(j->arg);
	return NULL;
}

/* ---- start and end ---- */

static void
init_sync(struct janitor *j)
{
	(void)pthread_mutex_init(&j->mutex, NULL);
	(void)thread_cond_init(&j->cond);
}

int
janitor_start(struct conf *conf, struct queue *q, void (*changed)(void *arg), void *arg,
	      struct janitor **ret)
{
	struct janitor *j = calloc(1, sizeof(*j));
	int r;

	if (!j)
		return -ENOMEM;
	j->conf = conf_ref(conf);
	j->queue = q;
	j->changed = changed;
	j->arg = arg;
	init_sync(j);
	backoff_init(&j->backoff, conf->batch.interval_ms);
	j->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = j->stop_fd < 0 ? -errno : 0;
	if (r == 0)
		r = upkeep_new(conf, j->stop_fd, &j->upkeep);
	if (r == 0)
		queue_database(j->queue, j->known);
	if (r == 0)
		r = thread_start(&j->thread, "janitor", janitor_main, j);
	if (r < 0) {
		janitor_free(j);
		return r;
	}
	j->started = true;
	*ret = j;
	return 0;
}

void
janitor_stop(struct janitor *j)
{
	const uint64_t one = 1;

	(void)pthread_mutex_lock(&j->mutex);
	atomic_store(&j->stop, 1);
	(void)pthread_cond_broadcast(&j->cond);
	(void)pthread_mutex_unlock(&j->mutex);
	(void)!write(j->stop_fd, &one, sizeof(one));
	queue_kick(j->queue);
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
	if (j->started)
		(void)pthread_join(j->thread, NULL);
	upkeep_free(j->upkeep);
	if (j->stop_fd >= 0)
		(void)close(j->stop_fd);
	(void)pthread_cond_destroy(&j->cond);
	(void)pthread_mutex_destroy(&j->mutex);
	conf_unref(j->conf);
	free(j);
}
