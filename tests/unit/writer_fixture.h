/*
 * writer_fixture.h - writer threads between the real queue and the embedded store, for the tests.
 *
 * The test's thread plays the loop: it fills the queue and collects; everything it waits for
 * is announced by a callback of the queue's or of the writers'.
 */
#pragma once

#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "queue_open.h"
#include "sqlite_query.h"
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
static struct writers *writers;
static uint64_t next_time;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static unsigned news; /* under mutex */

/* ---- the loop's part ---- */

static inline void
on_news(void *arg)
{
	(void)arg;
	(void)pthread_mutex_lock(&mutex);
	news++;
	(void)pthread_cond_signal(&cond);
	(void)pthread_mutex_unlock(&mutex);
}

static inline void
on_drained(void *arg)
{
	(void)arg;
}

static inline bool
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
static inline void
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

static inline bool
stored(uint64_t rows)
{
	return stats.stored == rows;
}

static inline bool
nothing_buffered(uint64_t arg)
{
	(void)arg;
	return stats.buffered == 0;
}

static inline bool
has_status(uint64_t status)
{
	return writers_status(writers) == (enum writers_status)status;
}

static inline bool
ended(uint64_t arg)
{
	(void)arg;
	return writers_ended(writers);
}

/* ---- fixture ---- */

static inline void
open_queue(void)
{
	static const struct queue_events events = {on_drained, on_news, NULL};

	open_queue_for(&events);
}

/* For tests that read the log; teardown() shows it. */
static inline void
keep_log(void)
{
	int fd = open(log_path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_ge(dup2(fd, STDERR_FILENO), 0);
	ck_assert_int_eq(close(fd), 0);
}

static inline bool
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

static inline void
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

static inline void
start(void)
{
	ck_assert_int_eq(writers_start(&conf, queue, on_news, NULL, &writers), 0);
}

static inline void
stop(void)
{
	writers_stop(writers);
	until(ended, 0);
	writers_free(writers);
	writers = NULL;
	ck_assert_uint_eq(conf.refs, 1);
}

static inline void
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
static inline void
batch(unsigned n)
{
	for (unsigned i = 0; i < n; i++, next_time++) {
		uint8_t frame[FRAME_MAX];
		size_t len = frame_encode(frame, next_time, "name", 4, (double)i);
		const struct batch_part part = {1, next_time, next_time};

		ck_assert_uint_ne(queue_append(queue, frame, len, &part), 0);
	}
	queue_seal(queue);
	queue_end_turn(queue);
}

static inline sqlite3 *
lock(const char *how)
{
	sqlite3 *db = outsider(path);

	execute_on(db, how);
	return db;
}

static inline void
unlock(sqlite3 *db)
{
	ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
}
