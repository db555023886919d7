/* check_sqlite.c - the embedded store on real files. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sqlite_query.h"
#include "store/sqlite_db.h"
#include "store/store.h"
#include "wire/frame.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

#define COLLECTOR "11111111-2222-4333-8444-555555555555"
#define OTHER "99999999-2222-4333-8444-555555555555"
#define SOME_TIME UINT64_C(1769851800123456) /* 2026-01-31T09:30:00.123456Z */

static char scratch[64];
static char path[128];
static struct conf conf;
static int stop_fd;
static struct store *store;
static struct store_error err;
static struct store_result result;

static void
setup(void)
{
	(void)snprintf(scratch, sizeof(scratch), "/tmp/check_sqlite.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(scratch));
	(void)snprintf(path, sizeof(path), "%s/metrics.db", scratch);
	conf = (struct conf){.database = {.store = CONF_STORE_SQLITE,
					  .path = path,
					  .create = true,
					  .migrate = true,
					  .connect_timeout_ms = 20,
					  .ledger_keep_ms = 86400 * 1000}};
	stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ck_assert_int_ge(stop_fd, 0);
	store = NULL;
}

static void
teardown(void)
{
	char command[128];

	store_close(store);
	ck_assert_int_eq(close(stop_fd), 0);
	(void)snprintf(command, sizeof(command), "rm -rf %s", scratch);
	ck_assert_int_eq(system(command), 0);
}

static enum store_status
open_store(void)
{
	return store_open(&conf, stop_fd, &store, &err);
}

static void
must_open(void)
{
	ck_assert_msg(open_store() == STORE_OK, "%s", err.text);
}

static void
reopen(void)
{
	store_close(store);
	store = NULL;
	must_open();
}

static void
stop(void)
{
	ck_assert_int_eq(eventfd_write(stop_fd, 1), 0);
}

/* ---- batches ---- */

struct sample {
	uint64_t time_us;
	const char *name;
	double value;
};

/* The frames are the caller's to free. */
static struct batch_view
view_of(uint64_t number, const struct sample *samples, size_t n)
{
	struct batch_view b = {.collector = COLLECTOR, .number = number, .min_us = UINT64_MAX};
	uint8_t *p = malloc(n * FRAME_MAX);

	b.data = p;
	for (size_t i = 0; i < n; i++) {
		const struct sample *s = &samples[i];

		b.bytes +=
		    frame_encode(p + b.bytes, s->time_us, s->name, strlen(s->name), s->value);
		b.rows++;
		b.min_us = s->time_us < b.min_us ? s->time_us : b.min_us;
		b.max_us = s->time_us > b.max_us ? s->time_us : b.max_us;
	}
	return b;
}

static enum store_status
put(uint64_t number, const struct sample *samples, size_t n)
{
	struct batch_view b = view_of(number, samples, n);
	enum store_status status;

	memset(&result, 0, sizeof(result));
	status = store_put(store, &b, &result, &err);
	free((void *)(uintptr_t)b.data);
	return status;
}

/* n samples of the same name, a microsecond apart. */
static enum store_status
put_many(uint64_t number, size_t n)
{
	struct sample *samples = calloc(n, sizeof(*samples));
	enum store_status status;

	for (size_t i = 0; i < n; i++)
		samples[i] = (struct sample){SOME_TIME + i, "m", (double)i};
	status = put(number, samples, n);
	free(samples);
	return status;
}

static const struct sample three[] = {
    {SOME_TIME, "cpu", 1.5},
    {SOME_TIME - 1000000, "temp\xC3\xA9rature", -273.15},
    {SOME_TIME + 1, "cpu", 0.1},
};

#define METRICS "SELECT time, metric_name, value FROM metrics ORDER BY time DESC"
#define COUNT_METRICS "SELECT count(*) FROM metrics"
#define COUNT_LEDGER "SELECT count(*) FROM metric_collectord_batches"

START_TEST(rows_and_ledger)
{
	must_open();
	ck_assert_int_eq(put(7, three, COUNT(three)), STORE_OK);
	ck_assert_uint_eq(result.stored, 3);
	ck_assert_uint_eq(result.rejected, 0);
	ck_assert(!result.repeated);
	assert_query(path, METRICS " LIMIT 5",
		     "2026-01-31T09:30:00.123457Z|cpu|0.1\n"
		     "2026-01-31T09:30:00.123456Z|cpu|1.5\n"
		     "2026-01-31T09:29:59.123456Z|temp\xC3\xA9rature|-273.15\n");
	assert_query(path,
		     "SELECT collector, batch, rows, bytes, rejected, min_time, max_time FROM "
		     "metric_collectord_batches",
		     COLLECTOR "|7|3|69|0|2026-01-31T09:29:59.123456Z|"
			       "2026-01-31T09:30:00.123457Z\n");
	assert_query(path,
		     "SELECT length(stored_at), abs(julianday('now') - julianday(stored_at)) < 0.1 "
		     "FROM metric_collectord_batches",
		     "27|1\n");
}
END_TEST

START_TEST(many_rows_and_the_longest_name)
{
	char name[FRAME_NAME_MAX + 1];
	const struct sample one = {SOME_TIME, name, 1};

	memset(name, 'n', FRAME_NAME_MAX);
	name[FRAME_NAME_MAX] = '\0';
	must_open();
	ck_assert_int_eq(put_many(1, 10000), STORE_OK);
	ck_assert_int_eq(put(2, &one, 1), STORE_OK);
	assert_query(path,
		     "SELECT count(*), count(DISTINCT time), max(length(metric_name)) "
		     "FROM metrics",
		     "10001|10000|255\n");
}
END_TEST

/* ---- times ---- */

static const struct {
	uint64_t us;
	const char *text;
} times[] = {
    {0, "1970-01-01T00:00:00.000000Z"},
    {1, "1970-01-01T00:00:00.000001Z"},
    {UINT64_C(86399999999), "1970-01-01T23:59:59.999999Z"},
    {UINT64_C(86400000000), "1970-01-02T00:00:00.000000Z"},
    {UINT64_C(951782400000000), "2000-02-29T00:00:00.000000Z"},
    {UINT64_C(1709251199999999), "2024-02-29T23:59:59.999999Z"},
    {SOME_TIME, "2026-01-31T09:30:00.123456Z"},
    {UINT64_C(4107542399000000), "2100-02-28T23:59:59.000000Z"},
    {UINT64_C(4107542400000000), "2100-03-01T00:00:00.000000Z"},
    {FRAME_TIME_MAX, "9999-12-31T23:59:59.999999Z"},
};

START_TEST(time_text)
{
	struct iso_time t = ISO_TIME_NONE;

	ck_assert_int_eq(memcmp(iso_time(&t, times[_i].us), times[_i].text, strlen(times[_i].text)),
			 0);
}
END_TEST

/* The date is kept from row to row: no order of days may matter. */
START_TEST(time_text_back_and_forth)
{
	struct iso_time t = ISO_TIME_NONE;

	for (size_t i = 0; i < COUNT(times); i++)
		for (size_t j = 0; j < COUNT(times); j++) {
			(void)iso_time(&t, times[i].us);
			ck_assert_int_eq(
			    memcmp(iso_time(&t, times[j].us), times[j].text, ISO_TIME_LEN), 0);
		}
}
END_TEST

/* ---- values ---- */

START_TEST(special_values)
{
	static const struct sample samples[] = {
	    {1, "nan", NAN},          {2, "inf", INFINITY}, {3, "-inf", -INFINITY},
	    {4, "greatest", DBL_MAX}, {5, "least", 5e-324}, {6, "third", 1.0 / 3},
	    {7, "whole", 1e15},
	};
	sqlite3 *db;
	sqlite3_stmt *st;

	must_open();
	ck_assert_int_eq(put(1, samples, COUNT(samples)), STORE_OK);
	ck_assert_uint_eq(result.stored, COUNT(samples));
	db = outsider(path);
	ck_assert_int_eq(
	    sqlite3_prepare_v2(db, "SELECT value FROM metrics ORDER BY time", -1, &st, NULL),
	    SQLITE_OK);
	for (size_t i = 0; i < COUNT(samples); i++) {
		double value;

		ck_assert_int_eq(sqlite3_step(st), SQLITE_ROW);
		ck_assert_int_eq(sqlite3_column_type(st, 0),
				 isnan(samples[i].value) ? SQLITE_NULL : SQLITE_FLOAT);
		value = sqlite3_column_double(st, 0);
		if (!isnan(samples[i].value))
			ck_assert_int_eq(memcmp(&value, &samples[i].value, sizeof(value)), 0);
	}
	ck_assert_int_eq(sqlite3_finalize(st), SQLITE_OK);
	ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
}
END_TEST

/* ---- exactly once ---- */

START_TEST(repeated_batch)
{
	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	ck_assert(result.repeated);
	ck_assert_uint_eq(result.stored, 3);
	reopen();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	ck_assert(result.repeated);
	ck_assert_int_eq(put(2, three, 3), STORE_OK);
	ck_assert(!result.repeated);
	assert_query(path, COUNT_METRICS, "6\n");
	assert_query(path, COUNT_LEDGER, "2\n");
}
END_TEST

/* What the spool lost to damage meanwhile does not make it another batch. */
START_TEST(repeated_batch_that_shrank)
{
	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	ck_assert_int_eq(put(1, three, 1), STORE_OK);
	ck_assert(result.repeated);
	ck_assert_uint_eq(result.stored, 3);
	assert_query(path, COUNT_METRICS, "3\n");
}
END_TEST

static void
conflict(const struct sample *samples, size_t n)
{
	must_open();
	ck_assert_int_eq(put(1, three, 2), STORE_OK);
	ck_assert_int_eq(put(1, samples, n), STORE_HOLD);
	ck_assert(err.batch_only);
	ck_assert(!err.reconnect);
	ck_assert_ptr_nonnull(err.hint);
	ck_assert_ptr_nonnull(strstr(err.text, COLLECTOR));
	ck_assert_int_eq(put(2, samples, n), STORE_OK);
	assert_query(path,
		     "SELECT sum(rows) = (SELECT count(*) FROM metrics) FROM "
		     "metric_collectord_batches",
		     "1\n");
}

START_TEST(conflict_more_rows)
{
	static const struct sample rows[] = {
	    {SOME_TIME, "a", 1}, {SOME_TIME, "b", 1}, {SOME_TIME, "c", 1}};

	conflict(rows, 3);
}
END_TEST

START_TEST(conflict_older)
{
	static const struct sample rows[] = {{SOME_TIME, "a", 1}, {SOME_TIME - 1000001, "b", 1}};

	conflict(rows, 2);
}
END_TEST

START_TEST(conflict_newer)
{
	static const struct sample rows[] = {{SOME_TIME, "a", 1}, {SOME_TIME + 1, "b", 1}};

	conflict(rows, 2);
}
END_TEST

/* ---- rows that are refused ---- */

#define REJECTED                                                                \
	"SELECT time, name, value, reason, sqlstate, error, collector, batch, " \
	"length(rejected_at) FROM metric_collectord_rejected ORDER BY rowid"

static const struct sample mixed[] = {
    {SOME_TIME, "good", 1},       {SOME_TIME, "bad", 101}, {SOME_TIME, "nan", NAN},
    {SOME_TIME, "bad", INFINITY}, {SOME_TIME, "good", 2},
};

START_TEST(check_refuses_rows)
{
	/* NULL passes a CHECK, so NaN does */
	execute(path, "CREATE TABLE metrics (time TEXT NOT NULL, metric_name TEXT NOT NULL, "
		      "value REAL, CONSTRAINT sane CHECK (value < 100))");
	must_open();
	ck_assert_int_eq(put(3, mixed, COUNT(mixed)), STORE_OK);
	ck_assert_uint_eq(result.stored, 3);
	ck_assert_uint_eq(result.rejected, 2);
	assert_query(path, "SELECT metric_name, value FROM metrics ORDER BY rowid",
		     "good|1.0\nnan|NULL\ngood|2.0\n");
	assert_query(path, REJECTED,
		     "2026-01-31T09:30:00.123456Z|bad|101.0|constraint|NULL|CHECK constraint "
		     "failed: sane|" COLLECTOR "|3|27\n"
		     "2026-01-31T09:30:00.123456Z|bad|Inf|constraint|NULL|CHECK constraint "
		     "failed: sane|" COLLECTOR "|3|27\n");
	assert_query(path, "SELECT rows, rejected FROM metric_collectord_batches", "3|2\n");

	ck_assert_int_eq(put(3, mixed, COUNT(mixed)), STORE_OK);
	ck_assert(result.repeated);
	ck_assert_uint_eq(result.stored, 3);
	ck_assert_uint_eq(result.rejected, 2);
	assert_query(path, "SELECT count(*) FROM metric_collectord_rejected", "2\n");
}
END_TEST

START_TEST(not_null_refuses_nan)
{
	execute(path, "CREATE TABLE metrics (time TEXT, metric_name TEXT, value REAL NOT NULL)");
	must_open();
	ck_assert_int_eq(put(1, mixed, COUNT(mixed)), STORE_OK);
	ck_assert_uint_eq(result.rejected, 1);
	assert_query(path, "SELECT name, value, reason FROM metric_collectord_rejected",
		     "nan|NULL|constraint\n");
}
END_TEST

START_TEST(all_rows_refused)
{
	must_open();
	execute(path, "CREATE TRIGGER refuse BEFORE INSERT ON metrics BEGIN "
		      "SELECT RAISE(ABORT, 'not today'); END");
	ck_assert_int_eq(put(1, mixed, COUNT(mixed)), STORE_OK);
	ck_assert_uint_eq(result.stored, 0);
	ck_assert_uint_eq(result.rejected, COUNT(mixed));
	assert_query(path, COUNT_METRICS, "0\n");
	assert_query(path, "SELECT DISTINCT reason, error FROM metric_collectord_rejected",
		     "trigger|not today\n");
}
END_TEST

/* Such a trigger takes the ledger row along: nothing may count as stored. */
START_TEST(trigger_that_rolls_back)
{
	must_open();
	execute(path, "CREATE TRIGGER refuse BEFORE INSERT ON metrics WHEN new.metric_name = 'bad' "
		      "BEGIN SELECT RAISE(ROLLBACK, 'all of it'); END");
	ck_assert_int_eq(put(1, mixed, COUNT(mixed)), STORE_HOLD);
	ck_assert(err.batch_only);
	ck_assert_ptr_nonnull(strstr(err.text, "all of it"));
	assert_query(path, COUNT_METRICS, "0\n");
	assert_query(path, COUNT_LEDGER, "0\n");
	ck_assert_int_eq(put(2, three, 3), STORE_OK);
	execute(path, "DROP TRIGGER refuse");
	ck_assert_int_eq(put(1, mixed, COUNT(mixed)), STORE_OK);
	assert_query(path, COUNT_METRICS, "8\n");
}
END_TEST

/* ---- passing troubles ---- */

START_TEST(locked_by_another)
{
	sqlite3 *db;

	must_open();
	db = outsider(path);
	execute_on(db, "BEGIN IMMEDIATE");
	ck_assert_int_eq(put(1, three, 3), STORE_RETRY);
	ck_assert(!err.reconnect);
	ck_assert_ptr_nonnull(strstr(err.text, "locked"));
	execute_on(db, "COMMIT");
	ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	ck_assert(!result.repeated);
}
END_TEST

START_TEST(stop_ends_the_wait_for_a_lock)
{
	sqlite3 *db;

	conf.database.connect_timeout_ms = 3600 * 1000;
	must_open();
	db = outsider(path);
	execute_on(db, "BEGIN IMMEDIATE");
	stop();
	ck_assert_int_eq(put(1, three, 3), STORE_STOPPED);
	ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
}
END_TEST

START_TEST(stop_ends_the_opening)
{
	sqlite3 *db = outsider(path);

	conf.database.connect_timeout_ms = 3600 * 1000;
	execute_on(db, "CREATE TABLE t (a); BEGIN EXCLUSIVE");
	stop();
	ck_assert_int_eq(open_store(), STORE_STOPPED);
	ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
}
END_TEST

START_TEST(stop_ends_a_long_batch)
{
	must_open();
	stop();
	ck_assert_int_eq(put_many(1, 20000), STORE_STOPPED);
	assert_query(path, COUNT_METRICS, "0\n");
	assert_query(path, COUNT_LEDGER, "0\n");
}
END_TEST

START_TEST(readers_do_not_disturb)
{
	sqlite3 *db;

	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	db = outsider(path);
	execute_on(db, "BEGIN; " COUNT_METRICS);
	ck_assert_int_eq(put(2, three, 3), STORE_OK);
	assert_query(path, COUNT_METRICS, "6\n");
	ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
}
END_TEST

/* The kernel's file size limit stands in for a disk that takes no more. */
START_TEST(disk_takes_no_more)
{
	struct rlimit limit;
	rlim_t before;

	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	ck_assert(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
	before = limit.rlim_cur;
	limit.rlim_cur = 256 * 1024;
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	ck_assert_int_eq(put_many(2, 20000), STORE_RETRY);
	limit.rlim_cur = before;
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	reopen();
	assert_query(path, COUNT_METRICS, "3\n");
	ck_assert_int_eq(put_many(2, 20000), STORE_OK);
	ck_assert(!result.repeated);
	assert_query(path, COUNT_METRICS, "20003\n");
}
END_TEST

/* Rows in a file without a name would be lost at the next start. */
START_TEST(file_deleted_while_open)
{
	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(put(2, three, 3), STORE_RETRY);
	ck_assert(err.reconnect);
	/* not even what the lost ledger knows */
	ck_assert_int_eq(put(1, three, 3), STORE_RETRY);
	reopen();
	ck_assert_int_eq(put(2, three, 3), STORE_OK);
	assert_query(path, COUNT_METRICS, "3\n");
}
END_TEST

/* ---- what an operator must put right ---- */

static void
open_is_held(const char *says)
{
	ck_assert_int_eq(open_store(), STORE_HOLD);
	ck_assert_ptr_null(store);
	ck_assert(err.reconnect);
	ck_assert_ptr_nonnull(err.hint);
	ck_assert_msg(strstr(err.text, says) != NULL, "%s", err.text);
}

static void
overwrite(off_t at, int byte, size_t n)
{
	char *junk = malloc(n);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	memset(junk, byte, n);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, junk, n, at), (ssize_t)n);
	ck_assert_int_eq(close(fd), 0);
	free(junk);
}

