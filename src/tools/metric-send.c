/*
 * metric-send.c - sends metrics from a shell: metric-send(1).
 *
 * Also the smallest complete sender of the protocol: connect, write frames and,
 * where it must be known that they are safe, a sync frame and read its answer.
 */
#include <ctype.h>
#include <err.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <netdb.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/address.h"
#include "base/clock.h"
#include "wire/bytes.h"
#include "wire/frame.h"
#include "wire/utf8.h"

#define EXIT_USAGE 2
#define TIMEOUT_S 30
#define LINE_SIZE 4096 /* with the NUL: name, value and timestamp take a tenth of it */

struct options {
	unsigned sync_level; /* 0 = do not ask */
	unsigned timeout_s;
	const char *address;
};

static void
usage(FILE *out)
{
	(void)fprintf(
	    out,
	    "usage: metric-send [-s LEVEL] [-w SECONDS] ADDRESS NAME VALUE [TIMESTAMP]\n"
	    "       metric-send [-s LEVEL] [-w SECONDS] ADDRESS < LINES\n"
	    "\n"
	    "  ADDRESS    HOST:PORT, [V6]:PORT or unix:/path\n"
	    "  TIMESTAMP  microseconds since 1970; now, where it is missing\n"
	    "  LINES      NAME VALUE [TIMESTAMP], one metric a line\n"
	    "  -s LEVEL   return once the metrics are safe: 1 in the spool, 2 in the database\n"
	    "  -w SECONDS how long to wait for the collector (30)\n");
}

/* Returns false, having said why, when text is not a number from min to max: digits, that is. */
static bool
parse_u64(const char *text, const char *what, uint64_t min, uint64_t max, uint64_t *ret)
{
	bool good = *text != '\0';
	uint64_t v = 0;

	for (const char *p = text; good && *p; p++)
		good = *p >= '0' && *p <= '9' && !__builtin_mul_overflow(v, 10, &v) &&
		       !__builtin_add_overflow(v, (uint64_t)(*p - '0'), &v);
	if (!good || v < min || v > max) {
		warnx("%s: %s is not a number from %" PRIu64 " to %" PRIu64, what, text, min, max);
		return false;
	}
	*ret = v;
	return true;
}

/* Whoever means infinity writes it: "1e999" is not sent as that, nor "1e-999" as 0. */
static bool
parse_value(const char *text, double *ret)
{
	char *end;

	errno = 0;
	*ret = strtod(text, &end);
	if (end == text || *end) {
		warnx("value: %s is not a number", text);
		return false;
	}
	if (errno == ERANGE && (isinf(*ret) || *ret == 0)) {
		warnx("value: %s is out of the range of 64-bit floating-point numbers", text);
		return false;
	}
	return true;
}

static bool
check_name(const char *name)
{
	size_t len = strlen(name);

	if (len >= 1 && len <= FRAME_NAME_MAX && utf8_check((const uint8_t *)name, len) == UTF8_OK)
		return true;
	warnx("name: must be 1 to %d bytes of UTF-8 without control characters", FRAME_NAME_MAX);
	return false;
}

/* Writes one metric; time is NULL for now.  Returns false, having said why. */
static bool
send_metric(FILE *out, const char *name, const char *value_text, const char *time)
{
	uint8_t bytes[FRAME_MAX];
	uint64_t time_us = clock_real_us();
	double value;
	size_t size;

	if (!check_name(name) || !parse_value(value_text, &value))
		return false;
	if (time && !parse_u64(time, "timestamp", 0, FRAME_TIME_MAX, &time_us))
		return false;
	size = frame_encode(bytes, time_us, name, strlen(name), value);
	if (fwrite(bytes, 1, size, out) != size)
		err(EXIT_FAILURE, "sending");
	return true;
}

