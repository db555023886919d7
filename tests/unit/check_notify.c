#include "log/notify.h"

#include <check.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "log_test.h"
#include "base/clock.h"

/* The supervisor: an abstract datagram socket, new for each test. */
static int supervisor = -1;

static void
setup(void)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	socklen_t len = sizeof(un);
	char path[sizeof(un.sun_path) + 1] = "";

	supervisor = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	ck_assert_int_ge(supervisor, 0);
	/* An address of the family alone: the kernel chooses an abstract name, see unix(7). */
	ck_assert_int_eq(bind(supervisor, (struct sockaddr *)&un, sizeof(un.sun_family)), 0);
	ck_assert_int_eq(getsockname(supervisor, (struct sockaddr *)&un, &len), 0);
	path[0] = '@';
	memcpy(path + 1, un.sun_path + 1, len - offsetof(struct sockaddr_un, sun_path) - 1);
	ck_assert_int_eq(setenv("NOTIFY_SOCKET", path, 1), 0);
}

static void
teardown(void)
{
	(void)close(supervisor);
}

/* What arrived; "" when nothing did.  A datagram is there once it was sent. */
static const char *
received(void)
{
	static char buf[4096];
	ssize_t n = recv(supervisor, buf, sizeof(buf) - 1, 0);

	buf[n > 0 ? n : 0] = '\0';
	return buf;
}

START_TEST(states)
{
	notify_ready();
	ck_assert_str_eq(received(), "READY=1");
	notify_watchdog();
	ck_assert_str_eq(received(), "WATCHDOG=1");
	notify_stopping();
	ck_assert_str_eq(received(), "STOPPING=1");
	ck_assert_str_eq(received(), "");
}
END_TEST

START_TEST(reloading_says_when)
{
	uint64_t before = clock_ns() / 1000, after, said = 0;
	int end = 0;
	const char *text;

	notify_reloading();
	after = clock_ns() / 1000;
	text = received();
	ck_assert_int_eq(sscanf(text, "RELOADING=1\nMONOTONIC_USEC=%" SCNu64 "%n", &said, &end), 1);
	ck_assert_uint_eq((size_t)end, strlen(text));
	ck_assert_uint_le(before, said);
	ck_assert_uint_le(said, after);
}
END_TEST

START_TEST(status_only_when_it_differs)
{
	notify_status("receiving %s metrics/s from %d clients", "12,410", 312);
	ck_assert_str_eq(received(), "STATUS=receiving 12,410 metrics/s from 312 clients");
	notify_status("receiving 12,410 metrics/s from %s clients", "312");
	ck_assert_str_eq(received(), "");
	notify_status("idle");
	ck_assert_str_eq(received(), "STATUS=idle");
	notify_status("receiving 12,410 metrics/s from 312 clients");
	ck_assert_str_eq(received(), "STATUS=receiving 12,410 metrics/s from 312 clients");
	notify_status("idle");
	ck_assert_str_eq(received(), "STATUS=idle");
}
END_TEST

START_TEST(status_is_one_line)
{
	notify_status("database: %s", "no\nREADY=1\n\tgo");
	ck_assert_str_eq(received(), "STATUS=database: no READY=1  go");
}
END_TEST

/* systemd refuses what is not UTF-8, so a cut must not halve a character. */
START_TEST(long_status_is_cut_between_characters)
{
	char text[400], want[400] = "STATUS=";
	size_t ascii = (size_t)_i;

	memset(text, 'x', ascii);
	text[ascii] = '\0';
	while (strlen(text) < 300)
		strcat(text, "\xE2\x82\xAC");
	strncat(want, text, ascii + (255 - ascii) / 3 * 3);
	notify_status("%s", text);
	ck_assert_str_eq(received(), want);
	notify_status("%s", text);
	ck_assert_str_eq(received(), "");
}
END_TEST

/* A status that could not be sent is sent the next time. */
START_TEST(status_after_a_failure)
{
	char path[200];

	(void)snprintf(path, sizeof(path), "%s", getenv("NOTIFY_SOCKET"));
	ck_assert_int_eq(setenv("NOTIFY_SOCKET", "@metric-collectord-check-nobody-listens", 1), 0);
	notify_status("idle");
	ck_assert_int_eq(setenv("NOTIFY_SOCKET", path, 1), 0);
	notify_status("idle");
	ck_assert_str_eq(received(), "STATUS=idle");
}
END_TEST

