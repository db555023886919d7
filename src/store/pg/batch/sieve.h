/*
 * sieve.h - the rows of a batch, tried by the server.
 *
 * The rows go into a temporary table, and a block of PL/pgSQL puts them into metrics, many at
 * once where that works, one by one where it does not: no round trip is made for a row.  Those
 * that are refused are noted in a second table.  All in the caller's transaction.
 */
#pragma once

#include "buffer/batch.h"
#include "store/pg/link/pg_conn.h"

/* What came of it.  Rows are counted from 1, in the order of the batch; 0: none. */
struct sieve_result {
	uint64_t refused;
	uint64_t first_stored;
};

/*
 * Makes the tables and fills them.  *usable says whether the server can do that: the role may make
 * temporary tables, and metrics is a table that takes INSERT as it takes COPY.  The transaction is
 * as before where it cannot.
 */
enum store_status sieve_fill(struct pg_conn *c, const struct batch_view *b, bool *usable,
			     struct store_error *err);

/*
 * Tries all rows.  Passing troubles are not noted as a row's, and end it with a status; so does
 * what a trigger raises not.
 */
enum store_status sieve_run(struct pg_conn *c, uint64_t rows, struct sieve_result *ret,
			    struct store_error *err);

/* Copies the refused ones to the rejected table. */
enum store_status sieve_reject(struct pg_conn *c, const struct batch_view *b,
			       struct store_error *err);

/* The first refused row of each SQLSTATE, the most frequent ones first: SQLSTATE, n; for PQclear(). */
enum store_status sieve_states(struct pg_conn *c, unsigned max, PGresult **ret,
			       struct store_error *err);

/* The first refused rows, at most that many: n, SQLSTATE, error; for PQclear(). */
enum store_status sieve_show(struct pg_conn *c, unsigned max, PGresult **ret,
			     struct store_error *err);

/*
 * The SQLSTATEs that are never a row's unless a trigger raised them, as a regular expression:
 * PG_RETRY of pg_error.h.
 */
#define SIEVE_PASSING "^(08|25006|25P03|25P04|40|53|55P03|57|58)"
