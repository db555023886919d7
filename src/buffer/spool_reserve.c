#include "buffer/spool_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define RESERVE "reserve"

int
spool_reserve_make(const struct spool *s)
{
	int fd = openat(s->fd, RESERVE, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	int r;

	if (fd < 0)
		return -errno;
	r = -posix_fallocate(fd, 0, SPOOL_RESERVE); /* one that is there already stays */
	(void)close(fd);
	if (r < 0)
		(void)unlinkat(s->fd, RESERVE, 0); /* a part of it takes room and helps nobody */
	return r;
}

bool
spool_reserve_use(struct spool *s)
{
	(void)pthread_mutex_lock(&s->lock);
	s->reserve_wanted = false;
	(void)pthread_mutex_unlock(&s->lock);
	return unlinkat(s->fd, RESERVE, 0) == 0;
}
