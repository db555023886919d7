/*
 * queue_list.c - batches in the orders in which they are asked for.
 *
 *	all        by number       what comes next, what is the first from a number on
 *	ready      by number       which one does a writer get
 *	to_read    by number       which one is read back next
 *	delayed    by time         which of the returned ones may be tried again
 *	unsettled  by age          up to when is everything stored
 *
 * Trees (base/tree.h), since a backlog may be a hundred thousand batches, in any of these orders
 * one may come and go in the middle, and both loop and writers wait while the mutex is held.
 */
#include "base/clock.h"
#include "buffer/queue/queue_internal.h"

#define DELAYS_AT_ONCE 64

#define BY_NUMBER(node) TREE_ENTRY(node, struct batch, by_number)
#define BY_OPENED(node) TREE_ENTRY(node, struct batch, by_opened)
#define BY_DUE(node) TREE_ENTRY(node, struct batch, by_due)

static int
compare(uint64_t a, uint64_t b)
{
	return a < b ? -1 : a > b;
}

static int
by_number(const struct tree_node *a, const struct tree_node *b)
{
	return compare(BY_NUMBER(a)->number, BY_NUMBER(b)->number);
}

static int
by_opened(const struct tree_node *a, const struct tree_node *b)
{
	int r = compare(BY_OPENED(a)->opened_us, BY_OPENED(b)->opened_us);

	return r ? r : compare(BY_OPENED(a)->number, BY_OPENED(b)->number);
}

static int
due_by_number(const struct tree_node *a, const struct tree_node *b)
{
	return compare(BY_DUE(a)->number, BY_DUE(b)->number);
}

static int
delayed_by_time(const struct tree_node *a, const struct tree_node *b)
{
	int r = compare(BY_DUE(a)->not_before_ms, BY_DUE(b)->not_before_ms);

	return r ? r : due_by_number(a, b);
}

static void
init_due(struct queue_due *due)
{
	tree_init(&due->batches, due_by_number);
	TAILQ_INIT(&due->wanted);
}

void
queue_init_lists(struct queue *q)
{
	tree_init(&q->all, by_number);
	tree_init(&q->unsettled, by_opened);
	init_due(&q->ready);
	init_due(&q->to_read);
	tree_init(&q->delayed, delayed_by_time);
}

/* ---- all ---- */

void
queue_link(struct queue *q, struct batch *b)
{
	tree_insert(&q->all, &b->by_number);
	tree_insert(&q->unsettled, &b->by_opened);
	queue_attach(q, b, 0);
	q->stats->batches_waiting++;
}

void
queue_unlink(struct queue *q, struct batch *b)
{
	if (b->state == BATCH_SEALED)
		queue_detach(q, b);
	queue_settle(q, b);
	tree_remove(&q->all, &b->by_number);
	q->stats->batches_waiting--;
}

struct batch *
queue_oldest(struct queue *q)
{
	return BY_NUMBER(tree_first(&q->all));
}

struct batch *
queue_after(struct batch *b)
{
	return BY_NUMBER(tree_next(&b->by_number));
}

struct batch *
queue_from(struct queue *q, uint64_t number)
{
	const struct batch key = {.number = number};

	return BY_NUMBER(tree_from(&q->all, &key.by_number));
}

/* ---- what a writer, or the reader, may have ---- */

static void
want(struct batch *b)
{
	TAILQ_INSERT_TAIL(&b->due->wanted, b, in_wanted);
}

static void
make_due(struct queue *q, struct batch *b)
{
	bool readable = b->slab || b->loaded;

	b->not_before_ms = 0;
	b->due = readable ? &q->ready : &q->to_read;
	tree_insert(&b->due->batches, &b->by_due);
	if (b->wanted)
		want(b);
	q->read_ahead += b->loaded != NULL;
	if (!readable)
		(void)pthread_cond_signal(&q->read_cond);
}

void
queue_attach(struct queue *q, struct batch *b, uint64_t not_before_ms)
{
	b->state = BATCH_SEALED;
	if (!not_before_ms) {
		make_due(q, b);
		return;
	}
	b->not_before_ms = not_before_ms;
	tree_insert(&q->delayed, &b->by_due);
}

void
queue_detach(struct queue *q, struct batch *b)
{
	b->state = BATCH_IN_FLIGHT;
	if (b->not_before_ms) {
		tree_remove(&q->delayed, &b->by_due);
		b->not_before_ms = 0;
		return;
	}
	tree_remove(&b->due->batches, &b->by_due);
	if (b->wanted)
		TAILQ_REMOVE(&b->due->wanted, b, in_wanted);
	b->due = NULL;
	if (b->loaded) {
		q->read_ahead--;
		(void)pthread_cond_signal(&q->read_cond);
	}
}

void
queue_want(struct batch *b)
{
	if (b->wanted)
		return;
	b->wanted = true;
	if (b->due)
		want(b);
}

/* Those whose time has come become due; after an outage that may be many, so not all at once. */
static void
end_delays(struct queue *q, uint64_t now_ms, uint64_t *next_ms)
{
	struct batch *b = BY_DUE(tree_first(&q->delayed));

	for (unsigned n = 0; n < DELAYS_AT_ONCE && b && b->not_before_ms <= now_ms; n++) {
		tree_remove(&q->delayed, &b->by_due);
		make_due(q, b);
		b = BY_DUE(tree_first(&q->delayed));
	}
	if (b && b->not_before_ms < *next_ms)
		*next_ms = b->not_before_ms;
}

struct batch *
queue_due_first(struct queue_due *due)
{
	return BY_DUE(tree_first(&due->batches));
}

struct batch *
queue_ready(struct queue *q, uint64_t now_ms, uint64_t *next_ms)
{
	end_delays(q, now_ms, next_ms);
	if (q->next_end == QUEUE_WANTED && !TAILQ_EMPTY(&q->ready.wanted))
		return TAILQ_FIRST(&q->ready.wanted);
	if (q->next_end == QUEUE_NEWEST)
		return BY_DUE(tree_last(&q->ready.batches));
	return queue_due_first(&q->ready);
}

bool
queue_backlog(struct queue *q)
{
	uint64_t next_ms = UINT64_MAX;

	end_delays(q, clock_ms(), &next_ms);
	return q->ready.batches.root || q->to_read.batches.root;
}

/* ---- up to when everything is stored ---- */

void
queue_settle(struct queue *q, struct batch *b)
{
	if (b->settled)
		return;
	b->settled = true;
	tree_remove(&q->unsettled, &b->by_opened);
}

bool
queue_any_after(struct queue *q, uint64_t us, const struct batch *but)
{
	const struct batch key = {.number = UINT64_MAX, .opened_us = us};
	struct batch *b = BY_OPENED(tree_from(&q->unsettled, &key.by_opened));

	if (b && b == but)
		b = BY_OPENED(tree_next(&b->by_opened));
	return b != NULL;
}

uint64_t
queue_oldest_us(struct queue *q, const struct batch *but)
{
	struct batch *b = BY_OPENED(tree_first(&q->unsettled));

	if (b && b == but)
		b = BY_OPENED(tree_next(&b->by_opened));
	return b ? b->opened_us : UINT64_MAX;
}
