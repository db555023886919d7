/*
 * queue_room.c - who decides that everything is full, and what is done about it.
 *
 * Memory (buffer.memory_limit) holds what the database has not got; the spool (spool_limit) holds
 * the same on disk.  What the disk thread still has to do counts, too: its lists take memory, and
 * files that it has not removed yet take room.  When either comes to its limit:
 *
 *	1. trim    memory of batches that the disk holds for certain is freed, oldest first; where
 *	           the choice is between that and dropping, also of those not synced yet.
 *	2. await   memory is short still, but the disk has room and works: the open batch is
 *	           sealed, so that it can leave memory, too.  Clients are not read until the disk
 *	           thread has written, whatever the policy: that takes milliseconds.  So it is when
 *	           what is not written yet may be more than the file system has room for (at a
 *	           stop the reserve would not do), and when files that wait to be removed are what
 *	           fills the spool.
 *	3. full    neither has room, or the disk does not answer (QUEUE_STALL_MS), or refuses
 *	           writes.  Now buffer.overflow decides:
 *	             block        clients are not read; what is in the open batch is sealed for
 *	                          the writers.
 *	             drop_oldest  batches are dropped, oldest first, until there is room: of all
 *	                          where the disk is full, of those in memory where it does not work.
 *	             drop_newest  what comes is not taken.
 *
 * Where the disk refuses writes, "block" is full at once: senders can wait for it.  The drop
 * policies go on in memory as long as there is some, also where it does not answer.  On a full disk
 * a batch that is dropped makes room once its file is gone, so that is awaited before the next one
 * is dropped.
 *
 * Batches that are stored and only kept (buffer.keep) do not count: the disk thread deletes them
 * as soon as the files together are larger than the limit.
 */
#include <errno.h>

#include "base/clock.h"
#include "buffer/queue/queue_internal.h"
#include "log/log.h"

/* "Has room again" is an eighth below the limit, so that the daemon does not flap. */
#define DRAINED(limit) ((limit) - (limit) / 8)

/* ---- memory ---- */

void
queue_hold_memory(struct queue *q, struct batch *b)
{
	TAILQ_INSERT_TAIL(&q->memory, b, in_memory);
}

void
queue_release_memory(struct queue *q, struct batch *b)
{
	TAILQ_REMOVE(&q->memory, b, in_memory);
	slab_unref(b->slab);
	b->slab = NULL;
	q->stats->memory_bytes -= b->bytes;
}

static uint64_t
memory_used(const struct queue *q)
{
	return q->stats->memory_bytes + q->job_bytes;
}

bool
queue_memory_is_short(const struct queue *q)
{
	return memory_used(q) >= DRAINED(q->limits.memory);
}

/* It is on disk only from here on, and to be read back before a writer gets it. */
static void
send_to_disk(struct queue *q, struct batch *b)
{
	uint64_t not_before_ms = b->not_before_ms;

	queue_detach(q, b);
	queue_release_memory(q, b);
	queue_attach(q, b, not_before_ms);
}

/*
 * The disk takes batches in the order of the list: behind the first that it has not got there is
 * none to be freed.  In between are those that writers have, a few.
 */
static void
trim_memory(struct queue *q, bool unsynced)
{
	struct batch *b, *next;

	if (!q->spool || !queue_memory_is_short(q))
		return;
	(void)pthread_mutex_lock(&q->mutex);
	for (b = TAILQ_FIRST(&q->memory);
	     b && b->on_disk && (unsynced || !b->is_unsynced) && queue_memory_is_short(q);
	     b = next) {
		next = TAILQ_NEXT(b, in_memory);
		if (b->state == BATCH_SEALED)
			send_to_disk(q, b);
	}
	(void)pthread_mutex_unlock(&q->mutex);
}

/* Does memory wait for writes alone: of stored batches that await the files to be kept? */
static bool
memory_is_unfiled(const struct queue *q)
{
	return !TAILQ_EMPTY(&q->unfiled) || !TAILQ_EMPTY(&q->unfiled_told);
}

