#include "buffer/spool/spool_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <pwd.h>
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

/* ---- what the operator is told ---- */

#define USER_MAX 64

static void
user_name(char buf[USER_MAX], uid_t uid)
{
	const struct passwd *pw = getpwuid(uid); /* before any thread */

	if (pw)
		(void)snprintf(buf, USER_MAX, "%s", pw->pw_name);
	else
		(void)snprintf(buf, USER_MAX, "%lu", (unsigned long)uid);
}

/* The command that gives us what we are refused. */
static void
mend(char out[SPOOL_PATH_MAX + 64], const struct spool *s, const char *path, const struct stat *st,
     int error, const char *user)
{
	bool dir = S_ISDIR(st->st_mode);

	if (st->st_uid != geteuid())
		(void)snprintf(out, SPOOL_PATH_MAX + 64, "chown -R %s: %s", user, s->dir);
	else if (error == -EPERM)
		(void)snprintf(out, SPOOL_PATH_MAX + 64, "chattr -i %s", path);
	else
		(void)snprintf(out, SPOOL_PATH_MAX + 64, "chmod u+rw%s %s", dir ? "x" : "", path);
}

/*
 * Refuses to start since something in the spool (name; "" is the directory) cannot be used.  It may
 * be whole, and others may need nothing but a right to it.
 */
static int
refuse_use(const struct spool *s, char why[SPOOL_WHY_MAX], int error, const char *name,
	   const char *use)
{
	char path[SPOOL_PATH_MAX], user[USER_MAX], owner[USER_MAX], command[SPOOL_PATH_MAX + 64];
	struct stat st;

	if (*name)
		spool_path(s, name, path);
	else
		(void)snprintf(path, sizeof(path), "%s", s->dir);
	if ((error != -EACCES && error != -EPERM) || lstat(path, &st) < 0)
		return refuse(why, error, "spool %s: %s cannot be %s: %s", s->dir, path, use,
			      strerror(-error));
	user_name(user, geteuid());
	user_name(owner, st.st_uid);
	mend(command, s, path, &st, error, user);
	return refuse(
	    why, error,
	    "spool %s: %s belongs to user %s (mode %04o) and cannot be %s by user %s: %s; "
	    "'%s' mends it",
	    s->dir, path, owner, (unsigned)(st.st_mode & 07777), use, user, strerror(-error),
	    command);
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
	return s->fd < 0 ? refuse_use(s, why, -errno, "", "opened") : 0;
}

/* ---- the lock ---- */

/* Somebody may look for a moment whether it is taken: -EWOULDBLOCK only after a while. */
static int
lock_fd(int fd)
{
	const struct timespec pause = {.tv_nsec = LOCK_PAUSE_MS * 1000000L};
	int r = -EWOULDBLOCK;

	for (int i = 0; r == -EWOULDBLOCK && i < LOCK_TRIES; i++) {
		if (i > 0)
			(void)nanosleep(&pause, NULL);
		r = flock(fd, LOCK_EX | LOCK_NB) < 0 ? -errno : 0;
	}
	return r;
}

/*
 * What is there is no file, so nobody holds it: out of the way with it.  The directory itself is
 * the lock for that, lest another start move away what this one has made.
 */
static int
lock_clear(const struct spool *s)
{
	uint64_t size;
	int fd, r = lock_fd(s->fd);

	if (r < 0)
		return r;
	fd = io_open(s, "lock", O_RDWR, &size);
	if (fd >= 0)
		(void)close(fd);
	else if (io_is_damage(fd))
		r = io_move_aside(s, "lock");
	(void)flock(s->fd, LOCK_UN);
	return r;
}

static int
lock_open(struct spool *s)
{
	uint64_t size;
	int r = 0;

	s->lock_fd = io_open(s, "lock", O_RDWR, &size);
	if (io_is_damage(s->lock_fd))
		r = lock_clear(s);
	if (r == 0 && s->lock_fd < 0)
		s->lock_fd = io_open(s, "lock", O_RDWR | O_CREAT, &size);
	return r < 0 ? r : s->lock_fd;
}

