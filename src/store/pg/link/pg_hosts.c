#include "store/pg/link/pg_hosts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct keywords {
	const char *keys[PG_KEYWORDS_MAX + 1];
	const char *values[PG_KEYWORDS_MAX + 1];
	size_t n;
};

/* libpq takes the last value of a keyword.  Empty ones are left out. */
static void
add(struct keywords *k, const char *key, const char *value)
{
	if (!value || !*value || k->n == PG_KEYWORDS_MAX)
		return;
	k->keys[k->n] = key;
	k->values[k->n++] = value;
}

static const char *
value_of(const PQconninfoOption *options, const char *key)
{
	for (; options && options->keyword; options++)
		if (strcmp(options->keyword, key) == 0 && options->val)
			return options->val;
	return "";
}

/*
 * The string's settings completed from the service file and the environment.  libpq completes
 * them only on the way to a connection, so one is started that a wrong sslmode ends
 * before anything is looked up or sent.
 */
static PQconninfoOption *
complete(const char *uri)
{
	const char *const keys[] = {"dbname", "sslmode", NULL};
	const char *const values[] = {uri, "?", NULL};
	PGconn *probe = PQconnectStartParams(keys, values, 1);
	PQconninfoOption *o = probe ? PQconninfo(probe) : NULL;

	PQfinish(probe);
	return o;
}

/* Cuts a list at its commas; returns how many there are in it, one at least. */
static size_t
split(char *list, const char *v[PG_HOSTS_MAX])
{
	size_t n = 0;
	char *item;

	while (n < PG_HOSTS_MAX && (item = strsep(&list, ",")))
		v[n++] = item;
	return n;
}

/* Pairs names, addresses and ports as libpq does (documentation, section 34.1.1.3). */
static int
pair(struct pg_hosts *h)
{
	const char *names[PG_HOSTS_MAX], *addrs[PG_HOSTS_MAX], *ports[PG_HOSTS_MAX];
	size_t n_names = split(h->names, names);
	size_t n_addrs = split(h->addrs, addrs);
	size_t n_ports = split(h->ports, ports);
	bool has_names = n_names > 1 || *names[0];
	bool has_addrs = n_addrs > 1 || *addrs[0];
	size_t i;

	h->n = has_addrs ? n_addrs : n_names;
	if ((has_addrs && has_names && n_names != n_addrs) || (n_ports > 1 && n_ports != h->n))
		return -EINVAL;
	for (i = 0; has_names && i < n_names; i++)
		if (*names[i] && strchr(names[i] + 1, '@') && *names[i] != '/')
			return -EINVAL; /* the rest of a password, of PGHOST, say */
	for (i = 0; i < h->n; i++)
		h->v[i] = (struct pg_host){
		    .name = has_names ? names[i] : "",
		    .addr = has_addrs ? addrs[i] : "",
		    .port = ports[n_ports > 1 ? i : 0],
		};
	return 0;
}

/* A standby is of no use for one who writes. */
static enum pg_wanted
wanted(const char *target, size_t n_hosts)
{
	if (strcmp(target, "primary") == 0)
		return PG_WANTED_PRIMARY;
	if (strcmp(target, "read-write") == 0)
		return PG_WANTED_WRITES;
	if (n_hosts > 1 && (!*target || strcmp(target, "any") == 0))
		return PG_WANTED_WRITES;
	return PG_WANTED_ANY;
}

int
pg_hosts_init(struct pg_hosts *h, const char *uri)
{
	PQconninfoOption *all;
	int r;

	*h = (struct pg_hosts){.n = 0};
	h->options = PQconninfoParse(uri, NULL);
	if (!h->options)
		return -EINVAL;
	all = complete(uri);
	if (!all)
		return -ENOMEM;
	h->names = strdup(value_of(all, "host"));
	h->addrs = strdup(value_of(all, "hostaddr"));
	h->ports = strdup(value_of(all, "port"));
	r = h->names && h->addrs && h->ports ? pair(h) : -ENOMEM;
	h->wanted = wanted(value_of(all, "target_session_attrs"), h->n);
	PQconninfoFree(all);
	return r;
}

void
pg_hosts_done(struct pg_hosts *h)
{
	PQconninfoFree(h->options);
	free(h->names);
	free(h->addrs);
	free(h->ports);
}

bool
pg_host_is_name(const struct pg_host *host)
{
	return !*host->addr && *host->name && *host->name != '/' && *host->name != '@';
}

PGconn *
pg_hosts_start(const struct pg_hosts *h, const struct pg_host *host, const struct pg_login *login)
{
	static const char *const ours[] = {"host", "hostaddr", "port", NULL};
	struct keywords k = {.n = 0};
	const PQconninfoOption *o;
	size_t i;

	/* what the string may override */
	add(&k, "fallback_application_name", "metric-collectord");
	add(&k, "keepalives_idle", "30");
	add(&k, "keepalives_interval", "10");
	add(&k, "keepalives_count", "3");
	add(&k, "password", login->password);
	for (o = h->options; o->keyword; o++) {
		for (i = 0; ours[i] && strcmp(ours[i], o->keyword) != 0; i++)
			;
		if (!ours[i])
			add(&k, o->keyword, o->val);
	}
	/* what it may not */
	add(&k, "host", host->name);
	add(&k, "hostaddr", login->addr ? login->addr : host->addr);
	add(&k, "port", host->port);
	add(&k, "dbname", login->dbname);
	add(&k, "client_encoding", "UTF8");
	if (h->wanted != PG_WANTED_ANY)
		add(&k, "target_session_attrs", "any");
	k.keys[k.n] = NULL;
	k.values[k.n] = NULL;
	return PQconnectStartParams(k.keys, k.values, 0);
}

PGconn *
pg_hosts_again(PGconn *like)
{
	PQconninfoOption *all = PQconninfo(like), *o;
	struct keywords k = {.n = 0};
	PGconn *pg;

	if (!all)
		return NULL;
	for (o = all; o->keyword; o++)
		add(&k, o->keyword, o->val);
	k.keys[k.n] = NULL;
	k.values[k.n] = NULL;
	pg = PQconnectStartParams(k.keys, k.values, 0);
	PQconninfoFree(all);
	return pg;
}