/* ---- a supervisor that does not read ---- */

/* Sends junk until its queue is full. */
static void
fill_queue(void)
{
	struct sockaddr_un un;
	socklen_t len = sizeof(un);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	ck_assert_int_eq(getsockname(supervisor, (struct sockaddr *)&un, &len), 0);
	while (sendto(fd, "junk", 4, 0, (struct sockaddr *)&un, len) == 4)
		;
	ck_assert_int_eq(errno, EAGAIN);
	(void)close(fd);
}

/* Makes room for one datagram. */
static void
read_one(void)
{
	ck_assert_str_eq(received(), "junk");
}

static void
read_junk(void)
{
	char c[4];

	while (recv(supervisor, c, sizeof(c), MSG_PEEK) == 4 && memcmp(c, "junk", 4) == 0)
		read_one();
}

START_TEST(states_wait_in_their_order)
{
	fill_queue();
	notify_ready();
	notify_reloading();
	notify_ready();
	notify_stopping();
	read_junk();
	ck_assert_str_eq(received(), "");
	notify_tick();
	ck_assert_str_eq(received(), "READY=1");
	starts_with(received(), "RELOADING=1\nMONOTONIC_USEC=");
	ck_assert_str_eq(received(), "READY=1");
	ck_assert_str_eq(received(), "STOPPING=1");
	notify_tick();
	ck_assert_str_eq(received(), "");
}
END_TEST

/* Whatever comes, at most four wait; the last reload is the one that counts, with its time. */
START_TEST(of_many_reloads_the_last_is_told)
{
	uint64_t before = 0, said = 0;

	fill_queue();
	notify_ready();
	for (int i = 0; i < 100; i++) {
		before = clock_ns() / 1000;
		notify_reloading();
		notify_tick();
		notify_ready();
	}
	notify_stopping();
	read_junk();
	notify_tick();
	ck_assert_str_eq(received(), "READY=1");
	ck_assert_int_eq(sscanf(received(), "RELOADING=1\nMONOTONIC_USEC=%" SCNu64, &said), 1);
	ck_assert_uint_ge(said, before);
	ck_assert_str_eq(received(), "READY=1");
	ck_assert_str_eq(received(), "STOPPING=1");
	ck_assert_str_eq(received(), "");
}
END_TEST

/* Room for one datagram is a state's, whoever comes first. */
START_TEST(no_state_is_overtaken)
{
	fill_queue();
	notify_ready();
	notify_stopping();
	read_one();
	if (_i == 0)
		notify_status("idle");
	else
		notify_watchdog();
	read_junk();
	ck_assert_str_eq(received(), "READY=1");
	ck_assert_str_eq(received(), "");
	notify_tick();
	ck_assert_str_eq(received(), "STOPPING=1");
	ck_assert_str_eq(received(), "");
}
END_TEST

START_TEST(what_is_told_again_does_not_wait)
{
	fill_queue();
	notify_watchdog();
	notify_status("one");
	notify_status("two");
	read_junk();
	notify_tick();
	ck_assert_str_eq(received(), "");
	notify_status("two");
	notify_watchdog();
	ck_assert_str_eq(received(), "STATUS=two");
	ck_assert_str_eq(received(), "WATCHDOG=1");
}
END_TEST

START_TEST(stall_is_logged)
{
	uint64_t start = clock_ms();
	const char *seconds;

	capture();
	fill_queue();
	notify_ready();
	notify_tick();
	ck_assert_str_eq(captured(), ""); /* a moment is none */
	while (clock_ms() - start < 1100)
		(void)poll(NULL, 0, 100);
	notify_tick();
	ck_assert_str_eq(captured(), LINE("supervisor_stalled", "warning", ",\"waiting\":1"));
	notify_tick();
	ck_assert_str_eq(captured(), "");
	read_junk();
	notify_tick();
	seconds = captured();
	starts_with(seconds,
		    "{\"event\":\"supervisor_resumed\",\"timestamp\":\"T\",\"level\":\"notice\""
		    ",\"seconds\":");
	ck_assert_double_ge(strtod(strstr(seconds, "\"seconds\":") + 10, NULL), 1.0);
	notify_tick();
	notify_watchdog();
	ck_assert_str_eq(captured(), "");
}
END_TEST

