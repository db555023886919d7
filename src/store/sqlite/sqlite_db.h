/*
 * sqlite_db.h - the embedded store's connection: opening, schema, statements, errors.
 *
 * Beneath the others of this directory, and used by them alone.  No call waits for other processes'
 * locks for longer than database.connect_timeout, or once stop_fd is readable.
 */
#pragma once

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/store.h"

/* The statements that a connection keeps prepared; their texts stand in sqlite_db.c. */
enum sqlite_statement {
	ST_BEGIN,
	ST_COMMIT,
	ST_ROLLBACK,
	ST_LEDGER,       /* collector, batch, rows, bytes, min_time, max_time, stored_at, opened */
	ST_LEDGER_COUNT, /* collector, batch, rows, rejected */
	ST_LEDGER_FIT, /* collector, batch, min_time, max_time -> rows, rejected, bytes, opened, spans */
	ST_LEDGER_HAS, /* collector, batch -> a row, or none */
	ST_LEDGER_OLD, /* collector, below batch, before stored_at, n -> the greatest of the first n
			*/
	ST_LEDGER_SETTLE, /* collector, up to batch, before stored_at */
	ST_LEDGER_GONE,   /* collector left alone, before stored_at -> another one, or none */
	ST_METRIC,        /* time, metric_name, value */
	ST_REJECT,        /* time, name, value, reason, error, collector, batch, rejected_at */
	ST_COUNT,
};

struct sqlite_db {
	const struct conf_database *conf; /* borrowed */
	int stop_fd;                      /* borrowed */
	sqlite3 *db;
	sqlite3_stmt *st[ST_COUNT];
	uint64_t busy_ms; /* how long to wait for a lock; 0: database.connect_timeout */
	uint64_t busy_until_ms;
	uint64_t locked_at_ms; /* when the write lock was had last */
	int wal_frames;        /* with checkpoints apart: not copied by us */
	bool stopped;          /* stop_fd was readable while a statement waited or was under way */
};

/*
 * Opens the file; with make, creates it where it is missing and database.create lets us, and else
 * that is STORE_HOLD, err->setup.  After any outcome sqlite_db_close() is due.
 */
enum store_status sqlite_db_open(struct sqlite_db *s, const struct conf_database *conf, int stop_fd,
				 bool make, struct store_error *err);
void sqlite_db_close(struct sqlite_db *s); /* a zeroed one is fine; leaves it so */

/* Applies migrations, if database.migrate lets us. */
enum store_status sqlite_db_migrate(struct sqlite_db *s, struct store_error *err);

/*
 * Prepares the statements, before the first of them: STORE_HOLD, err->setup, where the tables are
 * not what they need, or a migration that may be applied has not been.
 */
enum store_status sqlite_db_prepare(struct sqlite_db *s, struct store_error *err);

/* Puts the connection's last error, of code rc, into err and says how to go on. */
enum store_status sqlite_db_fail(const struct sqlite_db *s, int rc, struct store_error *err);

/* Executes a statement that gives no rows.  SQLITE_OK, or the extended code. */
int sqlite_db_execute(struct sqlite_db *s, enum sqlite_statement which);

/* Takes the write lock. */
enum store_status sqlite_db_begin(struct sqlite_db *s, struct store_error *err);
enum store_status sqlite_db_commit(struct sqlite_db *s, struct store_error *err);

/* Ends a transaction, if there is one still; sets err->reconnect where it does not end. */
void sqlite_db_roll_back(struct sqlite_db *s, struct store_error *err);

/* The first column of a query's first row; 0 when there is no row.  SQLITE_OK, or the code. */
int sqlite_db_query_int(struct sqlite_db *s, const char *sql, int *ret);

/* How long the write lock was held until now, and batches had to wait. */
uint64_t sqlite_db_locked_ms(const struct sqlite_db *s);

#define SQLITE_PAUSE_MS 50 /* longer than a writer sleeps between two looks at the lock */

/* After a piece of upkeep: time for batches.  STORE_OK, or STORE_STOPPED, at once. */
enum store_status sqlite_db_pause(struct sqlite_db *s, int ms);

/* ---- the -wal ---- */

/*
 * Commits go to the end of the -wal until it was copied to the file and no reader needs it any more;
 * then they begin anew.  So it grows for as long as a reader stays.
 */
#define SQLITE_WAL_SMALL 67108864 /* bytes; what is left of a greater one, once emptied */
#define SQLITE_WAL_MAX 1073741824 /* ... then batches wait for the reader, too */

uint64_t sqlite_db_wal_bytes(struct sqlite_db *s);

/*
 * For upkeep: what was committed is copied by sqlite_db_pause(), without the lock, and not by the
 * commit.  Else the next batch would have to do it.
 */
void sqlite_db_checkpoint_apart(struct sqlite_db *s);

/*
 * ... and by this, if there are so many frames to be copied.  Only then does the file lose the pages
 * that were given back.
 */
void sqlite_db_copy_wal(struct sqlite_db *s, int min_frames);

enum sqlite_wal {
	SQLITE_WAL_FITS, /* it is at most SQLITE_WAL_SMALL */
	SQLITE_WAL_BUSY, /* it will be soon: somebody writes, or short readers overlap */
	SQLITE_WAL_KEPT, /* a reader stays; logs wal_kept */
};

/* Tries to empty one that is too great; batches wait for that for a moment at the most. */
enum sqlite_wal sqlite_db_wal_trim(struct sqlite_db *s);

/* STORE_RETRY where a reader keeps it beyond SQLITE_WAL_MAX. */
enum store_status sqlite_db_wal_has_room(struct sqlite_db *s, struct store_error *err);

/* ---- binding: texts are borrowed until the statement has been executed ---- */

#define ISO_TIME_LEN 27 /* 2026-01-31T09:30:00.123456Z */

/* For GLOB: what we have written as a time. */
#define ISO_TIME_GLOB                                                                   \
	"'[0-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]." \
	"[0-9][0-9][0-9][0-9][0-9][0-9]Z'"

/* Most rows are of the same day as the row before them, so the date is made once for all of them.
 */
struct iso_time {
	uint64_t day;            /* since 1970, whose date stands in text; UINT64_MAX: none */
	char text[ISO_TIME_LEN]; /* not terminated */
};

#define ISO_TIME_NONE ((struct iso_time){.day = UINT64_MAX})

/* Microseconds since 1970-01-01 UTC, FRAME_TIME_MAX at the most, as text in t. */
const char *iso_time(struct iso_time *t, uint64_t us);

void bind_text(sqlite3_stmt *st, int i, const char *text, size_t len);
void bind_u64(sqlite3_stmt *st, int i, uint64_t v);
void bind_time(sqlite3_stmt *st, int i, struct iso_time *t, uint64_t us);
