/*
 * client.h - one connection of a sender.  clients.c, which has the set of them, includes it, and
 * nobody else: clients.h is what others see.
 *
 *	        ┌────────── queue full ─────────┐
 *	        v                               │
 *	     PAUSED ──── queue drained ────> OPEN ── end of stream, stop ──> ENDING ──> CLOSED
 *	                                        └── error, protocol error ─────────────^
 *
 * ENDING: nothing is read any more.  What was read is dealt with, and the client closes once its
 * last question has its answer.
 *
 * Whoever is not read is watched all the same for its end: a peer that is gone (reset, or silent to
 * the keepalive) keeps no place.  What it has sent before an orderly end stays to be read.
 */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>

#include "net/answers.h"
#include "net/clients.h"
#include "net/loop.h"
#include "net/rest.h"

#define CLIENT_READ_SIZE ((size_t)256 * 1024)

/* A peer that is gone without a word is given up after KEEP_IDLE_S + KEEP_PROBES * KEEP_PROBE_S. */
#define CLIENT_KEEP_IDLE_S 60
#define CLIENT_KEEP_PROBE_S 10
#define CLIENT_KEEP_PROBES 3

enum client_state { CLIENT_OPEN, CLIENT_PAUSED, CLIENT_ENDING, CLIENT_CLOSED };

struct client {
	struct clients *set;        /* borrowed */
	struct client *prev, *next; /* by last activity, oldest first; next links the dead too */
	struct loop_io io;
	int fd;
	enum client_state state;
	uint64_t active_ms;
	uint64_t frames;
	uint64_t refused;
	uint64_t refused_since_question;
	unsigned refused_in_row;
	unsigned drain_reads; /* how often it was read at stop */
	unsigned told; /* LOOP_END, LOOP_HANGUP: heard in this pause, and listened for no more */
	bool parsing;  /* its bytes are in the shared buffer, and its rest is among them */

	struct answers answers;
	struct rest rest;
	struct client *again_next, **again_link; /* the set's list; link is NULL when not on it */

	socklen_t peer_len;
	struct sockaddr_in6 peer; /* large enough for IPv4; unix peers have no name */
};

struct clients {
	struct loop *loop;   /* borrowed */
	struct queue *queue; /* borrowed */
	struct stats *stats; /* borrowed */
	struct conf *conf;   /* a reference */
	unsigned most;       /* see clients_set_most() */
	struct client *oldest, *newest;
	struct client *dead; /* closed in this turn */

	struct client *again; /* whole frames wait in their rest, and they may ask again */
	size_t n_again;
	struct loop_event go_on; /* raised when somebody is put on that list */

	struct answers_common answers;
	size_t rest_heap; /* see rest_set() */
	uint8_t *buffer;  /* REST_SMALL + CLIENT_READ_SIZE */
};

/* ---- client.c: reading, parsing ---- */

/* Takes a connected socket; on an error it is still the caller's. */
int client_new(struct clients *cs, int fd, const struct sockaddr *sa, socklen_t len);

/* Takes it from the set's list "again", and deals with the whole frames of its rest. */
void client_go_on(struct client *c);

/* Reads what its socket has, for the last time, unless it is paused. */
void client_drain(struct client *c);

/* ---- client_state.c: lists, states, answers ---- */

void client_enlist(struct client *c);       /* a new one */
void client_touch(struct client *c);        /* has shown life, or has its answer only now */
void client_to_end(struct client *c);       /* puts it at the newest end of the set's list */
void client_again_unlink(struct client *c); /* fine when it is not on that list */

const char *client_name(const struct client *c, char buf[ADDRESS_TEXT_MAX]);

/* Are there fewer than CLIENT_SYNCS_MAX questions open?  If not, it is neither parsed nor read. */
bool client_may_ask(const struct client *c);

/* Does it wait for us, so that its silence means nothing? */
bool client_waits(const struct client *c);

void client_send(struct client *c); /* the answers that are due */

/* Of answers_common: the queue has something to say. */
void client_told(void *arg, bool ok);

/*
 * After whatever has happened to c: decides what it waits for next, and closes it when that is
 * nothing.
 */
void client_settle(struct client *c);

void client_resume(struct client *c); /* if it is paused; reads nothing */

/* These bytes of it come to nothing: if they end with half a frame, that is counted. */
void client_truncated(struct client *c, const uint8_t *p, size_t len);

/* Closes the socket at once; the memory goes at the end of the turn. */
void client_close(struct client *c, const char *reason);
