/* sqlite_db.c - see sqlite_db.h. */
#include "store/sqlite/sqlite_db.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "log/log.h"
#include "store/migrate.h"
#include "store/sqlite/sqlite_file.h"

#define FLAVOUR "sqlite"

#define PROGRESS_OPS 20000 /* of SQLite's machine, a few ms: how often stop_fd is looked at */
#define BUSY_STEP_MS 20
#define WAL_WAIT_MS 200 /* for readers of the -wal; batches wait meanwhile */

#define TEXT(number) TEXT_OF(number)
#define TEXT_OF(number) #number

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
    [ST_LEDGER_GONE] = "SELECT collector FROM metric_collectord_batches WHERE collector <> ?1 "
		       "GROUP BY collector HAVING max(stored_at) < ?2 LIMIT 1",
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
	"make files in their directory: chown metric-collectord FILE*"
#define HINT_DAMAGED                                                                            \
	"the database file is damaged: salvage it with 'sqlite3 FILE .recover | sqlite3 NEW', " \
	"or move it and its -wal and -shm away for a new one to be made (mv FILE FILE.old); "   \
	"metrics wait until then"
#define HINT_NO_DATABASE                                                                         \
	"the file is no SQLite database, or its beginning is damaged: name another one in "      \
	"database.uri, or move it and its -wal and -shm away for a new one to be made (mv FILE " \
	"FILE.old); metrics wait until then"
#define HINT_READER                                                                             \
	"a program has been reading from the database in one transaction all the time: end it " \
	"(fuser -v FILE FILE-wal says which)"
#define HINT_FOREIGN                                                                         \
	"the file belongs to another application: name another one in database.uri; or, if " \
	"metrics shall go into it, sqlite3 FILE 'PRAGMA application_id = 0'"

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
    {SQLITE_READONLY, STORE_HOLD, true, HINT_ACCESS},
    {SQLITE_READONLY_DBMOVED, STORE_RETRY, true, NULL},
    {SQLITE_PERM, STORE_HOLD, true, HINT_ACCESS},
    {SQLITE_AUTH, STORE_HOLD, true, HINT_ACCESS},
    {SQLITE_CORRUPT, STORE_HOLD, true, HINT_DAMAGED},
    {SQLITE_NOTADB, STORE_HOLD, true, HINT_NO_DATABASE},
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
	int system = s->db ? sqlite3_system_errno(s->db) : 0;

	if ((rc & 0xff) != SQLITE_CANTOPEN && (rc & 0xff) != SQLITE_IOERR)
		system = 0; /* of an earlier call */
	(void)snprintf(err->text, sizeof(err->text), "%s: %s%s%s", s->conf->path,
		       s->db ? sqlite3_errmsg(s->db) : sqlite3_errstr(rc), system ? ": " : "",
		       system ? strerror(system) : "");
	if (s->stopped)
		return STORE_STOPPED;
	err->hint = c->hint;
	err->reconnect = c->reconnect;
	err->setup = c->setup;
	if ((rc & 0xff) == SQLITE_CANTOPEN && errno_needs_operator(system))
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
		s->busy_until_ms = now + (s->busy_ms ? s->busy_ms : s->conf->connect_timeout_ms);
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

	s->locked_at_ms = clock_ms();
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

/* ---- upkeep beside batches ---- */

#define CHECKPOINT_FRAMES 4000 /* four times what a batch copies: slices touch the same pages */

uint64_t
sqlite_db_locked_ms(const struct sqlite_db *s)
{
	return clock_ms() - s->locked_at_ms;
}

static int
on_commit(void *arg, sqlite3 *db, const char *name, int frames)
{
	struct sqlite_db *s = arg;

	(void)db;
	(void)name;
	s->wal_frames = frames;
	return SQLITE_OK;
}

void
sqlite_db_checkpoint_apart(struct sqlite_db *s)
{
	(void)sqlite3_wal_hook(s->db, on_commit, s); /* takes the automatic checkpoint's place */
}

void
sqlite_db_copy_wal(struct sqlite_db *s, int min_frames)
{
	if (s->wal_frames < min_frames)
		return;
	(void)sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
	s->wal_frames = 0;
}

enum store_status
sqlite_db_pause(struct sqlite_db *s, int ms)
{
	struct pollfd pfd = {.fd = s->stop_fd, .events = POLLIN};

	sqlite_db_copy_wal(s, CHECKPOINT_FRAMES);
	return poll(&pfd, 1, ms) > 0 ? STORE_STOPPED : STORE_OK;
}

