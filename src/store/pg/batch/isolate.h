/*
 * isolate.h - a batch in which the database refuses some row, or we do.
 *
 * One transaction: the ledger row, the rows, each of which is tried by itself if need be, and those
 * that are refused, which go to metric_collectord.rejected.  The server does the trying (sieve.h);
 * where it cannot, halves of the batch are tried from here, each behind a savepoint, until single
 * rows are left to blame.  Where most rows are refused it is found out first whether it is they or
 * the table (blame.h): then nothing is rejected.
 *
 * Rows that shall not be tried at all go to the rejected table in the same transaction.
 *
 * Citus hides why a node refuses a COPY: all that comes is XX000.  A distributed batch is therefore
 * halved, and single rows are tried with INSERT, which tells.  An XX000 of one is a node's.
 */
#pragma once

#include "buffer/batch.h"
#include "store/pg/batch/blame.h"
#include "store/pg/link/pg_conn.h"

/* Frames back to back; borrowed. */
struct isolate_rows {
	const uint8_t *frames;
	size_t len;
	uint64_t rows;
};

/* Rows that are not tried, and why; both texts end up in the rejected table. */
struct isolate_refused {
	struct isolate_rows rows;
	const char *reason; /* a word, shorter than ISOLATE_REASON_MAX */
	const char *error;
};
#define ISOLATE_REASON_MAX 32

/*
 * Stores b.  settings are statements for the start of the transaction, ledger claims the
 * ledger's row, as if all rows, those of refused among them, were stored.  refused may be NULL;
 * none of its rows is among those of b.  STORE_OK with the number of rows in the rejected table
 * (of those that were tried, the first few are logged as row_rejected, and all of them together as
 * rows_rejected).  Otherwise the transaction is left to be rolled back, so that pg_failed_on()
 * still tells whether the ledger's key was the obstacle.  A hint of err may lie in blame.
 */
enum store_status isolate(struct pg_conn *c, struct blame *blame, const struct batch_view *b,
			  const char *settings, const char *ledger,
			  const struct isolate_refused *refused, uint64_t *rejected,
			  struct store_error *err);
