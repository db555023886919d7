#include "conf_test.h"

#include <check.h>
#include <errno.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The tests' own, not the library's: what was reported last. */
char conf_test_lines[16384];

static char directory[64];

void
conf_test_setup(void)
{
	static const char *const variables[] = {
	    "DB_HOST",
	    "DB_PORT",
	    "DB_NAME",
	    "DB_USER",
	    "DB_PASSWORD",
	    "TCP_HOST",
	    "TCP_PORT",
	    "BATCH_INTERVAL",
	    "DATABASE_URL",
	    "LOG_LEVEL",
	    "CREDENTIALS_DIRECTORY",
	};

	for (size_t i = 0; i < sizeof(variables) / sizeof(variables[0]); i++)
		ck_assert_int_eq(unsetenv(variables[i]), 0);
	(void)snprintf(directory, sizeof(directory), "/tmp/check_conf.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
	ck_assert_int_eq(chdir(directory), 0);
}

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

void
conf_test_teardown(void)
{
	ck_assert_int_eq(chdir("/"), 0);
	ck_assert_int_eq(nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
}

void
conf_test_write(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(fputs(text, f), 0);
	ck_assert_int_eq(fclose(f), 0);
}

static void
collect(void *arg, const char *line)
{
	size_t len = strlen(conf_test_lines);

	(void)arg;
	ck_assert_msg(!strchr(line, '\n'), "a report is one line: %s", line);
	ck_assert_uint_lt(len + strlen(line) + 2, sizeof(conf_test_lines));
	(void)snprintf(conf_test_lines + len, sizeof(conf_test_lines) - len, "%s\n", line);
}

static int
load(const struct conf_source *src, struct conf **ret)
{
	conf_test_lines[0] = '\0';
	return conf_load(src, collect, NULL, ret);
}

int
conf_test_load(const char *text, const char *const *options, size_t n, struct conf **ret)
{
	struct conf_source src = {
	    .file = text ? CONF_TEST_FILE : NULL, .overrides = options, .n_overrides = n};

	if (text)
		conf_test_write(CONF_TEST_FILE, text);
	return load(&src, ret);
}

struct conf *
conf_test_good(const char *text, const char *option)
{
	struct conf *c = NULL;
	int r = conf_test_load(text, &option, option ? 1 : 0, &c);

	ck_assert_msg(r == 0, "%s", conf_test_lines);
	ck_assert_str_eq(conf_test_lines, "");
	return c;
}

void
conf_test_bad_source(const struct conf_source *src, const char *lines)
{
	struct conf *c = NULL;
	int r = load(src, &c);

	ck_assert_str_eq(conf_test_lines, lines);
	ck_assert_int_eq(r, -EINVAL);
	ck_assert_ptr_null(c);
}

void
conf_test_bad(const char *text, const char *option, const char *lines)
{
	struct conf_source src = {
	    .file = CONF_TEST_FILE, .overrides = &option, .n_overrides = option ? 1 : 0};

	conf_test_write(CONF_TEST_FILE, text);
	conf_test_bad_source(&src, lines);
}
