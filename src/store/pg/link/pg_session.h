/*
 * pg_session.h - what a session needs, whatever others have set for its role or its database.
 *
 * ALTER ROLE and ALTER DATABASE give a session a date style, a time zone, a way to read strings, a
 * search_path, limits and a kind of transaction that are meant for people.  A pooler may lead each
 * transaction to another session, so that nothing can be set once: what is needed is said at the
 * beginning of each transaction, by pg_query() and pg_query_params() where none is open yet, and by
 * who begins one with c->begin.
 *
 * One thing cannot be said in the message that it is meant for: how strings are read.  So no literal
 * of ours has a backslash in it.
 *
 * Where search_path leads to is also where metrics is looked for, but only as long as it is not
 * known: the schema that it was found or made in is recorded in metric_collectord.home, and
 * from then on comes first in the search_path of our transactions.
 */
#pragma once

#include "store/pg/link/pg_conn.h"

/*
 * Looks what is set, where metrics is or is to be made, and what the server's clock says; composes
 * c->begin and c->prefix.  pg_connect() has called it; it is to be called again once the schema was
 * made.
 */
enum store_status pg_session(struct pg_conn *c, struct store_error *err);

/* Forgets it all.  A zeroed connection is fine. */
void pg_session_done(struct pg_conn *c);

/*
 * The server's clock, in µs since 1970.  It goes on by our monotonic clock from when it was read
 * last: whatever happens to our real-time clock is no matter.  Reads it if it has not been for a
 * minute.
 */
enum store_status pg_now(struct pg_conn *c, uint64_t *now_us, struct store_error *err);

/* What our real-time clock was ahead of the server's when that was read last; 0 if it was not. */
int64_t pg_clock_ahead_us(const struct pg_conn *c);

/*
 * The same instant by the server's clock as that one by ours, or a moment earlier, never later.  0
 * where that makes no sense, since our clock was set back meanwhile, and for 0.
 */
enum store_status pg_instant(struct pg_conn *c, uint64_t ours_us, uint64_t *ret,
			     struct store_error *err);
