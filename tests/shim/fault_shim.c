/*
 * fault_shim.c - a disk that fails or dawdles, and a clock that steps: for LD_PRELOAD.
 *
 * What it does is decided at each call by the files of the directory $FAULT_SHIM_DIR:
 *
 *	sync-fails  fdatasync() and fsync() return EIO
 *	sync-slow   they take a quarter of a second longer
 *	read-only   pwrite(), pwritev() and making files return EROFS
 *	clock       the real-time clock is off by as many seconds as the file says
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static const char *
path_of(const char *name, char buf[512])
{
	const char *dir = getenv("FAULT_SHIM_DIR");

	(void)snprintf(buf, 512, "%s/%s", dir ? dir : "/nonexistent", name);
	return buf;
}

static bool
wanted(const char *name)
{
	char buf[512];

	return access(path_of(name, buf), F_OK) == 0;
}

static int
faulty_sync(const char *real, int fd)
{
	int (*call)(int) = (int (*)(int))dlsym(RTLD_NEXT, real);

	if (wanted("sync-slow"))
		(void)usleep(250000);
	if (wanted("sync-fails")) {
		errno = EIO;
		return -1;
	}
	return call(fd);
}

int
fdatasync(int fd)
{
	return faulty_sync("fdatasync", fd);
}

int
fsync(int fd)
{
	return faulty_sync("fsync", fd);
}

static bool
read_only(void)
{
	if (!wanted("read-only"))
		return false;
	errno = EROFS;
	return true;
}

ssize_t
pwrite(int fd, const void *data, size_t len, off_t offset)
{
	ssize_t (*call)(int, const void *, size_t, off_t) =
	    (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");

	return read_only() ? -1 : call(fd, data, len, offset);
}

ssize_t
pwritev(int fd, const struct iovec *iov, int n, off_t offset)
{
	ssize_t (*call)(int, const struct iovec *, int, off_t) =
	    (ssize_t(*)(int, const struct iovec *, int, off_t))dlsym(RTLD_NEXT, "pwritev");

	return read_only() ? -1 : call(fd, iov, n, offset);
}

int
openat(int dir, const char *name, int flags, ...)
{
	int (*call)(int, const char *, int, ...) =
	    (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat");
	mode_t mode = 0;
	va_list ap;

	va_start(ap, flags);
	if (flags & O_CREAT)
		mode = va_arg(ap, mode_t);
	va_end(ap);
	return (flags & O_CREAT) && read_only() ? -1 : call(dir, name, flags, mode);
}

int
clock_gettime(clockid_t id, struct timespec *ts)
{
	static int (*call)(clockid_t, struct timespec *); /* the same value whoever sets it */
	char buf[512];
	int r;

	if (!call)
		call = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	r = call(id, ts);
	if (r == 0 && id == CLOCK_REALTIME) {
		FILE *in = fopen(path_of("clock", buf), "r");
		long offset = 0;

		if (in) {
			if (fscanf(in, "%ld", &offset) == 1)
				ts->tv_sec += offset;
			(void)fclose(in);
		}
	}
	return r;
}
