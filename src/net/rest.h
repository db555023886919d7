/*
 * rest.h - the bytes of a client that were read and could not be dealt with yet.
 *
 * Nearly always an unfinished frame, REST_SMALL bytes at the most, which has its place in the
 * struct.  A client that may ask no more for now is not parsed any further, so that its rest can be
 * all that was read at once, whole frames too.  That is on the heap, and the sum of it over
 * all clients is limited.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire/frame.h"

#define REST_SMALL ((size_t)FRAME_MAX - 1)
#define REST_HEAP_MAX ((size_t)64 << 20) /* of all clients */

/* All zero is an empty one. */
struct rest {
	uint8_t *heap; /* NULL while the small place is enough */
	size_t len;
	bool whole; /* whole frames may be among it */
	uint8_t small[REST_SMALL];
};

/*
 * Copies len bytes in place of those that it had; an unfinished frame is not whole.  *heap counts
 * the bytes on the heap of all clients.  Returns 0, -ENOMEM or, above the limit, -ENOBUFS; it is
 * empty then.
 */
int rest_set(struct rest *r, const uint8_t *p, size_t len, bool whole, size_t *heap);
void rest_clear(struct rest *r, size_t *heap);

/* Its len bytes. */
const uint8_t *rest_bytes(const struct rest *r);
