/*
 * queue_fixture.h - a queue in memory or with a spool, driven from one thread that plays loop and
 * writer in turn, for the tests.
 */
#pragma once

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "buffer/queue/queue_internal.h"
#include "queue_open.h"
#include "wire/frame.h"

/* Check runs each test in a process of its own. */
#define FRAME_SIZE ((size_t)FRAME_FIXED + 4)

static char scratch[64];
static unsigned drained;
static atomic_int woken;
static const atomic_int running = 0;

static inline void
on_drained(void *arg)
{
	(void)arg;
	drained++;
}

static inline void
on_wake(void *arg)
{
	(void)arg;
	atomic_fetch_add(&woken, 1);
}

static inline void
open_queue(void)
{
	static const struct queue_events events = {on_drained, on_wake, NULL};

	open_queue_for(&events);
}

static inline void
setup_memory(void)
{
	memset(&conf, 0, sizeof(conf));
	conf.batch.max_rows = 10;
	conf.batch.max_bytes = 64 * 1024;
	conf.buffer.memory_limit = 1024 * 1024;
	conf.buffer.spool_limit = 64 * 1024 * 1024;
	conf.buffer.sync = CONF_SYNC_NEVER;
	drained = 0;
	open_queue();
}

static inline void
setup_spool(void)
{
	static char path[96];

	(void)snprintf(scratch, sizeof(scratch), "/tmp/check_queue.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(scratch));
	(void)snprintf(path, sizeof(path), "%s/spool", scratch);
	setup_memory();
	close_queue();
	conf.buffer.spool = path;
	open_queue();
}

static inline void
teardown(void)
{
	char command[128];

	ck_assert(stats_conserved(&stats));
	close_queue();
	conf.buffer.spool = NULL;
	if (!scratch[0])
		return;
	(void)snprintf(command, sizeof(command), "rm -rf %s", scratch);
	ck_assert_int_eq(system(command), 0);
	scratch[0] = '\0';
}

/* Appends n metrics named "name" with rising timestamps, as a client does. */
static inline uint64_t
put(uint64_t n, uint64_t time_us)
{
	uint64_t number = 0;

	while (n) {
		struct queue_room room = queue_make_room(queue);
		uint64_t fit = room.bytes / FRAME_SIZE;
		uint64_t most = room.rows < fit ? room.rows : fit;
		uint64_t take = n < most ? n : most;
		uint8_t *buf =
		    malloc(take * FRAME_SIZE + FRAME_MAX); /* as frame_encode() asks for */
		struct batch_part part = BATCH_PART_NONE;
		uint64_t i;

		for (i = 0; i < take; i++, time_us++) {
			(void)frame_encode(buf + i * FRAME_SIZE, time_us, "name", 4, (double)i);
			batch_part_add(&part, &(struct batch_part){1, time_us, time_us});
		}
		number = queue_append(queue, buf, take * FRAME_SIZE, &part);
		free(buf);
		n -= take;
	}
	return number;
}

/* The disk thread has done what it was handed, or has been refused, and the queue knows. */
static inline void
await_disk(void)
{
	struct disk_progress p;

	do {
		(void)usleep(100);
		queue_collect(queue);
		disk_progress(queue->disk, &p);
	} while (p.call || (p.jobs && !p.error) || p.removing || !TAILQ_EMPTY(&queue->unfiled) ||
		 !TAILQ_EMPTY(&queue->unfiled_told));
	queue_collect(queue);
}

/* All of it is written, also what was refused before. */
static inline void
await_written(void)
{
	struct disk_progress p;

	do {
		(void)usleep(100);
		disk_progress(queue->disk, &p);
	} while (p.pending || p.error);
	await_disk();
}

static inline void
await_room(void)
{
	while (!queue_accepts(queue)) {
		(void)usleep(100);
		queue_collect(queue);
	}
}

/* The reader has read what it reads ahead. */
static inline void
await_reader(void)
{
	bool busy;

	do {
		(void)pthread_mutex_lock(&queue->mutex);
		busy = queue->reading ||
		       (queue->to_read.batches.root && queue->read_ahead < READ_AHEAD);
		(void)pthread_mutex_unlock(&queue->mutex);
		if (busy)
			(void)usleep(100);
	} while (busy);
}

static inline struct batch *
take(void)
{
	await_reader();
	return queue_take(queue, &running, 0);
}

static inline void
finish(struct batch *b)
{
	struct batch_view v;

	queue_view(queue, b, &v);
	b->stored = v.rows;
	queue_done(queue, b);
	queue_collect(queue);
}

static inline void
limit_memory(enum conf_overflow overflow)
{
	conf.buffer.memory_limit = 50 * FRAME_SIZE;
	conf.buffer.overflow = overflow;
	queue_set_conf(queue, &conf);
}

static int answers[2]; /* [ok] */

static inline void
on_answer(void *arg, bool ok)
{
	(void)arg;
	answers[ok]++;
}

static inline void
expect_answers(int ok, int lost)
{
	ck_assert_int_eq(answers[true], ok);
	ck_assert_int_eq(answers[false], lost);
}

static inline struct queue_wait
new_wait(void)
{
	answers[0] = answers[1] = 0;
	return (struct queue_wait){.fn = on_answer};
}
