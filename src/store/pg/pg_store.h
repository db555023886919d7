/*
 * pg_store.h - a connection to PostgreSQL, as the parts of this store share it.  Nobody else
 *includes it.
 *
 *	postgres.c             opening for each use; storing a batch
 *	setup/pg_prepare.c     what must be there before the first batch: looked at, or made
 *	upkeep/pg_upkeep.c     what the janitor does from then on
 */
#pragma once

#include <assert.h>
#include <string.h>

#include "store/pg/batch/pg_shape.h"
#include "store/pg/link/pg_conn.h"
#include "store/pg/setup/pg_columns.h"
#include "store/store.h"

#define PG_SAME_SERVER_MAX 256
#define PG_SETTINGS_MAX (PG_SAME_SERVER_MAX + PG_GUARD_MAX + 512)

struct postgres {
	struct store base;
	const struct conf *conf; /* borrowed */
	struct pg_conn c;
	struct pg_guard guard;
	char same_server[PG_SAME_SERVER_MAX]; /* for the start of a transaction, see pg_prepare.c */
	char settings[PG_SETTINGS_MAX];       /* likewise, of a batch's */
	struct pg_shaper shaper;
	bool hypertable;
	bool look_again; /* at the table, before the next batch */
};

/* A collector's UUID stands in SQL as it is: there is nothing to escape in it. */
static inline void
pg_assert_uuid(const char *collector)
{
	assert(strspn(collector, "0123456789abcdefABCDEF-") == strlen(collector));
}

/* ---- setup/pg_prepare.c ---- */

/* Makes whatever is missing for batches to be stored. */
enum store_status pg_prepare(struct postgres *p, struct store_error *err);

/* Looks whether all of that is there, and makes nothing; err->unprepared if not. */
enum store_status pg_verify(struct postgres *p, struct store_error *err);

/* Reads the columns, and composes p->settings. */
enum store_status pg_read_columns(struct postgres *p, struct store_error *err);

/* Is what the server missed (a table, a schema, the database) a matter of set-up? */
bool pg_is_unprepared(const struct store_error *err);

/* ---- upkeep/pg_upkeep.c: of struct store_ops ---- */

enum store_status pg_maintain(struct store *store, const char *collector, uint64_t floor,
			      struct store_error *err);
enum store_status pg_claim(struct store *store, const char *collector, uint64_t complete_until_us,
			   struct store_error *err);
enum store_status pg_missing(struct store *store, const char *collector, uint64_t *numbers,
			     size_t *n, struct store_error *err);
