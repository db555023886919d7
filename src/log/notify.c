#include "log/notify.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <time.h>

#include "base/text.h"

#define NOTIFY_STATUS_MAX 256 /* bytes of a status with its NUL; systemctl shows one line */

/*
 * The status that the supervisor shows now.  File-scope because there is one
 * supervisor per process; only the loop thread comes here.
 */
static char status_sent[NOTIFY_STATUS_MAX];

void
notify_ready(void)
{
	(void)sd_notify(0, "READY=1");
}

void
notify_reloading(void)
{
	struct timespec ts;
	uint64_t now_us;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	now_us = (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
	(void)sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, now_us);
}

void
notify_stopping(void)
{
	(void)sd_notify(0, "STOPPING=1");
}

void
notify_watchdog(void)
{
	(void)sd_notify(0, "WATCHDOG=1");
}

/* One line, and no more: what follows a line feed would be an assignment of its own. */
static void
one_line(char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < ' ')
			*s = ' ';
}

void
notify_status(const char *fmt, ...)
{
	char text[NOTIFY_STATUS_MAX + 1]; /* a byte more shows that the text is longer */
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	text[text_cut(text, strlen(text), NOTIFY_STATUS_MAX - 1)] = '\0';
	one_line(text);
	if (strcmp(text, status_sent) == 0)
		return;
	/* Remembered only once it is sent: a supervisor that was busy gets it the next time. */
	if (sd_notifyf(0, "STATUS=%s", text) > 0)
		memcpy(status_sent, text, strlen(text) + 1);
}

uint64_t
notify_watchdog_ms(void)
{
	uint64_t period_us;

	if (sd_watchdog_enabled(0, &period_us) <= 0)
		return 0;
	return period_us >= 2000 ? period_us / 2000 : 1;
}