START_TEST(not_a_database)
{
	overwrite(0, 'x', 4096);
	open_is_held("not a database");
}
END_TEST

START_TEST(a_directory)
{
	ck_assert_int_eq(mkdir(path, 0700), 0);
	open_is_held("unable to open");
}
END_TEST

/* Tests run as root, whom no permission stops; a file of a later format is read-only to all. */
START_TEST(read_only)
{
	execute(path, "CREATE TABLE t (a)");
	overwrite(18, 3, 1);
	open_is_held("read");
}
END_TEST

START_TEST(damaged)
{
	struct stat sb;

	must_open();
	ck_assert_int_eq(put_many(1, 1000), STORE_OK);
	store_close(store);
	store = NULL;
	ck_assert_int_eq(stat(path, &sb), 0);
	ck_assert_int_gt(sb.st_size, 8192);
	overwrite(4096, 0x5a, (size_t)sb.st_size - 4096);
	/* the schema's page is whole, so it may open */
	if (open_store() == STORE_OK) {
		ck_assert_int_eq(put(2, three, 3), STORE_HOLD);
		ck_assert(err.reconnect);
	}
	ck_assert_ptr_nonnull(err.hint);
	ck_assert_msg(strstr(err.text, "malformed") != NULL, "%s", err.text);
}
END_TEST

