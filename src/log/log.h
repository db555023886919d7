/*
 * log.h - one JSON object per event, on stderr or natively to the journal.
 *
 *	log_event(LOG_INFO, "batch_stored", LOG_U64("batch", b->number),
 *		  LOG_U64("rows", rows), LOG_F64("seconds", s));
 *
 * gives {"event":"batch_stored","timestamp":"2026-01-31T09:30:00.000000Z",
 * "level":"info","batch":7,...} as one line; on a journal stream the same text
 * is MESSAGE=, and each field is a journal field in capitals too (EVENT=,
 * BATCH=), with PRIORITY.  Levels are syslog's: LOG_ERR an operator must act,
 * LOG_WARNING degraded or refused, LOG_NOTICE, LOG_INFO the life cycle,
 * LOG_DEBUG the rest.
 *
 * Strings may hold any bytes: JSON gets escapes, and U+FFFD for what is not
 * UTF-8.  Passwords never come here.
 *
 * The sink is the one piece of process-wide state in the program: every thread
 * and every module may log, a line is written by one call, and lines are never
 * mixed.  All functions are thread-safe.
 *
 * After log_start() nobody who logs waits for a reader, a disk or journald: a line
 * is copied into a buffer of LOG_RING_BYTES, and a thread of the log's own writes
 * it.  A line that finds no room there is counted and left out; log_lost {lines}
 * (warning) says so where the lines are missing.  log_stalled {sink, seconds}
 * (warning) says that a sink took a line only after LOG_STALL_MS or more.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <syslog.h>

#define LOG_RING_BYTES ((size_t)4 << 20) /* of lines that wait for their sink */
#define LOG_STALL_MS 1000                /* a sink that takes longer for a line is told of */
#define LOG_CLOSE_STILL_MS 1000 /* log_close() waits so long for a sink that takes nothing */
#define LOG_CLOSE_MS 5000       /* ... and so long for one that is slow */

enum log_target {
	LOG_TARGET_AUTO,    /* the journal when $JOURNAL_STREAM names our stderr, else stderr */
	LOG_TARGET_JOURNAL, /* the journal, whatever stderr is */
	LOG_TARGET_STDERR,
};

enum log_type {
	LOG_T_END, /* ends a list of fields */
	LOG_T_STR, /* bytes and a length */
	LOG_T_U64,
	LOG_T_I64,
	LOG_T_F64, /* NaN and infinities are written as strings: JSON has none */
	LOG_T_BOOL,
	LOG_T_HEX,  /* bytes, written as lower-case hex digits */
	LOG_T_TIME, /* u64 microseconds since 1970, written as ISO-8601 UTC */
	LOG_T_SKIP, /* left out: an optional field that is not there */
};

struct log_field {
	const char *key; /* a static string: [a-z][a-z0-9_]* */
	enum log_type type;
	union {
		struct {
			const void *data; /* borrowed for the call */
			size_t len;
		} bytes;
		uint64_t u64;
		int64_t i64;
		double f64;
		bool boolean;
	};
};

/* A NULL string leaves the field out. */
struct log_field log_field_str(const char *key, const char *s);

#define LOG_STR(k, s) log_field_str((k), (s))
#define LOG_BYTES(k, p, n) ((struct log_field){.key = (k), .type = LOG_T_STR, .bytes = {(p), (n)}})
#define LOG_HEX(k, p, n) ((struct log_field){.key = (k), .type = LOG_T_HEX, .bytes = {(p), (n)}})
#define LOG_U64(k, v) ((struct log_field){.key = (k), .type = LOG_T_U64, .u64 = (v)})
#define LOG_I64(k, v) ((struct log_field){.key = (k), .type = LOG_T_I64, .i64 = (v)})
#define LOG_F64(k, v) ((struct log_field){.key = (k), .type = LOG_T_F64, .f64 = (v)})
#define LOG_BOOL(k, v) ((struct log_field){.key = (k), .type = LOG_T_BOOL, .boolean = (v)})
#define LOG_TIME(k, v) ((struct log_field){.key = (k), .type = LOG_T_TIME, .u64 = (v)})
#define LOG_NONE ((struct log_field){.key = "", .type = LOG_T_SKIP})
#define LOG_END ((struct log_field){.key = NULL, .type = LOG_T_END})

/*
 * Until log_open() is called, events of LOG_INFO and worse go to stderr.  Called
 * again, it changes target and level.  Returns 0, or a negative errno when the
 * journal was asked for and there is none: events then go to stderr.  A closed
 * stderr is replaced by /dev/null, so that no socket takes its number.  Never waits.
 */
int log_open(enum log_target target, int level);
bool log_is_journal(int fd); /* is it the stream that systemd connected to the journal? */
void log_set_level(int level);
bool log_enabled(int level);

/*
 * Starts the thread that writes; until then, and after log_close(), who logs writes.  A
 * process that has it does not fork.  Returns 0 or a negative errno.
 */
int log_start(void);

/*
 * Writes what rate limits still hold back; then as before log_open().  A sink that takes
 * nothing for LOG_CLOSE_STILL_MS, or is not done after LOG_CLOSE_MS, is given up:
 * its thread is left behind, and whatever is logged from then on is left out.
 */
void log_close(void);

/*
 * Writes one event, unless its level is below the threshold.  fields ends with
 * LOG_END.  The event's name is a static string.
 */
void log_fields(int level, const char *event, const struct log_field *fields);
#define log_event(level, event, ...) \
	log_fields((level), (event), (const struct log_field[]){LOG_NONE, ##__VA_ARGS__, LOG_END})

/*
 * The same, at most once a second for each kind (a static string, such as
 * "frame_refused/empty_name"): what a peer or an ailing database can repeat.
 * The next event of the kind that is written carries "suppressed", the number
 * that were not.  log_tick(), called once a second, writes the last suppressed
 * event of a kind that has fallen silent, so that no count is lost.
 */
void log_limited(int level, const char *kind, const char *event, const struct log_field *fields);
#define log_event_limited(level, kind, event, ...) \
	log_limited((level), (kind), (event),      \
		    (const struct log_field[]){LOG_NONE, ##__VA_ARGS__, LOG_END})
void log_tick(void);

/*
 * The same, once for each kind in the life of the process: what every connection finds
 * again, and none of them remembers.  Up to 16 kinds.
 */
void log_once(int level, const char *kind, const char *event, const struct log_field *fields);
#define log_event_once(level, kind, event, ...) \
	log_once((level), (kind), (event),      \
		 (const struct log_field[]){LOG_NONE, ##__VA_ARGS__, LOG_END})

/* An event named "debug" with a "message"; for developers. */
void log_debug(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/*
 * The event's JSON object as log_fields() writes it, without a newline, into
 * buf (always terminated); returns its full length, as snprintf does.  For the tests.
 */
size_t log_format(char *buf, size_t size, uint64_t now_us, int level, const char *event,
		  const struct log_field *fields);

/*
 * For the tests: the monotonic clock, in ms, that rate limits go by.  NULL is clock_ms() again.
 */
typedef uint64_t log_clock_fn(void);
void log_set_clock(log_clock_fn *clock);
