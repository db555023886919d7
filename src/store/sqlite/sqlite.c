/*
 * sqlite.c - the embedded store: one file, one transaction for each batch.
 *
 *	BEGIN IMMEDIATE
 *	INSERT the ledger row          its primary key refuses what was committed before
 *	INSERT INTO metrics ...        once a row; a refused one goes to the rejected table
 *	COMMIT
 *
 * SQLite undoes a statement that fails and keeps the transaction, so offending rows are found
 * without halving.
 */
#include "store/store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/crash_point.h"
#include "log/log.h"
#include "store/sqlite/sqlite_db.h"
#include "wire/frame.h"

struct sqlite_store {
	struct store base;
	struct sqlite_db db;
};

static struct sqlite_store *
sqlite_of(struct store *base)
{
	return (struct sqlite_store *)base;
}

/* ---- a batch ---- */

/* The batch's name, ?1 and ?2 of the ledger's statements. */
static void
bind_batch(sqlite3_stmt *st, const char *collector, uint64_t number)
{
	bind_text(st, 1, collector, strlen(collector));
	bind_u64(st, 2, number);
}

static enum store_status
ledger_insert(struct sqlite_db *s, const struct batch_view *b, bool *repeated,
	      struct store_error *err)
{
	sqlite3_stmt *st = s->st[ST_LEDGER];
	struct iso_time min = ISO_TIME_NONE, max = ISO_TIME_NONE, now = ISO_TIME_NONE;
	int rc;

	bind_batch(st, b->collector, b->number);
	bind_u64(st, 3, b->rows);
	bind_u64(st, 4, b->bytes);
	bind_time(st, 5, &min, b->min_us);
	bind_time(st, 6, &max, b->max_us);
	bind_time(st, 7, &now, clock_real_us());
	bind_u64(st, 8, b->opened_us);
	rc = sqlite_db_execute(s, ST_LEDGER);
	*repeated = rc == SQLITE_CONSTRAINT_PRIMARYKEY || rc == SQLITE_CONSTRAINT_UNIQUE;
	return rc == SQLITE_OK || *repeated ? STORE_OK : sqlite_db_fail(s, rc, err);
}

/* The ledger has this batch: was it really this one? */
static enum store_status
ledger_recognise(struct sqlite_db *s, const struct batch_view *b, struct store_result *ret,
		 struct store_error *err)
{
	sqlite3_stmt *st = s->st[ST_LEDGER_FIT];
	struct iso_time min = ISO_TIME_NONE, max = ISO_TIME_NONE;
	struct store_ledger ledger = {0};
	int rc;

	bind_batch(st, b->collector, b->number);
	bind_time(st, 3, &min, b->min_us);
	bind_time(st, 4, &max, b->max_us);
	if (sqlite3_step(st) == SQLITE_ROW) {
		ret->stored = (uint64_t)sqlite3_column_int64(st, 0);
		ret->rejected = (uint64_t)sqlite3_column_int64(st, 1);
		ret->repeated = true;
		ledger.rows = ret->stored + ret->rejected;
		ledger.bytes = (uint64_t)sqlite3_column_int64(st, 2);
		ledger.has_opened = sqlite3_column_type(st, 3) != SQLITE_NULL;
		ledger.opened_us = (uint64_t)sqlite3_column_int64(st, 3);
		ledger.spans = sqlite3_column_int(st, 4) != 0;
	}
	rc = sqlite3_reset(st);
	if (rc != SQLITE_OK)
		return sqlite_db_fail(s, rc, err);
	return store_recognise(&ledger, b, err);
}

/* A verdict on a row, rather than on the database, in one word; NULL when it is none. */
static const char *
row_reason(int rc)
{
	switch (rc & 0xff) {
	case SQLITE_CONSTRAINT:
		return rc == SQLITE_CONSTRAINT_TRIGGER ? "trigger" : "constraint";
	case SQLITE_MISMATCH:
	case SQLITE_TOOBIG:
		return "value";
	default:
		return NULL;
	}
}

/* One row's refusal; error is SQLite's message. */
static enum store_status
reject_row(struct sqlite_db *s, const struct batch_view *b, const struct frame *f, const char *time,
	   const char *reason, struct store_error *err)
{
	sqlite3_stmt *st = s->st[ST_REJECT];
	struct iso_time now = ISO_TIME_NONE;
	char error[STORE_ERROR_MAX];
	int rc;

	/* Other calls overwrite the connection's message. */
	(void)snprintf(error, sizeof(error), "%s", sqlite3_errmsg(s->db));
	if (sqlite3_get_autocommit(s->db)) {
		memcpy(err->text, error, sizeof(error));
		err->hint = "a trigger or constraint on metrics rolls the whole transaction back: "
			    "let it RAISE(ABORT), so that single rows can be refused";
		err->batch_only = true;
		return STORE_HOLD;
	}
	bind_text(st, 1, time, ISO_TIME_LEN);
	bind_text(st, 2, f->name, f->name_len);
	(void)sqlite3_bind_double(st, 3, f->value); /* NaN becomes NULL */
	bind_text(st, 4, reason, strlen(reason));
	bind_text(st, 5, error, strlen(error));
	bind_text(st, 6, b->collector, strlen(b->collector));
	bind_u64(st, 7, b->number);
	bind_time(st, 8, &now, clock_real_us());
	rc = sqlite_db_execute(s, ST_REJECT);
	if (rc != SQLITE_OK)
		return sqlite_db_fail(s, rc, err);
	log_event_limited(LOG_WARNING, "row_rejected", "row_rejected",
			  LOG_BYTES("metric", f->name, f->name_len), LOG_TIME("time", f->time_us),
			  LOG_F64("value", f->value), LOG_STR("error", error),
			  LOG_U64("batch", b->number));
	return STORE_OK;
}

