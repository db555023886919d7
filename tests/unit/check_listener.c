/* check_listener.c - listeners on loopback and unix sockets, on both backends of the loop. */
#include "net/listener.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "loop_test.h"
#include "log/log.h"

#define CLIENTS 100
#define ALL 4096 /* accepts that a stop may make */

/* What the callback got. */
static struct {
	unsigned n;
	int fds[CLIENTS];
	struct sockaddr_storage peer;
	socklen_t peer_len;
	struct listener *stop; /* the first call stops it */
	struct listener *hold; /* the next call holds it */
} got;

/* The other ends; closed after the test. */
static int clients[CLIENTS];
static unsigned n_clients;

static char dir[] = "/tmp/check_listener.XXXXXX";
static int lowest; /* free descriptor before the test */

/* ---- helpers ---- */

static void
accepted(void *arg, int fd, const struct sockaddr *sa, socklen_t len)
{
	struct listener *stop = got.stop, *hold = got.hold;

	ck_assert_ptr_eq(arg, &got);
	ck_assert_uint_lt(got.n, CLIENTS);
	ck_assert_uint_le(len, sizeof(got.peer));
	got.fds[got.n++] = fd;
	memcpy(&got.peer, sa, len);
	got.peer_len = len;
	got.stop = NULL;
	got.hold = NULL;
	if (stop)
		listener_stop(stop, ALL);
	if (hold)
		listener_hold(hold, true);
}

static void
close_accepted(void)
{
	while (got.n > 0)
		(void)close(got.fds[--got.n]);
}

static struct address
address(const char *text)
{
	struct address a;
	const char *why;

	ck_assert_msg(address_parse(text, &a, &why) == 0, "%s: %s", text, why);
	return a;
}

static int
try_listen(const char *text, struct listener **ret)
{
	struct address a = address(text);

	return listener_new(loop, &a, accepted, &got, ret);
}

static struct listener *
listen_on(const char *text)
{
	struct listener *l = NULL;

	ck_assert_int_eq(try_listen(text, &l), 0);
	return l;
}

/* The address of a socket in the test's own directory, until the next call. */
static const char *
unix_text(const char *name)
{
	static char text[ADDRESS_TEXT_MAX];

	(void)snprintf(text, sizeof(text), "unix:%s/%s", dir, name);
	return text;
}

static const char *
unix_path(const char *name)
{
	return unix_text(name) + strlen("unix:");
}

