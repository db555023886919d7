/* check_conf_effect.c - each key has an effect with each store, or it is said why not. */
#include "conf/conf_effect.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conf/conf_key.h"
#include "conf_test.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* Where a key has an effect, whoever sets it to what is given here. */
#define SQLITE 1u
#define PLAIN 2u /* PostgreSQL without extensions */
#define TIMESCALEDB 4u
#define CITUS 8u
#define SERVERS (PLAIN | TIMESCALEDB | CITUS)
#define ALL (SQLITE | SERVERS)

#define PASSWORD "/password" /* in the test's directory */

static const struct {
	const char *key;
	const char *value; /* which asks for something */
	unsigned acts;
	const char *none; /* a value that asks for nothing, the default or another; or NULL */
} keys[] = {
    {"listen", "127.0.0.1:1", ALL, NULL},
    {"max_clients", "5", ALL, NULL},
    {"client_timeout", "5", ALL, NULL},
    {"max_invalid_frames", "5", ALL, NULL},
    {"allow", "127.0.0.1", ALL, NULL},
    {"batch.interval", "1", ALL, NULL},
    {"batch.max_rows", "5", ALL, NULL},
    {"batch.max_bytes", "1M", ALL, NULL},
    {"buffer.memory_limit", "1M", ALL, NULL},
    {"buffer.spool", "/spool", ALL, NULL},
    {"buffer.spool_limit", "1M", ALL, NULL},
    {"buffer.sync", "always", ALL, NULL},
    {"buffer.overflow", "drop_oldest", ALL, NULL},
    {"buffer.keep", "1 hour", ALL, "0"},
    {"timestamps.max_age", "1 day", ALL, ""},
    {"timestamps.max_future", "1 day", ALL, ""},
    {"database.uri", NULL, ALL, NULL}, /* it chooses the store */
    {"database.password_file", PASSWORD, SERVERS, ""},
    {"database.connections", "2", SERVERS, "1"},
    {"database.create", "false", ALL, NULL},
    {"database.migrate", "false", ALL, NULL},
    {"database.connect_timeout", "1", ALL, NULL},
    {"database.ledger_keep", "2 days", ALL, NULL},
    {"database.timescaledb", "require", PLAIN | TIMESCALEDB, "off"},
    {"database.citus", "require", SERVERS, "auto"},
    {"table.chunk_interval", "2 days", SERVERS, "1 day"},
    {"table.retention", "30 days", ALL, ""},
    {"table.compress_after", "1 day", TIMESCALEDB, ""},
    {"table.rollups", "1 hour", TIMESCALEDB, ""},
    {"table.direct_compress", "auto", TIMESCALEDB, "off"},
    {"table.max_new_chunks", "5", SERVERS, "16"},
    {"senders.keep", "2 days", ALL, NULL},
    {"log.level", "debug", ALL, NULL},
    {"log.target", "stderr", ALL, NULL},
    {"log.metrics", "true", ALL, "false"},
};

static const struct {
	unsigned where;
	enum conf_found found;
	const char *uri;
} stores[] = {
    {SQLITE, CONF_FOUND_NOTHING, "database.uri=sqlite:/m.db"},
    {PLAIN, CONF_FOUND_TABLE, "database.uri=postgresql://h/d"},
    {TIMESCALEDB, CONF_FOUND_HYPERTABLE, "database.uri=postgresql://h/d"},
    {CITUS, CONF_FOUND_DISTRIBUTED, "database.uri=postgresql://h/d"},
};

struct said {
	char key[64];
	char where[128];
	char reason[128];
	int n;
};

static void
say(void *arg, const char *key, const char *where, const char *reason)
{
	struct said *s = arg;

	(void)snprintf(s->key, sizeof(s->key), "%s", key);
	(void)snprintf(s->where, sizeof(s->where), "%s", where);
	(void)snprintf(s->reason, sizeof(s->reason), "%s", reason);
	s->n++;
}

/* What is said at the start, and once the database is known. */
static struct said
say_all(const struct conf *c, enum conf_found found)
{
	struct said s = {.n = 0};

	conf_without_effect(c, CONF_FOUND_NOTHING, say, &s);
	if (found != CONF_FOUND_NOTHING)
		conf_without_effect(c, found, say, &s);
	return s;
}

static struct said
said_of(const char *const *options, size_t n, enum conf_found found)
{
	struct conf *c = NULL;
	struct said s;

	ck_assert_msg(conf_test_load("", options, n, &c) == 0, "%s", conf_test_lines);
	s = say_all(c, found);
	conf_unref(c);
	return s;
}

START_TEST(each_key_is_in_a_class)
{
	ck_assert_uint_eq(COUNT(keys), conf_key_count());
	for (size_t i = 0; i < conf_key_count(); i++) {
		const char *key = conf_key_name(conf_key_at(i));

		ck_assert_str_eq(keys[i].key, key);
		ck_assert_msg(conf_effect_known(key), "%s is not in conf_effect.c", key);
	}
}
END_TEST

/* "KEY=VALUE" of keys[i]. */
static void
ask(size_t i, char option[256])
{
	char dir[128] = "";

	if (strcmp(keys[i].value, PASSWORD) == 0) {
		conf_test_write(PASSWORD + 1, "secret\n");
		ck_assert_ptr_nonnull(getcwd(dir, sizeof(dir)));
	}
	(void)snprintf(option, 256, "%s=%s%s", keys[i].key, dir, keys[i].value);
}

