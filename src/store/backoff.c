#include "store/backoff.h"

#include <stdlib.h>
#include <sys/random.h>
#include <sys/types.h>

#include "base/clock.h"

#define FIRST_MS 100
#define MAX_MS 5000
#define LEAST_MAX_MS 500 /* however short the batch interval */

void
backoff_init(struct backoff *b, uint64_t batch_interval_ms)
{
	uint64_t max_ms = batch_interval_ms;

	if (max_ms < LEAST_MAX_MS)
		max_ms = LEAST_MAX_MS;
	if (max_ms > MAX_MS)
		max_ms = MAX_MS;
	*b = (struct backoff){.next_ms = FIRST_MS, .max_ms = max_ms};
	if (getrandom(&b->seed, sizeof(b->seed), GRND_NONBLOCK) != (ssize_t)sizeof(b->seed))
		b->seed = (unsigned)clock_real_us();
}

void
backoff_reset(struct backoff *b)
{
	b->next_ms = 0;
}

uint64_t
backoff_next(struct backoff *b)
{
	uint64_t most_ms = b->next_ms;

	b->next_ms = most_ms ? most_ms * 2 : FIRST_MS;
	if (b->next_ms > b->max_ms)
		b->next_ms = b->max_ms;
	return most_ms ? 1 + (uint64_t)rand_r(&b->seed) % most_ms : 0;
}
