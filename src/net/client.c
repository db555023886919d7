/*
 * client.c - one connection: its socket, and what the bytes that it sends ask for.
 *
 * Calls go one way, down this picture.  What the queue calls (client_state.c) never parses, and
 * never appends to it:
 *
 *	loop: readable     loop: clients.go_on     stop              queue: safe, or lost
 *	      │                   │                  │                      │
 *	 client_ready        client_go_on       client_drain            answers.c
 *	      │                   │                  │                      │
 *	      └── client_read ────┼──────────────────┘                 client_told
 *	                          │                                         │
 *	         client_consume: parser_next() gives a step                 │
 *	               ├── metrics:  client_append  ──> queue_append()      │
 *	               ├── question: client_ask     ──> answers_add()       │
 *	               └── refused:  client_refuse  ──> refusal_report()    │
 *	                          │                                         │
 *	                          └───────────── client_send ───────────────┘
 *	                                              │
 *	                                        client_settle: what it waits for next
 *
 * A client with CLIENT_SYNCS_MAX questions open may ask no more (client_may_ask()): it is neither
 * parsed nor read.  If whole frames wait in its rest when the queue's word lets it go on,
 * client_settle() puts it on a list, and the event clients.go_on takes it from there.
 */
#include "net/client.h"

#include <assert.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/clock.h"
#include "log/log.h"
#include "net/refusal.h"
#include "wire/parser.h"

/* Per client at stop, more than a socket holds: a sender may never pause. */
#define DRAIN_READS 32

static_assert(sizeof(struct client) < 1024, "what an idle client costs");

/* ---- what its bytes ask for ---- */

static void
log_metrics(const struct client *c, const struct parser_step *step)
{
	char peer[ADDRESS_TEXT_MAX];
	struct frame f;

	(void)client_name(c, peer);
	for (size_t at = 0; at < step->len;) {
		at += frame_read(step->frames + at, &f);
		log_event(LOG_INFO, "metric_received", LOG_STR("client", peer),
			  LOG_BYTES("metric", f.name, f.name_len), LOG_F64("value", f.value),
			  LOG_TIME("time", f.time_us));
	}
}

/* May close it: its own metrics can push those out that it waits for. */
static void
client_append(struct client *c, const struct parser_step *step)
{
	const struct batch_part part = {step->rows, step->min_us, step->max_us};

	if (c->set->conf->log.metrics)
		log_metrics(c, step);
	c->refused_in_row = 0;
	c->frames += step->rows;
	answers_cover(&c->answers, queue_append(c->set->queue, step->frames, step->len, &part));
}

static void
client_ask(struct client *c, const struct frame *f)
{
	uint8_t answer[FRAME_ANSWER_SIZE];
	int r;

	frame_encode_answer(answer, f->time_us, c->refused_since_question);
	c->refused_in_row = 0;
	c->refused_since_question = 0;
	r = answers_add(&c->answers, f->sync_level, answer);
	if (r < 0)
		client_close(c, r == -ENODATA ? "metrics_dropped" : "error");
}

static void
client_refuse(struct client *c, const struct frame *f, const uint8_t *p, size_t size)
{
	char peer[ADDRESS_TEXT_MAX];

	refusal_report(c->set->stats, client_name(c, peer), f, p, size);
	c->refused++;
	c->refused_since_question++;
	if (++c->refused_in_row < c->set->conf->max_invalid_frames)
		return;
	c->set->stats->clients_protocol_error++;
	client_close(c, "protocol_error");
}

/*
 * By the clock of the database, where that has one: ours may be wrong, and nothing is refused for
 * that; so nothing is while its clock is not known.
 */
static uint64_t
window_clock_us(const struct conf *conf, struct queue *q)
{
	return conf->database.store == CONF_STORE_SQLITE ? clock_real_us() : queue_clock_us(q);
}

static struct frame_window
window_now(const struct conf *conf, struct queue *q)
{
	struct frame_window w = FRAME_WINDOW_ALL;
	uint64_t now_us;

	if (!conf->timestamps.max_age_us && !conf->timestamps.max_future_us)
		return w;
	now_us = window_clock_us(conf, q);
	if (!now_us)
		return w;
	if (conf->timestamps.max_age_us && conf->timestamps.max_age_us < now_us)
		w.min_us = now_us - conf->timestamps.max_age_us;
	if (conf->timestamps.max_future_us)
		w.max_us = now_us + conf->timestamps.max_future_us;
	return w;
}

/* Does what the next bytes ask for; returns how many these were, 0 where more must come first. */
static size_t
client_step(struct client *c, const uint8_t *buf, size_t len, const struct frame_window *window)
{
	const struct queue_room room = queue_make_room(c->set->queue);
	const struct parser_room one_append = {room.rows, room.bytes};
	struct parser_step step;

	switch (parser_next(buf, len, window, &one_append, &step)) {
	case PARSER_MORE:
		break;
	case PARSER_METRICS:
		client_append(c, &step);
		break;
	case PARSER_QUESTION:
		client_ask(c, &step.frame);
		break;
	case PARSER_REFUSED:
		client_refuse(c, &step.frame, buf, step.used);
		break;
	}
	return step.used;
}

