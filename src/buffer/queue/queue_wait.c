/*
 * queue_wait.c - sync frames that wait for their answer.
 *
 * Level 1 waits for a position in the stream of all bytes; positions become durable in
 * order, so one list serves.  Level 2 waits for batches: a wait hangs on the first batch
 * of its range that is not stored, and when that is, moves on to the next.
 */
#include "buffer/queue/queue_internal.h"

#include <assert.h>

static void
wait_link(struct queue_wait *w, struct queue_waits *list)
{
	TAILQ_INSERT_TAIL(list, w, next);
	w->list = list;
}

static void
wait_unlink(struct queue_wait *w)
{
	TAILQ_REMOVE(w->list, w, next);
	w->list = NULL;
}

/* All of level 2 are in a list of their own, too. */
static void
wait_end(struct queue *q, struct queue_wait *w)
{
	wait_unlink(w);
	if (w->on_batch)
		TAILQ_REMOVE(&q->waits_level2, w, next_level2);
	w->on_batch = false;
}

void
queue_unwait(struct queue *q, struct queue_wait *w)
{
	if (w->list)
		wait_end(q, w);
}

/* ---- level 1 ---- */

/*
 * Everything before it is on disk or stored.  Usually that is the position that is synced.  Where
 * the disk fails but the database stores, everything up to the first batch that is neither is safe
 * too.
 */
static uint64_t
durable(const struct queue *q)
{
	const struct batch *b = TAILQ_FIRST(&q->unsynced);

	if (!b && q->open && batch_end(q->open) > q->synced)
		b = q->open;
	if (!b)
		return q->position;
	return b->start > q->synced ? b->start : q->synced;
}

void
queue_release_waits(struct queue *q)
{
	struct queue_wait *w;
	uint64_t position;

	if (TAILQ_EMPTY(&q->waits_level1))
		return;
	position = durable(q);
	while ((w = TAILQ_FIRST(&q->waits_level1)) && w->position <= position) {
		wait_end(q, w);
		w->fn(w->arg, true);
	}
}

/* ---- level 2 ---- */

/* The first batch from "from" on that nobody may call stored; NULL when it lies behind last. */
static struct batch *
wait_blocker(struct queue *q, struct batch *from, uint64_t last)
{
	while (from && from->unfiled == &q->unfiled_told)
		from = queue_after(from);
	if (!from)
		from = q->open;
	return from && from->number <= last ? from : NULL;
}

/* The wait hangs on a batch, which is sealed unless it is the open one. */
static void
wait_for_batch(struct queue *q, struct queue_wait *w, struct batch *b)
{
	wait_link(w, &b->waits);
	if (b == q->open)
		return; /* wanted once it is sealed */
	(void)pthread_mutex_lock(&q->mutex);
	queue_want(b);
	(void)pthread_mutex_unlock(&q->mutex);
}

void
queue_pass_waits(struct queue *q, struct batch *b)
{
	struct queue_wait *w;

	while ((w = TAILQ_FIRST(&b->waits))) {
		struct batch *next = wait_blocker(q, queue_after(b), w->last);

		if (next) {
			wait_unlink(w);
			wait_for_batch(q, w, next);
		} else {
			wait_end(q, w);
			w->fn(w->arg, true);
		}
	}
}

/* ---- losses ---- */

static bool
range_holds(const struct queue_wait *w, uint64_t number)
{
	return w->first <= number && number <= w->last;
}

/* Those of level 1 are few or end soon; so all are looked at, once. */
static void
gather_level1(struct queue *q, uint64_t number, struct queue_waits *failed)
{
	struct queue_wait *w, *next;

	for (w = TAILQ_FIRST(&q->waits_level1); w; w = next) {
		next = TAILQ_NEXT(w, next);
		if (!range_holds(w, number))
			continue;
		wait_end(q, w);
		wait_link(w, failed);
	}
}

static void
gather_level2(struct queue *q, uint64_t number, struct queue_waits *failed)
{
	struct queue_wait *w, *next;

	for (w = TAILQ_FIRST(&q->waits_level2); w; w = next) {
		next = TAILQ_NEXT(w, next_level2);
		if (!range_holds(w, number))
			continue;
		wait_end(q, w);
		wait_link(w, failed);
	}
}

/* Who is told may give up other waits, among them some that are to be told, too. */
void
queue_fail_waits(struct queue *q, const struct batch *b)
{
	struct queue_waits failed = TAILQ_HEAD_INITIALIZER(failed);
	struct queue_wait *w;

	gather_level1(q, b->number, &failed);
	gather_level2(q, b->number, &failed);
	while ((w = TAILQ_FIRST(&failed))) {
		wait_end(q, w);
		w->fn(w->arg, false);
	}
}

/* ---- waiting ---- */

enum queue_wait_result
queue_wait(struct queue *q, struct queue_wait *w, unsigned level, uint64_t first)
{
	struct batch *b;

	assert(!w->list);
	if (!first)
		return QUEUE_WAIT_DONE;
	if (first <= q->dropped_to)
		return QUEUE_WAIT_LOST;
	w->first = first;
	w->last = q->last_number;
	if (level == 1 && q->spool) {
		w->position = q->position;
		if (w->position <= durable(q))
			return QUEUE_WAIT_DONE;
		wait_link(w, &q->waits_level1);
		return QUEUE_WAIT_PENDING;
	}
	b = wait_blocker(q, queue_from(q, first), w->last);
	if (!b)
		return QUEUE_WAIT_DONE;
	w->on_batch = true;
	TAILQ_INSERT_TAIL(&q->waits_level2, w, next_level2);
	wait_for_batch(q, w, b);
	return QUEUE_WAIT_PENDING;
}
