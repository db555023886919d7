#include "log/stats.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "log/log.h"

static const struct {
	struct stats s;
	bool conserved;
} cases[] = {
    {{0}, true},
    {{.received = 10, .stored = 4, .buffered = 3, .rejected = 2, .dropped = 1}, true},
    {{.received = 10, .stored = 10}, true},
    {{.received = 10, .buffered = 10, .recovered = 5, .refused = 7}, true},
    {{.received = 10, .stored = 9}, false},
    {{.received = 10, .stored = 11}, false},
    {{.received = 1}, false},
    {{.dropped = 1}, false},
};

START_TEST(conservation)
{
	ck_assert_int_eq(stats_conserved(&cases[_i].s), cases[_i].conserved);
}
END_TEST

/* Each counter gets another number, so that none can stand in for its neighbour. */
START_TEST(event_shows_every_counter_in_order)
{
	struct stats s;
	uint64_t n = 100;
	char want[4096] = "", got[4096] = "", *counters;
	int fd = memfd_create("log", 0);

#define SET_AND_EXPECT(name, text)                                                              \
	s.name = ++n;                                                                           \
	(void)snprintf(want + strlen(want), sizeof(want) - strlen(want), ",\"" #name "\":%llu", \
		       (unsigned long long)n);
	STATS_COUNTERS(SET_AND_EXPECT)
#undef SET_AND_EXPECT
	strcat(want, ",\"turn_ms_max\":12.5,\"turn_ms_p99\":0.25}\n");

	ck_assert_int_eq(dup2(fd, STDERR_FILENO), STDERR_FILENO);
	ck_assert_int_eq(log_open(LOG_TARGET_STDERR, LOG_INFO), 0);
	stats_log(&s, &(struct stats_turns){.max_ms = 12.5, .p99_ms = 0.25}, LOG_INFO);
	ck_assert_int_gt(pread(fd, got, sizeof(got) - 1, 0), 0);
	ck_assert_ptr_eq(strstr(got, "{\"event\":\"statistics\",\"timestamp\":\""), got);
	counters = strstr(got, "\"level\":\"info\",");
	ck_assert_ptr_nonnull(counters);
	ck_assert_str_eq(counters + strlen("\"level\":\"info\""), want);
	(void)close(fd);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("stats");
	TCase *tc = tcase_create("stats");
	SRunner *sr = srunner_create(s);
	int failed;

	suite_add_tcase(s, tc);
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, conservation, 0, (int)(sizeof(cases) / sizeof(cases[0])));
	tcase_add_test(tc, event_shows_every_counter_in_order);

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