START_TEST(foreign_table)
{
	execute(path, "CREATE TABLE metrics (id INTEGER PRIMARY KEY, name TEXT)");
	open_is_held("time");
	/* and half a schema is not left behind */
	assert_query(path, "SELECT count(*) FROM sqlite_master", "1\n");
}
END_TEST

START_TEST(table_renamed_while_open)
{
	must_open();
	execute(path, "ALTER TABLE metrics RENAME TO elsewhere");
	ck_assert_int_eq(put(1, three, 3), STORE_HOLD);
	ck_assert_ptr_nonnull(strstr(err.text, "no such table"));
	ck_assert(!err.batch_only);
	execute(path, "ALTER TABLE elsewhere RENAME TO metrics");
	reopen();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	ck_assert(!result.repeated);
}
END_TEST

START_TEST(create_is_off)
{
	conf.database.create = false;
	open_is_held("no such file");
	ck_assert_int_eq(access(path, F_OK), -1);
	conf.database.create = true;
	must_open();
	conf.database.create = false;
	reopen();
}
END_TEST

START_TEST(migrate_is_off)
{
	conf.database.migrate = false;
	open_is_held("no such table");
	conf.database.migrate = true;
	must_open();
	conf.database.migrate = false;
	reopen();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
}
END_TEST

