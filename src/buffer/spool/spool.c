#include "buffer/spool/spool_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/crash_point.h"
#include "log/log.h"
#include "wire/crc32c.h"

#define TEXT_MAX 128 /* identity and sequence are shorter */

#define LOCK_TRIES 10
#define LOCK_PAUSE_MS 20

#define IDENTITY_TITLE "metric-collectord spool "
#define IDENTITY_VERSION 1

__attribute__((format(printf, 3, 4))) static int
refuse(char why[SPOOL_WHY_MAX], int error, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(why, SPOOL_WHY_MAX, fmt, ap);
	va_end(ap);
	return error;
}

void
spool_path(const struct spool *s, const char *name, char buf[SPOOL_PATH_MAX])
{
	(void)snprintf(buf, SPOOL_PATH_MAX, "%s/%s", s->dir, name);
}

void
spool_corrupt(const struct spool *s, const char *name, uint64_t lost_bytes, const char *error)
{
	char path[SPOOL_PATH_MAX];

	spool_path(s, name, path);
	log_event(LOG_ERR, "spool_corrupt", LOG_STR("file", path),
		  LOG_U64("lost_bytes", lost_bytes), LOG_STR("error", error));
}

/* ---- the directory ---- */

/* A new directory lasts once its parent has been synced. */
static int
parent_sync(const char *dir)
{
	char *copy = strdup(dir);
	int fd, r = 0;

	if (!copy)
		return -ENOMEM;
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(copy);
	if (fd < 0)
		return errno == EACCES ? 0 : -errno; /* we may go through it, not read it */
	if (fsync(fd) < 0)
		r = -errno;
	(void)close(fd);
	return r;
}

static int
dir_open(struct spool *s, char why[SPOOL_WHY_MAX])
{
	int r = 0;

	if (mkdir(s->dir, 0700) == 0)
		r = parent_sync(s->dir);
	else if (errno != EEXIST)
		r = -errno;
	if (r < 0)
		return refuse(why, r, "spool %s cannot be made: %s", s->dir, strerror(-r));
	s->fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->fd < 0) {
		r = -errno;
		return refuse(why, r, "spool %s cannot be opened: %s", s->dir, strerror(-r));
	}
	return 0;
}

/* metric-spool status takes the lock for a moment to see whether it is taken. */
static bool
lock_is_taken(int fd)
{
	const struct timespec pause = {.tv_nsec = LOCK_PAUSE_MS * 1000000L};

	for (int i = 0; i < LOCK_TRIES; i++) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK)
			return false;
		(void)nanosleep(&pause, NULL);
	}
	return true;
}

static int
lock_take(struct spool *s, char why[SPOOL_WHY_MAX])
{
	char pid[32];
	int r;

	s->lock_fd = openat(s->fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (s->lock_fd < 0) {
		r = -errno;
		return refuse(why, r, "spool %s cannot be locked: %s", s->dir, strerror(-r));
	}
	if (lock_is_taken(s->lock_fd)) {
		ssize_t n = pread(s->lock_fd, pid, sizeof(pid) - 1, 0);

		pid[n < 0 ? 0 : n] = '\0';
		pid[strspn(pid, "0123456789")] = '\0';
		return refuse(why, -EBUSY, "spool %s is in use by %s%s", s->dir,
			      *pid ? "process " : "another process", pid);
	}
	/* only for the message above: a full disk is no reason to fail here */
	(void)snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
	if (ftruncate(s->lock_fd, 0) == 0)
		(void)io_write(s->lock_fd, pid, strlen(pid), 0);
	return 0;
}

/* ---- looking before touching anything ---- */

static int
identity_version(const struct spool *s, uint64_t *version, char uuid[TEXT_MAX])
{
	char text[TEXT_MAX];
	size_t title = sizeof(IDENTITY_TITLE) - 1;
	char *end;
	int r = io_get_text(s, "identity", text, sizeof(text));

	if (r < 0)
		return r;
	if (strncmp(text, IDENTITY_TITLE, title) != 0 || text[title] < '1' || text[title] > '9')
		return -EBADMSG;
	errno = 0;
	*version = strtoull(text + title, &end, 10);
	if (errno || *end != '\n')
		return -EBADMSG;
	(void)snprintf(uuid, TEXT_MAX, "%s", end + 1);
	return 0;
}

/*
 * Looks at all files with that suffix: is one of a newer format, and which number is the greatest?
 */
static int
look_at_files(struct spool *s, const char *suffix, bool kept, uint64_t *greatest, uint64_t *bytes)
{
	uint64_t *numbers;
	size_t n;
	int r = io_list(s, suffix, &numbers, &n);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++) {
		char name[SPOOL_NAME_MAX];
		struct spool_header h;
		uint64_t size = 0;

		spool_name_as(name, numbers[i], suffix);
		r = io_get_header(s, name, numbers[i], &h, &size);
		if (r == -ENOTSUP)
			break;
		*bytes += io_disk_bytes(s, name);
		/* recovery deals with everything else */
		r = kept ? spool_kept_found(s, numbers[i], r == 0 ? &h : NULL) : 0;
		if (r < 0)
			break;
	}
	/* counting does not go on from absurd numbers, which no daemon ever gave */
	while (n && numbers[n - 1] > SPOOL_NUMBER_MAX / 2)
		n--;
	if (n && numbers[n - 1] > *greatest)
		*greatest = numbers[n - 1];
	free(numbers);
	return r;
}

