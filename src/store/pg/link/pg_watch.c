#include "store/pg/link/pg_watch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/log.h"

#define LOST_MS 10000 /* so long without work for us, while we wait for an answer */

/* Who is idle has no business with us: what a pooler shows as our backend is none of ours. */
static const char watch_sql[] =
    "SELECT a.state, a.wait_event_type, a.wait_event,"
    " (extract(epoch FROM pg_catalog.clock_timestamp() - a.state_change) * 1000)::bigint,"
    " b.pid, b.application_name, b.usename"
    " FROM (VALUES (%d)) one (pid) LEFT JOIN pg_catalog.pg_stat_activity a"
    "  ON a.pid = one.pid AND a.usename = session_user"
    " LEFT JOIN LATERAL (SELECT * FROM pg_catalog.pg_stat_activity s"
    "  WHERE s.pid = ANY (pg_catalog.pg_blocking_pids(a.pid))"
    "  ORDER BY s.xact_start LIMIT 1) b ON true";

static void
judge(struct pg_sight *s, const PGresult *r, bool certain)
{
	const char *state = PQgetvalue(r, 0, 0), *type = PQgetvalue(r, 0, 1);
	const char *event = PQgetvalue(r, 0, 2);

	if (PQgetisnull(r, 0, 0)) {
		s->seen = certain ? PG_SEEN_DONE : PG_SEEN_NOTHING;
		return;
	}
	if (strcmp(state, "active") != 0) {
		if (strtoull(PQgetvalue(r, 0, 3), NULL, 10) >= LOST_MS)
			s->seen = PG_SEEN_DONE;
		return;
	}
	s->seen = PG_SEEN_WORKING;
	(void)snprintf(s->what, sizeof(s->what), "%s%s%s", type, *type ? " " : "", event);
	if (strcmp(type, "Lock") == 0)
		s->seen = PG_SEEN_WAITING;
	else if (strcmp(event, "SyncRep") == 0)
		s->seen = PG_SEEN_STANDBY;
	s->pid = (int)strtoul(PQgetvalue(r, 0, 4), NULL, 10);
	(void)snprintf(s->application, sizeof(s->application), "%s", PQgetvalue(r, 0, 5));
	(void)snprintf(s->user, sizeof(s->user), "%s", PQgetvalue(r, 0, 6));
}

void
pg_watch(const struct pg_conn *c, struct pg_sight *ret)
{
	struct store_error err = {.sqlstate = ""};
	char sql[sizeof(watch_sql) + 16];
	struct pg_conn other;
	PGresult *r = NULL;
	enum store_status st = pg_connect_again(&other, c, &err);

	*ret = (struct pg_sight){.seen = PG_SEEN_NOTHING};
	ret->reached = st == STORE_OK || *err.sqlstate;
	(void)snprintf(sql, sizeof(sql), watch_sql, c->pid ? c->pid : PQbackendPID(c->pg));
	if (st == STORE_OK)
		st = pg_select(&other, sql, PG_ROW(7), &r, &err);
	if (st == STORE_OK)
		judge(ret, r, c->pid != 0);
	PQclear(r);
	pg_close(&other);
}

const char *
pg_watch_hint(const struct pg_sight *s)
{
	switch (s->seen) {
	case PG_SEEN_NOTHING:
	case PG_SEEN_WORKING:
	case PG_SEEN_DONE:
		return NULL;
	case PG_SEEN_WAITING:
		return s->pid ? "the session with this pid holds the lock: let it end, or end it "
				"with pg_terminate_backend()"
			      : "another session holds the lock: pg_locks tells which";
	case PG_SEEN_STANDBY:
		return "a commit waits for a standby: start it, or change "
		       "synchronous_standby_names of the server";
	}
	return NULL;
}

void
pg_watch_log(const struct pg_sight *s, uint64_t since_ms)
{
	bool waits = s->seen == PG_SEEN_WAITING || s->seen == PG_SEEN_STANDBY;

	log_event_limited(
	    waits ? LOG_WARNING : LOG_INFO, "database_waits",
	    waits ? "database_waits" : "database_works", LOG_STR("for", *s->what ? s->what : NULL),
	    LOG_F64("seconds", (double)since_ms / 1000),
	    s->pid ? LOG_U64("pid", (uint64_t)s->pid) : LOG_NONE,
	    s->pid ? LOG_STR("application", s->application) : LOG_NONE,
	    s->pid ? LOG_STR("user", s->user) : LOG_NONE, LOG_STR("hint", pg_watch_hint(s)));
}