START_TEST(directory_is_made)
{
	struct stat sb;

	(void)umask(022);
	(void)snprintf(path, sizeof(path), "%s/new/metrics.db", scratch);
	must_open();
	*strrchr(path, '/') = '\0';
	ck_assert_int_eq(stat(path, &sb), 0);
	ck_assert_int_eq(sb.st_mode & 07777, 0750);
}
END_TEST

START_TEST(directories_are_not_made)
{
	(void)snprintf(path, sizeof(path), "%s/not/there/metrics.db", scratch);
	open_is_held("/not/there: No such file or directory");
}
END_TEST

/* ---- the schema ---- */

START_TEST(migrations_run_once)
{
	static const char applied[] = "SELECT flavour, version, name, length(checksum), "
				      "length(applied_at) FROM metric_collectord_migrations "
				      "ORDER BY version";
	char first[QUERY_MAX], second[QUERY_MAX];

	must_open();
	query(path, applied, first);
	ck_assert_int_eq(strncmp(first, "sqlite|1|metrics|64|27\n", 23), 0);
	reopen();
	query(path, applied, second);
	ck_assert_str_eq(first, second);
}
END_TEST

#define STARTERS 6

static void *
starter(void *arg)
{
	struct store *s = NULL;
	struct store_error e;
	enum store_status status;

	(void)arg;
	do {
		store_close(s);
		s = NULL;
		status = store_open(&conf, stop_fd, &s, &e);
	} while (status == STORE_RETRY);
	store_close(s);
	return status == STORE_OK ? NULL : &conf;
}

