#include "store/pg/link/pg_conn.h"

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "conf/conf_uri.h"
#include "log/log.h"
#include "base/text.h"
#include "store/pg/link/pg_backends.h"
#include "store/pg/link/pg_error.h"
#include "store/pg/link/pg_hosts.h"
#include "store/pg/link/pg_session.h"
#include "store/pg/link/resolve.h"

#define TAKE_MAX (1u << 20) /* bytes, until a connection is made */
#define RECEIVE_BUFFER (32 << 10)
#define AGAIN_MS 3000 /* the answer to the other connection may come meanwhile */
#define ENTER_TRIES 100
#define ENTER_PAUSE_MS 50
#define LEFT_TRIES 15 /* to see the end of a backend that was left */
#define LEFT_PAUSE_MS 200

/* One search for a server. */
struct search {
	struct pg_conn *c;
	const struct conf *conf;
	const char *dbname;
	char *missing; /* see pg_connect(); NULL when nobody asks */
	struct pg_hosts hosts;
	struct text said; /* by the servers that were tried */
	const char *hint; /* of the last one that gave any */
	char *password;   /* read anew; NULL: the configuration's is good */
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
	if (!s->err->hint)
		s->err->hint = pg_error_obstacle(text);
	if (PQconnectionNeedsPassword(pg)) {
		s->err->hint = pg_error_hint("28P01");
		st = STORE_HOLD;
	}
	if (s->missing && PQdb(pg))
		(void)snprintf(s->missing, 64, "%s", PQdb(pg));
	return st;
}

