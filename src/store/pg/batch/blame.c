#include "store/pg/batch/blame.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "store/pg/link/pg_error.h"
#include "wire/bytes.h"
#include "wire/frame.h"

#define TABLE_MS 60000

/* A name that no rule of an operator's is likely to mean, short enough for any column. */
static const uint8_t harmless_name[] = {'m'};

/* What the server said about a row that it refused. */
struct seen {
	struct store_error err;
	char constraint[64];
	char column[64];
	char table[64];
	char context[160];
	bool raised;
};

/* A row to be tried; time_us is ignored when now is set. */
struct probe {
	uint64_t time_us;
	bool now;
	const uint8_t *name;
	size_t name_len;
	uint8_t value[8];
};

/* ---- what is remembered ---- */

static void
note(struct blame *b, const uint8_t *frame)
{
	unsigned i;

	for (i = 0; i < BLAME_GOOD; i++) {
		const uint8_t *known = b->good[i].frame;

		if (b->good[i].set && frame_name_len_at(known) == frame_name_len_at(frame) &&
		    memcmp(frame_name_at(known), frame_name_at(frame), frame_name_len_at(frame)) ==
			0)
			return;
	}
	memcpy(b->good[b->next].frame, frame, frame_size_at(frame));
	b->good[b->next].set = true;
	b->next = (b->next + 1) % BLAME_GOOD;
}

void
blame_note_good(struct blame *b, const struct batch_view *batch)
{
	size_t first = frame_size_at(batch->data);

	b->table_until_ms = 0;
	note(b, batch->data);
	if (first < batch->bytes)
		note(b, batch->data + first);
}

bool
blame_expects_table(const struct blame *b, const struct store_error *err)
{
	return clock_ms() < b->table_until_ms && strcmp(b->table_sqlstate, err->sqlstate) == 0;
}

/* ---- errors ---- */

bool
blame_raised(const struct pg_conn *c)
{
	const char *function =
	    c->failure ? PQresultErrorField(c->failure, PG_DIAG_SOURCE_FUNCTION) : NULL;

	return function && strcmp(function, "exec_stmt_raise") == 0 &&
	       PQstatus(c->pg) == CONNECTION_OK;
}

enum store_status
blame_correct(const struct pg_conn *c, enum store_status st, struct store_error *err)
{
	if (st == STORE_OK || st == STORE_STOPPED || !blame_raised(c))
		return st;
	err->reconnect = err->setup = err->batch_only = false;
	err->hint = NULL;
	return STORE_HOLD;
}

/* Copies a field of the last failure, up to a line's end; "" where there is none. */
static void
field(const struct pg_conn *c, int code, char *out, size_t size)
{
	const char *value = c->failure ? PQresultErrorField(c->failure, code) : NULL;

	(void)snprintf(out, size, "%.*s", value ? (int)strcspn(value, "\n") : 0,
		       value ? value : "");
}

/* Where it came from: the last line is the outermost, a trigger's function. */
static void
origin(const struct pg_conn *c, char *out, size_t size)
{
	const char *context = c->failure ? PQresultErrorField(c->failure, PG_DIAG_CONTEXT) : NULL;
	const char *last = context ? strrchr(context, '\n') : NULL;

	(void)snprintf(out, size, "%s", last ? last + 1 : context ? context : "");
}

static void
look(const struct pg_conn *c, struct seen *ret)
{
	field(c, PG_DIAG_CONSTRAINT_NAME, ret->constraint, sizeof(ret->constraint));
	field(c, PG_DIAG_COLUMN_NAME, ret->column, sizeof(ret->column));
	field(c, PG_DIAG_TABLE_NAME, ret->table, sizeof(ret->table));
	origin(c, ret->context, sizeof(ret->context));
	ret->raised = blame_raised(c);
}

/* ---- trying ---- */

