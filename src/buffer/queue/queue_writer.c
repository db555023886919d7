/* queue_writer.c - the writer threads' side of the queue. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "buffer/queue/queue_internal.h"
#include "base/clock.h"
#include "log/log.h"

static struct batch *
ready_from(struct batch *b, bool newest, uint64_t now_ms, uint64_t *next_ms)
{
	for (; b; b = newest ? b->prev : b->next) {
		if (b->state != BATCH_SEALED)
			continue;
		if (b->not_before_ms <= now_ms)
			return b;
		if (b->not_before_ms < *next_ms)
			*next_ms = b->not_before_ms;
	}
	return NULL;
}

/* The one that somebody has waited for longest. */
static struct batch *
ready_wanted(const struct queue *q, uint64_t now_ms)
{
	struct batch *b = q->wanted_head;

	while (b && (b->state != BATCH_SEALED || b->not_before_ms > now_ms))
		b = b->wanted_next;
	return b;
}

struct batch *
queue_ready(const struct queue *q, uint64_t now_ms, uint64_t *next_ms)
{
	bool newest = q->next_end == QUEUE_NEWEST;
	struct batch *b = q->next_end == QUEUE_WANTED ? ready_wanted(q, now_ms) : NULL;

	return b ? b : ready_from(newest ? q->tail : q->head, newest, now_ms, next_ms);
}

bool
queue_backlog(const struct queue *q)
{
	uint64_t next_ms = UINT64_MAX;

	return ready_from(q->head, false, clock_ms(), &next_ms) != NULL;
}

static enum queue_end
end_after(const struct queue *q)
{
	switch (q->next_end) {
	case QUEUE_OLDEST:
		return QUEUE_NEWEST;
	case QUEUE_NEWEST:
		return q->wanted_head ? QUEUE_WANTED : QUEUE_OLDEST;
	case QUEUE_WANTED:
		break;
	}
	return QUEUE_OLDEST;
}

void
queue_want(struct queue *q, struct batch *b)
{
	if (b->wanted)
		return;
	b->wanted = true;
	b->wanted_prev = q->wanted_tail;
	*(b->wanted_prev ? &b->wanted_prev->wanted_next : &q->wanted_head) = b;
	q->wanted_tail = b;
}

void
queue_unwant(struct queue *q, struct batch *b)
{
	if (!b->wanted)
		return;
	b->wanted = false;
	*(b->wanted_prev ? &b->wanted_prev->wanted_next : &q->wanted_head) = b->wanted_next;
	*(b->wanted_next ? &b->wanted_next->wanted_prev : &q->wanted_tail) = b->wanted_prev;
}

static struct timespec
timespec_from_ms(uint64_t ms)
{
	return (struct timespec){.tv_sec = (time_t)(ms / 1000),
				 .tv_nsec = (long)(ms % 1000) * 1000000};
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
	struct timespec ts = timespec_from_ms(ms);

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
		b->state = BATCH_IN_FLIGHT;
		q->next_end = end_after(q);
		if (b == q->flushed) {
			q->flushed = NULL;
			wake_for_flush(q);
		}
	}
	(void)pthread_mutex_unlock(&q->mutex);
	return b;
}

