/*
 * fault_shim.c - a disk that fails, dawdles or hangs, and a clock that steps: for LD_PRELOAD.
 *
 * What it does is decided at each call by the files of the directory $FAULT_SHIM_DIR:
 *
 *	sync-fails  fdatasync() and fsync() return EIO
 *	sync-slow   they take a quarter of a second longer
 *	read-fails  pread() of batches' files in the spool returns EIO
 *	read-only   pwrite(), pwritev() and making files return EROFS
 *	hang        each call that has to do with a file of a directory named "spool" takes as many
 *	            seconds longer as the file says
 *	conf-hangs  whoever opens a file whose name ends with .conf waits until this one is gone
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
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PATH_SIZE 512

/* What stands behind a call, whatever its type. */
#define REAL(call) ((typeof(&(call)))dlsym(RTLD_NEXT, #call))

static const char *
path_of(const char *name, char buf[PATH_SIZE])
{
	const char *dir = getenv("FAULT_SHIM_DIR");

	(void)snprintf(buf, PATH_SIZE, "%s/%s", dir ? dir : "/nonexistent", name);
	return buf;
}

static bool
wanted(const char *name)
{
	char buf[PATH_SIZE];

	return access(path_of(name, buf), F_OK) == 0;
}

/* The number in that file; 0 when there is none. */
static double
number_in(const char *name)
{
	char buf[PATH_SIZE];
	double number = 0;
	FILE *in = fopen(path_of(name, buf), "r");

	if (!in)
		return 0;
	if (fscanf(in, "%lf", &number) != 1)
		number = 0;
	(void)fclose(in);
	return number;
}

/* ---- a disk that hangs ---- */

static const char *
file_of(int fd, char path[PATH_SIZE])
{
	char link[64];
	ssize_t n;

	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, PATH_SIZE - 1);
	path[n < 0 ? 0 : n] = '\0';
	return path;
}

static bool
in_spool(int fd)
{
	char path[PATH_SIZE];

	return strstr(file_of(fd, path), "/spool") != NULL;
}

static bool
is_batch(int fd)
{
	char path[PATH_SIZE];

	return in_spool(fd) && strstr(file_of(fd, path), ".batch") != NULL;
}

static bool
is_conf(int fd)
{
	char path[PATH_SIZE];
	size_t len = strlen(file_of(fd, path));

	return len > 5 && strcmp(path + len - 5, ".conf") == 0;
}

static void
hang(int fd)
{
	double seconds = wanted("hang") && in_spool(fd) ? number_in("hang") : 0;

	if (seconds > 0)
		(void)usleep((useconds_t)(seconds * 1e6));
}

int
renameat(int from, const char *old, int to, const char *new)
{
	hang(from);
	return REAL(renameat)(from, old, to, new);
}

int
linkat(int from, const char *old, int to, const char *new, int flags)
{
	hang(from);
	return REAL(linkat)(from, old, to, new, flags);
}

int
unlinkat(int dir, const char *name, int flags)
{
	hang(dir);
	return REAL(unlinkat)(dir, name, flags);
}

int
fstatat(int dir, const char *name, struct stat *st, int flags)
{
	hang(dir);
	return REAL(fstatat)(dir, name, st, flags);
}

int
fstat(int fd, struct stat *st)
{
	hang(fd);
	while (wanted("conf-hangs") && is_conf(fd)) /* a configuration's type is looked at first */
		(void)usleep(10000);
	return REAL(fstat)(fd, st);
}

int
fstatvfs(int fd, struct statvfs *st)
{
	hang(fd);
	return REAL(fstatvfs)(fd, st);
}

int
ftruncate(int fd, off_t size)
{
	hang(fd);
	return REAL(ftruncate)(fd, size);
}

int
posix_fallocate(int fd, off_t offset, off_t len)
{
	hang(fd);
	return REAL(posix_fallocate)(fd, offset, len);
}

int
utimensat(int dir, const char *name, const struct timespec times[2], int flags)
{
	hang(dir);
	return REAL(utimensat)(dir, name, times, flags);
}

ssize_t
pread(int fd, void *data, size_t len, off_t offset)
{
	hang(fd);
	if (wanted("read-fails") && is_batch(fd)) {
		errno = EIO;
		return -1;
	}
	return REAL(pread)(fd, data, len, offset);
}

int
close(int fd)
{
	hang(fd);
	return REAL(close)(fd);
}

/* ---- syncs ---- */

static bool
sync_fails(int fd)
{
	hang(fd);
	if (wanted("sync-slow"))
		(void)usleep(250000);
	if (!wanted("sync-fails"))
		return false;
	errno = EIO;
	return true;
}

int
fdatasync(int fd)
{
	return sync_fails(fd) ? -1 : REAL(fdatasync)(fd);
}

int
fsync(int fd)
{
	return sync_fails(fd) ? -1 : REAL(fsync)(fd);
}

/* ---- writing ---- */

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
	hang(fd);
	return read_only() ? -1 : REAL(pwrite)(fd, data, len, offset);
}

ssize_t
pwritev(int fd, const struct iovec *iov, int n, off_t offset)
{
	hang(fd);
	return read_only() ? -1 : REAL(pwritev)(fd, iov, n, offset);
}

int
openat(int dir, const char *name, int flags, ...)
{
	mode_t mode = 0;
	va_list ap;

	va_start(ap, flags);
	if (flags & O_CREAT)
		mode = va_arg(ap, mode_t);
	va_end(ap);
	hang(dir);
	return (flags & O_CREAT) && read_only() ? -1 : REAL(openat)(dir, name, flags, mode);
}

/* ---- the clock ---- */

int
clock_gettime(clockid_t id, struct timespec *ts)
{
	static int (*call)(clockid_t, struct timespec *); /* the same value whoever sets it */
	int r;

	if (!call)
		call = REAL(clock_gettime);
	r = call(id, ts);
	if (r == 0 && id == CLOCK_REALTIME)
		ts->tv_sec += (time_t)number_in("clock");
	return r;
}
