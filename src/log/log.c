#include "log/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
/* Where log.c calls the journal says nothing about where an event comes from. */
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

#include "base/clock.h"
#include "log/log_event.h"
#include "base/text.h"

#define LOG_KINDS 64          /* kinds that are limited at the same time */
#define LOG_ONCE_KINDS 16     /* kinds that are written once */
#define LOG_LIMIT_MS 1000     /* one event of a kind in this time */
#define LOG_PATIENCE_MS 100   /* how long a stderr that takes nothing may hold us up */
#define LOG_RETRIES 8         /* of a descriptor that promises room and has none */
#define LOG_JOURNAL_FIELDS 64 /* in one journal entry */
#define LOG_DEBUG_MAX 1024    /* bytes of a debug message */
#define LOG_PREFIX "MESSAGE=" /* stands before the JSON text, ready for the journal */

struct kind {
	const char *name;  /* static; NULL = never used */
	uint64_t until_ms; /* others of this kind are withheld until then */
	uint64_t withheld; /* since the last one that was written */
	struct log_copy last;
};

/*
 * The program's one piece of mutable process-wide state: there is one stderr,
 * and an error deep inside a module must reach it without a handle being passed
 * through every function.  The lock guards everything but the level.
 */
static struct sink {
	pthread_mutex_t lock;
	atomic_int level;
	bool journal;
	bool blocked; /* stderr took nothing for LOG_PATIENCE_MS: do not wait again until it does */
	bool torn;    /* the last line was left unfinished */
	log_clock_fn *clock;
	struct kind kinds[LOG_KINDS];
	const char *said[LOG_ONCE_KINDS];                  /* static; NULL = free */
	char line[sizeof(LOG_PREFIX) + LOG_EVENT_MAX + 1]; /* prefix, JSON text, newline */
	char fields[LOG_EVENT_MAX];
} sink = {.lock = PTHREAD_MUTEX_INITIALIZER, .level = LOG_INFO, .clock = clock_ms};

/* ---- stderr ---- */

/* Waits until stderr takes bytes; false when it does not before the deadline. */
static bool
stderr_wait(uint64_t deadline_ms)
{
	struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};

	for (;;) {
		uint64_t now = sink.clock();
		int r = poll(&p, 1, deadline_ms > now ? (int)(deadline_ms - now) : 0);

		if (r > 0)
			return true; /* also when broken: the write will say so */
		if ((r == 0 && sink.clock() >= deadline_ms) || (r < 0 && errno != EINTR))
			return false;
	}
}

/* write(2), but a reader that has gone is an error and never a signal. */
static ssize_t
write_quietly(const char *data, size_t len)
{
	const struct timespec now = {0};
	sigset_t pipe_signal, before;
	ssize_t n;
	int saved;

	(void)sigemptyset(&pipe_signal);
	(void)sigaddset(&pipe_signal, SIGPIPE);
	(void)pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
	n = write(STDERR_FILENO, data, len);
	saved = errno;
	if (n < 0 && saved == EPIPE)
		while (sigtimedwait(&pipe_signal, NULL, &now) < 0 && errno == EINTR)
			;
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	errno = saved;
	return n;
}

/*
 * One write, of a kind that does not block once poll() has seen room: a pipe
 * then has PIPE_BUF bytes free, and a socket can be told not to wait.
 */
