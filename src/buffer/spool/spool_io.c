#include "buffer/spool/spool_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define COPY_BYTES 65536
#define PAGE_BYTES 4096
#define SUFFIX_MAX 1000 /* things of one name in corrupt/ */
#define CORRUPT_NAME_MAX (SPOOL_NAME_MAX + 48)

int
io_write(int fd, const void *data, size_t len, uint64_t offset)
{
	const uint8_t *p = data;

	while (len > 0) {
		ssize_t n = pwrite(fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		p += n;
		len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

int
io_write_block(int fd, const uint8_t *header, const uint8_t *frames, size_t len, uint64_t offset)
{
	struct iovec iov[2] = {
	    {(void *)(uintptr_t)header, SPOOL_BLOCK_HEADER},
	    {(void *)(uintptr_t)frames, len},
	};
	size_t done;
	ssize_t n;
	int r;

	do
		n = pwritev(fd, iov, 2, (off_t)offset);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	done = (size_t)n;
	if (done < SPOOL_BLOCK_HEADER) {
		r = io_write(fd, header + done, SPOOL_BLOCK_HEADER - done, offset + done);
		if (r < 0)
			return r;
		done = SPOOL_BLOCK_HEADER;
	}
	return io_write(fd, frames + (done - SPOOL_BLOCK_HEADER), len - (done - SPOOL_BLOCK_HEADER),
			offset + done);
}

int
io_read(int fd, void *data, size_t len, uint64_t offset, size_t *got)
{
	uint8_t *p = data;

	*got = 0;
	while (*got < len) {
		ssize_t n = pread(fd, p + *got, len - *got, (off_t)(offset + *got));

		if (n == 0)
			break;
		if (n < 0 && errno != EINTR)
			return -errno;
		*got += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

int
io_salvage(int fd, void *data, size_t len, uint64_t offset, size_t *got)
{
	uint8_t *p = data;
	struct stat st;
	size_t n;
	int r = io_read(fd, data, len, offset, got);

	if (r != -EIO)
		return r;
	if (fstat(fd, &st) < 0)
		return -errno;
	*got = 0;
	if ((uint64_t)st.st_size <= offset)
		return 0;
	if ((uint64_t)st.st_size - offset < len)
		len = (size_t)((uint64_t)st.st_size - offset);
	while (*got < len) { /* find out which pages are bad */
		size_t want = len - *got < PAGE_BYTES ? len - *got : PAGE_BYTES;

		r = io_read(fd, p + *got, want, offset + *got, &n);
		if (r == -EIO)
			memset(p + *got, 0, n = want);
		else if (r < 0 || n == 0)
			return r;
		*got += n;
	}
	return 0;
}

uint64_t
io_next(int fd, uint64_t offset)
{
	off_t next = lseek(fd, (off_t)offset, SEEK_DATA);
	struct stat st;

	if (next < 0 && errno == ENXIO && fstat(fd, &st) == 0)
		next = st.st_size; /* nothing but a hole is left */
	return next > 0 && (uint64_t)next > offset ? (uint64_t)next : offset;
}

int
io_sync(const struct spool *s, int fd)
{
	spool_sync_hook *hook = s->hook;

	if (hook)
		return hook(s->hook_arg, fd);
	return (fd == s->fd ? fsync(fd) : fdatasync(fd)) < 0 ? -errno : 0;
}

int
io_open(const struct spool *s, const char *name, int flags, uint64_t *size)
{
	/* O_NONBLOCK: a fifo of that name must not keep us waiting */
	int fd = openat(s->fd, name, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
	struct stat st;
	int r = 0;

	*size = 0; /* compilers do not know that -errno is negative */
	if (fd < 0)
		return errno == ENXIO || errno == ENODEV ? -EISDIR : -errno;
	if (fstat(fd, &st) < 0)
		r = -errno;
	else if (!S_ISREG(st.st_mode))
		r = -EISDIR;
	if (r < 0) {
		(void)close(fd);
		return r;
	}
	*size = (uint64_t)st.st_size;
	return fd;
}

uint64_t
io_size(const struct spool *s, const char *name)
{
	struct stat st;

	if (fstatat(s->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
		return 0;
	return (uint64_t)st.st_size;
}

uint64_t
io_disk_bytes(const struct spool *s, const char *name)
{
	return spool_disk_bytes(io_size(s, name));
}

bool
io_is_damage(int error)
{
	return error == -EBADMSG || error == -EISDIR || error == -ELOOP || error == -EFBIG ||
	       error == -ENODATA;
}

int
io_create(const struct spool *s, const char *name)
{
	int fd, r = 0;

	if (unlinkat(s->fd, name, 0) < 0 && errno != ENOENT)
		r = errno == EISDIR ? io_move_aside(s, name) : -errno;
	if (r < 0)
		return r;
	fd = openat(s->fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

int
io_put_text(const struct spool *s, const char *name, const char *text)
{
	char temporary[SPOOL_NAME_MAX];
	int fd, r;

	(void)snprintf(temporary, sizeof(temporary), "%s.new", name);
	fd = io_create(s, temporary);
	if (fd < 0)
		return fd;
	r = io_write(fd, text, strlen(text), 0);
	if (r == 0)
		r = io_sync(s, fd);
	(void)close(fd);
	if (r == 0 && renameat(s->fd, temporary, s->fd, name) < 0)
		r = -errno;
	if (r == 0)
		return io_sync(s, s->fd);
	(void)unlinkat(s->fd, temporary, 0);
	return r;
}

int
io_overwrite_text(const struct spool *s, const char *name, const char *text)
{
	uint64_t size;
	int fd = io_open(s, name, O_WRONLY, &size);
	int r;

	if (fd < 0)
		return fd;
	r = io_write(fd, text, strlen(text), 0);
	if (r == 0)
		r = io_sync(s, fd);
	(void)close(fd);
	return r;
}

int
io_get_text(const struct spool *s, const char *name, char *text, size_t size)
{
	uint64_t len = 0;
	size_t got;
	int fd = io_open(s, name, O_RDONLY, &len);
	int r;

	if (fd < 0)
		return fd;
	r = len < size ? io_read(fd, text, size - 1, 0, &got) : -EFBIG;
	(void)close(fd);
	if (r == 0)
		text[got] = '\0';
	return r;
}

int
io_get_header(const struct spool *s, const char *name, uint64_t number, struct spool_header *ret,
	      uint64_t *size)
{
	uint8_t bytes[SPOOL_FILE_HEADER];
	struct spool_header h;
	size_t got;
	int fd = io_open(s, name, O_RDONLY, size);
	int r;

	if (fd < 0)
		return fd;
	r = io_read(fd, bytes, sizeof(bytes), 0, &got);
	(void)close(fd);
	if (r == 0)
		r = spool_header_decode(bytes, got, &h);
	if (r == 0 && h.number != number)
		r = -EBADMSG;
	if (r == 0)
		*ret = h;
	return r;
}

static int
list_add(uint64_t **list, size_t *n, uint64_t number)
{
	uint64_t *grown = *list;

	if ((*n & (*n - 1)) == 0) /* a power of two: full */
		grown = realloc(*list, (*n ? *n * 2 : 1) * sizeof(**list));
	if (!grown)
		return -ENOMEM;
	grown[(*n)++] = number;
	*list = grown;
	return 0;
}

int
io_list(const struct spool *s, const char *suffix, uint64_t **ret, size_t *n)
{
	int fd = openat(s->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	uint64_t *list = NULL;
	size_t count = 0;
	int r = 0;

	*ret = NULL; /* as in io_open() */
	*n = 0;
	if (!dir) {
		r = -errno;
		if (fd >= 0)
			(void)close(fd);
		return r;
	}
	while (r == 0) {
		struct dirent *d;
		uint64_t number;

		errno = 0;
		d = readdir(dir);
		if (!d) {
			r = -errno;
			break;
		}
		if (spool_name_parse_as(d->d_name, suffix, &number))
			r = list_add(&list, &count, number);
	}
	(void)closedir(dir);
	if (r < 0) {
		free(list);
		return r;
	}
	if (count)
		qsort(list, count, sizeof(*list), spool_number_compare);
	*ret = list;
	*n = count;
	return 0;
}

/* ---- corrupt/ ---- */

static int
corrupt_open(const struct spool *s)
{
	int fd;

	if (mkdirat(s->fd, "corrupt", 0700) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(s->fd, "corrupt", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Holes stay holes: the stretch may claim to be longer than the disk is. */
static int
copy_stretch(int from, uint64_t offset, int to, uint64_t len)
{
	uint8_t buf[COPY_BYTES];
	uint64_t at = 0;

	while ((at = io_next(from, offset + at) - offset) < len) {
		size_t want = len - at < sizeof(buf) ? (size_t)(len - at) : sizeof(buf);
		size_t got;
		int r = io_salvage(from, buf, want, offset + at, &got);

		if (r == 0 && got == 0)
			r = -EIO;
		if (r == 0)
			r = io_write(to, buf, got, at);
		if (r < 0)
			return r;
		at += got;
	}
	return ftruncate(to, (off_t)len) < 0 ? -errno : 0;
}

static bool
same_stretch(int from, uint64_t offset, int dir, const char *name, uint64_t len)
{
	uint8_t a[PAGE_BYTES], b[PAGE_BYTES];
	int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	bool same;
	struct stat st;

	if (fd < 0)
		return false;
	same = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == len;
	for (uint64_t at = 0; same && at < len; at += sizeof(a)) {
		size_t want = len - at < sizeof(a) ? (size_t)(len - at) : sizeof(a);
		size_t x = 0, y = 0;

		same = io_salvage(from, a, want, offset + at, &x) == 0 &&
		       io_salvage(fd, b, want, at, &y) == 0 && x == want && y == want &&
		       memcmp(a, b, want) == 0;
	}
	(void)close(fd);
	return same;
}

static void
corrupt_name(char out[CORRUPT_NAME_MAX], const char *stem, unsigned suffix)
{
	if (suffix)
		(void)snprintf(out, CORRUPT_NAME_MAX, "%s-%u", stem, suffix);
	else
		(void)snprintf(out, CORRUPT_NAME_MAX, "%s", stem);
}

static int
save_as(const struct spool *s, int dir, const char *name, int fd, uint64_t offset, uint64_t len)
{
	int to = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	int r;

	if (to < 0)
		return -errno;
	r = copy_stretch(fd, offset, to, len);
	if (r == 0)
		r = io_sync(s, to);
	(void)close(to);
	if (r == 0 && fsync(dir) < 0)
		r = -errno;
	if (r < 0)
		(void)unlinkat(dir, name, 0);
	return r;
}

int
io_save(const struct spool *s, const char *name, int fd, uint64_t offset, uint64_t len)
{
	char stem[CORRUPT_NAME_MAX - 8], target[CORRUPT_NAME_MAX];
	int dir = corrupt_open(s);
	int r = -EEXIST;

	if (dir < 0)
		return dir;
	(void)snprintf(stem, sizeof(stem), "%s.%llu", name, (unsigned long long)offset);
	for (unsigned i = 0; r == -EEXIST && i < SUFFIX_MAX; i++) {
		corrupt_name(target, stem, i);
		r = save_as(s, dir, target, fd, offset, len);
		if (r == 0)
			r = 1;
		else if (r == -EEXIST && same_stretch(fd, offset, dir, target, len))
			r = 0;
	}
	(void)close(dir);
	return r;
}

int
io_move_aside(const struct spool *s, const char *name)
{
	char target[CORRUPT_NAME_MAX];
	int dir = corrupt_open(s);
	struct stat st;
	int r = -EEXIST;

	if (dir < 0)
		return dir;
	/* looking first suffices: the lock makes us the only one who adds files here */
	for (unsigned i = 0; r == -EEXIST && i < SUFFIX_MAX; i++) {
		corrupt_name(target, name, i);
		if (fstatat(dir, target, &st, AT_SYMLINK_NOFOLLOW) == 0)
			continue;
		r = errno == ENOENT ? 0 : -errno;
		if (r == 0 && renameat(s->fd, name, dir, target) < 0)
			r = -errno;
	}
	(void)close(dir);
	return r;
}
