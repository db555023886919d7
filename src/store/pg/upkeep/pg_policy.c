#include "store/pg/upkeep/pg_policy.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/conf_value.h"
#include "log/log.h"
#include "store/pg/upkeep/pg_interval.h"
#include "store/pg/upkeep/pg_rollup.h"
#include "store/pg/setup/pg_lock.h"

#define SQL_MAX 512

#define COLUMNSTORE "segmentby metric_name, orderby time DESC"
#define WORK_MEM "64MB" /* see want_columnstore() */

enum kind { CHUNK_INTERVAL, COLUMNS, MEMORY, COMPRESS_AFTER, ROLLUPS, RETENTION };

#define KIND(name)                                           \
	{                                                    \
		"policy_failed/" name, "table_differs/" name \
	}

/* What log_event_limited() and log_event_once() go by. */
static const struct {
	const char *failed;
	const char *differs;
} kinds[] = {
    [CHUNK_INTERVAL] = KIND("chunk_interval"),
    [COLUMNS] = KIND("columnstore"),
    [MEMORY] = KIND("work_mem"),
    [COMPRESS_AFTER] = KIND("compress_after"),
    [ROLLUPS] = KIND("rollup"),
    [RETENTION] = KIND("retention"),
};

struct policy {
	enum kind kind;
	char name[PG_ROLLUP_MAX]; /* as recorded and logged */
	char wanted[64];          /* as pg_policy_found() writes it; "" = none */
	char shown[64];           /* as people read it; "" = none */
	uint64_t us;
};

struct work {
	struct pg_conn *c;
	const struct conf *conf;
	const char *extension; /* the schema of its functions, quoted */
	bool apache;           /* the edition that lacks most of them */
	bool first;            /* pg_policy_prepare()'s: without a word, and not for long */
	bool again;            /* see pg_policy_apply() */
	struct store_error *err;
};

/* ---- what is wanted ---- */

static void
want(struct policy *p, enum kind kind, const char *name, uint64_t us)
{
	*p = (struct policy){.kind = kind, .us = us};
	(void)snprintf(p->name, sizeof(p->name), "%s", name);
	if (!us)
		return;
	(void)snprintf(p->wanted, sizeof(p->wanted), "%" PRIu64, us);
	pg_interval(p->shown, us);
}

/*
 * The newest rows are found by merging segments, where TimescaleDB expects that to fit into
 * work_mem: 32 KB for each metric.  With PostgreSQL's 4 MB it reads a whole chunk instead from 100
 * metrics on, with WORK_MEM from 1,500 on.
 */
static void
want_columnstore(struct policy *p, enum kind kind, const struct conf *conf)
{
	const char *value = kind == COLUMNS ? COLUMNSTORE : WORK_MEM;

	want(p, kind, kind == COLUMNS ? "columnstore" : "work_mem", 0);
	if (!conf->table.compress_after_us && conf->table.direct_compress == CONF_OFF)
		return;
	(void)snprintf(p->wanted, sizeof(p->wanted), "%s", value);
	(void)snprintf(p->shown, sizeof(p->shown), "%s", value);
}

/* That there is a refresh is what is wanted; how far back it reaches is pg_rollup.h's. */
static void
want_rollup(struct policy *p, const char *text)
{
	uint64_t us = 0;

	(void)conf_value_duration(text, &us); /* conf.h has checked it */
	want(p, ROLLUPS, "", us);
	pg_rollup_name(p->name, us);
	(void)snprintf(p->wanted, sizeof(p->wanted), "refreshed");
}

/* ---- what is to be done ---- */

enum verdict { SAME, CHANGE, LEAVE };

