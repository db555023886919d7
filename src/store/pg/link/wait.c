#include "store/pg/link/wait.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>

#include "base/clock.h"

int
wait_fd(int fd, short events, int stop_fd, uint64_t deadline_ms)
{
	struct pollfd fds[2] = {{fd, events, 0}, {stop_fd, POLLIN, 0}};
	int n;

	do {
		uint64_t now = clock_ms();
		uint64_t left = deadline_ms > now ? deadline_ms - now : 0;

		n = poll(fds, 2, (int)(left < INT_MAX ? left : INT_MAX));
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (fds[1].revents)
		return -ECANCELED;
	return fds[0].revents != 0;
}
