/*
 * janitor.h - the thread that looks after the database, so that writers need not.
 *
 * It sets up what must be there before the first batch (database, migrations, hypertable,
 * distribution, the partitions around now), and from then on, every minute and when it is asked,
 * does the upkeep: policies, rollups, partitions, crowds of rows to move, ledger rows, claims, and
 * the comparison of kept batches with the ledger (buffer.keep).  What it waits for (a lock, a long
 * DDL) no batch waits for, once the table is there.  It has a connection of its own, while
 * something is due.
 *
 * It logs what fails as writers do (database_unavailable), and upkeep_done {seconds} once its first
 * round is over.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>

#include "buffer/queue/queue.h"
#include "conf/conf.h"
#include "store/status.h"

struct janitor;

/*
 * Starts the thread.  All arguments are borrowed.  stop ends its waits for work, stop_fd, once it
 * is readable, those for the database.  changed(arg) is called from the thread when its status
 * changes and when it ends.
 */
int janitor_start(const struct conf *conf, struct queue *q, const atomic_int *stop, int stop_fd,
		  void (*changed)(void *arg), void *arg, struct janitor **ret);
bool janitor_ended(const struct janitor *j);
void janitor_free(struct janitor *j); /* joins; NULL is fine */

enum writers_status janitor_status(const struct janitor *j);

/* ---- writers ---- */

/* Is the table there?  Until then a writer need not connect; queue_kick() tells when it is. */
bool janitor_is_ready(const struct janitor *j);

/* How many rounds there have been: after each the table may be another one. */
unsigned janitor_rounds(const struct janitor *j);

/* Something essential was found missing: it is not ready until that has been looked at. */
void janitor_set_up(struct janitor *j);

/* Something is wrong that set-up may mend: a round now, in place of in a minute. */
void janitor_look(struct janitor *j);

/* A connection was made: perhaps to a server that lacks batches which are kept. */
void janitor_compare_kept(struct janitor *j);

/* A batch was stored, and with it a promise; a claim is due only when none was for a while. */
void janitor_note_stored(struct janitor *j);
