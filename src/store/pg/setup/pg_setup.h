/*
 * pg_setup.h - from a server that answers to a table that takes COPY.
 *
 * Everything is checked by reading first, so that a role without rights to create anything
 * gets by once somebody else has prepared the database.  What is missing is made
 * in transactions that hold one advisory lock, so that collectors which start at the same time
 * make it once.
 */
#pragma once

#include <stdbool.h>

#include "store/pg/link/pg_conn.h"

/* CREATE DATABASE, through a connection of its own to "postgres" or "template1". */
enum store_status pg_setup_database(int stop_fd, const struct conf *conf, const char *name,
				    struct store_error *err);

/*
 * Applies the migrations of a flavour; logs migration_applied and migration_changed.  *applied (may
 * be NULL) tells whether there were any to apply.  They see parts of the configuration as settings,
 * in microseconds: metric_collectord.chunk_interval and metric_collectord.retention (0: none).
 */
enum store_status pg_setup_migrate(struct pg_conn *c, const struct conf *conf, const char *flavour,
				   bool *applied, struct store_error *err);

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
enum store_status pg_setup_flavour(struct pg_conn *c, const struct conf *conf,
				   const struct pg_flavour *f, enum pg_made *ret,
				   struct store_error *err);

/*
 * For the beginning of a transaction.  Set for the database or the role, a limit is meant for
 * readers: it would keep a large batch out for ever.
 */
#define PG_NO_STATEMENT_TIMEOUT "SET LOCAL statement_timeout = 0;"

/* Starts a transaction that no other collector's setup runs beside. */
enum store_status pg_setup_begin(struct pg_conn *c, struct store_error *err);

/* Commits when st is STORE_OK; else undoes what was done, and st goes on. */
enum store_status pg_setup_end(struct pg_conn *c, enum store_status st, struct store_error *err);

/*
 * The types of the columns of metrics, as SQL that fails with division_by_zero
 * (22012) once they are no longer what they were: a binary COPY into another type of
 * eight bytes would be taken without a word.
 */
#define PG_GUARD_MAX 512
struct pg_guard {
	char sql[PG_GUARD_MAX];
};

/* Checks that metrics is what COPY needs (STORE_HOLD if not) and writes the guard. */
enum store_status pg_setup_columns(struct pg_conn *c, struct pg_guard *ret,
				   struct store_error *err);
