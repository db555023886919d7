/*
 * pg_migrate.h - the schema of sql/FLAVOUR, applied to a database.
 *
 * What has been applied is read first, so that a role without rights to create anything gets by
 * once somebody else has prepared the database.  See pg_lock.h for collectors that start at once.
 */
#pragma once

#include <stdbool.h>

#include "store/pg/link/pg_conn.h"

/*
 * Applies the migrations of a flavour; logs migration_applied and migration_changed.  *applied (may
 * be NULL) tells whether there were any to apply.  They see parts of the configuration as settings,
 * in microseconds: metric_collectord.chunk_interval and metric_collectord.retention (0: none).
 */
enum store_status pg_migrate(struct pg_conn *c, const struct conf *conf, const char *flavour,
			     bool *applied, struct store_error *err);

/* Are they all applied?  STORE_HOLD, err->setup if not. */
enum store_status pg_migrate_look(struct pg_conn *c, const char *flavour, struct store_error *err);

/* A flavour whose migrations make something of metrics. */
struct pg_flavour {
	const char *name;
	/* Is it that, whoever has made it?  *ret is written on success. */
	enum store_status (*look)(struct pg_conn *c, void *arg, bool *ret, struct store_error *err);
	void *arg; /* borrowed */
};

enum pg_made {
	PG_MISSING, /* it is not: database.migrate is off, or a migration has left it */
	PG_THERE,
	PG_MADE, /* by this call */
};

/*
 * Applies them, if database.migrate lets us.  Where metrics is not what they have made of it,
 * somebody has put another table in its place, and all of them are applied again.  The last look()
 * was at what *ret tells.
 */
enum store_status pg_migrate_flavour(struct pg_conn *c, const struct conf *conf,
				     const struct pg_flavour *f, enum pg_made *ret,
				     struct store_error *err);
