#include "log/log_ring.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#define ALIGN 8 /* so that a head fits wherever a byte is free */

/* Of a line; then the lengths of its parts, then their bytes, a newline behind the first. */
struct head {
	uint32_t size; /* all of it, 0: skip to the end of the ring */
	uint32_t n;    /* parts */
};

static size_t
line_size(const struct log_line *l)
{
	size_t size = sizeof(struct head) + l->n * sizeof(uint32_t) + 1;

	for (size_t i = 0; i < l->n; i++)
		size += l->parts[i].iov_len;
	return (size + ALIGN - 1) / ALIGN * ALIGN;
}

static char *
put(char *to, const void *data, size_t len)
{
	memcpy(to, data, len);
	return to + len;
}

static void
write_line(char *to, size_t size, const struct log_line *l)
{
	const struct head h = {.size = (uint32_t)size, .n = (uint32_t)l->n};

	to = put(to, &h, sizeof(h));
	for (size_t i = 0; i < l->n; i++) {
		uint32_t len = (uint32_t)l->parts[i].iov_len;

		to = put(to, &len, sizeof(len));
	}
	for (size_t i = 0; i < l->n; i++) {
		to = put(to, l->parts[i].iov_base, l->parts[i].iov_len);
		if (i == 0)
			*to++ = '\n';
	}
}

bool
log_ring_put(struct log_ring *r, const struct log_line *l)
{
	size_t size = line_size(l), end = sizeof(r->bytes) - r->head;
	size_t skip = size > end ? end : 0;

	if (r->used + skip + size > sizeof(r->bytes))
		return false;
	if (skip) {
		memset(r->bytes + r->head, 0, sizeof(struct head));
		r->head = 0;
	}
	write_line(r->bytes + r->head, size, l);
	r->head = (r->head + size) % sizeof(r->bytes);
	r->used += skip + size;
	return true;
}

/* The head of the oldest line, behind what is skipped.  There is one. */
static struct head
oldest(struct log_ring *r)
{
	struct head h;

	memcpy(&h, r->bytes + r->tail, sizeof(h));
	if (h.size == 0) {
		r->used -= sizeof(r->bytes) - r->tail;
		r->tail = 0;
		memcpy(&h, r->bytes, sizeof(h));
	}
	return h;
}

bool
log_ring_look(struct log_ring *r, struct log_line *ret)
{
	struct head h;
	char *lengths, *bytes;

	if (r->used == 0)
		return false;
	h = oldest(r);
	lengths = r->bytes + r->tail + sizeof(h);
	bytes = lengths + h.n * sizeof(uint32_t);
	ret->n = h.n;
	for (size_t i = 0; i < h.n; i++) {
		uint32_t len;

		memcpy(&len, lengths + i * sizeof(len), sizeof(len));
		ret->parts[i] = (struct iovec){.iov_base = bytes, .iov_len = len};
		bytes += len + (i == 0 ? 1 : 0);
	}
	return true;
}

void
log_ring_drop(struct log_ring *r)
{
	struct head h;

	assert(r->used > 0);
	h = oldest(r);
	r->tail = (r->tail + h.size) % sizeof(r->bytes);
	r->used -= h.size;
	if (r->used == 0)
		r->head = r->tail = 0; /* few lines, few pages of memory */
}
