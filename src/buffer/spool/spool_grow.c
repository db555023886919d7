#include "buffer/spool/spool_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crash_point.h"

/* ---- the list of those that are open ---- */

struct spool_file *
spool_file_find(struct spool *s, uint64_t number)
{
	struct spool_file *f = s->files;

	while (f && f->header.number != number)
		f = f->next;
	return f;
}

void
spool_file_close(struct spool_file *f)
{
	*(f->prev ? &f->prev->next : &f->spool->files) = f->next;
	if (f->next)
		f->next->prev = f->prev;
	if (f == f->spool->sync_next)
		f->spool->sync_next = f->next;
	(void)close(f->fd);
	free(f);
}

/* The file grows by so much. */
static void
file_grow(struct spool_file *f, uint64_t bytes)
{
	uint64_t *size = &f->header.summary.file_size, before = spool_disk_bytes(*size);

	*size += bytes;
	if (!f->removed)
		f->spool->bytes += spool_disk_bytes(*size) - before;
}

/* ---- writing ---- */

/*
 * Makes a file that has nothing but a header.  It gets its name once the header is in it, so
 * that a daemon that is killed in between does not leave a file that would be taken for damage.
 */
static int
file_make(const struct spool *s, const struct spool_header *h, int *ret)
{
	char name[SPOOL_NAME_MAX], temporary[SPOOL_NAME_MAX];
	uint8_t header[SPOOL_FILE_HEADER];
	struct stat st;
	int fd, r;

	spool_header_encode(header, h);
	spool_name(name, h->number);
	spool_name_as(temporary, h->number, SPOOL_NEW);
	r = fstatat(s->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 ? -EEXIST : -errno;
	if (r != -ENOENT)
		return r;
	fd = io_create(s, temporary);
	if (fd < 0)
		return fd;
	crash_point("before_file_header");
	r = io_write(fd, header, sizeof(header), 0);
	crash_point("after_file_header");
	if (r == 0 && renameat(s->fd, temporary, s->fd, name) < 0)
		r = -errno;
	if (r < 0) {
		(void)unlinkat(s->fd, temporary, 0);
		(void)close(fd);
		return r;
	}
	*ret = fd;
	return 0;
}

int
spool_create(struct spool *s, uint64_t number, uint64_t created_us, struct spool_file **ret)
{
	struct spool_file *f = calloc(1, sizeof(*f));
	int r;

	if (!f)
		return -ENOMEM;
	f->header.number = number;
	f->header.created_us = created_us;
	memcpy(f->header.collector, s->identity, sizeof(f->header.collector));
	r = file_make(s, &f->header, &f->fd);
	if (r < 0) {
		free(f);
		return r;
	}
	f->spool = s;
	f->changed = true;
	f->next = s->files;
	if (f->next)
		f->next->prev = f;
	s->files = f;
	file_grow(f, SPOOL_FILE_HEADER);
	*ret = f;
	return 0;
}

int
spool_append(struct spool_file *f, const uint8_t *frames, uint32_t len, uint32_t rows,
	     uint64_t min_us, uint64_t max_us)
{
	struct spool_summary *sum = &f->header.summary;
	uint8_t header[SPOOL_BLOCK_HEADER];
	int r;

	assert(!f->closed && rows > 0);
	if (len > SPOOL_BLOCK_MAX)
		return -EMSGSIZE;
	spool_block_encode(header, frames, len, rows);
	crash_point("before_block_write");
	r = io_write_block(f->fd, header, frames, len, sum->file_size);
	if (r < 0) {
		/* a remainder does no harm, but it would be found as damage */
		f->longer = ftruncate(f->fd, (off_t)sum->file_size) < 0;
		return r;
	}
	spool_summary_add(sum, len, rows, min_us, max_us);
	sum->blocks++;
	file_grow(f, SPOOL_BLOCK_HEADER + (uint64_t)len);
	f->changed = true;
	crash_point("after_block_write");
	return 0;
}

/* Nobody appends to it any more.  The next sync closes it; where none will come, and where it is
 * gone already, it is closed here. */
static void
file_let_go(struct spool_file *f)
{
	f->closed = true;
	if (f->removed || f->spool->sync == CONF_SYNC_NEVER)
		spool_file_close(f);
}

int
spool_write_summary(int fd, const struct spool_header *h)
{
	uint8_t header[SPOOL_FILE_HEADER];

	spool_header_encode(header, h);
	return io_write(fd, header + SPOOL_FILE_SUMMARY, SPOOL_FILE_HEADER - SPOOL_FILE_SUMMARY,
			SPOOL_FILE_SUMMARY);
}

int
spool_seal(struct spool_file *f)
{
	int r = 0;

	crash_point("before_seal");
	if (f->longer && ftruncate(f->fd, (off_t)f->header.summary.file_size) < 0)
		return -errno;
	f->header.sealed = true;
	r = spool_write_summary(f->fd, &f->header);
	if (r < 0) {
		f->header.sealed = false;
		return r;
	}
	f->changed = true;
	crash_point("after_seal");
	file_let_go(f);
	return 0;
}

void
spool_file_free(struct spool_file *f)
{
	if (f)
		file_let_go(f);
}
