/* sqlite_retention.c - see sqlite_retention.h. */
#include "store/sqlite/sqlite_retention.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "log/log.h"

#define SLICE_MS 100   /* how long the lock is held, and a batch may have to wait */
#define ROUND_MS 30000 /* half of the janitor's minute */
#define WAL_AGAIN_MS 1000

#define ROWS_FIRST 1000
#define ROWS_MAX 20000
#define PAGES_FIRST 100
#define PAGES_MAX 5000

/* Free pages that stay: these, or one in SPARE_PART of all. */
#define SPARE_PAGES 256
#define SPARE_PART 20

#define HINT_REFUSED                                                                            \
	"a trigger or a foreign key refuses to let these rows go: they stay, however old they " \
	"are"

/* A slice should take SLICE_MS. */
static unsigned
adapt(unsigned n, uint64_t locked_ms, unsigned max)
{
	if (locked_ms > SLICE_MS)
		return n > 1 ? n / 2 : 1;
	if (locked_ms < SLICE_MS / 2)
		return n < max / 2 ? n * 2 : max;
	return n;
}

/* Waits while the -wal is too great; *go is whether it is small then, before until_ms. */
static enum store_status
wait_for_wal(struct sqlite_db *s, uint64_t until_ms, bool *go)
{
	enum store_status status = STORE_OK;
	enum sqlite_wal state = SQLITE_WAL_BUSY;

	while (status == STORE_OK && state == SQLITE_WAL_BUSY && clock_ms() < until_ms) {
		state = sqlite_db_wal_trim(s);
		if (state == SQLITE_WAL_BUSY)
			status = sqlite_db_pause(s, WAL_AGAIN_MS);
	}
	*go = state == SQLITE_WAL_FITS;
	return status;
}

/* ---- rows ---- */

/* A place in the order of (time, rowid). */
struct place {
	char time[ISO_TIME_LEN];
	sqlite3_int64 rowid;
	size_t len; /* of time; 0 is before all */
};

struct retention {
	struct sqlite_db *s;
	sqlite3_stmt *find;
	sqlite3_stmt *delete;
	struct iso_time before;
	uint64_t before_us;
	struct place at; /* everything up to here is done */
	unsigned rows;   /* of the next slice */
	bool singly;     /* something in it was refused */
	bool more;       /* some are left for the next round */
	uint64_t deleted;
	uint64_t refused;
	char refusal[STORE_ERROR_MAX]; /* SQLite's words for the last of these */
};

/*
 * Times that others have written otherwise are nothing that we can judge: numbers above all, which
 * are smaller than any text.
 */
static const char find_sql[] =
    "SELECT time, rowid FROM metrics WHERE (time, rowid) > (?1, ?2) AND time < ?3 "
    "AND time GLOB " ISO_TIME_GLOB " ORDER BY time, rowid LIMIT ?4";
static const char delete_sql[] = "DELETE FROM metrics WHERE rowid IN (SELECT rowid FROM metrics "
				 "WHERE (time, rowid) > (?1, ?2) AND (time, rowid) <= (?3, ?4) "
				 "AND time GLOB " ISO_TIME_GLOB " ORDER BY time, rowid LIMIT ?5)";

/* A verdict of a trigger or a foreign key on a row, not on the database. */
static bool
is_refusal(int rc)
{
	return (rc & 0xff) == SQLITE_CONSTRAINT;
}

static void
bind_place(sqlite3_stmt *st, int i, const struct place *p)
{
	bind_text(st, i, p->time, p->len);
	(void)sqlite3_bind_int64(st, i + 1, p->rowid);
}

/* The last of up to n rows after a place, without a lock; *found is how many they are. */
static int
find_rows(struct retention *r, const struct place *after, unsigned n, struct place *last,
	  unsigned *found)
{
	sqlite3_stmt *st = r->find;

	*found = 0;
	bind_place(st, 1, after);
	bind_time(st, 3, &r->before, r->before_us);
	bind_u64(st, 4, n);
	while (sqlite3_step(st) == SQLITE_ROW) {
		const unsigned char *time = sqlite3_column_text(st, 0);

		if (!time)
			break; /* memory is short: reset() says so */
		memcpy(last->time, time, ISO_TIME_LEN);
		last->len = ISO_TIME_LEN;
		last->rowid = sqlite3_column_int64(st, 1);
		(*found)++;
	}
	return sqlite3_reset(st);
}

