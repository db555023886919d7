/*
 * spool_sync.c - everything that was written reaches the disk, or is known not to have.
 */
#include "buffer/spool/spool_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/crash_point.h"
#include "log/log.h"

/* ---- a file whose fdatasync failed ---- */

/*
 * After a failed fdatasync the kernel takes the pages for clean, and calling it again would
 * report success for data that never reached the disk.  So the content is read back (the page
 * cache may still have it, or the disk) and, if it is sound, written to a new file.
 */

/* Copies all blocks, which hold so many metrics; -EIO if they are not there any more. */
static int
copy_blocks(int from, int to, const struct spool_summary *sum)
{
	size_t len = (size_t)(sum->file_size - SPOOL_FILE_HEADER);
	struct spool_summary have = {0};
	size_t got, torn;
	uint8_t *data;
	int r;

	if (len == 0)
		return 0;
	data = malloc(len);
	if (!data)
		return -ENOMEM;
	r = io_read(from, data, len, SPOOL_FILE_HEADER, &got);
	if (r == 0) {
		spool_walk(data, got, &(struct spool_walk){0}, &have, &torn);
		if (have.blocks != sum->blocks || have.rows != sum->rows ||
		    have.bytes != sum->bytes)
			r = -EIO;
	}
	if (r == 0)
		r = io_write(to, data, len, SPOOL_FILE_HEADER);
	free(data);
	return r;
}

static int
write_header(int fd, const struct spool_header *h)
{
	uint8_t header[SPOOL_FILE_HEADER];

	spool_header_encode(header, h);
	return io_write(fd, header, sizeof(header), 0);
}

/* Writes the content to a new file, which takes the old one's name and place. */
static int
file_rewrite(struct spool *s, struct spool_file *f)
{
	char name[SPOOL_NAME_MAX], copy[SPOOL_NAME_MAX];
	int fd, r;

	spool_name_as(name, f->header.number, f->kept ? SPOOL_STORED : SPOOL_BATCH);
	spool_name_as(copy, f->header.number, SPOOL_NEW);
	fd = io_create(s, copy);
	if (fd < 0)
		return fd;
	r = copy_blocks(f->fd, fd, &f->header.summary);
	if (r == 0)
		r = write_header(fd, &f->header);
	if (r == 0)
		r = io_sync(s, fd);
	if (r == 0 && renameat(s->fd, copy, s->fd, name) < 0)
		r = -errno;
	if (r < 0) {
		(void)close(fd);
		(void)unlinkat(s->fd, copy, 0);
		return r;
	}
	(void)close(f->fd);
	f->fd = fd;
	f->longer = false;
	f->named = false;
	f->failed = false;
	f->changed = false;
	return 0;
}

/* ---- syncing ---- */

static int
file_sync(struct spool *s, struct spool_file *f)
{
	int r = 0;

	if (!f->failed) {
		r = io_sync(s, f->fd);
		if (r == 0) {
			f->changed = false;
			return 0;
		}
		f->failed = true;
		log_event_limited(
		    LOG_ERR, "spool_error/fdatasync", "spool_error",
		    LOG_U64("batch", f->header.number), LOG_STR("error", strerror(-r)),
		    LOG_STR("hint", "the spool's disk lost a write; the file is being "
				    "written anew"));
	}
	return file_rewrite(s, f);
}

uint64_t
spool_gone_floor(const struct spool *s)
{
	return s->gone_floor;
}

uint64_t
spool_left_floor(const struct spool *s)
{
	return s->left_floor;
}

int
spool_sync_names(struct spool *s)
{
	int r = io_sync(s, s->fd);

	if (r == 0)
		s->gone_floor = UINT64_MAX;
	return r;
}

/* One that nobody appends to is not needed any more, but its name may still have to be synced. */
static void
file_synced(struct spool *s, struct spool_file *f)
{
	if (!f->closed)
		return;
	s->names_due |= !f->named;
	spool_file_close(f);
}

/* Have all names reached the disk? */
static bool
names_due(const struct spool *s)
{
	const struct spool_file *f = s->files;

	while (f && (f->named || f->removed))
		f = f->next;
	return f || s->names_due;
}

static int
names_sync(struct spool *s)
{
	int r = names_due(s) ? spool_sync_names(s) : 0;

	if (r < 0)
		return r;
	s->names_due = false;
	for (struct spool_file *f = s->files; f; f = f->next)
		f->named = true;
	return 0;
}

/* What was removed needs no disk: the database has it. */
static void
sync_next(struct spool *s)
{
	struct spool_file *f = s->sync_next;
	int r;

	s->sync_next = f->next;
	if (f->removed)
		return;
	r = f->changed || f->failed ? file_sync(s, f) : 0;
	if (r < 0)
		s->sync_error = r;
	else
		file_synced(s, f);
}

static void
sync_begin(struct spool *s)
{
	crash_point("before_sync");
	s->syncing = true;
	s->sync_error = 0;
	s->sync_next = s->files; /* new ones come before it */
}

static int
sync_end(struct spool *s)
{
	int r = s->sync_error;

	s->syncing = false;
	if (r == 0)
		r = names_sync(s);
	crash_point("after_sync");
	return r;
}

int
spool_sync_some(struct spool *s, uint64_t until_ms)
{
	if (s->sync == CONF_SYNC_NEVER)
		return 0;
	if (!s->syncing)
		sync_begin(s);
	while (s->sync_next) {
		sync_next(s);
		if (s->sync_next && clock_ms() >= until_ms)
			return 1;
	}
	return sync_end(s);
}

int
spool_sync(struct spool *s)
{
	s->syncing = false;
	return spool_sync_some(s, UINT64_MAX);
}
