/* The log's thread: sinks that take nothing, or only later, and nobody who waits for them. */
#include "log/log.h"

#include <check.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "log_stderr_test.h"
#include "base/clock.h"

#define MANY 60000 /* lines: several times what the ring holds */

static void
start(void)
{
	ck_assert_int_eq(log_open(LOG_TARGET_STDERR, LOG_INFO), 0);
	ck_assert_int_eq(log_start(), 0);
}

static void
log_line_number(unsigned n)
{
	log_event(LOG_INFO, "line", LOG_U64("n", n),
		  LOG_STR("s", "some forty bytes, so that it fills"));
}

/* ---- sinks that work ---- */

START_TEST(close_writes_everything)
{
	capture();
	for (int round = 0; round < 3; round++) { /* a log that was closed can be started again */
		start();
		ck_assert_int_eq(log_start(), 0); /* it runs already */
		log_event(LOG_INFO, "a", LOG_I64("round", round));
		refuse(0);
		refuse(1);
		log_close();
		log_event(LOG_INFO, "b"); /* without the thread */
	}
#define ROUND(n)                               \
	LINE("a", "info", ",\"round\":" n)     \
	LINE("refused", "warning", ",\"i\":0") \
	LINE("refused", "warning", ",\"i\":1") LINE("b", "info", "")
	ck_assert_str_eq(captured(), ROUND("0") ROUND("1") ROUND("2"));
}
END_TEST

START_TEST(one_line_is_one_write)
{
	char buf[PIPE_BUF + 1] = "";

	pipe_as_stderr(O_DIRECT); /* which keeps writes apart */
	start();
	for (int i = 0; i < 3; i++)
		log_event(LOG_INFO, "e");
	for (int i = 0; i < 3; i++) {
		ssize_t n = read(log_out, buf, sizeof(buf) - 1);

		ck_assert_int_gt(n, 0);
		buf[n] = '\0';
		starts_with(buf, "{\"event\":\"e\"");
		ck_assert_ptr_eq(strchr(buf, '\n'), buf + n - 1);
	}
	log_close();
}
END_TEST

