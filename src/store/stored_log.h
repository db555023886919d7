/*
 * stored_log.h - batch_stored: an event for each batch, or for many of them together.
 *
 * Level-2 questions can make dozens of batches a second, for hours.  Beyond a burst, such as a
 * backlog that is stored after an outage, they are summed: batch_stored then has the number of
 * batches, and the last one's.  Nothing is left out of the sums.  Shared by the writers.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define STORED_LOG_BURST 80      /* one by one, when there was quiet before */
#define STORED_LOG_PER_SECOND 10 /* ... and when there was not */
#define STORED_LOG_SUM_MS 1000

/* What became of a batch, or of several. */
struct stored_log_sum {
	uint64_t batches;
	uint64_t batch; /* the number of the last */
	uint64_t rows;
	uint64_t bytes;
	uint64_t rejected;
	uint64_t lost;
	uint64_t ms;
	bool repeated; /* any of them */
	bool direct;   /* likewise */
};

struct stored_log {
	pthread_mutex_t mutex;
	uint64_t last_ms;   /* of the monotonic clock */
	uint64_t credit_ms; /* each event costs its part of a second */
	struct stored_log_sum sum;
	uint64_t since_ms; /* of sum */
};

void stored_log_init(struct stored_log *l);
void stored_log_done(struct stored_log *l);

/* A batch was stored; one->batches is 1.  now_ms is clock_ms(). */
void stored_log_add(struct stored_log *l, const struct stored_log_sum *one, uint64_t now_ms);

/* Is there a sum that was not logged?  Then stored_log_flush() shall be called after a second. */
bool stored_log_pending(struct stored_log *l);
void stored_log_flush(struct stored_log *l);
