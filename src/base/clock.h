/*
 * clock.h - the two clocks.
 *
 * Intervals, deadlines and back-offs use the monotonic clock; only what people
 * or databases read uses the real one, which may step.
 */
#pragma once

#include <stdint.h>
#include <time.h>

static inline uint64_t
clock_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static inline uint64_t
clock_ms(void)
{
	return clock_ns() / 1000000;
}

/* Microseconds since 1970-01-01 UTC. */
static inline uint64_t
clock_real_us(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* ms as timers and pthread_cond_timedwait() take them. */
static inline struct timespec
clock_timespec(uint64_t ms)
{
	return (struct timespec){
	    .tv_sec = (time_t)(ms / 1000),
	    .tv_nsec = (long)(ms % 1000) * 1000000,
	};
}