/* STORE_OK with *taken, or what kept us from trying. */
static enum store_status
try_probe(struct pg_conn *c, const struct probe *p, bool *taken, struct seen *seen)
{
	char name[FRAME_NAME_MAX + 1];
	uint8_t time[8];
	const char *values[] = {p->now ? NULL : (const char *)time, name, (const char *)p->value};
	const int lengths[] = {sizeof(time), 0, sizeof(p->value)};
	const int formats[] = {1, 0, 1};
	const struct pg_params params = {3, values, lengths, formats};
	struct store_error *err = &seen->err;
	struct store_error second;
	enum store_status st, undone;

	be64_store(time, copy_time(p->time_us));
	(void)snprintf(name, sizeof(name), "%.*s", (int)p->name_len, (const char *)p->name);
	st = pg_query_anew(c, "SAVEPOINT probe", err);
	if (st != STORE_OK)
		return st;
	st = pg_query_params(c,
			     "INSERT INTO metrics (time, metric_name, value) VALUES"
			     " (COALESCE($1::pg_catalog.timestamptz, pg_catalog.now()),"
			     " $2, $3::pg_catalog.float8)",
			     &params, err);
	st = blame_correct(c, st, err);
	if (st != STORE_OK && (st != STORE_HOLD || err->reconnect))
		return st;
	if (st == STORE_HOLD)
		look(c, seen);
	undone = pg_query(c, "ROLLBACK TO SAVEPOINT probe; RELEASE SAVEPOINT probe", &second);
	if (undone != STORE_OK) {
		*err = second;
		return undone;
	}
	*taken = st == STORE_OK;
	return STORE_OK;
}

static void
probe_frame(struct probe *p, const uint8_t *frame)
{
	p->name = frame_name_at(frame);
	p->name_len = frame_name_len_at(frame);
	memcpy(p->value, frame_value_at(frame), sizeof(p->value));
}

/* Harmless values under a name. */
static enum store_status
try_values(struct pg_conn *c, struct probe p, const uint8_t *name, size_t len, bool *taken,
	   struct seen *seen)
{
	static const uint8_t plain[][8] = {
	    {0}, {0x3F, 0xF0}, {0xBF, 0xF0}, /* 0, 1, -1 */
	};
	enum store_status st = STORE_OK;
	size_t i;

	p.name = name;
	p.name_len = len;
	for (i = 0; i < sizeof(plain) / sizeof(plain[0]) && st == STORE_OK && !*taken; i++) {
		memcpy(p.value, plain[i], sizeof(p.value));
		st = try_probe(c, &p, taken, seen);
	}
	return st;
}

/* Is anything taken at that time?  What the refused row itself is called comes last. */
static enum store_status
try_others(const struct blame *b, struct pg_conn *c, struct probe at, const uint8_t *refused,
	   const uint8_t *stored, bool *taken, struct seen *seen)
{
	struct probe p = at;
	enum store_status st = STORE_OK;
	unsigned i;

	*taken = false;
	if (stored) {
		probe_frame(&p, stored);
		st = try_probe(c, &p, taken, seen);
	}
	for (i = 0; i < BLAME_GOOD && st == STORE_OK && !*taken; i++) {
		if (!b->good[i].set)
			continue;
		probe_frame(&p, b->good[i].frame);
		st = try_probe(c, &p, taken, seen);
	}
	if (st == STORE_OK && !*taken)
		st = try_values(c, at, harmless_name, sizeof(harmless_name), taken, seen);
	if (st == STORE_OK && !*taken)
		st = try_values(c, at, frame_name_at(refused), frame_name_len_at(refused), taken,
				seen);
	return st;
}

/* ---- judging ---- */

