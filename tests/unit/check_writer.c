/*
 * check_writer.c - writer threads between the real queue and the embedded store.
 *
 * The test's thread plays the loop: it fills the queue and collects; everything it waits for
 * is announced by a callback of the queue's or of the writers'.
 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "buffer/queue.h"
#include "sqlite_query.h"
#include "store/store.h"
#include "store/writer.h"
#include "wire/frame.h"

#define FRAME_SIZE ((size_t)FRAME_FIXED + 4)
#define SOME_TIME UINT64_C(1769851800000000)
#define PATIENCE_S 40 /* until a test that waits is given up as failed */

#define COUNT_METRICS "SELECT count(*) FROM metrics"
#define COUNT_TWICE "SELECT count(*) - count(DISTINCT time) FROM metrics"

static char scratch[64];
static char path[128];
static char spool_path[128];
static char log_path[128];
static int real_stderr;
static struct conf conf;
static struct stats stats;
static struct spool *spool;
static struct queue *queue;
static struct writers *writers;
static uint64_t next_time;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static unsigned news; /* under mutex */

/* ---- the loop's part ---- */

static void
on_news(void *arg)
{
	(void)arg;
	(void)pthread_mutex_lock(&mutex);
	news++;
	(void)pthread_cond_signal(&cond);
	(void)pthread_mutex_unlock(&mutex);
}

static void
on_drained(void *arg)
{
	(void)arg;
}

static bool
wait_for_news(unsigned *seen, const struct timespec *deadline)
{
	int r = 0;

	(void)pthread_mutex_lock(&mutex);
	while (r == 0 && news == *seen)
		r = pthread_cond_timedwait(&cond, &mutex, deadline);
	*seen = news;
	(void)pthread_mutex_unlock(&mutex);
	return r == 0;
}

/* Goes on as the loop does until it holds. */
static void
until(bool (*holds)(uint64_t), uint64_t arg)
{
	struct timespec deadline;
	unsigned seen;

	(void)clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += PATIENCE_S;
	(void)pthread_mutex_lock(&mutex);
	seen = news;
	(void)pthread_mutex_unlock(&mutex);
	for (;;) {
		queue_collect(queue);
		ck_assert(stats_conserved(&stats));
		if (holds(arg))
			return;
		ck_assert_msg(wait_for_news(&seen, &deadline), "waited in vain");
	}
}

static bool
stored(uint64_t rows)
{
	return stats.stored == rows;
}

static bool
nothing_buffered(uint64_t arg)
{
	(void)arg;
	return stats.buffered == 0;
}

static bool
has_status(uint64_t status)
{
	return writers_status(writers) == (enum writers_status)status;
}

static bool
ended(uint64_t arg)
{
	(void)arg;
	return writers_ended(writers);
}

/* ---- fixture ---- */

static void
open_queue(void)
{
	static const struct queue_events events = {on_drained, on_news, NULL};
	char why[SPOOL_WHY_MAX];

	memset(&stats, 0, sizeof(stats));
	if (conf.buffer.spool)
		ck_assert_int_eq(spool_open(conf.buffer.spool, conf.buffer.sync, &spool, why), 0);
	ck_assert_int_eq(queue_new(&conf, &stats, spool, &events, &queue), 0);
}

static void
close_queue(void)
{
	queue_free(queue);
	spool_free(spool);
	queue = NULL;
	spool = NULL;
}