static enum store_status
insert_rows(struct sqlite_db *s, const struct batch_view *b, struct store_result *ret,
	    struct store_error *err)
{
	sqlite3_stmt *st = s->st[ST_METRIC];
	const uint8_t *p = b->data, *end = b->data + b->bytes;
	struct iso_time t = ISO_TIME_NONE;

	while (p < end) {
		enum store_status status;
		struct frame f;
		int rc;

		p += frame_read(p, &f);
		bind_time(st, 1, &t, f.time_us);
		bind_text(st, 2, f.name, f.name_len);
		(void)sqlite3_bind_double(st, 3, f.value); /* NaN becomes NULL */
		rc = sqlite_db_execute(s, ST_METRIC);
		if (rc == SQLITE_OK) {
			ret->stored++;
			continue;
		}
		if (!row_reason(rc))
			return sqlite_db_fail(s, rc, err);
		status = reject_row(s, b, &f, t.text, row_reason(rc), err);
		if (status != STORE_OK)
			return status;
		ret->rejected++;
	}
	return STORE_OK;
}

static enum store_status
ledger_count(struct sqlite_db *s, const struct batch_view *b, const struct store_result *res,
	     struct store_error *err)
{
	sqlite3_stmt *st = s->st[ST_LEDGER_COUNT];
	int rc;

	bind_batch(st, b->collector, b->number);
	bind_u64(st, 3, res->stored);
	bind_u64(st, 4, res->rejected);
	rc = sqlite_db_execute(s, ST_LEDGER_COUNT);
	return rc == SQLITE_OK ? STORE_OK : sqlite_db_fail(s, rc, err);
}

/* Within the transaction. */
static enum store_status
put_batch(struct sqlite_db *s, const struct batch_view *b, struct store_result *res,
	  struct store_error *err)
{
	enum store_status status;
	bool repeated;

	crash_point("before_ledger_insert");
	status = ledger_insert(s, b, &repeated, err);
	if (status != STORE_OK)
		return status;
	if (repeated)
		return ledger_recognise(s, b, res, err);
	crash_point("after_ledger_insert");
	status = insert_rows(s, b, res, err);
	if (status != STORE_OK)
		return status;
	if (res->rejected) {
		status = ledger_count(s, b, res, err);
		if (status != STORE_OK)
			return status;
	}
	crash_point("before_commit");
	status = sqlite_db_commit(s, err);
	if (status != STORE_OK)
		return status;
	crash_point("after_commit");
	return STORE_OK;
}

static enum store_status
sqlite_put(struct store *base, const struct batch_view *b, struct store_result *ret,
	   struct store_error *err)
{
	struct sqlite_db *s = &sqlite_of(base)->db;
	struct store_result res = {0};
	enum store_status status = sqlite_db_wal_has_room(s, err);

	if (status == STORE_OK)
		status = sqlite_db_begin(s, err);
	if (status == STORE_OK)
		status = put_batch(s, b, &res, err);
	sqlite_db_roll_back(s, err); /* after a commit there is nothing to do */
	if (status == STORE_OK)
		*ret = res;
	return status;
}

/* ---- without a batch ---- */

/* May it be written to now? */
static enum store_status
sqlite_check(struct store *base, struct store_error *err)
{
	struct sqlite_db *s = &sqlite_of(base)->db;
	enum store_status status = sqlite_db_wal_has_room(s, err);

	if (status == STORE_OK)
		status = sqlite_db_begin(s, err);
	sqlite_db_roll_back(s, err);
	return status;
}

/* ---- opening ---- */

static void
sqlite_close(struct store *base)
{
	struct sqlite_store *s = sqlite_of(base);

	sqlite_db_close(&s->db);
	free(s);
}

static enum store_status
sqlite_open(const struct conf *conf, int stop_fd, struct store **ret, struct store_error *err)
{
	struct sqlite_store *s = calloc(1, sizeof(*s));
	enum store_status status;
	char version[64];

	if (!s) {
		(void)snprintf(err->text, sizeof(err->text), "%s", strerror(ENOMEM));
		return STORE_RETRY;
	}
	s->base.ops = &sqlite_store_ops;
	status = sqlite_db_open(&s->db, &conf->database, stop_fd, false, err);
	if (status == STORE_OK)
		status = sqlite_db_prepare(&s->db, err);
	if (status != STORE_OK) {
		sqlite_close(&s->base);
		return status;
	}
	(void)snprintf(version, sizeof(version), "SQLite %s", sqlite3_libversion());
	log_event(LOG_INFO, "database_connected", LOG_STR("server_version", version));
	*ret = &s->base;
	return STORE_OK;
}

const struct store_ops sqlite_store_ops = {
    .open = sqlite_open,
    .close = sqlite_close,
    .put = sqlite_put,
    .check = sqlite_check,
};
