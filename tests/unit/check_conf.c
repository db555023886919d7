#include "conf/conf.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf_test.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define F CONF_TEST_FILE
#define DAY_MS UINT64_C(86400000)
#define DAY_US UINT64_C(86400000000)

static void
set_env(const char *name, const char *value)
{
	ck_assert_int_eq(setenv(name, value, 1), 0);
}

/* ---- defaults ---- */

static void
check_default_limits(const struct conf *c)
{
	ck_assert_uint_eq(c->listen.n, 1);
	ck_assert_str_eq(c->listen.items[0], "0.0.0.0:9999");
	ck_assert_uint_eq(c->max_clients, 10000);
	ck_assert_uint_eq(c->client_timeout_ms, 0);
	ck_assert_uint_eq(c->max_invalid_frames, 100);
	ck_assert_uint_eq(c->n_allow, 0);
	ck_assert_uint_eq(c->batch.interval_ms, 5000);
	ck_assert_uint_eq(c->batch.max_rows, 100000);
	ck_assert_uint_eq(c->batch.max_bytes, 16 << 20);
	ck_assert_uint_eq(c->buffer.memory_limit, 256 << 20);
	ck_assert_str_eq(c->buffer.spool, "/var/lib/metric-collectord/spool");
	ck_assert_uint_eq(c->buffer.spool_limit, UINT64_C(8) << 30);
	ck_assert_int_eq(c->buffer.sync, CONF_SYNC_INTERVAL);
	ck_assert_int_eq(c->buffer.overflow, CONF_BLOCK);
	ck_assert_uint_eq(c->buffer.keep_ms, 0);
	ck_assert_uint_eq(c->timestamps.max_age_us, 0);
	ck_assert_uint_eq(c->timestamps.max_future_us, 0);
}

static void
check_default_stores(const struct conf *c)
{
	ck_assert_int_eq(c->database.store, CONF_STORE_SQLITE);
	ck_assert_str_eq(c->database.uri, "sqlite:/var/lib/metric-collectord/metrics.db");
	ck_assert_str_eq(c->database.path, "/var/lib/metric-collectord/metrics.db");
	ck_assert_ptr_null(c->database.password);
	ck_assert_str_eq(c->database.password_file, "");
	ck_assert_uint_eq(c->database.connections, 1);
	ck_assert(c->database.create);
	ck_assert(c->database.migrate);
	ck_assert_uint_eq(c->database.connect_timeout_ms, 5000);
	ck_assert_uint_eq(c->database.ledger_keep_ms, DAY_MS);
	ck_assert_int_eq(c->database.timescaledb, CONF_AUTO);
	ck_assert_int_eq(c->database.citus, CONF_OFF);
	ck_assert_uint_eq(c->table.chunk_interval_us, DAY_US);
	ck_assert_uint_eq(c->table.retention_us, 0);
	ck_assert_uint_eq(c->table.compress_after_us, 7 * DAY_US);
	ck_assert_uint_eq(c->table.rollups.n, 0);
	ck_assert_int_eq(c->table.direct_compress, CONF_OFF);
	ck_assert_uint_eq(c->table.max_new_chunks, 16);
	ck_assert_uint_eq(c->senders.keep_ms, 30 * DAY_MS);
	ck_assert_int_eq(c->log.level, LOG_INFO);
	ck_assert_int_eq(c->log.target, LOG_TARGET_AUTO);
	ck_assert(!c->log.metrics);
}

START_TEST(defaults)
{
	struct conf *c = conf_test_good("", NULL);

	ck_assert_str_eq(c->file, F);
	check_default_limits(c);
	check_default_stores(c);
	conf_unref(c);
}
END_TEST