static enum verdict
judge(const struct pg_policy_state *s, const struct policy *p)
{
	const char *found = pg_policy_found(s, p->name);
	bool may = s->ours || pg_policy_recorded(s, p->name);

	if (strcmp(found ? found : "", p->wanted) == 0)
		return SAME;
	switch (p->kind) {
	case CHUNK_INTERVAL:
		return s->ours ? CHANGE : LEAVE;
	case COLUMNS: /* an operator may have found a better one: only where there is none */
		if (!*p->wanted)
			return SAME;
		return s->ours && !found ? CHANGE : LEAVE;
	case MEMORY: /* whatever somebody has set is right; without found, it is not ours to set */
		if (*p->wanted && !s->ours && !pg_policy_found(s, "columnstore"))
			return SAME;
		if (*p->wanted)
			return found && !*found ? CHANGE : SAME;
		return found && strcmp(found, WORK_MEM) == 0 && pg_policy_recorded(s, p->name)
			   ? CHANGE
			   : SAME;
	case COMPRESS_AFTER:
		if (!found)
			return s->ours || pg_policy_found(s, "columnstore") ? CHANGE : LEAVE;
		break;
	case ROLLUPS:
		if (!found || !*found)
			return CHANGE;
		if (*p->wanted && pg_rollup_reaches(s, p->name))
			return SAME;
		break;
	case RETENTION:
		if (!found)
			return CHANGE;
		break;
	}
	if (!*p->wanted) /* only what we have made is removed */
		may = pg_policy_recorded(s, p->name);
	return may ? CHANGE : LEAVE;
}

/* ---- changes ---- */

static enum store_status
set_chunk_interval(const struct work *w, const struct policy *p)
{
	char sql[SQL_MAX];

	(void)snprintf(sql, sizeof(sql), "SELECT %s.set_chunk_time_interval('metrics', %s::bigint)",
		       w->extension, p->wanted);
	return pg_query(w->c, sql, w->err);
}

static enum store_status
set_columnstore(const struct work *w)
{
	return pg_query(w->c,
			"ALTER TABLE metrics SET (timescaledb.compress,"
			" timescaledb.compress_segmentby = 'metric_name',"
			" timescaledb.compress_orderby = 'time DESC')",
			w->err);
}

static enum store_status
set_memory(const struct work *w, const struct policy *p)
{
	char sql[SQL_MAX];

	(void)snprintf(sql, sizeof(sql),
		       "DO $$ BEGIN EXECUTE pg_catalog.format('ALTER DATABASE %%I %s',"
		       " pg_catalog.current_database()); END $$",
		       *p->wanted ? "SET work_mem = ''" WORK_MEM "''" : "RESET work_mem");
	return pg_query(w->c, sql, w->err);
}

/* A job that works through chunks of a certain age. */
static enum store_status
set_job(const struct work *w, const struct policy *p, const char *job, const char *after)
{
	char sql[SQL_MAX];
	int n =
	    snprintf(sql, sizeof(sql), "SELECT %s.remove_%s_policy('metrics', if_exists => true)",
		     w->extension, job);

	if (*p->wanted)
		(void)snprintf(sql + n, sizeof(sql) - (size_t)n,
			       ";SELECT %s.add_%s_policy('metrics', %s => interval '%s')",
			       w->extension, job, after, p->shown);
	return pg_query(w->c, sql, w->err);
}

/* What it has deleted so far has to be known before the change: this may be the last time. */
static enum store_status
set_retention(const struct work *w, const struct pg_policy_state *s, const struct policy *p)
{
	const char *found = pg_policy_found(s, p->name);
	enum store_status st = STORE_OK;

	if (found) {
		uint64_t us = strtoull(found, NULL, 10);

		st = pg_policy_complete_since(w->c, s, NULL, s->now_us > us ? s->now_us - us : 0,
					      w->err);
	}
	return st == STORE_OK ? set_job(w, p, "retention", "drop_after") : st;
}

static enum store_status
set_policy(const struct work *w, const struct pg_policy_state *s, const struct policy *p)
{
	switch (p->kind) {
	case CHUNK_INTERVAL:
		return set_chunk_interval(w, p);
	case COLUMNS:
		return set_columnstore(w);
	case MEMORY:
		return set_memory(w, p);
	case COMPRESS_AFTER:
		return set_job(w, p, "compression", "compress_after");
	case RETENTION:
		return set_retention(w, s, p);
	case ROLLUPS:
		return *p->wanted ? pg_rollup_refresh(w->c, s, p->name, p->us, w->err)
				  : pg_rollup_stop(w->c, s, p->name, w->err);
	}
	return STORE_OK;
}

