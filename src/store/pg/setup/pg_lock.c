#include "store/pg/setup/pg_lock.h"

#include <inttypes.h>
#include <stdio.h>

/* Any number that nobody else takes: "mcollect". */
#define LOCK_KEY "7882266284294234996"

enum store_status
pg_lock_begin(struct pg_conn *c, uint64_t wait_ms, struct store_error *err)
{
	char sql[384];

	(void)snprintf(sql, sizeof(sql),
		       "SET LOCAL lock_timeout = %" PRIu64 ";"
		       "SELECT pg_catalog.pg_advisory_xact_lock(" LOCK_KEY ");"
		       "SET LOCAL lock_timeout = %d",
		       wait_ms, wait_ms == PG_LOCK_NO_LIMIT ? 0 : PG_LOCK_TABLE_MS);
	/* it is READ COMMITTED: what follows must see what the last holder of the lock did */
	return pg_begin(c, sql, err);
}

enum store_status
pg_lock_end(struct pg_conn *c, enum store_status st, struct store_error *err)
{
	if (st == STORE_OK)
		return pg_query(c, "COMMIT", NULL, err);
	pg_rollback(c, err);
	return st;
}