/* Every section, with other values than the defaults. */
START_TEST(everything)
{
	struct conf *c = conf_test_good(
	    "listen = {\"[::]:9999\", 'unix:/run/mc'}\n"
	    "max_clients = 7 client_timeout = 0.25 max_invalid_frames = 8\n"
	    "allow = {10.0.0.0/8, ::1}\n"
	    "batch { interval = 0.5 max_rows = 9 max_bytes = 4096 }\n"
	    "buffer { memory_limit = 1G spool = '' spool_limit = 2T sync = always\n"
	    "  overflow = drop_newest keep = '2 days' }\n"
	    "timestamps { max_age = '30 days' max_future = '1 hour' }\n"
	    "database { uri = 'service=metrics' password_file = '' connections = 3 create = no\n"
	    "  migrate = off connect_timeout = 1 ledger_keep = '1 week' timescaledb = require\n"
	    "  citus = auto }\n"
	    "table { chunk_interval = '1 hour' retention = '90 days' compress_after = ''\n"
	    "  rollups = {'1 minute', '1 hour'} direct_compress = auto max_new_chunks = 5 }\n"
	    "senders { keep = '1 week' }\n"
	    "log { level = debug target = journal metrics = true }\n",
	    NULL);

	ck_assert_uint_eq(c->listen.n, 2);
	ck_assert_str_eq(c->listen.items[0], "[::]:9999");
	ck_assert_str_eq(c->listen.items[1], "unix:/run/mc");
	ck_assert_uint_eq(c->max_clients, 7);
	ck_assert_uint_eq(c->client_timeout_ms, 250);
	ck_assert_uint_eq(c->max_invalid_frames, 8);
	ck_assert_uint_eq(c->n_allow, 2);
	ck_assert_int_eq(c->allow[0].family, AF_INET);
	ck_assert_uint_eq(c->allow[0].bits, 8);
	ck_assert_int_eq(c->allow[1].family, AF_INET6);
	ck_assert_uint_eq(c->batch.interval_ms, 500);
	ck_assert_uint_eq(c->batch.max_rows, 9);
	ck_assert_uint_eq(c->batch.max_bytes, 4096);
	ck_assert_uint_eq(c->buffer.memory_limit, 1 << 30);
	ck_assert_str_eq(c->buffer.spool, "");
	ck_assert_uint_eq(c->buffer.spool_limit, UINT64_C(2) << 40);
	ck_assert_int_eq(c->buffer.sync, CONF_SYNC_ALWAYS);
	ck_assert_int_eq(c->buffer.overflow, CONF_DROP_NEWEST);
	ck_assert_uint_eq(c->buffer.keep_ms, 2 * DAY_MS);
	ck_assert_uint_eq(c->timestamps.max_age_us, 30 * DAY_US);
	ck_assert_uint_eq(c->timestamps.max_future_us, DAY_US / 24);
	ck_assert_int_eq(c->database.store, CONF_STORE_POSTGRES);
	ck_assert_str_eq(c->database.uri, "service=metrics");
	ck_assert_ptr_null(c->database.path);
	ck_assert_uint_eq(c->database.connections, 3);
	ck_assert(!c->database.create);
	ck_assert(!c->database.migrate);
	ck_assert_uint_eq(c->database.connect_timeout_ms, 1000);
	ck_assert_uint_eq(c->database.ledger_keep_ms, 7 * DAY_MS);
	ck_assert_int_eq(c->database.timescaledb, CONF_REQUIRE);
	ck_assert_int_eq(c->database.citus, CONF_AUTO);
	ck_assert_uint_eq(c->table.chunk_interval_us, DAY_US / 24);
	ck_assert_uint_eq(c->table.retention_us, 90 * DAY_US);
	ck_assert_uint_eq(c->table.compress_after_us, 0);
	ck_assert_uint_eq(c->table.rollups.n, 2);
	ck_assert_str_eq(c->table.rollups.items[1], "1 hour");
	ck_assert_int_eq(c->table.direct_compress, CONF_AUTO);
	ck_assert_uint_eq(c->table.max_new_chunks, 5);
	ck_assert_uint_eq(c->senders.keep_ms, 7 * DAY_MS);
	ck_assert_int_eq(c->log.level, LOG_DEBUG);
	ck_assert_int_eq(c->log.target, LOG_TARGET_JOURNAL);
	ck_assert(c->log.metrics);
	conf_unref(c);
}
END_TEST

START_TEST(no_file)
{
	struct conf_source src = {.file = "missing.conf"};
	struct conf *c;

	if (access(conf_default_file, F_OK) < 0) { /* an installed one is none of ours */
		c = conf_test_good(NULL, NULL);
		ck_assert_ptr_null(c->file);
		check_default_limits(c);
		check_default_stores(c);
		conf_unref(c);
	}
	conf_test_bad_source(&src, "missing.conf: No such file or directory\n");
	src.file = ".";
	conf_test_bad_source(&src, ".: Is a directory\n");
}
END_TEST

/* ---- values: what each key says when it is wrong ---- */

