/* queue_kept.c - stored batches that buffer.keep keeps, and that a server may turn out to lack. */
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "buffer/queue/queue_internal.h"

int
queue_kept(struct queue *q, uint64_t **numbers, size_t *n)
{
	*numbers = NULL;
	*n = 0;
	return q->spool ? spool_kept(q->spool, numbers, n) : 0;
}

void
queue_mark(struct queue *q, struct queue_mark *m)
{
	*m = (struct queue_mark){0};
	(void)pthread_mutex_lock(&q->mutex);
	m->done = q->done_last;
	(void)pthread_mutex_unlock(&q->mutex);
}

/* First the loop has to hand them to the disk thread, then that has to do its errands. */
bool
queue_passed(struct queue *q, struct queue_mark *m)
{
	if (!q->disk)
		return true;
	if (!m->collected) {
		(void)pthread_mutex_lock(&q->mutex);
		m->collected = q->done_collected >= m->done;
		(void)pthread_mutex_unlock(&q->mutex);
		if (!m->collected)
			return false;
		m->keeps = disk_keeps_asked(q->disk);
	}
	return disk_keeps_done(q->disk) >= m->keeps;
}

/* Until they are back in the list, nobody may promise that what they hold is stored. */
static void
begin_unkeeping(struct queue *q, const struct spool_header *headers, size_t n)
{
	(void)pthread_mutex_lock(&q->mutex);
	q->unkeeping += n;
	for (size_t i = 0; i < n; i++)
		if (headers[i].created_us < q->unkeeping_us)
			q->unkeeping_us = headers[i].created_us;
	(void)pthread_mutex_unlock(&q->mutex);
}

static void
undo_unkeeping(struct queue *q, size_t n)
{
	(void)pthread_mutex_lock(&q->mutex);
	q->unkeeping -= n;
	if (q->unkeeping == 0)
		q->unkeeping_us = UINT64_MAX;
	(void)pthread_mutex_unlock(&q->mutex);
}

size_t
queue_requeue(struct queue *q, const uint64_t *numbers, size_t n)
{
	struct spool_header *headers;

	if (!q->spool)
		return 0;
	headers = spool_kept_take(q->spool, numbers, n, &n);
	if (!headers)
		return 0;
	begin_unkeeping(q, headers, n);
	if (disk_unkeep(q->disk, headers, n) == 0)
		return n;
	undo_unkeeping(q, n); /* memory is short: the next start finds their files */
	return 0;
}

void
queue_set_clock(struct queue *q, uint64_t now_us)
{
	atomic_store(&q->clock_start_us, now_us - clock_ns() / 1000);
}

uint64_t
queue_clock_us(const struct queue *q)
{
	uint64_t start_us = atomic_load(&q->clock_start_us);

	return start_us ? start_us + clock_ns() / 1000 : 0;
}

void
queue_database(struct queue *q, char text[SPOOL_DATABASE_MAX])
{
	text[0] = '\0';
	if (q->disk)
		disk_database(q->disk, text);
}

void
queue_database_look(struct queue *q, char text[SPOOL_DATABASE_MAX])
{
	int r = q->spool ? spool_database_get(q->spool, text) : -ENOENT;

	if (r == -ENOENT)
		text[0] = '\0';
	else if (r < 0)
		queue_database(q, text);
}

void
queue_database_put(struct queue *q, const char *text)
{
	if (q->disk)
		disk_put_database(q->disk, text);
}

void
queue_compared(struct queue *q)
{
	if (q->disk)
		disk_may_prune(q->disk);
}
