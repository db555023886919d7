/* The log and its stderr: pipes, sockets, readers that do not read, and threads. */
#include "log/log.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "log_test.h"

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

static void
pipe_as_stderr(int flags)
{
	int fds[2];

	ck_assert_int_eq(pipe2(fds, flags), 0);
	stderr_is(fds[1]);
	(void)close(fds[1]);
	log_out = fds[0];
	clock_now = 1000;
	log_set_clock(still_clock);
}

static void
socket_as_stderr(int type)
{
	int fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, type, 0, fds), 0);
	stderr_is(fds[1]);
	(void)close(fds[1]);
	log_out = fds[0];
}

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

/* Fills what stands behind stderr, whether it blocks or not; returns how many bytes went in. */
static size_t
fill(void)
{
	static const char junk[PIPE_BUF];
	struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
	struct stat st;
	size_t total = 0;

	ck_assert_int_eq(fstat(STDERR_FILENO, &st), 0);
	while (poll(&p, 1, 0) > 0) {
		ssize_t n = S_ISSOCK(st.st_mode)
				? send(STDERR_FILENO, junk, sizeof(junk), MSG_DONTWAIT)
				: write(STDERR_FILENO, junk, sizeof(junk));

		if (n < 0)
			break;
		total += (size_t)n;
	}
	return total;
}

/* Takes exactly so many bytes out of the pipe. */
static void
drain(char *buf, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = read(log_out, buf + done, len - done);

		ck_assert_int_gt(n, 0);
		done += (size_t)n;
	}
}

static const char *
read_rest(void)
{
	static char buf[8192];
	ssize_t n = recv(log_out, buf, sizeof(buf) - 1, MSG_DONTWAIT);

	if (n < 0)
		n = read(log_out, buf, sizeof(buf) - 1);
	ck_assert_int_ge(n, 0);
	buf[n] = '\0';
	return buf;
}

/* Blocking or not: a full stderr costs patience once, then nothing until there is room. */
START_TEST(blocked_stderr)
{
	static char junk[1 << 22];
	size_t filled;
	uint64_t start;

	if (_i < 2)
		pipe_as_stderr(_i == 0 ? 0 : O_NONBLOCK);
	else
		socket_as_stderr(SOCK_STREAM);
	filled = fill();
	ck_assert_uint_gt(filled, 0);
	ck_assert_uint_le(filled, sizeof(junk));
	log_set_clock(hasty_clock);
	start = clock_now;
	log_event(LOG_INFO, "lost");
	ck_assert_uint_ge(clock_now - start, 100);
	start = clock_now;
	log_event(LOG_INFO, "lost");
	ck_assert_uint_lt(clock_now - start, 100);
	drain(junk, filled);
	log_event(LOG_INFO, "shown");
	starts_with(read_rest(), "{\"event\":\"shown\"");
}
END_TEST

/* A line that had to be left unfinished spoils no other. */
START_TEST(torn_line_is_ended)
{
	char *s = repeat("x", 10000), junk[PIPE_BUF];
	const char *rest;

	pipe_as_stderr(_i == 0 ? 0 : O_NONBLOCK);
	ck_assert_int_ge(fcntl(log_out, F_SETPIPE_SZ, PIPE_BUF), PIPE_BUF);
	log_set_clock(hasty_clock);
	log_event(LOG_INFO, "torn", LOG_STR("s", s));
	drain(junk, sizeof(junk));
	starts_with(junk, "{\"event\":\"torn\"");
	log_event(LOG_INFO, "next");
	rest = read_rest();
	starts_with(rest, "\n{\"event\":\"next\"");
	ck_assert_ptr_eq(strchr(rest + 1, '\n'), rest + strlen(rest) - 1);
	log_event(LOG_INFO, "last");
	starts_with(read_rest(), "{\"event\":\"last\"");
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
	pthread_t thread;
	size_t filled;

	ck_assert_int_eq(pipe2(alarms, O_CLOEXEC), 0);
	pipe_as_stderr(_i == 0 ? 0 : O_NONBLOCK);
	filled = fill();
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
	starts_with(read_rest(), "{\"event\":\"shown\"");
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

START_TEST(lines_of_threads_are_not_mixed)
{
	pthread_t threads[THREADS];
	int ids[THREADS], next[THREADS] = {0};
	char *line = NULL;
	size_t size = 0;
	FILE *in;

	pipe_as_stderr(0);
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
	tcase_add_loop_test(tc, blocked_stderr, 0, 3);
	tcase_add_loop_test(tc, torn_line_is_ended, 0, 2);
	tcase_add_loop_test(tc, signals_do_not_lose_lines, 0, 2);
	tcase_add_test(tc, lines_of_threads_are_not_mixed);
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
