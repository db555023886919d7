#include "store/pg/link/pg_conn.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "log/log.h"
#include "base/text.h"
#include "store/pg/link/pg_error.h"
#include "store/pg/link/pg_hosts.h"
#include "store/pg/link/pg_session.h"
#include "store/pg/link/resolve.h"

/* One search for a server. */
struct search {
	struct pg_conn *c;
	const struct conf *conf;
	const char *dbname;
	char *missing; /* see pg_connect(); NULL when nobody asks */
	struct pg_hosts hosts;
	struct text said; /* by the servers that were tried */
	struct store_error *err;
};

static void
on_notice(void *arg, const char *message)
{
	(void)arg;
	log_debug("database: %s", message);
}

/* Why libpq could not connect. */
static enum store_status
failed(struct search *s)
{
	PGconn *pg = s->c->pg;
	char text[2 * STORE_ERROR_MAX];
	char sqlstate[6];
	enum store_status st;

	(void)snprintf(text, sizeof(text), "%s", PQerrorMessage(pg));
	pg_error_extract(text, sqlstate);
	st = pg_error_set(s->err, sqlstate, text, NULL, false);
	if (st == STORE_RETRY && PQdb(pg))
		st = pg_error_pooler(s->err, PQdb(pg));
	if (PQconnectionNeedsPassword(pg)) {
		s->err->hint = pg_error_hint("28P01");
		st = STORE_HOLD;
	}
	if (s->missing && PQdb(pg))
		(void)snprintf(s->missing, 64, "%s", PQdb(pg));
	return st;
}

/* Follows libpq through the stages of a connection. */
static enum store_status
follow(struct search *s)
{
	uint64_t deadline_ms = clock_ms() + s->conf->database.connect_timeout_ms;
	PostgresPollingStatusType stage = PGRES_POLLING_WRITING;
	enum store_status st;

	if (PQstatus(s->c->pg) == CONNECTION_BAD)
		return failed(s);
	while (stage != PGRES_POLLING_OK) {
		short events = stage == PGRES_POLLING_READING ? POLLIN : POLLOUT;

		st = pg_wait(s->c, events, deadline_ms, s->err);
		if (st != STORE_OK)
			return st;
		stage = PQconnectPoll(s->c->pg);
		if (stage == PGRES_POLLING_FAILED)
			return failed(s);
	}
	return STORE_OK;
}

/* Is it a server of the kind that is wanted? */
static enum store_status
check_kind(struct search *s)
{
	static const char sql[] =
	    "SELECT CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_settings"
	    "  WHERE name = 'default_transaction_read_only'"
	    "  AND source IN ('user', 'database user')) THEN 'off'" /* see pg_session() */
	    " ELSE pg_catalog.current_setting('transaction_read_only') END,"
	    " pg_catalog.pg_is_in_recovery()";
	enum store_status st;
	PGresult *r = NULL;
	bool good;

	if (s->hosts.wanted == PG_WANTED_ANY)
		return STORE_OK;
	s->c->stall_ms = s->conf->database.connect_timeout_ms;
	st = pg_query(s->c, sql, &r, s->err);
	s->c->stall_ms = PG_STALL_MS;
	if (st != STORE_OK)
		return st;
	good = *PQgetvalue(r, 0, 1) == 'f' &&
	       (s->hosts.wanted == PG_WANTED_PRIMARY || strcmp(PQgetvalue(r, 0, 0), "off") == 0);
	PQclear(r);
	if (!good) {
		char text[STORE_ERROR_MAX];

		(void)snprintf(text, sizeof(text), "the server at \"%s\", port %s takes no writes",
			       PQhost(s->c->pg), PQport(s->c->pg));
		return pg_error_set(s->err, "25006", text, NULL, false);
	}
	return STORE_OK;
}

/* Tries one address of a host; addr is NULL where the host is no name. */
static enum store_status
try_address(struct search *s, const struct pg_host *host, const char *addr)
{
	const struct pg_login login = {
	    .password = s->conf->database.password,
	    .dbname = s->dbname,
	    .addr = addr,
	};
	enum store_status st;

	s->c->pg = pg_hosts_start(&s->hosts, host, &login);
	if (!s->c->pg)
		return pg_fail(s->err, "out of memory");
	(void)PQsetNoticeProcessor(s->c->pg, on_notice, NULL);
	(void)PQsetErrorVerbosity(s->c->pg, PQERRORS_VERBOSE); /* for the SQLSTATE */
	st = follow(s);
	if (st == STORE_OK && PQsetnonblocking(s->c->pg, 1) < 0)
		st = pg_fail(s->err, PQerrorMessage(s->c->pg));
	if (st == STORE_OK) {
		(void)PQsetErrorVerbosity(s->c->pg, PQERRORS_DEFAULT);
		st = check_kind(s);
	}
	if (st == STORE_OK)
		st = pg_session(s->c, s->err);
	if (st != STORE_OK)
		pg_close(s->c);
	return st;
}