/* Within the transaction: another collector may have been quicker. */
static enum store_status
change_locked(const struct work *w, const struct policy *p, bool *changed)
{
	struct pg_policy_state s = {0};
	enum store_status st = pg_policy_state_read(w->c, w->conf, w->extension, &s, w->err);

	if (st == STORE_OK && judge(&s, p) == CHANGE) {
		st = set_policy(w, &s, p);
		if (st == STORE_OK)
			st = pg_policy_record(w->c, p->name, p->shown, w->err);
		*changed = st == STORE_OK;
	}
	pg_policy_state_done(&s);
	return st;
}

/* Failures are logged here; what is returned ends the connection. */
static enum store_status
change(struct work *w, const struct policy *p)
{
	bool changed = false;
	enum store_status st = pg_lock_begin(w->c, PG_LOCK_TRY_MS, w->err);

	if (st == STORE_OK)
		st = change_locked(w, p, &changed);
	st = pg_lock_end(w->c, st, w->err);
	if (st == STORE_OK) {
		if (changed)
			log_event(LOG_INFO, "policy_applied", LOG_STR("policy", p->name),
				  LOG_STR("value", p->shown));
		return STORE_OK;
	}
	if (st == STORE_STOPPED || w->err->reconnect || w->c->lock_busy)
		return st;
	w->again = w->again || st == STORE_RETRY;
	if (w->first)
		return STORE_OK;
	log_event_limited(LOG_WARNING, kinds[p->kind].failed, "policy_failed",
			  LOG_STR("policy", p->name), LOG_STR("value", p->shown),
			  LOG_STR("error", w->err->text), LOG_STR("sqlstate", w->err->sqlstate),
			  LOG_STR("hint", w->err->hint));
	return STORE_OK;
}

static void
log_differs(const struct pg_policy_state *s, const struct policy *p)
{
	const char *found = pg_policy_found(s, p->name);
	char shown[PG_INTERVAL_MAX] = "";

	if (found && p->kind != COLUMNS && *found)
		pg_interval(shown, strtoull(found, NULL, 10));
	log_event_once(LOG_WARNING, kinds[p->kind].differs, "table_differs",
		       LOG_STR("what", p->name), LOG_STR("wanted", p->shown),
		       LOG_STR("found", p->kind == COLUMNS && found ? found : shown));
}

static enum store_status
apply(struct work *w, const struct pg_policy_state *s, const struct policy *p)
{
	switch (judge(s, p)) {
	case SAME:
		return STORE_OK;
	case CHANGE:
		return change(w, p);
	case LEAVE:
		log_differs(s, p);
		return STORE_OK;
	}
	return STORE_OK;
}

/* ---- all of them ---- */

static enum store_status
apply_rollups(struct work *w, const struct pg_policy_state *s)
{
	const struct conf_list *list = &w->conf->table.rollups;
	enum store_status st = STORE_OK;
	struct policy p;

	for (size_t i = 0; i < list->n && st == STORE_OK; i++) {
		want_rollup(&p, list->items[i]);
		st = apply(w, s, &p);
	}
	return st;
}

static bool
is_configured(const struct work *w, const char *name)
{
	const struct conf_list *list = &w->conf->table.rollups;
	struct policy p;

	for (size_t i = 0; i < list->n; i++) {
		want_rollup(&p, list->items[i]);
		if (strcmp(p.name, name) == 0)
			return true;
	}
	return false;
}

static enum store_status
stop_rollups(struct work *w, const struct pg_policy_state *s)
{
	enum store_status st = STORE_OK;
	struct policy p;
	const char *name;
	int at = 0;

	while (st == STORE_OK && (name = pg_policy_next_rollup(s, &at))) {
		if (is_configured(w, name))
			continue;
		want(&p, ROLLUPS, name, 0);
		st = change(w, &p);
	}
	return st;
}

/* What counts for the next batch: the chunks that it creates, and whether it may go into the
 * columnstore. */
