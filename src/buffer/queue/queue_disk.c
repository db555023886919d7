/* queue_disk.c - the batches' way to the disk thread, and what is heard of it. */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "buffer/queue/queue_internal.h"
#include "log/log.h"

#define SLOW_FIRST_MS \
	2000 /* a call that takes longer is worth a word; another when it has doubled */
#define UNKEPT_AT_ONCE 512 /* in a turn */

/* ---- to the disk ---- */

static void
grow_file(struct queue *q, struct batch *b, uint64_t bytes)
{
	q->live_bytes -= spool_disk_bytes(b->file_size);
	b->file_size += bytes;
	q->live_bytes += spool_disk_bytes(b->file_size);
}

int
queue_post(struct queue *q)
{
	struct batch *b = q->open;
	size_t len = b->bytes - b->posted;
	int r;

	if (len == 0)
		return 0;
	if (!b->file) {
		b->file = disk_create(q->disk, b->number, b->opened_us);
		if (!b->file)
			return -ENOMEM;
		grow_file(q, b, SPOOL_FILE_HEADER);
	}
	r = disk_append(b->file, b->slab, b->posted, len, &b->unposted);
	if (r < 0)
		return r;
	grow_file(q, b, len + (r ? SPOOL_BLOCK_HEADER : 0));
	b->posted = b->bytes;
	b->unposted = BATCH_PART_NONE;
	return 0;
}

int
queue_post_seal(struct queue *q)
{
	int r = queue_post(q);

	if (r == 0)
		r = disk_seal(q->open->file);
	if (r == 0)
		q->open->seal = ++q->seals;
	return r;
}

/* ---- from the disk ---- */

/* All of it is in the spool: the disk thread needs its memory no more. */
static void
note_written(struct queue *q, struct batch *b)
{
	TAILQ_REMOVE(&q->unwritten, b, unwritten);
	disk_release(b->file);
	b->file = NULL;
	if (b->unfiled) {
		TAILQ_REMOVE(b->unfiled, b, in_unfiled);
		b->unfiled = &q->filed; /* queue_collect() ends it */
		TAILQ_INSERT_TAIL(b->unfiled, b, in_unfiled);
	}
	(void)pthread_mutex_lock(&q->mutex);
	b->on_disk = true;
	if (b->slab && b->state == BATCH_SEALED)
		batch_trim(b);
	(void)pthread_mutex_unlock(&q->mutex);
}

static void
note_synced(struct queue *q, uint64_t position)
{
	struct batch *b;

	q->synced = position;
	while ((b = TAILQ_FIRST(&q->unsynced)) && batch_end(b) <= position) {
		TAILQ_REMOVE(&q->unsynced, b, unsynced);
		b->is_unsynced = false;
	}
}

/* A kept batch is to be stored again, unless its number is there already: somebody copied a file.
 */
static void
take_back(struct queue *q, const struct spool_header *h)
{
	struct batch *same = queue_from(q, h->number);
	struct batch *b = NULL;

	if (!same || same->number != h->number)
		b = batch_new_on_disk(h);
	(void)pthread_mutex_lock(&q->mutex);
	if (b)
		queue_link(q, b);
	if (--q->unkeeping == 0)
		q->unkeeping_us = UINT64_MAX;
	(void)pthread_cond_broadcast(&q->cond);
	(void)pthread_mutex_unlock(&q->mutex);
	if (!b)
		return;
	b->start = q->position; /* it says nothing about the batches before it */
	q->live_bytes += spool_disk_bytes(b->file_size);
	queue_account_recovered(q, b->all.rows);
}

static void
collect_unkept(struct queue *q)
{
	struct spool_header headers[UNKEPT_AT_ONCE];
	size_t n = disk_take_unkept(q->disk, headers, UNKEPT_AT_ONCE);

	for (size_t i = 0; i < n; i++)
		take_back(q, &headers[i]);
	if (n == UNKEPT_AT_ONCE)
		q->events.wake(q->events.arg); /* the rest in the next turn */
}

void
queue_collect_progress(struct queue *q)
{
	struct disk_progress p;
	struct batch *b;

	disk_progress(q->disk, &p);
	q->disk_error = p.error;
	q->disk_stalls = p.call_ms >= QUEUE_STALL_MS;
	q->sync_fails = p.sync_fails;
	q->written = p.written;
	q->disk_room = p.room;
	q->removing_bytes = p.removing_bytes;
	q->job_bytes = p.job_bytes;
	while ((b = TAILQ_FIRST(&q->unwritten)) && b->seal <= p.sealed)
		note_written(q, b);
	note_synced(q, p.synced);
}

void
queue_collect_disk(struct queue *q)
{
	queue_collect_progress(q);
	collect_unkept(q);
	q->stats->spool_bytes = q->live_bytes + q->removing_bytes + spool_kept_bytes(q->spool);
}

void
queue_say_slow(struct queue *q)
{
	struct disk_progress p;

	disk_progress(q->disk, &p);
	if (p.call_ms >= (q->slow_said_ms ? q->slow_said_ms * 2 : SLOW_FIRST_MS)) {
		log_event(LOG_WARNING, "spool_slow", LOG_STR("call", p.call),
			  LOG_F64("seconds", (double)p.call_ms / 1000),
			  LOG_U64("waiting_bytes", p.pending),
			  LOG_STR("hint",
				  "the spool's disk does not answer; metrics stay in memory, "
				  "and level-1 answers wait for it"));
		q->slow_call = p.call;
		q->slow_said_ms = p.call_ms;
	} else if (q->slow_said_ms && p.call_ms < q->slow_said_ms) {
		log_event(LOG_NOTICE, "spool_slow", LOG_STR("call", q->slow_call),
			  LOG_BOOL("over", true));
		q->slow_said_ms = 0;
	}
}

/* ---- a stop ---- */

bool
queue_secure(struct queue *q)
{
	struct disk_progress p;

	if (!q->spool)
		return false;
	queue_seal(q);
	if (q->limits.sync != CONF_SYNC_NEVER)
		disk_sync(q->disk);
	queue_collect(q);
	disk_progress(q->disk, &p);
	if ((p.error == -ENOSPC || p.error == -EDQUOT) && !q->reserve_used) {
		q->reserve_used = true; /* the reserve is for what has been taken */
		disk_use_reserve(q->disk);
	}
	return p.synced == q->position && TAILQ_EMPTY(&q->unwritten) &&
	       (p.unkeeping == 0 || p.unkeep_fails);
}

uint64_t
queue_unsafe_rows(struct queue *q)
{
	struct disk_progress p;

	if (!q->spool)
		return q->stats->buffered;
	disk_progress(q->disk, &p);
	return p.unsafe + (q->open ? q->open->unposted.rows : 0);
}

bool
queue_close(struct queue *q, uint64_t ms)
{
	uint64_t until_ms = clock_ms() + ms, now_ms;
	bool over = queue_stop_reader(q, ms);

	now_ms = clock_ms();
	if (q->disk && !disk_stop(q->disk, now_ms < until_ms ? until_ms - now_ms : 0))
		over = false;

	if (q->disk && over)
		queue_collect(q);
	queue_end_unfiled(q); /* what the database has is not lost with the disk */
	return over;
}
