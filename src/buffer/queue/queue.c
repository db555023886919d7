/*
 * queue.c - the loop thread's side of the queue: metrics in, the turn's end, completions.
 */
#include "buffer/queue/queue.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/thread.h"
#include "buffer/queue/queue_internal.h"
#include "log/log.h"
#include "wire/frame.h"

#define BATCH_LEAST_BYTES 1024 /* however little memory there is */

/* ---- construction ---- */

/* The sync mode stays: it is that of the spool, which is open. */
void
queue_set_conf(struct queue *q, const struct conf *conf)
{
	uint64_t most = conf->buffer.memory_limit / 2; /* one is open while one is stored */

	if (most < BATCH_LEAST_BYTES)
		most = BATCH_LEAST_BYTES;
	q->limits = (struct queue_limits){
	    .max_rows = conf->batch.max_rows,
	    .max_bytes = conf->batch.max_bytes < most ? conf->batch.max_bytes : most,
	    .memory = conf->buffer.memory_limit,
	    .spool = conf->buffer.spool_limit,
	    .keep_ms = conf->buffer.keep_ms,
	    .overflow = conf->buffer.overflow,
	    .sync = q->limits.sync,
	};
	if (!q->disk)
		return;
	disk_set_limits(q->disk, q->limits.keep_ms, q->limits.spool);
	queue_update_room(q);
}

void
queue_account_recovered(struct queue *q, uint64_t rows)
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
	struct queue *q = rec->q;
	struct batch *b = batch_new_on_disk(h);

	if (!b) {
		rec->error = -ENOMEM;
		return;
	}
	queue_link(q, b);
	q->live_bytes += spool_disk_bytes(b->file_size);
	if (b->number > q->last_number)
		q->last_number = b->number;
	rec->batches++;
	rec->rows += b->all.rows;
}

static void
disk_has_news(void *arg)
{
	struct queue *q = arg;

	q->events.wake(q->events.arg);
}

static int
queue_recover(struct queue *q)
{
	struct recovery rec = {.q = q};
	int r = spool_recover(q->spool, recovered, &rec);

	if (r == 0)
		r = rec.error;
	if (r == 0)
		r = disk_start(q->spool, q->limits.sync, disk_has_news, q, &q->disk);
	if (r == 0)
		r = queue_start_reader(q);
	if (r < 0)
		return r;
	queue_account_recovered(q, rec.rows);
	queue_collect_disk(q);
	if (rec.batches)
		log_event(LOG_INFO, "spool_recovered", LOG_U64("batches", rec.batches),
			  LOG_U64("rows", rec.rows));
	return 0;
}

static int
queue_init_locks(struct queue *q)
{
	int r = -pthread_mutex_init(&q->mutex, NULL);

	if (r < 0)
		return r;
	r = thread_cond_init(&q->cond);
	if (r == 0) {
		r = thread_cond_init(&q->read_cond);
		if (r == 0)
			return 0;
		(void)pthread_cond_destroy(&q->cond);
	}
	(void)pthread_mutex_destroy(&q->mutex);
	return r;
}

static struct queue *
queue_alloc(void)
{
	struct queue *q = calloc(1, sizeof(*q));

	if (!q)
		return NULL;
	queue_init_lists(q);
	TAILQ_INIT(&q->memory);
	TAILQ_INIT(&q->unsynced);
	TAILQ_INIT(&q->unwritten);
	TAILQ_INIT(&q->waits_level1);
	TAILQ_INIT(&q->waits_level2);
	STAILQ_INIT(&q->done);
	TAILQ_INIT(&q->unfiled);
	TAILQ_INIT(&q->unfiled_told);
	TAILQ_INIT(&q->filed);
	q->open_number = UINT64_MAX;
	q->open_us = UINT64_MAX;
	q->unkeeping_us = UINT64_MAX;
	return q;
}