static ssize_t
stderr_write(mode_t type, const char *data, size_t len)
{
	if (type == S_IFSOCK)
		return send(STDERR_FILENO, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (type == S_IFIFO)
		return write_quietly(data, len < PIPE_BUF ? len : PIPE_BUF);
	return write(STDERR_FILENO, data, len);
}

/* Writes as much as stderr takes in time; returns how much that was. */
static size_t
stderr_put(const char *data, size_t len)
{
	uint64_t deadline = sink.clock() + (sink.blocked ? 0 : LOG_PATIENCE_MS);
	struct stat st = {0};
	size_t done = 0;
	int retries = 0;

	(void)fstat(STDERR_FILENO, &st);
	sink.blocked = false;
	while (done < len) {
		ssize_t n;

		if (!stderr_wait(deadline)) {
			sink.blocked = true;
			break;
		}
		n = stderr_write(st.st_mode & S_IFMT, data + done, len - done);
		if (n > 0)
			done += (size_t)n;
		else if (n == 0 || (errno != EINTR && errno != EAGAIN) || ++retries > LOG_RETRIES)
			break;
	}
	return done;
}

/*
 * Writes a line; text[-1] is ours, and there is room for the newline.  A line
 * that was left unfinished is ended first, so that it spoils no other.
 */
static void
stderr_line(char *text, size_t len)
{
	char *start = text;
	size_t done;

	text[len] = '\n';
	if (sink.torn)
		*--start = '\n';
	len += (size_t)(text - start) + 1;
	done = stderr_put(start, len);
	if (done > 0)
		sink.torn = done < len && !(sink.torn && done == 1);
}

/* ---- the journal ---- */

/* See systemd.exec(5) for $JOURNAL_STREAM. */
bool
log_is_journal(int fd)
{
	const char *s = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;
	char *end;

	if (!s || fstat(fd, &st) < 0)
		return false;
	errno = 0;
	device = strtoull(s, &end, 10);
	if (*end != ':')
		return false;
	inode = strtoull(end + 1, &end, 10);
	return errno == 0 && *end == '\0' && device == st.st_dev && inode == st.st_ino;
}

/* sd_journal_send() says nothing when there is no journal, so ask in another way. */
static int
journal_probe(void)
{
	int fd = sd_journal_stream_fd("metric-collectord", LOG_INFO, 0);

	if (fd < 0)
		return fd;
	(void)close(fd);
	return 0;
}

static int
journal_send(char *message, size_t len, const struct log_event *e)
{
	struct iovec iov[LOG_JOURNAL_FIELDS];
	size_t n;

	iov[0] = (struct iovec){.iov_base = message, .iov_len = len};
	n = log_event_journal(sink.fields, sizeof(sink.fields), iov + 1, LOG_JOURNAL_FIELDS - 1, e);
	return sd_journal_sendv(iov, (int)(n + 1));
}

/* ---- events ---- */

static void
sink_write(const struct log_event *e)
{
	size_t prefix = strlen(LOG_PREFIX);
	char *text = sink.line + prefix;
	size_t len = log_event_json(text, sizeof(sink.line) - prefix, e);

	memcpy(sink.line, LOG_PREFIX, prefix);
	if (sink.journal && journal_send(sink.line, prefix + len, e) >= 0)
		return;
	stderr_line(text, len);
}

/* The slot of a kind, a free or idle one for a new kind, or NULL: all are busy. */
static struct kind *
kind_find(const char *name, uint64_t now_ms)
{
	struct kind *idle = NULL;

	for (size_t i = 0; i < LOG_KINDS; i++) {
		struct kind *k = &sink.kinds[i];

		if (k->name && strcmp(k->name, name) == 0)
			return k;
		if (!idle && k->withheld == 0 && now_ms >= k->until_ms)
			idle = k;
	}
	if (idle) {
		idle->name = name;
		idle->until_ms = 0;
	}
	return idle;
}

/* Writes the last event that was withheld; those before it are its "suppressed". */
static void
kind_release(struct kind *k, uint64_t now_ms)
{
	k->last.event.suppressed = k->withheld - 1;
	k->withheld = 0;
	k->until_ms = now_ms + LOG_LIMIT_MS;
	if (log_enabled(k->last.event.level))
		sink_write(&k->last.event);
}

/* Releases every kind whose second is over, or all of them. */
static void
kinds_release(bool all)
{
	uint64_t now = sink.clock();

	for (size_t i = 0; i < LOG_KINDS; i++) {
		struct kind *k = &sink.kinds[i];

		if (k->withheld > 0 && (all || now >= k->until_ms))
			kind_release(k, now);
	}
}

static void
sink_limited(const char *kind, struct log_event *e)
{
	uint64_t now = sink.clock();
	struct kind *k = kind_find(kind, now);

	if (k && now < k->until_ms) {
		k->withheld++;
		log_event_copy(&k->last, e);
		return;
	}
	if (k) { /* else unlimited: a line too many is better than one lost */
		e->suppressed = k->withheld;
		k->withheld = 0;
		k->until_ms = now + LOG_LIMIT_MS;
	}
	sink_write(e);
}

void
log_limited(int level, const char *kind, const char *event, const struct log_field *fields)
{
	struct log_event e = {.level = level, .name = event, .fields = fields};
	int saved = errno;

	if (!log_enabled(level))
		return;
	(void)pthread_mutex_lock(&sink.lock);
	e.time_us = clock_real_us();
	if (kind)
		sink_limited(kind, &e);
	else
		sink_write(&e);
	(void)pthread_mutex_unlock(&sink.lock);
	errno = saved; /* whoever logs an error often goes on to return it */
}

/* False when it was said before; with no slot left, a line too many is better than one lost. */
static bool
say_once(const char *kind)
{
	for (size_t i = 0; i < LOG_ONCE_KINDS; i++) {
		if (!sink.said[i]) {
			sink.said[i] = kind;
			return true;
		}
		if (strcmp(sink.said[i], kind) == 0)
			return false;
	}
	return true;
}

void
log_once(int level, const char *kind, const char *event, const struct log_field *fields)
{
	bool first;

	if (!log_enabled(level))
		return;
	(void)pthread_mutex_lock(&sink.lock);
	first = say_once(kind);
	(void)pthread_mutex_unlock(&sink.lock);
	if (first)
		log_fields(level, event, fields);
}

void
log_fields(int level, const char *event, const struct log_field *fields)
{
	log_limited(level, NULL, event, fields);
}

struct log_field
log_field_str(const char *key, const char *s)
{
	return s ? LOG_BYTES(key, s, strlen(s)) : LOG_NONE;
}

void
log_tick(void)
{
	int saved = errno;

	(void)pthread_mutex_lock(&sink.lock);
	kinds_release(false);
	(void)pthread_mutex_unlock(&sink.lock);
	errno = saved;
}

void
log_debug(const char *fmt, ...)
{
	char message[LOG_DEBUG_MAX];
	va_list ap;

	if (!log_enabled(LOG_DEBUG))
		return;
	va_start(ap, fmt);
	(void)vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	log_event(LOG_DEBUG, "debug", LOG_STR("message", message));
}

size_t
log_format(char *buf, size_t size, uint64_t now_us, int level, const char *event,
	   const struct log_field *fields)
{
	const struct log_event e = {
	    .level = level, .name = event, .time_us = now_us, .fields = fields};

	return log_event_json(buf, size, &e);
}

/* ---- opening and closing ---- */

/* A closed stderr would be the number of the next socket, and events go there. */
static void
stderr_hold(void)
{
	int fd;

	if (fcntl(STDERR_FILENO, F_GETFD) >= 0)
		return;
	fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || fd == STDERR_FILENO)
		return;
	(void)dup2(fd, STDERR_FILENO);
	(void)close(fd);
}

