#include "tools/spool_back.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/spool_look.h"

#define PATH_MAX_TEXT 4096
#define BATCH_SUFFIX ".batch"
#define BATCH_NAME_LEN (SPOOL_NAME_DIGITS + sizeof(BATCH_SUFFIX) - 1)

/* "00000000000000000042.batch", and "...batch-1" where another one had that name. */
static bool
parse_name(const char *name, uint64_t *number)
{
	size_t len = strlen(name);
	char stem[SPOOL_NAME_MAX];

	if (len < BATCH_NAME_LEN || len >= LOOK_NAME_MAX)
		return false;
	(void)snprintf(stem, sizeof(stem), "%.*s", (int)BATCH_NAME_LEN, name);
	name += BATCH_NAME_LEN;
	if (*name && (*name != '-' || !name[1] || name[1 + strspn(name + 1, "0123456789")]))
		return false;
	return spool_name_parse(stem, number);
}

static int
is_batch(const struct dirent *d)
{
	uint64_t number;

	return parse_name(d->d_name, &number);
}

/* All of what was ever written to it is there. */
static bool
is_whole(const char *corrupt, const char *name, uint64_t number, uint64_t *rows)
{
	const struct look_entry e = {.number = number};
	struct look l = {.dir = corrupt, .quiet = true};

	(void)snprintf(l.name, sizeof(l.name), "%s", name);
	if (look_at_name(&l, &e, false) < 0 || l.state == LOOK_DAMAGED)
		return false;
	*rows = l.verdict.sound.rows;
	return *rows > 0;
}

/* Another user's file is of no use to the daemon.  Nobody else's is given away: it has one name. */
static int
give(int from, const char *name, const struct stat *owner)
{
	int fd = openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;
	int r = 0;

	if (fd < 0 || fstat(fd, &st) < 0)
		r = -errno;
	else if (!S_ISREG(st.st_mode) || st.st_nlink != 1)
		r = -EINVAL;
	else if (geteuid() == 0 && (fchown(fd, owner->st_uid, owner->st_gid) < 0 ||
				    fchmod(fd, S_IRUSR | S_IWUSR) < 0))
		r = -errno;
	if (fd >= 0)
		(void)close(fd);
	return r;
}

static int
move_back(int from, const char *name, int to, uint64_t number)
{
	char target[SPOOL_NAME_MAX];
	struct stat st, owner;
	int r;

	spool_name(target, number);
	if (fstatat(to, target, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return -EEXIST;
	if (fstat(to, &owner) < 0)
		return -errno;
	r = give(from, name, &owner);
	if (r == 0 && renameat(from, name, to, target) < 0)
		r = -errno;
	if (r == 0 && (fsync(to) < 0 || fsync(from) < 0))
		r = -errno;
	return r;
}

/* 1 if the file is a batch to be brought back, 0 if not, or a negative errno. */
static int
back_one(const struct spool_back *b, int from, int to, const char *name)
{
	char corrupt[PATH_MAX_TEXT];
	uint64_t number, rows;
	int r;

	(void)snprintf(corrupt, sizeof(corrupt), "%s/corrupt", b->dir);
	if (!parse_name(name, &number) || !is_whole(corrupt, name, number, &rows))
		return 0;
	if (b->has(b->arg, number)) {
		if (!b->apply)
			(void)printf(
			    "corrupt/%s: whole, but the spool has a batch of that number\n", name);
		return 0;
	}
	if (!b->apply) {
		(void)printf("corrupt/%s: whole, %" PRIu64 " rows: bring it back\n", name, rows);
		return 1;
	}
	r = move_back(from, name, to, number);
	if (r == -EEXIST) /* two files of one batch: one of them is back */
		return 0;
	if (r < 0)
		return r;
	(void)printf("corrupt/%s: brought back, %" PRIu64 " rows\n", name, rows);
	return 1;
}

static long
back_all(const struct spool_back *b, int from, int to)
{
	struct dirent **names;
	int n = scandirat(from, ".", &names, is_batch, alphasort);
	long count = 0;

	if (n < 0)
		return -errno;
	for (int i = 0; i < n; i++) {
		int r = count < 0 ? 0 : back_one(b, from, to, names[i]->d_name);

		count = r < 0 ? r : count + r;
		free(names[i]);
	}
	free(names);
	return count;
}

long
spool_back(const struct spool_back *b)
{
	int to = open(b->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int from = -1;
	long n = 0;

	if (to >= 0)
		from = openat(to, "corrupt", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (from >= 0)
		n = back_all(b, from, to);
	else if (to < 0 || (errno != ENOENT && errno != ENOTDIR && errno != ELOOP))
		n = -errno;
	if (from >= 0)
		(void)close(from);
	if (to >= 0)
		(void)close(to);
	if (n >= 0)
		return n;
	(void)fprintf(stderr, "metric-spool: %s/corrupt: %s\n", b->dir, strerror((int)-n));
	return -1;
}