int
queue_new(const struct conf *conf, struct stats *stats, struct spool *spool,
	  const struct queue_events *events, struct queue **ret)
{
	struct queue *q = queue_alloc();
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
	q->limits.sync = conf->buffer.sync;
	if (spool) {
		(void)snprintf(q->collector, sizeof(q->collector), "%s", spool_identity(spool));
		r = queue_recover(q);
	} else {
		uuid_random(q->collector);
	}
	if (r < 0) {
		if (q->disk)
			(void)disk_stop(q->disk, UINT32_MAX); /* it has nothing to do */
		queue_free(q);
		return r;
	}
	queue_set_conf(q, conf);
	*ret = q;
	return 0;
}

static void
free_batch(struct batch *b)
{
	disk_release(b->file);
	batch_free(b);
}

void
queue_free(struct queue *q)
{
	struct batch *b;

	if (!q)
		return;
	(void)queue_stop_reader(q, 0);
	if (q->reader_started)
		(void)pthread_join(q->reader, NULL);
	if (q->open)
		free_batch(q->open);
	while ((b = queue_oldest(q))) { /* completions that nobody collected among them */
		queue_unlink(q, b);
		free_batch(b);
	}
	disk_free(q->disk);
	(void)pthread_cond_destroy(&q->read_cond);
	(void)pthread_cond_destroy(&q->cond);
	(void)pthread_mutex_destroy(&q->mutex);
	free(q);
}

const char *
queue_collector(const struct queue *q)
{
	return q->collector;
}

/* ---- the end of a batch ---- */

static void
end_file(struct queue *q, struct batch *b, bool ok)
{
	uint64_t bytes = spool_disk_bytes(b->file_size);

	q->live_bytes -= bytes;
	if (!b->on_disk)
		TAILQ_REMOVE(&q->unwritten, b, unwritten);
	if (b->is_unsynced)
		TAILQ_REMOVE(&q->unsynced, b, unsynced);
	if (ok && b->on_disk && q->limits.keep_ms)
		disk_keep(q->disk, b->number, bytes);
	else
		disk_remove(q->disk, b->file, b->number, bytes);
	q->removing_bytes += bytes; /* until we ask again */
	b->file = NULL;
}

void
queue_forget(struct queue *q, struct batch *b, bool ok)
{
	if (!ok && b->number > q->dropped_to)
		q->dropped_to = b->number;
	if (!ok)
		queue_fail_waits(q, b);
	queue_pass_waits(q, b);
	/* first: as long as the batch is in the list or its removal in the disk's, the ledger row
	 * stays */
	if (q->spool)
		end_file(q, b, ok);
	(void)pthread_mutex_lock(&q->mutex);
	queue_unlink(q, b);
	if (q->flushed == b)
		q->flushed = NULL;
	(void)pthread_mutex_unlock(&q->mutex);
	if (b->slab)
		queue_release_memory(q, b);
	batch_free(b);
}

/* ---- metrics in ---- */

bool
queue_have_number(struct queue *q)
{
	if (!q->next_number)
		q->next_number = q->disk ? disk_number(q->disk) : q->last_number + 1;
	return q->next_number != 0;
}

