#include "buffer/batch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buffer/spool/spool.h"

#define BATCH_FIRST_CAPACITY ((size_t)64 * 1024)

struct batch *
batch_new(const char *collector, uint64_t number)
{
	struct batch *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	(void)snprintf(b->collector, sizeof(b->collector), "%s", collector);
	b->number = number;
	b->all = BATCH_PART_NONE;
	b->unwritten = BATCH_PART_NONE;
	return b;
}

struct batch *
batch_new_on_disk(const struct spool_header *h)
{
	struct batch *b = batch_new(h->collector, h->number);

	if (!b)
		return NULL;
	b->state = BATCH_SEALED;
	b->all = (struct batch_part){h->summary.rows, h->summary.min_us, h->summary.max_us};
	b->on_disk = true;
	b->opened_us = h->created_us;
	return b;
}

void
batch_free(struct batch *b)
{
	if (!b)
		return;
	spool_file_free(b->file);
	free(b->data);
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
	size_t capacity = b->capacity ? b->capacity : BATCH_FIRST_CAPACITY;
	uint8_t *data;

	if (need <= b->capacity)
		return 0;
	while (capacity < need)
		capacity *= 2;
	data = realloc(b->data, capacity);
	if (!data)
		return -ENOMEM;
	b->data = data;
	b->capacity = capacity;
	return 0;
}

int
batch_append(struct batch *b, const uint8_t *frames, size_t len, const struct batch_part *part)
{
	int r = batch_reserve(b, b->bytes + len);

	if (r < 0)
		return r;
	memcpy(b->data + b->bytes, frames, len);
	b->bytes += len;
	batch_part_add(&b->all, part);
	batch_part_add(&b->unwritten, part);
	return 0;
}

void
batch_trim(struct batch *b)
{
	uint8_t *data;

	if (!b->data || b->bytes == b->capacity)
		return;
	data = realloc(b->data, b->bytes);
	if (!data)
		return; /* the larger block serves as well */
	b->data = data;
	b->capacity = b->bytes;
}
