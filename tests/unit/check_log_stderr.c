/* The log and its stderr while there is no thread of its own: pipes, sockets, signals, threads. */
#include "log/log.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "log_stderr_test.h"

START_TEST(errno_survives)
{
	(void)close(STDERR_FILENO);
	errno = ENOTTY;
	log_event(LOG_INFO, "lost");
	log_tick();
	log_event_limited(LOG_INFO, "kind", "lost");
	ck_assert_int_eq(errno, ENOTTY);
}
END_TEST

/* Else the next socket would be number 2, and events go to a peer. */
START_TEST(closed_stderr_is_held)
{
	int fd;

	(void)close(STDERR_FILENO);
	ck_assert_int_eq(log_open(LOG_TARGET_AUTO, LOG_INFO), 0);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	ck_assert_int_gt(fd, STDERR_FILENO);
	log_event(LOG_INFO, "lost");
	(void)close(fd);
}
END_TEST

/* Packet modes keep writes apart, so one read is one write. */
START_TEST(one_line_is_one_write)
{
	char buf[PIPE_BUF + 1];

	if (_i == 0)
		pipe_as_stderr(O_DIRECT);
	else
		socket_as_stderr(_i == 1 ? SOCK_SEQPACKET : SOCK_DGRAM);
	for (int i = 0; i < 3; i++)
		log_event(LOG_INFO, "e", LOG_STR("s", "some more"), LOG_I64("i", i));
	for (int i = 0; i < 3; i++) {
		char want[50];
		ssize_t n = read(log_out, buf, sizeof(buf) - 1);

		ck_assert_int_gt(n, 0);
		buf[n] = '\0';
		(void)snprintf(want, sizeof(want), ",\"s\":\"some more\",\"i\":%d}\n", i);
		ck_assert_ptr_eq(strstr(buf, "{\"event\":\"e\""), buf);
		ck_assert_str_eq(strstr(buf, ",\"s\""), want);
	}
}
END_TEST

START_TEST(reader_gone)
{
	sigset_t pending;

	if (_i == 0)
		pipe_as_stderr(0);
	else
		socket_as_stderr(SOCK_STREAM);
	(void)close(log_out);
	log_event(LOG_INFO, "lost"); /* SIGPIPE would end this process */
	log_event(LOG_INFO, "lost");
	ck_assert_int_eq(sigpending(&pending), 0);
	ck_assert_int_eq(sigismember(&pending, SIGPIPE), 0);
	ck_assert_int_eq(pthread_sigmask(SIG_BLOCK, NULL, &pending), 0);
	ck_assert_int_eq(sigismember(&pending, SIGPIPE), 0);
}
END_TEST

/* A line that had to be left unfinished, by a full disk for instance, spoils no other. */
START_TEST(torn_line_is_ended)
{
	struct rlimit room = {.rlim_cur = 100, .rlim_max = RLIM_INFINITY};
	char *s = repeat("x", 10000), text[1000] = "";

	capture();
	(void)signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &room), 0);
	log_event(LOG_INFO, "torn", LOG_STR("s", s));
	log_event(LOG_INFO, "lost");
	room.rlim_cur = RLIM_INFINITY;
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &room), 0);
	log_event(LOG_INFO, "next");
	log_event(LOG_INFO, "last");
	ck_assert_int_gt(pread(log_out, text, sizeof(text) - 1, 0), 0);
	starts_with(text, "{\"event\":\"torn\"");
	starts_with(text + 100, "\n{\"event\":\"next\"");
	starts_with(strchr(text + 101, '\n'), "\n{\"event\":\"last\"");
	free(s);
}
END_TEST

static int alarms[2]; /* a pipe: a byte for each signal */

static void
on_alarm(int signo)
{
	(void)signo;
	(void)!write(alarms[1], "", 1);
}

/* Makes room once the writer has been interrupted a few times. */
static void *
drain_after_alarms(void *arg)
{
	static char junk[1 << 20];
	char bytes[3];

	for (size_t n = 0; n < sizeof(bytes);)
		n += (size_t)read(alarms[0], bytes + n, sizeof(bytes) - n);
	drain(junk, *(size_t *)arg);
	return NULL;
}

