#include "tools/spool_look.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_MAX_TEXT 4096
#define READ_STEP ((size_t)1 << 20)

static void
on_block(void *arg, size_t offset, const uint8_t *frames, uint32_t len, uint32_t rows)
{
	const struct look *l = arg;

	(void)offset;
	(void)rows;
	if (l->block && !l->alien) /* of another number: a copy, which must not count twice */
		l->block(l->arg, frames, len);
}

static void
on_damage(void *arg, size_t offset, const uint8_t *p, size_t len)
{
	struct look *l = arg;

	(void)p;
	l->damaged += len;
	if (l->print)
		(void)printf("%s: %zu damaged bytes at offset %zu\n", l->name, len,
			     offset + SPOOL_FILE_HEADER);
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

/*
 * Reads all there is.  A file may grow meanwhile: its header is read first, so that the
 * blocks which a summary speaks of are there when they are read.
 */
static int
read_rest(int fd, uint8_t **data, size_t *size)
{
	size_t room = 0;
	ssize_t n = 1;

	*data = NULL;
	*size = 0;
	while (n > 0) {
		if (*size == room) {
			struct stat st;
			uint8_t *grown;

			room += READ_STEP;
			if (fstat(fd, &st) == 0 && (uint64_t)st.st_size >= room)
				room = (size_t)st.st_size + 1; /* 1: to see the end */
			grown = realloc(*data, room);
			if (!grown)
				return -ENOMEM;
			*data = grown;
		}
		n = read(fd, *data + *size,
			 *size < SPOOL_FILE_HEADER ? SPOOL_FILE_HEADER - *size : room - *size);
		if (n < 0)
			return -errno;
		*size += (size_t)n;
	}
	return 0;
}

/* What the spool would make of it (spool_recover.c): l has the header and what a walk has found. */
static void
judge(struct look *l, bool header_sound)
{
	const struct spool_summary *sealed = &l->header.summary;
	bool short_of = false;

	if (l->live && l->size < SPOOL_FILE_HEADER) {
		l->state = LOOK_OPEN;
		return;
	}
	if (!header_sound) {
		l->damaged += l->size < SPOOL_FILE_HEADER ? l->size : SPOOL_FILE_HEADER;
		if (l->print)
			(void)printf("%s: the header is damaged\n", l->name);
	} else if (l->header.sealed) {
		l->damaged += l->torn; /* once it was whole */
		if (l->torn && l->print)
			(void)printf("%s: the last %zu bytes are damaged\n", l->name, l->torn);
		l->torn = 0;
		short_of = l->sum.rows != sealed->rows || l->size != sealed->file_size;
		if (l->sum.rows < sealed->rows && l->print)
			(void)printf("%s: %" PRIu64 " of %" PRIu64 " rows are left\n", l->name,
				     l->sum.rows, sealed->rows);
	}
	if (l->damaged || l->alien || !header_sound || short_of)
		l->state = LOOK_DAMAGED;
	else
		l->state = l->header.sealed ? LOOK_WHOLE : LOOK_OPEN;
}

/* The summary of a whole file tells what is in it, at the cost of its header alone. */
static bool
look_at_summary(struct look *l, const struct look_entry *e, int fd)
{
	uint8_t header[SPOOL_FILE_HEADER];
	struct stat st;
	ssize_t n = pread(fd, header, sizeof(header), 0);

	if (n < 0 || spool_header_decode(header, (size_t)n, &l->header) < 0 || !l->header.sealed ||
	    l->header.number != e->number || fstat(fd, &st) < 0 ||
	    (uint64_t)st.st_size != l->header.summary.file_size)
		return false;
	l->size = (uint64_t)st.st_size;
	l->sum = l->header.summary;
	l->state = LOOK_WHOLE;
	return true;
}

static int
look_at_blocks(struct look *l, const struct look_entry *e, int fd)
{
	const struct spool_walk walk = {on_block, on_damage, l};
	uint8_t *data;
	size_t size;
	int r = read_rest(fd, &data, &size);
	bool sound;

	l->size = size;
	if (r == 0)
		r = spool_header_decode(data, size, &l->header);
	sound = r == 0;
	if (r == 0 || r == -EBADMSG) {
		r = 0;
		l->alien = sound && l->header.number != e->number;
		if (size > SPOOL_FILE_HEADER)
			spool_walk(data + SPOOL_FILE_HEADER, size - SPOOL_FILE_HEADER, &walk,
				   &l->sum, &l->torn);
		judge(l, sound);
	}
	free(data);
	return r;
}

int
look_at(struct look *l, const struct look_entry *e, bool quick)
{
	int fd, r;

	spool_name_as(l->name, e->number, e->kept ? ".stored" : ".batch");
	fd = open_file(l);
	r = fd < 0 ? fd : 0;
	if (r == 0 && !(quick && look_at_summary(l, e, fd)))
		r = look_at_blocks(l, e, fd);
	if (fd >= 0)
		(void)close(fd);
	if (r < 0 && r != -ENOENT)
		(void)fprintf(stderr, "metric-spool: %s/%s: %s\n", l->dir, l->name,
			      r == -ENOTSUP  ? "a newer version wrote this file"
			      : r == -EISDIR ? "not a regular file"
					     : strerror(-r));
	return r;
}
