/*
 * sqlite_upkeep.c - the janitor's connection to the embedded store.
 *
 * SQLite lets one connection write at a time.  So a batch waits for what is done here; but for a
 * moment only, since rows of the ledger and of metrics are deleted a little at a time, with pauses
 * in which batches are stored.
 */
#include "store/store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "store/sqlite/sqlite_clock.h"
#include "store/sqlite/sqlite_db.h"
#include "store/sqlite/sqlite_retention.h"

#define CLEAN_ROWS 500
#define GONE_MS 3600000    /* between two looks for collectors that are gone */
#define GONE_MIN_MS 600000 /* one that was seen since is alive, whatever is configured */

struct sqlite_upkeep {
	struct upkeep base;
	const struct conf *conf; /* borrowed */
	int stop_fd;             /* borrowed */
	struct sqlite_db db;
	struct sqlite_clock clock;
	uint64_t gone_at_ms; /* when it is looked again for collectors that are gone */
};

static struct sqlite_upkeep *
upkeep_of(struct upkeep *base)
{
	return (struct sqlite_upkeep *)base;
}

/* ---- the connection ---- */

static int
sqlite_upkeep_new(const struct conf *conf, int stop_fd, struct upkeep **ret)
{
	struct sqlite_upkeep *u = calloc(1, sizeof(*u));

	if (!u)
		return -ENOMEM;
	u->base.ops = &sqlite_upkeep_ops;
	u->conf = conf;
	u->stop_fd = stop_fd;
	*ret = &u->base;
	return 0;
}

static enum store_status
sqlite_upkeep_connect(struct upkeep *base, struct store_error *err)
{
	struct sqlite_upkeep *u = upkeep_of(base);
	enum store_status status =
	    sqlite_db_open(&u->db, &u->conf->database, u->stop_fd, true, err);

	if (status == STORE_OK)
		sqlite_db_checkpoint_apart(&u->db);
	return status;
}

static void
sqlite_upkeep_disconnect(struct upkeep *base)
{
	sqlite_db_close(&upkeep_of(base)->db);
}

static void
sqlite_upkeep_free(struct upkeep *base)
{
	sqlite_upkeep_disconnect(base);
	free(base);
}

static enum store_status
sqlite_setup(struct upkeep *base, struct store_error *err)
{
	struct sqlite_db *s = &upkeep_of(base)->db;
	enum store_status status = sqlite_db_migrate(s, err);

	return status == STORE_OK ? sqlite_db_prepare(s, err) : status;
}

/* ---- the ledger ---- */

/* Which rows are deleted. */
struct old {
	const char *collector;
	uint64_t below; /* batches */
	struct iso_time before;
	uint64_t before_us;
};

static void
bind_old(sqlite3_stmt *st, struct old *o, uint64_t batch)
{
	bind_text(st, 1, o->collector, strlen(o->collector));
	bind_u64(st, 2, batch);
	bind_time(st, 3, &o->before, o->before_us);
}

/* Finds some of them, without a lock: *last is the greatest number, 0 where there is none. */
static int
find_some(struct sqlite_db *s, struct old *o, uint64_t *last)
{
	sqlite3_stmt *st = s->st[ST_LEDGER_OLD];

	*last = 0;
	bind_old(st, o, o->below);
	bind_u64(st, 4, CLEAN_ROWS);
	if (sqlite3_step(st) == SQLITE_ROW)
		*last = (uint64_t)sqlite3_column_int64(st, 0);
	return sqlite3_reset(st);
}

static enum store_status
clean(struct sqlite_db *s, struct old *o, struct store_error *err)
{
	enum store_status status = STORE_OK;

	while (status == STORE_OK) {
		uint64_t last;
		int rc = find_some(s, o, &last);

		if (rc == SQLITE_OK && last == 0)
			break;
		if (rc == SQLITE_OK) {
			bind_old(s->st[ST_LEDGER_SETTLE], o, last);
			rc = sqlite_db_execute(s, ST_LEDGER_SETTLE);
		}
		status = rc == SQLITE_OK ? sqlite_db_pause(s, SQLITE_PAUSE_MS)
					 : sqlite_db_fail(s, rc, err);
	}
	return status;
}

static enum store_status
clean_ledger(struct sqlite_upkeep *u, const char *collector, uint64_t floor, uint64_t now_us,
	     struct store_error *err)
{
	uint64_t keep_us = u->conf->database.ledger_keep_ms * 1000;
	struct old o = {.collector = collector,
			.below = floor < INT64_MAX ? floor : INT64_MAX,
			.before = ISO_TIME_NONE,
			.before_us = now_us > keep_us ? now_us - keep_us : 0};

	return clean(&u->db, &o, err);
}

