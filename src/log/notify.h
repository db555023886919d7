/*
 * notify.h - what the daemon tells its supervisor (sd_notify(3)).
 *
 * Without $NOTIFY_SOCKET all of these do nothing.
 */
#pragma once

#include <stdint.h>

void notify_ready(void);
void notify_reloading(void); /* with MONOTONIC_USEC=; notify_ready() ends it */
void notify_stopping(void);
void notify_watchdog(void);

/* STATUS=text, sent only when it differs from the last one sent. */
void notify_status(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Half of the watchdog period in ms: how often to call notify_watchdog(); 0 = not asked for. */
uint64_t notify_watchdog_ms(void);