/* Within a transaction; what is refused leaves SQLite's words in r->refusal. */
static int
delete_rows(struct retention *r, const struct place *after, const struct place *last, unsigned n)
{
	sqlite3_stmt *st = r->delete;
	int rc;

	bind_place(st, 1, after);
	bind_place(st, 3, last);
	bind_u64(st, 5, n);
	(void)sqlite3_step(st);
	rc = sqlite3_reset(st);
	if (is_refusal(rc))
		(void)snprintf(r->refusal, sizeof(r->refusal), "%s", sqlite3_errmsg(r->s->db));
	return rc;
}

static enum store_status
delete_together(struct retention *r, const struct place *last, struct store_error *err)
{
	enum store_status status = sqlite_db_begin(r->s, err);
	uint64_t deleted;
	int rc;

	if (status != STORE_OK)
		return status;
	rc = delete_rows(r, &r->at, last, r->rows);
	r->singly = is_refusal(rc);
	if (r->singly)
		return STORE_OK;
	if (rc != SQLITE_OK)
		return sqlite_db_fail(r->s, rc, err);
	deleted = (uint64_t)sqlite3_changes(r->s->db);
	status = sqlite_db_commit(r->s, err);
	if (status != STORE_OK)
		return status;
	r->at = *last;
	r->deleted += deleted;
	return STORE_OK;
}

/* What came of some rows, one by one. */
struct singly {
	struct place at;   /* the last of them */
	struct place next; /* the one behind it, when rolled_back */
	unsigned rows;
	uint64_t deleted;
	uint64_t refused;
	bool rolled_back; /* all of it, by a trigger */
	bool end;
};

static int
delete_one(struct retention *r, struct singly *one)
{
	unsigned found;
	int rc = find_rows(r, &one->at, 1, &one->next, &found);

	one->end = found == 0;
	if (rc != SQLITE_OK || one->end)
		return rc;
	rc = delete_rows(r, &one->at, &one->next, 1);
	if (rc != SQLITE_OK && !is_refusal(rc))
		return rc;
	one->rolled_back = sqlite3_get_autocommit(r->s->db) != 0;
	if (one->rolled_back)
		return SQLITE_OK;
	if (rc == SQLITE_OK)
		one->deleted += (uint64_t)sqlite3_changes(r->s->db);
	else
		one->refused++;
	one->at = one->next;
	one->rows++;
	return SQLITE_OK;
}

/* Those before the offending row make the next slice, and then it stands first. */
static void
set_apart(struct retention *r, const struct singly *one)
{
	r->rows = one->rows ? one->rows : 1;
	if (one->rows)
		return;
	r->at = one->next;
	r->refused++;
}

/* SQLite undoes a statement that is refused, and keeps the transaction, unless a trigger ends it. */
static enum store_status
delete_singly(struct retention *r, struct store_error *err)
{
	uint64_t until_ms = clock_ms() + SLICE_MS;
	struct singly one = {.at = r->at};
	enum store_status status = sqlite_db_begin(r->s, err);
	int rc = SQLITE_OK;

	if (status != STORE_OK)
		return status;
	r->singly = false;
	while (rc == SQLITE_OK && !one.end && !one.rolled_back && clock_ms() < until_ms)
		rc = delete_one(r, &one);
	if (rc != SQLITE_OK)
		return sqlite_db_fail(r->s, rc, err);
	if (one.rolled_back) {
		set_apart(r, &one);
		return STORE_OK;
	}
	status = sqlite_db_commit(r->s, err);
	if (status != STORE_OK)
		return status;
	r->rows = one.rows ? one.rows : 1;
	r->at = one.at;
	r->deleted += one.deleted;
	r->refused += one.refused;
	return STORE_OK;
}

static enum store_status
delete_slice(struct retention *r, const struct place *last, struct store_error *err)
{
	uint64_t locked_ms;
	bool singly = r->singly;
	enum store_status status;

	status = singly ? delete_singly(r, err) : delete_together(r, last, err);
	sqlite_db_roll_back(r->s, err); /* after a commit there is nothing to do */
	if (status != STORE_OK)
		return status;
	locked_ms = sqlite_db_locked_ms(r->s);
	if (!singly && !r->singly)
		r->rows = adapt(r->rows, locked_ms, ROWS_MAX);
	return sqlite_db_pause(r->s, SQLITE_PAUSE_MS);
}

