/*
 * isolate.h - a batch in which the database refuses some row.
 *
 * One transaction: the ledger row, then halves of the batch, each behind a
 * savepoint.  A half that is refused is halved again until single rows are left to blame,
 * which go to metric_collectord.rejected.  All the others are stored.
 */
#pragma once

#include "buffer/batch.h"
#include "store/pg_conn.h"

/*
 * Stores b.  settings are statements for the start of the transaction, ledger claims the
 * ledger's row.  STORE_OK with the number of refused rows (each logged as row_rejected).
 * Otherwise the transaction is left to be rolled back, so that pg_failed_on() still
 * tells whether the ledger's key was the obstacle.
 */
enum store_status isolate(struct pg_conn *c, const struct batch_view *b, const char *settings,
			  const char *ledger, uint64_t *rejected, struct store_error *err);
