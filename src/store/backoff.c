#include "store/backoff.h"

#include <stdlib.h>
#include <sys/random.h>

#include "base/clock.h"

#define FIRST_MS 100
#define MAX_MS 5000
#define LEAST_MAX_MS 500 /* however short the interval */

void
backoff_init(struct backoff *b, unsigned salt)
{
	b->next_ms = FIRST_MS;
	if (getrandom(&b->seed, sizeof(b->seed), GRND_NONBLOCK) != (ssize_t)sizeof(b->seed))
		b->seed = (unsigned)clock_real_us() + salt;
}

void
backoff_reset(struct backoff *b)
{
	b->next_ms = 0;
}

uint64_t
backoff_next(struct backoff *b, uint64_t interval_ms)
{
	uint64_t delay_ms = b->next_ms;
	uint64_t max_ms = interval_ms;

	if (max_ms < LEAST_MAX_MS)
		max_ms = LEAST_MAX_MS;
	if (max_ms > MAX_MS)
		max_ms = MAX_MS;
	b->next_ms = delay_ms ? delay_ms * 2 : FIRST_MS;
	if (b->next_ms > max_ms)
		b->next_ms = max_ms;
	return delay_ms ? 1 + (uint64_t)rand_r(&b->seed) % delay_ms : 0;
}
