/*
 * pg_watch.h - what does a statement wait for?
 *
 * Only the server knows, and only another connection can ask it while the statement runs.  That one
 * is closed again at once.
 */
#pragma once

#include "store/pg/link/pg_conn.h"

enum pg_seen {
	PG_SEEN_NOTHING, /* it could not be looked: no connection, or a pooler is in between */
	PG_SEEN_WORKING,
	PG_SEEN_WAITING, /* for a lock of another session */
	PG_SEEN_STANDBY, /* for one that is away: no work is left to do */
	PG_SEEN_DONE,    /* the server has nothing to do for us: question or answer was lost */
};

struct pg_sight {
	enum pg_seen seen;
	bool reached;  /* there is a server, or a pooler, that lets us in or says why not */
	char what[64]; /* "Lock relation", as pg_stat_activity calls it */
	int pid;       /* who holds the lock; 0: nobody is known */
	char application[64];
	char user[64];
};

/* Looks at the backend of a connection. */
void pg_watch(const struct pg_conn *c, struct pg_sight *ret);

/* Says so in the log: database_waits, or database_works where it does not wait for others. */
void pg_watch_log(const struct pg_sight *s, uint64_t since_ms);

/* What an operator can do about what was seen, a static string; NULL where there is nothing. */
const char *pg_watch_hint(const struct pg_sight *s);
