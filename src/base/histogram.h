/*
 * histogram.h - how often which values came, in a fixed size and within 6.3 %.
 *
 * Buckets grow with the value: 16 of equal width for each power of two, as in Gil Tene's
 * HdrHistogram (hdrhistogram.org), so that microseconds and minutes have a place in the
 * same few KiB, and to record a value is a shift and an addition.  A unit is the
 * caller's business.  Not thread-safe.
 */
#pragma once

#include <stdint.h>

#define HISTOGRAM_PER_DOUBLING_BITS 4
#define HISTOGRAM_PER_DOUBLING (1 << HISTOGRAM_PER_DOUBLING_BITS)
#define HISTOGRAM_BUCKETS ((64 - HISTOGRAM_PER_DOUBLING_BITS + 1) * HISTOGRAM_PER_DOUBLING)

/* All zeros: empty. */
struct histogram {
	uint64_t count;
	uint64_t max;
	uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_record(struct histogram *h, uint64_t value);

/*
 * A value that percent (0..100) of those recorded do not exceed: exact below 32 and at the
 * maximum, otherwise at most a sixteenth too large.  0 when none was recorded.
 */
uint64_t histogram_percentile(const struct histogram *h, double percent);

void histogram_reset(struct histogram *h);
