/* Where settings come from, and which wins; the database and its password. */
#include "conf/conf.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf_test.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define F CONF_TEST_FILE

static void
set_env(const char *name, const char *value)
{
	ck_assert_int_eq(setenv(name, value, 1), 0);
}

/* ---- database.uri ---- */

#define ACCEPTED "accepted are postgresql://..., a libpq key=value string, or sqlite:/PATH"

#define WRITE_AS " (in a URL, ':', '/' and '@' of a user or a password are %3A, %2F and %40)"
#define PORT "a port is not a number from 1 to 65535"

static const struct {
	const char *uri;
	const char *what; /* NULL = good */
	const char *path; /* of SQLite */
} uris[] = {
    {"sqlite:/a", NULL, "/a"},
    {"sqlite:///a/b.db", NULL, "/a/b.db"},
    {"postgresql://", NULL, NULL},
    {"postgres://u:secret@h:1,h2/db?sslmode=require", NULL, NULL},
    {"host=/run/postgresql dbname = 'a b'", NULL, NULL},
    {"postgresql://u:secret@h,h2/db?user=a@b", NULL, NULL},
    {"postgresql://u:a?secret@h/db", NULL, NULL},
    {"postgresql://u%40a:secret%40%2F@h/db%40x", NULL, NULL},
    {"host=/run/a@b,@abstract port=1,2", NULL, NULL},
    {"", ACCEPTED, NULL},
    {"metrics_db", ACCEPTED, NULL},
    {"/var/lib/metrics.db", ACCEPTED, NULL},
    {"mysql://u:secret@h/db", "\"mysql:\" is not known here; " ACCEPTED, NULL},
    {"sqlite3:/a", "\"sqlite3:\" is not known here; " ACCEPTED, NULL},
    {"sqlite:", "sqlite: needs an absolute path: sqlite:/PATH", NULL},
    {"sqlite:a.db", "sqlite: needs an absolute path: sqlite:/PATH", NULL},
    {"sqlite://a.db", "sqlite: needs an absolute path: sqlite:/PATH", NULL},
    {"sqlite::memory:", "sqlite: needs an absolute path: sqlite:/PATH", NULL},
    {"sqlite:/var/lib/", "sqlite: needs the path of a file", NULL},
    {"host=h colour=red", "invalid connection option \"colour\"", NULL},
    {"host=h password=secret x", "missing \"...\" after \"...\" in connection info string", NULL},
    {"host=h password='secret", "unterminated quoted string in connection info string", NULL},
    {"host=h password=a secret=1", "invalid connection option \"...\"", NULL},
    {"postgresql://u:secret@h/?secret=1", "invalid URI query parameter: \"...\"", NULL},
    {"postgresql://u:secret@[::1",
     "end of string reached when looking for matching \"...\" in IPv6 host address in URI: \"...\"",
     NULL},
    {"postgresql://u:pa@secret@127.0.0.1/db", "an '@' stands where none can be" WRITE_AS, NULL},
    {"postgresql://u:pa@@secret/db", "an '@' stands where none can be" WRITE_AS, NULL},
    {"postgres://u:pa/secret@h/db", "an '@' stands where none can be" WRITE_AS, NULL},
    {"postgresql://u:p@h/secret@db", "an '@' stands where none can be" WRITE_AS, NULL},
    {"postgresql://u:pa?secret@more@h/db", "a host holds an '@'" WRITE_AS, NULL},
    {"postgresql://u:pa?a@secret@h/db", "a host holds an '@'" WRITE_AS, NULL},
    {"postgresql://u:p@h%40secret/db", "a host holds an '@'" WRITE_AS, NULL},
    {"postgresql://h/db?host=pa@secret", "a host holds an '@'" WRITE_AS, NULL},
    {"postgresql://u:secret/db", PORT WRITE_AS, NULL},
    {"postgresql://u:p@h:secret", PORT WRITE_AS, NULL},
    {"host=h port=65536", PORT WRITE_AS, NULL},
    {"host=h port=0", PORT WRITE_AS, NULL},
    {"host=h,h2 port=1,+2", PORT WRITE_AS, NULL},
    {"host=h user=u password=x host=y@secret", "a host holds an '@'" WRITE_AS, NULL},
    {"hostaddr=x@secret", "an address holds an '@'" WRITE_AS, NULL},
    {"host=postgresql://u:secret@h/db", "a host holds an '@'" WRITE_AS, NULL},
    {"dbname=postgresql://u:secret@h/db", "the name of the database is a URL" WRITE_AS, NULL},
    {"user=postgresql://u:secret@h/db", "the name of the user is a URL" WRITE_AS, NULL},
    {"host=h pwd=x secret", "invalid connection option \"...\"", NULL},
    {"postgresql://u:secret%zz@h", "invalid percent-encoded token: \"...\"", NULL},
};

