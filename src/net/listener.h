/*
 * listener.h - one socket that accepts connections.
 *
 * TCP over IPv4 or IPv6 (IPV6_V6ONLY: "[::]:9999" leaves IPv4 to "0.0.0.0:9999"), a
 * unix socket, or a listening socket that the supervisor has opened.  Sockets are
 * CLOEXEC and NONBLOCK, the accepted ones as well.
 *
 * A unix socket's file gets mode 0666 whatever the umask: who may connect is
 * decided by its directory's permissions.  The file of a dead socket, one
 * that nobody listens on, is replaced; one that is in use, or that is no socket, is
 * -EADDRINUSE.  Our own file is removed when the listener closes.
 *
 * When descriptors or memory run out, the listener logs accept_paused {address,
 * error, retry_in} and leaves the connections in the backlog for
 * LISTENER_PAUSE_MIN_MS, then for twice as long each time, LISTENER_PAUSE_MAX_MS at most.
 */
#pragma once

#include <sys/socket.h>

#include "net/loop.h"
#include "base/address.h"

#define LISTENER_ACCEPTS 64 /* per wake-up, at most: clients are to be read, too */
#define LISTENER_PAUSE_MIN_MS 100
#define LISTENER_PAUSE_MAX_MS 1000

struct listener;

/*
 * Gets a connected socket, which it owns from now on, and the peer's address.  It may call
 * listener_stop() and listener_hold(), but not listener_free().
 */
typedef void listener_accept_fn(void *arg, int fd, const struct sockaddr *sa, socklen_t len);

/* Opens a socket on addr.  Returns 0 or a negative errno. */
int listener_new(struct loop *loop, const struct address *addr, listener_accept_fn *fn, void *arg,
		 struct listener **ret);

/*
 * Takes over fd, a listening stream socket of the supervisor's.  Returns 0 or a negative
 * errno, -EINVAL if it is something else; then fd is closed.
 */
int listener_inherit(struct loop *loop, int fd, listener_accept_fn *fn, void *arg,
		     struct listener **ret);

/*
 * Hands over the connections that wait in the backlog already, at most max of them,
 * and closes.  If descriptors run out on the way it logs accept_failed {address, error}: the
 * kernel resets what is left.  A socket of the supervisor's is closed at once, and
 * what waits on it is for the next process that gets it.
 */
void listener_stop(struct listener *l, unsigned max);

/* Leaves those that connect in the backlog for as long as hold is true. */
void listener_hold(struct listener *l, bool hold);

void listener_free(struct listener *l); /* closes without accepting; NULL is fine */

/* The address it is bound to: a configured port 0 shows the real one.  Returns buf. */
const char *listener_address(const struct listener *l, char buf[ADDRESS_TEXT_MAX]);
