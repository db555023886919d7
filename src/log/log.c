#include "log/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "log/log_event.h"
#include "log/log_sink.h"
#include "log/log_thread.h"

#define LOG_KINDS 64       /* kinds that are limited at the same time */
#define LOG_ONCE_KINDS 16  /* kinds that are written once */
#define LOG_LIMIT_MS 1000  /* one event of a kind in this time */
#define LOG_DEBUG_MAX 1024 /* bytes of a debug message */

struct kind {
	const char *name;  /* static; NULL = never used */
	uint64_t until_ms; /* others of this kind are withheld until then */
	uint64_t withheld; /* since the last one that was written */
	struct log_copy last;
};

/*
 * The program's one piece of mutable process-wide state: there is one stderr,
 * and an error deep inside a module must reach it without a handle being passed
 * through every function.  The lock guards everything but the level; once the
 * thread runs, nobody holds it while a sink is written to.
 */
static struct sink {
	pthread_mutex_t lock;
	atomic_int level;
	bool journal;
	log_clock_fn *clock;
	struct kind kinds[LOG_KINDS];
	const char *said[LOG_ONCE_KINDS]; /* static; NULL = free */
	char line[LOG_LINE_MAX];
} sink = {.lock = PTHREAD_MUTEX_INITIALIZER, .level = LOG_INFO, .clock = clock_ms};

/* ---- events ---- */

static void
sink_write(const struct log_event *e)
{
	struct log_line line;

	if (log_thread_skip())
		return;
	log_line_make(&line, sink.line, sizeof(sink.line), e, sink.journal);
	if (!log_thread_put(&line))
		log_sink_write_quietly(&line);
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

int
log_open(enum log_target target, int level)
{
	bool journal = false;
	int r = 0;

	log_sink_hold_stderr();
	switch (target) {
	case LOG_TARGET_AUTO:
		journal = log_is_journal(STDERR_FILENO);
		break;
	case LOG_TARGET_JOURNAL:
		r = log_sink_find_journal();
		journal = r == 0;
		break;
	case LOG_TARGET_STDERR:
		break;
	}
	(void)pthread_mutex_lock(&sink.lock);
	sink.journal = journal;
	(void)pthread_mutex_unlock(&sink.lock);
	log_set_level(level);
	return r;
}

int
log_start(void)
{
	return log_thread_start();
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
	log_thread_stop();
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
