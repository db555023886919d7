/*
 * pg_retention.h - table.retention of a hypertable where TimescaleDB does not see to it.
 *
 * As a rule a policy of TimescaleDB's deletes what has expired (pg_policy.h), and of a partitioned
 * table expired partitions are dropped (pg_partition.h).  The Apache edition of TimescaleDB has no
 * policies, and the policy's job ends at the first chunk that it cannot drop, because of a view on
 * it: there it is done here, chunk by chunk.
 */
#pragma once

#include "store/pg/link/pg_conn.h"

/*
 * Drops chunks that have expired, where nobody else does; logs chunks_dropped, and policy_failed
 * where it cannot, which is STORE_OK.
 */
enum store_status pg_retention(struct pg_conn *c, const struct conf *conf, struct store_error *err);
