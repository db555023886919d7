/*
 * print_conf_keys: prints the table of settings, for tests/check-conf-keys.sh.
 * print_conf_keys FILE: loads FILE and prints what is wrong with it, and each key whose value
 * is not the default; succeeds when that is nothing.
 */
#include <stdio.h>
#include <stdlib.h>

#include "conf/conf.h"

static void
print_error(void *arg, const char *line)
{
	(void)arg;
	(void)puts(line);
}

static void
print_key(void *arg, const char *key, bool restart)
{
	unsigned *n = arg;

	(void)restart;
	(void)printf("%s is not at its default\n", key);
	(*n)++;
}

static int
compare(const char *file)
{
	const struct conf_source named = {.file = file}, empty = {.file = "/dev/null"};
	struct conf *conf = NULL, *defaults = NULL;
	unsigned n = 0;
	int r;

	r = conf_load(&named, print_error, NULL, &conf);
	if (r == 0)
		r = conf_load(&empty, print_error, NULL, &defaults);
	if (r == 0)
		conf_diff(defaults, conf, print_key, &n);
	conf_unref(conf);
	conf_unref(defaults);
	return r < 0 || n > 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int
main(int argc, char **argv)
{
	if (argc > 1)
		return compare(argv[1]);
	conf_print_keys(stdout);
	return EXIT_SUCCESS;
}
