/*
 * conf_effect.h - settings that do nothing here, and why.
 *
 * A setting may need what a store, a server or another setting does not give.  One that somebody
 * has set in vain is said: at the start, after a reload, by -t, and once the database is known.
 * The table in conf_effect.c has a line for each key; a unit test fails for one that lacks it.
 */
#pragma once

#include <stdbool.h>

#include "conf/conf.h"

/* What a PostgreSQL server has made of the table. */
enum conf_found {
	CONF_FOUND_NOTHING, /* not asked yet */
	CONF_FOUND_TABLE,   /* of PostgreSQL alone, partitioned or not */
	CONF_FOUND_HYPERTABLE,
	CONF_FOUND_DISTRIBUTED, /* by Citus */
};

/* where as in conf_where(); reason reads on from "has no effect: ". */
typedef void conf_effect_fn(void *arg, const char *key, const char *where, const char *reason);

/*
 * Calls fn for each key that was set to other than its default, asks for something, and has no effect.  With CONF_FOUND_NOTHING
 * these are the ones that the configuration itself tells; with another, those that only what was
 * found does.
 */
void conf_without_effect(const struct conf *c, enum conf_found found, conf_effect_fn *fn,
			 void *arg);

/* Logs them: setting_ignored {key, reason} (warning). */
void conf_log_ignored(const struct conf *c, enum conf_found found);

/* Is the key in the table?  For the tests. */
bool conf_effect_known(const char *key);