int
log_open(enum log_target target, int level)
{
	bool journal = false;
	int r = 0;

	stderr_hold();
	switch (target) {
	case LOG_TARGET_AUTO:
		journal = log_is_journal(STDERR_FILENO);
		break;
	case LOG_TARGET_JOURNAL:
		r = journal_probe();
		journal = r == 0;
		break;
	case LOG_TARGET_STDERR:
		break;
	}
	(void)pthread_mutex_lock(&sink.lock);
	sink.journal = journal;
	sink.blocked = false;
	(void)pthread_mutex_unlock(&sink.lock);
	log_set_level(level);
	return r;
}

void
log_close(void)
{
	(void)pthread_mutex_lock(&sink.lock);
	kinds_release(true);
	memset(sink.kinds, 0, sizeof(sink.kinds));
	memset(sink.said, 0, sizeof(sink.said));
	sink.journal = false;
	(void)pthread_mutex_unlock(&sink.lock);
	log_set_level(LOG_INFO);
}

void
log_set_level(int level)
{
	atomic_store_explicit(&sink.level, level, memory_order_relaxed);
}

bool
log_enabled(int level)
{
	return level <= atomic_load_explicit(&sink.level, memory_order_relaxed);
}

void
log_set_clock(log_clock_fn *clock)
{
	(void)pthread_mutex_lock(&sink.lock);
	sink.clock = clock ? clock : clock_ms;
	(void)pthread_mutex_unlock(&sink.lock);
}