static const struct {
	const char *option;
	const char *what; /* behind "-o KEY: " */
} wrong[] = {
    {"listen=", "needs at least one of HOST:PORT, [V6]:PORT, unix:/PATH"},
    {"listen=tls://0.0.0.0:1",
     "\"tls://0.0.0.0:1\": the scheme tls:// is not supported by this version"},
    {"listen=graphite://*:2003",
     "\"graphite://*:2003\": the scheme graphite:// is not supported by this version"},
    {"listen=*:1,*:1", "\"*:1\" is there twice"},
    {"max_clients=0", "0 is out of range 1..1000000"},
    {"max_clients=1000001", "1000001 is out of range 1..1000000"},
    {"max_clients=99999999999999999999", "99999999999999999999 is out of range 1..1000000"},
    {"max_clients=-5", "-5 is out of range 1..1000000"},
    {"max_clients=ten", "\"ten\" is not an integer (1..1000000)"},
    {"max_clients=", "\"\" is not an integer (1..1000000)"},
    {"client_timeout=-1", "-1 is out of range 0..31536000 seconds"},
    {"client_timeout=x", "\"x\" is not a number of seconds (0..31536000)"},
    {"max_invalid_frames=0", "0 is out of range 1..1000000"},
    {"allow=10.0.0.1/8", "\"10.0.0.1/8\": bits are set behind the prefix length"},
    {"batch.interval=0", "0 is out of range 0.01..86400 seconds"},
    {"batch.interval=0.009", "0.009 is out of range 0.01..86400 seconds"},
    {"batch.interval=86400.001", "86400.001 is out of range 0.01..86400 seconds"},
    {"batch.max_rows=0", "0 is out of range 1..10000000"},
    {"batch.max_bytes=4095", "4095 is out of range 4K..1G"},
    {"batch.max_bytes=1025M", "\"1025M\" is out of range 4K..1G"},
    {"batch.max_bytes=lots", "\"lots\" is not a size such as \"16M\" (4K..1G)"},
    {"buffer.memory_limit=1K", "\"1K\" is out of range 4K..1T"},
    {"buffer.spool=spool", "\"spool\" is not an absolute path, or \"\""},
    {"buffer.spool_limit=2000T", "\"2000T\" is out of range 64K..1024T"},
    {"buffer.sync=sometimes", "\"sometimes\" is not one of always, interval, never"},
    {"buffer.overflow=drop", "\"drop\" is not one of block, drop_oldest, drop_newest"},
    {"buffer.keep=366 days", "\"366 days\" is out of range 0..365 days, or \"\""},
    {"buffer.keep=90",
     "90 is not a duration such as \"90 s\" or \"30 days\" (0..365 days, or \"\")"},
    {"timestamps.max_age=0", "0 is out of range 1 s..36500 days, or \"\""},
    {"timestamps.max_future=0 s", "\"0 s\" is out of range 1 s..36500 days, or \"\""},
    {"database.connections=65", "65 is out of range 1..64"},
    {"database.create=maybe", "\"maybe\" is neither true nor false"},
    {"database.migrate=", "\"\" is neither true nor false"},
    {"database.connect_timeout=0", "0 is out of range 0.1..3600 seconds"},
    {"database.ledger_keep=0", "0 is out of range 1 s..36500 days"},
    {"database.ledger_keep=",
     "\"\" is not a duration such as \"90 s\" or \"30 days\" (1 s..36500 days)"},
    {"database.timescaledb=yes", "\"yes\" is not one of auto, require, off"},
    {"database.citus=on", "\"on\" is not one of auto, require, off"},
    {"database.password_file=secret", "needs the absolute path of a file, or \"\""},
    {"table.chunk_interval=1 s", "\"1 s\" is out of range 1 min..3650 days"},
    {"table.retention=0", "0 is out of range 1 min..36500 days, or \"\""},
    {"table.compress_after=soon",
     "\"soon\" is not a duration such as \"90 s\" or \"30 days\" (1 min..36500 days, or \"\")"},
    {"table.rollups=1 minute, 2 years", "\"2 years\" is not a duration of 1 s..365 days"},
    {"table.rollups=1 minute,", "\"\" is not a duration of 1 s..365 days"},
    {"table.rollups=0.5 s", "\"0.5 s\" is not a duration of 1 s..365 days"},
    {"table.direct_compress=require", "\"require\" is not one of off, auto"},
    {"table.max_new_chunks=0", "0 is out of range 1..100000"},
    {"log.level=loud", "\"loud\" is not one of error, warning, notice, info, debug"},
    {"log.target=syslog", "\"syslog\" is not one of auto, journal, stderr"},
    {"log.metrics=2", "2 is neither true nor false"},

    {"foo.bar=1", "unknown key"},
    {"batch=1", "unknown key"},
    {"interval=1", "unknown key"},
    {"=1", "unknown key"},
};