/* The first len bytes of the shared buffer are c's; what cannot be dealt with yet is its rest. */
static void
client_consume(struct client *c, size_t len)
{
	const struct frame_window window = window_now(c->set->conf, c->set->queue);
	const uint8_t *buf = c->set->buffer;
	size_t done = 0, used;

	c->parsing = true;
	do {
		used = client_step(c, buf + done, len - done, &window);
		done += used;
		if (!used || !client_may_ask(c))
			client_send(c); /* what is due already; then it may ask on */
	} while (used && client_may_ask(c));
	if (c->state != CLIENT_CLOSED &&
	    rest_set(&c->rest, buf + done, len - done, !client_may_ask(c), &c->set->rest_heap) < 0)
		client_close(c, "error");
	if (c->state == CLIENT_CLOSED)
		client_truncated(c, buf + done, len - done);
	c->parsing = false;
}

void
client_go_on(struct client *c)
{
	client_again_unlink(c);
	if (!c->rest.whole || !client_may_ask(c))
		return;
	/* It has its rest until there is a new one: so nothing takes it for done on the way. */
	memcpy(c->set->buffer, rest_bytes(&c->rest), c->rest.len);
	client_consume(c, c->rest.len);
	client_settle(c);
}

/* ---- the socket ---- */

static void
client_eof(struct client *c, const char *reason)
{
	if (!c->answers.open) {
		client_close(c, reason);
		return;
	}
	client_truncated(c, rest_bytes(&c->rest), c->rest.len);
	rest_clear(&c->rest, &c->set->rest_heap);
	c->state = CLIENT_ENDING;
}

static bool
client_may_read(const struct client *c)
{
	return c->state == CLIENT_OPEN && client_may_ask(c);
}

/* One read.  Returns false when there is nothing more to read now. */
static bool
client_read(struct client *c)
{
	struct clients *cs = c->set;
	size_t rest = c->rest.len;
	ssize_t n;

	assert(!c->rest.whole);
	if (!queue_accepts(cs->queue)) {
		c->state = CLIENT_PAUSED;
		return false;
	}
	memcpy(cs->buffer, rest_bytes(&c->rest), rest);
	do
		n = recv(c->fd, cs->buffer + rest, CLIENT_READ_SIZE, 0);
	while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return false;
	if (n <= 0) {
		client_eof(c, n < 0 ? "error" : "eof");
		return false;
	}
	cs->stats->bytes_received += (uint64_t)n;
	client_touch(c);
	client_consume(c, rest + (size_t)n);
	return client_may_read(c);
}

/*
 * The end of one that is paused.  After a reset (EPIPE is one that came behind the end of the
 * stream) nobody counts on what is unread; otherwise that is read when there is room, and until
 * then the end, which would be reported in each turn, is listened for no more.
 */
static void
client_left(struct client *c, unsigned events)
{
	int error = 0, unread = 0;
	socklen_t len = sizeof(error);

	if (events & LOOP_HANGUP)
		(void)getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len);
	(void)ioctl(c->fd, FIONREAD, &unread);
	if (error && error != EPIPE)
		client_close(c, "error");
	else if (!unread)
		client_eof(c, "eof");
	else
		c->told |= events & LOOP_HANGUP ? LOOP_HANGUP | LOOP_END : LOOP_END;
}

static void
client_ready(void *arg, unsigned events)
{
	struct client *c = arg;

	/* Who has gone takes no answer, but what it has sent is read all the same. */
	if (events & LOOP_HANGUP)
		answers_mute(&c->answers);
	else if (events & LOOP_WRITE)
		client_send(c);
	if (events & (LOOP_END | LOOP_HANGUP) && c->state == CLIENT_PAUSED)
		client_left(c, events);
	client_go_on(c);
	if (events & (LOOP_READ | LOOP_HANGUP) && client_may_read(c))
		(void)client_read(c);
	client_settle(c);
}

static void
set_option(int fd, int level, int option, int value)
{
	(void)setsockopt(fd, level, option, &value, sizeof(value));
}

/*
 * No TCP_USER_TIMEOUT: it would also end those that live, and take no answers for a while.  What
 * was sent to one that is gone, and is not acknowledged, ends it by the kernel's own limit.
 */
static void
set_tcp_options(int fd)
{
	set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, CLIENT_KEEP_IDLE_S);
	set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, CLIENT_KEEP_PROBE_S);
	set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, CLIENT_KEEP_PROBES);
}

int
client_new(struct clients *cs, int fd, const struct sockaddr *sa, socklen_t len)
{
	struct client *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->set = cs;
	c->fd = fd;
	c->active_ms = clock_ms();
	answers_init(&c->answers, &cs->answers, c);
	if (sa->sa_family == AF_INET || sa->sa_family == AF_INET6) {
		c->peer_len = len < sizeof(c->peer) ? len : (socklen_t)sizeof(c->peer);
		memcpy(&c->peer, sa, c->peer_len);
		set_tcp_options(fd);
	} else {
		c->peer.sin6_family = AF_UNIX;
		c->peer_len = sizeof(sa_family_t);
	}
	loop_io_init(cs->loop, &c->io, client_ready, c);
	r = loop_io_set(&c->io, fd, LOOP_READ);
	if (r < 0) {
		free(c);
		return r;
	}
	client_enlist(c);
	return 0;
}

void
client_drain(struct client *c)
{
	client_go_on(c);
	while (client_may_read(c) && c->drain_reads++ < DRAIN_READS && client_read(c))
		;
	if (c->state == CLIENT_OPEN) { /* a paused one goes on when the queue has room again */
		if (c->answers.open)
			c->state = CLIENT_ENDING;
		else
			client_close(c, "stopping");
	}
	client_settle(c);
}
