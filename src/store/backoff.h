/*
 * backoff.h - how long to wait before something that failed is tried again.
 *
 * The waits double from try to try, and of each a random part is taken ("full jitter", M. Brooker,
 * Exponential Backoff And Jitter, AWS Architecture Blog, 2015), so that a crowd of collectors
 * spreads out.
 */
#pragma once

#include <stdint.h>

struct backoff {
	uint64_t next_ms; /* the most that the next wait takes; 0: at once */
	uint64_t max_ms;
	unsigned seed;
};

/* No wait is longer than the batch interval, within bounds.  The first try is no second one. */
void backoff_init(struct backoff *b, uint64_t batch_interval_ms);

/* It worked: should it fail now, it is tried again at once. */
void backoff_reset(struct backoff *b);

/* It failed: how long to wait. */
uint64_t backoff_next(struct backoff *b);
