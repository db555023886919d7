/*
 * conf_list.h - the lists of strings in a configuration.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "conf/conf.h"

void conf_list_clear(struct conf_list *l);

/* Returns 0 and copies of n strings, or -ENOMEM. */
int conf_list_copy(const char *const *values, size_t n, struct conf_list *ret);

bool conf_list_equal(const struct conf_list *a, const struct conf_list *b);

/*
 * Cuts a text at its commas, in place and blanks aside, and stores up to max pieces, which
 * point into it; returns their number.  A blank text has none.
 */
size_t conf_list_split(char *text, const char *values[], size_t max);
