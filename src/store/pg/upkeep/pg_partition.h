/*
 * pg_partition.h - metrics partitioned by time, where there is no TimescaleDB.
 *
 *	metrics                      PARTITION BY RANGE (time)
 *	  metrics_p20260131          [2026-01-31, 2026-02-01): table.chunk_interval each
 *	  metrics_p20260201
 *	  metrics_default            everything else: no row is ever without a home
 *
 * Partitions are made ahead of the clock, by the janitor and not while a batch waits.  Rows from
 * other times (late ones, a backfill, a sender whose clock is wrong) go to the default partition;
 * an interval that gathers many there gets a partition of its own, and they move into it, while
 * batches go on.  Expired partitions are dropped.  Only a table that the
 * migrations made is touched.
 */
#pragma once

#include "store/pg/link/pg_conn.h"

/*
 * The partitions of the present, before the first batch.  Where they cannot be made, the default
 * one will do (STORE_OK), and pg_partition_maintain() will say why.
 */
enum store_status pg_partition_prepare(struct pg_conn *c, const struct conf *conf,
				       struct store_error *err);

/*
 * One round of all that, every minute or so.  Logs partition_created,
 * partition_dropped, and partition_failed where the role may not or a lock is not to be had:
 * metrics are stored all the same, so that this is STORE_OK.
 */
enum store_status pg_partition_maintain(struct pg_conn *c, const struct conf *conf,
					struct store_error *err);
