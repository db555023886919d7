/* check_stored_log.c - an event for each stored batch, or for many of them. */
#include "store/stored_log.h"

#include "log_test.h"

static struct stored_log stored;

static void
setup(void)
{
	capture();
	stored_log_init(&stored);
}

static void
teardown(void)
{
	stored_log_done(&stored);
}

static void
add(uint64_t number, uint64_t rejected, uint64_t now_ms)
{
	const struct stored_log_sum one = {.batches = 1,
					   .batch = number,
					   .rows = 10 - rejected,
					   .bytes = 200,
					   .rejected = rejected,
					   .ms = 250};

	stored_log_add(&stored, &one, now_ms);
}

#define ONE(number)                  \
	LINE("batch_stored", "info", \
	     ",\"batch\":" number ",\"rows\":10,\"bytes\":200,\"seconds\":0.25")

START_TEST(a_few_are_logged_one_by_one)
{
	uint64_t i;

	for (i = 1; i <= 3; i++)
		add(i, 0, 5000);
	ck_assert_str_eq(captured(), ONE("1") ONE("2") ONE("3"));
	ck_assert(!stored_log_pending(&stored));
	stored_log_flush(&stored);
	ck_assert_str_eq(captured(), "");
}
END_TEST

#define SUM(number, batches, rows, bytes, seconds, rejected)                                    \
	LINE("batch_stored", "info",                                                            \
	     ",\"batch\":" number ",\"batches\":" batches ",\"rows\":" rows ",\"bytes\":" bytes \
	     ",\"seconds\":" seconds rejected)

static unsigned
lines(const char *s)
{
	unsigned n = 0;

	for (; *s; s++)
		n += *s == '\n';
	return n;
}

START_TEST(many_are_summed)
{
	uint64_t i;

	for (i = 1; i <= STORED_LOG_BURST; i++)
		add(i, 0, 5000);
	ck_assert_uint_eq(lines(captured()), STORED_LOG_BURST);
	for (; i <= STORED_LOG_BURST + 100; i++)
		add(i, i % 2, 5090);
	ck_assert_str_eq(captured(), "");
	ck_assert(stored_log_pending(&stored));
	/* a second later, the sum comes first */
	add(500, 0, 6090);
	ck_assert_str_eq(captured(),
			 SUM("180", "100", "950", "20000", "25", ",\"rejected\":50") ONE("500"));
	ck_assert(!stored_log_pending(&stored));
}
END_TEST

/* However long it lasts. */
START_TEST(a_stream_of_batches_has_few_lines)
{
	uint64_t ms;

	for (ms = 5000; ms < 65000; ms += 20)
		add(ms, 0, ms);
	stored_log_flush(&stored);
	ck_assert_uint_le(lines(captured()), STORED_LOG_BURST + 60 * (STORED_LOG_PER_SECOND + 2));
}
END_TEST

START_TEST(a_sum_does_not_wait_for_the_next_batch)
{
	uint64_t i;

	for (i = 1; i <= STORED_LOG_BURST + 2; i++)
		add(i, 0, 5000);
	(void)captured();
	stored_log_flush(&stored);
	ck_assert_str_eq(captured(), SUM("82", "2", "20", "400", "0.5", ""));
	ck_assert(!stored_log_pending(&stored));
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("stored_log");
	TCase *tc = new_case(s, "stored_log", setup);
	SRunner *sr;
	int failed;

	tcase_add_checked_fixture(tc, NULL, teardown);
	tcase_add_test(tc, a_few_are_logged_one_by_one);
	tcase_add_test(tc, many_are_summed);
	tcase_add_test(tc, a_stream_of_batches_has_few_lines);
	tcase_add_test(tc, a_sum_does_not_wait_for_the_next_batch);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