/* Little at a time: libpq does not return from reading before nothing is left for a moment. */
static void
take_little(const struct pg_conn *c)
{
	const int size = RECEIVE_BUFFER;

	(void)setsockopt(PQsocket(c->pg), SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
}

/* Follows libpq through the stages of a connection. */
static enum store_status
follow(struct search *s, uint64_t timeout_ms)
{
	uint64_t deadline_ms = clock_ms() + timeout_ms;
	PostgresPollingStatusType stage = PGRES_POLLING_WRITING;
	enum store_status st;
	size_t pending;

	if (PQstatus(s->c->pg) == CONNECTION_BAD)
		return failed(s);
	take_little(s->c);
	pg_count_anew(s->c);
	while (stage != PGRES_POLLING_OK) {
		short events = stage == PGRES_POLLING_READING ? POLLIN : POLLOUT;

		st = pg_wait(s->c, events, deadline_ms, s->err);
		if (st != STORE_OK)
			return st;
		pending = pg_pending(s->c);
		stage = PQconnectPoll(s->c->pg);
		if (stage == PGRES_POLLING_FAILED)
			return failed(s);
		pg_count(s->c, pending);
		if (s->c->taken > TAKE_MAX)
			return pg_odd(s->err, "the server says too much before it lets us in");
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
	s->c->answer_ms = s->conf->database.connect_timeout_ms;
	st = pg_select(s->c, sql, PG_ROW(2), &r, s->err);
	s->c->answer_ms = PG_ANSWER_MS;
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

/* ---- backends of before ---- */

/* Asks for one that was left, and ends it; text becomes what it waits for. */
static enum store_status
end_left(struct search *s, int pid, uint64_t ago_ms, char text[64], bool *gone)
{
	PGresult *r = NULL;
	enum store_status st;
	char sql[512];

	/* one that was started since has got the same number by chance */
	(void)snprintf(sql, sizeof(sql),
		       "SELECT pg_catalog.pg_terminate_backend(pid), wait_event_type, wait_event"
		       " FROM pg_catalog.pg_stat_activity WHERE pid = %d AND usename = session_user"
		       " AND application_name = pg_catalog.current_setting('application_name')"
		       " AND pid <> pg_catalog.pg_backend_pid() AND backend_start <"
		       " pg_catalog.clock_timestamp() - %" PRIu64 " * interval '1 millisecond'",
		       pid, ago_ms);
	st = pg_select(s->c, sql, PG_ROW_OR_NONE(3), &r, s->err);
	if (st == STORE_OK) {
		*gone = PQntuples(r) == 0;
		if (!*gone)
			(void)snprintf(text, 64, "%s %s", PQgetvalue(r, 0, 1), PQgetvalue(r, 0, 2));
	}
	PQclear(r);
	return st;
}

/* Waits for the end of one. */
static enum store_status
await_left(struct search *s, int pid, uint64_t ago_ms, char text[64], bool *gone)
{
	enum store_status st = end_left(s, pid, ago_ms, text, gone);

	for (int i = 1; st == STORE_OK && !*gone && i < LEFT_TRIES; i++) {
		st = pg_sleep(s->c, LEFT_PAUSE_MS, s->err);
		if (st == STORE_OK)
			st = end_left(s, pid, ago_ms, text, gone);
	}
	return st;
}

/*
 * We have left backends on this server, and nobody saw them end.  They have to, or there are soon
 * more of them than there are connections for all.
 */
static enum store_status
look_for_left(struct search *s)
{
	char text[64], said[STORE_ERROR_MAX] = "";
	enum store_status st;
	uint64_t ago_ms;
	size_t n = 0;
	int pid;

	while (pg_backends_left(s->c->backend, n, &pid, &ago_ms)) {
		bool gone = false;

		st = await_left(s, pid, ago_ms, text, &gone);
		if (st == STORE_STOPPED || (st != STORE_OK && s->err->reconnect))
			return st;
		if (gone) {
			pg_backends_ended(s->c->backend, pid);
			continue;
		}
		n++;
		(void)snprintf(said, sizeof(said),
			       "a backend of ours that was given up does not end: pid %d%s%s", pid,
			       st == STORE_OK ? ", which waits for " : "",
			       st == STORE_OK ? text : "");
	}
	if (pg_backends_looked(s->c->backend, s->conf->database.connections + 1) == 0)
		return STORE_OK;
	st = pg_fail(s->err, said);
	s->err->hint = "the server does not end it on pg_terminate_backend(): look at its process";
	return st;
}

/* Which server it is that we have backends on. */
static void
name_place(char where[PG_WHERE_MAX], const struct pg_host *host, const char *addr)
{
	(void)snprintf(where, PG_WHERE_MAX, "%s:%s",
		       addr          ? addr
		       : *host->addr ? host->addr
				     : host->name,
		       host->port);
}

/* ---- hosts ---- */

/* Makes a connection out of what has been started. */
static enum store_status
establish(struct search *s, uint64_t timeout_ms)
{
	PGconn *pg = s->c->pg;
	enum store_status st;

	(void)PQsetNoticeProcessor(pg, on_notice, NULL);
	(void)PQsetErrorVerbosity(pg, PQERRORS_VERBOSE); /* for the SQLSTATE */
	st = follow(s, timeout_ms);
	if (st == STORE_OK && PQsetnonblocking(pg, 1) < 0)
		st = pg_fail(s->err, PQerrorMessage(pg));
	if (st != STORE_OK)
		return st;
	(void)PQsetErrorVerbosity(pg, PQERRORS_DEFAULT);
	s->c->cancel = PQgetCancel(pg);
	pg_backends_opened(s->c->backend, PQbackendPID(pg));
	return STORE_OK;
}

/* Where somebody else looks for what was left, that is soon over. */
static enum store_status
enter(struct search *s, const char *where, bool *look)
{
	int r = pg_backends_enter(where, &s->c->backend, look);

	for (int i = 0; r < 0 && i < ENTER_TRIES; i++) {
		enum store_status st = pg_sleep(s->c, ENTER_PAUSE_MS, s->err);

		if (st != STORE_OK)
			return st;
		r = pg_backends_enter(where, &s->c->backend, look);
	}
	return r == 0 ? STORE_OK
		      : pg_fail(s->err, "backends of ours that were given up are being looked for");
}

/* Tries one address of a host; addr is NULL where the host is no name. */
static enum store_status
try_address(struct search *s, const struct pg_host *host, const char *addr)
{
	const struct pg_login login = {
	    .password = s->password ? s->password : s->conf->database.password,
	    .dbname = s->dbname,
	    .addr = addr,
	};
	enum store_status st;
	char where[PG_WHERE_MAX];
	bool look;

	name_place(where, host, addr);
	st = enter(s, where, &look);
	if (st != STORE_OK)
		return st;
	s->c->pg = pg_hosts_start(&s->hosts, host, &login);
	st = s->c->pg ? establish(s, s->conf->database.connect_timeout_ms)
		      : pg_fail(s->err, "out of memory");
	if (st == STORE_OK && look)
		st = look_for_left(s);
	if (st == STORE_OK)
		st = check_kind(s);
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
	if (s->err->hint)
		s->hint = s->err->hint;
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
	if (s->hint)
		s->err->hint = s->hint;
	return STORE_RETRY;
}

/* It may have been rotated since the configuration was read. */
static void
read_password(struct search *s)
{
	const char *path = s->conf->database.password_source;
	char why[CONF_WHY_MAX];
	int r = path ? conf_password_read(path, &s->password, why) : 0;

	if (r == -EINVAL)
		log_event_limited(LOG_WARNING, "password_unreadable", "password_unreadable",
				  LOG_STR("file", path), LOG_STR("error", why),
				  LOG_STR("hint", "the password of before is tried"));
}

static void
init(struct pg_conn *c, int stop_fd, uint64_t answer_ms)
{
	*c = (struct pg_conn){.stop_fd = stop_fd, .answer_ms = answer_ms};
}

enum store_status
pg_connect_again(struct pg_conn *c, const struct pg_conn *like, struct store_error *err)
{
	struct search s = {.c = c, .conf = like->conf, .err = err};
	enum store_status st;

	init(c, like->stop_fd, AGAIN_MS);
	if (pg_backends_watch(like->backend, &c->backend) < 0)
		return pg_error_set(err, "55P03", "another connection looks already", NULL, true);
	c->pg = pg_hosts_again(like->pg);
	st = c->pg ? establish(&s, AGAIN_MS) : pg_fail(err, "out of memory");
	if (st != STORE_OK)
		pg_close(c);
	return st;
}

enum store_status
pg_connect(struct pg_conn *c, const struct conf *conf, const char *dbname, char missing[64],
	   struct store_error *err)
{
	struct search s = {.c = c, .conf = conf, .dbname = dbname, .missing = missing, .err = err};
	enum store_status st;
	int r;

	init(c, c->stop_fd, PG_ANSWER_MS);
	c->conf = conf;
	r = pg_hosts_init(&s.hosts, conf->database.uri);
	if (r == -EINVAL) {
		(void)pg_fail(err, "database.uri is not a connection string");
		err->hint = "see \"Connection Strings\" in the PostgreSQL manual; special "
			    "characters in a postgresql:// address are written as %XX";
		st = STORE_HOLD;
	} else if (r < 0) {
		st = pg_fail(err, strerror(-r));
	} else {
		read_password(&s);
		st = search(&s);
	}
	conf_secret_free(s.password);
	pg_hosts_done(&s.hosts);
	return st;
}
