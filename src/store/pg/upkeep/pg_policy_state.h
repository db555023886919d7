/*
 * pg_policy_state.h - what TimescaleDB does to metrics now, and what the daemon has recorded of it.
 *
 * One look at the catalogs, TimescaleDB's views and metric_collectord.policies; nothing is judged
 * here.  Policies go by the names of pg_policy.h.  Times and durations are microseconds.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "store/pg/link/pg_conn.h"

#define PG_ROLLUP "rollup " /* before a view's name: the policy's */

struct pg_policy_state {
	PGresult *rows;        /* owned; the texts that functions here return point into it */
	const char *schema;    /* of metrics, quoted */
	const char *extension; /* the schema of TimescaleDB's functions, quoted; borrowed */
	bool ours;             /* the daemon has made the hypertable */
	uint64_t now_us;       /* by the server's clock */
	uint64_t kept_us;      /* the age at which metrics are deleted; 0 = never */
};

/*
 * Looks.  extension is borrowed for the life of *ret, which is to be zeroed before and given to
 * pg_policy_state_done() after, whatever is returned.  Within a transaction under the lock of
 * pg_lock.h, what it says stays true until the end.
 */
enum store_status pg_policy_state_read(struct pg_conn *c, const struct conf *conf,
				       const char *extension, struct pg_policy_state *ret,
				       struct store_error *err);
void pg_policy_state_done(struct pg_policy_state *s); /* a zeroed one is fine */

/*
 * What the database has: a duration in microseconds, the columnstore's columns, or a setting; "" is
 * a rollup without a refresh, or a setting that nobody has set.  NULL: there is none.
 */
const char *pg_policy_found(const struct pg_policy_state *s, const char *policy);

/* Has the daemon made this one? */
bool pg_policy_recorded(const struct pg_policy_state *s, const char *policy);

/*
 * The name of the next rollup that is recorded, NULL after the last one.  *at is where the search
 * goes on, 0 at first.
 */
const char *pg_policy_next_rollup(const struct pg_policy_state *s, int *at);

/* Records a policy with its value, as people read it; "" removes the record. */
enum store_status pg_policy_record(struct pg_conn *c, const char *policy, const char *value,
				   struct store_error *err);

/*
 * What metrics held before then may have been deleted, so that no refresh of that view may reach
 * further back; 0 = nothing is known.  NULL: of any view.
 */
uint64_t pg_policy_since(const struct pg_policy_state *s, const char *view);

/* Records that, unless more is said already; s does not follow. */
enum store_status pg_policy_complete_since(struct pg_conn *c, const struct pg_policy_state *s,
					   const char *view, uint64_t since_us,
					   struct store_error *err);
