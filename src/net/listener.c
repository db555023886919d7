#include "net/listener.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "log/log.h"

#define BACKLOG INT_MAX /* the kernel cuts it to net.core.somaxconn, 4096 by default */
#define PATH_SIZE (sizeof(((struct sockaddr_un *)NULL)->sun_path) + 1)

struct listener {
	struct loop_io io;
	struct loop_timer retry; /* ends a pause */
	listener_accept_fn *fn;
	void *arg;
	int fd;
	bool inherited;
	bool calling;      /* fn runs: l must live on */
	bool held;         /* see listener_hold() */
	unsigned pause_ms; /* of the last pause; 0 once a connection was accepted */
	struct address bound;
	char path[PATH_SIZE]; /* of the socket file that is ours; "" when there is none */
	dev_t dev;
	ino_t ino;
};

/* ---- unix sockets ---- */

/* The path that a names, or "": other families and abstract names have none. */
static void
unix_path(const struct address *a, char path[PATH_SIZE])
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)&a->sa;
	size_t head = offsetof(struct sockaddr_un, sun_path);
	size_t len;

	path[0] = '\0';
	if (a->sa.ss_family != AF_UNIX || a->len <= head)
		return;
	len = a->len - head < PATH_SIZE ? a->len - head : PATH_SIZE - 1;
	memcpy(path, un->sun_path, len);
	path[len] = '\0';
}

/* Nobody listens there any more if and only if connecting is refused. */
static bool
socket_is_dead(const struct address *a)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool dead;

	if (fd < 0)
		return false;
	dead = connect(fd, (const struct sockaddr *)&a->sa, a->len) < 0 && errno == ECONNREFUSED;
	(void)close(fd);
	return dead;
}

static int
remove_dead_socket(const struct address *a, const char *path)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode) || !socket_is_dead(a))
		return -EADDRINUSE;
	return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

/* The file that bind() has just made becomes ours to remove. */
static int
claim_file(struct listener *l, const char *path)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return -errno;
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	memcpy(l->path, path, strlen(path) + 1);
	return chmod(path, 0666) < 0 ? -errno : 0;
}

static void
remove_file(struct listener *l)
{
	struct stat st;

	if (l->path[0] && lstat(l->path, &st) == 0 && st.st_dev == l->dev && st.st_ino == l->ino)
		(void)unlink(l->path); /* if it stays, the next start finds it dead */
	l->path[0] = '\0';
}

/* ---- opening ---- */

static int
set_option(int fd, int level, int option)
{
	int on = 1;

	return setsockopt(fd, level, option, &on, sizeof(on)) < 0 ? -errno : 0;
}

static int
set_options(int fd, sa_family_t family)
{
	int r = 0;

	if (family == AF_INET || family == AF_INET6)
		r = set_option(fd, SOL_SOCKET, SO_REUSEADDR);
	if (r == 0 && family == AF_INET6)
		r = set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY);
	return r;
}

static int
bind_fd(int fd, const struct address *a)
{
	return bind(fd, (const struct sockaddr *)&a->sa, a->len) < 0 ? -errno : 0;
}

static int
listener_open(struct listener *l, const struct address *a)
{
	char path[PATH_SIZE];
	int r;

	l->fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fd < 0)
		return -errno;
	r = set_options(l->fd, a->sa.ss_family);
	if (r < 0)
		return r;

	unix_path(a, path);
	r = bind_fd(l->fd, a);
	if (r == -EADDRINUSE && path[0]) {
		r = remove_dead_socket(a, path);
		if (r == 0)
			r = bind_fd(l->fd, a);
	}
	if (r == 0 && path[0])
		r = claim_file(l, path);
	if (r < 0)
		return r;
	return listen(l->fd, BACKLOG) < 0 ? -errno : 0;
}

