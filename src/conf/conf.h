/*
 * conf.h - the settings: defaults < file < environment < -o.
 *
 * Loading has no side effects: it gives a complete new struct conf, or an error
 * that names file, line and key.  A struct conf never changes once loaded; it
 * is shared by reference count, so that a writer thread can go on with the old
 * one while a reload installs the new.
 *
 * One table (conf_key.c) has a line for each key with type, default, range and
 * whether a reload applies it.  Values from the file, the environment and -o go
 * through the same parsers (conf_value.h).  Only conf_file.c sees libconfuse.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/address.h"
#include "log/log.h"

enum conf_sync { CONF_SYNC_ALWAYS, CONF_SYNC_INTERVAL, CONF_SYNC_NEVER };
enum conf_overflow { CONF_BLOCK, CONF_DROP_OLDEST, CONF_DROP_NEWEST };
enum conf_use { CONF_OFF, CONF_AUTO, CONF_REQUIRE };
enum conf_store { CONF_STORE_POSTGRES, CONF_STORE_SQLITE };

struct conf_list {
	char **items; /* n strings */
	size_t n;
};

struct conf_batch {
	uint64_t interval_ms;
	uint64_t max_rows;
	uint64_t max_bytes;
};

struct conf_buffer {
	uint64_t memory_limit; /* bytes */
	char *spool;           /* a directory, "" = memory only */
	uint64_t spool_limit;  /* bytes */
	enum conf_sync sync;
	enum conf_overflow overflow;
	uint64_t keep_ms; /* how long stored batches stay in the spool */
};

struct conf_timestamps {
	uint64_t max_age_us;    /* 0 = no limit */
	uint64_t max_future_us; /* 0 = no limit */
};

struct conf_database {
	enum conf_store store; /* from the uri's scheme */
	char *uri;             /* as configured; for SQLite "sqlite:/path" */
	char *path;            /* the SQLite file, else NULL */
	char *password; /* read from password_file or the credential, or NULL; never logged */
	char *password_source; /* the file that it was read from, NULL: none; it may be rotated */
	char *password_file;
	unsigned connections;
	bool create;
	bool migrate;
	uint64_t connect_timeout_ms;
	uint64_t ledger_keep_ms;
	enum conf_use timescaledb;
	enum conf_use citus;
};

struct conf_table {
	uint64_t chunk_interval_us;
	uint64_t retention_us;      /* 0 = for ever */
	uint64_t compress_after_us; /* 0 = never */
	struct conf_list rollups;   /* as written: "1 minute", "1 hour" */
	enum conf_use direct_compress;
	unsigned max_new_chunks;
};

struct conf_senders {
	uint64_t keep_ms;
};

struct conf_log {
	int level; /* LOG_ERR .. LOG_DEBUG */
	enum log_target target;
	bool metrics;
};

struct conf {
	unsigned refs;           /* atomic; conf_ref(), conf_unref() */
	char *file;              /* the path it was read from; NULL when there was none */
	struct conf_list listen; /* valid for address_parse() */
	unsigned max_clients;
	uint64_t client_timeout_ms; /* 0 = never */
	unsigned max_invalid_frames;
	struct cidr *allow; /* n_allow networks; none = everyone */
	size_t n_allow;
	struct conf_batch batch;
	struct conf_buffer buffer;
	struct conf_timestamps timestamps;
	struct conf_database database;
	struct conf_table table;
	struct conf_senders senders;
	struct conf_log log;
	char **where; /* see conf_where() */
};

/* Where settings come from. */
struct conf_source {
	const char *file;             /* NULL: the built-in path, which may be missing */
	const char *const *overrides; /* n_overrides strings "key=value", from -o */
	size_t n_overrides;
};

/*
 * Loads and checks everything, the environment (getenv) included.  Returns 0
 * and a reference, or -EINVAL (or -ENOMEM) after having reported each error as
 * one line to report(): "FILE:LINE: key: what is wrong", "environment:
 * DB_PORT: ...", "-o batch.interval: ...".
 */
typedef void conf_report_fn(void *arg, const char *line);
int conf_load(const struct conf_source *src, conf_report_fn *report, void *arg, struct conf **ret);

/* Is a password among the overrides, so that ps(1) showed it when the program began? */
bool conf_shows_password(const struct conf_source *src);
#define CONF_PASSWORD_SHOWN                                                                        \
	"a password in database.uri on the command line can be seen by every user of this machine" \
	": use database.password_file, a credential or DB_PASSWORD"

struct conf *conf_ref(struct conf *c);
void conf_unref(struct conf *c); /* NULL is fine; passwords are wiped */

/*
 * Who has set the key of this index (conf_key.h), as reports begin: "FILE:3: batch.interval",
 * "environment: DB_HOST", "-o batch.interval".  NULL: nobody, it has its default.
 */
const char *conf_where(const struct conf *c, size_t index);

/*
 * Calls fn for each key that differs between two configurations; restart says
 * that only a restart applies it.
 */
typedef void conf_diff_fn(void *arg, const char *key, bool restart);
void conf_diff(const struct conf *a, const struct conf *b, conf_diff_fn *fn, void *arg);

/*
 * Prints the table, one key a line, with tabs between the columns:
 * "batch.interval	seconds	5	0.01..86400	reload".
 * make check compares this with the manual page and the sample file.
 */
void conf_print_keys(FILE *out);

/* The default path of the file, fixed at configure time. */
extern const char conf_default_file[];
