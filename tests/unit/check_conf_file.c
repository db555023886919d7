/* What is wrong in a file, line by line; the values themselves are check_conf_value's. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf_test.h"
#include "conf/conf_file.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define F CONF_TEST_FILE

#define HIDDEN "(not shown, since its line may hold a password)\n"
#define HIDDEN_KEY "unknown key " HIDDEN

static const struct {
	const char *text;
	const char *lines; /* "" = it is good */
} files[] = {
    {"", ""},
    {"\n\n", ""},
    {"# nothing but a comment", ""},
    {"\xEF\xBB\xBFmax_clients = 7\n", ""},
    {"max_clients = 7\r\nbatch {\r\n interval = 1\r\n}\r\n", ""},
    {"max_clients = '7'", ""},
    {"batch {}", ""},
    {"batch { interval = 1 } batch { max_rows = 7 }", ""},
    {"batch{interval=1 max_rows=7}", ""},
    {"listen = 127.0.0.1:1", ""},
    {"listen = {127.0.0.1:1, \"[::1]:1\",}", ""},
    {"listen = {'unix:/a#b', \"unix:/a//b\", unix:/a//b2}", ""},
    {"allow = {}", ""},
    {"allow = { # none\n /* really */ }", ""},
    {"database { uri = postgresql://db/metrics }", ""},
    {"database { uri = 'host=db password=\\'x y\\'' }", ""},

    /* lines are counted right after comments and strings of every kind */
    {"# one\n// two\n/* three\n * four */\nx = 1 # five\n", F ":5: x: unknown key\n"},
    {"# one \" ' { ${X} /*\nx = 1\n", F ":2: x: unknown key\n"},
    {"log { level = info // x\n level = /* */ debug }",
     F ":2: log.level: given twice, first in line 1\n"},
    {"database { password_file = \"/a\\\nb\"\n x = 1 }", F ":3: database.x: unknown key\n"},

    /* names */
    {"foo = 1\nmax_clients = 7\nbar = {1, 2}\nbatch { baz = 'x' }\n",
     F ":1: foo: unknown key\n" F ":3: bar: unknown key\n" F ":4: batch.baz: unknown key\n"},
    {"tls { a { b = {3, '}'} }\n c = 1 }\nmax_clients = 0\n",
     F ":1: tls: unknown section\n" F ":3: max_clients: 0 is out of range 1..1000000\n"},
    {"tls { x = 1 }\nbatch { nope = 1 }\ntls { y = {} }\nmax_clients = 0",
     F ":1: tls: unknown section\n" F ":2: batch.nope: unknown key\n" F
       ":4: max_clients: 0 is out of range 1..1000000\n"},
    {"batch { tls { x = 1 } }", F ":1: batch.tls: unknown section\n"},
    {"batch { batch { interval = 1 } }", F ":1: batch.batch: unknown section\n"},
    {"interval = 1", F ":1: interval: unknown key; did you mean batch.interval?\n"},
    {"batch { max_clients = 1 }",
     F ":1: batch.max_clients: unknown key; did you mean max_clients?\n"},
    {"batch.interval = 1", F ":1: batch.interval: write it as batch { interval = ... }\n"},
    {"batch|interval = 1", F ":1: interval: write it into its section, between { and }\n"},
    {"\"batch|\" = 1", F ":1: \"\": unknown key\n"},
    {"\"batch=x\" = 1", F ":1: \"batch\": unknown key\n"},
    {"foo|bar = 1", F ":1: syntax error: no sub-section title/index for 'foo'\n"},
    {"BATCH { interval = 1 }", F ":1: BATCH: unknown section\n"},
    {"root { max_clients = 1 }", F ":1: root: unknown section\n"},
    {"\"two\nlines\" = 1", F ":2: two?lines: unknown key\n"},

    /* twice */
    {"max_clients = 7\n\nmax_clients = 8\n", F ":3: max_clients: given twice, first in line 1\n"},
    {"batch { interval = 1 }\nbatch { interval = 2 }",
     F ":2: batch.interval: given twice, first in line 1\n"},
    {"allow = {}\nallow = 10.0.0.0/8\n", F ":2: allow: given twice, first in line 1\n"},

    /* one or several */
    {"max_clients = {1, 2}", F ":1: max_clients: takes one value, not a list\n"},
    {"max_clients = {}", F ":1: max_clients: takes one value, not a list\n"},
    {"listen = {}", F ":1: listen: needs at least one of HOST:PORT, [V6]:PORT, unix:/PATH\n"},
    {"listen = {'*:1', '*:1'}", F ":1: listen: \"*:1\" is there twice\n"},

    /* syntax */
    {"max_clients 7", F ":1: syntax error: missing equal sign after option 'max_clients'\n"},
    {"max_clients = = 7", F ":1: syntax error: unexpected token '='\n"},
    {"max_clients =\n", F ":2: syntax error: premature end of file\n"},
    {"batch = { interval = 1 }", F ":1: syntax error: missing opening brace for section 'batch'\n"},
    {"batch = {}", F ":1: syntax error: missing opening brace for section 'batch'\n"},
    {"batch {\n interval = 1\n", F ":1: this '{' has no '}'\n"},
    {"batch {\n interval = 1\nlog {\n level = info\n}\n", F ":1: this '{' has no '}'\n"},
    {"{{{{{{{{{{", F ":1: this '{' has no '}'\n"},
    {"\n}", F ":2: syntax error: unexpected closing brace\n"},
    {"\n'' = 1", F ":2: syntax error: from here on a name is missing\n"},
    {"\nlog {\n '' = 1\n}", F ":2: syntax error: from here on a name is missing\n"},
    {"= {}", F ":1: syntax error: unexpected token '='\n"},
    {"listen = {'*:1' '*:2'}", F ":1: syntax error: unexpected token '*:2'\n"},
    {"log {\n level = 'info\n}\n", F ":2: this string has no end\n"},
    {"log { level = \"info\\", F ":1: this string has no end\n"},
    {"max_clients = 7 /* seven", F ":1: this comment has no end\n"},
    {"listen = *:9999", F ":1: '*' must stand within quotes\n"},
    {"listen += '*:9999'", F ":1: '+' must stand within quotes\n"},
    {"max_clients = \"\\067\"", F ":1: '\\0': numeric escapes are not accepted\n"},
    {"max_clients = \"\\999\"", F ":1: '\\9': numeric escapes are not accepted\n"},
    {"\nmax_clients = \x01\n", F ":2: control byte 0x01\n"},
    {"max_clients = '\x1B'", F ":1: control byte 0x1b\n"},

    /* nothing is shown of what may be a part of a password */
    {"database {\n uri = \"host=h\"SECRET@h/db\"\"\n}\n",
     F ":2: syntax error: " HIDDEN F ":2: " HIDDEN_KEY},
    {"database {\n uri = 'host=h password='SECRET' dbname=x'\n}\n",
     F ":2: syntax error: " HIDDEN F ":2: " HIDDEN_KEY},
    {"database {\n uri = host=h password=SECRET\n}\n",
     F ":2: syntax error: " HIDDEN F ":2: database.uri: accepted are postgresql://..., a libpq "
       "key=value string, or sqlite:/PATH\n"},
    {"database {\n uri = 'host=h pw='SECRET = x\n}\n",
     F ":2: " HIDDEN_KEY F ":2: database.uri: invalid connection option \"...\"\n"},
    {"database { passwordfile = x }", F ":1: database.passwordfile: unknown key\n"},
    {"passwordfile=x", F ":1: passwordfile: unknown key\n"},

    /* ${NAME}: CONF_TEST_SET is "7", CONF_TEST_UNSET is not set */
    {"max_clients = ${CONF_TEST_SET}", ""},
    {"max_clients = \"${CONF_TEST_SET}0\"", ""},
    {"max_clients = ${CONF_TEST_UNSET:-9}", ""},
    {"max_clients = ${CONF_TEST_UNSET}",
     F ":1: environment variable \"CONF_TEST_UNSET\" is not set\n"},
    {"\nmax_clients = \"${CONF_TEST_UNSET}\"\n",
     F ":2: environment variable \"CONF_TEST_UNSET\" is not set\n"},
    {"database { password_file = '/${CONF_TEST_UNSET}' }\nmax_clients = 0",
     F ":2: max_clients: 0 is out of range 1..1000000\n"}, /* not in single quotes */
    {"max_clients = \"${pa$:SECRET}\"\n", F ":1: environment variable ... is not set\n"},
    {"max_clients = \"${CONF_TEST_SET\"\n}", F ":1: '${' without '}'\n"},
    {"max_clients = ${CONF_TEST_SET", F ":1: '${' without '}'\n"},
};

