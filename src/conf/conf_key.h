/*
 * conf_key.h - the table of settings, and what can be done with each of them.
 *
 * A new setting is a field in struct conf and a line in conf_key.c; the manual page and the
 * sample file follow, or make check fails.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "conf/conf.h"
#include "conf/conf_uri.h"

struct conf_key;

size_t conf_key_count(void);
const struct conf_key *conf_key_at(size_t index);       /* in the order of the sample file */
const struct conf_key *conf_key_find(const char *name); /* NULL when there is none */

size_t conf_key_index(const struct conf_key *k);
const char *conf_key_name(const struct conf_key *k);
const char *conf_key_default(const struct conf_key *k); /* as text for conf_key_set_text() */
bool conf_key_restart(const struct conf_key *k);        /* only a restart applies it */

/*
 * Sets the key's field from n values; a key that is not a list takes exactly one.  Returns 0,
 * -EINVAL with a reason in why ("0 is out of range 0.01..86400 seconds"), or -ENOMEM; the
 * field keeps its value then.
 */
int conf_key_set(const struct conf_key *k, struct conf *c, const char *const *values, size_t n,
		 char why[CONF_WHY_MAX]);

/* The same with the one value, or the values of a list between commas. */
int conf_key_set_text(const struct conf_key *k, struct conf *c, const char *text,
		      char why[CONF_WHY_MAX]);

bool conf_key_equal(const struct conf_key *k, const struct conf *a, const struct conf *b);

/* Frees what the field holds. */
void conf_key_clear(const struct conf_key *k, struct conf *c);
