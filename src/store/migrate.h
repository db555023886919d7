/*
 * migrate.h - the schema, step by step.
 *
 * The files of sql/FLAVOUR/NNN-name.sql are compiled in (sql.c, generated) and applied in
 * order, each in one transaction and recorded in the migrations table with
 * its SHA-256.  How statements are executed is the store's business.
 */
#pragma once

#include <stddef.h>

struct migration_file {
	const char *flavour; /* "postgresql", "timescaledb", "citus", "sqlite" */
	unsigned version;    /* NNN */
	const char *name;
	const char *sha256; /* of the file, 64 hex digits */
	const char *text;
};

/* Sorted by flavour and version; ends with a NULL flavour. */
extern const struct migration_file migration_files[];

/*
 * The first migration of a flavour with a version above the given one; NULL when
 * there is none.
 */
const struct migration_file *migration_next(const char *flavour, unsigned version);