/* A password file that is named for its syntax only; the others need none. */
static void
load_file(const char *text, const char *lines)
{
	ck_assert_int_eq(setenv("CONF_TEST_SET", "7", 1), 0);
	ck_assert_int_eq(unsetenv("CONF_TEST_UNSET"), 0);
	ck_assert_int_eq(setenv("DB_PASSWORD", "x", 1), 0); /* then no password file is read */
	if (*lines)
		conf_test_bad(text, NULL, lines);
	else
		conf_unref(conf_test_good(text, NULL));
}

START_TEST(file)
{
	load_file(files[_i].text, files[_i].lines);
}
END_TEST

/* libconfuse's scanner keeps its state: whatever one file did, the next is read afresh. */
START_TEST(one_file_after_another)
{
	for (size_t i = 0; i < COUNT(files); i++) {
		load_file(files[i].text, files[i].lines);
		load_file("listen = '*:1' # x\nmax_clients = 0\n",
			  F ":2: max_clients: 0 is out of range 1..1000000\n");
	}
}
END_TEST

/* A file that stops anywhere gives an answer, and never one without lines. */
START_TEST(every_prefix)
{
	static const char whole[] = "# comment\nlisten = {'*:1', \"[::1]:${CONF_TEST_UNSET:-2}\"}\n"
				    "foo { a = 1 }\nbatch { interval = 3 /* s */ max_rows = 7 }\n"
				    "database { uri = 'host=x' create = no }\nx = {}\n";
	char text[sizeof(whole)];

	for (size_t len = 0; len < sizeof(whole); len++) {
		struct conf *c = NULL;
		int r;

		memcpy(text, whole, len);
		text[len] = '\0';
		r = conf_test_load(text, NULL, 0, &c);
		ck_assert_msg(r == 0 ? conf_test_lines[0] == '\0' : conf_test_lines[0] != '\0',
			      "%zu bytes: %d, \"%s\"", len, r, conf_test_lines);
		ck_assert(r == 0 || r == -EINVAL);
		conf_unref(c);
	}
}
END_TEST

