#include "buffer/batch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buffer/slab.h"

#define BATCH_FIRST_ROOM ((size_t)4 * 1024)

static struct batch *
batch_alloc(const char *collector, uint64_t number)
{
	struct batch *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	(void)snprintf(b->collector, sizeof(b->collector), "%s", collector);
	b->number = number;
	b->all = BATCH_PART_NONE;
	b->unposted = BATCH_PART_NONE;
	TAILQ_INIT(&b->waits);
	return b;
}

struct batch *
batch_new(const char *collector, uint64_t number, size_t room)
{
	struct batch *b = batch_alloc(collector, number);

	if (!b)
		return NULL;
	b->slab = slab_new(room > BATCH_FIRST_ROOM ? room : BATCH_FIRST_ROOM);
	if (!b->slab) {
		free(b);
		return NULL;
	}
	return b;
}

struct batch *
batch_new_on_disk(const struct spool_header *h)
{
	struct batch *b = batch_alloc(h->collector, h->number);

	if (!b)
		return NULL;
	b->state = BATCH_SEALED;
	b->all = (struct batch_part){h->summary.rows, h->summary.min_us, h->summary.max_us};
	b->file_size = h->summary.file_size;
	b->on_disk = true;
	b->opened_us = h->created_us;
	return b;
}

void
batch_free(struct batch *b)
{
	if (!b)
		return;
	slab_unref(b->slab);
	free(b->loaded);
	free(b);
}

void
batch_part_add(struct batch_part *a, const struct batch_part *b)
{
	a->rows += b->rows;
	if (b->min_us < a->min_us)
		a->min_us = b->min_us;
	if (b->max_us > a->max_us)
		a->max_us = b->max_us;
}

/* Doubling: large blocks are moved by remapping, and pages not written to cost nothing. */
static int
batch_reserve(struct batch *b, size_t need)
{
	size_t size = b->slab->size;

	while (size < need) {
		if (size > SIZE_MAX / 2)
			return -ENOMEM;
		size *= 2;
	}
	return size > b->slab->size ? slab_resize(&b->slab, b->bytes, size) : 0;
}

int
batch_append(struct batch *b, const uint8_t *frames, size_t len, const struct batch_part *part)
{
	int r = batch_reserve(b, b->bytes + len);

	if (r < 0)
		return r;
	memcpy(b->slab->data + b->bytes, frames, len);
	b->bytes += len;
	batch_part_add(&b->all, part);
	batch_part_add(&b->unposted, part);
	return 0;
}

void
batch_trim(struct batch *b)
{
	/* a copy would cost more than it brings; where memory is short the larger one serves as
	 * well */
	if (b->slab->size > b->bytes + b->bytes / 8 && !slab_is_shared(b->slab))
		(void)slab_resize(&b->slab, b->bytes, b->bytes);
}
