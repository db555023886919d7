/*
 * resolve.h - names of hosts to addresses, without being stuck on a name server.
 *
 * getaddrinfo() can neither be interrupted nor given a deadline, and libpq calls it while it
 * connects.  So it has a thread of its own, which is left behind when it takes too long
 * and ends when its name server has been given up by the C library.
 */
#pragma once

#include <netdb.h>
#include <stdint.h>

/*
 * Returns 0 and a list for freeaddrinfo(); -ECANCELED when stop_fd became
 * readable; -ETIMEDOUT; -ENOENT with *why set to a static text when the name cannot be
 * resolved; or another negative errno.
 */
int resolve(const char *host, int stop_fd, uint64_t timeout_ms, struct addrinfo **ret,
	    const char **why);
