#include "pg_fixture.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "wire/frame.h"

#define EXIT_SKIPPED 77 /* for Automake */

struct pg_cluster cluster;
char database[64];
char uri[256];
struct conf conf;
int stop_fd = -1;
struct store_error err;
struct batch_view view;

static uint8_t frames[BATCH_ROWS * 40];
struct store_result result;

/* ---- the server, asked directly ---- */

PGconn *
admin(const char *db)
{
	const char *const keys[] = {"host", "user", "dbname", "client_encoding", NULL};
	const char *const values[] = {cluster.dir, "postgres", db, "UTF8", NULL};
	PGconn *pg = PQconnectdbParams(keys, values, 0);

	ck_assert_msg(PQstatus(pg) == CONNECTION_OK, "%s", PQerrorMessage(pg));
	return pg;
}

const char *
ask(PGconn *pg, const char *sql)
{
	static _Thread_local char value[512];
	PGresult *r = PQexec(pg, sql);
	ExecStatusType status = PQresultStatus(r);

	ck_assert_msg(status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK, "%s: %s", sql,
		      PQerrorMessage(pg));
	(void)snprintf(value, sizeof(value), "%s", PQntuples(r) ? PQgetvalue(r, 0, 0) : "");
	PQclear(r);
	return value;
}

const char *
sql_in(const char *db, const char *format, ...)
{
	PGconn *pg = admin(db);
	char sql[2048];
	const char *value;
	va_list ap;

	va_start(ap, format);
	(void)vsnprintf(sql, sizeof(sql), format, ap);
	va_end(ap);
	value = ask(pg, sql);
	PQfinish(pg);
	return value;
}

/* ---- fixtures ---- */

static void
start_plain(void)
{
	pg_cluster_start(&cluster, "");
}

static void
start_timescaledb(void)
{
	pg_cluster_start(&cluster, "shared_preload_libraries = 'timescaledb'");
}

static void
stop_cluster(void)
{
	pg_cluster_stop(&cluster);
}

bool
has_timescaledb(void)
{
	char bin[256], command[320], path[256];
	FILE *f;
	bool found;

	if (!pg_cluster_find(bin))
		return false;
	(void)snprintf(command, sizeof(command), "'%s/pg_config' --pkglibdir", bin);
	f = popen(command, "r");
	found = f && fscanf(f, "%255[^\n]", path) == 1;
	if (f)
		(void)pclose(f);
	(void)snprintf(command, sizeof(command), "%s/timescaledb.so", path);
	return found && access(command, R_OK) == 0;
}

/* A database of its own for each test, which does not exist yet. */
static void
new_conf(void)
{
	(void)snprintf(database, sizeof(database), "test \"%d\"", (int)getpid());
	(void)snprintf(uri, sizeof(uri), "host=%s user=postgres dbname='%s'", cluster.dir,
		       database);
	conf = (struct conf){.refs = 1};
	conf.database.store = CONF_STORE_POSTGRES;
	conf.database.uri = uri;
	conf.database.create = true;
	conf.database.migrate = true;
	conf.database.connect_timeout_ms = 10000;
	conf.database.ledger_keep_ms = 3600000;
	conf.database.timescaledb = CONF_OFF;
	conf.table.chunk_interval_us = UINT64_C(86400000000);
	conf.table.max_new_chunks = 16;
	stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ck_assert_int_ge(stop_fd, 0);
	log_set_level(LOG_ERR);
}

/* As the janitor does, before the first batch and after. */
static enum store_status
prepare(void)
{
	struct upkeep *u;
	enum store_status st;

	ck_assert_int_eq(upkeep_new(&conf, stop_fd, &u), 0);
	st = upkeep_connect(u, &err);
	if (st == STORE_OK)
		st = upkeep_setup(u, &err);
	if (st == STORE_OK)
		(void)upkeep_maintain(u, COLLECTOR, 0, &err);
	upkeep_free(u);
	return st;
}

