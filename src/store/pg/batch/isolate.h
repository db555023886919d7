/*
 * isolate.h - a batch in which the database refuses some row, or we do.
 *
 * One transaction: the ledger row, then halves of the batch, each behind a
 * savepoint.  A half that is refused is halved again until single rows are left to blame,
 * which go to metric_collectord.rejected.  All the others are stored.
 *
 * Rows that shall not be tried at all go there in the same transaction.
 *
 * Citus hides why a node refuses a COPY: all that comes is XX000.  A distributed batch is therefore
 * halved for that, too, and single rows are tried with INSERT, which tells.
 */
#pragma once

#include "buffer/batch.h"
#include "store/pg/link/pg_conn.h"

/* Frames back to back; borrowed. */
struct isolate_rows {
	const uint8_t *frames;
	size_t len;
	uint64_t rows;
};

/* Does an error leave it open that some row of a COPY is to blame? */
bool isolate_helps(const struct pg_conn *c, const struct store_error *err);

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
 * (each that was tried is logged as row_rejected).  Otherwise the transaction is left
 * to be rolled back, so that pg_failed_on() still tells whether the ledger's key was the obstacle.
 */
enum store_status isolate(struct pg_conn *c, const struct batch_view *b, const char *settings,
			  const char *ledger, const struct isolate_refused *refused,
			  uint64_t *rejected, struct store_error *err);
