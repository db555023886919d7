#include "net/rest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void
rest_clear(struct rest *r, size_t *heap)
{
	if (r->heap)
		*heap -= r->len;
	free(r->heap);
	r->heap = NULL;
	r->len = 0;
	r->whole = false;
}

int
rest_set(struct rest *r, const uint8_t *p, size_t len, bool whole, size_t *heap)
{
	rest_clear(r, heap);
	if (!len)
		return 0;
	if (len > REST_SMALL) {
		if (len > REST_HEAP_MAX - *heap)
			return -ENOBUFS;
		r->heap = malloc(len);
		if (!r->heap)
			return -ENOMEM;
		*heap += len;
	}
	memcpy(r->heap ? r->heap : r->small, p, len);
	r->len = len;
	r->whole = whole;
	return 0;
}

const uint8_t *
rest_bytes(const struct rest *r)
{
	return r->heap ? r->heap : r->small;
}