void
queue_sleep(struct queue *q, const atomic_int *stop, uint64_t ms)
{
	uint64_t deadline_ms = clock_ms() + ms;
	unsigned kicks;

	(void)pthread_mutex_lock(&q->mutex);
	kicks = q->kicks;
	while (!atomic_load(stop) && kicks == q->kicks && clock_ms() < deadline_ms)
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
 * Everything that came before is stored, but for what is in one batch.  Where the clock was set
 * back, this may lag behind until what was opened before that is stored.
 */
static uint64_t
complete_but_for(struct queue *q, const struct batch *one)
{
	const struct batch *b;
	uint64_t us;

	(void)pthread_mutex_lock(&q->mutex);
	us = clock_real_us();
	if (q->open_us < us)
		us = q->open_us;
	for (b = q->head; b && (b == one || b->settled);)
		b = b->next;
	if (b && b->earliest_us < us)
		us = b->earliest_us;
	for (b = q->requeued; b; b = b->done_next)
		if (b->opened_us < us)
			us = b->opened_us;
	(void)pthread_mutex_unlock(&q->mutex);
	return us;
}

uint64_t
queue_complete_until(struct queue *q)
{
	return complete_but_for(q, NULL);
}

int
queue_load(struct queue *q, struct batch *b, struct batch_view *ret)
{
	int r;

	*ret = (struct batch_view){.collector = b->collector,
				   .number = b->number,
				   .complete_until_us = complete_but_for(q, b)};
	if (b->data) {
		ret->rows = b->all.rows;
		ret->min_us = b->all.min_us;
		ret->max_us = b->all.max_us;
		ret->data = b->data;
		ret->bytes = b->bytes;
		b->lost = 0;
		return 0;
	}
	if (!b->loaded) {
		r = spool_read(q->spool, b->number, &b->loaded, &b->content);
		if (r == -ENODATA || r == -ENOENT) {
			b->lost = b->all.rows;
			return -ENODATA;
		}
		if (r < 0)
			return r;
	}
	ret->rows = b->content.rows;
	ret->min_us = b->content.min_us;
	ret->max_us = b->content.max_us;
	ret->data = b->loaded;
	ret->bytes = b->content.bytes;
	b->lost = b->all.rows > ret->rows ? b->all.rows - ret->rows : 0;
	return 0;
}

void
queue_remove_file(struct queue *q, const struct batch *b, bool keep)
{
	int r = spool_remove(q->spool, b->number, keep);

	if (r == 0 || r == -ENOENT)
		return;
	log_event_limited(LOG_WARNING, "spool_error/remove", "spool_error",
			  LOG_U64("batch", b->number), LOG_STR("error", strerror(-r)));
	(void)pthread_mutex_lock(&q->mutex);
	if (b->number < q->stuck_number)
		q->stuck_number = b->number;
	(void)pthread_mutex_unlock(&q->mutex);
}

void
queue_done(struct queue *q, struct batch *b)
{
	bool on_disk, keep;

	free(b->loaded);
	b->loaded = NULL;
	(void)pthread_mutex_lock(&q->mutex);
	on_disk = b->on_disk;
	keep = q->limits.keep_ms > 0 && b->lost < b->all.rows;
	(void)pthread_mutex_unlock(&q->mutex);
	if (on_disk)
		queue_remove_file(q, b, keep);
	(void)pthread_mutex_lock(&q->mutex);
	b->removed = on_disk;
	b->settled = true;
	b->done_next = q->done;
	q->done = b;
	(void)pthread_mutex_unlock(&q->mutex);
	q->events.wake(q->events.arg);
}

void
queue_return(struct queue *q, struct batch *b, uint64_t after_ms)
{
	/* What was read back with damage is kept: reading again would report it again. */
	if (b->lost == 0) {
		free(b->loaded);
		b->loaded = NULL;
	}
	(void)pthread_mutex_lock(&q->mutex);
	b->state = BATCH_SEALED;
	b->not_before_ms = after_ms ? clock_ms() + after_ms : 0;
	q->retries++;
	(void)pthread_cond_broadcast(&q->cond);
	(void)pthread_mutex_unlock(&q->mutex);
}

uint64_t
queue_floor(struct queue *q)
{
	const struct batch *b;
	uint64_t number;

	(void)pthread_mutex_lock(&q->mutex);
	number = q->open_number < q->stuck_number ? q->open_number : q->stuck_number;
	for (b = q->head; b; b = b->next) /* the head is the smallest, by number */
		if (b->number < number) {
			number = b->number;
			break;
		}
	for (b = q->requeued; b; b = b->done_next)
		if (b->number < number)
			number = b->number;
	(void)pthread_mutex_unlock(&q->mutex);
	return number;
}

/* ---- batches that buffer.keep keeps ---- */

struct kept_list {
	const char *collector;
	uint64_t *numbers;
	size_t n;
	size_t size;
	int error;
};

static void
kept_add(void *arg, const struct spool_header *h)
{
	struct kept_list *l = arg;

	if (strcmp(h->collector, l->collector) != 0 || l->error)
		return;
	if (l->n == l->size) {
		size_t size = l->size ? l->size * 2 : 64;
		uint64_t *numbers = reallocarray(l->numbers, size, sizeof(*numbers));

		if (!numbers) {
			l->error = -ENOMEM;
			return;
		}
		l->numbers = numbers;
		l->size = size;
	}
	l->numbers[l->n++] = h->number;
}

static int
number_compare(const void *a, const void *b)
{
	uint64_t x, y;

	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return x < y ? -1 : x > y;
}

int
queue_kept(struct queue *q, uint64_t **numbers, size_t *n)
{
	struct kept_list l = {.collector = q->collector};
	int r;

	*numbers = NULL;
	*n = 0;
	if (!q->spool)
		return 0;
	r = spool_kept(q->spool, kept_add, &l);
	if (r == 0)
		r = l.error;
	if (r < 0) {
		free(l.numbers);
		return r;
	}
	if (l.n)
		qsort(l.numbers, l.n, sizeof(*l.numbers), number_compare);
	*numbers = l.numbers;
	*n = l.n;
	return 0;
}

struct requeue {
	struct queue *q;
	const uint64_t *numbers; /* borrowed, sorted */
	size_t n;
	size_t done;
};

static void
requeue_one(void *arg, const struct spool_header *h)
{
	struct requeue *req = arg;
	struct queue *q = req->q;
	struct batch *b;

	if (strcmp(h->collector, q->collector) != 0 ||
	    !bsearch(&h->number, req->numbers, req->n, sizeof(*req->numbers), number_compare))
		return;
	b = batch_new_on_disk(h);
	if (!b || spool_unkeep(q->spool, h->number) < 0) {
		batch_free(b);
		return;
	}
	(void)pthread_mutex_lock(&q->mutex);
	b->done_next = q->requeued;
	q->requeued = b;
	(void)pthread_mutex_unlock(&q->mutex);
	req->done++;
}

size_t
queue_requeue(struct queue *q, const uint64_t *numbers, size_t n)
{
	struct requeue req = {.q = q, .numbers = numbers, .n = n};

	if (n)
		(void)spool_kept(q->spool, requeue_one, &req);
	if (req.done)
		q->events.wake(q->events.arg);
	return req.done;
}
