/* sqlite_db.c - see sqlite_db.h. */
#include "store/sqlite/sqlite_db.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "log/log.h"
#include "store/migrate.h"

#define FLAVOUR "sqlite"

#define PROGRESS_OPS 20000 /* of SQLite's machine, a few ms: how often stop_fd is looked at */
#define BUSY_STEP_MS 20

#define US_PER_SECOND UINT64_C(1000000)
#define US_PER_DAY (86400 * US_PER_SECOND)

static const char *const statement_sql[ST_COUNT] = {
    [ST_BEGIN] = "BEGIN IMMEDIATE",
    [ST_COMMIT] = "COMMIT",
    [ST_ROLLBACK] = "ROLLBACK",
    [ST_LEDGER] = "INSERT INTO metric_collectord_batches (collector, batch, rows, bytes, "
		  "rejected, min_time, max_time, stored_at, opened) "
		  "VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?7, ?8)",
    [ST_LEDGER_COUNT] = "UPDATE metric_collectord_batches SET rows = ?3, rejected = ?4 "
			"WHERE collector = ?1 AND batch = ?2",
    [ST_LEDGER_FIT] = "SELECT rows, rejected, bytes, opened, min_time <= ?3 AND "
		      "max_time >= ?4 FROM metric_collectord_batches "
		      "WHERE collector = ?1 AND batch = ?2",
    [ST_LEDGER_HAS] = "SELECT 1 FROM metric_collectord_batches WHERE collector = ?1 AND batch = ?2",
    [ST_LEDGER_OLD] =
	"SELECT max(batch) FROM (SELECT batch FROM metric_collectord_batches "
	"WHERE collector = ?1 AND batch < ?2 AND stored_at < ?3 ORDER BY batch LIMIT ?4)",
    [ST_LEDGER_SETTLE] = "DELETE FROM metric_collectord_batches "
			 "WHERE collector = ?1 AND batch <= ?2 AND stored_at < ?3",
    [ST_METRIC] = "INSERT INTO metrics (time, metric_name, value) VALUES (?1, ?2, ?3)",
    [ST_REJECT] = "INSERT INTO metric_collectord_rejected (time, name, value, reason, error, "
		  "collector, batch, rejected_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
};

/* ---- times as text ---- */

static void
put_digits(char *p, unsigned n, uint64_t v)
{
	while (n-- > 0) {
		p[n] = (char)('0' + v % 10);
		v /= 10;
	}
}

const char *
iso_time(struct iso_time *t, uint64_t us)
{
	uint64_t day = us / US_PER_DAY;
	uint64_t second = us % US_PER_DAY / US_PER_SECOND;

	if (day != t->day) {
		time_t midnight = (time_t)(day * 86400);
		struct tm tm = {0};

		(void)gmtime_r(&midnight, &tm);
		memcpy(t->text, "yyyy-mm-ddThh:mm:ss.uuuuuuZ", ISO_TIME_LEN);
		put_digits(t->text, 4, (uint64_t)tm.tm_year + 1900);
		put_digits(t->text + 5, 2, (uint64_t)tm.tm_mon + 1);
		put_digits(t->text + 8, 2, (uint64_t)tm.tm_mday);
		t->day = day;
	}
	put_digits(t->text + 11, 2, second / 3600);
	put_digits(t->text + 14, 2, second / 60 % 60);
	put_digits(t->text + 17, 2, second % 60);
	put_digits(t->text + 20, 6, us % US_PER_SECOND);
	return t->text;
}

/* ---- errors ---- */

#define HINT_TABLE                                                                    \
	"the tables must accept INSERT INTO metrics (time, metric_name, value): see " \
	"sql/sqlite/ and set database.migrate, or rename a foreign table of that name"
#define HINT_ACCESS                                                                      \
	"the daemon's user needs to write the database file, its -wal and -shm, and to " \
	"make files in their directory"
#define HINT_DAMAGED                                                                             \
	"the database file is damaged: salvage it with 'sqlite3 FILE .recover', or move it and " \
	"its -wal and -shm away for a new one to be made"

