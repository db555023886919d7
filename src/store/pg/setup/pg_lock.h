/*
 * pg_lock.h - one collector at a time changes the schema.
 *
 * Everything is checked by reading first.  Only what is missing is made, in transactions that hold
 * one advisory lock and read again under it, so that collectors which start at the same time make
 * it once.
 */
#pragma once

#include "store/pg/link/pg_conn.h"

#define PG_LOCK_NO_LIMIT 0

/*
 * Starts a transaction that holds the lock until its end.  wait_ms is how long it waits for it at
 * the most (55P03).  With a limit, tables are not waited for longer than PG_LOCK_TABLE_MS either:
 * behind who waits for one, batches queue up.
 */
#define PG_LOCK_TABLE_MS 2000
enum store_status pg_lock_begin(struct pg_conn *c, uint64_t wait_ms, struct store_error *err);

/* Commits when st is STORE_OK; else undoes what was done, and st goes on. */
enum store_status pg_lock_end(struct pg_conn *c, enum store_status st, struct store_error *err);