/* Is there memory of sealed batches that no writer has, which the disk thread may relieve? */
static bool
memory_can_be_freed(struct queue *q)
{
	struct batch *b;

	(void)pthread_mutex_lock(&q->mutex);
	b = TAILQ_FIRST(&q->memory);
	while (b && b->state != BATCH_SEALED)
		b = TAILQ_NEXT(b, in_memory);
	(void)pthread_mutex_unlock(&q->mutex);
	return b != NULL;
}

/* ---- what there is room for ---- */

static bool
disk_has_no_space(const struct queue *q)
{
	return q->disk_error == -ENOSPC || q->disk_error == -EDQUOT;
}

/* May what is not written yet be too much for the file system?  Half of it is for others. */
static bool
disk_is_tight(const struct queue *q)
{
	return q->position > q->written && q->position - q->written >= q->disk_room / 2;
}

static uint64_t
spool_used(const struct queue *q)
{
	return q->live_bytes + q->removing_bytes;
}

/* Without room, is the disk thread about to make some? */
static bool
disk_will_relieve(struct queue *q)
{
	struct disk_progress p;

	disk_progress(q->disk, &p);
	if (q->disk_stalls)
		return false;
	if (q->disk_error) /* a batch was dropped for it: has that helped? */
		return disk_has_no_space(q) && p.removing > 0;
	if (disk_is_tight(q))
		return true;
	if (q->removing_bytes > 0 && spool_used(q) >= DRAINED(q->limits.spool))
		return true;
	if (q->stats->memory_bytes < DRAINED(q->limits.memory) && q->job_bytes > 0)
		return true; /* it is what takes the memory */
	return memory_is_unfiled(q) || (!q->sync_fails && memory_can_be_freed(q));
}

/* Is memory all there is for now, and the policy one that goes on with it? */
static bool
goes_on_in_memory(const struct queue *q)
{
	return q->disk_error || (q->disk_stalls && q->limits.overflow != CONF_BLOCK);
}

bool
queue_is_over_limits(const struct queue *q)
{
	if (memory_used(q) >= q->limits.memory)
		return true;
	return q->spool && (spool_used(q) >= q->limits.spool || disk_is_tight(q));
}

static enum queue_fullness
judge(struct queue *q)
{
	bool before = q->fullness != QUEUE_HAS_ROOM;
	uint64_t memory = before ? DRAINED(q->limits.memory) : q->limits.memory;
	uint64_t disk = before ? DRAINED(q->limits.spool) : q->limits.spool;
	bool memory_full = memory_used(q) >= memory;

	if (!q->spool)
		return memory_full ? QUEUE_IS_FULL : QUEUE_HAS_ROOM;
	if (q->live_bytes >= disk || (!q->open && !queue_have_number(q)))
		return QUEUE_IS_FULL;
	if (q->disk_error && q->limits.overflow == CONF_BLOCK)
		return QUEUE_IS_FULL;
	if (!memory_full && (goes_on_in_memory(q) || (spool_used(q) < disk && !disk_is_tight(q))))
		return QUEUE_HAS_ROOM;
	return disk_will_relieve(q) ? QUEUE_AWAITS_DISK : QUEUE_IS_FULL;
}

static void
say_full(struct queue *q)
{
	static const char *const names[] = {"block", "drop_oldest", "drop_newest"};

	q->full_said = true;
	q->dropped_since_full = 0;
	log_event_limited(LOG_WARNING, "buffer_full", "buffer_full",
			  LOG_STR("overflow", names[q->limits.overflow]),
			  LOG_U64("buffered", q->stats->buffered),
			  LOG_U64("memory_bytes", q->stats->memory_bytes),
			  LOG_U64("spool_bytes", q->stats->spool_bytes),
			  LOG_BOOL("disk_refuses_writes", q->disk_error != 0));
}

