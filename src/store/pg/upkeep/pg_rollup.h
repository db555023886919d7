/*
 * pg_rollup.h - continuous aggregates of metrics, metrics_1m, metrics_1h, ..., and their refresh.
 *
 * A rollup's view is real-time: what its refresh has not reached is computed from metrics.  A
 * refresh takes complete buckets only, and only those whose metrics have changed.
 *
 * How far back it reaches: as far as metrics are kept, so that rows that come late are counted; and
 * no further.  Deleting metrics marks their buckets as changed, and a refresh would compute them
 * anew, from nothing.  What may have been deleted is bounded by retention for all of them, and for
 * one that was off for a time by what is there when it is switched on again.
 *
 * A policy is named "rollup metrics_1h"; bucket_us is the width of its buckets, in microseconds.
 */
#pragma once

#include "store/pg/upkeep/pg_policy_state.h"

#define PG_ROLLUP_MAX 64 /* a policy's name with its NUL */

void pg_rollup_name(char out[PG_ROLLUP_MAX], uint64_t bucket_us);

/*
 * Does the refresh that was found reach about as far back as it should?  A window that may be wider
 * again is left alone while it grows with the time: not at each start.
 */
bool pg_rollup_reaches(const struct pg_policy_state *s, const char *policy);

/*
 * Makes the view if there is none, and gives it a refresh in the place of the one it may have.
 * Within a transaction, in which s was read.  TimescaleDB refuses a window of less than two
 * buckets, and so it should.
 */
enum store_status pg_rollup_refresh(struct pg_conn *c, const struct pg_policy_state *s,
				    const char *policy, uint64_t bucket_us,
				    struct store_error *err);

/* Ends the refresh, if there is one.  The view stays: it may be all that is left of a time. */
enum store_status pg_rollup_stop(struct pg_conn *c, const struct pg_policy_state *s,
				 const char *policy, struct store_error *err);