static enum store_status
try_to_open(struct store **s)
{
	enum store_status st = prepare();

	return st == STORE_OK ? store_open(&conf, stop_fd, s, &err) : st;
}

struct store *
open_store(void)
{
	struct store *s = NULL;
	enum store_status st = try_to_open(&s);

	ck_assert_msg(st == STORE_OK, "%s %s", err.sqlstate, err.text);
	return s;
}

void
assert_not_opened(enum store_status expected, const char *sqlstate)
{
	struct store *s = NULL;

	ck_assert_int_eq(try_to_open(&s), expected);
	ck_assert_str_eq(err.sqlstate, sqlstate);
	ck_assert_ptr_null(s);
	ck_assert_uint_gt(strlen(err.text), 0);
	if (expected == STORE_HOLD)
		ck_assert_ptr_nonnull(err.hint);
}

struct upkeep *
open_upkeep(void)
{
	struct upkeep *u;
	enum store_status st;

	ck_assert_int_eq(upkeep_new(&conf, stop_fd, &u), 0);
	st = upkeep_connect(u, &err);
	if (st == STORE_OK)
		st = upkeep_setup(u, &err);
	ck_assert_msg(st == STORE_OK, "%s %s", err.sqlstate, err.text);
	return u;
}

/* ---- batches ---- */

void
add(uint64_t time_us, const char *name, double value)
{
	ck_assert_uint_le(view.bytes + FRAME_MAX, sizeof(frames));
	view.bytes += frame_encode(frames + view.bytes, time_us, name, strlen(name), value);
	view.rows++;
	view.min_us = time_us < view.min_us ? time_us : view.min_us;
	view.max_us = time_us > view.max_us ? time_us : view.max_us;
}

void
new_batch(uint64_t number)
{
	view = (struct batch_view){.collector = COLLECTOR,
				   .number = number,
				   .opened_us = EPOCH + number,
				   .min_us = UINT64_MAX,
				   .data = frames};
}

void
fill_batch(uint64_t number, unsigned rows)
{
	char name[32];
	unsigned i;

	new_batch(number);
	for (i = 0; i < rows; i++) {
		(void)snprintf(name, sizeof(name), "metric.%u", i % 100);
		add(EPOCH + i, name, i);
	}
}

enum store_status
put(struct store *s)
{
	result = (struct store_result){.stored = 0};
	return store_put(s, &view, &result, &err);
}

void
assert_put(struct store *s, uint64_t stored, uint64_t rejected, bool repeated)
{
	enum store_status st = put(s);

	ck_assert_msg(st == STORE_OK, "%s %s", err.sqlstate, err.text);
	ck_assert_uint_eq(result.stored, stored);
	ck_assert_uint_eq(result.rejected, rejected);
	ck_assert_int_eq(result.repeated, repeated);
}

void
assert_held(struct store *s, const char *sqlstate)
{
	ck_assert_int_eq(put(s), STORE_HOLD);
	ck_assert_str_eq(err.sqlstate, sqlstate);
	ck_assert_ptr_nonnull(err.hint);
	ck_assert(!err.reconnect);
}

/* ---- the suite ---- */

static TCase *
tcase(Suite *s, const char *name, void (*start)(void))
{
	TCase *tc = tcase_create(name);

	tcase_add_unchecked_fixture(tc, start, stop_cluster);
	tcase_add_checked_fixture(tc, new_conf, NULL);
	tcase_set_timeout(tc, 120);
	suite_add_tcase(s, tc);
	return tc;
}

TCase *
plain_case(Suite *s)
{
	return tcase(s, "plain", start_plain);
}

TCase *
timescaledb_case(Suite *s)
{
	return tcase(s, "timescaledb", start_timescaledb);
}

int
run_suite(const char *name, void (*add_tests)(Suite *s))
{
	char bin[256];
	Suite *s;
	SRunner *sr;
	int failed;

	if (!pg_cluster_find(bin)) {
		(void)printf("skipped: PostgreSQL server is not installed\n");
		return EXIT_SKIPPED;
	}
	s = suite_create(name);
	add_tests(s);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
