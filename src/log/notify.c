#include "log/notify.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/text.h"
#include "log/log.h"

#define NOTIFY_STATUS_MAX 256 /* bytes of a status with its NUL; systemctl shows one line */
#define NOTIFY_STALL_MS 1000  /* a supervisor that takes nothing for longer is told of */

enum state { READY, RELOADING, STOPPING };

struct message {
	enum state state;
	uint64_t time_us; /* of RELOADING */
};

/*
 * At most READY, RELOADING, READY, STOPPING wait: of two reloads nobody needs the first, see
 * remember().
 */
#define NOTIFY_WAITING_MAX 4

/* File-scope because there is one supervisor per process; only the loop thread comes here. */
static struct {
	struct message waiting[NOTIFY_WAITING_MAX]; /* n_waiting of them, the oldest first */
	size_t n_waiting;
	char status_sent[NOTIFY_STATUS_MAX]; /* what it shows now */
	uint64_t stalled_ms;                 /* since when it takes nothing; 0 = it does */
	bool stall_told;
} supervisor;

/* ---- datagrams ---- */

/* The address in $NOTIFY_SOCKET, a path or an abstract name; false when there is none. */
static bool
supervisor_address(struct sockaddr_un *un, socklen_t *len)
{
	const char *path = getenv("NOTIFY_SOCKET");
	size_t n = path ? strlen(path) : 0;

	if (n < 2 || n >= sizeof(un->sun_path) || (path[0] != '/' && path[0] != '@'))
		return false;
	*un = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(un->sun_path, path, n);
	*len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
	if (path[0] == '@')
		un->sun_path[0] = '\0';
	else
		(*len)++; /* the NUL */
	return true;
}

/*
 * As sd_notify(3) and the code in its notes, but that one waits while the supervisor's queue
 * is full.  Returns 1 when it was sent, 0 without a supervisor, or a negative errno, -EAGAIN
 * when there was no room.
 */
static int
send_now(const char *text)
{
	struct sockaddr_un un;
	socklen_t len;
	ssize_t n;
	int fd, r;

	if (!supervisor_address(&un, &len))
		return 0;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	n = sendto(fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL,
		   (const struct sockaddr *)&un, len);
	r = n < 0 ? -errno : 1;
	(void)close(fd);
	return r == -ENOBUFS ? -EAGAIN : r;
}

/* Notes whether the supervisor takes anything; notify_tick() tells. */
static void
watch_stall(int r)
{
	uint64_t now = clock_ms();

	if (r == -EAGAIN) {
		if (!supervisor.stalled_ms)
			supervisor.stalled_ms = now;
		return;
	}
	if (supervisor.stall_told)
		log_event(LOG_NOTICE, "supervisor_resumed",
			  LOG_F64("seconds", (double)(now - supervisor.stalled_ms) / 1000));
	supervisor.stalled_ms = 0;
	supervisor.stall_told = false;
}

static int
try_to_send(const char *text)
{
	int r = send_now(text);

	watch_stall(r);
	return r;
}

/* ---- states ---- */

static int
send_state(const struct message *m)
{
	char text[80];

	switch (m->state) {
	case READY:
		return try_to_send("READY=1");
	case RELOADING:
		(void)snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%" PRIu64,
			       m->time_us);
		return try_to_send(text);
	case STOPPING:
		return try_to_send("STOPPING=1");
	}
	return 0;
}

/* Sends what waits, as far as it is taken; returns -EAGAIN when not all of it is. */
static int
send_waiting(void)
{
	while (supervisor.n_waiting > 0) {
		if (send_state(&supervisor.waiting[0]) == -EAGAIN)
			return -EAGAIN;
		supervisor.n_waiting--;
		memmove(&supervisor.waiting[0], &supervisor.waiting[1],
			supervisor.n_waiting * sizeof(supervisor.waiting[0]));
	}
	return 0;
}

/* Nobody needs to hear of a reload that is over when the next one begins. */
static void
remember(const struct message *m)
{
	size_t n = supervisor.n_waiting;

	if (m->state == RELOADING && n >= 2 && supervisor.waiting[n - 1].state == READY &&
	    supervisor.waiting[n - 2].state == RELOADING)
		supervisor.n_waiting -= 2;
	assert(supervisor.n_waiting < NOTIFY_WAITING_MAX);
	supervisor.waiting[supervisor.n_waiting++] = *m;
}

static void
notify_state(enum state state)
{
	struct message m = {.state = state, .time_us = clock_ns() / 1000};

	remember(&m);
	(void)send_waiting();
}

void
notify_ready(void)
{
	notify_state(READY);
}

void
notify_reloading(void)
{
	notify_state(RELOADING);
}

void
notify_stopping(void)
{
	notify_state(STOPPING);
}

/* ---- the rest ---- */

/* One that is not taken is the next one's business; no state waits behind it. */
void
notify_watchdog(void)
{
	if (send_waiting() == 0)
		(void)try_to_send("WATCHDOG=1");
}

void
notify_tick(void)
{
	(void)send_waiting();
	if (!supervisor.stalled_ms || supervisor.stall_told ||
	    clock_ms() - supervisor.stalled_ms < NOTIFY_STALL_MS)
		return;
	supervisor.stall_told = true;
	log_event(LOG_WARNING, "supervisor_stalled", LOG_U64("waiting", supervisor.n_waiting));
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
	char message[NOTIFY_STATUS_MAX + sizeof("STATUS=")];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	text[text_cut(text, strlen(text), NOTIFY_STATUS_MAX - 1)] = '\0';
	one_line(text);
	if (strcmp(text, supervisor.status_sent) == 0 || send_waiting() < 0)
		return;
	(void)snprintf(message, sizeof(message), "STATUS=%s", text);
	/* Remembered only once it is sent: a supervisor that was busy gets it the next time. */
	if (try_to_send(message) > 0)
		memcpy(supervisor.status_sent, text, strlen(text) + 1);
}

uint64_t
notify_watchdog_ms(void)
{
	uint64_t period_us;

	if (sd_watchdog_enabled(0, &period_us) <= 0)
		return 0;
	return period_us >= 2000 ? period_us / 2000 : 1;
}
