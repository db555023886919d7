#include "store/pg/setup/pg_migrate.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/log.h"
#include "store/migrate.h"
#include "store/pg/link/pg_error.h"
#include "store/pg/setup/pg_lock.h"

/* The checksums of what has been applied; NULL rows before the very first. */
static enum store_status
read_applied(struct pg_conn *c, PGresult **ret, struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st;
	bool there;

	*ret = NULL;
	st = pg_select(c,
		       "SELECT 1 FROM pg_catalog.pg_class c"
		       " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
		       " WHERE n.nspname = 'metric_collectord' AND c.relname = 'migrations'",
		       PG_ROW_OR_NONE(1), &r, err);
	there = st == STORE_OK && PQntuples(r) > 0;
	PQclear(r);
	if (!there)
		return st;
	return pg_select(c, "SELECT flavour, version, checksum FROM metric_collectord.migrations",
			 PG_ROWS(3), ret, err);
}

/* The row of a migration; -1 when it has not been applied. */
static int
find_applied(const PGresult *applied, const struct migration_file *m)
{
	int i, n = applied ? PQntuples(applied) : 0;

	for (i = 0; i < n; i++)
		if (strcmp(PQgetvalue(applied, i, 0), m->flavour) == 0 &&
		    strtoul(PQgetvalue(applied, i, 1), NULL, 10) == m->version)
			return i;
	return -1;
}

/* The first migration that has not been applied, or NULL. */
static enum store_status
find_missing(struct pg_conn *c, const char *flavour, const struct migration_file **ret,
	     struct store_error *err)
{
	const struct migration_file *m = NULL;
	PGresult *applied;
	enum store_status st = read_applied(c, &applied, err);
	unsigned version = 0;

	if (st != STORE_OK)
		return st;
	while ((m = migration_next(flavour, version)) && find_applied(applied, m) >= 0)
		version = m->version;
	PQclear(applied);
	*ret = m;
	return STORE_OK;
}

/* Says which of the applied migrations differ from ours. */
static enum store_status
compare_applied(struct pg_conn *c, const char *flavour, struct store_error *err)
{
	const struct migration_file *m;
	PGresult *applied;
	enum store_status st = read_applied(c, &applied, err);
	unsigned version = 0;

	if (st != STORE_OK)
		return st;
	while ((m = migration_next(flavour, version))) {
		int i = find_applied(applied, m);

		if (i >= 0 && strcmp(PQgetvalue(applied, i, 2), m->sha256) != 0)
			log_event(LOG_WARNING, "migration_changed", LOG_STR("flavour", flavour),
				  LOG_U64("version", m->version), LOG_STR("name", m->name),
				  LOG_STR("applied", PQgetvalue(applied, i, 2)),
				  LOG_STR("expected", m->sha256));
		version = m->version;
	}
	PQclear(applied);
	return STORE_OK;
}

static enum store_status
record(struct pg_conn *c, const struct migration_file *m, struct store_error *err)
{
	char version[16];
	const char *values[] = {m->flavour, version, m->name, m->sha256};
	const struct pg_params p = {.n = 4, .values = values};
	PGresult *r = NULL;
	enum store_status st;

	(void)snprintf(version, sizeof(version), "%u", m->version);
	st = pg_select_params(c,
			      "INSERT INTO metric_collectord.migrations"
			      " (flavour, version, name, checksum) VALUES ($1, $2, $3, $4)"
			      " RETURNING version",
			      &p, PG_ROW(1), &r, err);
	PQclear(r);
	return st;
}

static enum store_status
apply(struct pg_conn *c, const struct conf *conf, const struct migration_file *m,
      struct store_error *err)
{
	enum store_status st;
	char sql[256];

	(void)snprintf(sql, sizeof(sql),
		       "SET LOCAL metric_collectord.chunk_interval = '%" PRIu64 "';"
		       "SET LOCAL metric_collectord.retention = '%" PRIu64 "'",
		       conf->table.chunk_interval_us, conf->table.retention_us);
	st = pg_query(c, sql, err);
	return st == STORE_OK ? pg_query(c, m->text, err) : st;
}