START_TEST(wrong_value)
{
	const char *option = wrong[_i].option;
	char line[400];

	(void)snprintf(line, sizeof(line), "-o %.*s: %s\n", (int)strcspn(option, "="), option,
		       wrong[_i].what);
	conf_test_bad("", option, line);
}
END_TEST

START_TEST(no_assignment)
{
	conf_test_bad("", "max_clients", "-o \"max_clients\": is not KEY=VALUE\n");
}
END_TEST

START_TEST(all_errors_at_once)
{
	static const char *const options[] = {"foo.bar=1", "log.level=loud"};

	set_env("BATCH_INTERVAL", "0");
	set_env("DB_PORT", "0");
	ck_assert_int_eq(conf_test_load("max_clients = x\nbatch { max_rows = 0 nope = 1 }\n",
					options, 2, &(struct conf *){NULL}),
			 -EINVAL);
	ck_assert_str_eq(
	    conf_test_lines, F
	    ":1: max_clients: \"x\" is not an integer (1..1000000)\n" F
	    ":2: batch.nope: unknown key\n" F ":2: batch.max_rows: 0 is out of range 1..10000000\n"
	    "environment: BATCH_INTERVAL: 0 is out of range 0.01..86400 seconds\n"
	    "environment: DB_PORT: 0 is out of range 1..65535\n"
	    "-o foo.bar: unknown key\n"
	    "-o log.level: \"loud\" is not one of error, warning, notice, info, debug\n");
}
END_TEST

/* ---- keys that must fit together ---- */

static const struct {
	const char *text;
	const char *option;
	const char *line; /* NULL = good */
} pairs[] = {
    {"buffer { keep = '1 day' }", NULL, NULL},
    {"\nbuffer { keep = '25 hours' }", NULL,
     F ":2: buffer.keep: \"25 hours\" is more than database.ledger_keep, which is \"1 day\"\n"},
};

START_TEST(pair)
{
	if (pairs[_i].line)
		conf_test_bad(pairs[_i].text, pairs[_i].option, pairs[_i].line);
	else
		conf_unref(conf_test_good(pairs[_i].text, pairs[_i].option));
}
END_TEST

/* ---- differences ---- */

struct seen {
	char keys[2000];
};

static void
see(void *arg, const char *key, bool restart)
{
	struct seen *s = arg;
	size_t len = strlen(s->keys);

	(void)snprintf(s->keys + len, sizeof(s->keys) - len, "%s%s ", key, restart ? "!" : "");
}

/* One other value for each key; the order is the table's. */
static const char *const others[] = {
    "listen=*:1",
    "max_clients=1",
    "client_timeout=1",
    "max_invalid_frames=1",
    "allow=::1",
    "batch.interval=1",
    "batch.max_rows=1",
    "batch.max_bytes=1M",
    "buffer.memory_limit=1G",
    "buffer.spool=",
    "buffer.spool_limit=1G",
    "buffer.sync=never",
    "buffer.overflow=drop_oldest",
    "buffer.keep=1 hour",
    "timestamps.max_age=1 day",
    "timestamps.max_future=1 day",
    "database.uri=host=x",
    "database.password_file=",
    "database.connections=2",
    "database.create=false",
    "database.migrate=false",
    "database.connect_timeout=1",
    "database.ledger_keep=1 week",
    "database.timescaledb=off",
    "database.citus=auto",
    "table.chunk_interval=1 hour",
    "table.retention=1 week",
    "table.compress_after=",
    "table.rollups=1 hour",
    "table.direct_compress=auto",
    "table.max_new_chunks=1",
    "senders.keep=1 week",
    "log.level=debug",
    "log.target=stderr",
    "log.metrics=true",
};

static const char *
restart_mark(const char *option)
{
	return strncmp(option, "buffer.spool=", 13) == 0 || strncmp(option, "buffer.sync=", 12) == 0
		   ? "!"
		   : "";
}