/* Looked up by the extended code, then by the primary one.  What is not here is held. */
static const struct error_class {
	int code;
	enum store_status status;
	bool reconnect;
	const char *hint;
	bool setup; /* the schema may be missing */
} error_classes[] = {
    {SQLITE_BUSY, STORE_RETRY, false, "another process is writing to the database file"},
    {SQLITE_LOCKED, STORE_RETRY, false, "another process is writing to the database file"},
    {SQLITE_FULL, STORE_RETRY, false, "the database's file system is full"},
    {SQLITE_NOMEM, STORE_RETRY, true, NULL},
    {SQLITE_IOERR, STORE_RETRY, true, "look for disk errors in the kernel's log"},
    {SQLITE_IOERR_CORRUPTFS, STORE_HOLD, true, "the file system is damaged: check and repair it"},
    {SQLITE_PROTOCOL, STORE_RETRY, true, NULL},
    {SQLITE_CANTOPEN, STORE_RETRY, true, HINT_ACCESS},
    {SQLITE_CANTOPEN_ISDIR, STORE_HOLD, true, "database.uri names a directory, not a file"},
    {SQLITE_READONLY, STORE_HOLD, true, HINT_ACCESS},
    {SQLITE_READONLY_DBMOVED, STORE_RETRY, true, NULL},
    {SQLITE_PERM, STORE_HOLD, true, HINT_ACCESS},
    {SQLITE_AUTH, STORE_HOLD, true, HINT_ACCESS},
    {SQLITE_CORRUPT, STORE_HOLD, true, HINT_DAMAGED},
    {SQLITE_NOTADB, STORE_HOLD, true,
     "database.uri names a file that is not an SQLite database: "
     "choose another name, or move the file away"},
    {SQLITE_SCHEMA, STORE_HOLD, true, HINT_TABLE, true},
    {SQLITE_ERROR, STORE_HOLD, true, HINT_TABLE, true},
    {SQLITE_CONSTRAINT, STORE_HOLD, true, HINT_TABLE},
};

static const struct error_class *
error_class(int rc)
{
	static const struct error_class unknown = {0, STORE_HOLD, true, NULL};
	const size_t n = sizeof(error_classes) / sizeof(error_classes[0]);

	for (size_t i = 0; i < n; i++)
		if (error_classes[i].code == rc)
			return &error_classes[i];
	return rc > 0xff ? error_class(rc & 0xff) : &unknown;
}

/* What only the operator can change; other causes (no descriptors left, say) pass. */
static bool
errno_needs_operator(int e)
{
	return e == EACCES || e == EPERM || e == EROFS || e == ENOTDIR || e == EISDIR ||
	       e == ELOOP || e == ENAMETOOLONG;
}

enum store_status
sqlite_db_fail(const struct sqlite_db *s, int rc, struct store_error *err)
{
	const struct error_class *c = error_class(rc);

	(void)snprintf(err->text, sizeof(err->text), "%s: %s", s->conf->path,
		       s->db ? sqlite3_errmsg(s->db) : sqlite3_errstr(rc));
	if (s->stopped)
		return STORE_STOPPED;
	err->hint = c->hint;
	err->reconnect = c->reconnect;
	err->setup = c->setup;
	if ((rc & 0xff) == SQLITE_CANTOPEN && s->db &&
	    errno_needs_operator(sqlite3_system_errno(s->db)))
		return STORE_HOLD;
	return c->status;
}

/* ---- statements ---- */

static int
on_busy(void *arg, int count)
{
	struct sqlite_db *s = arg;
	struct pollfd pfd = {.fd = s->stop_fd, .events = POLLIN};
	uint64_t now = clock_ms();

	if (count == 0)
		s->busy_until_ms = now + s->conf->connect_timeout_ms;
	if (now >= s->busy_until_ms)
		return 0;
	if (poll(&pfd, 1, count < BUSY_STEP_MS ? count + 1 : BUSY_STEP_MS) > 0)
		s->stopped = true;
	return !s->stopped;
}

static int
on_progress(void *arg)
{
	struct sqlite_db *s = arg;
	struct pollfd pfd = {.fd = s->stop_fd, .events = POLLIN};

	if (poll(&pfd, 1, 0) > 0)
		s->stopped = true;
	return s->stopped;
}

void
bind_text(sqlite3_stmt *st, int i, const char *text, size_t len)
{
	(void)sqlite3_bind_text(st, i, text, (int)len, SQLITE_STATIC);
}

void
bind_time(sqlite3_stmt *st, int i, struct iso_time *t, uint64_t us)
{
	bind_text(st, i, iso_time(t, us), ISO_TIME_LEN);
}

void
bind_u64(sqlite3_stmt *st, int i, uint64_t v)
{
	(void)sqlite3_bind_int64(st, i, (sqlite3_int64)v);
}

int
sqlite_db_execute(struct sqlite_db *s, enum sqlite_statement which)
{
	(void)sqlite3_step(s->st[which]);
	return sqlite3_reset(s->st[which]);
}

