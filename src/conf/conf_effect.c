#include "conf/conf_effect.h"

#include <string.h>

#include "conf/conf_key.h"
#include "conf/conf_value.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* What a key needs, to have an effect. */
#define SPOOL 1u
#define MIGRATE 2u     /* the daemon may change tables */
#define TIMESCALEDB 4u /* metrics is a hypertable */
#define HERE 8u        /* metrics is not distributed over other servers */
#define INFO 16u       /* events of that level are logged */

struct effect {
	const char *key;
	unsigned needs;
	const char *sqlite;  /* why it has none there; NULL: it has */
	const char *none[2]; /* values that ask for nothing, beside the default */
};

#define NO_CHUNKS "an SQLite table has no chunks"
#define NO_COLUMNSTORE "SQLite has no columnstore"

/* clang-format off */
static const struct effect effects[] = {
	{"listen", 0, NULL, {NULL}},
	{"max_clients", 0, NULL, {NULL}},
	{"client_timeout", 0, NULL, {NULL}},
	{"max_invalid_frames", 0, NULL, {NULL}},
	{"allow", 0, NULL, {NULL}},

	{"batch.interval", 0, NULL, {NULL}},
	{"batch.max_rows", 0, NULL, {NULL}},
	{"batch.max_bytes", 0, NULL, {NULL}},

	{"buffer.memory_limit", 0, NULL, {NULL}},
	{"buffer.spool", 0, NULL, {NULL}},
	{"buffer.spool_limit", SPOOL, NULL, {NULL}},
	{"buffer.sync", SPOOL, NULL, {NULL}},
	{"buffer.overflow", 0, NULL, {NULL}},
	{"buffer.keep", SPOOL, NULL, {NULL}},

	{"timestamps.max_age", 0, NULL, {NULL}},
	{"timestamps.max_future", 0, NULL, {NULL}},

	{"database.uri", 0, NULL, {NULL}},
	{"database.password_file", 0, "an SQLite file has no password", {NULL}},
	{"database.connections", 0, "SQLite lets one connection write at a time", {"1"}},
	{"database.create", 0, NULL, {NULL}},
	{"database.migrate", 0, NULL, {NULL}},
	{"database.connect_timeout", 0, NULL, {NULL}},
	{"database.ledger_keep", 0, NULL, {NULL}},
	{"database.timescaledb", HERE, "SQLite has no TimescaleDB", {"off"}},
	{"database.citus", 0, "SQLite has no Citus", {"auto"}},

	{"table.chunk_interval", MIGRATE, NO_CHUNKS, {NULL}},
	{"table.retention", MIGRATE, NULL, {NULL}},
	{"table.compress_after", MIGRATE | TIMESCALEDB, NO_COLUMNSTORE, {""}},
	{"table.rollups", MIGRATE | TIMESCALEDB, "SQLite has no continuous aggregates", {NULL}},
	{"table.direct_compress", TIMESCALEDB, NO_COLUMNSTORE, {NULL}},
	{"table.max_new_chunks", 0, NO_CHUNKS, {NULL}},

	{"senders.keep", 0, NULL, {NULL}},

	{"log.level", 0, NULL, {NULL}},
	{"log.target", 0, NULL, {NULL}},
	{"log.metrics", INFO, NULL, {NULL}},
};
/* clang-format on */

static const struct effect *
effect_of(const char *key)
{
	for (size_t i = 0; i < COUNT(effects); i++)
		if (strcmp(effects[i].key, key) == 0)
			return &effects[i];
	return NULL;
}

bool
conf_effect_known(const char *key)
{
	return effect_of(key) != NULL;
}

/* ---- why ---- */

/* What the configuration itself tells; NULL when it may have an effect. */
static const char *
configured_why(const struct effect *e, const struct conf *c)
{
	bool sqlite = c->database.store == CONF_STORE_SQLITE;

	if (sqlite && e->sqlite)
		return e->sqlite;
	if ((e->needs & SPOOL) && !c->buffer.spool[0])
		return "buffer.spool is empty";
	if ((e->needs & INFO) && c->log.level < LOG_INFO)
		return "log.level leaves its events out";
	if (sqlite)
		return NULL;
	if ((e->needs & TIMESCALEDB) && c->database.timescaledb == CONF_OFF)
		return "database.timescaledb is off";
	if ((e->needs & MIGRATE) && !c->database.migrate)
		return "database.migrate is false";
	return NULL;
}

static const char *
found_why(const struct effect *e, enum conf_found found)
{
	switch (found) {
	case CONF_FOUND_NOTHING:
	case CONF_FOUND_HYPERTABLE:
		break;
	case CONF_FOUND_TABLE:
		if (e->needs & TIMESCALEDB)
			return "metrics is not a hypertable of TimescaleDB";
		break;
	case CONF_FOUND_DISTRIBUTED:
		if (e->needs & (TIMESCALEDB | HERE))
			return "metrics is distributed by Citus, and not a hypertable";
		break;
	}
	return NULL;
}

/* ---- which ---- */

static bool
is_value(const struct conf_key *k, const struct conf *c, const char *text)
{
	char why[CONF_WHY_MAX];
	struct conf other = {.refs = 1};
	bool same = conf_key_set_text(k, &other, text, why) == 0 && conf_key_equal(k, c, &other);

	conf_key_clear(k, &other);
	return same;
}

static bool
asks_for_something(const struct effect *e, const struct conf_key *k, const struct conf *c)
{
	if (is_value(k, c, conf_key_default(k)))
		return false;
	for (size_t i = 0; i < COUNT(e->none); i++)
		if (e->none[i] && is_value(k, c, e->none[i]))
			return false;
	return true;
}

void
conf_without_effect(const struct conf *c, enum conf_found found, conf_effect_fn *fn, void *arg)
{
	for (size_t i = 0; i < conf_key_count(); i++) {
		const struct conf_key *k = conf_key_at(i);
		const struct effect *e = effect_of(conf_key_name(k));
		const char *where = conf_where(c, i), *why;

		if (!e || !where)
			continue;
		why = configured_why(e, c);
		if (found != CONF_FOUND_NOTHING)
			why = why ? NULL : found_why(e, found);
		if (why && asks_for_something(e, k, c))
			fn(arg, e->key, where, why);
	}
}

static void
log_one(void *arg, const char *key, const char *where, const char *reason)
{
	(void)arg;
	(void)where;
	log_event(LOG_WARNING, "setting_ignored", LOG_STR("key", key), LOG_STR("reason", reason));
}

void
conf_log_ignored(const struct conf *c, enum conf_found found)
{
	conf_without_effect(c, found, log_one, NULL);
}