/* For tests that read the log; teardown() shows it. */
static void
keep_log(void)
{
	int fd = open(log_path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_ge(dup2(fd, STDERR_FILENO), 0);
	ck_assert_int_eq(close(fd), 0);
}

static bool
logged(const char *text)
{
	FILE *f = fopen(log_path, "r");
	char line[4096];
	bool found = false;

	ck_assert_ptr_nonnull(f);
	while (!found && fgets(line, sizeof(line), f))
		found = strstr(line, text) != NULL;
	(void)fclose(f);
	return found;
}

static void
setup(void)
{
	(void)snprintf(scratch, sizeof(scratch), "/tmp/check_writer.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(scratch));
	(void)snprintf(path, sizeof(path), "%s/metrics.db", scratch);
	(void)snprintf(spool_path, sizeof(spool_path), "%s/spool", scratch);
	(void)snprintf(log_path, sizeof(log_path), "%s/log", scratch);
	real_stderr = dup(STDERR_FILENO);
	conf = (struct conf){
	    .refs = 1, /* the test's own, for good */
	    .batch = {.interval_ms = 500, .max_rows = 1000, .max_bytes = 65536},
	    .buffer = {.memory_limit = 1 << 20, .spool_limit = 64 << 20, .sync = CONF_SYNC_NEVER},
	    .database = {.store = CONF_STORE_SQLITE,
			 .path = path,
			 .connections = 1,
			 .create = true,
			 .migrate = true,
			 .connect_timeout_ms = 10,
			 .ledger_keep_ms = 86400 * 1000}};
	next_time = SOME_TIME;
	open_queue();
}

static void
start(void)
{
	ck_assert_int_eq(writers_start(&conf, queue, on_news, NULL, &writers), 0);
}

static void
stop(void)
{
	writers_stop(writers);
	until(ended, 0);
	writers_free(writers);
	writers = NULL;
	ck_assert_uint_eq(conf.refs, 1);
}

static void
teardown(void)
{
	char command[256];

	if (writers)
		stop();
	queue_collect(queue);
	ck_assert(stats_conserved(&stats));
	close_queue();
	ck_assert_int_ge(dup2(real_stderr, STDERR_FILENO), 0);
	ck_assert_int_eq(close(real_stderr), 0);
	(void)snprintf(command, sizeof(command), "cat %s 2>/dev/null >&2; rm -rf %s", log_path,
		       scratch);
	ck_assert_int_eq(system(command), 0);
}

/* n metrics "name" in a batch of their own, each a microsecond after the one before. */
static void
batch(unsigned n)
{
	for (unsigned i = 0; i < n; i++, next_time++) {
		uint8_t frame[FRAME_MAX];
		size_t len = frame_encode(frame, next_time, "name", 4, (double)i);
		const struct batch_part part = {1, next_time, next_time};

		ck_assert_uint_ne(queue_append(queue, frame, len, &part), 0);
	}
	queue_seal(queue);
	queue_turn(queue);
}

static sqlite3 *
lock(const char *how)
{
	sqlite3 *db = outsider(path);

	execute_on(db, how);
	return db;
}

static void
unlock(sqlite3 *db)
{
	ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
}

/* ---- everything in order ---- */

START_TEST(stores_what_is_queued)
{
	batch(10);
	start();
	batch(20);
	until(stored, 30);
	batch(5);
	until(stored, 35);
	ck_assert_uint_eq(stats.buffered, 0);
	ck_assert_uint_eq(stats.batches_stored, 3);
	ck_assert_int_eq(writers_status(writers), WRITERS_OK);
	assert_query(path, COUNT_METRICS, "35\n");
	assert_query(path, COUNT_TWICE, "0\n");
}
END_TEST

START_TEST(logs_a_stored_batch)
{
	keep_log();
	start();
	batch(3);
	until(stored, 3);
	ck_assert(logged("\"event\":\"batch_stored\""));
	ck_assert(logged("\"rows\":3,\"bytes\":63,\"seconds\":"));
	ck_assert(!logged("repeated"));
	ck_assert(!logged("rejected"));
}
END_TEST

START_TEST(counts_refused_rows)
{
	execute(path, "CREATE TABLE metrics (time TEXT, metric_name TEXT, "
		      "value REAL CHECK (value < 7))");
	keep_log();
	start();
	batch(10);
	until(nothing_buffered, 0);
	ck_assert_uint_eq(stats.stored, 7);
	ck_assert_uint_eq(stats.rejected, 3);
	ck_assert(logged("\"event\":\"row_rejected\""));
	ck_assert(logged("\"rejected\":3"));
}
END_TEST

/* The answer to an earlier commit was lost: here, an earlier store_put() of the test's. */
START_TEST(recognises_a_repeated_batch)
{
	static const atomic_int running = 0;
	struct store *s;
	struct store_error err;
	struct store_result result;
	struct batch_view view;
	struct batch *b;

	batch(4);
	b = queue_take(queue, &running, 0);
	ck_assert_ptr_nonnull(b);
	ck_assert_int_eq(queue_load(queue, b, &view), 0);
	ck_assert_int_eq(store_open(&conf, -1, &s, &err), STORE_OK);
	ck_assert_int_eq(store_put(s, &view, &result, &err), STORE_OK);
	store_close(s);
	queue_return(queue, b, 0);

	keep_log();
	start();
	until(stored, 4);
	ck_assert_uint_eq(stats.batches_repeated, 1);
	ck_assert(logged("\"repeated\":true"));
	assert_query(path, COUNT_METRICS, "4\n");
}
END_TEST

/* ---- stop, in every phase ---- */

START_TEST(stops_at_once)
{
	start();
	stop();
}
END_TEST

START_TEST(stops_while_idle)
{
	start();
	until(has_status, WRITERS_OK);
	stop();
}
END_TEST

START_TEST(stops_while_it_opens)
{
	sqlite3 *db = lock("CREATE TABLE t (a); BEGIN EXCLUSIVE");

	conf.database.connect_timeout_ms = 3600 * 1000;
	start();
	stop();
	unlock(db);
}
END_TEST

START_TEST(stops_while_it_stores)
{
	static const atomic_int running = 0;
	struct batch *b;
	sqlite3 *db;

	conf.database.connect_timeout_ms = 3600 * 1000;
	start();
	until(has_status, WRITERS_OK);
	db = lock("BEGIN IMMEDIATE");
	batch(10);
	/* until the writer has it, and waits for the lock */
	while ((b = queue_take(queue, &running, 0)) != NULL) {
		queue_return(queue, b, 0);
		(void)sched_yield();
	}
	stop();
	ck_assert_uint_eq(stats.buffered, 10);
	unlock(db);

	start();
	until(stored, 10);
	assert_query(path, COUNT_METRICS, "10\n");
}
END_TEST

START_TEST(stops_while_it_backs_off)
{
	ck_assert_int_eq(mkdir(path, 0700), 0);
	conf.batch.interval_ms = 3600 * 1000;
	batch(10);
	start();
	until(has_status, WRITERS_HELD);
	stop();
	ck_assert_uint_eq(stats.buffered, 10);
}
END_TEST

/* A reload: at any moment, on the same queue. */
START_TEST(pools_follow_each_other)
{
	for (unsigned i = 1; i <= 20; i++) {
		start();
		batch(i);
		stop();
	}
	start();
	until(stored, 210);
	assert_query(path, COUNT_METRICS, "210\n");
	assert_query(path, COUNT_TWICE, "0\n");
}
END_TEST

/* ---- troubles ---- */

START_TEST(tries_again_while_locked)
{
	sqlite3 *db;

	keep_log();
	start();
	until(has_status, WRITERS_OK);
	db = lock("BEGIN IMMEDIATE");
	batch(10);
	until(has_status, WRITERS_UNAVAILABLE);
	ck_assert_uint_eq(stats.stored, 0);
	unlock(db);
	until(stored, 10);
	until(has_status, WRITERS_OK);
	ck_assert_uint_ge(stats.store_retries, 1);
	ck_assert(logged("\"event\":\"database_unavailable\""));
	ck_assert(logged("\"level\":\"warning\""));
	ck_assert(!logged("\"level\":\"err"));
	assert_query(path, COUNT_METRICS, "10\n");
}
END_TEST

START_TEST(opens_late)
{
	sqlite3 *db = lock("CREATE TABLE t (a); BEGIN EXCLUSIVE");

	batch(10);
	start();
	until(has_status, WRITERS_UNAVAILABLE);
	unlock(db);
	until(stored, 10);
	ck_assert_int_eq(writers_status(writers), WRITERS_OK);
}
END_TEST

START_TEST(held_at_open_then_fixed)
{
	keep_log();
	ck_assert_int_eq(mkdir(path, 0700), 0);
	batch(10);
	start();
	until(has_status, WRITERS_HELD);
	ck_assert(logged("\"event\":\"database_unavailable\""));
	ck_assert(logged("\"hint\":"));
	ck_assert_int_eq(rmdir(path), 0);
	until(stored, 10);
	until(has_status, WRITERS_OK);
}
END_TEST

START_TEST(held_while_storing_then_fixed)
{
	keep_log();
	start();
	until(has_status, WRITERS_OK);
	execute(path, "ALTER TABLE metrics RENAME TO elsewhere");
	batch(10);
	until(has_status, WRITERS_HELD);
	ck_assert(logged("\"event\":\"batch_held\""));
	ck_assert(logged("\"hint\":"));
	ck_assert_uint_eq(stats.buffered, 10);
	execute(path, "ALTER TABLE elsewhere RENAME TO metrics");
	until(stored, 10);
	until(has_status, WRITERS_OK);
}
END_TEST

/* No batch comes to prove that it works again: housekeeping does. */
START_TEST(recovers_without_a_batch)
{
	static const atomic_int running = 0;
	struct batch *b;
	sqlite3 *db;

	start();
	until(has_status, WRITERS_OK);
	db = lock("BEGIN IMMEDIATE");
	batch(10);
	until(has_status, WRITERS_UNAVAILABLE);
	/* as another thread would */
	while ((b = queue_take(queue, &running, 0)) == NULL)
		(void)sched_yield();
	unlock(db);
	until(has_status, WRITERS_OK);
	queue_return(queue, b, 0);
	until(stored, 10);
}
END_TEST

/* One batch waits for the operator; the others must not. */
START_TEST(held_batch_holds_up_no_other)
{
	char sql[256];

	keep_log();
	start();
	until(has_status, WRITERS_OK);
	(void)snprintf(sql, sizeof(sql),
		       "INSERT INTO metric_collectord_batches VALUES ('%s', 1, 1, 1, 0, "
		       "'1999', '1999', '1999')",
		       queue_collector(queue));
	execute(path, sql);
	batch(10);
	batch(5);
	until(stored, 5);
	ck_assert_int_eq(writers_status(writers), WRITERS_OK);
	execute(path, "DELETE FROM metric_collectord_batches WHERE batch = 1");
	until(stored, 15);
	/* the batch's own delay, longer than any back-off here */
	ck_assert(logged("\"event\":\"batch_held\""));
	ck_assert(logged("\"retry_in\":5"));
	assert_query(path, COUNT_TWICE, "0\n");
}
END_TEST

/* ---- with a spool ---- */

static void
use_spool(uint64_t keep_ms)
{
	close_queue();
	conf.buffer.spool = spool_path;
	conf.buffer.keep_ms = keep_ms;
	open_queue();
}

START_TEST(stores_what_an_earlier_run_left)
{
	use_spool(0);
	batch(10);
	batch(20);
	close_queue();
	open_queue();
	ck_assert_uint_eq(stats.recovered, 30);
	start();
	until(stored, 30);
	assert_query(path, COUNT_METRICS, "30\n");
}
END_TEST

/* The server came back without the last commits: exactly those are stored again. */
START_TEST(stores_again_what_a_failover_lost)
{
	use_spool(3600 * 1000);
	start();
	batch(10);
	batch(20);
	batch(30);
	until(stored, 60);
	stop();
	execute(path, "DELETE FROM metrics WHERE time IN (SELECT m.time FROM metrics m JOIN "
		      "metric_collectord_batches b ON m.time BETWEEN b.min_time AND b.max_time "
		      "WHERE b.rows = 20);"
		      "DELETE FROM metric_collectord_batches WHERE rows = 20");
	assert_query(path, COUNT_METRICS, "40\n");

	close_queue();
	open_queue();
	keep_log();
	start();
	until(stored, 20);
	ck_assert(logged("\"event\":\"batches_requeued\""));
	ck_assert(logged("\"count\":1"));
	assert_query(path, COUNT_METRICS, "60\n");
	assert_query(path, COUNT_TWICE, "0\n");
}
END_TEST

START_TEST(stores_nothing_again_without_a_failover)
{
	use_spool(3600 * 1000);
	start();
	batch(10);
	until(stored, 10);
	stop();
	keep_log();
	start();
	batch(5);
	until(stored, 15);
	ck_assert(!logged("batches_requeued"));
	assert_query(path, COUNT_METRICS, "15\n");
}
END_TEST

START_TEST(batch_whose_file_is_gone_is_counted_lost)
{
	char command[256];

	use_spool(0);
	batch(10);
	close_queue();
	open_queue();
	(void)snprintf(command, sizeof(command), "rm %s/*.batch", spool_path);
	ck_assert_int_eq(system(command), 0);
	keep_log();
	start();
	until(nothing_buffered, 0);
	ck_assert_uint_eq(stats.dropped, 10);
	ck_assert(logged("\"event\":\"spool_read_failed\""));
	ck_assert(logged("\"lost\":10"));
}
END_TEST

/* ---- threads ---- */

static void
read_line(const char *tid, const char *file, const char *prefix, char out[64])
{
	char name[300], line[256];
	FILE *f;

	out[0] = '\0';
	(void)snprintf(name, sizeof(name), "/proc/self/task/%s/%s", tid, file);
	f = fopen(name, "r");
	if (!f)
		return; /* it has ended meanwhile */
	while (fgets(line, sizeof(line), f))
		if (strncmp(line, prefix, strlen(prefix)) == 0)
			(void)snprintf(out, 64, "%.63s", line);
	(void)fclose(f);
}

/* SQLite has one thread, whatever database.connections says. */
START_TEST(one_thread_without_signals)
{
	unsigned found = 0;
	DIR *dir;
	struct dirent *e;

	conf.database.connections = 8;
	start();
	until(has_status, WRITERS_OK);
	dir = opendir("/proc/self/task");
	ck_assert_ptr_nonnull(dir);
	while ((e = readdir(dir)) != NULL) {
		char name[64], blocked[64];

		read_line(e->d_name, "comm", "writer-", name);
		if (!name[0])
			continue;
		found++;
		ck_assert_str_eq(name, "writer-0\n");
		read_line(e->d_name, "status", "SigBlk:", blocked);
		/* HUP, INT, USR1, USR2, TERM */
		ck_assert_uint_eq(strtoull(blocked + strlen("SigBlk:"), NULL, 16) & 0x4a03, 0x4a03);
	}
	(void)closedir(dir);
	ck_assert_uint_eq(found, 1);
}
END_TEST

START_TEST(status_names)
{
	ck_assert_str_eq(writers_status_name(WRITERS_CONNECTING), "connecting");
	ck_assert_str_eq(writers_status_name(WRITERS_OK), "ok");
	ck_assert_str_eq(writers_status_name(WRITERS_UNAVAILABLE), "unavailable");
	ck_assert_str_eq(writers_status_name(WRITERS_HELD), "held");
}
END_TEST

static void
add_tests(TCase *tc)
{
	tcase_add_test(tc, stores_what_is_queued);
	tcase_add_test(tc, logs_a_stored_batch);
	tcase_add_test(tc, counts_refused_rows);
	tcase_add_test(tc, recognises_a_repeated_batch);
	tcase_add_test(tc, stops_at_once);
	tcase_add_test(tc, stops_while_idle);
	tcase_add_test(tc, stops_while_it_opens);
	tcase_add_test(tc, stops_while_it_stores);
	tcase_add_test(tc, stops_while_it_backs_off);
	tcase_add_test(tc, pools_follow_each_other);
	tcase_add_test(tc, tries_again_while_locked);
	tcase_add_test(tc, opens_late);
	tcase_add_test(tc, held_at_open_then_fixed);
	tcase_add_test(tc, held_while_storing_then_fixed);
	tcase_add_test(tc, recovers_without_a_batch);
	tcase_add_test(tc, held_batch_holds_up_no_other);
	tcase_add_test(tc, stores_what_an_earlier_run_left);
	tcase_add_test(tc, stores_again_what_a_failover_lost);
	tcase_add_test(tc, stores_nothing_again_without_a_failover);
	tcase_add_test(tc, batch_whose_file_is_gone_is_counted_lost);
	tcase_add_test(tc, one_thread_without_signals);
	tcase_add_test(tc, status_names);
}

int
main(void)
{
	Suite *s = suite_create("writer");
	TCase *tc = tcase_create("writer");
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
