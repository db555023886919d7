/*
 * writer.h - the threads that carry batches from the queue to the store.
 *
 * Each of database.connections threads owns one connection.  Once the janitor (janitor.h), which is
 * part of the pool, has set up the table, it connects, then takes, stores and
 * reports batches until it is stopped; what fails is tried again with jittered
 * exponential back-off.  A pool belongs to one configuration: a reload stops the pool and
 * starts another on the same queue, which is safe at every moment, since a batch that
 * was cut off is recognised by the ledger.
 *
 * Writers log what they do: database_unavailable, batch_stored, batch_held.
 */
#pragma once

#include <stdbool.h>

#include "buffer/queue/queue.h"
#include "conf/conf.h"

struct writers;

enum writers_status {
	WRITERS_CONNECTING,  /* not tried yet */
	WRITERS_OK,          /* every connection is good */
	WRITERS_UNAVAILABLE, /* the last try failed; it goes on trying */
	WRITERS_HELD,        /* an operator must act */
};

/*
 * changed(arg) is called from a writer thread when the status changes or a thread has
 * ended.  Takes a reference of conf.  The threads have all signals blocked.
 */
int writers_start(struct conf *conf, struct queue *q, void (*changed)(void *arg), void *arg,
		  struct writers **ret);

enum writers_status writers_status(const struct writers *w);
bool writers_can_store(const struct writers *w); /* did the last try of one of them go well? */
const char *writers_status_name(enum writers_status s); /* "ok", "unavailable", ... */

/* Asks all threads to end: what waits is cut off, batches under way are returned. */
void writers_stop(struct writers *w);

/*
 * The same, but a batch that is under way is finished first: another database would not recognise
 * it.  writers_stop() later on cuts that off.  The janitor is cut off at once.
 */
void writers_retire(struct writers *w);

/* Have all threads ended?  Then writers_free() does not wait. */
bool writers_ended(const struct writers *w);

/* Joins and frees; only after writers_ended().  NULL is fine. */
void writers_free(struct writers *w);
