/*
 * queue_list.c - batches in the orders in which they are asked for.
 *
 *	all        by number       what comes next, what is the first from a number on
 *	ready      by number       which one does a writer get
 *	delayed    by time         which of the returned ones may be tried again
 *	unsettled  by age          up to when is everything stored
 *
 * Trees (bsd/sys/tree.h), since a backlog may be a hundred thousand batches, in any of these orders
 * one may come and go in the middle, and both loop and writers wait while the mutex is held.
 */
#include "base/clock.h"
#include "buffer/queue/queue_internal.h"

#define DELAYS_AT_ONCE 64

static int
compare(uint64_t a, uint64_t b)
{
	return a < b ? -1 : a > b;
}

static int
by_number(const struct batch *a, const struct batch *b)
{
	return compare(a->number, b->number);
}

static int
by_opened(const struct batch *a, const struct batch *b)
{
	int r = compare(a->opened_us, b->opened_us);

	return r ? r : by_number(a, b);
}

static int
by_not_before(const struct batch *a, const struct batch *b)
{
	int r = compare(a->not_before_ms, b->not_before_ms);

	return r ? r : by_number(a, b);
}

RB_PROTOTYPE(batches_by_number, batch, by_number, by_number);
RB_PROTOTYPE(batches_by_opened, batch, by_opened, by_opened);
RB_PROTOTYPE(batches_ready, batch, by_due, by_number);
RB_PROTOTYPE(batches_delayed, batch, by_due, by_not_before);
RB_GENERATE(batches_by_number, batch, by_number, by_number);
RB_GENERATE(batches_by_opened, batch, by_opened, by_opened);
RB_GENERATE(batches_ready, batch, by_due, by_number);
RB_GENERATE(batches_delayed, batch, by_due, by_not_before);

/* ---- all ---- */

void
queue_link(struct queue *q, struct batch *b)
{
	(void)RB_INSERT(batches_by_number, &q->all, b);
	(void)RB_INSERT(batches_by_opened, &q->unsettled, b);
	queue_attach(q, b, 0);
	q->stats->batches_waiting++;
}

void
queue_unlink(struct queue *q, struct batch *b)
{
	if (b->state == BATCH_SEALED)
		queue_detach(q, b);
	queue_settle(q, b);
	(void)RB_REMOVE(batches_by_number, &q->all, b);
	q->stats->batches_waiting--;
}

struct batch *
queue_oldest(struct queue *q)
{
	return RB_MIN(batches_by_number, &q->all);
}

struct batch *
queue_after(struct batch *b)
{
	return RB_NEXT(batches_by_number, , b);
}

struct batch *
queue_from(struct queue *q, uint64_t number)
{
	struct batch key = {.number = number};

	return RB_NFIND(batches_by_number, &q->all, &key);
}

/* ---- what a writer may have ---- */

static void
make_ready(struct queue *q, struct batch *b)
{
	b->not_before_ms = 0;
	(void)RB_INSERT(batches_ready, &q->ready, b);
	if (b->wanted)
		TAILQ_INSERT_TAIL(&q->wanted, b, in_wanted);
}

void
queue_attach(struct queue *q, struct batch *b, uint64_t not_before_ms)
{
	b->state = BATCH_SEALED;
	if (!not_before_ms) {
		make_ready(q, b);
		return;
	}
	b->not_before_ms = not_before_ms;
	(void)RB_INSERT(batches_delayed, &q->delayed, b);
}

void
queue_detach(struct queue *q, struct batch *b)
{
	b->state = BATCH_IN_FLIGHT;
	if (b->not_before_ms) {
		(void)RB_REMOVE(batches_delayed, &q->delayed, b);
		b->not_before_ms = 0;
		return;
	}
	(void)RB_REMOVE(batches_ready, &q->ready, b);
	if (b->wanted)
		TAILQ_REMOVE(&q->wanted, b, in_wanted);
}

void
queue_want(struct queue *q, struct batch *b)
{
	if (b->wanted)
		return;
	b->wanted = true;
	if (b->state == BATCH_SEALED && !b->not_before_ms)
		TAILQ_INSERT_TAIL(&q->wanted, b, in_wanted);
}

/* Those whose time has come become ready; after an outage that may be many, so not all at once. */
static void
end_delays(struct queue *q, uint64_t now_ms, uint64_t *next_ms)
{
	struct batch *b = RB_MIN(batches_delayed, &q->delayed);

	for (unsigned n = 0; n < DELAYS_AT_ONCE && b && b->not_before_ms <= now_ms; n++) {
		(void)RB_REMOVE(batches_delayed, &q->delayed, b);
		make_ready(q, b);
		b = RB_MIN(batches_delayed, &q->delayed);
	}
	if (b && b->not_before_ms < *next_ms)
		*next_ms = b->not_before_ms;
}

struct batch *
queue_ready(struct queue *q, uint64_t now_ms, uint64_t *next_ms)
{
	end_delays(q, now_ms, next_ms);
	if (q->next_end == QUEUE_WANTED && !TAILQ_EMPTY(&q->wanted))
		return TAILQ_FIRST(&q->wanted);
	if (q->next_end == QUEUE_NEWEST)
		return RB_MAX(batches_ready, &q->ready);
	return RB_MIN(batches_ready, &q->ready);
}

bool
queue_backlog(struct queue *q)
{
	uint64_t next_ms = UINT64_MAX;

	end_delays(q, clock_ms(), &next_ms);
	return !RB_EMPTY(&q->ready);
}

/* ---- up to when everything is stored ---- */

void
queue_settle(struct queue *q, struct batch *b)
{
	if (b->settled)
		return;
	b->settled = true;
	(void)RB_REMOVE(batches_by_opened, &q->unsettled, b);
}

uint64_t
queue_oldest_us(struct queue *q, const struct batch *but)
{
	struct batch *b = RB_MIN(batches_by_opened, &q->unsettled);

	if (b && b == but)
		b = RB_NEXT(batches_by_opened, &q->unsettled, b);
	return b ? b->opened_us : UINT64_MAX;
}