START_TEST(many_unknown_keys)
{
	char text[100 * 16] = "", want[sizeof(conf_test_lines)] = "";

	for (unsigned i = 0; i < 20; i++) {
		(void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "key%u = 1\n", i);
		(void)snprintf(want + strlen(want), sizeof(want) - strlen(want),
			       F ":%u: key%u: unknown key\n", i + 1, i);
	}
	conf_test_bad(text, NULL, want);

	for (unsigned i = 20; i < 100; i++) /* more than are told at once */
		(void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "key%u = 1\n", i);
	ck_assert_int_eq(conf_test_load(text, NULL, 0, &(struct conf *){NULL}), -EINVAL);
	ck_assert_int_eq(strncmp(conf_test_lines, want, strlen(want)), 0);
}
END_TEST

START_TEST(too_many_values)
{
	char text[100 * 16] = "allow = {";

	for (unsigned i = 0; i < 65; i++)
		(void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "10.0.0.%u,", i);
	(void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "}");
	conf_test_bad(text, NULL, F ":1: allow: takes at most 64 values\n");
}
END_TEST

START_TEST(no_text)
{
	static const char *const keys[] = {"max_clients"};
	static char large[CONF_FILE_MAX + 2];
	struct conf_file *f = NULL;
	FILE *out = fopen(F, "w");

	ck_assert_ptr_nonnull(out);
	ck_assert_uint_eq(fwrite("max_clients = 7\0", 1, 16, out), 16);
	ck_assert_int_eq(fclose(out), 0);
	ck_assert_int_eq(conf_file_read(F, keys, 1, &f), 0);
	ck_assert_uint_eq(f->n_problems, 1);
	ck_assert_uint_eq(f->problems[0].line, 0);
	ck_assert_str_eq(f->problems[0].text, "is not a text file: it holds NUL bytes");
	conf_file_free(f);

	memset(large, '\n', CONF_FILE_MAX);
	conf_test_write(F, large);
	ck_assert_int_eq(conf_file_read(F, keys, 1, &f), 0);
	ck_assert_uint_eq(f->n_problems, 0);
	conf_file_free(f);
	large[CONF_FILE_MAX] = '\n';
	conf_test_write(F, large);
	ck_assert_int_eq(conf_file_read(F, keys, 1, &f), -EFBIG);
}
END_TEST

