/*
 * pg_lock.h - one collector at a time changes the schema.
 *
 * Everything is checked by reading first.  Only what is missing is made, in transactions that hold
 * one advisory lock and read again under it, so that collectors which start at the same time make
 * it once.
 */
#pragma once

#include "store/pg/link/pg_conn.h"

/*
 * For what is made again where it gets lost: a standby that is away does not hold it up.
 * The next batch's commit is behind it in the log, and takes it along.
 */
#define PG_NO_STANDBY "SET LOCAL synchronous_commit = local;"

/* How long the lock is waited for: anybody may take it, so only what batches need waits long. */
#define PG_LOCK_SETUP_MS 60000
#define PG_LOCK_TRY_MS 2000 /* housekeeping comes again */

/*
 * The same for tables: behind who waits for one, batches queue up.  A collector that stands
 * still in the middle is thrown out by the server, as in any transaction (pg_session.h).
 */
#define PG_LOCK_SETUP_TABLE_MS 10000
#define PG_LOCK_TABLE_MS 2000

/*
 * Starts a transaction that holds the lock until its end.  A wait of more than five seconds is
 * logged (database_waits); after wait_ms it is 55P03, c->lock_busy is set, and err names who holds
 * the lock.
 */
enum store_status pg_lock_begin(struct pg_conn *c, uint64_t wait_ms, struct store_error *err);

/*
 * Commits when st is STORE_OK; else undoes what was done, and st goes on.  Where the wait for a
 * table has ended it (55P03), err names who holds that.
 */
enum store_status pg_lock_end(struct pg_conn *c, enum store_status st, struct store_error *err);