START_TEST(it_acts_or_it_is_said)
{
	for (size_t i = 0; i < COUNT(stores); i++) {
		char option[256];
		const char *options[] = {stores[i].uri, option};
		struct said s;

		if (!keys[_i].value)
			continue;
		ask((size_t)_i, option);
		s = said_of(options, COUNT(options), stores[i].found);
		ck_assert_msg(s.n == !(keys[_i].acts & stores[i].where), "%s, %s: %d %s", option,
			      stores[i].uri, s.n, s.reason);
		if (!s.n)
			continue;
		ck_assert_str_eq(s.key, keys[_i].key);
		ck_assert_str_ne(s.reason, "");
	}
}
END_TEST

START_TEST(who_asks_for_nothing_is_told_nothing)
{
	for (size_t i = 0; i < COUNT(stores) && keys[_i].none; i++) {
		char option[128];
		const char *options[] = {stores[i].uri, option};

		(void)snprintf(option, sizeof(option), "%s=%s", keys[_i].key, keys[_i].none);
		ck_assert_int_eq(said_of(options, COUNT(options), stores[i].found).n, 0);
	}
}
END_TEST

START_TEST(defaults_are_not_told_of)
{
	for (size_t i = 0; i < COUNT(stores); i++)
		ck_assert_int_eq(said_of(&stores[i].uri, 1, stores[i].found).n, 0);
}
END_TEST

/* ---- what another setting takes away ---- */

static const struct {
	const char *options[2];
	const char *key;
	const char *reason;
} others[] = {
    {{"buffer.spool=", "buffer.keep=1 hour"}, "buffer.keep", "buffer.spool is empty"},
    {{"buffer.spool=", "buffer.sync=always"}, "buffer.sync", "buffer.spool is empty"},
    {{"buffer.spool=", "buffer.spool_limit=1G"}, "buffer.spool_limit", "buffer.spool is empty"},
    {{"log.level=warning", "log.metrics=true"}, "log.metrics", "log.level leaves its events out"},
};

START_TEST(another_setting)
{
	struct said s = said_of(others[_i].options, 2, CONF_FOUND_NOTHING);

	ck_assert_int_eq(s.n, 1);
	ck_assert_str_eq(s.key, others[_i].key);
	ck_assert_str_eq(s.reason, others[_i].reason);
}
END_TEST

static const struct {
	const char *option;
	const char *key;
	const char *reason;
} servers[] = {
    {"database.migrate=false", "table.retention", "database.migrate is false"},
    {"database.migrate=false", "table.chunk_interval", "database.migrate is false"},
    {"database.migrate=false", "table.rollups", "database.migrate is false"},
    {"database.timescaledb=off", "table.rollups", "database.timescaledb is off"},
    {"database.timescaledb=off", "table.direct_compress", "database.timescaledb is off"},
    {"database.timescaledb=off", "table.compress_after", "database.timescaledb is off"},
};

/* Known before the server is: -t says it, and it is not said again. */
START_TEST(another_setting_of_a_server)
{
	char option[256];
	const char *options[] = {"database.uri=postgresql://h/d", servers[_i].option, option};
	struct said s, again = {.n = 0};
	struct conf *c = NULL;
	size_t i = conf_key_index(conf_key_find(servers[_i].key));

	ask(i, option);
	s = said_of(options, COUNT(options), CONF_FOUND_NOTHING);
	ck_assert_int_eq(s.n, 1);
	ck_assert_str_eq(s.key, servers[_i].key);
	ck_assert_str_eq(s.reason, servers[_i].reason);
	ck_assert_int_eq(conf_test_load("", options, COUNT(options), &c), 0);
	conf_without_effect(c, CONF_FOUND_TABLE, say, &again);
	conf_unref(c);
	ck_assert_int_eq(again.n, 0);
}
END_TEST

/* ---- where it was set ---- */

START_TEST(names_who_has_set_it)
{
	struct conf *c = conf_test_good("\ntable {\n\trollups = {\"1 hour\"}\n}\n", NULL);
	struct said s = say_all(c, CONF_FOUND_NOTHING);

	ck_assert_int_eq(s.n, 1);
	ck_assert_str_eq(s.where, CONF_TEST_FILE ":3: table.rollups");
	conf_unref(c);
	c = conf_test_good("", "table.rollups=1 hour");
	s = say_all(c, CONF_FOUND_NOTHING);
	ck_assert_int_eq(s.n, 1);
	ck_assert_str_eq(s.where, "-o table.rollups");
	conf_unref(c);
	ck_assert_int_eq(setenv("BATCH_INTERVAL", "3", 1), 0);
	c = conf_test_good("", NULL);
	ck_assert_str_eq(conf_where(c, conf_key_index(conf_key_find("batch.interval"))),
			 "environment: BATCH_INTERVAL");
	ck_assert_ptr_null(conf_where(c, conf_key_index(conf_key_find("listen"))));
	conf_unref(c);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("conf_effect");
	TCase *tc = tcase_create("conf_effect");
	SRunner *sr = srunner_create(s);
	int failed;

	suite_add_tcase(s, tc);
	tcase_add_checked_fixture(tc, conf_test_setup, conf_test_teardown);
	tcase_add_test(tc, each_key_is_in_a_class);
	tcase_add_loop_test(tc, it_acts_or_it_is_said, 0, (int)COUNT(keys));
	tcase_add_loop_test(tc, who_asks_for_nothing_is_told_nothing, 0, (int)COUNT(keys));
	tcase_add_test(tc, defaults_are_not_told_of);
	tcase_add_loop_test(tc, another_setting, 0, (int)COUNT(others));
	tcase_add_loop_test(tc, another_setting_of_a_server, 0, (int)COUNT(servers));
	tcase_add_test(tc, names_who_has_set_it);

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
