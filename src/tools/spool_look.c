#include "tools/spool_look.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "buffer/spool/spool_internal.h"

#define PATH_MAX_TEXT 4096

static void
on_block(void *arg, size_t offset, const uint8_t *frames, uint32_t len, uint32_t rows)
{
	const struct look *l = arg;

	(void)offset;
	(void)rows;
	if (l->block &&
	    !l->verdict.other_number) /* of another number: a copy, which must not count twice */
		l->block(l->arg, frames, len);
}

static void
on_damage(void *arg, size_t offset, size_t len)
{
	const struct look *l = arg;

	if (l->print)
		(void)printf("%s: %zu damaged bytes at offset %zu\n", l->name, len, offset);
}

/* Opens a file of the spool; it may be anything that somebody has put there. */
static int
open_file(const struct look *l)
{
	char path[PATH_MAX_TEXT];
	struct stat st;
	int fd;

	(void)snprintf(path, sizeof(path), "%s/%s", l->dir, l->name);
	fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		return fd;
	(void)close(fd);
	return -EISDIR;
}

static int
read_some(void *arg, uint8_t *data, size_t len, uint64_t offset, size_t *got)
{
	const int *fd = arg;

	return io_salvage(*fd, data, len, offset, got);
}

static uint64_t
read_next(void *arg, uint64_t offset)
{
	const int *fd = arg;

	return io_next(*fd, offset);
}

static enum look_state
state_of(const struct spool_verdict *v)
{
	if (v->damaged || v->other_number || v->differs)
		return LOOK_DAMAGED;
	return v->header.sealed ? LOOK_WHOLE : LOOK_OPEN;
}

/* The summary of a whole file tells what is in it, at the cost of its header alone. */
static bool
look_at_summary(struct look *l, const struct look_entry *e, int fd)
{
	struct spool_header *h = &l->verdict.header;
	uint8_t header[SPOOL_FILE_HEADER];
	struct stat st;
	ssize_t n = pread(fd, header, sizeof(header), 0);

	if (n < 0 || spool_header_decode(header, (size_t)n, h) < 0 || !h->sealed ||
	    h->number != e->number || fstat(fd, &st) < 0 ||
	    (uint64_t)st.st_size != h->summary.file_size)
		return false;
	l->size = (uint64_t)st.st_size;
	l->verdict.sound = h->summary;
	l->state = LOOK_WHOLE;
	return true;
}

static int
look_at_blocks(struct look *l, const struct look_entry *e, int fd)
{
	const struct spool_walk walk = {on_block, on_damage, l};
	const struct spool_verdict *v = &l->verdict;
	struct spool_content content = {read_some, read_next, &fd, 0};
	struct stat st;
	int r = 0;

	if (fstat(fd, &st) == 0)
		content.size = (uint64_t)st.st_size;
	l->size = content.size;
	/* one that a daemon is just making may have no header yet */
	if (!l->live || content.size >= SPOOL_FILE_HEADER) {
		r = spool_judge(&content, e->number, &walk, &l->verdict);
		l->size = v->size;
	}
	if (r == 0)
		l->state = state_of(v);
	if (r == 0 && l->print && v->header.sealed && v->sound.rows < v->header.summary.rows)
		(void)printf("%s: %" PRIu64 " of %" PRIu64 " rows are left\n", l->name,
			     v->sound.rows, v->header.summary.rows);
	return r;
}

int
look_at(struct look *l, const struct look_entry *e, bool quick)
{
	spool_name_as(l->name, e->number, e->kept ? ".stored" : ".batch");
	return look_at_name(l, e, quick);
}

int
look_at_name(struct look *l, const struct look_entry *e, bool quick)
{
	int fd = open_file(l);
	int r = fd < 0 ? fd : 0;

	if (r == 0 && !(quick && look_at_summary(l, e, fd)))
		r = look_at_blocks(l, e, fd);
	if (fd >= 0)
		(void)close(fd);
	if (r < 0 && r != -ENOENT && !l->quiet)
		(void)fprintf(stderr, "metric-spool: %s/%s: %s\n", l->dir, l->name,
			      r == -ENOTSUP  ? "a newer version wrote this file"
			      : r == -EISDIR ? "not a regular file"
					     : strerror(-r));
	return r;
}
