/*
 * client_state.c - what a connection waits for: its states, its place in the set's lists, and the
 * answers that it gets.  Nothing here reads, parses or appends; so the queue may call it.
 */
#include "net/client.h"

#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "log/log.h"
#include "net/refusal.h"
#include "wire/frame.h"

/* ---- lists of the set ---- */

static void
list_unlink(struct clients *cs, struct client *c)
{
	*(c->prev ? &c->prev->next : &cs->oldest) = c->next;
	*(c->next ? &c->next->prev : &cs->newest) = c->prev;
}

static void
list_append(struct clients *cs, struct client *c)
{
	c->prev = cs->newest;
	c->next = NULL;
	*(c->prev ? &c->prev->next : &cs->oldest) = c;
	cs->newest = c;
}

void
client_enlist(struct client *c)
{
	list_append(c->set, c);
	c->set->stats->clients++;
	c->set->stats->clients_total++;
}

void
client_to_end(struct client *c)
{
	if (c->set->newest == c)
		return;
	list_unlink(c->set, c);
	list_append(c->set, c);
}

void
client_touch(struct client *c)
{
	c->active_ms = clock_ms();
	client_to_end(c);
}

static void
again_link(struct client *c)
{
	struct clients *cs = c->set;

	if (c->again_link)
		return;
	c->again_next = cs->again;
	c->again_link = &cs->again;
	if (c->again_next)
		c->again_next->again_link = &c->again_next;
	cs->again = c;
	cs->n_again++;
	loop_event_raise(&cs->go_on);
}

void
client_again_unlink(struct client *c)
{
	if (!c->again_link)
		return;
	*c->again_link = c->again_next;
	if (c->again_next)
		c->again_next->again_link = c->again_link;
	c->again_link = NULL;
	c->set->n_again--;
}

/* ---- states ---- */

const char *
client_name(const struct client *c, char buf[ADDRESS_TEXT_MAX])
{
	return address_format((const struct sockaddr *)&c->peer, c->peer_len, buf);
}

bool
client_may_ask(const struct client *c)
{
	return c->state != CLIENT_CLOSED && c->answers.open < CLIENT_SYNCS_MAX;
}

bool
client_waits(const struct client *c)
{
	if (answers_due(&c->answers)) /* it does not take them */
		return false;
	return c->state != CLIENT_OPEN || c->answers.open > 0;
}

static unsigned
client_events(const struct client *c)
{
	unsigned write = answers_due(&c->answers) ? LOOP_WRITE : 0;

	switch (c->state) {
	case CLIENT_OPEN:
		return write | (client_may_ask(c) ? LOOP_READ : LOOP_HANGUP);
	case CLIENT_PAUSED: /* the queue is full: TCP holds the sender back */
		return write | ((LOOP_HANGUP | LOOP_END) & ~c->told);
	case CLIENT_ENDING:
		return write | LOOP_HANGUP;
	case CLIENT_CLOSED:
		return 0;
	}
	return 0;
}

/* A peer can bring offences about as often as it likes: they are limited. */
static void
log_disconnect(const struct client *c, const char *reason)
{
	char peer[ADDRESS_TEXT_MAX];

	if (strcmp(reason, "protocol_error") == 0)
		log_event_limited(LOG_WARNING, "client_disconnected/protocol_error",
				  "client_disconnected", LOG_STR("client", client_name(c, peer)),
				  LOG_U64("frames", c->frames), LOG_U64("refused", c->refused),
				  LOG_STR("reason", reason));
	else if (log_enabled(LOG_DEBUG))
		log_event(LOG_DEBUG, "client_disconnected", LOG_STR("client", client_name(c, peer)),
			  LOG_U64("frames", c->frames), LOG_U64("refused", c->refused),
			  LOG_STR("reason", reason));
}

/* How many of these bytes are whole frames. */
static size_t
whole_frames(const uint8_t *p, size_t len)
{
	size_t at = 0;

	while (len - at >= FRAME_NAME_AT && len - at >= frame_size_at(p + at))
		at += frame_size_at(p + at);
	return at;
}

void
client_truncated(struct client *c, const uint8_t *p, size_t len)
{
	size_t whole = whole_frames(p, len);
	char peer[ADDRESS_TEXT_MAX];

	if (whole < len)
		refusal_report_truncated(c->set->stats, client_name(c, peer), p + whole,
					 len - whole);
}

void
client_close(struct client *c, const char *reason)
{
	struct clients *cs = c->set;

	if (c->state == CLIENT_CLOSED)
		return;
	if (!c->parsing)
		client_truncated(c, rest_bytes(&c->rest), c->rest.len);
	log_disconnect(c, reason);
	c->state = CLIENT_CLOSED;
	(void)loop_io_set(&c->io, c->fd, 0);
	(void)close(c->fd);
	c->fd = -1;
	answers_done(&c->answers);
	rest_clear(&c->rest, &cs->rest_heap);
	client_again_unlink(c);
	cs->stats->clients--;
	list_unlink(cs, c);
	c->next = cs->dead;
	cs->dead = c;
}

void
client_settle(struct client *c)
{
	int r;

	if (c->rest.whole && client_may_ask(c))
		again_link(c);
	else if (c->state == CLIENT_ENDING && !c->answers.open)
		client_close(c, "eof");
	r = loop_io_set(&c->io, c->fd, client_events(c));
	if (r < 0)
		client_close(c, strerror(-r));
}

void
client_resume(struct client *c)
{
	if (c->state != CLIENT_PAUSED)
		return;
	c->state = CLIENT_OPEN;
	c->told = 0;
	client_settle(c);
}

/* ---- answers ---- */

void
client_send(struct client *c)
{
	if (answers_send(&c->answers, c->fd) > 0)
		client_touch(c);
}

void
client_told(void *arg, bool ok)
{
	struct client *c = arg;

	if (!ok) {
		client_close(c, "metrics_dropped");
		return;
	}
	client_touch(c); /* until now it waited for us */
	client_send(c);
	client_settle(c);
}