/* One line of input; an empty one is fine. */
static bool
send_line(FILE *out, char *line)
{
	static const char blanks[] = " \t\r\n";
	char *save;
	const char *name = strtok_r(line, blanks, &save);
	const char *value = name ? strtok_r(NULL, blanks, &save) : NULL;
	const char *time = value ? strtok_r(NULL, blanks, &save) : NULL;

	if (!name)
		return true;
	if (!value || strtok_r(NULL, blanks, &save)) {
		warnx("a line must be: NAME VALUE [TIMESTAMP]");
		return false;
	}
	return send_metric(out, name, value, time);
}

/*
 * Reads a line, without its newline; false at the end of the input.  What cannot be a metric is
 * skipped in the same bounded memory, and *why says what it is.
 */
static bool
read_line(FILE *in, char line[LINE_SIZE], const char **why)
{
	size_t len = 0;
	int c;

	*why = NULL;
	while ((c = getc_unlocked(in)) != EOF && c != '\n') {
		if (c == '\0')
			*why = "holds a NUL byte";
		else if (len == LINE_SIZE - 1)
			*why = "is too long";
		else
			line[len++] = (char)c;
	}
	line[len] = '\0';
	return c != EOF || len > 0 || *why;
}

/* What is wrong is said and left out; returns whether all was well. */
static bool
send_lines(FILE *out, FILE *in)
{
	struct stat st;
	/* What comes out of a pipe may come slowly: it is not held back. */
	bool prompt = fstat(fileno(in), &st) < 0 || !S_ISREG(st.st_mode);
	unsigned long number = 0;
	char line[LINE_SIZE];
	const char *why;
	bool ok = true;

	while (read_line(in, line, &why)) {
		number++;
		if (why)
			warnx("the line %s", why);
		if (why || !send_line(out, line)) {
			warnx("line %lu was left out", number);
			ok = false;
		}
		if (prompt && fflush(out))
			err(EXIT_FAILURE, "sending");
	}
	if (ferror(in))
		err(EXIT_FAILURE, "reading");
	return ok;
}

/*
 * Asks whether everything is safe and waits for the answer; returns false if frames were refused.
 */
static bool
send_sync(FILE *out, unsigned level)
{
	uint8_t bytes[FRAME_FIXED], answer[FRAME_ANSWER_SIZE];
	uint64_t token = clock_real_us(), refused;
	ssize_t n;

	(void)frame_encode_sync(bytes, token, (uint8_t)level);
	if (fwrite(bytes, 1, sizeof(bytes), out) != sizeof(bytes) || fflush(out))
		err(EXIT_FAILURE, "sending");
	n = recv(fileno(out), answer, sizeof(answer), MSG_WAITALL);
	if (n < 0 && errno == EAGAIN)
		errx(EXIT_FAILURE, "no answer in time: the metrics may not be safe yet");
	if (n < 0)
		err(EXIT_FAILURE, "waiting for the answer");
	if (n < (ssize_t)sizeof(answer))
		errx(EXIT_FAILURE, "the connection was closed before the answer came");
	if (be64_load(answer) != token || answer[FRAME_ANSWER_KIND_AT] != 0)
		errx(EXIT_FAILURE, "the answer makes no sense: is this a metric-collectord?");
	refused = be64_load(answer + FRAME_ANSWER_NUMBER_AT);
	if (refused > 0)
		warnx("%" PRIu64 " refused", refused);
	return refused == 0;
}

/* Returns a connected socket, or -1 with errno set. */
static int
connect_to(int family, const struct sockaddr *sa, socklen_t len, unsigned timeout_s)
{
	struct timeval timeout = {.tv_sec = (time_t)timeout_s};
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int saved;

	if (fd < 0)
		return -1;
	/* SO_SNDTIMEO bounds connect() too. */
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	if (connect(fd, sa, len) == 0)
		return fd;
	saved = errno == EINPROGRESS ? ETIMEDOUT : errno;
	(void)close(fd);
	errno = saved;
	return -1;
}