/* ---- addresses ---- */

START_TEST(path_as_address)
{
	char dir[] = "/tmp/check_notify.XXXXXX";
	struct sockaddr_un un = {.sun_family = AF_UNIX};

	ck_assert_ptr_nonnull(mkdtemp(dir));
	(void)snprintf(un.sun_path, sizeof(un.sun_path), "%s/notify", dir);
	(void)close(supervisor);
	supervisor = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	ck_assert_int_eq(bind(supervisor, (struct sockaddr *)&un, sizeof(un)), 0);
	ck_assert_int_eq(setenv("NOTIFY_SOCKET", un.sun_path, 1), 0);
	notify_ready();
	(void)unlink(un.sun_path);
	(void)rmdir(dir);
	ck_assert_str_eq(received(), "READY=1");
	notify_stopping(); /* nobody is there: not tried again either */
	notify_tick();
	ck_assert_str_eq(received(), "");
}
END_TEST

START_TEST(no_address)
{
	static const char *const values[] = {"", "@", "/", "notify", "vsock:2:1234"};
	char *far = repeat("/too-far", 200);

	for (size_t i = 0; i < COUNT(values); i++) {
		ck_assert_int_eq(setenv("NOTIFY_SOCKET", values[i], 1), 0);
		notify_ready();
		notify_status("%zu", i);
	}
	ck_assert_int_eq(setenv("NOTIFY_SOCKET", far, 1), 0);
	notify_ready();
	ck_assert_str_eq(received(), "");
	free(far);
}
END_TEST

START_TEST(without_a_supervisor_nothing_happens)
{
	ck_assert_int_eq(unsetenv("NOTIFY_SOCKET"), 0);
	notify_ready();
	notify_reloading();
	notify_status("idle");
	notify_watchdog();
	notify_stopping();
	ck_assert_str_eq(received(), "");
}
END_TEST

static const struct {
	const char *usec; /* NULL = not set */
	bool ours;        /* $WATCHDOG_PID */
	uint64_t want_ms;
} watchdogs[] = {
    {NULL, true, 0},   {"30000000", true, 15000}, {"30000000", false, 0}, {"1000", true, 1},
    {"2000", true, 1}, {"5001999", true, 2500},   {"0", true, 0},         {"soon", true, 0},
};

START_TEST(watchdog_period)
{
	char pid[32];

	(void)snprintf(pid, sizeof(pid), "%d", (int)(watchdogs[_i].ours ? getpid() : getppid()));
	ck_assert_int_eq(setenv("WATCHDOG_PID", pid, 1), 0);
	ck_assert_int_eq(unsetenv("WATCHDOG_USEC"), 0);
	if (watchdogs[_i].usec)
		ck_assert_int_eq(setenv("WATCHDOG_USEC", watchdogs[_i].usec, 1), 0);
	ck_assert_uint_eq(notify_watchdog_ms(), watchdogs[_i].want_ms);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("notify");
	TCase *tc = tcase_create("notify");
	SRunner *sr = srunner_create(s);
	int failed;

	suite_add_tcase(s, tc);
	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, states);
	tcase_add_test(tc, reloading_says_when);
	tcase_add_test(tc, status_only_when_it_differs);
	tcase_add_test(tc, status_is_one_line);
	tcase_add_loop_test(tc, long_status_is_cut_between_characters, 0, 3);
	tcase_add_test(tc, status_after_a_failure);
	tcase_add_test(tc, states_wait_in_their_order);
	tcase_add_test(tc, of_many_reloads_the_last_is_told);
	tcase_add_loop_test(tc, no_state_is_overtaken, 0, 2);
	tcase_add_test(tc, what_is_told_again_does_not_wait);
	tcase_add_test(tc, stall_is_logged);
	tcase_add_test(tc, path_as_address);
	tcase_add_test(tc, no_address);
	tcase_add_test(tc, without_a_supervisor_nothing_happens);
	tcase_add_loop_test(tc, watchdog_period, 0,
			    (int)(sizeof(watchdogs) / sizeof(watchdogs[0])));

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
