/*
 * queue_open.h - the queue of a test, in memory or with a spool, as conf says.
 */
#pragma once

#include <check.h>
#include <string.h>

#include "buffer/queue/queue.h"

static struct conf conf;
static struct stats stats;
static struct spool *spool;
static struct queue *queue;

static inline void
open_queue_for(const struct queue_events *events)
{
	char why[SPOOL_WHY_MAX];

	memset(&stats, 0, sizeof(stats));
	if (conf.buffer.spool)
		ck_assert_int_eq(spool_open(conf.buffer.spool, conf.buffer.sync, &spool, why), 0);
	ck_assert_int_eq(queue_new(&conf, &stats, spool, events, &queue), 0);
}

#define FOREVER_MS 3600000

static inline void
close_queue(void)
{
	if (queue)
		ck_assert(queue_close(queue, FOREVER_MS));
	queue_free(queue);
	spool_free(spool);
	queue = NULL;
	spool = NULL;
}
