#include "store/pg/batch/divide.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "wire/bytes.h"
#include "wire/frame.h"

struct row {
	uint64_t time_us;
	size_t offset;
};

static int
compare(const void *a, const void *b)
{
	const struct row *x = a, *y = b;

	if (x->time_us != y->time_us)
		return x->time_us < y->time_us ? -1 : 1;
	return (x->offset > y->offset) - (x->offset < y->offset);
}

static void
copy_sorted(struct divide *d, struct row *rows)
{
	const struct batch_view *b = d->whole;
	uint64_t i = 0;
	size_t at;

	for (at = 0; at < b->bytes; at += frame_size_at(b->data + at))
		rows[i++] = (struct row){be64_load(b->data + at), at};
	qsort(rows, b->rows, sizeof(*rows), compare);
	for (i = 0, at = 0; i < b->rows; i++) {
		size_t size = frame_size_at(b->data + rows[i].offset);

		memcpy(d->frames + at, b->data + rows[i].offset, size);
		at += size;
	}
}

int
divide_init(struct divide *d, const struct batch_view *whole, uint64_t done)
{
	struct row *rows = calloc(whole->rows, sizeof(*rows));

	*d = (struct divide){.whole = whole, .frames = malloc(whole->bytes)};
	if (!rows || !d->frames) {
		free(rows);
		divide_done(d);
		return -ENOMEM;
	}
	copy_sorted(d, rows);
	free(rows);
	for (; d->done < done; d->done++)
		d->at += frame_size_at(d->frames + d->at);
	return 0;
}

void
divide_done(struct divide *d)
{
	free(d->frames);
	d->frames = NULL;
}

void
divide_part(const struct divide *d, uint64_t rows, struct batch_view *ret)
{
	uint64_t i, left = d->whole->rows - d->done;

	if (rows == 0)
		rows = 1;
	if (rows > left)
		rows = left;
	*ret = *d->whole;
	ret->data = d->frames + d->at;
	ret->rows = rows;
	ret->bytes = 0;
	ret->min_us = be64_load(ret->data);
	for (i = 0; i < rows; i++) {
		ret->max_us = be64_load(ret->data + ret->bytes);
		ret->bytes += frame_size_at(ret->data + ret->bytes);
	}
}

void
divide_advance(struct divide *d, const struct batch_view *part)
{
	d->at += part->bytes;
	d->done += part->rows;
}