START_TEST(differences)
{
	struct conf *a = conf_test_good("", NULL), *b;

	for (size_t i = 0; i < COUNT(others); i++) {
		bool password = strcmp(others[i], "database.password_file=") == 0;
		struct seen s = {""};
		char want[100];

		if (password) /* the same file may hold another one */
			set_env("DB_PASSWORD", "x");
		b = conf_test_good(password ? "database { uri = 'host=x' }" : "", others[i]);
		conf_diff(a, b, see, &s);
		(void)snprintf(want, sizeof(want), "%s%.*s%s ", password ? "database.uri " : "",
			       (int)strcspn(others[i], "="), others[i], restart_mark(others[i]));
		ck_assert_str_eq(s.keys, want);
		s.keys[0] = '\0';
		conf_diff(b, b, see, &s);
		ck_assert_str_eq(s.keys, "");
		conf_unref(b);
		ck_assert_int_eq(unsetenv("DB_PASSWORD"), 0);
	}
	conf_unref(a);
}
END_TEST

START_TEST(all_differences)
{
	struct conf *a = conf_test_good("", NULL), *b = NULL;
	char want[2000] = "";
	struct seen s = {""};

	set_env("DB_PASSWORD", "x");
	ck_assert_int_eq(conf_test_load("", others, COUNT(others), &b), 0);
	conf_diff(a, b, see, &s);
	for (size_t i = 0; i < COUNT(others); i++)
		(void)snprintf(want + strlen(want), sizeof(want) - strlen(want), "%.*s%s ",
			       (int)strcspn(others[i], "="), others[i], restart_mark(others[i]));
	ck_assert_str_eq(s.keys, want);
	conf_unref(a);
	conf_unref(b);
}
END_TEST

START_TEST(references)
{
	struct conf *c = conf_test_good("", NULL);

	ck_assert_ptr_eq(conf_ref(c), c);
	conf_unref(c);
	ck_assert_uint_eq(c->max_clients, 10000);
	conf_unref(c);
	conf_unref(NULL);
}
END_TEST

/* ---- the table ---- */

/* Loads key=value; the neighbours that it must fit are made roomy. */
static void
takes(const char *key, const char *value)
{
	const char *const options[4] = {"batch.max_bytes=4K", "buffer.memory_limit=1T",
					"database.ledger_keep=36500 days",
					"table.chunk_interval=1 min"};
	const char *all[5];
	struct conf *c = NULL;
	char option[200];

	memcpy(all, options, sizeof(options));
	(void)snprintf(option, sizeof(option), "%s=%s", key, value);
	all[4] = option;
	ck_assert_msg(conf_test_load("", all, 5, &c) == 0, "%s", conf_test_lines);
	conf_unref(c);
}

/* Both ends of each range that conf_print_keys() shows are accepted. */
START_TEST(printed_ranges)
{
	FILE *out = tmpfile();
	char line[400];
	unsigned keys = 0, ranges = 0;

	ck_assert_ptr_nonnull(out);
	conf_print_keys(out);
	rewind(out);
	while (fgets(line, sizeof(line), out)) {
		char *rest = line, *key = strsep(&rest, "\t"), *type = strsep(&rest, "\t");
		char *def = strsep(&rest, "\t"), *range = strsep(&rest, "\t"), *dots;

		ck_assert_ptr_nonnull(def);
		ck_assert_ptr_nonnull(range);
		ck_assert(strcmp(rest, "reload\n") == 0 || strcmp(rest, "restart\n") == 0);
		keys++;
		dots = strstr(range, "..");
		if (!dots || strcmp(type, "string") == 0 || strcmp(type, "list") == 0)
			continue;
		*dots = '\0';
		dots[2 + strcspn(dots + 2, ",")] = '\0';
		takes(key, range);
		takes(key, dots + 2);
		ranges++;
	}
	ck_assert_int_eq(fclose(out), 0);
	ck_assert_uint_eq(keys, COUNT(others));
	ck_assert_uint_eq(ranges, 19);
}
END_TEST

static void
add_tests(TCase *tc)
{
	tcase_add_test(tc, defaults);
	tcase_add_test(tc, everything);
	tcase_add_test(tc, no_file);
	tcase_add_loop_test(tc, wrong_value, 0, (int)COUNT(wrong));
	tcase_add_test(tc, no_assignment);
	tcase_add_test(tc, all_errors_at_once);
	tcase_add_loop_test(tc, pair, 0, (int)COUNT(pairs));
	tcase_add_test(tc, differences);
	tcase_add_test(tc, all_differences);
	tcase_add_test(tc, references);
	tcase_add_test(tc, printed_ranges);
}

int
main(void)
{
	Suite *s = suite_create("conf");
	TCase *tc = tcase_create("conf");
	SRunner *sr = srunner_create(s);
	int failed;

	suite_add_tcase(s, tc);
	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, conf_test_setup, conf_test_teardown);
	add_tests(tc);

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
