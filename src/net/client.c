#include "net/client.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net/client_internal.h"
#include "base/clock.h"
#include "log/log.h"

/* Per client at stop, more than a socket holds: a sender may never pause. */
#define DRAIN_READS 32

/* ---- states ---- */

const char *
client_name(const struct client *c, char buf[ADDRESS_TEXT_MAX])
{
	return address_format((const struct sockaddr *)&c->peer, c->peer_len, buf);
}

static unsigned
client_events(const struct client *c)
{
	unsigned write = client_wants_write(c) ? LOOP_WRITE : 0;

	switch (c->state) {
	case CLIENT_OPEN:
		return write | (c->n_syncs < CLIENT_SYNCS_MAX ? LOOP_READ : 0);
	case CLIENT_PAUSED: /* the queue is full: TCP holds the sender back */
	case CLIENT_ENDING:
		return write;
	case CLIENT_CLOSED:
		return 0;
	}
	return 0;
}

void
client_watch(struct client *c)
{
	int r = loop_io_set(&c->io, c->fd, client_events(c));

	if (r < 0)
		client_close(c, strerror(-r));
}

static void
client_enter(struct client *c, enum client_state next)
{
	c->state = next;
	client_watch(c);
}

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
client_touch(struct client *c)
{
	c->active_ms = clock_ms();
	if (c->set->newest == c)
		return;
	list_unlink(c->set, c);
	list_append(c->set, c);
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

/* Closes the socket at once; the memory goes at the end of the turn. */
void
client_close(struct client *c, const char *reason)
{
	struct clients *cs = c->set;

	if (c->state == CLIENT_CLOSED)
		return;
	log_disconnect(c, reason);
	c->state = CLIENT_CLOSED;
	(void)loop_io_set(&c->io, c->fd, 0);
	(void)close(c->fd);
	c->fd = -1;
	client_forget_syncs(c);
	client_drop_stash(c);
	cs->stats->clients--;
	list_unlink(cs, c);
	c->next = cs->dead;
	cs->dead = c;
}

static void
free_dead(void *arg)
{
	struct clients *cs = arg;

	while (cs->dead) {
		struct client *c = cs->dead;

		cs->dead = c->next;
		free(c);
	}
}

/* ---- the socket ---- */

static void
client_eof(struct client *c, const char *reason)
{
	char peer[ADDRESS_TEXT_MAX];

	if (c->kept && !c->stash) {
		c->set->stats->truncated_frames++;
		c->set->stats->truncated_bytes += c->kept;
		log_event_limited(LOG_WARNING, "frame_refused/truncated_frame", "frame_refused",
				  LOG_STR("client", client_name(c, peer)),
				  LOG_STR("reason", "truncated_frame"),
				  LOG_HEX("frame", c->tail, c->kept));
	}
	if (c->syncs)
		client_enter(c, CLIENT_ENDING);
	else
		client_close(c, reason);
}

/* One read.  Returns false when there is nothing more to read now. */
static bool
client_read(struct client *c)
{
	struct clients *cs = c->set;
	size_t kept, done;
	ssize_t n;

	if (!queue_accepts(cs->queue)) {
		client_enter(c, CLIENT_PAUSED);
		return false;
	}
	kept = client_take_kept(c);
	do
		n = recv(c->fd, cs->buffer + kept, READ_SIZE, 0);
	while (n < 0 && errno == EINTR);
	if (n <= 0) {
		int error = n < 0 ? errno : 0;

		client_keep(c, cs->buffer, kept);
		if (error == EAGAIN || error == EWOULDBLOCK)
			return false;
		client_eof(c, error ? "error" : "eof");
		return false;
	}
	cs->stats->bytes_received += (uint64_t)n;
	client_touch(c);
	done = client_parse(c, cs->buffer, kept + (size_t)n);
	client_keep(c, cs->buffer + done, kept + (size_t)n - done);
	if (c->state == CLIENT_CLOSED)
		return false;
	if (c->syncs)
		client_answer(c); /* watches anew */
	return c->state == CLIENT_OPEN && c->n_syncs < CLIENT_SYNCS_MAX;
}

static void
client_ready(void *arg, unsigned events)
{
	struct client *c = arg;

	if (events & LOOP_HANGUP)
		client_mute(c);
	else if (events & LOOP_WRITE)
		client_answer(c);
	if (c->state == CLIENT_OPEN && (events & (LOOP_READ | LOOP_HANGUP)))
		(void)client_read(c);
}

static int
client_new(struct clients *cs, int fd, const struct sockaddr *sa, socklen_t len)
{
	struct client *c = calloc(1, sizeof(*c));
	int on = 1;
	int r;

	if (!c)
		return -ENOMEM;
	c->set = cs;
	c->fd = fd;
	c->syncs_tail = &c->syncs;
	c->active_ms = clock_ms();
	if (sa->sa_family == AF_INET || sa->sa_family == AF_INET6) {
		c->peer_len = len < sizeof(c->peer) ? len : (socklen_t)sizeof(c->peer);
		memcpy(&c->peer, sa, c->peer_len);
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
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
	list_append(cs, c);
	cs->stats->clients++;
	cs->stats->clients_total++;
	return 0;
}

/* ---- the set ---- */

static bool
allowed(const struct conf *conf, const struct sockaddr *sa)
{
	size_t i;

	for (i = 0; i < conf->n_allow; i++)
		if (cidr_match(&conf->allow[i], sa))
			return true;
	return conf->n_allow == 0;
}

void
clients_accept(struct clients *cs, int fd, const struct sockaddr *sa, socklen_t len)
{
	char peer[ADDRESS_TEXT_MAX];
	const char *why = NULL;

	if (!allowed(cs->conf, sa))
		why = "not_allowed";
	else if (cs->stats->clients >= cs->conf->max_clients)
		why = "max_clients";
	else if (client_new(cs, fd, sa, len) < 0)
		why = "out_of_memory";
	if (!why) {
		if (log_enabled(LOG_DEBUG))
			log_event(LOG_DEBUG, "client_connected",
				  LOG_STR("client", address_format(sa, len, peer)));
		return;
	}
	cs->stats->clients_refused++;
	log_event_limited(LOG_WARNING, "client_refused", "client_refused",
			  LOG_STR("client", address_format(sa, len, peer)), LOG_STR("reason", why));
	(void)close(fd);
}

int
clients_new(struct loop *loop, struct queue *q, struct stats *stats, struct conf *conf,
	    struct clients **ret)
{
	struct clients *cs = calloc(1, sizeof(*cs));

	if (!cs)
		return -ENOMEM;
	cs->buffer = malloc(READ_SIZE + READ_SIZE + TAIL_MAX);
	if (!cs->buffer) {
		free(cs);
		return -ENOMEM;
	}
	cs->loop = loop;
	cs->queue = q;
	cs->stats = stats;
	cs->conf = conf_ref(conf);
	loop_on_turn(loop, free_dead, cs);
	*ret = cs;
	return 0;
}

void
clients_free(struct clients *cs)
{
	if (!cs)
		return;
	while (cs->oldest)
		client_close(cs->oldest, "stopping");
	free_dead(cs);
	conf_unref(cs->conf);
	free(cs->buffer);
	free(cs);
}

void
clients_set_conf(struct clients *cs, struct conf *conf)
{
	conf_unref(cs->conf);
	cs->conf = conf_ref(conf);
}

void
clients_resume(struct clients *cs)
{
	struct client *c, *next;

	for (c = cs->oldest; c; c = next) {
		next = c->next;
		if (c->state == CLIENT_PAUSED)
			client_enter(c, CLIENT_OPEN);
	}
}

void
clients_tick(struct clients *cs)
{
	uint64_t timeout_ms = cs->conf->client_timeout_ms;
	uint64_t now_ms = clock_ms();
	struct client *c, *next;

	if (!timeout_ms)
		return;
	for (c = cs->oldest; c && now_ms - c->active_ms >= timeout_ms; c = next) {
		next = c->next;
		/* Who waits for us is not to blame for silence, unless it takes no answer. */
		if (!client_wants_write(c) && (c->state != CLIENT_OPEN || c->n_syncs))
			continue;
		cs->stats->clients_timed_out++;
		client_close(c, "timeout");
	}
}

static void
client_drain(struct client *c)
{
	while (c->state == CLIENT_OPEN && c->drain_reads++ < DRAIN_READS && client_read(c))
		;
	if (c->state != CLIENT_OPEN) /* a paused one has its turn when the queue has room again */
		return;
	if (c->syncs)
		client_enter(c, CLIENT_ENDING);
	else
		client_close(c, "stopping");
}

void
clients_drain(struct clients *cs)
{
	uint64_t n = cs->stats->clients;

	/* By turning the list round: any client may be closed meanwhile. */
	for (; n && cs->oldest; n--) {
		struct client *c = cs->oldest;

		list_unlink(cs, c);
		list_append(cs, c);
		client_drain(c);
	}
}

size_t
clients_waiting(const struct clients *cs)
{
	return cs->waiting;
}
