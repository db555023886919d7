#include "buffer/spool/spool_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define RESERVE "reserve"

uint64_t
spool_free_bytes(const struct spool *s)
{
	struct statvfs st;

	return fstatvfs(s->fd, &st) < 0 ? UINT64_MAX : (uint64_t)st.f_bavail * st.f_frsize;
}

bool
spool_lacks_inodes(const struct spool *s)
{
	struct statvfs st;

	/* those that make inodes as they need them have none in total */
	return fstatvfs(s->fd, &st) == 0 && st.f_files > 0 && st.f_favail == 0;
}

/* Trying in vain takes the last blocks for a moment, which a batch may need just then. */
static bool
has_room(const struct spool *s)
{
	return spool_free_bytes(s) >= 2 * (uint64_t)SPOOL_RESERVE;
}

static int
make(const struct spool *s)
{
	uint64_t size;
	int fd = io_open(s, RESERVE, O_RDWR, &size);
	int r;

	if (fd < 0 && fd != -ENOENT && !io_is_damage(fd))
		return fd;
	if (fd < 0 && !has_room(s))
		return -ENOSPC;
	if (fd < 0)
		fd = io_create(s, RESERVE);
	if (fd < 0)
		return fd;
	r = -posix_fallocate(fd, 0, SPOOL_RESERVE); /* one that is there already stays */
	(void)close(fd);
	if (r < 0)
		(void)unlinkat(s->fd, RESERVE, 0); /* a part of it takes room and helps nobody */
	return r;
}

int
spool_reserve_make(struct spool *s)
{
	int r = make(s);

	s->reserve_missing = r < 0;
	return r;
}

bool
spool_reserve_missing(const struct spool *s)
{
	return s->reserve_missing;
}

bool
spool_reserve_use(struct spool *s)
{
	s->reserve_missing = false; /* it is not to be made again */
	return unlinkat(s->fd, RESERVE, 0) == 0;
}
