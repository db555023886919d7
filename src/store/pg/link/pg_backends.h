/*
 * pg_backends.h - how many backends we have on a server, those that we have left included.
 *
 * A connection that is given up does not end its backend: that goes on with what it does, waits for
 * a lock, or for a standby that is away.  To open another one each time would in the end lock
 * everybody out of the server.  So one that was not seen to end (pg_close()) is remembered, and
 * who connects to the same server next asks for it first.  At any time there are no more than
 * database.connections + 2 on a server:
 *
 *	database.connections of writers, one of the janitor: in use, or left and not yet ended
 *	one of whoever looks: for those that were left, or what a statement waits for (pg_watch.h)
 *
 * From any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PG_WHERE_MAX 320

struct pg_backend;

/*
 * A connection to a server is about to be opened; where names the server.  *look: backends were
 * left there, and have to be asked for before the connection is used; until pg_backends_looked()
 * nobody else looks.  -EBUSY: somebody else does.
 */
int pg_backends_enter(const char *where, struct pg_backend **ret, bool *look);

/* A connection that looks at what another one does.  -EBUSY: not now. */
int pg_backends_watch(const struct pg_backend *other, struct pg_backend **ret);

/* It has been opened. */
void pg_backends_opened(struct pg_backend *b, int pid);

/* It has been closed; gone: the backend has ended, or there was none.  NULL is fine. */
void pg_backends_close(struct pg_backend *b, bool gone);

/*
 * The n-th of those that were left on the server of b; false behind the last one.  ago_ms: since
 * it was left.
 */
bool pg_backends_left(const struct pg_backend *b, size_t n, int *pid, uint64_t *ago_ms);

/* One of these has ended. */
void pg_backends_ended(const struct pg_backend *b, int pid);

/* All were asked for.  -EBUSY: with those that are left there are limit of them without b. */
int pg_backends_looked(struct pg_backend *b, size_t limit);