static int
lock_take(struct spool *s, char why[SPOOL_WHY_MAX])
{
	char pid[32];
	struct stat st;
	int r = lock_open(s);

	if (r < 0 && fstatat(s->fd, "lock", &st, AT_SYMLINK_NOFOLLOW) < 0)
		return refuse_use(s, why, r, "", "written");
	if (r < 0)
		return refuse_use(s, why, r, "lock", "opened");
	r = lock_fd(s->lock_fd);
	if (r == -EWOULDBLOCK) {
		ssize_t n = pread(s->lock_fd, pid, sizeof(pid) - 1, 0);

		pid[n < 0 ? 0 : n] = '\0';
		pid[strspn(pid, "0123456789")] = '\0';
		return refuse(why, -EBUSY, "spool %s is in use by %s%s", s->dir,
			      *pid ? "process " : "another process", pid);
	}
	if (r < 0)
		return refuse(why, r,
			      "spool %s cannot be locked: %s: its file system does not know "
			      "flock(2), so nothing would keep a second daemon away: use another "
			      "one, or mount it with locks",
			      s->dir, strerror(-r));
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
 * Is that more than damage, so that the spool cannot be used now?  A disk that does not give one
 * batch is no reason not to start: recovery leaves the file where it is.
 */
static bool
forbids_use(int error)
{
	return error < 0 && error != -ENOENT && error != -EIO && !io_is_damage(error);
}

/* One file.  Recovery deals with damage. */
static int
look_at_file(struct spool *s, uint64_t number, const char *suffix, bool kept, uint64_t *bytes,
	     char why[SPOOL_WHY_MAX])
{
	char name[SPOOL_NAME_MAX];
	struct spool_header h;
	uint64_t size = 0;
	int r;

	spool_name_as(name, number, suffix);
	r = io_get_header(s, name, number, &h, &size);
	if (r == -ENOTSUP)
		return refuse(why, r,
			      "spool %s was written by a newer version of metric-collectord; "
			      "nothing in it was changed: use that version, or another directory",
			      s->dir);
	if (forbids_use(r))
		return refuse_use(s, why, r, name, "read");
	*bytes += io_disk_bytes(s, name);
	r = kept ? spool_kept_found(s, number, r == 0 ? &h : NULL) : 0;
	return r < 0 ? refuse_use(s, why, r, name, "read") : 0;
}

/* Looks at all files with that suffix; which number is the greatest? */
static int
look_at_files(struct spool *s, const char *suffix, bool kept, uint64_t *greatest, uint64_t *bytes,
	      char why[SPOOL_WHY_MAX])
{
	uint64_t *numbers;
	size_t n;
	int r = io_list(s, suffix, &numbers, &n);

	if (r < 0)
		return refuse_use(s, why, r, "", "read");
	for (size_t i = 0; r == 0 && i < n; i++)
		r = look_at_file(s, numbers[i], suffix, kept, bytes, why);
	/* counting does not go on from absurd numbers, which no daemon ever gave */
	while (n && numbers[n - 1] > SPOOL_NUMBER_MAX / 2)
		n--;
	if (n && numbers[n - 1] > *greatest)
		*greatest = numbers[n - 1];
	free(numbers);
	return r;
}

/* Who we are must be known: a disk that does not say it now may say it at the next start. */
static int
look_at_names(const struct spool *s, char why[SPOOL_WHY_MAX])
{
	static const char *const names[] = {"identity", "sequence", SPOOL_DATABASE};
	char text[TEXT_MAX];
	uint64_t version;
	int r = identity_version(s, &version, text);

	if (r == 0 && version > IDENTITY_VERSION)
		return refuse(why, -ENOTSUP,
			      "spool %s was written by a newer version of metric-collectord; "
			      "nothing in it was changed: use that version, or another directory",
			      s->dir);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		r = io_get_text(s, names[i], text, sizeof(text));
		if (r == -EIO || forbids_use(r))
			return refuse_use(s, why, r, names[i], "read");
	}
	return 0;
}

static int
look(struct spool *s, uint64_t *greatest, uint64_t *bytes, char why[SPOOL_WHY_MAX])
{
	int r = look_at_names(s, why);

	if (r == 0)
		r = look_at_files(s, SPOOL_BATCH, false, greatest, bytes, why);
	if (r == 0)
		r = look_at_files(s, SPOOL_STORED, true, greatest, bytes, why);
	return r;
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

int
spool_new_identity(struct spool *s)
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

int
spool_look_at_names(const char *dir, int *identity, int *sequence)
{
	struct spool s = {.fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
	uint64_t number;

	if (s.fd < 0)
		return -errno;
	*identity = identity_load(&s);
	*sequence = sequence_load(&s, &number);
	(void)close(s.fd);
	return 0;
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

	if (r_identity == -EIO || forbids_use(r_identity))
		return r_identity;
	if (r_sequence == -EIO || forbids_use(r_sequence))
		return r_sequence;
	if (r_identity < 0)
		set_aside(s, "identity", r_identity);
	if (r_sequence < 0)
		set_aside(s, "sequence", r_sequence);
	if (r_identity < 0 || r_sequence < 0)
		r = spool_new_identity(s);
	if (r < 0)
		return r;
	if (greatest >= sequence)
		sequence = greatest + 1;
	s->next = sequence;
	s->limit = sequence;
	r = spool_numbers_reserve(s);
	/* on a full disk they are low, and it is tried again: it is others who make room */
	return r == -ENOSPC || r == -EDQUOT ? 0 : r;
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
	r = names_load(s, greatest);
	if (r == 0)
		r = spool_sync_names(s); /* what an earlier run has removed shall not come back */
	if (r < 0)
		return refuse_use(s, why, r, "", "written");
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
	s->left_floor = UINT64_MAX;
	s->gone_floor = UINT64_MAX;
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