static enum store_status
look_up(struct search *s, const char *name, struct addrinfo **ret)
{
	const char *why = "";
	char text[STORE_ERROR_MAX];
	int r = resolve(name, s->c->stop_fd, s->conf->database.connect_timeout_ms, ret, &why);

	if (r == 0)
		return STORE_OK;
	if (r == -ENOENT)
		(void)snprintf(text, sizeof(text), "host %s: %s", name, why);
	else
		(void)snprintf(text, sizeof(text), "host %s: %s", name, strerror(-r));
	(void)pg_fail(s->err, text);
	return r == -ECANCELED ? STORE_STOPPED : STORE_RETRY;
}

/* Adds err->text to what has been said so far. */
static void
remember(struct search *s)
{
	if (s->said.len)
		text_put(&s->said, "; ", 2);
	text_put(&s->said, s->err->text, strlen(s->err->text));
}

/* Tries the addresses of a host.  STORE_RETRY: the next host may do. */
static enum store_status
try_name(struct search *s, const struct pg_host *host)
{
	enum store_status st;
	struct addrinfo *list = NULL;
	const struct addrinfo *a;

	st = look_up(s, host->name, &list);
	if (st == STORE_RETRY)
		remember(s);
	if (st != STORE_OK)
		return st;
	st = pg_fail(s->err, "no address");
	for (a = list; a && st == STORE_RETRY; a = a->ai_next) {
		char addr[NI_MAXHOST];

		if (getnameinfo(a->ai_addr, a->ai_addrlen, addr, sizeof(addr), NULL, 0,
				NI_NUMERICHOST) != 0)
			continue;
		st = try_address(s, host, addr);
		if (st == STORE_RETRY)
			remember(s);
	}
	freeaddrinfo(list);
	return st;
}

static enum store_status
try_host(struct search *s, const struct pg_host *host)
{
	enum store_status st;

	if (pg_host_is_name(host))
		return try_name(s, host);
	st = try_address(s, host, NULL);
	if (st == STORE_RETRY)
		remember(s);
	return st;
}

static enum store_status
search(struct search *s)
{
	char said[2 * STORE_ERROR_MAX];
	char sqlstate[sizeof(s->err->sqlstate)];
	enum store_status st = STORE_RETRY;
	size_t i;

	s->said = (struct text){said, sizeof(said), 0};
	for (i = 0; i < s->hosts.n && st == STORE_RETRY; i++)
		st = try_host(s, &s->hosts.v[i]);
	if (st != STORE_RETRY || !s->said.len)
		return st;
	text_end(&s->said);
	memcpy(sqlstate, s->err->sqlstate, sizeof(sqlstate));
	(void)pg_error_set(s->err, sqlstate, said, NULL, false);
	return STORE_RETRY;
}

enum store_status
pg_connect(struct pg_conn *c, const struct conf *conf, const char *dbname, char missing[64],
	   struct store_error *err)
{
	struct search s = {.c = c, .conf = conf, .dbname = dbname, .missing = missing, .err = err};
	enum store_status st;
	int r;

	c->pg = NULL;
	c->failure = NULL;
	c->buf = NULL;
	c->home = c->begin = c->prefix = NULL;
	c->clock = (struct pg_clock){.server_us = 0};
	c->stall_ms = PG_STALL_MS;
	r = pg_hosts_init(&s.hosts, conf->database.uri);
	if (r == -EINVAL) {
		(void)pg_fail(err, "database.uri is not a connection string");
		err->hint = "see \"Connection Strings\" in the PostgreSQL manual; special "
			    "characters in a postgresql:// address are written as %XX";
		st = STORE_HOLD;
	} else if (r < 0) {
		st = pg_fail(err, strerror(-r));
	} else {
		st = search(&s);
	}
	pg_hosts_done(&s.hosts);
	return st;
}