static int
look(struct spool *s, uint64_t *greatest, uint64_t *bytes, char why[SPOOL_WHY_MAX])
{
	char uuid[TEXT_MAX];
	uint64_t version = 0;
	int r = identity_version(s, &version, uuid);

	if (r == 0 && version > IDENTITY_VERSION)
		r = -ENOTSUP;
	else
		r = look_at_files(s, SPOOL_BATCH, false, greatest, bytes);
	if (r == 0)
		r = look_at_files(s, SPOOL_STORED, true, greatest, bytes);
	if (r == -ENOTSUP)
		return refuse(why, r,
			      "spool %s was written by a newer version of metric-collectord; "
			      "nothing in it was changed: use that version, or another directory",
			      s->dir);
	if (r < 0)
		return refuse(why, r, "spool %s cannot be read: %s", s->dir, strerror(-r));
	return 0;
}

/* ---- identity and sequence ---- */

static int
identity_load(struct spool *s)
{
	uint8_t uuid[UUID_BYTES];
	char text[TEXT_MAX];
	uint64_t version;
	size_t len;
	int r = identity_version(s, &version, text);

	if (r < 0)
		return r;
	len = strlen(text);
	if (len != UUID_TEXT || text[len - 1] != '\n')
		return -EBADMSG;
	text[len - 1] = '\0';
	if (!uuid_parse(text, uuid))
		return -EBADMSG;
	uuid_format(s->identity, uuid);
	return 0;
}

static int
identity_make(struct spool *s)
{
	char text[TEXT_MAX];

	uuid_random(s->identity);
	(void)snprintf(text, sizeof(text), IDENTITY_TITLE "%d\n%s\n", IDENTITY_VERSION,
		       s->identity);
	return io_put_text(s, "identity", text);
}

/* "65537 8d6ad6a9\n": the number and, since a lower one would do harm, the CRC of its digits. */
static void
sequence_format(char text[TEXT_MAX], uint64_t number)
{
	int len = snprintf(text, TEXT_MAX, "%" PRIu64, number);

	(void)snprintf(text + len, TEXT_MAX - (size_t)len, " %08" PRIx32 "\n",
		       crc32c(0, text, (size_t)len));
}

static int
sequence_load(const struct spool *s, uint64_t *number)
{
	char text[TEXT_MAX], right[TEXT_MAX];
	uint64_t n;
	int r = io_get_text(s, "sequence", text, sizeof(text));

	if (r < 0)
		return r;
	errno = 0;
	n = strtoull(text, NULL, 10);
	sequence_format(right, n);
	if (errno || n == 0 || n > SPOOL_NUMBER_MAX || strcmp(text, right) != 0)
		return -EBADMSG;
	*number = n;
	return 0;
}

