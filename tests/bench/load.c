/*
 * load.c - a sender for benchmarks and fault tests.
 *
 *	load [-c CLIENTS] [-n FRAMES] [-m NAMES] [-p BYTES] [-s LEVEL] [-t START] HOST PORT
 *	load -r ROUNDS [-c CLIENTS] [-s LEVEL] HOST PORT
 *
 * The first form sends FRAMES metrics over CLIENTS connections as fast as they are taken, some
 * BYTES of whole frames at a time (-p 1: one frame), asks on each with a sync frame whether they
 * are safe, and prints the seconds until everything was sent and until everything was
 * acknowledged.  Metric number i has timestamp START + i and value i, so that a test can tell
 * which arrived.  The second form measures round trips: each client sends one metric and a sync
 * frame, waits for the answer, and does so ROUNDS times.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "wire/bytes.h"
#include "wire/frame.h"

#define PIECE ((size_t)64 * 1024)

struct sender {
	int fd;
	uint64_t next, end; /* metrics of its share */
	uint8_t buf[PIECE + 2 * FRAME_MAX];
	size_t len, sent;
	bool asked;
	size_t answered;
	uint8_t answer[FRAME_ANSWER_SIZE];
	unsigned rounds;
	double since;
};

struct options {
	unsigned clients;
	uint64_t frames;
	unsigned names;
	uint8_t level;
	uint64_t start;
	unsigned rounds;
	size_t piece;
};

