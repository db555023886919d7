/*
 * pg_citus.h - metrics distributed over the nodes of a Citus cluster.
 *
 * The daemon talks to the coordinator.  metrics is distributed by metric_name; the ledger and the
 * other tables of metric_collectord are local ones of the coordinator, so that a batch and its
 * ledger row are one transaction, which Citus commits on all nodes or on none (two-phase commit).
 */
#pragma once

#include "store/pg/setup/pg_timescaledb.h"

/*
 * Is this the coordinator of a Citus cluster, and shall it be used (database.citus)?  version
 * becomes "" if not: where it was asked for, citus_absent is logged once in the life of the
 * process, or with "require" STORE_HOLD is returned.  Needs nothing that the migrations make.
 */
enum store_status pg_citus_find(struct pg_conn *c, const struct conf *conf,
				char version[PG_VERSION_MAX], struct store_error *err);

/*
 * Distributes metrics, with the rows that it holds; one that is distributed already is left alone
 * (table_differs, if by another column).  With database.migrate, applies the migrations of the
 * flavour "citus".  Logs table_distributed.
 */
enum store_status pg_citus_distribute(struct pg_conn *c, const struct conf *conf,
				      char version[PG_VERSION_MAX], struct store_error *err);

/* Is metrics distributed?  Whatever database.citus says. */
enum store_status pg_citus_distributed(struct pg_conn *c, bool *ret, struct store_error *err);

/*
 * What a connection for batches has to know: version is "" where metrics is not distributed, which
 * with "require" is STORE_HOLD, err->setup.  Sets c->distributed.
 */
enum store_status pg_citus_look(struct pg_conn *c, const struct conf *conf,
				char version[PG_VERSION_MAX], struct store_error *err);
