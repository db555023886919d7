/*
 * clients.h - the connections that senders hold, all of them.
 *
 * Each is read into one shared buffer, and whole stretches of valid frames are appended to the
 * queue in one copy.  A connection itself has only the bytes of an unfinished frame (271 at
 * most), so that an idle one costs less than 1 KiB.
 *
 * Answers are sent in the order of the questions.  A client with CLIENT_SYNCS_MAX questions
 * open is not read until it takes answers.  So questions cost 40 KiB a client at the most, and what
 * was read behind them REST_HEAP_MAX for all clients together.
 *
 * Everything here runs in the loop thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "buffer/queue/queue.h"
#include "net/loop.h"
#include "conf/conf.h"
#include "log/stats.h"

#define CLIENT_SYNCS_MAX 256

struct clients;

/*
 * All arguments are borrowed, except conf, of which it takes a reference.  Adds an end-of-turn hook
 * to the loop, which frees those that were closed.
 */
int clients_new(struct loop *loop, struct queue *q, struct stats *stats, struct conf *conf,
		struct clients **ret);
void clients_free(struct clients *cs); /* closes all; NULL is fine */

/* Applies changed settings to the connections that are open, too. */
void clients_set_conf(struct clients *cs, struct conf *conf);

/* So many at the most, whatever max_clients says: descriptors may be fewer. */
void clients_set_most(struct clients *cs, unsigned most);

/* Are all places taken?  Who is accepted now is closed. */
bool clients_full(const struct clients *cs);

/* Takes a connected socket; closes it when the peer is not allowed or max_clients is reached. */
void clients_accept(struct clients *cs, int fd, const struct sockaddr *sa, socklen_t len);

/* The queue accepts metrics again.  Nothing is read by this call, which the queue may make. */
void clients_resume(struct clients *cs);

/* Once a second: closes those that were silent for client_timeout. */
void clients_tick(struct clients *cs);

/*
 * Stop: reads what is in the sockets by now, then no more; answers are still given.  Call it again
 * for those that have waited for room in the queue.
 */
void clients_drain(struct clients *cs);

/*
 * How many questions wait for their answer; not 0 either while bytes were read that may hold more
 * of them.
 */
size_t clients_waiting(const struct clients *cs);
