/* queue.c - the loop thread's side of the queue. */
#include "buffer/queue/queue.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buffer/queue/queue_internal.h"
#include "base/clock.h"
#include "log/log.h"
#include "wire/frame.h"

#define BATCH_LEAST_BYTES 1024 /* however little memory there is */

/* "Drained" is an eighth below the limit, so that the daemon does not flap. */
#define DRAINED(limit) ((limit) - (limit) / 8)

/* ---- the list ---- */

/* Those before it were opened earlier, unless the clock has been set back since then. */
static void
list_date(struct batch *b)
{
	uint64_t us = b->opened_us;

	if (b->next && b->next->earliest_us < us)
		us = b->next->earliest_us;
	b->earliest_us = us;
	for (b = b->prev; b && b->earliest_us > us; b = b->prev)
		b->earliest_us = us;
}

static void
list_insert(struct queue *q, struct batch *b)
{
	struct batch *after = q->tail;

	while (after && after->number > b->number)
		after = after->prev;
	b->prev = after;
	b->next = after ? after->next : q->head;
	*(b->prev ? &b->prev->next : &q->head) = b;
	*(b->next ? &b->next->prev : &q->tail) = b;
	list_date(b);
	q->stats->batches_waiting++;
}

static void
list_remove(struct queue *q, struct batch *b)
{
	*(b->prev ? &b->prev->next : &q->head) = b->next;
	*(b->next ? &b->next->prev : &q->tail) = b->prev;
	b->prev = b->next = NULL;
	queue_unwant(q, b);
	q->stats->batches_waiting--;
}

/* ---- memory ---- */

static void
memory_hold(struct queue *q, struct batch *b)
{
	b->memory_prev = q->memory_tail;
	*(b->memory_prev ? &b->memory_prev->memory_next : &q->memory_head) = b;
	q->memory_tail = b;
}

static void
memory_release(struct queue *q, struct batch *b)
{
	*(b->memory_prev ? &b->memory_prev->memory_next : &q->memory_head) = b->memory_next;
	*(b->memory_next ? &b->memory_next->memory_prev : &q->memory_tail) = b->memory_prev;
	free(b->data);
	b->data = NULL;
	q->stats->memory_bytes -= b->bytes;
}

/* ---- construction ---- */

/* The sync mode stays: it is that of the spool, which is open. */
void
queue_set_conf(struct queue *q, const struct conf *conf)
{
	uint64_t most = conf->buffer.memory_limit / 2; /* one is open while one is stored */

	if (most < BATCH_LEAST_BYTES)
		most = BATCH_LEAST_BYTES;
	(void)pthread_mutex_lock(&q->mutex);
	q->limits = (struct queue_limits){
	    .max_rows = conf->batch.max_rows,
	    .max_bytes = conf->batch.max_bytes < most ? conf->batch.max_bytes : most,
	    .memory = conf->buffer.memory_limit,
	    .spool = conf->buffer.spool_limit,
	    .keep_ms = conf->buffer.keep_ms,
	    .overflow = conf->buffer.overflow,
	    .sync = q->limits.sync,
	};
	(void)pthread_mutex_unlock(&q->mutex);
}

/* Metrics that came from the spool and not from a client. */
static void
account_recovered(struct queue *q, uint64_t rows)
{
	q->stats->received += rows;
	q->stats->recovered += rows;
	q->stats->buffered += rows;
}

struct recovery {
	struct queue *q;
	uint64_t batches;
	uint64_t rows;
	int error;
};

static void
recovered(void *arg, const struct spool_header *h)
{
	struct recovery *rec = arg;
	struct batch *b = batch_new_on_disk(h);

	if (!b) {
		rec->error = -ENOMEM;
		return;
	}
	list_insert(rec->q, b);
	if (b->number > rec->q->last_number)
		rec->q->last_number = b->number;
	rec->batches++;
	rec->rows += b->all.rows;
}

