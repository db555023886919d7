/*
 * spool_samples.h - blocks of metrics for the tests of the spool, in which no two
 * metrics are alike.
 */
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "buffer/spool/spool_file.h"
#include "wire/frame.h"

#define SAMPLE_TIME UINT64_C(1700000000000000)

struct sample {
	uint8_t frames[65536];
	uint32_t len;
	uint32_t rows;
	uint64_t min_us;
	uint64_t max_us;
};

/* rows metrics, with the numbers from first on. */
static inline void
sample_fill(struct sample *s, unsigned first, uint32_t rows)
{
	s->len = 0;
	s->rows = rows;
	s->min_us = SAMPLE_TIME + first;
	s->max_us = SAMPLE_TIME + first + rows - 1;
	for (unsigned i = first; i < first + rows; i++) {
		char name[32];
		int n = snprintf(name, sizeof(name), "sample.%u", i);

		s->len += (uint32_t)frame_encode(s->frames + s->len, SAMPLE_TIME + i, name,
						 (size_t)n, (double)i / 3);
	}
}

/* Appends it as a block at p; returns its size. */
static inline size_t
sample_block(uint8_t *p, const struct sample *s)
{
	spool_block_encode(p, s->frames, s->len, s->rows);
	memcpy(p + SPOOL_BLOCK_HEADER, s->frames, s->len);
	return SPOOL_BLOCK_HEADER + (size_t)s->len;
}
