/* sqlite_file.c - see sqlite_file.h. */
#include "store/sqlite/sqlite_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HINT_CREATE "make the database, or set database.create = true"
#define HINT_NO_FILE                                                                           \
	"move it away (mv PATH PATH.old), or name another file in database.uri; metrics wait " \
	"until then"
#define HINT_TRUNCATED                                                                          \
	"bring the file back from a backup, with its -wal; or move both away for a new one to " \
	"be made (mv FILE FILE.old; mv FILE-wal FILE.old-wal); metrics wait until then"

static enum store_status
hold(struct store_error *err, const char *path, const char *suffix, const char *what,
     const char *hint)
{
	(void)snprintf(err->text, sizeof(err->text), "%s%s: %s", path, suffix, what);
	err->hint = hint;
	return STORE_HOLD;
}

/* ---- a new one ---- */

/* Makes the last component of the database's directory, so that it survives a crash. */
static int
make_directory(const char *dir)
{
	char *copy;
	char *slash;
	int fd;

	if (mkdir(dir, 0750) < 0)
		return errno == EEXIST ? 0 : -errno;
	copy = strdup(dir);
	if (!copy)
		return -ENOMEM;
	slash = strrchr(copy, '/');
	if (slash)
		slash[slash == copy] = '\0';
	fd = open(slash ? copy : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0) {
		(void)fsync(fd);
		(void)close(fd);
	}
	free(copy);
	return 0;
}

/* SQLite makes a missing file, but not its directory, and says only "unable to open". */
static enum store_status
prepare_directory(const char *path, struct store_error *err)
{
	char *dir = strdup(path);
	char *slash;
	int r = 0;

	if (!dir) {
		(void)snprintf(err->text, sizeof(err->text), "%s", strerror(ENOMEM));
		return STORE_RETRY;
	}
	slash = strrchr(dir, '/');
	if (slash && slash != dir) {
		*slash = '\0';
		r = make_directory(dir);
	}
	if (r < 0) {
		(void)snprintf(err->text, sizeof(err->text), "cannot make the directory %s: %s",
			       dir, strerror(-r));
		err->hint = "make the directory and give it to the daemon's user, or change "
			    "database.uri";
	}
	free(dir);
	return r < 0 ? STORE_HOLD : STORE_OK;
}

/* ---- one that is there ---- */

static const char *
kind(mode_t mode)
{
	if (S_ISDIR(mode))
		return "is a directory, not a file";
	if (S_ISFIFO(mode))
		return "is a FIFO, not a file";
	if (S_ISSOCK(mode))
		return "is a socket, not a file";
	return "is a device, not a file";
}

/* *size is 0 for one that is missing, or cannot be looked at: SQLite says why. */
static enum store_status
check_one(const char *path, const char *suffix, off_t *size, struct store_error *err)
{
	char name[PATH_MAX];
	struct stat sb;

	*size = 0;
	(void)snprintf(name, sizeof(name), "%s%s", path, suffix);
	if (stat(name, &sb) < 0)
		return STORE_OK;
	if (!S_ISREG(sb.st_mode))
		return hold(err, path, suffix, kind(sb.st_mode), HINT_NO_FILE);
	*size = sb.st_size > 1 ? sb.st_size : 0; /* SQLite takes one byte for none */
	return STORE_OK;
}

static enum store_status
check_files(const char *path, off_t *size, struct store_error *err)
{
	off_t wal_size = 0, other;
	enum store_status status = check_one(path, "", size, err);

	if (status == STORE_OK)
		status = check_one(path, "-wal", &wal_size, err);
	if (status == STORE_OK)
		status = check_one(path, "-shm", &other, err);
	if (status == STORE_OK)
		status = check_one(path, "-journal", &other, err);
	if (status != STORE_OK)
		return status;
	/* SQLite would take it for a new one, and delete committed rows with the -wal. */
	if (*size == 0 && wal_size > 0 && access(path, F_OK) == 0)
		return hold(err, path, "", "is empty, but its -wal holds metrics", HINT_TRUNCATED);
	return STORE_OK;
}

enum store_status
sqlite_file_prepare(const struct conf_database *conf, bool make, struct store_error *err)
{
	off_t size;
	enum store_status status = check_files(conf->path, &size, err);
	bool missing;

	if (status != STORE_OK || size > 0)
		return status;
	missing = access(conf->path, F_OK) < 0 && errno == ENOENT;
	if (make && conf->create)
		return missing ? prepare_directory(conf->path, err) : STORE_OK;
	if (!missing && access(conf->path, F_OK) < 0)
		return STORE_OK; /* SQLite says why */
	err->setup = true;
	return hold(err, conf->path, "", missing ? "no such file" : "is empty", HINT_CREATE);
}
