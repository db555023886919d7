#include "base/histogram.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/*
 * Values below two times HISTOGRAM_PER_DOUBLING have a bucket each; above, the bucket is told by
 * the place of the highest bit and the HISTOGRAM_PER_DOUBLING_BITS bits behind it.
 */
static unsigned
shift_of(uint64_t value)
{
	unsigned highest = 63 - (unsigned)__builtin_clzll(value | 1);

	return highest > HISTOGRAM_PER_DOUBLING_BITS ? highest - HISTOGRAM_PER_DOUBLING_BITS : 0;
}

static size_t
bucket_of(uint64_t value)
{
	unsigned shift = shift_of(value);

	return shift * (size_t)HISTOGRAM_PER_DOUBLING + (size_t)(value >> shift);
}

/* The largest value that belongs into it. */
static uint64_t
bucket_top(size_t bucket)
{
	size_t shift = bucket / HISTOGRAM_PER_DOUBLING;

	shift = shift > 0 ? shift - 1 : 0;
	bucket -= shift * HISTOGRAM_PER_DOUBLING;
	return ((uint64_t)bucket << shift) + ((UINT64_C(1) << shift) - 1);
}

void
histogram_record(struct histogram *h, uint64_t value)
{
	h->buckets[bucket_of(value)]++;
	h->count++;
	if (value > h->max)
		h->max = value;
}

uint64_t
histogram_percentile(const struct histogram *h, double percent)
{
	double want = ceil((double)h->count * percent / 100);
	uint64_t seen = 0;

	for (size_t i = 0; i < HISTOGRAM_BUCKETS && seen < h->count; i++) {
		seen += h->buckets[i];
		if (seen > 0 && (double)seen >= want)
			return bucket_top(i) < h->max ? bucket_top(i) : h->max;
	}
	return h->max;
}

void
histogram_reset(struct histogram *h)
{
	memset(h, 0, sizeof(*h));
}