/* The daemon's own threads are to get them, blocked or not. */
START_TEST(thread_takes_no_signals)
{
	sigset_t set, pending;

	capture();
	start();
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	ck_assert_int_eq(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
	ck_assert_int_eq(kill(getpid(), SIGTERM), 0);
	log_event(LOG_INFO, "alive");
	log_close();
	ck_assert_int_eq(sigpending(&pending), 0);
	ck_assert(sigismember(&pending, SIGTERM));
	ck_assert_str_eq(captured(), LINE("alive", "info", ""));
}
END_TEST

START_TEST(reader_gone)
{
	pipe_as_stderr(0);
	(void)close(log_out);
	start();
	for (unsigned n = 0; n < 1000; n++)
		log_line_number(n); /* SIGPIPE would end this process */
	log_close();
}
END_TEST

/* ---- sinks that hang ---- */

enum hanging { PIPE, NONBLOCKING_PIPE, SOCKET, TERMINAL, HANGING };

static size_t filled;
static int slave = -1;

/* Ctrl-S was typed. */
static void
stopped_terminal_as_stderr(void)
{
	struct termios raw;

	log_out = posix_openpt(O_RDWR | O_NOCTTY);
	ck_assert_int_ge(log_out, 0);
	ck_assert_int_eq(grantpt(log_out), 0);
	ck_assert_int_eq(unlockpt(log_out), 0);
	slave = open(ptsname(log_out), O_RDWR | O_NOCTTY);
	ck_assert_int_ge(slave, 0);
	ck_assert_int_eq(tcgetattr(slave, &raw), 0);
	cfmakeraw(&raw);
	ck_assert_int_eq(tcsetattr(slave, TCSANOW, &raw), 0);
	ck_assert_int_eq(tcflow(slave, TCOOFF), 0);
	stderr_is(slave);
}

static void
hang(enum hanging what)
{
	switch (what) {
	case PIPE:
	case NONBLOCKING_PIPE:
		pipe_as_stderr(what == PIPE ? 0 : O_NONBLOCK);
		filled = fill_stderr();
		break;
	case SOCKET:
		socket_as_stderr(SOCK_STREAM);
		filled = fill_stderr();
		break;
	case TERMINAL:
	case HANGING:
		stopped_terminal_as_stderr();
		filled = 0;
		break;
	}
}

/* It takes lines again; they are read from what comes back. */
static FILE *
let_go(void)
{
	static char junk[1 << 22];
	FILE *in;

	if (slave >= 0)
		ck_assert_int_eq(tcflow(slave, TCOON), 0);
	ck_assert_uint_le(filled, sizeof(junk));
	drain(junk, filled);
	in = fdopen(log_out, "r");
	ck_assert_ptr_nonnull(in);
	return in;
}

/* The next line of this event; what stands between is one of "log_stalled". */
static char *
next_line(FILE *in, char **line)
{
	static size_t size;

	do {
		ck_assert_int_gt(getline(line, &size, in), 0);
	} while (strstr(*line, "{\"event\":\"log_stalled\"") == *line);
	return *line;
}

static unsigned long
number_in(const char *line, const char *key)
{
	const char *at = strstr(line, key);

	ck_assert_msg(at, "no %s in %s", key, line);
	return strtoul(at + strlen(key), NULL, 10);
}

/* Nobody waits; what found no room is counted, in its place, and what comes later is written. */
START_TEST(hanging_sink_holds_nobody_up)
{
	unsigned long n = 0, lost;
	char *line = NULL;
	FILE *in;

	hang((enum hanging)_i);
	start();
	for (unsigned i = 0; i < MANY; i++)
		log_line_number(i);
	in = let_go();
	while (strstr(next_line(in, &line), "{\"event\":\"line\"") == line)
		ck_assert_uint_eq(number_in(line, "\"n\":"), n++);
	starts_with(line, "{\"event\":\"log_lost\"");
	ck_assert_ptr_nonnull(strstr(line, "\"level\":\"warning\""));
	lost = number_in(line, "\"lines\":");
	ck_assert_uint_eq(n + lost, MANY);
	ck_assert_uint_gt(n, 10000); /* what the ring holds */
	log_line_number(MANY);
	ck_assert_uint_eq(number_in(next_line(in, &line), "\"n\":"), MANY);
	log_close();
	free(line);
	(void)fclose(in);
}
END_TEST

START_TEST(lost_lines_obey_the_level)
{
	char *line = NULL;
	FILE *in;

	hang(PIPE);
	start();
	for (unsigned i = 0; i < MANY; i++)
		log_line_number(i);
	log_set_level(LOG_ERR);
	in = let_go();
	for (unsigned long n = 0; n < 10000; n++)
		ck_assert_uint_eq(number_in(next_line(in, &line), "\"n\":"), n);
	/* Half of the ring is free at some time; then lines are taken again. */
	do {
		log_event(LOG_ERR, "end");
		ck_assert_ptr_null(strstr(next_line(in, &line), "log_lost"));
	} while (strstr(line, "{\"event\":\"end\"") != line);
	free(line);
	(void)fclose(in);
}
END_TEST

static void
wait_ms(uint64_t ms)
{
	uint64_t until = clock_ms() + ms;

	while (clock_ms() < until)
		(void)poll(NULL, 0, (int)(until - clock_ms()));
}

/* Nothing was lost, but somebody was waited for: the log says for whom and how long. */
START_TEST(stall_is_told)
{
	char line[1000];
	const char *seconds;
	FILE *in;

	hang((enum hanging)_i);
	start();
	log_line_number(0);
	log_line_number(1);
	wait_ms(LOG_STALL_MS + 100);
	in = let_go();
	ck_assert_uint_eq(number_in(fgets(line, sizeof(line), in), "\"n\":"), 0);
	ck_assert_uint_eq(number_in(fgets(line, sizeof(line), in), "\"n\":"), 1);
	starts_with(fgets(line, sizeof(line), in), "{\"event\":\"log_stalled\"");
	ck_assert_ptr_nonnull(strstr(line, "\"level\":\"warning\",\"sink\":\"stderr\""));
	seconds = strstr(line, "\"seconds\":");
	ck_assert_ptr_nonnull(seconds);
	ck_assert_double_ge(strtod(seconds + strlen("\"seconds\":"), NULL), LOG_STALL_MS / 1000.0);
	log_close();
	(void)fclose(in);
}
END_TEST

/* ---- the end ---- */

/* Check's own exit() of this process has the thread hanging in write(2), too. */
START_TEST(close_gives_a_hanging_sink_up)
{
	uint64_t start_ms;

	hang((enum hanging)_i);
	start();
	log_line_number(0);
	start_ms = clock_ms();
	log_close();
	ck_assert_uint_ge(clock_ms() - start_ms, LOG_CLOSE_STILL_MS);
	log_event(LOG_ERR, "lost"); /* and does not wait */
	log_close();
}
END_TEST

static void *
read_all(void *arg)
{
	unsigned long *n = arg;
	char *line = NULL;
	size_t size = 0;
	FILE *in = let_go();

	while (getline(&line, &size, in) > 0)
		if (strstr(line, "{\"event\":\"line\"") == line)
			ck_assert_uint_eq(number_in(line, "\"n\":"), (*n)++);
	free(line);
	(void)fclose(in);
	return NULL;
}

START_TEST(close_waits_for_a_reader_that_reads)
{
	unsigned long read_lines = 0;
	pthread_t reader;

	hang(PIPE);
	start();
	for (unsigned i = 0; i < 20000; i++)
		log_line_number(i);
	ck_assert_int_eq(pthread_create(&reader, NULL, read_all, &read_lines), 0);
	log_close();
	stderr_is(STDOUT_FILENO); /* the end of the pipe */
	ck_assert_int_eq(pthread_join(reader, NULL), 0);
	ck_assert_uint_eq(read_lines, 20000);
}
END_TEST

static void
add_thread(TCase *tc)
{
	tcase_add_test(tc, close_writes_everything);
	tcase_add_test(tc, one_line_is_one_write);
	tcase_add_test(tc, thread_takes_no_signals);
	tcase_add_test(tc, reader_gone);
}

static void
add_hanging(TCase *tc)
{
	tcase_add_loop_test(tc, hanging_sink_holds_nobody_up, 0, HANGING);
	tcase_add_test(tc, lost_lines_obey_the_level);
	tcase_add_loop_test(tc, stall_is_told, 0, HANGING);
	tcase_add_loop_test(tc, close_gives_a_hanging_sink_up, 0, HANGING);
	tcase_add_test(tc, close_waits_for_a_reader_that_reads);
}

int
main(void)
{
	Suite *s = suite_create("log_thread");
	SRunner *sr = srunner_create(s);
	int failed;

	add_thread(new_case(s, "thread", NULL));
	add_hanging(new_case(s, "hanging", NULL));

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
