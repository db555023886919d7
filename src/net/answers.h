/*
 * answers.h - what a client has asked, and the answers that it gets, in the order of its questions.
 *
 *	answers_add ──> waiting ── the queue says that it is safe ──> due ── answers_send ──> sent
 *
 * An answer is 17 bytes, known when the question comes; what it waits for is that the metrics
 * before it are safe (queue_wait()).  It is due once it is the first and waits no more.  This
 * module knows nothing of frames, parsing or reading.  Its owner gets one callback.
 *
 * Everything here runs in the loop thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer/queue/queue.h"
#include "log/stats.h"
#include "wire/frame.h"

/*
 * The first answer is due; or, with ok false, metrics that a question is about were dropped or
 * lost, so that there must be no answer to it.  It may call answers_send(), answers_mute() and
 * answers_done(), but must not append to the queue, which may be the caller.
 */
typedef void answers_fn(void *arg, bool ok);

/* What the answers of all clients have in common. */
struct answers_common {
	struct queue *queue; /* borrowed */
	struct stats *stats; /* borrowed */
	answers_fn *fn;
	size_t open; /* questions of all clients whose answers are not sent yet */
};

struct answer;

/* Embedded in its owner. */
struct answers {
	struct answers_common *common; /* borrowed */
	void *arg;
	struct answer *first, **end; /* in the order of the questions */
	unsigned open;               /* how many are not sent yet */
	unsigned sent;               /* bytes of the first one that the socket has taken */
	bool mute;                   /* the peer takes no answers any more */
	bool lost;                   /* metrics were dropped since the last question */
	uint64_t first_batch[2];     /* see answers_cover(); of level 1 and of 2 */
};

void answers_init(struct answers *a, struct answers_common *common, void *arg);
void answers_done(struct answers *a); /* forgets all questions; twice is fine */

/*
 * Metrics of the client went into that batch; 0: they were dropped.  Of each level, the first batch
 * that no question covers yet is remembered: the next question waits from there on.
 */
void answers_cover(struct answers *a, uint64_t batch);

/*
 * A question has come, of level 1 or 2.  Returns 0; -ENODATA when metrics that it is about were
 * dropped or lost, so that the client must get no answer any more; or -ENOMEM.
 */
int answers_add(struct answers *a, unsigned level, const uint8_t bytes[FRAME_ANSWER_SIZE]);

/* Is there an answer to send? */
bool answers_due(const struct answers *a);

/*
 * Sends what is due until the socket takes no more.  Returns how many bytes it took.  Where the
 * peer has gone, all questions are forgotten, as by answers_mute().
 */
size_t answers_send(struct answers *a, int fd);

/* The peer takes no answers any more: forgets its questions, and ignores those that still come. */
void answers_mute(struct answers *a);