static enum store_status
delete_old(struct retention *r, uint64_t until_ms, struct store_error *err)
{
	enum store_status status;
	bool go;

	while ((status = wait_for_wal(r->s, until_ms, &go)) == STORE_OK && go) {
		struct place last;
		unsigned found;
		int rc = find_rows(r, &r->at, r->rows, &last, &found);

		if (rc != SQLITE_OK)
			return sqlite_db_fail(r->s, rc, err);
		r->more = found > 0;
		if (!r->more)
			break;
		status = delete_slice(r, &last, err);
		if (status != STORE_OK)
			break;
	}
	return status;
}

static void
tell(const struct retention *r)
{
	if (r->deleted)
		log_event(LOG_INFO, "rows_deleted", LOG_U64("rows", r->deleted),
			  LOG_TIME("older_than", r->before_us),
			  r->more ? LOG_BOOL("more", true) : LOG_NONE);
	if (r->refused)
		log_event_limited(LOG_WARNING, "retention_failed", "retention_failed",
				  LOG_U64("rows", r->refused), LOG_STR("error", r->refusal),
				  LOG_STR("hint", HINT_REFUSED));
}

enum store_status
sqlite_retention(struct sqlite_db *s, uint64_t before_us, struct store_error *err)
{
	struct retention r = {
	    .s = s, .before = ISO_TIME_NONE, .before_us = before_us, .rows = ROWS_FIRST};
	enum store_status status = STORE_OK;
	int rc = sqlite3_prepare_v2(s->db, find_sql, -1, &r.find, NULL);

	if (rc == SQLITE_OK)
		rc = sqlite3_prepare_v2(s->db, delete_sql, -1, &r.delete, NULL);
	if (rc == SQLITE_OK)
		status = delete_old(&r, clock_ms() + ROUND_MS, err);
	else
		status = sqlite_db_fail(s, rc, err);
	(void)sqlite3_finalize(r.find);
	(void)sqlite3_finalize(r.delete);
	err->setup = false; /* which would not make what is missing for this */
	tell(&r);
	return status;
}

/* ---- pages ---- */

/* How many free pages are too many. */
static int
count_spare(struct sqlite_db *s, uint64_t *ret)
{
	int mode = 0, pages = 0, spare = 0, keep;
	int rc = sqlite_db_query_int(s, "PRAGMA auto_vacuum", &mode);

	if (rc == SQLITE_OK)
		rc = sqlite_db_query_int(s, "PRAGMA page_count", &pages);
	if (rc == SQLITE_OK)
		rc = sqlite_db_query_int(s, "PRAGMA freelist_count", &spare);
	keep = pages / SPARE_PART > SPARE_PAGES ? pages / SPARE_PART : SPARE_PAGES;
	*ret = mode == 2 && spare > keep ? (uint64_t)(spare - keep) : 0;
	return rc;
}

static enum store_status
free_pages(struct sqlite_db *s, uint64_t n, struct store_error *err)
{
	enum store_status status = sqlite_db_begin(s, err);
	char sql[64];
	int rc;

	(void)snprintf(sql, sizeof(sql), "PRAGMA incremental_vacuum(%llu)", (unsigned long long)n);
	if (status == STORE_OK) {
		rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
		status = rc == SQLITE_OK ? sqlite_db_commit(s, err) : sqlite_db_fail(s, rc, err);
	}
	sqlite_db_roll_back(s, err);
	return status;
}

enum store_status
sqlite_shrink(struct sqlite_db *s, struct store_error *err)
{
	uint64_t until_ms = clock_ms() + ROUND_MS / 2;
	enum store_status status;
	unsigned n = PAGES_FIRST;
	bool go;

	while ((status = wait_for_wal(s, until_ms, &go)) == STORE_OK && go) {
		uint64_t spare, locked_ms;
		int rc = count_spare(s, &spare);

		if (rc != SQLITE_OK)
			return sqlite_db_fail(s, rc, err);
		if (spare == 0)
			break;
		status = free_pages(s, spare < n ? spare : n, err);
		locked_ms = sqlite_db_locked_ms(s);
		n = adapt(n, locked_ms, PAGES_MAX);
		if (status == STORE_OK)
			status = sqlite_db_pause(s, SQLITE_PAUSE_MS);
		if (status != STORE_OK)
			break;
	}
	return status;
}
