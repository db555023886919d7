/*
 * client_internal.h - what client.c (states, sockets, the set), client_frames.c (bytes to
 * frames) and client_sync.c (sync frames and their answers) share.  Nobody else includes it.
 */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>

#include "net/client.h"
#include "wire/frame.h"

#define READ_SIZE ((size_t)256 * 1024)
#define TAIL_MAX ((size_t)FRAME_MAX - 1)
#define STASHED_MAX ((size_t)64 << 20) /* of all clients that ask more than they may */

enum client_state { CLIENT_OPEN, CLIENT_PAUSED, CLIENT_ENDING, CLIENT_CLOSED };

/* A sync frame on its way to its answer. */
struct sync {
	struct sync *next;
	struct client *client; /* borrowed */
	struct queue_wait wait;
	uint64_t token;
	uint64_t refused;
	uint8_t level;
	bool done;
};

struct client {
	struct clients *set;        /* borrowed */
	struct client *prev, *next; /* by last activity, oldest first; next links the dead too */
	struct loop_io io;
	int fd;
	enum client_state state;
	uint64_t active_ms;
	uint64_t frames;
	uint64_t refused;
	uint64_t refused_since_sync;
	unsigned refused_in_row;
	bool mute;            /* takes no answers any more; what it has sent is read all the same */
	unsigned drain_reads; /* how often it was read at stop */
	bool lost;            /* metrics of it were dropped since its last sync frame */
	uint64_t
	    first_batch[2]; /* holds metrics that no answer of level 1, 2 covers yet; 0 = none */

	struct sync *syncs, **syncs_tail; /* in order of arrival */
	unsigned n_syncs;
	unsigned sent; /* bytes of the first answer that the socket has taken */

	uint8_t *stash; /* what could not be parsed yet: longer than tail, or behind a question */
	size_t kept;    /* bytes in stash, or else in tail */
	uint8_t tail[TAIL_MAX];
	socklen_t peer_len;
	struct sockaddr_in6 peer; /* large enough for IPv4; unix peers have no name */
};

struct clients {
	struct loop *loop;   /* borrowed */
	struct queue *queue; /* borrowed */
	struct stats *stats; /* borrowed */
	struct conf *conf;   /* a reference */
	struct client *oldest, *newest;
	struct client *dead; /* closed in this turn */
	size_t waiting;
	size_t stashed;  /* bytes, of all clients */
	uint8_t *buffer; /* TAIL_MAX + READ_SIZE */
};

/* client.c */
const char *client_name(const struct client *c, char buf[ADDRESS_TEXT_MAX]);
void client_watch(struct client *c); /* for what its state wants now */
void client_close(struct client *c, const char *reason);
void client_touch(struct client *c); /* it has shown life, or it is its turn now */

/* client_frames.c */

/* Returns how many bytes were dealt with; less than len at an unfinished frame or a pause. */
size_t client_parse(struct client *c, const uint8_t *buf, size_t len);

/* Keeps what is left over for later: an unfinished frame, or more when answers are due first. */
void client_keep(struct client *c, const uint8_t *p, size_t len);
size_t client_take_kept(struct client *c); /* back to the start of the shared buffer */
void client_parse_kept(struct client *c);
void client_drop_stash(struct client *c);

/* client_sync.c */
bool client_wants_write(const struct client *c);
void client_sync(struct client *c, const struct frame *f); /* a sync frame has come */
void client_answer(struct client *c); /* sends the answers that are due; may close c */
void client_mute(struct client *c);   /* it is gone, but what it sent is there to be read */
void client_forget_syncs(struct client *c);
