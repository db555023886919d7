/*
 * wait.h - a wait for one descriptor that a stop ends.
 *
 * All waits of a writer thread are of this kind, so that a shutdown is never stuck behind a
 * network.
 */
#pragma once

#include <stdint.h>

/*
 * poll(2) for events on fd (-1: none, a mere sleep) until the deadline of clock_ms().  Returns
 * 1 when fd has any, 0 at the deadline, -ECANCELED as soon as stop_fd is readable, whatever
 * else has happened, or another negative errno.
 */
int wait_fd(int fd, short events, int stop_fd, uint64_t deadline_ms);