static int
try_connect(const char *text, int *ret)
{
	struct address a = address(text);
	int fd = socket(a.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_ge(fd, 0);
	if (connect(fd, (const struct sockaddr *)&a.sa, a.len) < 0) {
		int r = -errno;

		(void)close(fd);
		return r;
	}
	*ret = fd;
	return 0;
}

static int
connect_to(const struct listener *l)
{
	char text[ADDRESS_TEXT_MAX];
	int fd = -1;

	ck_assert_int_eq(try_connect(listener_address(l, text), &fd), 0);
	return fd;
}

/* On a unix socket a connection waits in the backlog as soon as connect() has returned. */
static void
connect_many(const struct listener *l, unsigned n)
{
	while (n-- > 0)
		clients[n_clients++] = connect_to(l);
}

/* A socket that the test binds itself, listening if asked. */
static int
bound_socket(const char *text, bool listening)
{
	struct address a = address(text);
	int fd = socket(a.sa.ss_family, SOCK_STREAM, 0);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(bind(fd, (const struct sockaddr *)&a.sa, a.len), 0);
	if (listening)
		ck_assert_int_eq(listen(fd, 16), 0);
	return fd;
}

static int
lowest_free(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	(void)close(fd);
	return fd;
}

static bool
exists(const char *name)
{
	struct stat st;

	return lstat(unix_path(name), &st) == 0;
}

static void
setup(void)
{
	memset(&got, 0, sizeof(got));
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	lowest = lowest_free();
}

static void
teardown(void)
{
	close_accepted();
	while (n_clients > 0)
		(void)close(clients[--n_clients]);
	ck_assert_int_eq(lowest_free(), lowest); /* no descriptor was left open */
	ck_assert_int_eq(rmdir(dir), 0);         /* and no socket file */
}

/* ---- accepting ---- */

static void
check_flags(int fd)
{
	ck_assert_int_eq(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	ck_assert_int_eq(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
}

/* One connection, with a byte in each direction. */
static void
check_connection(const struct listener *l)
{
	int fd = connect_to(l);
	char c;

	AWAIT(got.n == 1);
	check_flags(got.fds[0]);
	ck_assert_int_eq(write(got.fds[0], "x", 1), 1);
	ck_assert_int_eq(read(fd, &c, 1), 1);
	(void)close(fd);
}

/* The peer that the callback saw is the client's own address. */
static void
check_peer(const char *prefix)
{
	char text[ADDRESS_TEXT_MAX];

	address_format((const struct sockaddr *)&got.peer, got.peer_len, text);
	ck_assert_msg(strncmp(text, prefix, strlen(prefix)) == 0, "peer is %s", text);
}

/* Everything of a TCP address but its port, which is to be a real one. */
static void
check_address(const struct listener *l, const char *prefix)
{
	char text[ADDRESS_TEXT_MAX];

	ck_assert_ptr_eq(listener_address(l, text), text);
	ck_assert_msg(strncmp(text, prefix, strlen(prefix)) == 0, "bound to %s", text);
	ck_assert_int_gt(atoi(text + strlen(prefix)), 0);
}

START_TEST(ipv4)
{
	struct listener *l = listen_on("127.0.0.1:0");
	char text[ADDRESS_TEXT_MAX];
	int fd;

	check_address(l, "127.0.0.1:");
	check_connection(l);
	check_peer("127.0.0.1:");
	listener_address(l, text);
	listener_stop(l, ALL);
	ck_assert_int_eq(try_connect(text, &fd), -ECONNREFUSED);
	listener_free(l);
}
END_TEST

START_TEST(ipv6)
{
	struct listener *l = listen_on("[::1]:0");

	check_address(l, "[::1]:");
	check_connection(l);
	check_peer("[::1]:");
	listener_free(l);
}
END_TEST

/* Linux binds an IPv6 socket to an IPv4 address unless IPV6_V6ONLY is on. */
START_TEST(ipv6_leaves_ipv4_alone)
{
	struct listener *l;

	ck_assert_int_eq(try_listen("[::ffff:127.0.0.1]:0", &l), -EINVAL);
}
END_TEST

START_TEST(address_in_use)
{
	struct listener *l = listen_on("127.0.0.1:0");
	struct listener *other;
	char text[ADDRESS_TEXT_MAX];

	ck_assert_int_eq(try_listen(listener_address(l, text), &other), -EADDRINUSE);
	check_connection(l);
	listener_free(l);
}
END_TEST

/* A port whose last connections are still in TIME_WAIT can be had at once. */
START_TEST(address_is_reused)
{
	struct listener *l = listen_on("127.0.0.1:0");
	char text[ADDRESS_TEXT_MAX];
	int fd = connect_to(l);
	char c;

	AWAIT(got.n == 1);
	close_accepted(); /* who closes first gets the TIME_WAIT */
	ck_assert_int_eq(read(fd, &c, 1), 0);
	(void)close(fd);
	listener_address(l, text);
	listener_free(l);
	l = listen_on(text);
	check_connection(l);
	listener_free(l);
}
END_TEST

START_TEST(accepts_are_bounded)
{
	struct listener *l = listen_on(unix_text("s"));

	connect_many(l, CLIENTS);
	turn();
	ck_assert_uint_eq(got.n, LISTENER_ACCEPTS);
	turn();
	ck_assert_uint_eq(got.n, CLIENTS);
	listener_free(l);
}
END_TEST

/* ---- unix sockets ---- */

START_TEST(unix_socket)
{
	mode_t mask = umask(077);
	struct listener *l = listen_on(unix_text("s"));
	char text[ADDRESS_TEXT_MAX];
	struct stat st;
	int fd;

	(void)umask(mask);
	ck_assert_str_eq(listener_address(l, text), unix_text("s"));
	ck_assert_int_eq(lstat(unix_path("s"), &st), 0);
	ck_assert(S_ISSOCK(st.st_mode));
	ck_assert_uint_eq(st.st_mode & 07777, 0666);
	check_connection(l);
	check_peer("unix");
	listener_stop(l, ALL);
	ck_assert(!exists("s"));
	ck_assert_int_eq(try_connect(text, &fd), -ENOENT);
	listener_free(l);
}
END_TEST

START_TEST(abstract_socket)
{
	struct listener *l;
	char text[ADDRESS_TEXT_MAX];

	(void)snprintf(text, sizeof(text), "unix:@check_listener.%ld", (long)getpid());
	l = listen_on(text);
	check_connection(l);
	listener_free(l);
}
END_TEST

START_TEST(dead_socket_is_replaced)
{
	struct listener *l;

	(void)close(bound_socket(unix_text("s"), true));
	ck_assert(exists("s"));
	l = listen_on(unix_text("s"));
	check_connection(l);
	listener_free(l);
	ck_assert(!exists("s"));
}
END_TEST

START_TEST(live_socket_stays)
{
	struct listener *l = listen_on(unix_text("s"));
	struct listener *other;

	ck_assert_int_eq(try_listen(unix_text("s"), &other), -EADDRINUSE);
	ck_assert(exists("s"));
	AWAIT(got.n == 1); /* the question whether anybody listens */
	close_accepted();
	check_connection(l);
	listener_free(l);
}
END_TEST

START_TEST(no_socket_can_be_made)
{
	struct listener *l;
	int fd = open(unix_path("s"), O_CREAT | O_EXCL | O_WRONLY, 0600);

	ck_assert_int_ge(fd, 0);
	(void)close(fd);
	ck_assert_int_eq(try_listen(unix_text("s"), &l), -EADDRINUSE);
	ck_assert_int_eq(try_listen(unix_text("s/t"), &l), -ENOTDIR);
	ck_assert_int_eq(unlink(unix_path("s")), 0); /* it was left alone */
	ck_assert_int_eq(try_listen(unix_text("none/s"), &l), -ENOENT);
}
END_TEST

/* Somebody has put another socket into the place of ours. */
START_TEST(file_of_another_stays)
{
	struct listener *l = listen_on(unix_text("s"));
	int fd;

	ck_assert_int_eq(unlink(unix_path("s")), 0);
	fd = bound_socket(unix_text("s"), true);
	listener_free(l);
	ck_assert_int_eq(unlink(unix_path("s")), 0);
	(void)close(fd);
}
END_TEST

/* ---- sockets of the supervisor's ---- */

static struct listener *
inherit(int fd)
{
	struct listener *l = NULL;

	ck_assert_int_eq(listener_inherit(loop, fd, accepted, &got, &l), 0);
	return l;
}

START_TEST(inherited_tcp)
{
	int fd = bound_socket("127.0.0.1:0", true);
	struct listener *l = inherit(fd);

	check_flags(fd);
	check_address(l, "127.0.0.1:");
	check_connection(l);
	check_peer("127.0.0.1:");
	listener_free(l);
}
END_TEST

/* What waits at stop is for the next process: it is not accepted, and the file stays. */
START_TEST(inherited_backlog_stays)
{
	int fd = bound_socket(unix_text("s"), true);
	int supervisors = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	struct listener *l = inherit(fd);
	int client, connection;

	check_connection(l);
	client = connect_to(l);
	listener_stop(l, ALL);
	listener_free(l);
	ck_assert_uint_eq(got.n, 1);

	connection = accept(supervisors, NULL, NULL);
	ck_assert_int_ge(connection, 0);
	(void)close(connection);
	(void)close(client);
	(void)close(supervisors);
	ck_assert_int_eq(unlink(unix_path("s")), 0);
}
END_TEST

START_TEST(inherited_must_listen)
{
	struct listener *l;
	int fd = bound_socket("127.0.0.1:0", false);

	ck_assert_int_eq(listener_inherit(loop, fd, accepted, &got, &l), -EINVAL);
	ck_assert_int_eq(fcntl(fd, F_GETFD), -1); /* closed */
	fd = open("/dev/null", O_RDONLY);
	ck_assert_int_eq(listener_inherit(loop, fd, accepted, &got, &l), -EINVAL);
}
END_TEST

/* ---- stopping ---- */

START_TEST(stop_takes_the_backlog)
{
	struct listener *l = listen_on(unix_text("s"));

	connect_many(l, CLIENTS);
	listener_stop(l, ALL);
	ck_assert_uint_eq(got.n, CLIENTS);
	listener_stop(l, ALL); /* twice is fine */
	turn();
	listener_free(l);
}
END_TEST

START_TEST(stop_is_bounded)
{
	struct listener *l = listen_on(unix_text("s"));
	char c;

	connect_many(l, 5);
	listener_stop(l, 3);
	ck_assert_uint_eq(got.n, 3);
	ck_assert_int_le(read(clients[4], &c, 1), 0); /* the others are gone */
	listener_free(l);
}
END_TEST

START_TEST(held_connections_wait)
{
	struct listener *l = listen_on(unix_text("s"));

	listener_hold(l, true);
	connect_many(l, 5);
	turn();
	ck_assert_uint_eq(got.n, 0);
	got.hold = l; /* from the callback, too */
	listener_hold(l, false);
	turn();
	ck_assert_uint_eq(got.n, 1);
	turn();
	ck_assert_uint_eq(got.n, 1);
	listener_hold(l, false);
	turn();
	ck_assert_uint_eq(got.n, 5);
	listener_free(l);
}
END_TEST

START_TEST(stop_from_the_callback)
{
	struct listener *l = listen_on(unix_text("s"));

	connect_many(l, 5);
	got.stop = l;
	turn();
	ck_assert_uint_eq(got.n, 5);
	listener_free(l);
	listener_free(NULL);
}
END_TEST

/* ---- without descriptors ---- */

static struct rlimit limit;
static int log_file, old_stderr;

/* What was logged so far; the rate limits, too: each pause is to be logged. */
static void
forget_log(void)
{
	log_close();
	ck_assert_int_eq(ftruncate(log_file, 0), 0);
	ck_assert_int_ge(lseek(log_file, 0, SEEK_SET), 0);
}

/* From now on stderr is read by logged(). */
static void
capture_log(void)
{
	log_file = memfd_create("log", MFD_CLOEXEC);
	old_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
	ck_assert_int_ge(log_file, 0);
	ck_assert_int_eq(dup2(log_file, STDERR_FILENO), STDERR_FILENO);
	forget_log();
}

static void
release_log(void)
{
	(void)dup2(old_stderr, STDERR_FILENO);
	(void)close(old_stderr);
	(void)close(log_file);
}

static bool
logged(const char *what)
{
	char text[65536];
	ssize_t n;

	log_close();
	n = pread(log_file, text, sizeof(text) - 1, 0);
	ck_assert_int_ge(n, 0);
	text[n] = '\0';
	return strstr(text, what) != NULL;
}

/* Not a single descriptor more. */
static void
exhaust(void)
{
	struct rlimit none;

	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = limit;
	none.rlim_cur = (rlim_t)lowest_free();
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
}

static void
replenish(void)
{
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static void
set_true(void *arg)
{
	*(bool *)arg = true;
}

START_TEST(pauses_without_descriptors)
{
	struct listener *l = listen_on(unix_text("s"));
	struct loop_timer timer;
	bool shorter = false;

	ck_assert_int_eq(loop_timer_init(loop, &timer, set_true, &shorter), 0);
	capture_log();
	connect_many(l, 1);
	exhaust();
	loop_timer_set(&timer, LISTENER_PAUSE_MIN_MS / 2, 0);
	turn();
	ck_assert(logged("\"event\":\"accept_paused\""));
	ck_assert(logged(strerror(EMFILE)));
	ck_assert(logged("\"retry_in\":0.1"));
	ck_assert(logged(unix_text("s")));
	AWAIT(logged("\"retry_in\":0.2"));
	ck_assert(shorter); /* the pause was one */
	AWAIT(logged("\"retry_in\":0.4"));
	ck_assert_uint_eq(got.n, 0);
	replenish();
	AWAIT(got.n == 1);

	/* after a success the next pause is short again */
	forget_log();
	connect_many(l, 1);
	exhaust();
	AWAIT(logged("accept_paused"));
	replenish();
	ck_assert(logged("\"retry_in\":0.1"));
	AWAIT(got.n == 2);

	release_log();
	loop_timer_done(&timer);
	listener_free(l);
}
END_TEST

START_TEST(stop_during_a_pause)
{
	struct listener *l = listen_on(unix_text("s"));

	capture_log();
	connect_many(l, 2);
	exhaust();
	turn();
	ck_assert_uint_eq(got.n, 0);
	replenish();
	listener_stop(l, ALL);
	ck_assert_uint_eq(got.n, 2);
	ck_assert(!logged("accept_failed"));
	release_log();
	listener_free(l);
}
END_TEST

START_TEST(stop_without_descriptors)
{
	struct listener *l = listen_on(unix_text("s"));

	capture_log();
	connect_many(l, 2);
	exhaust();
	listener_stop(l, ALL);
	replenish();
	ck_assert_uint_eq(got.n, 0);
	ck_assert(logged("\"event\":\"accept_failed\""));
	ck_assert(logged(strerror(EMFILE)));
	release_log();
	listener_free(l);
}
END_TEST

/* ---- */

static bool
have_ipv6(void)
{
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool have = fd >= 0 && bind(fd, (const struct sockaddr *)&in6, sizeof(in6)) == 0;

	if (fd >= 0)
		(void)close(fd);
	return have;
}

int
main(void)
{
	const TTest *const tests[] = {
	    ipv4,
	    address_in_use,
	    address_is_reused,
	    accepts_are_bounded,
	    unix_socket,
	    abstract_socket,
	    dead_socket_is_replaced,
	    live_socket_stays,
	    no_socket_can_be_made,
	    file_of_another_stays,
	    inherited_tcp,
	    inherited_backlog_stays,
	    inherited_must_listen,
	    stop_takes_the_backlog,
	    stop_is_bounded,
	    held_connections_wait,
	    stop_from_the_callback,
	    pauses_without_descriptors,
	    stop_during_a_pause,
	    stop_without_descriptors,
	};
	const TTest *const tests6[] = {ipv6, ipv6_leaves_ipv4_alone};
	Suite *s = suite_create("listener");

	add_on_both(s, setup, teardown, tests, COUNT(tests));
	if (have_ipv6())
		add_on_both(s, setup, teardown, tests6, COUNT(tests6));
	else
		(void)fprintf(stderr, "check_listener: no IPv6 on this machine\n");
	return run_suite(s);
}