START_TEST(passwords_on_the_command_line)
{
	static const struct {
		const char *option;
		bool shows;
	} options[] = {
	    {"database.uri=postgresql://u:p@h/db", true},
	    {"database.uri=host=h password=p", true},
	    {"database.uri=postgresql://u@h/db?sslpassword=p", true},
	    {"database.uri=postgresql://u@h/db", false},
	    {"database.uri=sqlite:/p", false},
	    {"database.uri=", false},
	    {"buffer.spool=/p", false},
	};

	for (size_t i = 0; i < COUNT(options); i++) {
		const char *const both[] = {"max_clients=1", options[i].option};

		ck_assert(conf_shows_password(&(struct conf_source){
			      .overrides = both, .n_overrides = 2}) == options[i].shows);
	}
}
END_TEST

START_TEST(uri)
{
	char option[200], line[400];
	struct conf *c;

	(void)snprintf(option, sizeof(option), "database.uri=%s", uris[_i].uri);
	if (uris[_i].what) {
		(void)snprintf(line, sizeof(line), "-o database.uri: %s\n", uris[_i].what);
		conf_test_bad("", option, line);
		ck_assert_ptr_null(strstr(conf_test_lines, "secret"));
		return;
	}
	c = conf_test_good("", option);
	ck_assert_str_eq(c->database.uri, uris[_i].uri);
	ck_assert_pstr_eq(c->database.path, uris[_i].path);
	ck_assert_int_eq(c->database.store,
			 uris[_i].path ? CONF_STORE_SQLITE : CONF_STORE_POSTGRES);
	conf_unref(c);
}
END_TEST

/* ---- the environment ---- */

static const struct {
	const char *env[5]; /* NAME=VALUE */
	const char *text;   /* of the file */
	const char *uri;    /* database.uri, or NULL for an error */
	const char *error;
} databases[] = {
    {{"DB_HOST=db"}, "", "host='db' port='5432' dbname='metrics_db' user='postgres'", NULL},
    {{"DB_PORT=6432"},
     "",
     "host='localhost' port='6432' dbname='metrics_db' user='postgres'",
     NULL},
    {{"DB_NAME=x"}, "", "host='localhost' port='5432' dbname='x' user='postgres'", NULL},
    {{"DB_USER=x"}, "", "host='localhost' port='5432' dbname='metrics_db' user='x'", NULL},
    {{"DB_PASSWORD=x"},
     "",
     "host='localhost' port='5432' dbname='metrics_db' user='postgres'",
     NULL},
    {{"DB_HOST=h", "DB_PORT=1", "DB_NAME=it's", "DB_USER=a\\b c"},
     "database { uri = 'host=file' }",
     "host='h' port='1' dbname='it\\'s' user='a\\\\b c'",
     NULL},
    {{"DB_PASSWORD=x"}, "database { uri = 'host=file' }", "host=file", NULL},
    {{"DB_HOST=", "DB_PORT=", "DB_NAME=", "DB_USER=", "DB_PASSWORD="},
     "",
     "sqlite:/var/lib/metric-collectord/metrics.db",
     NULL},
    {{"DATABASE_URL=postgresql://h/d", "DB_HOST=x"}, "", "postgresql://h/d", NULL},
    {{"DATABASE_URL=sqlite:/a"}, "database { uri = 'host=file' }", "sqlite:/a", NULL},
    {{"DATABASE_URL=sqlite:a"},
     "",
     NULL,
     "environment: DATABASE_URL: sqlite: needs an absolute path: sqlite:/PATH\n"},
    {{"DB_PORT=65536"}, "", NULL, "environment: DB_PORT: 65536 is out of range 1..65535\n"},
    {{"DB_PORT=x"}, "", NULL, "environment: DB_PORT: is not a port (1..65535)\n"},
};