static struct batch *
queue_open_batch(struct queue *q)
{
	struct batch *b;

	if (q->open)
		return q->open;
	if (!queue_have_number(q))
		return NULL;
	b = batch_new(q->collector, q->next_number, q->usual_bytes);
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

/* Is the open batch as large as the settings allow? */
static bool
open_is_full(const struct queue *q)
{
	return q->open->all.rows >= q->limits.max_rows ||
	       q->open->bytes + FRAME_MAX > q->limits.max_bytes;
}

struct queue_room
queue_make_room(struct queue *q)
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

/* The batch that shall take what has come; NULL when that is to be dropped. */
static struct batch *
batch_for(struct queue *q, size_t len)
{
	struct batch *b;

	if (q->fullness == QUEUE_IS_FULL && q->limits.overflow != CONF_BLOCK)
		queue_update_room(q);
	if (q->limits.overflow == CONF_DROP_OLDEST)
		queue_drop_oldest(q);
	if (q->fullness == QUEUE_IS_FULL && q->limits.overflow == CONF_DROP_NEWEST)
		return NULL;
	b = queue_open_batch(q);
	/* in a long turn: blocks of a bounded size, and what no block holds yet stays small */
	if (b && q->spool && b->bytes - b->posted + len > DISK_BLOCK_BYTES)
		(void)queue_post(q);
	return b;
}

uint64_t
queue_append(struct queue *q, const uint8_t *frames, size_t len, const struct batch_part *part)
{
	struct batch *b;

	q->stats->received += part->rows;
	b = batch_for(q, len);
	if (!b || batch_append(b, frames, len, part) < 0) {
		queue_account_dropped(q, part->rows);
		return 0;
	}
	q->position += len;
	q->stats->buffered += part->rows;
	q->stats->memory_bytes += len;
	if (queue_is_over_limits(q)) {
		uint64_t number = b->number;

		queue_update_room(q); /* may seal it */
		return number;
	}
	return b->number;
}

void
queue_seal(struct queue *q)
{
	struct batch *b = q->open;

	if (!b || !b->all.rows)
		return;
	if (q->spool && queue_post_seal(q) < 0)
		return; /* memory is short: another time */
	batch_trim(b);
	q->open = NULL;
	q->usual_bytes = b->bytes;
	queue_hold_memory(q, b);
	if (q->spool) {
		TAILQ_INSERT_TAIL(&q->unwritten, b, unwritten);
		TAILQ_INSERT_TAIL(&q->unsynced, b, unsynced);
		b->is_unsynced = true;
	}
	(void)pthread_mutex_lock(&q->mutex);
	queue_link(q, b);
	if (!TAILQ_EMPTY(&b->waits))
		queue_want(b);
	q->open_number = UINT64_MAX;
	q->open_us = UINT64_MAX;
	(void)pthread_cond_broadcast(&q->cond); /* a writer that sleeps would swallow a signal */
	(void)pthread_mutex_unlock(&q->mutex);
	queue_check_number(q);
}

void
queue_flush(struct queue *q)
{
	q->flush_due = q->away;
	if (!q->away)
		queue_seal(q);
}

void
queue_set_away(struct queue *q, bool away)
{
	(void)pthread_mutex_lock(&q->mutex);
	q->away = away;
	(void)pthread_cond_signal(&q->read_cond);
	(void)pthread_mutex_unlock(&q->mutex);
	if (q->flush_due)
		queue_flush(q);
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

	if (!q->open || TAILQ_EMPTY(&q->open->waits))
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

/* What the sync mode wants at once: answers that wait hear of it from queue_collect(). */
static void
sync_turn(struct queue *q)
{
	switch (q->limits.sync) {
	case CONF_SYNC_ALWAYS:
		disk_sync(q->disk);
		break;
	case CONF_SYNC_INTERVAL:
		break;
	case CONF_SYNC_NEVER:
		if (!TAILQ_EMPTY(&q->waits_level1))
			disk_sync(q->disk);
		break;
	}
}

void
queue_end_turn(struct queue *q)
{
	flush_for_waits(q);
	if (q->spool && q->open)
		(void)queue_post(q);
	if (q->spool)
		sync_turn(q);
	if (q->fullness != QUEUE_HAS_ROOM || queue_is_over_limits(q))
		queue_update_room(q);
	assert(stats_conserved(q->stats));
}

void
queue_tick(struct queue *q)
{
	if (q->spool) {
		if (q->open)
			(void)queue_post(q);
		if (q->limits.sync == CONF_SYNC_INTERVAL)
			disk_sync(q->disk);
		queue_say_slow(q);
	}
	queue_collect(q);
}

/* ---- completions ---- */

static void
account(struct queue *q, struct batch *b)
{
	uint64_t rows = b->stored + b->rejected + b->lost;

	if (rows > b->all.rows) { /* its file held more than the header said */
		queue_account_recovered(q, rows - b->all.rows);
		b->all.rows = rows;
	}
	assert(b->all.rows == rows);
	q->stats->buffered -= rows;
	q->stats->stored += b->stored;
	q->stats->rejected += b->rejected;
	q->stats->batches_stored++;
	q->stats->batches_repeated += b->repeated;
	if (b->lost)
		queue_account_dropped(q, b->lost);
}

static void
end(struct queue *q, struct batch *b)
{
	queue_forget(q, b, b->lost == 0);
}

/*
 * With buffer.keep a batch that the database has is to be in the spool, too, before anybody is told
 * so: both may be lost together.  A disk that does not answer is not waited for with the answers,
 * but the batch stays in memory for it while there is some; for one that refuses nothing is.
 */
static bool
awaits_its_file(const struct queue *q, const struct batch *b)
{
	return q->spool && q->limits.keep_ms && !b->on_disk;
}

static void
finish(struct queue *q, struct batch *b)
{
	account(q, b);
	if (awaits_its_file(q, b)) {
		b->unfiled = &q->unfiled;
		TAILQ_INSERT_TAIL(b->unfiled, b, in_unfiled);
	} else {
		end(q, b);
	}
}

/* Whoever waits for it is told, by its completion alone. */
static void
answer_unfiled(struct queue *q, struct batch *b)
{
	TAILQ_REMOVE(b->unfiled, b, in_unfiled);
	b->unfiled = &q->unfiled_told;
	TAILQ_INSERT_TAIL(b->unfiled, b, in_unfiled);
	if (b->is_unsynced)
		TAILQ_REMOVE(&q->unsynced, b, unsynced);
	b->is_unsynced = false;
	queue_pass_waits(q, b);
}

static bool
end_first(struct queue *q, struct batch_list *list)
{
	struct batch *b = TAILQ_FIRST(list);

	if (!b)
		return false;
	TAILQ_REMOVE(b->unfiled, b, in_unfiled);
	b->unfiled = NULL;
	end(q, b);
	return true;
}

static void
say_not_kept(uint64_t n)
{
	if (n)
		log_event_limited(
		    LOG_WARNING, "batches_not_kept", "batches_not_kept", LOG_U64("batches", n),
		    LOG_STR("hint", "the spool's disk does not take them; they are in "
				    "the database only, whatever buffer.keep says"));
}

void
queue_end_unfiled(struct queue *q)
{
	uint64_t n = 0;

	while (end_first(q, &q->unfiled_told) || end_first(q, &q->unfiled))
		n++;
	say_not_kept(n);
}

void
queue_review_unfiled(struct queue *q)
{
	uint64_t n = 0;

	while (end_first(q, &q->filed))
		;
	while (q->disk_stalls && !TAILQ_EMPTY(&q->unfiled))
		answer_unfiled(q, TAILQ_FIRST(&q->unfiled));
	while (queue_memory_is_short(q) && end_first(q, &q->unfiled_told))
		n++;
	say_not_kept(n);
	if (q->disk_error)
		queue_end_unfiled(q);
}

/* Takes all completions; returns the number of the last. */
static uint64_t
take_done(struct queue *q, struct batch_stack *done)
{
	uint64_t last;

	(void)pthread_mutex_lock(&q->mutex);
	STAILQ_CONCAT(done, &q->done);
	last = q->done_last;
	q->stats->store_retries = q->retries;
	(void)pthread_mutex_unlock(&q->mutex);
	return last;
}

/* Those that were told are older than those that were not. */
static void
note_collected(struct queue *q, uint64_t last)
{
	const struct batch *b = TAILQ_FIRST(&q->unfiled_told);

	if (!b)
		b = TAILQ_FIRST(&q->unfiled);
	(void)pthread_mutex_lock(&q->mutex);
	q->done_collected = b ? b->done - 1 : last;
	(void)pthread_mutex_unlock(&q->mutex);
}

void
queue_collect(struct queue *q)
{
	struct batch_stack done = STAILQ_HEAD_INITIALIZER(done);
	struct batch *b;
	uint64_t last;

	if (q->spool)
		queue_collect_disk(q);
	queue_review_unfiled(q);
	last = take_done(q, &done);
	while ((b = STAILQ_FIRST(&done))) {
		STAILQ_REMOVE_HEAD(&done, in_done);
		finish(q, b);
	}
	queue_review_unfiled(q);
	note_collected(q, last);
	queue_release_waits(q);
	queue_update_room(q);
	assert(stats_conserved(q->stats));
}