START_TEST(signals_do_not_lose_lines)
{
	struct sigaction sa = {.sa_handler = on_alarm}; /* no SA_RESTART */
	struct itimerval often = {.it_interval.tv_usec = 2000, .it_value.tv_usec = 2000}, off = {0};
	sigset_t alarm_signal;
	char text[1000] = "";
	pthread_t thread;
	size_t filled;

	ck_assert_int_eq(pipe2(alarms, O_CLOEXEC), 0);
	pipe_as_stderr(_i == 0 ? 0 : O_NONBLOCK);
	filled = fill_stderr();
	(void)sigemptyset(&alarm_signal);
	(void)sigaddset(&alarm_signal, SIGALRM);
	ck_assert_int_eq(pthread_sigmask(SIG_BLOCK, &alarm_signal, NULL), 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, drain_after_alarms, &filled), 0);
	ck_assert_int_eq(pthread_sigmask(SIG_UNBLOCK, &alarm_signal, NULL), 0);
	ck_assert_int_eq(sigaction(SIGALRM, &sa, NULL), 0);
	ck_assert_int_eq(setitimer(ITIMER_REAL, &often, NULL), 0);
	log_event(LOG_INFO, "shown");
	ck_assert_int_eq(setitimer(ITIMER_REAL, &off, NULL), 0);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	ck_assert_int_gt(read(log_out, text, sizeof(text) - 1), 0);
	starts_with(text, "{\"event\":\"shown\"");
}
END_TEST

/* ---- threads ---- */

#define THREADS 4
#define LINES 150

/* Strings of 0 to 9,999 bytes: some lines are more than a pipe takes at once. */
static size_t
string_of(int thread, int n, char buf[10000])
{
	size_t len = (size_t)(n * 67 + thread * 2500) % 10000;

	memset(buf, 'a' + thread, len);
	buf[len] = '\0';
	return len;
}

static void *
log_lines(void *arg)
{
	int thread = *(int *)arg;
	char s[10000];

	for (int n = 0; n < LINES; n++) {
		(void)string_of(thread, n, s);
		log_event(LOG_INFO, "line", LOG_I64("thread", thread), LOG_I64("n", n),
			  LOG_STR("s", s));
		log_event_limited(LOG_DEBUG, "busy", "hidden");
		log_tick();
	}
	return NULL;
}

static void
expect_line(char *line, int next[THREADS])
{
	char s[10000], want[11000];
	char *fields = strstr(line, ",\"thread\":");
	int thread;

	starts_with(line, "{\"event\":\"line\",\"timestamp\":\"");
	ck_assert_ptr_nonnull(fields);
	ck_assert_int_eq(sscanf(fields, ",\"thread\":%d", &thread), 1);
	ck_assert_int_ge(thread, 0);
	ck_assert_int_lt(thread, THREADS);
	(void)string_of(thread, next[thread], s);
	(void)snprintf(want, sizeof(want), ",\"thread\":%d,\"n\":%d,\"s\":\"%s\"}\n", thread,
		       next[thread], s);
	ck_assert_str_eq(fields, want);
	next[thread]++;
}

/* Whether they write themselves or the log's thread does. */
START_TEST(lines_of_threads_are_not_mixed)
{
	pthread_t threads[THREADS];
	int ids[THREADS], next[THREADS] = {0};
	char *line = NULL;
	size_t size = 0;
	FILE *in;

	pipe_as_stderr(0);
	if (_i == 1)
		ck_assert_int_eq(log_start(), 0);
	in = fdopen(log_out, "r");
	ck_assert_ptr_nonnull(in);
	for (int i = 0; i < THREADS; i++) {
		ids[i] = i;
		ck_assert_int_eq(pthread_create(&threads[i], NULL, log_lines, &ids[i]), 0);
	}
	for (int i = 0; i < THREADS * LINES; i++) {
		ck_assert_int_gt(getline(&line, &size, in), 0);
		expect_line(line, next);
	}
	for (int i = 0; i < THREADS; i++) {
		ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
		ck_assert_int_eq(next[i], LINES);
	}
	log_close();
	free(line);
	(void)fclose(in);
}
END_TEST

static void
add_closed(TCase *tc)
{
	tcase_add_test(tc, errno_survives);
	tcase_add_test(tc, closed_stderr_is_held);
}

static void
add_pipes(TCase *tc)
{
	tcase_add_loop_test(tc, one_line_is_one_write, 0, 3);
	tcase_add_loop_test(tc, reader_gone, 0, 2);
	tcase_add_test(tc, torn_line_is_ended);
	tcase_add_loop_test(tc, signals_do_not_lose_lines, 0, 2);
	tcase_add_loop_test(tc, lines_of_threads_are_not_mixed, 0, 2);
}

int
main(void)
{
	Suite *s = suite_create("log_stderr");
	SRunner *sr = srunner_create(s);
	int failed;

	add_closed(new_case(s, "closed", NULL));
	add_pipes(new_case(s, "pipes", NULL));

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
