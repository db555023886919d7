#include "conf/conf_read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static bool
is_null_device(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == makedev(1, 3);
}

static int
check_kind(int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode))
		return -EISDIR;
	return S_ISREG(st.st_mode) || is_null_device(&st) ? 0 : -ENXIO;
}

static int
read_all(int fd, char *buf, size_t size, size_t *ret)
{
	size_t len = 0;

	while (len < size) {
		ssize_t n = read(fd, buf + len, size - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0) {
			*ret = len;
			return 0;
		}
		len += (size_t)n;
	}
	return -EFBIG;
}

int
conf_read(const char *path, char *buf, size_t size, size_t *ret)
{
	/* Nonblocking, for a FIFO that nobody writes to. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	int r;

	if (fd < 0)
		return -errno;
	r = check_kind(fd);
	if (r == 0)
		r = read_all(fd, buf, size, ret);
	(void)close(fd);
	return r;
}

const char *
conf_read_error(int error)
{
	if (error == -ENXIO)
		return "it is not a regular file";
	return strerror(-error);
}
