/*
 * pg_policy.h - what TimescaleDB does to metrics by itself, as the section "table" says.
 *
 *	chunk_interval   the interval of the hypertable's chunks
 *	columnstore      segmented by metric_name, ordered by time DESC
 *	work_mem         of the database, for those who read the columnstore, unless it is set
 *	compress_after   a columnstore policy
 *	rollup NAME      a continuous aggregate, metrics_1m, metrics_1h, ..., and its refresh policy
 *	retention        a retention policy
 *
 * The database is the truth: what it has is read and compared with what is wanted, and only a
 * difference is a change, made in a transaction of its own under the lock of pg_lock.h.  What the
 * daemon made is recorded in metric_collectord.policies, and nothing else is ever removed.
 */
#pragma once

#include "store/pg/link/pg_conn.h"

/*
 * The first two, which count for the next batch: before there is one.  Where that cannot be done,
 * batches are stored all the same (STORE_OK), and pg_policy_apply() will say why.
 */
enum store_status pg_policy_prepare(struct pg_conn *c, const struct conf *conf,
				    struct store_error *err);

/*
 * Applies what differs, if database.migrate lets us, and logs policy_applied {policy, value} (""
 * when it was removed).  What the role may not do is logged as policy_failed, and what the Apache
 * edition lacks once as policies_left_out; both count as STORE_OK.  A hypertable that others have
 * made keeps its interval and its columnstore (table_differs).  *again tells whether another try
 * may do better, since a lock was not to be had, for instance.
 */
enum store_status pg_policy_apply(struct pg_conn *c, const struct conf *conf, bool *again,
				  struct store_error *err);
