#include "net/answers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define ANSWERS_PER_SEND 64

/* A question that waits, and then its answer. */
struct answer {
	struct answer *next;
	struct answers *owner; /* borrowed */
	struct queue_wait wait;
	unsigned level;
	bool ready; /* waits no more */
	uint8_t bytes[FRAME_ANSWER_SIZE];
};

void
answers_init(struct answers *a, struct answers_common *common, void *arg)
{
	*a = (struct answers){.common = common, .arg = arg};
	a->end = &a->first;
}

static void
pop_first(struct answers *a)
{
	struct answer *first = a->first;

	a->first = first->next;
	if (!a->first)
		a->end = &a->first;
	a->open--;
	a->common->open--;
	queue_unwait(a->common->queue, &first->wait);
	free(first);
}

void
answers_done(struct answers *a)
{
	while (a->first)
		pop_first(a);
	a->sent = 0;
}

void
answers_mute(struct answers *a)
{
	a->mute = true;
	answers_done(a);
}

bool
answers_due(const struct answers *a)
{
	return a->first && a->first->ready;
}

/* ---- questions ---- */

void
answers_cover(struct answers *a, uint64_t batch)
{
	if (!batch) {
		a->lost = true;
		return;
	}
	if (!a->first_batch[0])
		a->first_batch[0] = batch;
	if (!a->first_batch[1])
		a->first_batch[1] = batch;
}

/* Answers come in order: a later one need not look at what this one covers. */
static uint64_t
take_first_batch(struct answers *a, unsigned level)
{
	uint64_t first = a->first_batch[level - 1];

	a->first_batch[0] = 0;
	if (level == 2)
		a->first_batch[1] = 0;
	return first;
}

/* From the queue: what stood before the question is safe now, or is lost. */
static void
answer_ready(void *arg, bool ok)
{
	struct answer *answer = arg;
	struct answers *a = answer->owner;

	answer->ready = ok;
	if (!ok || answer == a->first)
		a->common->fn(a->arg, ok);
}

static struct answer *
answer_new(struct answers *a, unsigned level, const uint8_t bytes[FRAME_ANSWER_SIZE])
{
	struct answer *answer = calloc(1, sizeof(*answer));

	if (!answer)
		return NULL;
	answer->owner = a;
	answer->level = level;
	answer->wait.fn = answer_ready;
	answer->wait.arg = answer;
	memcpy(answer->bytes, bytes, FRAME_ANSWER_SIZE);
	return answer;
}

static void
append(struct answers *a, struct answer *answer)
{
	*a->end = answer;
	a->end = &answer->next;
	a->open++;
	a->common->open++;
}

int
answers_add(struct answers *a, unsigned level, const uint8_t bytes[FRAME_ANSWER_SIZE])
{
	struct answer *answer;

	if (a->mute)
		return 0;
	if (a->lost)
		return -ENODATA;
	answer = answer_new(a, level, bytes);
	if (!answer)
		return -ENOMEM;
	switch (queue_wait(a->common->queue, &answer->wait, level, take_first_batch(a, level))) {
	case QUEUE_WAIT_DONE:
		answer->ready = true;
		break;
	case QUEUE_WAIT_PENDING:
		break;
	case QUEUE_WAIT_LOST:
		free(answer);
		return -ENODATA;
	}
	append(a, answer);
	return 0;
}

/* ---- sending ---- */

/* Copies answers that are due; returns their size in bytes. */
static size_t
gather_due(const struct answers *a, uint8_t out[ANSWERS_PER_SEND * FRAME_ANSWER_SIZE])
{
	size_t len = 0;

	for (const struct answer *at = a->first;
	     at && at->ready && len < (size_t)ANSWERS_PER_SEND * FRAME_ANSWER_SIZE; at = at->next) {
		memcpy(out + len, at->bytes, FRAME_ANSWER_SIZE);
		len += FRAME_ANSWER_SIZE;
	}
	return len;
}

static void
pop_sent(struct answers *a, size_t len)
{
	struct stats *stats = a->common->stats;

	for (len += a->sent; len >= FRAME_ANSWER_SIZE; len -= FRAME_ANSWER_SIZE) {
		if (a->first->level == 1)
			stats->syncs_level1++;
		else
			stats->syncs_level2++;
		pop_first(a);
	}
	a->sent = (unsigned)len;
}

size_t
answers_send(struct answers *a, int fd)
{
	uint8_t out[ANSWERS_PER_SEND * FRAME_ANSWER_SIZE];
	size_t total = 0;

	while (answers_due(a)) {
		size_t len = gather_due(a, out) - a->sent;
		ssize_t n = send(fd, out + a->sent, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			break;
		if (n < 0) {
			answers_mute(a);
			break;
		}
		total += (size_t)n;
		pop_sent(a, (size_t)n);
	}
	return total;
}
