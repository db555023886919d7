/*
 * aside.h - a call that may block, in a thread that can be left behind.
 *
 * Some calls of libraries know neither a deadline nor a stop.  Each runs in a thread of its own on
 * a job that both sides hold: who has waited long enough goes on, and the last one to let go frees
 * it.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

/* Embedded as the first member of what the call needs. */
struct aside {
	atomic_int refs;
	int done_fd;
	void (*run)(struct aside *a);
	void (*free)(struct aside *a); /* what the job holds, and its memory */
};

/*
 * Starts the thread.  Returns 0, and the caller has a reference until aside_unref(); or a negative
 * errno, and the job is freed.
 */
int aside_start(struct aside *a, void (*run)(struct aside *a), void (*free)(struct aside *a));

/* Returns 0 when the call has come back, -ETIMEDOUT, -ECANCELED for a stop, or another error. */
int aside_wait(struct aside *a, int stop_fd, uint64_t deadline_ms);
void aside_unref(struct aside *a);
