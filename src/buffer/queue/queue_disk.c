/* queue_disk.c - the open and the sealed batches' way into the spool. */
#include <errno.h>
#include <string.h>

#include "buffer/queue/queue_internal.h"
#include "log/log.h"
#include "wire/frame.h"

static void
disk_failed(struct queue *q, const struct batch *b, int error)
{
	q->disk_failing = true;
	q->disk_full = error == -ENOSPC || error == -EDQUOT;
	log_event_limited(LOG_ERR, "spool_error", "spool_error", LOG_U64("batch", b->number),
			  LOG_STR("error", strerror(-error)),
			  LOG_STR("hint", "the spool's file system refuses writes; metrics stay in "
					  "memory until it takes them or the database has them"));
}

/* As many whole frames from p on as fit into a block; *part tells what they hold. */
static size_t
block_cut(const uint8_t *p, size_t len, struct batch_part *part)
{
	size_t cut = 0;

	*part = BATCH_PART_NONE;
	while (cut < len && cut + FRAME_MAX <= BLOCK_BYTES) {
		uint64_t time_us;
		struct frame f;

		cut += frame_read(p + cut, &f);
		time_us = f.time_us;
		batch_part_add(part, &(struct batch_part){1, time_us, time_us});
	}
	return cut;
}

static int
write_block(struct batch *b, const uint8_t *p, size_t len, const struct batch_part *part)
{
	int r = spool_append(b->file, p, (uint32_t)len, (uint32_t)part->rows, part->min_us,
			     part->max_us);

	if (r < 0)
		return r;
	b->written += len;
	b->unwritten.rows -= part->rows;
	if (b->unwritten.rows == 0)
		b->unwritten = BATCH_PART_NONE;
	return 0;
}

int
queue_write_batch(struct queue *q, struct batch *b)
{
	int r = 0;

	if (!b->file)
		r = spool_create(q->spool, b->number, b->opened_us, &b->file);
	while (r == 0 && b->written < b->bytes) {
		const uint8_t *p = b->data + b->written;
		struct batch_part part = b->unwritten;
		size_t len = b->bytes - b->written;

		if (len > BLOCK_BYTES)
			len = block_cut(p, len, &part);
		r = write_block(b, p, len, &part);
	}
	if (r < 0)
		disk_failed(q, b, r);
	return r;
}

void
queue_write_open(struct queue *q)
{
	if (!q->disk_failing && queue_write_batch(q, q->open) == 0)
		queue_written(q);
}

int
queue_finish_batch(struct queue *q, struct batch *b)
{
	int r = queue_write_batch(q, b);

	if (r < 0)
		return r;
	r = spool_seal(b->file);
	if (r < 0) {
		disk_failed(q, b, r);
		return r;
	}
	b->file = NULL;
	(void)pthread_mutex_lock(&q->mutex);
	b->on_disk = true;
	(void)pthread_mutex_unlock(&q->mutex);
	return 0;
}

void
queue_finish_all(struct queue *q)
{
	struct batch *b;

	for (b = q->head; b && q->unfinished; b = b->next) {
		if (b->on_disk)
			continue;
		if (queue_finish_batch(q, b) < 0)
			return;
		q->unfinished--;
	}
	q->disk_failing = q->disk_full = false;
}

/* ---- syncing ---- */

/* Everything before it stands in blocks of the spool. */
static uint64_t
written_position(const struct queue *q)
{
	const struct batch *b;

	for (b = q->unfinished ? q->head : NULL; b; b = b->next)
		if (!b->on_disk)
			return b->start + b->written;
	return q->open ? q->open->start + q->open->written : q->position;
}

void
queue_sync_start(struct queue *q)
{
	uint64_t position = written_position(q);

	if (q->syncing || position <= q->synced) {
		q->sync_wanted = q->syncing;
		return;
	}
	q->sync_wanted = false;
	q->syncing = true;
	q->sync_position = position;
	q->sync_ticket = spool_sync(q->spool);
}

void
queue_sync_collect(struct queue *q)
{
	/* The spool logs what fails; answers simply wait. */
	if (!q->syncing || spool_synced(q->spool, NULL) < q->sync_ticket)
		return;
	q->syncing = false;
	if (q->sync_position > q->synced)
		q->synced = q->sync_position;
	if (q->sync_wanted)
		queue_sync_start(q);
}

void
queue_written(struct queue *q)
{
	switch (q->limits.sync) {
	case CONF_SYNC_ALWAYS:
		queue_sync_start(q);
		break;
	case CONF_SYNC_INTERVAL:
		break;
	case CONF_SYNC_NEVER:
		q->synced = written_position(q);
		break;
	}
}

bool
queue_safe(struct queue *q)
{
	if (!q->spool)
		return false;
	queue_finish_all(q);
	if (q->unfinished && q->disk_full && spool_reserve_use(q->spool)) {
		q->closed = true; /* the reserve is for what has been taken */
		queue_finish_all(q);
	}
	if (written_position(q) < q->position || q->unfinished)
		return false;
	if (q->limits.sync == CONF_SYNC_NEVER || q->synced >= q->position)
		return true;
	queue_sync_start(q);
	return false;
}

uint64_t
queue_unsafe_rows(struct queue *q)
{
	uint64_t rows = q->open ? q->open->unwritten.rows : 0;
	const struct batch *b;

	for (b = q->head; b; b = b->next)
		if (!b->on_disk)
			rows += b->unwritten.rows;
	return rows;
}
