/*
 * janitor.h - the thread that looks after the database, so that writers only write.
 *
 * One thread with a connection of its own, which it opens when something is due and closes after
 * each round of work.  It makes what batches need before the first one (upkeep_setup()), and
 * then does what no batch has to wait for: policies, partitions, rollups, ledger rows, claims,
 * and for buffer.keep the comparison of kept batches with the ledger.
 *
 *	due                          when
 *	set up                       at the start, and when a writer finds something missing
 *	compare (buffer.keep)        a writer has connected, or the server is not the one of before
 *	claim                        nothing was stored or claimed for CLAIM_MS
 *	maintain                     after each set-up, and every MAINTAIN_MS
 *
 * It belongs to a pool of writers (writer.h), and starts and stops with it.
 */
#pragma once

#include <stdbool.h>

#include "buffer/queue/queue.h"
#include "conf/conf.h"
#include "store/store.h"

struct janitor;

/*
 * changed(arg) is called from the janitor's thread when janitor_status() changes, and when the
 * thread has ended.  Takes a reference of conf.  The thread has the caller's signal mask.
 */
int janitor_start(struct conf *conf, struct queue *q, void (*changed)(void *arg), void *arg,
		  struct janitor **ret);

/* Cuts off whatever it does; its work is done in transactions, and the next janitor goes on. */
void janitor_stop(struct janitor *j);
bool janitor_ended(const struct janitor *j);
void janitor_free(struct janitor *j); /* only after janitor_ended(); NULL is fine */

/* What came of the last try to set up: STORE_OK also while there was none. */
enum store_status janitor_status(const struct janitor *j);

/* ---- for writers, from any thread ---- */

/* Waits until the table has been set up; false once the janitor is stopped. */
bool janitor_wait_ready(struct janitor *j);

/* Something essential is missing: until it has been set up again, nobody is ready. */
void janitor_ask_setup(struct janitor *j);

/*
 * A writer has connected, perhaps to a server that lacks commits.  Until kept batches have been
 * compared with its ledger, janitor_compared() is false, and a batch must not promise that all that
 * came before it is stored.
 */
void janitor_ask_compare(struct janitor *j);
bool janitor_compared(struct janitor *j);

/*
 * Is that the database that the janitor has been to?  It alone judges whether that is the one in
 * which batches were stored before; if not, nobody is ready.
 */
bool janitor_knows(struct janitor *j, const char *database);

/* A batch was stored, which made a claim needless for now; the spool is to remember where. */
void janitor_note_stored(struct janitor *j);
