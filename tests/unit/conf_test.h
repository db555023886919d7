/*
 * conf_test.h - loads configurations for check_conf*.c, in a directory of their own and with
 * an environment without the variables that conf.c reads.
 */
#pragma once

#include <stddef.h>

#include "conf/conf.h"

#define CONF_TEST_FILE "test.conf"

/* Fixtures for each test: the directory (it becomes the current one) and the environment. */
void conf_test_setup(void);
void conf_test_teardown(void);

void conf_test_write(const char *path, const char *text);

/*
 * Loads CONF_TEST_FILE with this text (NULL: without -c) and these n -o settings.  Returns
 * conf_load()'s result; what it reported is in conf_test_lines, each line with a newline.
 */
int conf_test_load(const char *text, const char *const *options, size_t n, struct conf **ret);
extern char conf_test_lines[16384];

/* The same with at most one -o; the test fails unless it loads without a report. */
struct conf *conf_test_good(const char *text, const char *option);

/* Both fail the test unless loading is refused with exactly these lines. */
void conf_test_bad_source(const struct conf_source *src, const char *lines);
void conf_test_bad(const char *text, const char *option, const char *lines);