START_TEST(collectors_start_at_once)
{
	pthread_t threads[STARTERS];

	conf.database.connect_timeout_ms = 30000;
	for (int i = 0; i < STARTERS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, starter, NULL), 0);
	for (int i = 0; i < STARTERS; i++) {
		void *failed;

		ck_assert_int_eq(pthread_join(threads[i], &failed), 0);
		ck_assert_ptr_null(failed);
	}
	must_open();
	assert_query(path, "SELECT count(*) = max(version) FROM metric_collectord_migrations",
		     "1\n");
}
END_TEST

START_TEST(adopts_a_table_with_rows)
{
	execute(path, "CREATE TABLE metrics (time TEXT, metric_name TEXT, value REAL, note TEXT); "
		      "INSERT INTO metrics VALUES ('2000-01-01T00:00:00.000000Z', 'old', 1, 'n')");
	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	assert_query(path, COUNT_METRICS, "4\n");
}
END_TEST

static const char *const indexed[] = {
    "SELECT time, metric_name, value FROM metrics ORDER BY time DESC LIMIT 5",
    "SELECT time, value FROM metrics WHERE metric_name = 'cpu' AND "
    "time >= '2026-01-31' AND time < '2026-02-01' ORDER BY time",
};

START_TEST(usual_queries_use_an_index)
{
	char sql[256], plan[QUERY_MAX];

	must_open();
	(void)snprintf(sql, sizeof(sql), "EXPLAIN QUERY PLAN %s", indexed[_i]);
	query(path, sql, plan);
	ck_assert_ptr_nonnull(strstr(plan, "USING INDEX"));
	ck_assert_ptr_null(strstr(plan, "TEMP B-TREE"));
}
END_TEST

