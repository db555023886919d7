#include "log/log_sink.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
/* Where log_sink.c calls the journal says nothing about where an event comes from. */
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

/* See systemd.io/JOURNAL_NATIVE_PROTOCOL; it is where sd_journal_sendv() sends to. */
#define JOURNAL_SOCKET "/run/systemd/journal/socket"

/* The last line was left unfinished, on a full disk for instance.  There is one stderr. */
static bool torn;

/* ---- stderr ---- */

/* Writes all of it, or as much as stderr takes before it fails; returns how much that was. */
static size_t
stderr_put(const char *data, size_t len)
{
	struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
	size_t done = 0;

	while (done < len) {
		ssize_t n = write(STDERR_FILENO, data + done, len - done);

		if (n > 0)
			done += (size_t)n;
		else if (n < 0 && errno == EAGAIN)
			(void)poll(&p, 1, -1); /* somebody has made it non-blocking */
		else if (n == 0 || errno != EINTR)
			break;
	}
	return done;
}

/*
 * The newline stands behind the text already, and the byte before the text is ours.  A
 * line that was left unfinished is ended first, so that it spoils no other.
 */
static void
stderr_line(const struct iovec *message)
{
	size_t prefix = strlen(LOG_MESSAGE), done;
	char *start = (char *)message->iov_base + prefix;
	size_t len = message->iov_len - prefix + 1;

	if (torn) {
		*--start = '\n';
		len++;
	}
	done = stderr_put(start, len);
	if (done > 0)
		torn = done < len && !(torn && done == 1);
}

void
log_sink_hold_stderr(void)
{
	int fd;

	if (fcntl(STDERR_FILENO, F_GETFD) >= 0)
		return;
	fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || fd == STDERR_FILENO)
		return;
	(void)dup2(fd, STDERR_FILENO);
	(void)close(fd);
}

/* ---- the journal ---- */

/* See systemd.exec(5) for $JOURNAL_STREAM. */
bool
log_is_journal(int fd)
{
	const char *s = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;
	char *end;

	if (!s || fstat(fd, &st) < 0)
		return false;
	errno = 0;
	device = strtoull(s, &end, 10);
	if (*end != ':')
		return false;
	inode = strtoull(end + 1, &end, 10);
	return errno == 0 && *end == '\0' && device == st.st_dev && inode == st.st_ino;
}

/*
 * sd_journal_sendv() says nothing when there is no journal, and sd_journal_stream_fd() waits
 * for a journald that accepts nothing.  To connect a datagram socket only looks.
 */
int
log_sink_find_journal(void)
{
	const struct sockaddr_un un = {.sun_family = AF_UNIX, .sun_path = JOURNAL_SOCKET};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int r;

	if (fd < 0)
		return -errno;
	r = connect(fd, (const struct sockaddr *)&un, sizeof(un)) < 0 ? -errno : 0;
	(void)close(fd);
	return r;
}

/* ---- both ---- */

const char *
log_sink_name(const struct log_line *l)
{
	return l->n > 1 ? "journal" : "stderr";
}

void
log_sink_write(const struct log_line *l)
{
	if (l->n > 1 && sd_journal_sendv(l->parts, (int)l->n) >= 0)
		return;
	stderr_line(&l->parts[0]);
}

void
log_sink_write_quietly(const struct log_line *l)
{
	const struct timespec now = {0};
	sigset_t pipe_signal, before, pending;

	(void)sigemptyset(&pipe_signal);
	(void)sigaddset(&pipe_signal, SIGPIPE);
	(void)pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
	log_sink_write(l);
	if (sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE) &&
	    !sigismember(&before, SIGPIPE))
		while (sigtimedwait(&pipe_signal, NULL, &now) < 0 && errno == EINTR)
			;
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
}