uint64_t
sqlite_db_wal_bytes(struct sqlite_db *s)
{
	sqlite3_file *wal = NULL;
	sqlite3_int64 size = 0;

	(void)sqlite3_file_control(s->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &wal);
	if (!wal || !wal->pMethods || wal->pMethods->xFileSize(wal, &size) != SQLITE_OK)
		return 0;
	return (uint64_t)size;
}

/*
 * First what needs no lock: copying, which gets as far as the oldest reader lets it.  Then those that
 * read from the end are waited for, while new ones need the -wal no more.
 */
static enum sqlite_wal
empty_wal(struct sqlite_db *s, uint64_t goal)
{
	int frames = 0, copied = 0;
	int rc =
	    sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_PASSIVE, &frames, &copied);

	if (rc == SQLITE_OK && copied < frames)
		return SQLITE_WAL_KEPT;
	s->busy_ms = WAL_WAIT_MS;
	(void)sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
	s->busy_ms = 0;
	return sqlite_db_wal_bytes(s) <= goal ? SQLITE_WAL_FITS : SQLITE_WAL_BUSY;
}

enum sqlite_wal
sqlite_db_wal_trim(struct sqlite_db *s)
{
	uint64_t bytes = sqlite_db_wal_bytes(s);
	enum sqlite_wal state = SQLITE_WAL_FITS;

	if (bytes > SQLITE_WAL_SMALL)
		state = empty_wal(s, SQLITE_WAL_SMALL);
	if (state == SQLITE_WAL_KEPT)
		log_event_limited(LOG_WARNING, "wal_kept", "wal_kept", LOG_U64("bytes", bytes),
				  LOG_STR("hint", HINT_READER));
	return state;
}

enum store_status
sqlite_db_wal_has_room(struct sqlite_db *s, struct store_error *err)
{
	uint64_t bytes = sqlite_db_wal_bytes(s);

	if (bytes <= SQLITE_WAL_MAX || empty_wal(s, SQLITE_WAL_MAX) == SQLITE_WAL_FITS)
		return STORE_OK;
	if (s->stopped)
		return STORE_STOPPED;
	(void)snprintf(
	    err->text, sizeof(err->text),
	    "%s-wal: has grown to %llu bytes, since a reader keeps it from being emptied",
	    s->conf->path, (unsigned long long)bytes);
	err->hint = HINT_READER;
	return STORE_RETRY;
}

/* ---- opening ---- */

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

int
sqlite_db_query_int(struct sqlite_db *s, const char *sql, int *ret)
{
	return query_int(s->db, sql, ret);
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
			       "PRAGMA journal_size_limit = " TEXT(SQLITE_WAL_SMALL) ";";

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

#define APPLICATION_ID 0x4d434f4c /* "MCOL": for file(1), and for others who would write there */
/* What can only be chosen while the file is empty.  It counts for the first page that is written. */
static const char choices[] = "PRAGMA auto_vacuum = INCREMENTAL;"
			      "PRAGMA application_id = " TEXT(APPLICATION_ID) ";";

static int
choose(struct sqlite_db *s)
{
	int pages = 0;
	int rc = query_int(s->db, "PRAGMA page_count", &pages);

	if (rc == SQLITE_OK && pages == 0)
		rc = sqlite3_exec(s->db, choices, NULL, NULL, NULL);
	return rc;
}

/* Another application's file, in which none of our tables is yet, stays as it is. */
static int
is_foreign(struct sqlite_db *s, bool *ret)
{
	unsigned version = 0;
	int id = 0;
	int rc = query_int(s->db, "PRAGMA application_id", &id);

	if (rc == SQLITE_OK && id != 0 && id != APPLICATION_ID) {
		rc = schema_version(s->db, &version);
		*ret = version == 0;
	}
	return rc;
}

static int
connect_file(struct sqlite_db *s, bool make, bool *foreign)
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
	rc = is_foreign(s, foreign);
	if (rc != SQLITE_OK || *foreign)
		return rc;
	if (flags & SQLITE_OPEN_CREATE)
		rc = choose(s);
	return rc == SQLITE_OK ? sqlite3_exec(s->db, settings, NULL, NULL, NULL) : rc;
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
	bool foreign = false;
	int rc;

	*s = (struct sqlite_db){.conf = conf, .stop_fd = stop_fd};
	err->reconnect = true; /* there is no connection */
	status = sqlite_file_prepare(conf, make, err);
	if (status != STORE_OK)
		return status;
	rc = connect_file(s, make, &foreign);
	if (rc != SQLITE_OK)
		return sqlite_db_fail(s, rc, err);
	if (foreign) {
		(void)snprintf(err->text, sizeof(err->text),
			       "%s: has an application_id of another application", conf->path);
		err->hint = HINT_FOREIGN;
		return STORE_HOLD;
	}
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