START_TEST(is_in_wal_mode)
{
	must_open();
	assert_query(path, "PRAGMA journal_mode", "wal\n");
}
END_TEST

/* ---- the ledger ---- */

#define LEDGER "SELECT collector, batch FROM metric_collectord_batches ORDER BY 1, 2"

START_TEST(maintain_settles_old_rows_below_the_floor)
{
	must_open();
	for (uint64_t i = 1; i <= 4; i++)
		ck_assert_int_eq(put(i, three, 3), STORE_OK);
	execute(path,
		"UPDATE metric_collectord_batches SET collector = '" OTHER "' WHERE batch = 1");
	ck_assert_int_eq(store_maintain(store, COLLECTOR, 4, &err), STORE_OK);
	assert_query(path, COUNT_LEDGER, "4\n"); /* too young */
	execute(path, "UPDATE metric_collectord_batches SET "
		      "stored_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-25 hours')");
	ck_assert_int_eq(store_maintain(store, COLLECTOR, 3, &err), STORE_OK);
	assert_query(path, LEDGER, COLLECTOR "|3\n" COLLECTOR "|4\n" OTHER "|1\n");
	ck_assert_int_eq(store_maintain(store, COLLECTOR, 0, &err), STORE_OK);
	assert_query(path, COUNT_LEDGER, "3\n");
}
END_TEST

