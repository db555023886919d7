/*
 * server.h - the daemon: owns every part and wires them together.
 *
 *	listeners -> clients -> queue (+ spool) -> writers -> store
 *
 * Start-up: log, limits, signals, spool, queue, writers, listeners, READY=1.  The database may
 * be down.  Stop: listeners, clients' sockets read empty, last batch sealed, writers given
 * SERVER_STOP_MS to finish, then the spool keeps the rest.
 */
#pragma once

#include "conf/conf.h"

/* How long a stop waits for the database, ms. */
#define SERVER_STOP_MS 10000

/*
 * Runs until a signal ends it.  source is where a reload reads the settings from again; conf is
 * the first result of it (the caller keeps its reference).  Returns the exit status: 0, or 1
 * when it could not start, failed, or lost metrics at stop.
 */
int server_run(const struct conf_source *source, struct conf *conf);
