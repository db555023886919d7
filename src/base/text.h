/*
 * text.h - values as JSON and logs write them, into buffers of fixed size.
 *
 * Nothing here allocates, keeps state or depends on the locale.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A growing text.  len counts everything that was put; buf holds what fits in
 * size bytes.  That is how snprintf() works, over several calls.
 */
struct text {
	char *buf; /* borrowed; may be NULL when size is 0 */
	size_t size;
	size_t len;
};

void text_put(struct text *t, const void *data, size_t len);

/* Ends the text with a NUL within size, cutting it where it must.  len does not change. */
void text_end(struct text *t);

/*
 * How many bytes the UTF-8 sequence at s takes, of which len (1 or more) are there.  *valid says
 * whether it is well-formed (table 3-7 of Unicode 15) and whole; if not, what is counted is a
 * maximal subpart of one, or a byte that begins none.
 */
size_t text_sequence(const void *s, size_t len, bool *valid);

/*
 * Puts a JSON string, quotes included, of at most room bytes (2 or more); what
 * would be more is cut between two characters.  Quotes, backslashes and the
 * control characters U+0000..1F and U+007F..9F are escaped, so that no terminal
 * obeys them.  Each maximal part of an ill-formed sequence becomes U+FFFD, as
 * Unicode 15 section 3.9 ("U+FFFD Substitution of Maximal Subparts") recommends.
 */
void text_put_json(struct text *t, const void *data, size_t len, size_t room);

/* Puts len bytes as lower-case hex digits. */
void text_put_hex(struct text *t, const void *data, size_t len);

#define TEXT_VALUE_MAX 48 /* a number or time with its NUL */

/*
 * The shortest of 15, 16 or 17 digits that reads back as the same number; a
 * JSON number, or "NaN", "Infinity", "-Infinity".  Returns the length.
 */
size_t text_f64(char buf[TEXT_VALUE_MAX], double value);

/*
 * Microseconds since 1970 as ISO 8601: 2026-01-31T09:30:00.000000Z, with a sign
 * and more digits past the year 9999.  Returns the length.
 */
size_t text_time(char buf[TEXT_VALUE_MAX], uint64_t time_us);

/* The most bytes of data, at most max, that do not end within a UTF-8 sequence. */
size_t text_cut(const void *data, size_t len, size_t max);
