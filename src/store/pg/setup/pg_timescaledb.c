#include "store/pg/setup/pg_timescaledb.h"

#include <stdio.h>
#include <string.h>

#include "log/log.h"
#include "store/pg/link/pg_error.h"
#include "store/pg/setup/pg_lock.h"
#include "store/pg/setup/pg_migrate.h"

/* What the server offers. */
struct offer {
	char version[PG_VERSION_MAX]; /* of the extension in this database; "" = not created */
	bool available;               /* it can be created */
	bool loaded;                  /* shared_preload_libraries names it */
};

/* A server that does not preload the library ends the session of who asks for it. */
static const char offer_sql[] =
    "SELECT e.extversion,"
    " EXISTS (SELECT FROM pg_catalog.pg_available_extensions WHERE name = 'timescaledb'),"
    " pg_catalog.current_setting('timescaledb.disable_load', true) IS NOT NULL"
    " FROM (VALUES (1)) one"
    " LEFT JOIN pg_catalog.pg_extension e ON e.extname = 'timescaledb'";

static const char is_hypertable_sql[] =
    "SELECT 1 FROM timescaledb_information.hypertables h"
    " JOIN pg_catalog.pg_namespace n ON n.nspname = h.hypertable_schema"
    " JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = h.hypertable_name"
    " WHERE c.oid = 'metrics'::pg_catalog.regclass";

static enum store_status
read_offer(struct pg_conn *c, struct offer *ret, struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st = pg_select(c, offer_sql, PG_ROW(3), &r, err);

	if (st != STORE_OK)
		return st;
	(void)snprintf(ret->version, sizeof(ret->version), "%s", PQgetvalue(r, 0, 0));
	ret->available = *PQgetvalue(r, 0, 1) == 't';
	ret->loaded = *PQgetvalue(r, 0, 2) == 't';
	PQclear(r);
	return STORE_OK;
}

static enum store_status
is_hypertable(struct pg_conn *c, void *arg, bool *ret, struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st = pg_select(c, is_hypertable_sql, PG_ROW_OR_NONE(1), &r, err);

	(void)arg;
	if (st == STORE_OK)
		*ret = PQntuples(r) > 0;
	PQclear(r);
	return st;
}

static enum store_status
create_extension(struct pg_conn *c, struct store_error *err)
{
	/* as a rule beside metrics; but it takes no schema with one of these in its name */
	bool odd = c->home && strpbrk(c->home, "\"$'\\");
	enum store_status st = pg_lock_begin(c, PG_LOCK_SETUP_MS, err);

	if (st == STORE_OK)
		st = pg_query(c,
			      odd ? "CREATE EXTENSION IF NOT EXISTS timescaledb SCHEMA public"
				  : "CREATE EXTENSION IF NOT EXISTS timescaledb",
			      err);
	return pg_lock_end(c, st, err);
}

/* Creates the extension if it is missing, so that offer->version is set. */
static enum store_status
have_extension(struct pg_conn *c, const struct conf *conf, struct offer *offer,
	       struct store_error *err)
{
	enum store_status st = read_offer(c, offer, err);

	if (st != STORE_OK)
		return st;
	if (!offer->loaded && (offer->available || *offer->version)) {
		(void)pg_error_set(err, "55000",
				   "TimescaleDB is installed, but shared_preload_libraries of "
				   "the server does not name it",
				   NULL, true);
		return STORE_HOLD;
	}
	if (*offer->version)
		return STORE_OK;
	if (!offer->available || !conf->database.migrate) {
		(void)pg_error_set(err, "0A000",
				   offer->available ? "the extension timescaledb is not created"
						    : "the server has no TimescaleDB",
				   NULL, true);
		return STORE_HOLD;
	}
	st = create_extension(c, err);
	return st == STORE_OK ? read_offer(c, offer, err) : st;
}

static enum store_status
no_hypertable(struct store_error *err)
{
	(void)pg_error_set(err, "0A000", "metrics is not a hypertable", NULL, true);
	return STORE_HOLD;
}

static enum store_status
have_hypertable(struct pg_conn *c, const struct conf *conf, const struct offer *offer,
		struct store_error *err)
{
	static const struct pg_flavour timescaledb = {"timescaledb", is_hypertable, NULL};
	enum pg_made made = PG_MISSING;
	enum store_status st = pg_migrate_flavour(c, conf, &timescaledb, &made, err);

	if (st == STORE_OK && made == PG_MISSING)
		return no_hypertable(err);
	if (st == STORE_OK && made == PG_MADE)
		log_event(LOG_INFO, "hypertable_created", LOG_STR("table", "metrics"),
			  LOG_STR("timescaledb_version", offer->version));
	return st;
}

enum store_status
pg_timescaledb(struct pg_conn *c, const struct conf *conf, char version[PG_VERSION_MAX],
	       struct store_error *err)
{
	struct offer offer = {.version = ""};
	enum store_status st;

	version[0] = '\0';
	if (conf->database.timescaledb == CONF_OFF)
		return STORE_OK;
	st = have_extension(c, conf, &offer, err);
	if (st == STORE_OK)
		st = have_hypertable(c, conf, &offer, err);
	if (st == STORE_OK)
		memcpy(version, offer.version, sizeof(offer.version));
	if (st != STORE_HOLD)
		return st;
	if (conf->database.timescaledb == CONF_REQUIRE) {
		err->hint = "install TimescaleDB and let the role create the extension, or set "
			    "database.timescaledb = \"auto\"";
		return STORE_HOLD;
	}
	if (err->reconnect)
		return STORE_RETRY;
	log_event_once(LOG_WARNING, "timescaledb_absent", "timescaledb_absent",
		       LOG_STR("error", err->text),
		       LOG_STR("sqlstate", *err->sqlstate ? err->sqlstate : NULL));
	return STORE_OK;
}

enum store_status
pg_timescaledb_look(struct pg_conn *c, const struct conf *conf, char version[PG_VERSION_MAX],
		    struct store_error *err)
{
	struct offer offer = {.version = ""};
	bool there = false;
	enum store_status st;

	version[0] = '\0';
	if (conf->database.timescaledb == CONF_OFF)
		return STORE_OK;
	st = read_offer(c, &offer, err);
	if (st == STORE_OK && *offer.version && offer.loaded)
		st = is_hypertable(c, NULL, &there, err);
	if (st == STORE_OK && there)
		memcpy(version, offer.version, sizeof(offer.version));
	if (st != STORE_OK || there || conf->database.timescaledb != CONF_REQUIRE)
		return st;
	st = no_hypertable(err);
	err->setup = true;
	return st;
}
