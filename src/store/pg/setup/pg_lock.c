#include "store/pg/setup/pg_lock.h"

/* Any number that nobody else takes: "mcollect". */
#define LOCK_KEY "7882266284294234996"

enum store_status
pg_lock_begin(struct pg_conn *c, struct store_error *err)
{
	/* READ COMMITTED: what follows must see what the last holder of the lock did */
	return pg_query(c,
			"BEGIN ISOLATION LEVEL READ COMMITTED;" PG_NO_STATEMENT_TIMEOUT
			"SET LOCAL lock_timeout = 0;"
			"SELECT pg_catalog.pg_advisory_xact_lock(" LOCK_KEY ")",
			NULL, err);
}

enum store_status
pg_lock_end(struct pg_conn *c, enum store_status st, struct store_error *err)
{
	if (st == STORE_OK)
		return pg_query(c, "COMMIT", NULL, err);
	pg_rollback(c, err);
	return st;
}