static void
say_drained(struct queue *q)
{
	q->full_said = false;
	log_event_limited(LOG_INFO, "buffer_drained", "buffer_drained",
			  LOG_U64("buffered", q->stats->buffered),
			  LOG_U64("dropped", q->dropped_since_full));
}

/* Steps 1 and 2. */
static void
relieve(struct queue *q)
{
	bool drops = q->limits.overflow != CONF_BLOCK, full;

	if (q->spool) {
		queue_collect_progress(q);
		queue_review_unfiled(q);
	}
	trim_memory(q, drops && q->fullness != QUEUE_HAS_ROOM);
	if (!q->spool)
		return;
	full = memory_used(q) >= q->limits.memory;
	if (full && !q->disk_error)
		queue_seal(q);
	if (full)
		trim_memory(q, drops);
	if (q->disk_error || !(full || disk_is_tight(q)))
		return;
	if (q->open)
		(void)queue_post(q);
	disk_sync(q->disk); /* we hear of it when it is done */
}

bool
queue_accepts(const struct queue *q)
{
	if (q->reserve_used || q->fullness == QUEUE_AWAITS_DISK)
		return false;
	return q->fullness == QUEUE_HAS_ROOM || q->limits.overflow != CONF_BLOCK;
}

void
queue_update_room(struct queue *q)
{
	bool accepted = queue_accepts(q);

	relieve(q);
	q->fullness = judge(q);
	if (q->fullness == QUEUE_IS_FULL && !q->full_said)
		say_full(q);
	if (q->fullness == QUEUE_IS_FULL && q->limits.overflow == CONF_BLOCK)
		queue_seal(q); /* nothing more will come: let the writers have it */
	if (q->fullness == QUEUE_HAS_ROOM && q->full_said)
		say_drained(q);
	if (!accepted && queue_accepts(q))
		q->events.drained(q->events.arg);
}

void
queue_check_number(struct queue *q)
{
	if (!queue_have_number(q))
		q->fullness = QUEUE_IS_FULL;
}

/* ---- dropping ---- */

void
queue_account_dropped(struct queue *q, uint64_t rows)
{
	q->stats->dropped += rows;
	q->dropped_since_full += rows;
	log_event_limited(LOG_ERR, "metrics_dropped", "metrics_dropped", LOG_U64("rows", rows),
			  LOG_U64("dropped", q->stats->dropped));
}

/*
 * The oldest batch that no writer has, and without which there is room where it is short: on the
 * disk, or in memory.  From here on no writer can take it.
 */
static struct batch *
seize_oldest(struct queue *q)
{
	bool disk = q->spool && (disk_has_no_space(q) || q->live_bytes >= DRAINED(q->limits.spool));
	struct batch *b = NULL;

	(void)pthread_mutex_lock(&q->mutex);
	if (disk)
		for (b = queue_oldest(q); b && b->state != BATCH_SEALED;)
			b = queue_after(b);
	else if (queue_memory_is_short(q))
		for (b = TAILQ_FIRST(&q->memory); b && b->state != BATCH_SEALED;)
			b = TAILQ_NEXT(b, in_memory);
	if (b)
		queue_detach(q, b);
	(void)pthread_mutex_unlock(&q->mutex);
	return b;
}

static void
drop_batch(struct queue *q, struct batch *b)
{
	uint64_t rows = b->all.rows;

	q->stats->buffered -= rows;
	queue_account_dropped(q, rows);
	queue_forget(q, b, false);
}

void
queue_drop_oldest(struct queue *q)
{
	while (q->fullness == QUEUE_IS_FULL) {
		struct batch *b = seize_oldest(q);

		if (!b && q->open && q->open->all.rows) {
			queue_seal(q);
			b = seize_oldest(q);
		}
		if (!b)
			return;
		drop_batch(q, b);
		queue_update_room(q);
	}
}
