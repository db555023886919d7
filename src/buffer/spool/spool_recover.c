#include "buffer/spool/spool_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "buffer/spool/spool_judge.h"
#include "log/log.h"
#include "wire/bytes.h"

/* A batch of the greatest configurable size, in blocks of one short metric each, is smaller. */
#define SCAN_MAX (UINT64_C(4) << 30)

#define STRETCHES_MAX 64

struct stretch {
	uint64_t offset;
	uint64_t len;
};

/* What a look at a whole file has found. */
struct scan {
	uint8_t *data; /* room for a header, then the sound blocks back to back */
	size_t end, room;
	int error;                  /* memory was short */
	struct spool_header header; /* as a sealed file with only these blocks has it */
	struct stretch bad[STRETCHES_MAX];
	unsigned n_bad;
	uint64_t lost;   /* bytes */
	size_t torn;     /* bytes, of a file that was growing */
	const char *why; /* what was wrong; NULL = nothing */
};

static void
bad_add(struct scan *sc, uint64_t offset, uint64_t len)
{
	struct stretch *last;

	if (len == 0)
		return;
	sc->lost += len;
	sc->why = "damaged blocks; their bytes are in corrupt/";
	if (sc->n_bad < STRETCHES_MAX) {
		sc->bad[sc->n_bad++] = (struct stretch){offset, len};
		return;
	}
	/* this many: save the rest in one piece, with the sound blocks in between */
	last = &sc->bad[STRETCHES_MAX - 1];
	last->len = offset + len - last->offset;
}

static void
found_damage(void *arg, size_t offset, size_t len)
{
	bad_add(arg, offset, len);
}

static int
scan_reserve(struct scan *sc, size_t room)
{
	uint8_t *grown;

	if (room <= sc->room)
		return 0;
	if (room < 2 * sc->room)
		room = 2 * sc->room;
	grown = realloc(sc->data, room);
	if (!grown)
		return -ENOMEM;
	sc->data = grown;
	sc->room = room;
	return 0;
}

static void
found_block(void *arg, size_t offset, const uint8_t *frames, uint32_t len, uint32_t rows)
{
	struct scan *sc = arg;
	size_t size = SPOOL_BLOCK_HEADER + (size_t)len;

	(void)offset;
	(void)rows;
	if (sc->error == 0)
		sc->error = scan_reserve(sc, sc->end + size);
	if (sc->error < 0)
		return;
	memcpy(sc->data + sc->end, frames - SPOOL_BLOCK_HEADER, size);
	sc->end += size;
}

/*
 * What a verdict means here.  Where the header is damaged, the blocks may be sound, and the batch
 * is taken for what its name says it is, and for ours.
 */
static int
scan_verdict(const struct spool *s, uint64_t number, const struct spool_verdict *v, struct scan *sc)
{
	const struct spool_summary *sealed = &v->header.summary;

	if (v->other_number)
		return -EBADMSG;
	sc->header = v->header;
	if (!v->header_sound) {
		sc->header.number = number;
		memcpy(sc->header.collector, s->identity, sizeof(sc->header.collector));
	}
	if (v->header.sealed && v->sound.rows < sealed->rows) {
		uint64_t gone = sealed->file_size - v->sound.file_size;

		sc->lost = sc->lost > gone ? sc->lost : gone;
		sc->why = sc->why ? sc->why : "the file is shorter than it was";
	}
	sc->header.sealed = true;
	sc->header.summary = v->sound;
	sc->torn = v->torn;
	return 0;
}

/* What is read, and how. */
struct content {
	int fd;
	bool salvage;
};

static int
get_content(void *arg, uint8_t *data, size_t len, uint64_t offset, size_t *got)
{
	const struct content *c = arg;

	return (c->salvage ? io_salvage : io_read)(c->fd, data, len, offset, got);
}

static uint64_t
next_content(void *arg, uint64_t offset)
{
	const struct content *c = arg;

	return io_next(c->fd, offset);
}

/* Reads and judges a file.  The caller frees sc->data, also after an error. */
static int
scan_file(const struct spool *s, uint64_t number, int fd, uint64_t size, struct scan *sc)
{
	const struct spool_walk walk = {found_block, found_damage, sc};
	struct content from = {fd, s->salvage};
	const struct spool_content content = {get_content, next_content, &from, size};
	struct spool_verdict v;
	int r;

	memset(sc, 0, sizeof(*sc));
	sc->end = SPOOL_FILE_HEADER;
	if (size > SCAN_MAX)
		return -EFBIG;
	r = scan_reserve(sc, SPOOL_FILE_HEADER);
	if (r == 0)
		r = spool_judge(&content, number, &walk, &v);
	if (r == 0)
		r = sc->error;
	return r == 0 ? scan_verdict(s, number, &v, sc) : r;
}

/* ---- what is to be done about it ---- */

