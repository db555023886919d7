/* queue_writer.c - the writer threads' side of the queue. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "buffer/queue/queue_internal.h"
#include "base/clock.h"

static enum queue_end
end_after(const struct queue *q)
{
	switch (q->next_end) {
	case QUEUE_OLDEST:
		return QUEUE_NEWEST;
	case QUEUE_NEWEST:
		return TAILQ_EMPTY(&q->ready.wanted) ? QUEUE_OLDEST : QUEUE_WANTED;
	case QUEUE_WANTED:
		break;
	}
	return QUEUE_OLDEST;
}

/* The loop may have something to seal; the mutex is held. */
static void
wake_for_flush(struct queue *q)
{
	if (!q->flush_wanted)
		return;
	q->flush_wanted = false;
	q->events.wake(q->events.arg);
}

static void
wait_until(struct queue *q, uint64_t ms)
{
	const struct timespec ts = clock_timespec(ms);

	(void)pthread_cond_timedwait(&q->cond, &q->mutex, &ts);
}

struct batch *
queue_take(struct queue *q, const atomic_int *stop, uint64_t timeout_ms)
{
	uint64_t now_ms = clock_ms();
	uint64_t deadline_ms = now_ms + timeout_ms;
	struct batch *b = NULL;
	unsigned kicks;

	(void)pthread_mutex_lock(&q->mutex);
	kicks = q->kicks;
	while (!atomic_load(stop) && kicks == q->kicks) {
		uint64_t until_ms = deadline_ms;

		b = queue_ready(q, now_ms, &until_ms);
		if (b || now_ms >= deadline_ms)
			break;
		q->idle++;
		wake_for_flush(q);
		wait_until(q, until_ms);
		q->idle--;
		now_ms = clock_ms();
	}
	if (b) {
		queue_detach(q, b);
		q->next_end = end_after(q);
		if (b == q->flushed) {
			q->flushed = NULL;
			wake_for_flush(q);
		}
	}
	(void)pthread_mutex_unlock(&q->mutex);
	return b;
}

unsigned
queue_kicks(struct queue *q)
{
	unsigned kicks;

	(void)pthread_mutex_lock(&q->mutex);
	kicks = q->kicks;
	(void)pthread_mutex_unlock(&q->mutex);
	return kicks;
}

void
queue_sleep(struct queue *q, const atomic_int *stop, unsigned since, uint64_t ms)
{
	uint64_t deadline_ms = clock_ms() + ms;

	(void)pthread_mutex_lock(&q->mutex);
	while (!atomic_load(stop) && since == q->kicks && clock_ms() < deadline_ms)
		wait_until(q, deadline_ms);
	(void)pthread_mutex_unlock(&q->mutex);
}

void
queue_kick(struct queue *q)
{
	(void)pthread_mutex_lock(&q->mutex);
	q->kicks++;
	(void)pthread_cond_broadcast(&q->cond);
	(void)pthread_mutex_unlock(&q->mutex);
}

/*
 * Everything that came before is stored, but for what is in one batch.  0, no promise, where the
 * clock was set back and something that was opened before that is not stored: what came before now
 * has later times.
 */
static uint64_t
complete_but_for(struct queue *q, const struct batch *one)
{
	uint64_t us, oldest_us;
	bool set_back;

	(void)pthread_mutex_lock(&q->mutex);
	us = clock_real_us();
	set_back = queue_any_after(q, us, one) || (q->open_us != UINT64_MAX && q->open_us > us);
	oldest_us = queue_oldest_us(q, one);
	if (oldest_us < us)
		us = oldest_us;
	if (q->open_us < us)
		us = q->open_us;
	if (q->unkeeping_us < us)
		us = q->unkeeping_us;
	if (set_back)
		us = 0;
	(void)pthread_mutex_unlock(&q->mutex);
	return us;
}

uint64_t
queue_complete_until(struct queue *q)
{
	return complete_but_for(q, NULL);
}

void
queue_view(struct queue *q, struct batch *b, struct batch_view *ret)
{
	*ret = (struct batch_view){.collector = b->collector,
				   .number = b->number,
				   .opened_us = b->opened_us,
				   .complete_until_us = complete_but_for(q, b)};
	if (b->slab) {
		ret->rows = b->all.rows;
		ret->min_us = b->all.min_us;
		ret->max_us = b->all.max_us;
		ret->data = b->slab->data;
		ret->bytes = b->bytes;
	} else {
		ret->rows = b->content.rows;
		ret->min_us = b->content.min_us;
		ret->max_us = b->content.max_us;
		ret->data = b->loaded;
		ret->bytes = b->content.bytes;
	}
	b->lost = b->all.rows > ret->rows ? b->all.rows - ret->rows : 0;
}

void
queue_done(struct queue *q, struct batch *b)
{
	free(b->loaded);
	b->loaded = NULL;
	(void)pthread_mutex_lock(&q->mutex);
	queue_settle(q, b);
	b->done = ++q->done_last;
	STAILQ_INSERT_TAIL(&q->done, b, in_done);
	(void)pthread_mutex_unlock(&q->mutex);
	q->events.wake(q->events.arg);
}

void
queue_return(struct queue *q, struct batch *b, uint64_t after_ms)
{
	if (after_ms) {
		free(b->loaded);
		b->loaded = NULL;
	}
	(void)pthread_mutex_lock(&q->mutex);
	queue_attach(q, b, after_ms ? clock_ms() + after_ms : 0);
	q->retries++;
	(void)pthread_cond_broadcast(&q->cond);
	(void)pthread_mutex_unlock(&q->mutex);
}

uint64_t
queue_floor(struct queue *q)
{
	const struct batch *b;
	uint64_t number, removing;

	(void)pthread_mutex_lock(&q->mutex);
	b = queue_oldest(q);
	number = b && b->number < q->open_number ? b->number : q->open_number;
	(void)pthread_mutex_unlock(&q->mutex);
	/* after it: a batch that leaves the list is with the disk thread already */
	removing = q->disk ? disk_floor(q->disk) : UINT64_MAX;
	return removing < number ? removing : number;
}
