/* queue_kept.c - stored batches that buffer.keep keeps, and that a server may turn out to lack. */
#include <stdlib.h>

#include "buffer/queue/queue_internal.h"

int
queue_kept(struct queue *q, uint64_t **numbers, size_t *n)
{
	*numbers = NULL;
	*n = 0;
	return q->spool ? spool_kept(q->spool, numbers, n) : 0;
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
