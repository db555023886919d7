/*
 * log_sink.h - stderr and the journal; the log's own, nobody else includes it.
 *
 * Plain calls that wait for as long as the sink lets them.  One thread at a time.
 */
#pragma once

#include "log/log_event.h"

/*
 * Writes a line where it belongs: the journal, or stderr with one write(2) if that takes it
 * whole.  A line that the journal does not take goes to stderr; one that stderr does not
 * take, because its reader has gone or its disk is full, is lost.  The caller has
 * SIGPIPE blocked or ignored.
 */
void log_sink_write(const struct log_line *l);

/* The same from any thread: no SIGPIPE comes of it. */
void log_sink_write_quietly(const struct log_line *l);

/* "journal" or "stderr": where a line goes. */
const char *log_sink_name(const struct log_line *l);

/* Is there a journal?  Returns 0 or a negative errno; never waits. */
int log_sink_find_journal(void);

/* Makes a closed stderr /dev/null: its number would be the next socket's, and events go there. */
void log_sink_hold_stderr(void);