/* Nothing is under way: then every number is below the floor. */
START_TEST(maintain_without_a_floor_settles_everything_old)
{
	must_open();
	ck_assert_int_eq(put(1, three, 3), STORE_OK);
	execute(path, "UPDATE metric_collectord_batches SET "
		      "stored_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-25 hours')");
	ck_assert_int_eq(store_maintain(store, COLLECTOR, UINT64_MAX, &err), STORE_OK);
	assert_query(path, COUNT_LEDGER, "0\n");
}
END_TEST

START_TEST(missing_batches)
{
	uint64_t numbers[] = {1, 2, 3, 4, 5};
	size_t n = COUNT(numbers);

	must_open();
	ck_assert_int_eq(put(2, three, 3), STORE_OK);
	ck_assert_int_eq(put(5, three, 3), STORE_OK);
	ck_assert_int_eq(store_missing(store, COLLECTOR, numbers, &n, &err), STORE_OK);
	ck_assert_uint_eq(n, 3);
	ck_assert_uint_eq(numbers[0], 1);
	ck_assert_uint_eq(numbers[1], 3);
	ck_assert_uint_eq(numbers[2], 4);
	n = 0;
	ck_assert_int_eq(store_missing(store, COLLECTOR, numbers, &n, &err), STORE_OK);
	ck_assert_uint_eq(n, 0);
	n = 1;
	numbers[0] = 2;
	ck_assert_int_eq(store_missing(store, OTHER, numbers, &n, &err), STORE_OK);
	ck_assert_uint_eq(n, 1);
}
END_TEST

static void
add_tests(TCase *tc)
{
	tcase_add_test(tc, rows_and_ledger);
	tcase_add_test(tc, many_rows_and_the_longest_name);
	tcase_add_loop_test(tc, time_text, 0, (int)COUNT(times));
	tcase_add_test(tc, time_text_back_and_forth);
	tcase_add_test(tc, special_values);
	tcase_add_test(tc, repeated_batch);
	tcase_add_test(tc, repeated_batch_that_shrank);
	tcase_add_test(tc, conflict_more_rows);
	tcase_add_test(tc, conflict_older);
	tcase_add_test(tc, conflict_newer);
	tcase_add_test(tc, check_refuses_rows);
	tcase_add_test(tc, not_null_refuses_nan);
	tcase_add_test(tc, all_rows_refused);
	tcase_add_test(tc, trigger_that_rolls_back);
	tcase_add_test(tc, locked_by_another);
	tcase_add_test(tc, stop_ends_the_wait_for_a_lock);
	tcase_add_test(tc, stop_ends_the_opening);
	tcase_add_test(tc, stop_ends_a_long_batch);
	tcase_add_test(tc, readers_do_not_disturb);
	tcase_add_test(tc, disk_takes_no_more);
	tcase_add_test(tc, file_deleted_while_open);
	tcase_add_test(tc, not_a_database);
	tcase_add_test(tc, a_directory);
	tcase_add_test(tc, read_only);
	tcase_add_test(tc, damaged);
	tcase_add_test(tc, foreign_table);
	tcase_add_test(tc, table_renamed_while_open);
	tcase_add_test(tc, create_is_off);
	tcase_add_test(tc, migrate_is_off);
	tcase_add_test(tc, directory_is_made);
	tcase_add_test(tc, directories_are_not_made);
	tcase_add_test(tc, migrations_run_once);
	tcase_add_test(tc, collectors_start_at_once);
	tcase_add_test(tc, adopts_a_table_with_rows);
	tcase_add_loop_test(tc, usual_queries_use_an_index, 0, (int)COUNT(indexed));
	tcase_add_test(tc, is_in_wal_mode);
	tcase_add_test(tc, maintain_settles_old_rows_below_the_floor);
	tcase_add_test(tc, maintain_without_a_floor_settles_everything_old);
	tcase_add_test(tc, missing_batches);
}

int
main(void)
{
	Suite *s = suite_create("sqlite");
	TCase *tc = tcase_create("sqlite");
	SRunner *sr = srunner_create(s);
	int failed;

	suite_add_tcase(s, tc);
	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	add_tests(tc);

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
