/*
 * log_ring.h - the lines that wait for their sink; the log's own.
 *
 *	        tail                  head
 *	 bytes: | line | line | line |            ... or wrapped, a line never:
 *	        head              tail             end
 *	 bytes: | line |          | line | line |skip|
 *
 * Bounded, and without a lock of its own: log_thread.c has one.  A line that was
 * looked at stays where it is until it is dropped, whatever is put meanwhile.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "log/log_event.h"

struct log_ring {
	size_t head; /* where the next line goes */
	size_t tail; /* where the oldest one is */
	size_t used; /* bytes from tail to head, those that were skipped included */
	_Alignas(8) char bytes[LOG_RING_BYTES];
};

/* Copies a line in; false when there is no room for it. */
bool log_ring_put(struct log_ring *r, const struct log_line *l);

/* The oldest line, whose parts point into the ring; false when there is none. */
bool log_ring_look(struct log_ring *r, struct log_line *ret);

/* Forgets the oldest line. */
void log_ring_drop(struct log_ring *r);