START_TEST(database_from_environment)
{
	struct conf *c;

	for (size_t i = 0; i < COUNT(databases[_i].env) && databases[_i].env[i]; i++)
		ck_assert_int_eq(putenv((char *)(uintptr_t)databases[_i].env[i]), 0);
	if (databases[_i].error) {
		conf_test_bad(databases[_i].text, NULL, databases[_i].error);
		return;
	}
	c = conf_test_good(databases[_i].text, NULL);
	ck_assert_str_eq(c->database.uri, databases[_i].uri);
	conf_unref(c);
	c = conf_test_good(databases[_i].text, "database.uri=host=option");
	ck_assert_str_eq(c->database.uri, "host=option");
	conf_unref(c);
}
END_TEST

static const struct {
	const char *host, *port;
	const char *address; /* NULL = error */
	const char *error;
} addresses[] = {
    {"127.0.0.1", "", "127.0.0.1:9999", NULL},
    {"", "1234", "0.0.0.0:1234", NULL},
    {"", "0", "0.0.0.0:0", NULL},
    {"::1", "1234", "[::1]:1234", NULL},
    {"[::]", "1234", "[::]:1234", NULL},
    {"127.0.0.1", "65536", NULL, "environment: TCP_PORT: 65536 is out of range 0..65535\n"},
    {"", "http", NULL, "environment: TCP_PORT: is not a port (0..65535)\n"},
    {"example.org", "1", NULL,
     "environment: TCP_HOST: \"example.org:1\": HOST must be a numeric IPv4 address, localhost or "
     "*\n"},
};

START_TEST(listen_from_environment)
{
	static const char text[] = "listen = {'*:1', '*:2'}";
	struct conf *c;

	set_env("TCP_HOST", addresses[_i].host);
	set_env("TCP_PORT", addresses[_i].port);
	if (addresses[_i].error) {
		conf_test_bad(text, NULL, addresses[_i].error);
		return;
	}
	c = conf_test_good(text, NULL);
	ck_assert_uint_eq(c->listen.n, 1);
	ck_assert_str_eq(c->listen.items[0], addresses[_i].address);
	conf_unref(c);
	c = conf_test_good(text, "listen= unix:/a , *:3");
	ck_assert_uint_eq(c->listen.n, 2);
	ck_assert_str_eq(c->listen.items[0], "unix:/a");
	ck_assert_str_eq(c->listen.items[1], "*:3");
	conf_unref(c);
}
END_TEST

START_TEST(precedence)
{
	static const char text[] = "batch { interval = 1 }\nlog { level = error }";
	static const char *const twice[] = {"batch.interval=3", "batch.interval=4", "allow="};
	struct conf *c = conf_test_good(text, NULL);

	ck_assert_uint_eq(c->batch.interval_ms, 1000);
	ck_assert_int_eq(c->log.level, LOG_ERR);
	conf_unref(c);

	set_env("BATCH_INTERVAL", "2");
	set_env("LOG_LEVEL", "WARN");
	c = conf_test_good(text, NULL);
	ck_assert_uint_eq(c->batch.interval_ms, 2000);
	ck_assert_int_eq(c->log.level, LOG_WARNING);
	conf_unref(c);

	c = conf_test_good(text, "batch.interval=3");
	ck_assert_uint_eq(c->batch.interval_ms, 3000);
	conf_unref(c);

	ck_assert_int_eq(conf_test_load("allow = 10.0.0.0/8", twice, 3, &c), 0);
	ck_assert_uint_eq(c->batch.interval_ms, 4000);
	ck_assert_uint_eq(c->n_allow, 0);
	conf_unref(c);

	set_env("LOG_LEVEL", "");
	c = conf_test_good(text, NULL);
	ck_assert_int_eq(c->log.level, LOG_ERR);
	conf_unref(c);

	set_env("LOG_LEVEL", "err");
	c = conf_test_good("", NULL);
	ck_assert_int_eq(c->log.level, LOG_ERR);
	conf_unref(c);
	set_env("LOG_LEVEL", "verbose");
	conf_test_bad("", NULL,
		      "environment: LOG_LEVEL: \"verbose\" is not one of error, warning, notice, "
		      "info, debug\n");
}
END_TEST

/* ---- passwords ---- */

/* An absolute path in the test's directory, in turn in one of four buffers. */
static const char *
absolute(const char *name)
{
	static char paths[4][200];
	static unsigned next;
	char *path = paths[next++ % 4], here[100];

	ck_assert_ptr_nonnull(getcwd(here, sizeof(here)));
	(void)snprintf(path, sizeof(paths[0]), "%s/%s", here, name);
	return path;
}