/* What we ask for when we open a socket must be set on one that we are given. */
static int
listener_adopt(struct listener *l)
{
	int listening = 0;
	socklen_t len = sizeof(listening);
	int flags;

	if (getsockopt(l->fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0)
		return errno == ENOTSOCK ? -EINVAL : -errno;
	if (!listening)
		return -EINVAL;
	flags = fcntl(l->fd, F_GETFL);
	if (flags < 0 || fcntl(l->fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
	    fcntl(l->fd, F_SETFD, FD_CLOEXEC) < 0)
		return -errno;
	return 0;
}

/* ---- accepting ---- */

/* It concerns this one connection only (accept(2), "Error handling"): the next one may be fine. */
static bool
error_passes(int error)
{
	switch (error) {
	case EINTR:
	case ECONNABORTED:
	case EPROTO:
	case EPERM: /* a firewall's verdict */
	case ENETDOWN:
	case ENETUNREACH:
	case ENOPROTOOPT:
	case EHOSTDOWN:
	case EHOSTUNREACH:
	case ENONET:
	case EOPNOTSUPP:
	case ETIMEDOUT:
		return true;
	default:
		return false;
	}
}

/* Returns 0 once nothing waits or max were tried, or the negative errno that stands in the way. */
static int
accept_some(struct listener *l, unsigned max)
{
	for (; max > 0 && l->fd >= 0 && !l->held; max--) {
		struct sockaddr_storage sa;
		socklen_t len = sizeof(sa);
		int fd = accept4(l->fd, (struct sockaddr *)&sa, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			l->pause_ms = 0;
			l->calling = true;
			l->fn(l->arg, fd, (const struct sockaddr *)&sa, len);
			l->calling = false;
		} else if (errno == EAGAIN) {
			return 0;
		} else if (!error_passes(errno)) {
			return -errno;
		}
	}
	return 0;
}

/*
 * EMFILE, ENFILE, ENOBUFS, ENOMEM; also any error that we do not know, which would otherwise come
 * again in every turn of the loop.
 */
static void
listener_pause(struct listener *l, int error)
{
	char buf[ADDRESS_TEXT_MAX];

	l->pause_ms = l->pause_ms ? l->pause_ms * 2 : LISTENER_PAUSE_MIN_MS;
	if (l->pause_ms > LISTENER_PAUSE_MAX_MS)
		l->pause_ms = LISTENER_PAUSE_MAX_MS;
	(void)loop_io_set(&l->io, l->fd, 0);
	loop_timer_set(&l->retry, l->pause_ms, 0);
	log_event_limited(LOG_WARNING, "accept_paused", "accept_paused",
			  LOG_STR("address", listener_address(l, buf)),
			  LOG_STR("error", strerror(-error)),
			  LOG_F64("retry_in", l->pause_ms / 1000.0));
}

static void
listener_resume(void *arg)
{
	struct listener *l = arg;
	int r = l->held ? 0 : loop_io_set(&l->io, l->fd, LOOP_READ);

	if (r < 0)
		listener_pause(l, r);
}

void
listener_hold(struct listener *l, bool hold)
{
	l->held = hold;
	if (hold)
		(void)loop_io_set(&l->io, l->fd, 0);
	else
		listener_resume(l); /* if descriptors are short, it will pause again */
}

static void
listener_ready(void *arg, unsigned events)
{
	struct listener *l = arg;
	int r = accept_some(l, LISTENER_ACCEPTS);

	(void)events;
	if (r < 0)
		listener_pause(l, r);
}

/* ---- the object ---- */

static int
listener_alloc(struct loop *loop, listener_accept_fn *fn, void *arg, struct listener **ret)
{
	struct listener *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return -ENOMEM;
	l->fd = -1;
	l->fn = fn;
	l->arg = arg;
	loop_io_init(loop, &l->io, listener_ready, l);
	/* at once: when a pause is needed there is no descriptor left for a timer */
	r = loop_timer_init(loop, &l->retry, listener_resume, l);
	if (r < 0) {
		listener_free(l);
		return r;
	}
	*ret = l;
	return 0;
}

static int
listener_watch(struct listener *l)
{
	l->bound.len = sizeof(l->bound.sa);
	if (getsockname(l->fd, (struct sockaddr *)&l->bound.sa, &l->bound.len) < 0)
		return -errno;
	return loop_io_set(&l->io, l->fd, LOOP_READ);
}

/* The last step of both constructors; r is what opening or adopting the socket returned. */
static int
listener_start(struct listener *l, int r, struct listener **ret)
{
	if (r == 0)
		r = listener_watch(l);
	if (r < 0) {
		listener_free(l);
		return r;
	}
	*ret = l;
	return 0;
}

int
listener_new(struct loop *loop, const struct address *addr, listener_accept_fn *fn, void *arg,
	     struct listener **ret)
{
	struct listener *l;
	int r = listener_alloc(loop, fn, arg, &l);

	if (r < 0)
		return r;
	return listener_start(l, listener_open(l, addr), ret);
}

int
listener_inherit(struct loop *loop, int fd, listener_accept_fn *fn, void *arg,
		 struct listener **ret)
{
	struct listener *l;
	int r = listener_alloc(loop, fn, arg, &l);

	if (r < 0) {
		(void)close(fd);
		return r;
	}
	l->fd = fd;
	l->inherited = true;
	return listener_start(l, listener_adopt(l), ret);
}

static void
listener_close(struct listener *l)
{
	remove_file(l);
	loop_timer_done(&l->retry);
	if (l->fd < 0)
		return;
	(void)loop_io_set(&l->io, l->fd, 0);
	(void)close(l->fd);
	l->fd = -1;
}

void
listener_stop(struct listener *l, unsigned max)
{
	char buf[ADDRESS_TEXT_MAX];
	int r;

	remove_file(l); /* first, so that nobody connects from here on */
	r = l->inherited ? 0 : accept_some(l, max);
	if (r < 0)
		log_event(LOG_WARNING, "accept_failed",
			  LOG_STR("address", listener_address(l, buf)),
			  LOG_STR("error", strerror(-r)));
	listener_close(l);
}

void
listener_free(struct listener *l)
{
	if (!l)
		return;
	assert(!l->calling);
	listener_close(l);
	free(l);
}

const char *
listener_address(const struct listener *l, char buf[ADDRESS_TEXT_MAX])
{
	return address_format((const struct sockaddr *)&l->bound.sa, l->bound.len, buf);
}