void
sqlite_db_roll_back(struct sqlite_db *s, struct store_error *err)
{
	/* SQLite may have done it already, after FULL, IOERR or an interruption. */
	if (!sqlite3_get_autocommit(s->db) && sqlite_db_execute(s, ST_ROLLBACK) != SQLITE_OK)
		err->reconnect = true;
}

/* A file that was deleted or replaced would take rows along, unnoticed. */
static enum store_status
check_moved(struct sqlite_db *s, struct store_error *err)
{
	int moved = 0;

	(void)sqlite3_file_control(s->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved);
	if (!moved)
		return STORE_OK;
	(void)snprintf(err->text, sizeof(err->text), "%s: was moved or deleted while open",
		       s->conf->path);
	err->reconnect = true;
	return STORE_RETRY;
}

enum store_status
sqlite_db_begin(struct sqlite_db *s, struct store_error *err)
{
	int rc = sqlite_db_execute(s, ST_BEGIN);

	return rc == SQLITE_OK ? check_moved(s, err) : sqlite_db_fail(s, rc, err);
}

enum store_status
sqlite_db_commit(struct sqlite_db *s, struct store_error *err)
{
	enum store_status status = check_moved(s, err);
	int rc;

	if (status != STORE_OK)
		return status;
	rc = sqlite_db_execute(s, ST_COMMIT);
	return rc == SQLITE_OK ? STORE_OK : sqlite_db_fail(s, rc, err);
}

/* ---- opening ---- */

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
prepare_path(const struct conf_database *conf, bool make, struct store_error *err)
{
	struct stat sb;
	char *dir;
	char *slash;
	int r = 0;

	if (stat(conf->path, &sb) == 0 || errno != ENOENT)
		return STORE_OK;
	if (!make || !conf->create) {
		(void)snprintf(err->text, sizeof(err->text), "%s: no such file", conf->path);
		err->hint = "make the database, or set database.create = true";
		err->setup = true;
		return STORE_HOLD;
	}
	dir = strdup(conf->path);
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

/* The first column of a query's first row, as a number; 0 when there is no row. */
static int
query_int(sqlite3 *db, const char *sql, int *ret)
{
	sqlite3_stmt *st;
	int rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);

	if (rc != SQLITE_OK)
		return rc;
	*ret = sqlite3_step(st) == SQLITE_ROW ? sqlite3_column_int(st, 0) : 0;
	return sqlite3_finalize(st);
}

static int
schema_version(sqlite3 *db, unsigned *ret)
{
	int found = 0, version = 0;
	int rc = query_int(db,
			   "SELECT 1 FROM sqlite_master WHERE type = 'table' AND "
			   "name = 'metric_collectord_migrations'",
			   &found);

	if (rc == SQLITE_OK && found)
		rc = query_int(db,
			       "SELECT max(version) FROM metric_collectord_migrations "
			       "WHERE flavour = '" FLAVOUR "'",
			       &version);
	if (rc == SQLITE_OK)
		*ret = (unsigned)version;
	return rc;
}

static int
record_migration(sqlite3 *db, const struct migration_file *m)
{
	struct iso_time now = ISO_TIME_NONE;
	sqlite3_stmt *st;
	int rc = sqlite3_prepare_v2(db,
				    "INSERT INTO metric_collectord_migrations (flavour, version, "
				    "name, checksum, applied_at) VALUES (?1, ?2, ?3, ?4, ?5)",
				    -1, &st, NULL);

	if (rc != SQLITE_OK)
		return rc;
	bind_text(st, 1, m->flavour, strlen(m->flavour));
	bind_u64(st, 2, m->version);
	bind_text(st, 3, m->name, strlen(m->name));
	bind_text(st, 4, m->sha256, strlen(m->sha256));
	bind_time(st, 5, &now, clock_real_us());
	(void)sqlite3_step(st);
	return sqlite3_finalize(st);
}

/*
 * Applies the first migration that the file lacks, if there is one.  The version is read again
 * under the write lock: another collector may have been quicker.
 */
