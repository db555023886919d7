/*
 * stats.h - the counters, in one struct.
 *
 * Only the loop thread writes or reads it: writer threads report through the
 * queue's completions.  Counters only grow; gauges (buffered, clients,
 * batches_waiting, ...) go both ways.
 *
 * Conservation: received = stored + buffered + rejected + dropped, at every
 * moment.  "received" counts the metrics this process became responsible for:
 * accepted from clients, recovered from the spool at start, or put back to be
 * stored again, as a failed-over server lacks them (these two are also counted in
 * "recovered").  Frames that were refused are not metrics and count apart.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* X(name, what it counts) in the order in which the statistics event shows them. */
#define STATS_COUNTERS(X)                                                        \
	X(received, "metrics accepted or recovered")                             \
	X(stored, "metrics committed in the database")                           \
	X(buffered, "metrics in memory or in the spool")                         \
	X(rejected, "metrics the database refused, kept in its rejected table")  \
	X(dropped, "metrics given up by the overflow policy or lost to damage")  \
	X(recovered, "metrics found in the spool at start, or stored again")     \
	X(refused, "frames refused")                                             \
	X(refused_empty_name, "of these: empty name")                            \
	X(refused_invalid_utf8, "name not UTF-8")                                \
	X(refused_control_byte, "control byte in the name")                      \
	X(refused_timestamp_range, "timestamp past the year 9999")               \
	X(refused_timestamp_window, "timestamp outside the configured window")   \
	X(truncated_frames, "connections that ended within a frame")             \
	X(truncated_bytes, "bytes of such frames")                               \
	X(bytes_received, "bytes read from clients")                             \
	X(clients, "connections open now")                                       \
	X(clients_total, "connections accepted")                                 \
	X(clients_refused, "connections closed at once: full, or not allowed")   \
	X(clients_timed_out, "connections closed after client_timeout")          \
	X(clients_protocol_error, "connections closed after max_invalid_frames") \
	X(syncs_level1, "level 1 sync frames answered")                          \
	X(syncs_level2, "level 2 sync frames answered")                          \
	X(batches_stored, "batches committed")                                   \
	X(batches_waiting, "batches sealed and not stored yet")                  \
	X(batches_repeated, "batches found already committed when sent again")   \
	X(memory_bytes, "bytes of metrics in memory")                            \
	X(spool_bytes, "bytes of spool files")                                   \
	X(store_retries, "batches tried again")

struct stats {
#define STATS_FIELD(name, text) uint64_t name;
	STATS_COUNTERS(STATS_FIELD)
#undef STATS_FIELD
};

/* Does the conservation identity hold? */
bool stats_conserved(const struct stats *s);

/* How long the loop was busy at a time, since the last statistics event. */
struct stats_turns {
	double max_ms;
	double p99_ms;
};

/* Logs a "statistics" event with every counter, turn_ms_max and turn_ms_p99. */
void stats_log(const struct stats *s, const struct stats_turns *turns, int level);
