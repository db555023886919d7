#include "net/listeners.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "conf/conf_key.h"
#include "log/log.h"

#define STOP_ACCEPTS 4096 /* connections taken from a backlog at stop, at the most */

struct entry {
	struct entry *next;
	char *text; /* as configured; NULL for a socket of systemd's */
	struct listener *listener;
	bool wanted; /* during a reload: the new settings name it */
};

struct listeners {
	struct loop *loop; /* borrowed */
	listener_accept_fn *fn;
	void *arg;
	struct entry *entries;
	bool inherited;
	bool held;
};

static void
entry_free(struct entry *e)
{
	if (!e)
		return;
	listener_free(e->listener);
	free(e->text);
	free(e);
}

static void
entry_add(struct listeners *ls, struct entry *e, const char *name)
{
	char buf[ADDRESS_TEXT_MAX];

	e->next = ls->entries;
	ls->entries = e;
	if (ls->held)
		listener_hold(e->listener, true);
	log_event(LOG_INFO, "listening", LOG_STR("address", listener_address(e->listener, buf)),
		  LOG_STR("name", name));
}

static void
listen_failed(const char *address, int error)
{
	log_event(LOG_ERR, "listen_failed", LOG_STR("address", address),
		  LOG_STR("error", strerror(-error)));
}

static int
entry_open(struct listeners *ls, const char *text)
{
	struct entry *e = calloc(1, sizeof(*e));
	struct address address;
	const char *why;
	int r = -ENOMEM;

	if (!e)
		return r;
	e->text = strdup(text);
	if (e->text)
		r = address_parse(text, &address, &why);
	if (r == 0)
		r = listener_new(ls->loop, &address, ls->fn, ls->arg, &e->listener);
	if (r < 0) {
		entry_free(e);
		return r;
	}
	entry_add(ls, e, NULL);
	return 0;
}

/* ---- sockets of systemd's ---- */

static int
entry_inherit(struct listeners *ls, int fd, const char *name)
{
	struct entry *e;
	int r;

	if (sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, 1) <= 0) {
		log_event(LOG_ERR, "listen_failed", LOG_STR("name", name),
			  LOG_STR("error", "the supervisor passed something that is not a "
					   "listening stream socket"));
		(void)close(fd);
		return -EINVAL;
	}
	e = calloc(1, sizeof(*e));
	if (!e) {
		(void)close(fd);
		return -ENOMEM;
	}
	r = listener_inherit(ls->loop, fd, ls->fn, ls->arg, &e->listener);
	if (r < 0) {
		listen_failed(name, r);
		entry_free(e);
		return r;
	}
	entry_add(ls, e, name);
	return 0;
}

static int
listeners_inherit(struct listeners *ls)
{
	char **names = NULL;
	int n = sd_listen_fds_with_names(1, &names);
	int r = 0;
	int i;

	for (i = 0; i < n && r == 0; i++)
		r = entry_inherit(ls, SD_LISTEN_FDS_START + i, names[i]);
	for (i = 0; i < n; i++)
		free(names[i]);
	free(names);
	ls->inherited = n > 0;
	return n < 0 ? n : r;
}

/* Whoever has set addresses would wonder. */
static void
tell_if_ignored(const struct conf *conf)
{
	const char *usual = conf_key_default(conf_key_find("listen"));

	if (conf->listen.n == 1 && strcmp(conf->listen.items[0], usual) == 0)
		return;
	log_event(LOG_WARNING, "listen_ignored",
		  LOG_STR("hint", "the sockets are systemd's: set their addresses in the socket "
				  "unit (systemctl edit metric-collectord.socket)"));
}

/* ---- the set ---- */

int
listeners_new(struct loop *loop, const struct conf *conf, listener_accept_fn *fn, void *arg,
	      struct listeners **ret)
{
	struct listeners *ls = calloc(1, sizeof(*ls));
	size_t i;
	int r;

	if (!ls)
		return -ENOMEM;
	ls->loop = loop;
	ls->fn = fn;
	ls->arg = arg;
	r = listeners_inherit(ls);
	for (i = 0; r == 0 && !ls->inherited && i < conf->listen.n; i++) {
		r = entry_open(ls, conf->listen.items[i]);
		if (r < 0)
			listen_failed(conf->listen.items[i], r);
	}
	if (r < 0) {
		listeners_free(ls);
		return r;
	}
	if (ls->inherited)
		tell_if_ignored(conf);
	*ret = ls;
	return 0;
}

void
listeners_free(struct listeners *ls)
{
	if (!ls)
		return;
	while (ls->entries) {
		struct entry *e = ls->entries;

		ls->entries = e->next;
		entry_free(e);
	}
	free(ls);
}

static struct entry *
entry_find(const struct listeners *ls, const char *text)
{
	struct entry *e = ls->entries;

	while (e && (!e->text || strcmp(e->text, text) != 0))
		e = e->next;
	return e;
}

static void
close_unwanted(struct listeners *ls)
{
	struct entry **link = &ls->entries;

	while (*link) {
		struct entry *e = *link;

		if (e->wanted) {
			e->wanted = false;
			link = &e->next;
			continue;
		}
		*link = e->next;
		listener_stop(e->listener, STOP_ACCEPTS);
		entry_free(e);
	}
}

/* Opens what is configured and not open yet, and marks all of it.  Logs errors if asked to. */
static bool
open_missing(struct listeners *ls, const struct conf *conf, bool log)
{
	bool complete = true;

	for (size_t i = 0; i < conf->listen.n; i++) {
		const char *text = conf->listen.items[i];
		int r = entry_find(ls, text) ? 0 : entry_open(ls, text);

		if (r == 0)
			entry_find(ls, text)->wanted = true;
		else if (log)
			listen_failed(text, r);
		complete &= r == 0;
	}
	return complete;
}

/* Copies the addresses that the settings no longer name; the list ends with NULL. */
static char **
unwanted_addresses(const struct listeners *ls)
{
	const struct entry *e;
	char **list;
	size_t n = 0;

	for (e = ls->entries; e; e = e->next)
		n++;
	list = calloc(n + 1, sizeof(*list));
	n = 0;
	for (e = ls->entries; list && e; e = e->next) {
		if (e->wanted)
			continue;
		list[n] = strdup(e->text);
		if (list[n])
			n++;
	}
	return list;
}

void
listeners_set_conf(struct listeners *ls, const struct conf *conf)
{
	char **old;

	if (ls->inherited) {
		tell_if_ignored(conf);
		return;
	}
	if (open_missing(ls, conf, false)) {
		close_unwanted(ls);
		return;
	}
	/* Perhaps an old address is in the way of a new one.  If not, the old ones serve on. */
	old = unwanted_addresses(ls);
	close_unwanted(ls);
	if (!open_missing(ls, conf, true))
		for (char **text = old; text && *text; text++)
			(void)entry_open(ls, *text);
	for (char **text = old; text && *text; text++)
		free(*text);
	free(old);
	for (struct entry *e = ls->entries; e; e = e->next)
		e->wanted = false;
}

void
listeners_hold(struct listeners *ls, bool hold)
{
	if (hold == ls->held)
		return;
	ls->held = hold;
	for (struct entry *e = ls->entries; e; e = e->next)
		listener_hold(e->listener, hold);
	if (hold)
		log_event_limited(LOG_WARNING, "accept_paused/held", "accept_paused",
				  LOG_STR("error", "max_clients are connected, and the buffer is "
						   "full"),
				  LOG_STR("hint", "connections wait until there is room again"));
}

void
listeners_stop(struct listeners *ls)
{
	close_unwanted(ls);
}