/* A collector all of whose rows are older; "" when there is none.  Only reads. */
static int
find_gone(struct sqlite_db *s, const char *collector, uint64_t before_us, char gone[UUID_TEXT])
{
	sqlite3_stmt *st = s->st[ST_LEDGER_GONE];
	struct iso_time before = ISO_TIME_NONE;

	gone[0] = '\0';
	bind_text(st, 1, collector, strlen(collector));
	bind_time(st, 2, &before, before_us);
	if (sqlite3_step(st) == SQLITE_ROW)
		(void)snprintf(gone, UUID_TEXT, "%s", (const char *)sqlite3_column_text(st, 0));
	return sqlite3_reset(st);
}

static enum store_status
clean_gone(struct sqlite_db *s, const char *collector, uint64_t before_us, struct store_error *err)
{
	enum store_status status = STORE_OK;
	char gone[UUID_TEXT], last[UUID_TEXT] = "";

	while (status == STORE_OK) {
		struct old o = {.collector = gone,
				.below = INT64_MAX,
				.before = ISO_TIME_NONE,
				.before_us = before_us};
		int rc = find_gone(s, collector, before_us, gone);

		if (rc != SQLITE_OK)
			return sqlite_db_fail(s, rc, err);
		if (!*gone || strcmp(gone, last) == 0) /* a name that is none of ours stays */
			break;
		memcpy(last, gone, sizeof(last));
		status = clean(s, &o, err);
	}
	return status;
}

/* Those of collectors that stored nothing for senders.keep: without a spool, each start is a new one. */
static enum store_status
forget_gone(struct sqlite_upkeep *u, const char *collector, uint64_t now_us,
	    struct store_error *err)
{
	uint64_t keep_ms = u->conf->senders.keep_ms;
	uint64_t keep_us = (keep_ms > GONE_MIN_MS ? keep_ms : GONE_MIN_MS) * 1000;
	enum store_status status;

	if (clock_ms() < u->gone_at_ms || now_us <= keep_us)
		return STORE_OK;
	status = clean_gone(&u->db, collector, now_us - keep_us, err);
	if (status == STORE_OK)
		u->gone_at_ms = clock_ms() + GONE_MS;
	return status;
}

/* ---- all of it ---- */

static enum store_status
delete_old(struct sqlite_upkeep *u, const char *collector, uint64_t floor, struct store_error *err)
{
	uint64_t keep_us = u->conf->table.retention_us, now_us;
	enum store_status status = sqlite_clock_look(&u->clock, &u->db, keep_us > 0, &now_us, err);

	if (status != STORE_OK || !now_us)
		return status;
	status = clean_ledger(u, collector, floor, now_us, err);
	if (status == STORE_OK)
		status = forget_gone(u, collector, now_us, err);
	if (status == STORE_OK && keep_us && u->clock.trusted && now_us > keep_us)
		status = sqlite_retention(&u->db, now_us - keep_us, err);
	return status;
}

/* What troubles the one does not keep the others from being done. */
static enum store_status
sqlite_maintain(struct upkeep *base, const char *collector, uint64_t floor, struct store_error *err)
{
	struct sqlite_upkeep *u = upkeep_of(base);
	enum store_status status = sqlite_db_prepare(&u->db, err), shrunk;
	struct store_error other = {0};

	if (status != STORE_OK)
		return status;
	status = delete_old(u, collector, floor, err);
	if (status == STORE_STOPPED)
		return status;
	shrunk = sqlite_shrink(&u->db, status == STORE_OK ? err : &other);
	if (shrunk == STORE_STOPPED)
		return shrunk;
	sqlite_db_copy_wal(&u->db, 1);
	(void)sqlite_db_wal_trim(&u->db); /* also where nothing was to be deleted */
	return status == STORE_OK ? shrunk : status;
}

static enum store_status
sqlite_missing(struct upkeep *base, const char *collector, uint64_t *numbers, size_t *n,
	       struct store_error *err)
{
	struct sqlite_db *s = &upkeep_of(base)->db;
	enum store_status status = sqlite_db_prepare(s, err);
	size_t missing = 0;

	if (status != STORE_OK)
		return status;
	for (size_t i = 0; i < *n; i++) {
		sqlite3_stmt *st = s->st[ST_LEDGER_HAS];
		bool held;
		int rc;

		bind_text(st, 1, collector, strlen(collector));
		bind_u64(st, 2, numbers[i]);
		held = sqlite3_step(st) == SQLITE_ROW;
		rc = sqlite3_reset(st);
		if (rc != SQLITE_OK)
			return sqlite_db_fail(s, rc, err);
		if (!held)
			numbers[missing++] = numbers[i];
	}
	*n = missing;
	return STORE_OK;
}

const struct upkeep_ops sqlite_upkeep_ops = {
    .new = sqlite_upkeep_new,
    .free = sqlite_upkeep_free,
    .connect = sqlite_upkeep_connect,
    .disconnect = sqlite_upkeep_disconnect,
    .setup = sqlite_setup,
    .maintain = sqlite_maintain,
    .missing = sqlite_missing,
};
