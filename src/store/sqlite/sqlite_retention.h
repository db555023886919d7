/*
 * sqlite_retention.h - deletes old rows of metrics, and gives their pages back to the disk.
 *
 * SQLite has one writer: so this is done in slices of SLICE_MS, with pauses in which batches are
 * stored, for ROUND_MS of a minute at the most, and only while the -wal is small; a later round
 * goes on.
 */
#pragma once

#include "store/sqlite/sqlite_db.h"

/*
 * Deletes rows older than before_us.  A row whose deletion a trigger or constraint refuses is passed
 * over and told of (retention_failed).  Logs rows_deleted.
 */
enum store_status sqlite_retention(struct sqlite_db *s, uint64_t before_us,
				   struct store_error *err);

/*
 * Shortens the file by pages that are free, beyond some that the next batches will fill.  Only files
 * with auto_vacuum = incremental, as new ones have it, can be.
 */
enum store_status sqlite_shrink(struct sqlite_db *s, struct store_error *err);
