/*
 * pg_table.h - what is to be known of the table metrics to choose how a batch is stored.
 *
 * Read when connecting and again from time to time, since operators add indexes and triggers.
 */
#pragma once

#include "store/pg/batch/chunk_guard.h"
#include "store/pg/link/pg_conn.h"

struct pg_table {
	uint64_t chunk_interval_us; /* of chunks that rows create by themselves; 0 = they do not */
	const char *not_direct;     /* why rows cannot go straight into the columnstore, a static
				       string; NULL: they can */
};

/* Reads the catalogs; a table that is no hypertable is fine. */
enum store_status pg_table_read(struct pg_conn *c, struct pg_table *ret, struct store_error *err);

/*
 * The chunks that hold any time between two instants, ready for chunk_guard_init(); the caller
 * frees them.
 */
enum store_status pg_table_ranges(struct pg_conn *c, uint64_t min_us, uint64_t max_us,
				  struct chunk_range **ret, size_t *n, struct store_error *err);

/* Is an extension's version, such as "2.28.3", at least that one?  "2.28.1-dev" is not 2.28.1. */
bool pg_version_at_least(const char *version, unsigned major, unsigned minor, unsigned patch);