/* Says that numbers from this one on are free; lasting. */
static int
put_sequence(const struct spool *s, uint64_t number)
{
	char text[TEXT_MAX];
	int r;

	sequence_format(text, number);
	r = io_put_text(s, "sequence", text);
	/*
	 * Without numbers nothing is received, not even for a database that is well.  Writing in
	 * place needs no space; should it be cut short, the CRC tells, and a new identity is made.
	 */
	if (r == -ENOSPC || r == -EDQUOT)
		r = io_overwrite_text(s, "sequence", text);
	return r;
}

/* A damaged one is kept for the operator, and reported; one that is missing is not. */
static void
set_aside(const struct spool *s, const char *name, int error)
{
	uint64_t size = io_size(s, name);
	int r;

	if (error == -ENOENT)
		return;
	r = io_move_aside(s, name);
	spool_corrupt(s, name, size,
		      r < 0 ? "damaged, and it cannot be moved to corrupt/"
			    : "damaged; moved to corrupt/, and the spool got a new identity");
}

/*
 * Numbers are unique under one identity.  Where the sequence is lost, nobody knows which ones
 * were used (stored batches leave no file), so a new identity is made: under that none was.  It
 * must be on disk before the new sequence is.
 */
static int
names_load(struct spool *s, uint64_t greatest)
{
	uint64_t sequence = 1;
	int r_sequence = sequence_load(s, &sequence);
	int r_identity = identity_load(s);
	int r = 0;

	if (r_identity < 0)
		set_aside(s, "identity", r_identity);
	if (r_sequence < 0)
		set_aside(s, "sequence", r_sequence);
	if (r_identity < 0 || r_sequence < 0)
		r = identity_make(s);
	if (r < 0)
		return r;
	if (greatest >= sequence)
		sequence = greatest + 1;
	s->next = sequence;
	s->limit = sequence;
	(void)spool_numbers_reserve(s); /* on a full disk they are low, and it is tried again */
	return 0;
}

/* ---- open and close ---- */

static int
open_all(struct spool *s, char why[SPOOL_WHY_MAX])
{
	uint64_t greatest = 0, bytes = 0;
	int r = dir_open(s, why);

	if (r == 0)
		r = look(s, &greatest, &bytes, why);
	if (r == 0)
		r = lock_take(s, why);
	if (r < 0)
		return r;
	s->bytes = bytes;
	spool_kept_sort(s);
	r = names_load(s, greatest);
	if (r < 0)
		return refuse(why, r, "spool %s cannot be written: %s", s->dir, strerror(-r));
	(void)spool_reserve_make(s); /* on a full disk it is missing, and it is tried again */
	return 0;
}

int
spool_open(const char *dir, enum conf_sync sync, struct spool **ret, char why[SPOOL_WHY_MAX])
{
	struct spool *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return refuse(why, -ENOMEM, "spool %s: out of memory", dir);
	s->fd = -1;
	s->lock_fd = -1;
	s->sync = sync;
	(void)pthread_mutex_init(&s->kept_lock, NULL);
	s->dir = strdup(dir);
	r = s->dir ? open_all(s, why) : refuse(why, -ENOMEM, "spool %s: out of memory", dir);
	if (r < 0) {
		spool_free(s);
		return r;
	}
	*ret = s;
	return 0;
}

void
spool_free(struct spool *s)
{
	if (!s)
		return;
	while (s->files)
		spool_file_close(s->files);
	if (s->lock_fd >= 0)
		(void)close(s->lock_fd);
	if (s->fd >= 0)
		(void)close(s->fd);
	(void)pthread_mutex_destroy(&s->kept_lock);
	free(s->kept.entries);
	free(s->dir);
	free(s);
}

const char *
spool_identity(const struct spool *s)
{
	return s->identity;
}

uint64_t
spool_bytes(const struct spool *s)
{
	return s->bytes;
}

/* ---- numbers ---- */

uint64_t
spool_number(struct spool *s)
{
	uint64_t number = s->next;

	if (number >= s->limit)
		return 0;
	s->next = number + 1;
	return number;
}

bool
spool_numbers_low(const struct spool *s)
{
	return s->limit - s->next < SPOOL_NUMBERS / 2;
}

int
spool_numbers_reserve(struct spool *s)
{
	uint64_t limit = s->next + SPOOL_NUMBERS;
	int r = put_sequence(s, limit);

	if (r == 0)
		s->limit = limit;
	return r;
}
