/* client_sync.c - sync frames: each waits for the queue, answers go out in order. */
#include <errno.h>
#include <stdlib.h>

#include "net/client_internal.h"

#define ANSWERS_PER_SEND 64

bool
client_wants_write(const struct client *c)
{
	return c->syncs && c->syncs->done;
}

static void
sync_pop(struct client *c)
{
	struct sync *s = c->syncs;

	c->syncs = s->next;
	if (!c->syncs)
		c->syncs_tail = &c->syncs;
	c->n_syncs--;
	c->set->waiting--;
	queue_unwait(c->set->queue, &s->wait);
	free(s);
}

void
client_forget_syncs(struct client *c)
{
	while (c->syncs)
		sync_pop(c);
}

static size_t
answers_encode(const struct client *c, uint8_t *out)
{
	const struct sync *s = c->syncs;
	size_t n = 0;

	for (; s && s->done && n < ANSWERS_PER_SEND; s = s->next)
		frame_encode_answer(out + FRAME_ANSWER_SIZE * n++, s->token, s->refused);
	return n * FRAME_ANSWER_SIZE;
}

static void
answers_sent(struct client *c, size_t len)
{
	struct stats *stats = c->set->stats;

	client_touch(c);
	len += c->sent;
	for (; len >= FRAME_ANSWER_SIZE; len -= FRAME_ANSWER_SIZE) {
		if (c->syncs->level == 1)
			stats->syncs_level1++;
		else
			stats->syncs_level2++;
		sync_pop(c);
	}
	c->sent = (unsigned)len;
}

/* Sends answers that are due until the socket is full. */
static void
answers_flush(struct client *c)
{
	uint8_t out[ANSWERS_PER_SEND * FRAME_ANSWER_SIZE];

	while (client_wants_write(c)) {
		size_t len = answers_encode(c, out) - c->sent;
		ssize_t n = send(c->fd, out + c->sent, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		if (n < 0) {
			c->mute = true;
			client_forget_syncs(c);
			return;
		}
		answers_sent(c, (size_t)n);
	}
}

void
client_answer(struct client *c)
{
	answers_flush(c);
	while (c->stash && c->n_syncs < CLIENT_SYNCS_MAX) {
		client_parse_kept(c);
		if (c->state == CLIENT_CLOSED)
			return;
		answers_flush(c);
	}
	if (c->state == CLIENT_ENDING && !c->syncs)
		client_close(c, "eof");
	else
		client_watch(c);
}

void
client_mute(struct client *c)
{
	c->mute = true;
	client_forget_syncs(c);
	client_answer(c);
}

/* The queue says that what stood before a sync frame is safe now, or is lost. */
static void
sync_ready(void *arg, bool ok)
{
	struct sync *s = arg;
	struct client *c = s->client;

	if (!ok) {
		client_close(c, "metrics_dropped");
		return;
	}
	s->done = true;
	if (c->syncs == s) {
		client_touch(c); /* until now it waited for us */
		client_answer(c);
	}
}

void
client_sync(struct client *c, const struct frame *f)
{
	struct sync *s;
	uint64_t first;

	if (c->mute)
		return;
	s = calloc(1, sizeof(*s));
	if (!s || c->lost) {
		free(s);
		client_close(c, c->lost ? "metrics_dropped" : "error");
		return;
	}
	s->client = c;
	s->token = f->time_us;
	s->level = f->sync_level;
	s->refused = c->refused_since_sync;
	s->wait.fn = sync_ready;
	s->wait.arg = s;
	c->refused_since_sync = 0;
	*c->syncs_tail = s;
	c->syncs_tail = &s->next;
	c->n_syncs++;
	c->set->waiting++;
	first = c->first_batch[s->level - 1];
	/* Answers come in order: a later one need not look at what this one covers. */
	c->first_batch[0] = 0;
	if (s->level == 2)
		c->first_batch[1] = 0;
	switch (queue_wait(c->set->queue, &s->wait, s->level, first)) {
	case QUEUE_WAIT_DONE:
		s->done = true;
		break;
	case QUEUE_WAIT_PENDING:
		break;
	case QUEUE_WAIT_LOST:
		client_close(c, "metrics_dropped");
		break;
	}
}
