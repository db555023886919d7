/*
 * conf_value.h - how the values of settings are written.
 *
 * One parser for each type, for the configuration file, the environment and -o alike.  All
 * of them take text as a person writes it, blanks at both ends included, do not depend on
 * the locale, and return 0, -EINVAL (this is no such value) or -ERANGE (negative, or too
 * large to count).  *ret is written only on success.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Digits only. */
int conf_value_integer(const char *text, uint64_t *ret);

/*
 * A number, possibly with a fraction, and K, M, G or T: multiples of 1024, also written KB or
 * KiB; B alone is 1.  Upper or lower case.  Fractions of a byte count as a byte.
 */
int conf_value_size(const char *text, uint64_t *ret);

/*
 * Microseconds.  A number, possibly with a fraction, and a unit: ms, s, min, h, d, w or the
 * English words ("30 days", "1 hour", "90s", "500 ms").  Months and years are left out: they
 * have no length.  "" and "0" are 0.  Fractions of a microsecond count as one.
 */
int conf_value_duration(const char *text, uint64_t *ret);

/* Microseconds.  As a duration, but a bare number counts seconds, and "" is -EINVAL. */
int conf_value_seconds(const char *text, uint64_t *ret);

/* true, yes, on, 1; false, no, off, 0; in any case. */
int conf_value_bool(const char *text, bool *ret);

/* The words a choice accepts; a table ends with name NULL. */
struct conf_choice {
	const char *name;
	int value;
	bool alias; /* accepted, but not mentioned */
};

/* In any case. */
int conf_value_choice(const char *text, const struct conf_choice *choices, int *ret);

/*
 * Text for an error message: numbers as they are, everything else as a JSON string, cut when it
 * is long.  Returns buf.
 */
#define CONF_VALUE_SHOWN 80
const char *conf_value_show(const char *text, char buf[CONF_VALUE_SHOWN]);