static double
now(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void
die(const char *what)
{
	perror(what);
	exit(EXIT_FAILURE);
}

static int
dial(const char *host, const char *port)
{
	struct sockaddr_in sa = {.sin_family = AF_INET,
				 .sin_port = htons((uint16_t)strtoul(port, NULL, 10))};
	int on = 1;
	int fd;

	if (inet_pton(AF_INET, host, &sa.sin_addr) != 1) {
		(void)fprintf(stderr, "load: %s is not an IPv4 address\n", host);
		exit(2);
	}
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		die("load: connect");
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

static void
fill(struct sender *s, const struct options *o)
{
	s->len = s->sent = 0;
	while (s->next < s->end && s->len < o->piece) {
		char name[32];
		int n = snprintf(name, sizeof(name), "bench.metric.%04llu",
				 (unsigned long long)(s->next % o->names));

		s->len += frame_encode(s->buf + s->len, o->start + s->next, name, (size_t)n,
				       (double)s->next);
		s->next++;
	}
	if (s->next == s->end && !s->asked) {
		if (o->level)
			s->len += frame_encode_sync(s->buf + s->len, s->end, o->level);
		s->asked = true;
	}
}

static void
push(struct sender *s)
{
	ssize_t n = send(s->fd, s->buf + s->sent, s->len - s->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0 && errno != EAGAIN)
		die("load: send");
	if (n > 0)
		s->sent += (size_t)n;
}

/* Returns true once a whole answer is there. */
static bool
pull(struct sender *s)
{
	ssize_t n =
	    recv(s->fd, s->answer + s->answered, sizeof(s->answer) - s->answered, MSG_DONTWAIT);

	if (n == 0) {
		(void)fprintf(stderr, "load: the daemon closed the connection\n");
		exit(EXIT_FAILURE);
	}
	if (n < 0 && errno != EAGAIN)
		die("load: recv");
	if (n > 0)
		s->answered += (size_t)n;
	return s->answered == sizeof(s->answer);
}

/* ---- throughput ---- */

static short
wants(const struct sender *s, const struct options *o)
{
	if (s->sent < s->len || !s->asked)
		return POLLOUT;
	return o->level && s->answered < sizeof(s->answer) ? POLLIN : 0;
}

static void
step(struct sender *s, const struct options *o)
{
	if (s->sent == s->len && !s->asked)
		fill(s, o);
	if (s->sent < s->len)
		push(s);
	else if (o->level)
		(void)pull(s);
}

static int
throughput(struct sender *senders, const struct options *o)
{
	struct pollfd *fds = calloc(o->clients, sizeof(*fds));
	double start = now(), sent = 0, acknowledged;
	unsigned open = o->clients;

	for (unsigned i = 0; i < o->clients; i++) {
		senders[i].next = o->frames * i / o->clients;
		senders[i].end = o->frames * (i + 1) / o->clients;
	}
	while (open) {
		unsigned sending = 0;

		open = 0;
		for (unsigned i = 0; i < o->clients; i++) {
			fds[i].events = wants(&senders[i], o);
			fds[i].fd = fds[i].events ? senders[i].fd : -1;
			open += fds[i].events != 0;
			sending += fds[i].events == POLLOUT;
		}
		if (!sending && sent == 0)
			sent = now() - start;
		if (open && poll(fds, o->clients, -1) < 0)
			die("load: poll");
		for (unsigned i = 0; open && i < o->clients; i++)
			if (fds[i].fd >= 0 && fds[i].revents)
				step(&senders[i], o);
	}
	acknowledged = now() - start;
	(void)printf("frames %llu clients %u sent %.3f acknowledged %.3f rate %.0f\n",
		     (unsigned long long)o->frames, o->clients, sent, acknowledged,
		     (double)o->frames / acknowledged);
	free(fds);
	return EXIT_SUCCESS;
}

/* ---- round trips ---- */

static int
compare(const void *a, const void *b)
{
	double x, y;

	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return (x > y) - (x < y);
}

static void
ask(struct sender *s, const struct options *o)
{
	s->next = s->rounds;
	s->end = s->next + 1;
	s->asked = false;
	s->answered = 0;
	fill(s, o);
	s->since = now();
	push(s);
}

static int
round_trips(struct sender *senders, const struct options *o)
{
	struct pollfd *fds = calloc(o->clients, sizeof(*fds));
	size_t n = (size_t)o->clients * o->rounds, done = 0;
	double *times = calloc(n, sizeof(*times));

	for (unsigned i = 0; i < o->clients; i++) {
		fds[i] = (struct pollfd){.fd = senders[i].fd, .events = POLLIN};
		ask(&senders[i], o);
	}
	while (done < n) {
		if (poll(fds, o->clients, -1) < 0)
			die("load: poll");
		for (unsigned i = 0; i < o->clients; i++) {
			struct sender *s = &senders[i];

			if (!fds[i].revents || !pull(s))
				continue;
			times[done++] = now() - s->since;
			if (++s->rounds < o->rounds)
				ask(s, o);
			else
				fds[i].fd = -1;
		}
	}
	qsort(times, n, sizeof(*times), compare);
	(void)printf("clients %u rounds %u p50_us %.0f p99_us %.0f max_us %.0f\n", o->clients,
		     o->rounds, times[n / 2] * 1e6, times[n * 99 / 100] * 1e6, times[n - 1] * 1e6);
	free(times);
	free(fds);
	return EXIT_SUCCESS;
}

int
main(int argc, char *argv[])
{
	struct options o = {
	    .clients = 1, .frames = 1000000, .names = 200, .level = 2, .piece = PIECE};
	struct rlimit rl;
	struct sender *senders;
	int opt, status;

	o.start = (uint64_t)time(NULL) * 1000000;
	while ((opt = getopt(argc, argv, "c:n:m:p:s:t:r:")) != -1) {
		uint64_t v = optarg ? strtoull(optarg, NULL, 10) : 0;

		switch (opt) {
		case 'c':
			o.clients = (unsigned)v;
			break;
		case 'n':
			o.frames = v;
			break;
		case 'm':
			o.names = (unsigned)v;
			break;
		case 'p':
			o.piece = v < PIECE ? (size_t)v : PIECE;
			break;
		case 's':
			o.level = (uint8_t)v;
			break;
		case 't':
			o.start = v;
			break;
		case 'r':
			o.rounds = (unsigned)v;
			break;
		default:
			return 2;
		}
	}
	if (optind + 2 != argc || !o.clients || !o.names || !o.piece || o.level > 2) {
		(void)fprintf(stderr, "usage: load [-c CLIENTS] [-n FRAMES] [-m NAMES] [-p BYTES] "
				      "[-s LEVEL] [-t START] [-r ROUNDS] HOST PORT\n");
		return 2;
	}
	if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
		rl.rlim_cur = rl.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &rl);
	}
	senders = calloc(o.clients, sizeof(*senders));
	if (!senders)
		die("load");
	for (unsigned i = 0; i < o.clients; i++)
		senders[i].fd = dial(argv[optind], argv[optind + 1]);
	status = o.rounds ? round_trips(senders, &o) : throughput(senders, &o);
	for (unsigned i = 0; i < o.clients; i++)
		(void)close(senders[i].fd);
	free(senders);
	return status;
}
