/*
 * notify.h - what the daemon tells its supervisor (sd_notify(3)).
 *
 * Without $NOTIFY_SOCKET all of these do nothing.  None of them waits: what a supervisor
 * that does not read has no room for is sent again, READY, RELOADING and STOPPING by
 * notify_tick() and in their order, a status by the next notify_status().
 * supervisor_stalled {waiting} (warning) says that it has taken nothing for a second,
 * supervisor_resumed {seconds} (notice) that it does again.
 *
 * For one thread, the loop's.
 */
#pragma once

#include <stdint.h>

void notify_ready(void);
void notify_reloading(void); /* with MONOTONIC_USEC=; notify_ready() ends it */
void notify_stopping(void);  /* the last state: none follows it */
void notify_watchdog(void);
void notify_tick(void); /* to be called once a second */

/* STATUS=text, sent only when it differs from the last one sent. */
void notify_status(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Half of the watchdog period in ms: how often to call notify_watchdog(); 0 = not asked for. */
uint64_t notify_watchdog_ms(void);