/* Saves the damaged stretches; returns whether all of them are safe. */
static bool
save_damage(const struct spool *s, const char *name, int fd, const struct scan *sc)
{
	bool news = sc->n_bad == 0;
	int error = 0;

	for (unsigned i = 0; i < sc->n_bad; i++) {
		int r = io_save(s, name, fd, sc->bad[i].offset, sc->bad[i].len);

		if (r < 0)
			error = r;
		news |= r != 0;
	}
	if (news) /* not when a try that was cut short has said so already */
		spool_corrupt(s, name, sc->lost,
			      error ? "damaged blocks, which cannot be saved in corrupt/"
				    : sc->why);
	return error == 0;
}

static void
move_aside(const struct spool *s, const char *name, uint64_t lost, const char *why)
{
	char text[256];
	int r = io_move_aside(s, name);

	if (r < 0)
		(void)snprintf(text, sizeof(text), "%s; it cannot be moved to corrupt/: %s", why,
			       strerror(-r));
	else
		(void)snprintf(text, sizeof(text), "%s; moved to corrupt/", why);
	spool_corrupt(s, name, lost, text);
}

static bool
same_file(const struct spool *s, const char *name, int fd)
{
	struct stat a, b;

	return fstatat(s->fd, name, &a, AT_SYMLINK_NOFOLLOW) == 0 && fstat(fd, &b) == 0 &&
	       a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Replaces the file by one that holds the sound blocks alone. */
static int
replace_file(struct spool *s, const char *name, int old, struct scan *sc)
{
	char copy[SPOOL_NAME_MAX];
	int fd, r;

	spool_name_as(copy, sc->header.number, SPOOL_NEW);
	fd = io_create(s, copy);
	if (fd < 0)
		return fd;
	spool_header_encode(sc->data, &sc->header);
	r = io_write(fd, sc->data, sc->end, 0);
	if (r == 0)
		r = io_sync(s, fd);
	(void)close(fd);
	if (r == 0 && !same_file(s, name, old))
		r = -ENOENT;
	if (r == 0 && renameat(s->fd, copy, s->fd, name) < 0)
		r = -errno;
	if (r == 0)
		return io_sync(s, s->fd);
	(void)unlinkat(s->fd, copy, 0);
	return r;
}

/* Cuts a torn end off and writes the summary, which needs no space that is not there. */
static int
seal_in_place(const struct spool *s, const char *name, const struct scan *sc)
{
	uint64_t size;
	int fd = io_open(s, name, O_RDWR, &size);
	int r = 0;

	if (fd < 0)
		return fd;
	if (size > sc->end && ftruncate(fd, (off_t)sc->end) < 0)
		r = -errno;
	if (r == 0)
		r = spool_write_summary(fd, &sc->header);
	if (r == 0)
		r = io_sync(s, fd);
	(void)close(fd);
	return r;
}

/* ---- at start ---- */

/* It cannot be read now.  That says nothing of what is in it: perhaps the next start can. */
static void
leave(struct spool *s, const char *name, int error)
{
	char path[SPOOL_PATH_MAX];
	uint64_t number;

	if (spool_name_parse(name, &number) && number < s->left_floor)
		s->left_floor = number;
	spool_path(s, name, path);
	log_event(LOG_ERR, "spool_error", LOG_STR("file", path), LOG_STR("error", strerror(-error)),
		  LOG_STR("hint", error == -EIO
				      ? "the file stays where it is, and the next start tries "
					"again; what can be read of it, 'metric-spool repair' saves"
				      : "the file stays where it is, and the next start tries "
					"again"));
}

static void
recover_unreadable(struct spool *s, const char *name, int error)
{
	if (error == -ENOENT)
		return;
	if (io_is_damage(error))
		move_aside(s, name, io_size(s, name), "not a regular file");
	else
		leave(s, name, error);
}

/* A file without a sound block: deleted if it never had one, moved aside if it had. */
static void
recover_empty(const struct spool *s, const char *name, uint64_t size, const struct scan *sc)
{
	if (sc->why)
		move_aside(s, name, size, "holds no sound block");
	else
		(void)unlinkat(s->fd, name, 0);
}

static bool
recover_scan(struct spool *s, const char *name, int fd, uint64_t size, struct scan *sc)
{
	uint64_t rows = sc->header.summary.rows;
	char path[SPOOL_PATH_MAX];
	int r = 0;

	spool_path(s, name, path);
	if (sc->torn)
		log_event(LOG_NOTICE, "spool_torn", LOG_STR("file", path),
			  LOG_U64("bytes", sc->torn));
	if (rows == 0) {
		recover_empty(s, name, size, sc);
		return false;
	}
	if (!sc->why)
		r = seal_in_place(s, name, sc);
	else if (save_damage(s, name, fd, sc))
		r = replace_file(s, name, fd, sc);
	if (r < 0) /* reading it will give the same again */
		log_event(LOG_WARNING, "spool_error", LOG_STR("file", path),
			  LOG_STR("error", strerror(-r)),
			  LOG_STR("hint", "the file could not be repaired, and stays as it is"));
	return true;
}

/* Is there a batch of that number now?  Then *ret describes it. */
static bool
recover_file(struct spool *s, uint64_t number, const char *name, struct spool_header *ret)
{
	struct scan sc;
	uint64_t size;
	bool found = false;
	int r = io_get_header(s, name, number, ret, &size);
	int fd;

	if (r == 0 && ret->sealed && ret->summary.file_size == size && ret->summary.rows)
		return true;
	fd = io_open(s, name, O_RDONLY, &size);
	if (fd < 0) {
		recover_unreadable(s, name, fd);
		return false;
	}
	r = scan_file(s, number, fd, size, &sc);
	if (r == 0)
		found = recover_scan(s, name, fd, size, &sc);
	else if (r == -EBADMSG)
		move_aside(s, name, size, "a file of another number");
	else if (r == -EFBIG)
		move_aside(s, name, size, "too large for a batch");
	else
		leave(s, name, r);
	if (found)
		*ret = sc.header;
	free(sc.data);
	(void)close(fd);
	return found;
}

/* What was being made when the daemon died: nothing in it counts, and what it replaces is there. */
static void
remove_copies(struct spool *s)
{
	uint64_t *numbers;
	size_t n;

	if (io_list(s, SPOOL_NEW, &numbers, &n) < 0)
		return;
	for (size_t i = 0; i < n; i++) {
		char name[SPOOL_NAME_MAX];

		spool_name_as(name, numbers[i], SPOOL_NEW);
		(void)unlinkat(s->fd, name, 0);
	}
	free(numbers);
}

void
spool_salvage(struct spool *s)
{
	s->salvage = true;
}

int
spool_recover(struct spool *s, spool_found_fn *found, void *arg)
{
	uint64_t *numbers;
	size_t n;
	int r = io_list(s, SPOOL_BATCH, &numbers, &n);

	if (r < 0)
		return r;
	remove_copies(s);
	for (size_t i = 0; i < n; i++) {
		char name[SPOOL_NAME_MAX];
		struct spool_header h;
		uint64_t before;
		bool there;

		spool_name(name, numbers[i]);
		before = io_disk_bytes(s, name);
		there = recover_file(s, numbers[i], name, &h);
		s->bytes += io_disk_bytes(s, name) - before;
		if (there)
			found(arg, &h);
	}
	free(numbers);
	return 0;
}

/* ---- reading back ---- */

/* Drops the headers of the blocks, which are known to be sound. */
static void
strip_blocks(struct scan *sc)
{
	size_t at = SPOOL_FILE_HEADER, to = 0;

	while (at < sc->end) {
		size_t len = be32_load(sc->data + at + 4);

		memmove(sc->data + to, sc->data + at + SPOOL_BLOCK_HEADER, len);
		at += SPOOL_BLOCK_HEADER + len;
		to += len;
	}
}

/*
 * Opens a batch's file.  A kept one that is to be stored again may have either name, and get the
 * other in between.
 */
static int
open_batch(const struct spool *s, uint64_t number, uint64_t *size)
{
	static const char *const suffixes[] = {SPOOL_BATCH, SPOOL_STORED, SPOOL_BATCH};
	int fd = -ENOENT;

	for (int i = 0; i < 3 && fd == -ENOENT; i++) {
		char name[SPOOL_NAME_MAX];

		spool_name_as(name, number, suffixes[i]);
		fd = io_open(s, name, O_RDONLY, size);
	}
	return fd;
}

/* Reads and judges the file of a batch.  The caller frees sc->data, and closes *fd. */
static int
scan_batch(const struct spool *s, uint64_t number, struct scan *sc, int *fd)
{
	uint64_t size;
	int r;

	sc->data = NULL;
	*fd = open_batch(s, number, &size);
	r = *fd < 0 ? *fd : scan_file(s, number, *fd, size, sc);
	return io_is_damage(r) || (r == 0 && sc->header.summary.rows == 0) ? -ENODATA : r;
}

int
spool_read(const struct spool *s, uint64_t number, uint8_t **data, struct spool_summary *sum,
	   bool *damaged)
{
	struct scan sc;
	int fd, r = scan_batch(s, number, &sc, &fd);

	if (fd >= 0)
		(void)close(fd);
	*damaged = r == -ENODATA || (r == 0 && sc.why);
	if (r < 0) {
		free(sc.data);
		return r;
	}
	strip_blocks(&sc);
	*data = sc.data;
	*sum = sc.header.summary;
	return 0;
}

void
spool_repair(struct spool *s, uint64_t number)
{
	struct spool_file *f = spool_file_find(s, number);
	char name[SPOOL_NAME_MAX];
	struct scan sc;
	int fd, r = scan_batch(s, number, &sc, &fd);

	spool_name(name, number);
	/* one that is not synced yet keeps its file, which the spool will close */
	if (r == 0 && sc.why && save_damage(s, name, fd, &sc) && !f) {
		uint64_t before = io_disk_bytes(s, name);

		(void)replace_file(s, name, fd, &sc);
		s->bytes += io_disk_bytes(s, name) - before;
	}
	free(sc.data);
	if (fd >= 0)
		(void)close(fd);
}

void
spool_set_aside(struct spool *s, uint64_t number)
{
	char name[SPOOL_NAME_MAX];
	uint64_t size;

	spool_name(name, number);
	size = io_size(s, name);
	move_aside(s, name, size, "holds no sound block");
	if (io_size(s, name) == 0)
		spool_name_gone(s, number, spool_disk_bytes(size));
}
