/*
 * backoff.h - how long to wait before the next try: exponential, with "full jitter" (M. Brooker,
 * Exponential Backoff And Jitter, AWS Architecture Blog, 2015), so that a crowd of collectors
 * spreads out.
 */
#pragma once

#include <stdint.h>

struct backoff {
	uint64_t next_ms; /* the most that the next wait takes; 0: none */
	unsigned seed;
};

void backoff_init(struct backoff *b, unsigned salt);

/* It went well: what has worked until now is tried again at once. */
void backoff_reset(struct backoff *b);

/* ms until the next try; never longer than about interval_ms, within bounds of its own. */
uint64_t backoff_next(struct backoff *b, uint64_t interval_ms);