static int
migrate_one(sqlite3 *db, const struct migration_file **applied)
{
	unsigned version = 0;
	const struct migration_file *m;
	int rc = schema_version(db, &version);

	*applied = NULL;
	if (rc != SQLITE_OK || !migration_next(FLAVOUR, version))
		return rc;
	rc = sqlite3_exec(db, statement_sql[ST_BEGIN], NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		rc = schema_version(db, &version);
	if (rc != SQLITE_OK)
		return rc;
	m = migration_next(FLAVOUR, version);
	if (m) {
		rc = sqlite3_exec(db, m->text, NULL, NULL, NULL);
		if (rc == SQLITE_OK)
			rc = record_migration(db, m);
	}
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(db, statement_sql[ST_COMMIT], NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		*applied = m;
	return rc;
}

/* After an error the transaction ends with the connection. */
static int
migrate(sqlite3 *db)
{
	const struct migration_file *m;
	int rc;

	while ((rc = migrate_one(db, &m)) == SQLITE_OK && m)
		log_event(LOG_INFO, "migration_applied", LOG_STR("flavour", m->flavour),
			  LOG_U64("version", m->version), LOG_STR("name", m->name));
	return rc;
}

/*
 * EXTRA is FULL in WAL mode, and more than FULL where a file system (without shared memory, say)
 * keeps SQLite from it: a commit is always on disk when it returns.
 */
static const char settings[] = "PRAGMA journal_mode = WAL;"
			       "PRAGMA synchronous = EXTRA;"
			       "PRAGMA cache_size = -16384;" /* KiB */
			       "PRAGMA journal_size_limit = 67108864;";

static int
prepare_all(struct sqlite_db *s)
{
	int rc = SQLITE_OK;

	for (int i = 0; i < ST_COUNT && rc == SQLITE_OK; i++)
		if (!s->st[i])
			rc = sqlite3_prepare_v3(s->db, statement_sql[i], -1,
						SQLITE_PREPARE_PERSISTENT, &s->st[i], NULL);
	return rc;
}

static int
connect_file(struct sqlite_db *s, bool make)
{
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX;
	int rc;

	if (make && s->conf->create)
		flags |= SQLITE_OPEN_CREATE;
	rc = sqlite3_open_v2(s->conf->path, &s->db, flags, NULL);
	if (rc != SQLITE_OK)
		return s->db ? sqlite3_extended_errcode(s->db) : rc;
	(void)sqlite3_extended_result_codes(s->db, 1);
	(void)sqlite3_busy_handler(s->db, on_busy, s);
	sqlite3_progress_handler(s->db, PROGRESS_OPS, on_progress, s);
	return sqlite3_exec(s->db, settings, NULL, NULL, NULL);
}

void
sqlite_db_close(struct sqlite_db *s)
{
	for (int i = 0; i < ST_COUNT; i++)
		(void)sqlite3_finalize(s->st[i]);
	(void)sqlite3_close(s->db);
	*s = (struct sqlite_db){.db = NULL};
}

enum store_status
sqlite_db_open(struct sqlite_db *s, const struct conf_database *conf, int stop_fd, bool make,
	       struct store_error *err)
{
	enum store_status status;
	int rc;

	*s = (struct sqlite_db){.conf = conf, .stop_fd = stop_fd};
	err->reconnect = true; /* there is no connection */
	status = prepare_path(conf, make, err);
	if (status != STORE_OK)
		return status;
	rc = connect_file(s, make);
	if (rc != SQLITE_OK)
		return sqlite_db_fail(s, rc, err);
	/* SQLite falls back to reading only, and would tell at the first INSERT. */
	if (sqlite3_db_readonly(s->db, "main") == 1) {
		(void)snprintf(err->text, sizeof(err->text), "%s: is read-only", conf->path);
		err->hint = HINT_ACCESS;
		return STORE_HOLD;
	}
	err->reconnect = false;
	return STORE_OK;
}

enum store_status
sqlite_db_migrate(struct sqlite_db *s, struct store_error *err)
{
	int rc = s->conf->migrate ? migrate(s->db) : SQLITE_OK;

	return rc == SQLITE_OK ? STORE_OK : sqlite_db_fail(s, rc, err);
}

enum store_status
sqlite_db_prepare(struct sqlite_db *s, struct store_error *err)
{
	unsigned version = 0;
	int rc = schema_version(s->db, &version);

	if (rc == SQLITE_OK && s->conf->migrate && migration_next(FLAVOUR, version)) {
		(void)snprintf(err->text, sizeof(err->text), "%s: a migration is not applied",
			       s->conf->path);
		err->hint = HINT_TABLE;
		err->reconnect = true;
		err->setup = true;
		return STORE_HOLD;
	}
	if (rc == SQLITE_OK)
		rc = prepare_all(s);
	return rc == SQLITE_OK ? STORE_OK : sqlite_db_fail(s, rc, err);
}