static int
queue_recover(struct queue *q)
{
	struct recovery rec = {.q = q};
	int r = spool_recover(q->spool, recovered, &rec);

	if (r == 0)
		r = rec.error;
	if (r < 0)
		return r;
	account_recovered(q, rec.rows);
	q->stats->spool_bytes = spool_bytes(q->spool);
	if (rec.batches)
		log_event(LOG_INFO, "spool_recovered", LOG_U64("batches", rec.batches),
			  LOG_U64("rows", rec.rows));
	return 0;
}

static void
spool_has_synced(void *arg)
{
	struct queue *q = arg;

	q->events.wake(q->events.arg);
}

static int
queue_init_locks(struct queue *q)
{
	pthread_condattr_t attr;
	int r = pthread_mutex_init(&q->mutex, NULL);

	if (r)
		return -r;
	r = pthread_condattr_init(&attr);
	if (r == 0) {
		(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
		r = pthread_cond_init(&q->cond, &attr);
		(void)pthread_condattr_destroy(&attr);
	}
	if (r)
		(void)pthread_mutex_destroy(&q->mutex);
	return -r;
}

int
queue_new(const struct conf *conf, struct stats *stats, struct spool *spool,
	  const struct queue_events *events, struct queue **ret)
{
	struct queue *q = calloc(1, sizeof(*q));
	int r;

	if (!q)
		return -ENOMEM;
	r = queue_init_locks(q);
	if (r < 0) {
		free(q);
		return r;
	}
	q->stats = stats;
	q->spool = spool;
	q->events = *events;
	q->waits_tail = &q->waits_head;
	q->open_number = UINT64_MAX;
	q->open_us = UINT64_MAX;
	q->stuck_number = UINT64_MAX;
	q->limits.sync = conf->buffer.sync;
	queue_set_conf(q, conf);
	if (spool) {
		(void)snprintf(q->collector, sizeof(q->collector), "%s", spool_identity(spool));
		r = queue_recover(q);
		spool_on_synced(spool, spool_has_synced, q);
	} else {
		uuid_random(q->collector);
	}
	if (r < 0) {
		queue_free(q);
		return r;
	}
	*ret = q;
	return 0;
}

void
queue_free(struct queue *q)
{
	struct batch *b, *next;

	if (!q)
		return;
	if (q->spool)
		spool_on_synced(q->spool, NULL, NULL);
	batch_free(q->open);
	for (b = q->head; b; b = next) { /* completions that nobody collected among them */
		next = b->next;
		batch_free(b);
	}
	for (b = q->requeued; b; b = next) {
		next = b->done_next;
		batch_free(b);
	}
	(void)pthread_cond_destroy(&q->cond);
	(void)pthread_mutex_destroy(&q->mutex);
	free(q);
}

const char *
queue_collector(const struct queue *q)
{
	return q->collector;
}

/* ---- room ---- */

static bool
memory_short(const struct queue *q)
{
	return q->stats->memory_bytes >= DRAINED(q->limits.memory);
}

/*
 * Gives up memory of batches that the disk holds for certain, oldest first; where the choice
 * is between that and dropping metrics, also of those that are not synced yet.
 */
static void
trim_memory(struct queue *q, bool unsynced)
{
	struct batch *b, *next;

	if (!q->spool || !memory_short(q))
		return;
	(void)pthread_mutex_lock(&q->mutex);
	for (b = q->memory_head; b && memory_short(q); b = next) {
		next = b->memory_next;
		if (b->state == BATCH_SEALED && b->on_disk &&
		    (unsynced || batch_end(b) <= q->synced))
			memory_release(q, b);
	}
	(void)pthread_mutex_unlock(&q->mutex);
	if (b == NULL && q->limits.sync != CONF_SYNC_NEVER && q->synced < q->position)
		queue_sync_start(q); /* what stays in memory may go once it is synced */
}

static bool
queue_have_number(struct queue *q)
{
	if (!q->next_number)
		q->next_number = q->spool ? spool_number(q->spool) : q->last_number + 1;
	return q->next_number != 0;
}

/* Metrics that are not stored yet need the room more than those that are. */
static void
release_kept(struct queue *q)
{
	size_t files = spool_release(q->spool, DRAINED(q->limits.spool) - 1);

	if (files)
		log_event_limited(
		    LOG_WARNING, "kept_released", "kept_released", LOG_U64("files", files),
		    LOG_STR("hint", "buffer.spool_limit is too small for buffer.keep"));
}

static bool
has_room(struct queue *q, bool drained)
{
	uint64_t memory = drained ? DRAINED(q->limits.memory) : q->limits.memory;
	uint64_t disk = drained ? DRAINED(q->limits.spool) : q->limits.spool;

	if (q->stats->memory_bytes >= memory)
		return false;
	if (!q->spool)
		return true;
	if (spool_bytes(q->spool) >= disk && q->limits.keep_ms)
		release_kept(q);
	q->stats->spool_bytes = spool_bytes(q->spool);
	/* where the disk refuses, senders can wait for it; what would be dropped stays in memory */
	if (q->disk_failing && q->limits.overflow == CONF_BLOCK)
		return false;
	return q->stats->spool_bytes < disk && (q->open || queue_have_number(q));
}

static void
become_full(struct queue *q)
{
	static const char *const names[] = {"block", "drop_oldest", "drop_newest"};

	q->full = true;
	q->dropped_since_full = 0;
	log_event_limited(LOG_WARNING, "buffer_full", "buffer_full",
			  LOG_STR("overflow", names[q->limits.overflow]),
			  LOG_U64("buffered", q->stats->buffered),
			  LOG_U64("memory_bytes", q->stats->memory_bytes),
			  LOG_U64("spool_bytes", q->stats->spool_bytes),
			  LOG_BOOL("disk_refuses_writes", q->disk_failing));
}

static void
become_drained(struct queue *q)
{
	q->full = false;
	log_event_limited(LOG_INFO, "buffer_drained", "buffer_drained",
			  LOG_U64("buffered", q->stats->buffered),
			  LOG_U64("dropped", q->dropped_since_full));
	q->events.drained(q->events.arg);
}

/* Brings q->full up to date. */
static void
check_room(struct queue *q)
{
	if (!has_room(q, q->full))
		trim_memory(q, false);
	if (!q->full && !has_room(q, false))
		become_full(q);
	else if (q->full && has_room(q, true))
		become_drained(q);
}

/* ---- dropping ---- */

static void
account_dropped(struct queue *q, uint64_t rows)
{
	q->stats->dropped += rows;
	q->dropped_since_full += rows;
	log_event_limited(LOG_ERR, "metrics_dropped", "metrics_dropped", LOG_U64("rows", rows),
			  LOG_U64("dropped", q->stats->dropped));
}

static void
forget(struct queue *q, struct batch *b, bool ok)
{
	if (!ok && b->number > q->dropped_to)
		q->dropped_to = b->number;
	if (!ok)
		queue_fail_waits(q, b);
	queue_pass_waits(q, b);
	(void)pthread_mutex_lock(&q->mutex);
	list_remove(q, b);
	if (q->flushed == b)
		q->flushed = NULL;
	(void)pthread_mutex_unlock(&q->mutex);
	if (b->data)
		memory_release(q, b);
	if (!b->on_disk && q->spool)
		q->unfinished--;
	if (q->spool && !b->removed && (b->on_disk || b->file))
		queue_remove_file(q, b, ok && q->limits.keep_ms > 0 && b->on_disk);
	batch_free(b);
}

static void
drop_batch(struct queue *q, struct batch *b)
{
	uint64_t rows = b->all.rows;

	q->stats->buffered -= rows;
	account_dropped(q, rows);
	forget(q, b, false);
}

/*
 * The oldest batch that no writer has, and without which there is room where it is short:
 * in memory, or on the disk.  A writer cannot take it once it is in flight ours.
 */
static struct batch *
seize_oldest(struct queue *q)
{
	bool disk = q->spool && (q->disk_full || spool_bytes(q->spool) >= DRAINED(q->limits.spool));
	struct batch *b = NULL;

	(void)pthread_mutex_lock(&q->mutex);
	if (memory_short(q) && !q->disk_full)
		for (b = q->memory_head; b && b->state != BATCH_SEALED;)
			b = b->memory_next;
	if (!b && disk)
		for (b = q->head; b && b->state != BATCH_SEALED;)
			b = b->next;
	if (b)
		b->state = BATCH_IN_FLIGHT;
	(void)pthread_mutex_unlock(&q->mutex);
	return b;
}

/* What room there is to be had without dropping anything. */
static void
relieve(struct queue *q)
{
	trim_memory(q, true);
	if (q->spool && !q->disk_failing && memory_short(q)) {
		queue_seal(q);
		trim_memory(q, true);
	}
	check_room(q);
}

static void
drop_oldest(struct queue *q)
{
	while (q->full) {
		struct batch *b = seize_oldest(q);

		if (!b && q->open && q->open->all.rows) {
			queue_seal(q);
			b = seize_oldest(q);
		}
		if (!b)
			return;
		drop_batch(q, b);
		if (q->disk_full)
			queue_finish_all(q); /* that may have been enough */
		relieve(q);
	}
}

/* ---- metrics in ---- */

static struct batch *
queue_open_batch(struct queue *q)
{
	struct batch *b;

	if (q->open)
		return q->open;
	if (!queue_have_number(q))
		return NULL;
	b = batch_new(q->collector, q->next_number);
	if (!b)
		return NULL;
	b->start = q->position;
	q->last_number = b->number;
	q->next_number = 0;
	q->open = b;
	(void)pthread_mutex_lock(&q->mutex);
	q->open_number = b->number;
	/* under the mutex: no writer has promised a later instant */
	b->opened_us = clock_real_us();
	q->open_us = b->opened_us;
	(void)pthread_mutex_unlock(&q->mutex);
	return b;
}

bool
queue_accepts(struct queue *q)
{
	check_room(q);
	if (q->closed)
		return false;
	if (q->limits.overflow != CONF_BLOCK)
		return true;
	if (!q->full)
		return true;
	queue_seal(q); /* nothing more will come: let the writers have it */
	return false;
}

/* Is the open batch as large as the settings allow? */
static bool
open_is_full(const struct queue *q)
{
	return q->open->all.rows >= q->limits.max_rows ||
	       q->open->bytes + FRAME_MAX > q->limits.max_bytes;
}

struct queue_room
queue_room(struct queue *q)
{
	/* Without a number for the next batch, this one grows on. */
	if (q->open && open_is_full(q) && queue_have_number(q))
		queue_seal(q);
	if (!q->open)
		return (struct queue_room){q->limits.max_rows, q->limits.max_bytes};
	if (open_is_full(q))
		return (struct queue_room){1, FRAME_MAX};
	return (struct queue_room){q->limits.max_rows - q->open->all.rows,
				   q->limits.max_bytes - q->open->bytes};
}

uint64_t
queue_append(struct queue *q, const uint8_t *frames, size_t len, const struct batch_part *part)
{
	struct batch *b;

	q->stats->received += part->rows;
	if (q->limits.overflow != CONF_BLOCK)
		check_room(q);
	if (q->full && q->limits.overflow != CONF_BLOCK)
		relieve(q);
	if (q->full && q->limits.overflow == CONF_DROP_OLDEST)
		drop_oldest(q);
	b = q->full && q->limits.overflow == CONF_DROP_NEWEST ? NULL : queue_open_batch(q);
	if (!b || batch_append(b, frames, len, part) < 0) {
		account_dropped(q, part->rows);
		return 0;
	}
	q->position += len;
	q->stats->buffered += part->rows;
	q->stats->memory_bytes += len;
	/* a block's worth of a long turn: what the disk has not got stays below SPOOL_RESERVE */
	if (q->spool && b->bytes - b->written >= BLOCK_BYTES)
		queue_write_open(q);
	return b->number;
}

void
queue_seal(struct queue *q)
{
	struct batch *b = q->open;

	if (!b || !b->all.rows)
		return;
	batch_trim(b);
	if (q->spool && queue_finish_batch(q, b) < 0)
		q->unfinished++;
	q->open = NULL;
	memory_hold(q, b);
	(void)pthread_mutex_lock(&q->mutex);
	b->state = BATCH_SEALED;
	list_insert(q, b);
	if (b->waits)
		queue_want(q, b);
	q->open_number = UINT64_MAX;
	q->open_us = UINT64_MAX;
	(void)pthread_cond_broadcast(&q->cond); /* a writer that sleeps would swallow a signal */
	(void)pthread_mutex_unlock(&q->mutex);
	if (q->spool)
		queue_written(q); /* in the list, the batch shows what the disk has refused */
}

/* ---- the turn ---- */

/*
 * A level-2 waiter on the open batch has it sealed once a writer is free to take it;
 * until then others may join.  The writer that becomes free wakes the loop.  With a backlog none
 * becomes free for long: then one such batch at a time is sealed at once, and as the newest, or
 * when newer ones come, as one that is wanted, it is taken soon.
 */
static void
flush_for_waits(struct queue *q)
{
	bool flush;

	if (!q->open || !q->open->waits)
		return;
	(void)pthread_mutex_lock(&q->mutex);
	flush = queue_backlog(q) ? !q->flushed : q->idle > 0;
	if (flush)
		q->flushed = q->open;
	q->flush_wanted = !flush;
	(void)pthread_mutex_unlock(&q->mutex);
	if (flush)
		queue_seal(q);
}

void
queue_turn(struct queue *q)
{
	flush_for_waits(q);
	if (q->spool && q->open && q->open->written < q->open->bytes)
		queue_write_open(q);
	queue_release_waits(q);
	if (q->stats->memory_bytes >= DRAINED(q->limits.memory))
		check_room(q);
	assert(stats_conserved(q->stats));
}

void
queue_tick(struct queue *q)
{
	if (q->spool) {
		queue_finish_all(q);
		if (!q->disk_failing && (!q->open || queue_write_batch(q, q->open) == 0))
			queue_written(q); /* sealed batches among them */
		if (q->limits.sync != CONF_SYNC_NEVER)
			queue_sync_start(q);
		spool_prune(q->spool, q->limits.keep_ms);
		q->stats->spool_bytes = spool_bytes(q->spool);
		queue_release_waits(q);
	}
	check_room(q);
}

/* ---- completions ---- */

static void
collect_done(struct queue *q, struct batch *b)
{
	assert(b->all.rows == b->stored + b->rejected + b->lost);
	q->stats->buffered -= b->all.rows;
	q->stats->stored += b->stored;
	q->stats->rejected += b->rejected;
	q->stats->batches_stored++;
	q->stats->batches_repeated += b->repeated;
	if (b->lost)
		account_dropped(q, b->lost);
	forget(q, b, b->lost == 0);
}

void
queue_collect(struct queue *q)
{
	struct batch *done, *requeued, *b;

	(void)pthread_mutex_lock(&q->mutex);
	done = q->done;
	requeued = q->requeued;
	q->done = NULL;
	q->requeued = NULL;
	for (b = requeued; b; b = requeued) {
		requeued = b->done_next;
		b->start = q->position; /* it says nothing about the batches before it */
		list_insert(q, b);
		account_recovered(q, b->all.rows);
		(void)pthread_cond_broadcast(&q->cond);
	}
	q->stats->store_retries = q->retries;
	(void)pthread_mutex_unlock(&q->mutex);
	for (b = done; b; b = done) {
		done = b->done_next;
		collect_done(q, b);
	}
	if (q->spool)
		queue_sync_collect(q);
	queue_release_waits(q);
	check_room(q);
	assert(stats_conserved(q->stats));
}