START_TEST(entries)
{
	static const char *const keys[] = {"a", "s.list"};
	struct conf_file *f = NULL;

	conf_test_write(F, "a = 1\ns {\n list = {x, 'y z'}\n}\na = {}\n");
	ck_assert_int_eq(conf_file_read(F, keys, 2, &f), 0);
	ck_assert_uint_eq(f->n_problems, 0);
	ck_assert_uint_eq(f->n_entries, 3);
	ck_assert_str_eq(f->path, F);
	ck_assert_ptr_eq(f->entries[0].key, keys[0]);
	ck_assert_uint_eq(f->entries[0].line, 1);
	ck_assert_uint_eq(f->entries[0].n, 1);
	ck_assert_str_eq(f->entries[0].values[0], "1");
	ck_assert_ptr_eq(f->entries[1].key, keys[1]);
	ck_assert_uint_eq(f->entries[1].line, 3);
	ck_assert_uint_eq(f->entries[1].n, 2);
	ck_assert_str_eq(f->entries[1].values[0], "x");
	ck_assert_str_eq(f->entries[1].values[1], "y z");
	ck_assert_ptr_eq(f->entries[2].key, keys[0]);
	ck_assert_uint_eq(f->entries[2].line, 5);
	ck_assert_uint_eq(f->entries[2].n, 0);
	conf_file_free(f);
}
END_TEST

START_TEST(unreadable)
{
	ck_assert_int_eq(mkdir("dir", 0700), 0);
	ck_assert_int_eq(conf_file_read("missing.conf", NULL, 0, &(struct conf_file *){NULL}),
			 -ENOENT);
	ck_assert_int_eq(conf_file_read("dir", NULL, 0, &(struct conf_file *){NULL}), -EISDIR);
}
END_TEST

/* Whatever it is, and whether anybody writes to it: nobody waits. */
START_TEST(no_file)
{
	struct conf_file *f = NULL;
	int writer;

	ck_assert_int_eq(mkfifo("fifo", 0600), 0);
	ck_assert_int_eq(conf_file_read("fifo", NULL, 0, &f), -ENXIO);
	writer = open("fifo", O_RDWR | O_CLOEXEC);
	ck_assert_int_ge(writer, 0);
	ck_assert_int_eq(write(writer, "log {", 5), 5);
	ck_assert_int_eq(conf_file_read("fifo", NULL, 0, &f), -ENXIO);
	(void)close(writer);
	ck_assert_int_eq(conf_file_read("/dev/zero", NULL, 0, &f), -ENXIO);
	ck_assert_int_eq(conf_file_read("/dev/null", NULL, 0, &f), 0);
	conf_file_free(f);
}
END_TEST

START_TEST(no_file_is_reported)
{
	const struct conf_source fifo = {.file = "fifo"};

	ck_assert_int_eq(mkfifo("fifo", 0600), 0);
	conf_test_bad_source(&fifo, "fifo: it is not a regular file\n");
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("conf_file");
	TCase *tc = tcase_create("conf_file");
	SRunner *sr = srunner_create(s);
	int failed;

	suite_add_tcase(s, tc);
	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, conf_test_setup, conf_test_teardown);
	tcase_add_loop_test(tc, file, 0, (int)COUNT(files));
	tcase_add_test(tc, one_file_after_another);
	tcase_add_test(tc, every_prefix);
	tcase_add_test(tc, many_unknown_keys);
	tcase_add_test(tc, too_many_values);
	tcase_add_test(tc, no_text);
	tcase_add_test(tc, entries);
	tcase_add_test(tc, unreadable);
	tcase_add_test(tc, no_file);
	tcase_add_test(tc, no_file_is_reported);

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