static void
expect_password(const char *text, const char *option, const char *want)
{
	struct conf *c = conf_test_good(text, option);

	ck_assert_pstr_eq(c->database.password, want);
	/* a file is read anew at each try to connect */
	ck_assert_int_eq(c->database.password_source != NULL,
			 want && strcmp(want, "pw environment") != 0);
	ck_assert_ptr_null(strstr(c->database.uri, "pw"));
	conf_unref(c);
}

START_TEST(password_precedence)
{
	char text[300], option[300];

	(void)snprintf(text, sizeof(text), "database { password_file = '%s' }", absolute("file"));
	(void)snprintf(option, sizeof(option), "database.password_file=%s", absolute("option"));
	conf_test_write("file", "pw file\n");
	conf_test_write("option", "pw option\r\n");

	expect_password("", NULL, NULL);
	set_env("CREDENTIALS_DIRECTORY", absolute("credentials"));
	expect_password("", NULL, NULL); /* it is not there */
	ck_assert_int_eq(mkdir("credentials", 0700), 0);
	expect_password("", NULL, NULL); /* others may be */
	conf_test_write("credentials/db-password", "pw credential");
	expect_password("", NULL, "pw credential");
	expect_password(text, NULL, "pw file");
	set_env("DB_PASSWORD", "pw environment");
	expect_password("", NULL, "pw environment");
	expect_password(text, NULL, "pw environment");
	expect_password(text, option, "pw option");
	expect_password(text, "database.password_file=", "pw environment");
}
END_TEST

static const struct {
	const char *content;
	const char *what; /* behind the path */
} passwords[] = {
    {"", "is empty"},
    {"\n", "is empty"},
    {"one\ntwo\n", "holds more than one line"},
};

static void
expect_bad_password(const char *what)
{
	char text[300], line[600];

	(void)snprintf(text, sizeof(text), "\ndatabase { password_file = '%s' }", absolute("pw"));
	(void)snprintf(line, sizeof(line), F ":2: database.password_file: \"%s\" %s\n",
		       absolute("pw"), what);
	conf_test_bad(text, NULL, line);
}

START_TEST(bad_password_file)
{
	char longest[4096 + 2];
	struct conf *c;

	expect_bad_password("cannot be read: No such file or directory");
	for (size_t i = 0; i < COUNT(passwords); i++) {
		conf_test_write("pw", passwords[i].content);
		expect_bad_password(passwords[i].what);
	}
	memset(longest, 'x', 4097);
	longest[4097] = '\0';
	conf_test_write("pw", longest);
	expect_bad_password("is longer than 4096 bytes");
	longest[4096] = '\n';
	conf_test_write("pw", longest);
	(void)snprintf(longest, sizeof(longest), "database.password_file=%s", absolute("pw"));
	c = conf_test_good("", longest);
	ck_assert_uint_eq(strlen(c->database.password), 4096);
	conf_unref(c);

	ck_assert_int_eq(unlink("pw"), 0);
	ck_assert_int_eq(mkdir("pw", 0700), 0);
	expect_bad_password("cannot be read: Is a directory");
	ck_assert_int_eq(rmdir("pw"), 0);
	ck_assert_int_eq(mkfifo("pw", 0600), 0);
	expect_bad_password("cannot be read: it is not a regular file");
}
END_TEST

START_TEST(bad_credential)
{
	ck_assert_int_eq(mkdir("db-password", 0700), 0);
	set_env("CREDENTIALS_DIRECTORY", absolute("."));
	conf_test_bad("", NULL, "credential db-password: cannot be read: Is a directory\n");
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("conf_sources");
	TCase *tc = tcase_create("conf_sources");
	SRunner *sr = srunner_create(s);
	int failed;

	suite_add_tcase(s, tc);
	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, conf_test_setup, conf_test_teardown);
	tcase_add_loop_test(tc, uri, 0, (int)COUNT(uris));
	tcase_add_loop_test(tc, database_from_environment, 0, (int)COUNT(databases));
	tcase_add_loop_test(tc, listen_from_environment, 0, (int)COUNT(addresses));
	tcase_add_test(tc, precedence);
	tcase_add_test(tc, passwords_on_the_command_line);
	tcase_add_test(tc, password_precedence);
	tcase_add_test(tc, bad_password_file);
	tcase_add_test(tc, bad_credential);

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
