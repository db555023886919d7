/*
 * conf_uri.h - database.uri, and the password that goes with it.
 *
 * Accepted: "postgresql://...", "postgres://...", libpq key=value strings, and
 * "sqlite:/path".  Messages never repeat what may hold a password.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define CONF_WHY_MAX 400 /* a reason with its NUL */

/* Returns 0, or -EINVAL with a reason in why, or -ENOMEM. */
int conf_uri_check(const char *uri, char why[CONF_WHY_MAX]);

/* Is there a password in it?  False for what is no connection string. */
bool conf_uri_has_password(const char *uri);

/* Text of which nothing may be shown unless it is known to be harmless: of a URL, say. */
bool conf_may_hold_secret(const char *text);

/* The path of a checked uri: points into it; NULL when it is not SQLite's. */
const char *conf_uri_sqlite_path(const char *uri);

/* One keyword of a libpq key=value string. */
struct conf_keyword {
	const char *name;
	const char *value;
};

/* "host='localhost' port='5432'", quoted as libpq wants it.  NULL when memory is short. */
char *conf_uri_join(const struct conf_keyword *words, size_t n);

#define CONF_PASSWORD_MAX 4096

/*
 * Reads a password from the first line of a file.  Returns 0 and a string for free(), or
 * -EINVAL with a reason in why, or -ENOMEM.
 */
int conf_password_read(const char *path, char **ret, char why[CONF_WHY_MAX]);

/* Overwrites and frees; NULL is fine. */
void conf_secret_free(char *secret);