/* A constraint that is about values, and named.  That of a partition has no name. */
static bool
violates_constraint(const struct seen *s)
{
	static const char *const states[] = {"23505", "23514", "23P01"};
	size_t i;

	for (i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		if (*s->constraint && strcmp(s->err.sqlstate, states[i]) == 0)
			return true;
	return false;
}

/* One of columns that are not ours is the table's: an index has no row here, and is ours. */
static const char values_sql[] =
    "WITH named AS (SELECT o.conrelid, o.conkey FROM pg_catalog.pg_constraint o"
    "  JOIN pg_catalog.pg_class t ON t.oid = o.conrelid"
    "  WHERE o.conname = $1 AND t.relname = $2 AND o.conkey IS NOT NULL)"
    " SELECT NOT EXISTS (SELECT FROM named) OR EXISTS (SELECT FROM named n"
    "  JOIN pg_catalog.pg_attribute a ON a.attrelid = n.conrelid AND a.attnum = ANY (n.conkey)"
    "  WHERE a.attname IN ('time', 'metric_name', 'value'))";

static enum store_status
is_about_values(struct pg_conn *c, const struct seen *s, bool *ret, struct store_error *err)
{
	const char *values[] = {s->constraint, s->table};
	const struct pg_params params = {.n = 2, .values = values};
	PGresult *r = NULL;
	enum store_status st;

	*ret = false;
	if (!violates_constraint(s))
		return STORE_OK;
	st = pg_select_params(c, values_sql, &params, PG_ROW(1), &r, err);
	*ret = st == STORE_OK && *PQgetvalue(r, 0, 0) == 't';
	PQclear(r);
	return st;
}

static void
write_hint(struct blame *b, const struct seen *s, enum blame_verdict verdict)
{
	const size_t size = sizeof(b->hint);

	if (strcmp(s->err.sqlstate, "23502") == 0 && *s->column)
		(void)snprintf(b->hint, size,
			       "every row meets this: the column %s of %s gets no value; give it a "
			       "default, or let it be NULL; nothing is rejected, the rows wait",
			       s->column, s->table);
	else if (strcmp(s->err.sqlstate, "23514") == 0 && !*s->constraint && *s->table)
		(void)snprintf(b->hint, size,
			       "every row meets this: %s has no partition for their times; create "
			       "one, or a DEFAULT partition; nothing is rejected, the rows wait",
			       s->table);
	else if (*s->constraint && *s->table)
		(void)snprintf(
		    b->hint, size,
		    "every row meets this: the constraint %s of %s is about other columns "
		    "than theirs; nothing is rejected, the rows wait",
		    s->constraint, s->table);
	else
		(void)snprintf(
		    b->hint, size,
		    "every row meets this, also under other names%s; nothing is "
		    "rejected, the rows wait%s%s",
		    verdict == BLAME_CHUNK
			? ", but at other times none does: look at their partition or chunk"
			: "",
		    *s->context ? "; look at: " : "", s->context);
}

/* Not the rows: err becomes what the refused one met. */
static void
accuse(struct blame *b, const struct seen *s, enum blame_verdict verdict, struct store_error *err)
{
	*err = s->err;
	err->setup = false;
	err->batch_only = verdict == BLAME_CHUNK;
	write_hint(b, s, verdict);
	err->hint = b->hint;
	if (verdict != BLAME_TABLE)
		return;
	memcpy(b->table_sqlstate, err->sqlstate, sizeof(b->table_sqlstate));
	b->table_until_ms = clock_ms() + TABLE_MS;
}

/* The row at its time, others at that time, others now. */
static enum store_status
judge(const struct blame *b, struct pg_conn *c, const uint8_t *refused, const uint8_t *stored,
      enum blame_verdict *ret, struct seen *seen, struct seen *last)
{
	struct probe p = {.time_us = be64_load(refused)};
	enum store_status st;
	bool taken = false, values = false;

	probe_frame(&p, refused);
	*ret = BLAME_ROWS;
	st = try_probe(c, &p, &taken, seen);
	*last = *seen;
	if (st == STORE_OK && !taken)
		st = is_about_values(c, seen, &values, &last->err);
	if (st != STORE_OK || taken || values)
		return st;
	/* near, but not there: a unique index may be on the time alone */
	p.time_us += p.time_us < FRAME_TIME_MAX ? 1 : 0;
	st = try_others(b, c, p, refused, stored, &taken, last);
	if (st != STORE_OK || taken)
		return st;
	p.now = true;
	st = try_others(b, c, p, refused, stored, &taken, last);
	if (st == STORE_OK && taken)
		*ret = seen->raised || stored ? BLAME_ROWS : BLAME_CHUNK;
	else if (st == STORE_OK)
		*ret = BLAME_TABLE;
	return st;
}

enum store_status
blame_judge(struct blame *b, struct pg_conn *c, const uint8_t *refused, const uint8_t *stored,
	    enum blame_verdict *ret, struct store_error *err)
{
	struct seen seen = {.raised = false}, last = {.raised = false};
	enum store_status st = judge(b, c, refused, stored, ret, &seen, &last);

	if (st != STORE_OK)
		*err = last.err;
	else if (*ret != BLAME_ROWS)
		accuse(b, &seen, *ret, err);
	return st;
}
