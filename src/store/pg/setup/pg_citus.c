#include "store/pg/setup/pg_citus.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/log.h"
#include "store/pg/link/pg_error.h"
#include "store/pg/setup/pg_migrate.h"

#define COLUMN "metric_name"

/* The extension's version here, and whether the server has loaded its library. */
static const char offer_sql[] =
    "SELECT (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'citus'),"
    " pg_catalog.current_setting('citus.shard_count', true) IS NOT NULL";

/* Is this the coordinator, and how many nodes take shards? */
static const char cluster_sql[] = "SELECT (SELECT groupid = 0 FROM pg_catalog.pg_dist_local_group),"
				  " (SELECT count(*) FROM pg_catalog.pg_dist_node"
				  "  WHERE isactive AND shouldhaveshards AND noderole = 'primary')";

static const char distribution_sql[] =
    "SELECT pg_catalog.column_to_column_name(logicalrelid, partkey),"
    " (SELECT count(*) FROM pg_catalog.pg_dist_shard s WHERE s.logicalrelid = p.logicalrelid)"
    " FROM pg_catalog.pg_dist_partition p WHERE logicalrelid = 'metrics'::pg_catalog.regclass"
    " AND partkey IS NOT NULL";

/* How metrics is distributed; column is "" where it is not. */
struct distribution {
	char column[64];
	uint64_t shards;
};

static enum store_status
absent(struct store_error *err, const char *text, const char *hint)
{
	(void)pg_error_set(err, "0A000", text, NULL, true);
	err->hint = hint;
	return STORE_HOLD;
}

static enum store_status
read_version(struct pg_conn *c, char version[PG_VERSION_MAX], struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st = pg_select(c, offer_sql, PG_ROW(2), &r, err);
	bool loaded;

	if (st != STORE_OK)
		return st;
	(void)snprintf(version, PG_VERSION_MAX, "%s", PQgetvalue(r, 0, 0));
	loaded = *PQgetvalue(r, 0, 1) == 't';
	PQclear(r);
	if (!*version)
		return absent(err, "the extension citus is not in this database",
			      "CREATE EXTENSION citus, and add the nodes with citus_add_node()");
	if (!loaded)
		return absent(err, "shared_preload_libraries of the server does not name citus",
			      NULL);
	return STORE_OK;
}

static enum store_status
check_cluster(struct pg_conn *c, struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st = pg_select(c, cluster_sql, PG_ROW(2), &r, err);

	if (st != STORE_OK)
		return st;
	if (*PQgetvalue(r, 0, 0) != 't')
		st = absent(err, "this server is not the coordinator of the Citus cluster",
			    "name the coordinator in database.uri");
	else if (strcmp(PQgetvalue(r, 0, 1), "0") == 0)
		st = absent(err, "the Citus cluster has no node that takes shards",
			    "add nodes with citus_add_node()");
	PQclear(r);
	return st;
}

static enum store_status
read_distribution(struct pg_conn *c, struct distribution *ret, struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st = pg_select(c, distribution_sql, PG_ROW_OR_NONE(2), &r, err);

	*ret = (struct distribution){.column = ""};
	if (st == STORE_OK && PQntuples(r) > 0) {
		(void)snprintf(ret->column, sizeof(ret->column), "%s", PQgetvalue(r, 0, 0));
		ret->shards = strtoull(PQgetvalue(r, 0, 1), NULL, 10);
	}
	PQclear(r);
	return st;
}

static enum store_status
is_distributed(struct pg_conn *c, void *arg, bool *ret, struct store_error *err)
{
	struct distribution *d = arg;
	enum store_status st = read_distribution(c, d, err);

	if (st == STORE_OK)
		*ret = d->column[0] != '\0';
	return st;
}

enum store_status
pg_citus_distributed(struct pg_conn *c, bool *ret, struct store_error *err)
{
	struct distribution d = {.column = ""};
	char version[PG_VERSION_MAX];
	enum store_status st = read_version(c, version, err);

	*ret = false;
	if (st == STORE_OK)
		st = is_distributed(c, &d, ret, err);
	return st == STORE_HOLD && !err->reconnect ? STORE_OK : st;
}

/* With "auto" metrics then stays on this server. */
static enum store_status
do_without(const struct conf *conf, char version[PG_VERSION_MAX], enum store_status st,
	   struct store_error *err)
{
	version[0] = '\0';
	if (st != STORE_HOLD || conf->database.citus == CONF_REQUIRE)
		return st;
	if (err->reconnect)
		return STORE_RETRY;
	log_event_once(LOG_WARNING, "citus_absent", "citus_absent", LOG_STR("error", err->text),
		       LOG_STR("sqlstate", *err->sqlstate ? err->sqlstate : NULL),
		       LOG_STR("hint", err->hint));
	return STORE_OK;
}

enum store_status
pg_citus_find(struct pg_conn *c, const struct conf *conf, char version[PG_VERSION_MAX],
	      struct store_error *err)
{
	enum store_status st;

	version[0] = '\0';
	if (conf->database.citus == CONF_OFF)
		return STORE_OK;
	st = read_version(c, version, err);
	if (st == STORE_OK)
		st = check_cluster(c, err);
	return st == STORE_OK ? st : do_without(conf, version, st, err);
}

enum store_status
pg_citus_distribute(struct pg_conn *c, const struct conf *conf, char version[PG_VERSION_MAX],
		    struct store_error *err)
{
	struct distribution d = {.column = ""};
	const struct pg_flavour citus = {"citus", is_distributed, &d};
	enum pg_made made = PG_MISSING;
	enum store_status st = pg_migrate_flavour(c, conf, &citus, &made, err);

	if (st == STORE_OK && made == PG_MISSING)
		st = absent(err, "metrics is not distributed", NULL);
	if (st != STORE_OK)
		return do_without(conf, version, st, err);
	if (made == PG_MADE)
		log_event(LOG_INFO, "table_distributed", LOG_STR("table", "metrics"),
			  LOG_STR("column", d.column), LOG_U64("shards", d.shards),
			  LOG_STR("citus_version", version));
	if (strcmp(d.column, COLUMN) != 0)
		log_event_once(LOG_WARNING, "table_differs/distribution", "table_differs",
			       LOG_STR("what", "distribution"), LOG_STR("wanted", COLUMN),
			       LOG_STR("found", d.column));
	return STORE_OK;
}

enum store_status
pg_citus_look(struct pg_conn *c, const struct conf *conf, char version[PG_VERSION_MAX],
	      struct store_error *err)
{
	enum store_status st = pg_citus_find(c, conf, version, err);

	if (st == STORE_OK)
		st = pg_citus_distributed(c, &c->distributed, err);
	if (st != STORE_OK || c->distributed)
		return st;
	version[0] = '\0';
	if (conf->database.citus != CONF_REQUIRE)
		return STORE_OK;
	st = absent(err, "metrics is not distributed", NULL);
	err->setup = true;
	return st;
}