static enum store_status
apply_first(struct work *w, const struct pg_policy_state *s)
{
	enum store_status st;
	struct policy p;

	want(&p, CHUNK_INTERVAL, "chunk_interval", w->conf->table.chunk_interval_us);
	st = apply(w, s, &p);
	if (st != STORE_OK || w->apache)
		return st;
	want_columnstore(&p, COLUMNS, w->conf);
	return apply(w, s, &p);
}

/* A refresh never reaches further back than metrics are kept: so rollups go before retention. */
static enum store_status
apply_others(struct work *w, const struct pg_policy_state *s)
{
	enum store_status st;
	struct policy p;

	want_columnstore(&p, MEMORY, w->conf);
	st = apply(w, s, &p);
	if (st == STORE_OK) {
		want(&p, COMPRESS_AFTER, "compress_after", w->conf->table.compress_after_us);
		st = apply(w, s, &p);
	}
	if (st == STORE_OK)
		st = apply_rollups(w, s);
	if (st == STORE_OK)
		st = stop_rollups(w, s);
	if (st == STORE_OK) {
		want(&p, RETENTION, "retention", w->conf->table.retention_us);
		st = apply(w, s, &p);
	}
	return st;
}

/* Its schema, quoted, and its edition: Apache's has the functions, but they only raise errors. */
static const char extension_sql[] =
    "SELECT pg_catalog.quote_ident(n.nspname),"
    " pg_catalog.current_setting('timescaledb.license', true) = 'apache'"
    " FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace"
    " WHERE e.extname = 'timescaledb'";

static void
log_left_out(const struct conf *conf)
{
	char text[64] = "";

	if (conf->table.compress_after_us)
		(void)snprintf(text, sizeof(text), "compress_after");
	if (conf->table.direct_compress != CONF_OFF)
		(void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s",
			       *text ? ", " : "", "direct_compress");
	if (conf->table.rollups.n)
		(void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s",
			       *text ? ", " : "", "rollups");
	if (*text)
		log_event_once(LOG_WARNING, "policies_left_out", "policies_left_out",
			       LOG_STR("edition", "apache"), LOG_STR("policies", text));
}

static enum store_status
apply_all(struct work *w)
{
	struct pg_policy_state s = {0};
	enum store_status st = pg_policy_state_read(w->c, w->conf, w->extension, &s, w->err);

	if (st == STORE_OK)
		st = apply_first(w, &s);
	if (st == STORE_OK && w->apache && !w->first)
		log_left_out(w->conf);
	else if (st == STORE_OK && !w->first)
		st = apply_others(w, &s);
	pg_policy_state_done(&s);
	return st;
}

/* Where there is TimescaleDB, and database.migrate lets us. */
static enum store_status
work(struct work *w)
{
	PGresult *r = NULL;
	enum store_status st;

	if (!w->conf->database.migrate)
		return STORE_OK;
	st = pg_select(w->c, extension_sql, PG_ROW_OR_NONE(2), &r, w->err);
	if (st == STORE_OK && PQntuples(r) > 0) {
		w->extension = PQgetvalue(r, 0, 0);
		w->apache = *PQgetvalue(r, 0, 1) == 't';
		st = apply_all(w);
	}
	PQclear(r);
	return st;
}

enum store_status
pg_policy_prepare(struct pg_conn *c, const struct conf *conf, struct store_error *err)
{
	struct work w = {.c = c, .conf = conf, .first = true, .err = err};
	enum store_status st = work(&w);

	return st == STORE_STOPPED || err->reconnect ? st : STORE_OK;
}

enum store_status
pg_policy_apply(struct pg_conn *c, const struct conf *conf, bool *again, struct store_error *err)
{
	struct work w = {.c = c, .conf = conf, .err = err};
	enum store_status st = work(&w);

	*again = w.again || st == STORE_RETRY || st == STORE_STOPPED;
	if (st == STORE_OK || st == STORE_STOPPED || err->reconnect || c->lock_busy)
		return st;
	log_event_limited(LOG_WARNING, "policy_failed", "policy_failed",
			  LOG_STR("error", err->text), LOG_STR("sqlstate", err->sqlstate),
			  LOG_STR("hint", err->hint));
	return STORE_OK;
}
