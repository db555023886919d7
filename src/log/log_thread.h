/*
 * log_thread.h - the thread that writes the log's lines; the log's own.
 *
 * The only one that waits for a sink.  What does not fit into its ring is counted, and so is
 * everything after it until half of the ring is free again, which takes few gaps
 * where lines come faster than the sink takes them; log_lost then stands where
 * the lines are missing.
 */
#pragma once

#include <stdbool.h>

#include "log/log_event.h"

/* Returns 0, also when it runs already, or a negative errno. */
int log_thread_start(void);

/* Takes a copy of the line, or counts it as lost.  False: there is no thread, write it yourself. */
bool log_thread_put(const struct log_line *l);

/* While lines are being lost, counts another one, and returns true: it need not be made. */
bool log_thread_skip(void);

/*
 * Ends the thread once everything is written, or leaves it behind where its sink hangs
 * (LOG_CLOSE_STILL_MS, LOG_CLOSE_MS).  One that was left behind loses whatever is put.
 */
void log_thread_stop(void);
