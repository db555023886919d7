/* check_writer_spool.c - writer threads and what a spool holds from earlier. */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "buffer/queue/queue_internal.h"
#include "writer_fixture.h"

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

/* Its rows are what its blocks hold. */
START_TEST(header_that_says_fewer_rows_than_there_are)
{
	uint8_t header[SPOOL_FILE_HEADER];
	struct spool_header h;
	char file[512], name[SPOOL_NAME_MAX];
	int fd;

	use_spool(0);
	batch(10);
	close_queue();
	spool_name(name, 1);
	(void)snprintf(file, sizeof(file), "%s/%s", spool_path, name);
	fd = open(file, O_RDWR);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pread(fd, header, sizeof(header), 0), sizeof(header));
	ck_assert_int_eq(spool_header_decode(header, sizeof(header), &h), 0);
	ck_assert(h.sealed);
	h.summary.rows = 3;
	spool_header_encode(header, &h);
	ck_assert_int_eq(pwrite(fd, header, sizeof(header), 0), sizeof(header));
	ck_assert_int_eq(close(fd), 0);

	open_queue();
	ck_assert_uint_eq(stats.recovered, 3);
	start();
	until(stored, 10);
	ck_assert_uint_eq(stats.recovered, 10);
	ck_assert(stats_conserved(&stats));
	assert_query(path, COUNT_METRICS, "10\n");
}
END_TEST

static void
await_read_ahead(unsigned batches)
{
	unsigned n;

	do {
		(void)usleep(100);
		(void)pthread_mutex_lock(&queue->mutex);
		n = queue->read_ahead;
		(void)pthread_mutex_unlock(&queue->mutex);
	} while (n < batches);
}

/* Those that are read ahead are stored all the same. */
START_TEST(batch_whose_file_is_gone_is_counted_lost)
{
	char command[256];

	use_spool(0);
	for (unsigned i = 0; i <= READ_AHEAD; i++) {
		batch(10);
		queue_seal(queue);
	}
	close_queue();
	open_queue();
	await_read_ahead(READ_AHEAD);
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

static void
add_tests(TCase *tc)
{
	tcase_add_test(tc, stores_what_an_earlier_run_left);
	tcase_add_test(tc, stores_again_what_a_failover_lost);
	tcase_add_test(tc, stores_nothing_again_without_a_failover);
	tcase_add_test(tc, header_that_says_fewer_rows_than_there_are);
	tcase_add_test(tc, batch_whose_file_is_gone_is_counted_lost);
}

int
main(void)
{
	Suite *s = suite_create("writer_spool");
	TCase *tc = tcase_create("writer_spool");
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
