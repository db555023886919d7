/*
 * log_event.h - one event as text; log.c's own, nobody else includes it.
 *
 * The text of an event is bounded, whatever its fields hold: strings are cut
 * between two characters, and what then still finds no room is left out.  The
 * result is always one whole JSON object.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "log/log.h"

#define LOG_EVENT_MAX (64 * 1024) /* of the JSON text */
#define LOG_VALUE_MAX (16 * 1024) /* of one value in it */

struct log_event {
	int level;
	const char *name; /* static */
	uint64_t time_us;
	const struct log_field *fields; /* borrowed; ends with LOG_END */
	uint64_t suppressed;            /* 0 is not shown */
};

/* Writes the JSON object into buf, as snprintf() would; returns its full length. */
size_t log_event_json(char *buf, size_t size, const struct log_event *e);

/*
 * Writes "KEY=value" for each thing that the journal shall index and does not
 * know: EVENT=, PRIORITY=, SYSLOG_IDENTIFIER= and the event's own fields.
 * The time is left to journald and to the JSON text, and so is a field that
 * would be taken for one of journald's.  Returns how many of iov are filled;
 * they point into buf.
 */
size_t log_event_journal(char *buf, size_t size, struct iovec *iov, size_t max,
			 const struct log_event *e);

/*
 * An event as the sinks take it.  parts[0] is "MESSAGE=" and the JSON object, behind
 * which a newline stands that is not counted; what follows are the journal's fields, so
 * a line for stderr has one part.  Its bytes are somebody else's.
 */
#define LOG_MESSAGE "MESSAGE="
#define LOG_LINE_PARTS 64
#define LOG_LINE_MAX (sizeof(LOG_MESSAGE) + LOG_EVENT_MAX + LOG_EVENT_MAX)

struct log_line {
	struct iovec parts[LOG_LINE_PARTS];
	size_t n;
};

/* Makes a line in buf; LOG_LINE_MAX bytes are enough for every event. */
void log_line_make(struct log_line *ret, char *buf, size_t size, const struct log_event *e,
		   bool journal);

/* A copy of an event that outlives its fields; long ones are cut. */
#define LOG_COPY_FIELDS 16
#define LOG_COPY_BYTES 2048

struct log_copy {
	struct log_event event;
	struct log_field fields[LOG_COPY_FIELDS + 1];
	char bytes[LOG_COPY_BYTES];
};

void log_event_copy(struct log_copy *ret, const struct log_event *e);
