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
wait_link(struct queue_wait *w, struct queue_wait **link)
{
	w->next = *link;
	w->link = link;
	if (w->next)
		w->next->link = &w->next;
	*link = w;
}

static void
wait_unlink(struct queue *q, struct queue_wait *w)
{
	assert(w->link);
	if (q && q->waits_tail == &w->next)
		q->waits_tail = w->link;
	*w->link = w->next;
	if (w->next)
		w->next->link = w->link;
	w->next = NULL;
	w->link = NULL;
}

void
queue_unwait(struct queue *q, struct queue_wait *w)
{
	if (w->link)
		wait_unlink(q, w);
}

/*
 * Usually the position that is synced.  Where the disk fails but the database
 * stores, everything up to the first batch that is neither is safe too.
 */
uint64_t
queue_durable(struct queue *q)
{
	uint64_t durable = q->position;
	const struct batch *b;

	if (q->open && batch_end(q->open) > q->synced)
		durable = q->open->start;
	for (b = q->tail; b && batch_end(b) > q->synced; b = b->prev)
		if (b->start < durable)
			durable = b->start;
	return durable > q->synced ? durable : q->synced;
}

void
queue_release_waits(struct queue *q)
{
	uint64_t durable;

	if (!q->waits_head)
		return;
	durable = queue_durable(q);
	while (q->waits_head && q->waits_head->position <= durable) {
		struct queue_wait *w = q->waits_head;

		wait_unlink(q, w);
		w->fn(w->arg, true);
	}
}

/* The first batch from "from" on that is not stored; NULL when it lies behind last. */
static struct batch *
wait_blocker(struct queue *q, struct batch *from, uint64_t last)
{
	if (!from)
		from = q->open;
	return from && from->number <= last ? from : NULL;
}

static struct batch *
first_unstored(struct queue *q, uint64_t first)
{
	struct batch *b, *found = NULL;

	for (b = q->tail; b && b->number >= first; b = b->prev)
		found = b;
	return found;
}

/* The wait hangs on a batch, which is sealed unless it is the open one. */
static void
wait_for_batch(struct queue *q, struct queue_wait *w, struct batch *b)
{
	wait_link(w, &b->waits);
	if (b == q->open)
		return; /* wanted once it is sealed */
	(void)pthread_mutex_lock(&q->mutex);
	queue_want(q, b);
	(void)pthread_mutex_unlock(&q->mutex);
}

void
queue_pass_waits(struct queue *q, struct batch *b)
{
	while (b->waits) {
		struct queue_wait *w = b->waits;
		struct batch *next = wait_blocker(q, b->next, w->last);

		wait_unlink(NULL, w);
		if (next)
			wait_for_batch(q, w, next);
		else
			w->fn(w->arg, true);
	}
}

/* Fails the first wait of a list whose range holds that batch; false when there is none. */
static bool
fail_one(struct queue *q, struct queue_wait *w, uint64_t number)
{
	while (w && (number < w->first || number > w->last))
		w = w->next;
	if (!w)
		return false;
	wait_unlink(q, w);
	w->fn(w->arg, false);
	return true;
}

/* Who is told may give up other waits: each time from the start. */
void
queue_fail_waits(struct queue *q, const struct batch *b)
{
	const struct batch *at;

	while (fail_one(q, q->waits_head, b->number))
		;
	for (at = q->head; at && at->number <= b->number;
	     at = at->next) /* they hang on the first */
		while (fail_one(q, at->waits, b->number))
			;
}

enum queue_wait_result
queue_wait(struct queue *q, struct queue_wait *w, unsigned level, uint64_t first)
{
	struct batch *b;

	assert(!w->link);
	if (!first)
		return QUEUE_WAIT_DONE;
	if (first <= q->dropped_to)
		return QUEUE_WAIT_LOST;
	w->first = first;
	w->last = q->last_number;
	if (level == 1 && q->spool) {
		w->position = q->position;
		if (w->position <= queue_durable(q))
			return QUEUE_WAIT_DONE;
		wait_link(w, q->waits_tail);
		q->waits_tail = &w->next;
		return QUEUE_WAIT_PENDING;
	}
	b = wait_blocker(q, first_unstored(q, first), w->last);
	if (!b)
		return QUEUE_WAIT_DONE;
	wait_for_batch(q, w, b);
	return QUEUE_WAIT_PENDING;
}