/*
 * Applies the first migration that is missing, unless another collector does it meanwhile.
 * *ret is the one that was applied, or NULL.
 */
static enum store_status
apply_next(struct pg_conn *c, const struct conf *conf, const char *flavour,
	   const struct migration_file **ret, struct store_error *err)
{
	const struct migration_file *m = NULL;
	enum store_status st = pg_lock_begin(c, PG_LOCK_SETUP_MS, err);

	if (st == STORE_OK)
		st = find_missing(c, flavour, &m, err);
	if (st == STORE_OK && m)
		st = apply(c, conf, m, err);
	if (st == STORE_OK && m)
		st = record(c, m, err);
	st = pg_lock_end(c, st, err);
	if (st == STORE_OK)
		*ret = m;
	return st;
}

static enum store_status
not_applied(const struct migration_file *m, struct store_error *err)
{
	char text[128];

	(void)snprintf(text, sizeof(text), "migration %s/%03u-%s is not applied", m->flavour,
		       m->version, m->name);
	(void)pg_error_set(err, "", text, NULL, true);
	err->hint = "set database.migrate = true, or start a collector once that may migrate";
	err->setup = true;
	return STORE_HOLD;
}

/* Whoever is there confirms what he is told, and forgets it. */
static enum store_status
lost(const struct migration_file *m, struct store_error *err)
{
	char text[128];

	(void)snprintf(text, sizeof(text), "migration %s/%03u-%s was applied, and is not there",
		       m->flavour, m->version, m->name);
	return pg_odd(err, text);
}

enum store_status
pg_migrate_look(struct pg_conn *c, const char *flavour, struct store_error *err)
{
	const struct migration_file *m;
	enum store_status st = find_missing(c, flavour, &m, err);

	return st == STORE_OK && m ? not_applied(m, err) : st;
}

enum store_status
pg_migrate(struct pg_conn *c, const struct conf *conf, const char *flavour, bool *applied,
	   struct store_error *err)
{
	const struct migration_file *m;
	enum store_status st = find_missing(c, flavour, &m, err);
	unsigned last = 0;

	if (applied)
		*applied = false;
	while (st == STORE_OK && m) {
		if (!conf->database.migrate)
			return not_applied(m, err);
		st = apply_next(c, conf, flavour, &m, err);
		if (st != STORE_OK || !m)
			continue;
		if (m->version <= last)
			return lost(m, err);
		last = m->version;
		log_event(LOG_INFO, "migration_applied", LOG_U64("version", m->version),
			  LOG_STR("name", m->name), LOG_STR("flavour", flavour));
		if (applied)
			*applied = true;
	}
	return st == STORE_OK ? compare_applied(c, flavour, err) : st;
}

/* So that they are applied again; unless another collector has done that meanwhile. */
static enum store_status
forget_applied(struct pg_conn *c, const struct pg_flavour *f, struct store_error *err)
{
	const struct pg_params p = {.n = 1, .values = &f->name};
	enum store_status st = pg_lock_begin(c, PG_LOCK_SETUP_MS, err);
	bool there = false;

	if (st == STORE_OK)
		st = f->look(c, f->arg, &there, err);
	if (st == STORE_OK && !there)
		st = pg_query_params(
		    c, "DELETE FROM metric_collectord.migrations WHERE flavour = $1", &p, err);
	return pg_lock_end(c, st, err);
}

enum store_status
pg_migrate_flavour(struct pg_conn *c, const struct conf *conf, const struct pg_flavour *f,
		   enum pg_made *ret, struct store_error *err)
{
	bool before = false, there, applied = false;
	enum store_status st = f->look(c, f->arg, &before, err);

	there = before;
	if (st == STORE_OK && conf->database.migrate) {
		if (!before) /* before they are applied: the next may build upon the last */
			st = forget_applied(c, f, err);
		if (st == STORE_OK)
			st = pg_migrate(c, conf, f->name, &applied, err);
		if (st == STORE_OK && (applied || !before))
			st = f->look(c, f->arg, &there, err);
	}
	if (st == STORE_OK)
		*ret = !there ? PG_MISSING : applied && !before ? PG_MADE : PG_THERE;
	return st;
}