static int
connect_unix(const struct options *o)
{
	struct address a;
	const char *why;

	if (address_parse(o->address, &a, &why) < 0)
		errx(EXIT_USAGE, "%s: %s", o->address, why);
	return connect_to(AF_UNIX, (const struct sockaddr *)&a.sa, a.len, o->timeout_s);
}

/* getaddrinfo() would take a number modulo 65536.  Names of services are its own business. */
static bool
check_port(const char *port)
{
	uint64_t number;

	return isalpha((unsigned char)*port) || parse_u64(port, "port", 1, UINT16_MAX, &number);
}

/* Names are resolved here, which the daemon never does; each address is tried in turn. */
static int
connect_tcp(const struct options *o)
{
	const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	const char *colon = strrchr(o->address, ':');
	struct addrinfo *list;
	char *host;
	int fd = -1;
	int r;

	if (!colon || colon == o->address || !colon[1])
		errx(EXIT_USAGE, "%s: not HOST:PORT, [V6]:PORT or unix:/path", o->address);
	if (!check_port(colon + 1))
		exit(EXIT_USAGE);
	if (o->address[0] == '[' && colon[-1] == ']')
		host = strndup(o->address + 1, (size_t)(colon - o->address) - 2);
	else
		host = strndup(o->address, (size_t)(colon - o->address));
	if (!host)
		err(EXIT_FAILURE, NULL);
	r = getaddrinfo(host, colon + 1, &hints, &list);
	if (r != 0)
		errx(EXIT_FAILURE, "%s: %s", o->address, gai_strerror(r));
	for (const struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next)
		fd = connect_to(ai->ai_family, ai->ai_addr, ai->ai_addrlen, o->timeout_s);
	freeaddrinfo(list);
	free(host);
	return fd;
}

static FILE *
open_connection(const struct options *o)
{
	bool is_unix = strncmp(o->address, "unix:", 5) == 0;
	int fd = is_unix ? connect_unix(o) : connect_tcp(o);
	FILE *out;

	if (fd < 0)
		err(EXIT_FAILURE, "%s", o->address);
	out = fdopen(fd, "w");
	if (!out)
		err(EXIT_FAILURE, NULL);
	return out;
}

/* Returns the number of words that were options, or ends the program. */
static int
parse_options(int argc, char **argv, struct options *o)
{
	uint64_t v;
	int opt;

	while ((opt = getopt(argc, argv, "+s:w:Vh")) != -1) {
		switch (opt) {
		case 's':
			if (!parse_u64(optarg, "-s", 1, 2, &v))
				exit(EXIT_USAGE);
			o->sync_level = (unsigned)v;
			break;
		case 'w':
			if (!parse_u64(optarg, "-w", 1, 86400, &v))
				exit(EXIT_USAGE);
			o->timeout_s = (unsigned)v;
			break;
		case 'V':
			(void)printf("metric-send %s\n", PACKAGE_VERSION);
			exit(EXIT_SUCCESS);
		case 'h':
			usage(stdout);
			exit(EXIT_SUCCESS);
		default:
			usage(stderr);
			exit(EXIT_USAGE);
		}
	}
	return optind;
}

int
main(int argc, char **argv)
{
	struct options o = {.timeout_s = TIMEOUT_S};
	int used = parse_options(argc, argv, &o);
	int left = argc - used;
	FILE *out;
	bool ok;

	argv += used;
	if (left != 1 && left != 3 && left != 4) {
		usage(stderr);
		return EXIT_USAGE;
	}
	o.address = argv[0];
	(void)signal(SIGPIPE,
		     SIG_IGN); /* a lost connection is an error message, not a silent end */
	out = open_connection(&o);
	if (left == 1)
		ok = send_lines(out, stdin);
	else
		ok = send_metric(out, argv[1], argv[2], argv[3]);
	if (o.sync_level && !send_sync(out, o.sync_level))
		ok = false;
	if (fclose(out))
		err(EXIT_FAILURE, "sending");
	return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
