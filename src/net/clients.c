#include "net/clients.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "log/log.h"
#include "net/client.h"

/* The end-of-turn hook; loop_on_turn() has the order of all. */
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

/* Nothing is read here, so rests only shrink and this ends, even where one lets another go on. */
static void
go_on(void *arg)
{
	struct clients *cs = arg;

	while (cs->again)
		client_go_on(cs->again);
}

static bool
allowed(const struct conf *conf, const struct sockaddr *sa)
{
	size_t i;

	for (i = 0; i < conf->n_allow; i++)
		if (cidr_match(&conf->allow[i], sa))
			return true;
	return conf->n_allow == 0;
}

bool
clients_full(const struct clients *cs)
{
	return cs->stats->clients >= cs->conf->max_clients || cs->stats->clients >= cs->most;
}

void
clients_set_most(struct clients *cs, unsigned most)
{
	cs->most = most;
}

void
clients_accept(struct clients *cs, int fd, const struct sockaddr *sa, socklen_t len)
{
	char peer[ADDRESS_TEXT_MAX];
	const char *why = NULL;

	if (!allowed(cs->conf, sa))
		why = "not_allowed";
	else if (clients_full(cs))
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
	int r;

	if (!cs)
		return -ENOMEM;
	cs->loop = loop;
	cs->queue = q;
	cs->stats = stats;
	cs->conf = conf_ref(conf);
	cs->most = UINT_MAX;
	cs->answers = (struct answers_common){.queue = q, .stats = stats, .fn = client_told};
	cs->buffer = malloc(REST_SMALL + CLIENT_READ_SIZE);
	r = cs->buffer ? loop_event_init(loop, &cs->go_on, go_on, cs) : -ENOMEM;
	if (r < 0) {
		clients_free(cs);
		return r;
	}
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
	loop_event_done(&cs->go_on);
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
		client_resume(c);
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
		if (client_waits(c))
			continue;
		cs->stats->clients_timed_out++;
		client_close(c, "timeout");
	}
}

void
clients_drain(struct clients *cs)
{
	uint64_t n = cs->stats->clients;

	/* Always the oldest, which then becomes the newest: any client may be closed meanwhile. */
	for (; n && cs->oldest; n--) {
		struct client *c = cs->oldest;

		client_to_end(c);
		client_drain(c);
	}
}

size_t
clients_waiting(const struct clients *cs)
{
	return cs->answers.open + cs->n_again;
}
