/*
 * conf_file.h - a configuration file as a flat list of assignments.
 *
 * This is the only place that sees libconfuse, which gets every value as text: what values
 * mean is conf.c's business.  libconfuse 3.3 needs some help:
 *
 *  - it counts lines wrongly as soon as there are comments: they are blanked out first;
 *  - its scanner stays inside a string that was not closed, also in the next file;
 *  - it drops characters that it does not know, '*' for one;
 *  - it turns ${NAME} of a variable that is not set into nothing;
 *  - it does not miss the closing brace of a section;
 *  - the last of several assignments wins in silence, and an empty list leaves no trace.
 *
 * Each of these is either put right or becomes a problem that names its line.
 *
 * libconfuse's scanner is global: one file at a time, from one thread.
 */
#pragma once

#include <stddef.h>

#define CONF_FILE_MAX (1u << 20) /* bytes; a larger file is not a configuration */

/* key = value, or key = {value, ...} with any number of values. */
struct conf_entry {
	const char *key; /* one of those given to conf_file_read(): "section.key" */
	unsigned line;   /* of the first value */
	char **values;
	size_t n;
};

struct conf_problem {
	unsigned line; /* 0 = the file as a whole */
	char *text;
};

struct conf_file {
	char *path;
	struct conf_entry *entries; /* as they come in the file; a key may come again */
	size_t n_entries;
	struct conf_problem *problems;
	size_t n_problems;
};

/*
 * Reads a file in which these keys may occur; they are borrowed for the life of the result.
 * Returns 0, also when there are problems; or a negative errno when the file cannot be read.
 */
int conf_file_read(const char *path, const char *const *keys, size_t n_keys,
		   struct conf_file **ret);
void conf_file_free(struct conf_file *f); /* NULL is fine */

/* Adds a problem.  Returns 0 or -ENOMEM. */
int conf_file_problem(struct conf_file *f, unsigned line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Sorts the problems by line. */
void conf_file_sort(struct conf_file *f);
