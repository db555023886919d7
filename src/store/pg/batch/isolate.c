#include "store/pg/batch/isolate.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/crash_point.h"
#include "log/log.h"
#include "store/pg/batch/sieve.h"
#include "store/pg/link/pg_error.h"
#include "wire/bytes.h"
#include "wire/frame.h"
#include "wire/utf8.h"

/*
 * A half waits at each level while the other is worked on: more levels than rows have bits.  One
 * more for the rows that are refused.
 */
#define DEPTH_MAX 67

/* Each byte of a name may become \xHH. */
#define ESCAPED_MAX (4 * FRAME_NAME_MAX + 1)

#define COPY_REJECTED                                                                          \
	"COPY metric_collectord.rejected (time, name, value, reason, error, collector, batch)" \
	" FROM STDIN (FORMAT binary)"
#define TAIL_FIELDS 4
#define TAIL_MAX (4 * TAIL_FIELDS + ISOLATE_REASON_MAX + STORE_ERROR_MAX + 16 + 8)

#define SHOWN_MAX 5    /* rows that are logged one by one */
#define SUSPECTS_MAX 4 /* SQLSTATEs that are looked into */

struct part {
	struct isolate_rows rows;
	bool refused; /* goes to the rejected table untried */
};

/* A row that was refused, for the log. */
struct shown {
	const uint8_t *frame;
	char sqlstate[6];
	char error[STORE_ERROR_MAX];
};

/* The first row that was refused with an SQLSTATE. */
struct suspect {
	const uint8_t *frame;
	char sqlstate[6];
};

struct isolation {
	struct pg_conn *c;
	struct blame *blame;
	const struct batch_view *b;
	uint8_t tail[TAIL_MAX]; /* the fields of COPY_REJECTED behind the metric's */
	size_t tail_len;
	struct part stack[DEPTH_MAX];
	size_t depth;
	uint64_t untried;  /* rows in the rejected table that were not tried */
	uint64_t rejected; /* those that were */
	uint64_t stored;
	const uint8_t *first_stored; /* frames, NULL: none */
	struct suspect suspects[SUSPECTS_MAX];
	unsigned n_suspects;
	struct shown shown[SHOWN_MAX];
	struct store_error *err;
};

/* Cuts a part of two rows or more in two; the first one is worked on first. */
static void
halve(struct isolation *i, const struct part *p)
{
	const struct isolate_rows *all = &p->rows;
	uint64_t n, half = all->rows / 2;
	struct part first = {{all->frames, 0, half}, p->refused};
	struct part second = {{NULL, 0, all->rows - half}, p->refused};

	for (n = 0; n < half; n++)
		first.rows.len += frame_size_at(all->frames + first.rows.len);
	second.rows.frames = all->frames + first.rows.len;
	second.rows.len = all->len - first.rows.len;
	i->stack[i->depth++] = second;
	i->stack[i->depth++] = first;
}

/* Writes s in ASCII: any other byte, and the backslash, as \xHH. */
static void
escape(char *out, size_t size, const char *s, size_t len)
{
	size_t used = 0;
	size_t i;

	for (i = 0; i < len && used + 5 <= size; i++) {
		unsigned char byte = (unsigned char)s[i];

		if (byte >= 0x80 || byte == '\\')
			used += (size_t)snprintf(out + used, size - used, "\\x%02x", byte);
		else
			out[used++] = (char)byte;
	}
	out[used] = '\0';
}

/* Can the database's encoding hold the text that was refused with this error? */
static bool
encodable(const char *sqlstate)
{
	return strcmp(sqlstate, "22021") != 0 && strcmp(sqlstate, "22P05") != 0;
}

/* What stands in the rejected table for one row. */
struct refusal {
	uint8_t time[8];  /* timestamptz in binary */
	uint8_t value[8]; /* float8 in binary */
	char name[ESCAPED_MAX];
	char error[4 * STORE_ERROR_MAX + 1];
	char batch[24];
};

static void
describe(struct refusal *r, const struct isolation *i, const struct frame *f, const uint8_t *p)
{
	const char *error = i->err->text;
	size_t len = strlen(error);
	bool ok = encodable(i->err->sqlstate);

	be64_store(r->time, copy_time(f->time_us));
	memcpy(r->value, frame_value_at(p), sizeof(r->value));
	if (ok)
		(void)snprintf(r->name, sizeof(r->name), "%.*s", (int)f->name_len, f->name);
	else
		escape(r->name, sizeof(r->name), f->name, f->name_len);
	/* a database without an encoding sends any bytes, but takes only UTF-8 */
	if (ok && utf8_check((const uint8_t *)error, len) != UTF8_INVALID)
		(void)snprintf(r->error, sizeof(r->error), "%s", error);
	else
		escape(r->error, sizeof(r->error), error, len);
	(void)snprintf(r->batch, sizeof(r->batch), "%" PRIu64, i->b->number);
}

static void
hint_rejected(enum store_status st, struct store_error *err)
{
	if (st == STORE_HOLD && !err->hint)
		err->hint = "metric_collectord.rejected must take any row: remove what was "
			    "added to it";
}

/* Keeps what the log will say of a row. */
static void
show(struct isolation *i, const uint8_t *frame, const char *sqlstate, const char *error)
{
	struct shown *s;

	if (i->rejected >= SHOWN_MAX)
		return;
	s = &i->shown[i->rejected];
	s->frame = frame;
	(void)snprintf(s->sqlstate, sizeof(s->sqlstate), "%s", sqlstate);
	(void)snprintf(s->error, sizeof(s->error), "%s", error);
}

static void
suspect(struct isolation *i, const uint8_t *frame, const char *sqlstate)
{
	unsigned n = 0;

	while (n < i->n_suspects && strcmp(i->suspects[n].sqlstate, sqlstate) != 0)
		n++;
	if (n < i->n_suspects || n == SUSPECTS_MAX || !frame)
		return;
	i->suspects[n].frame = frame;
	(void)snprintf(i->suspects[n].sqlstate, sizeof(i->suspects[n].sqlstate), "%s", sqlstate);
	i->n_suspects++;
}

/* Puts a single row that was refused, as err says, into the rejected table. */
static enum store_status
reject(struct isolation *i, const struct part *p, bool raised)
{
	const char *reason = raised ? "trigger" : pg_error_reason(i->err->sqlstate);
	char sqlstate[sizeof(i->err->sqlstate)];
	struct refusal r;
	struct frame f;
	enum store_status st;
	const char *values[] = {
	    (const char *)r.time, r.name, (const char *)r.value, reason, sqlstate, r.error,
	    i->b->collector,      r.batch};
	const int lengths[] = {sizeof(r.time), 0, sizeof(r.value), 0, 0, 0, 0, 0};
	const int formats[] = {1, 0, 1, 0, 0, 0, 0, 0};
	const struct pg_params params = {8, values, lengths, formats};

	(void)frame_read(p->rows.frames, &f);
	memcpy(sqlstate, i->err->sqlstate, sizeof(sqlstate));
	describe(&r, i, &f, p->rows.frames);
	if (!p->refused)
		show(i, p->rows.frames, sqlstate, i->err->text);
	st = pg_query_params(i->c,
			     "INSERT INTO metric_collectord.rejected"
			     " (time, name, value, reason, sqlstate, error, collector, batch)"
			     " VALUES ($1::timestamptz, $2, $3::float8, $4, $5, $6, $7::uuid, $8)",
			     &params, i->err);
	if (st != STORE_OK) {
		hint_rejected(st, i->err);
		return st;
	}
	if (p->refused) {
		i->untried++;
		return STORE_OK;
	}
	suspect(i, p->rows.frames, sqlstate);
	i->rejected++;
	return STORE_OK;
}

/* What the rows have in common that go to the rejected table untried. */
static void
describe_refused(struct isolation *i, const struct isolate_refused *refused)
{
	size_t reason = strnlen(refused->reason, ISOLATE_REASON_MAX);
	size_t error = strnlen(refused->error, STORE_ERROR_MAX);
	uint8_t uuid[16] = {0}, number[8];
	uint8_t *o = i->tail;

	(void)uuid_parse(i->b->collector, uuid);
	be64_store(number, i->b->number);
	o += copy_put_field(o, refused->reason, (uint32_t)reason);
	o += copy_put_field(o, refused->error, (uint32_t)error);
	o += copy_put_field(o, uuid, sizeof(uuid));
	o += copy_put_field(o, number, sizeof(number));
	i->tail_len = (size_t)(o - i->tail);
}

/* A row by itself, where COPY would not say what is wrong with it. */
static enum store_status
insert_row(struct isolation *i, const struct part *p)
{
	struct refusal r;
	struct frame f;
	enum store_status st;
	const char *values[] = {(const char *)r.time, r.name, (const char *)r.value};
	const int lengths[] = {sizeof(r.time), 0, sizeof(r.value)};
	const int formats[] = {1, 0, 1};
	const struct pg_params params = {3, values, lengths, formats};

	(void)frame_read(p->rows.frames, &f);
	be64_store(r.time, copy_time(f.time_us));
	memcpy(r.value, frame_value_at(p->rows.frames), sizeof(r.value));
	(void)snprintf(r.name, sizeof(r.name), "%.*s", (int)f.name_len, f.name);
	st = pg_query(i->c, "SAVEPOINT half", i->err);
	if (st != STORE_OK)
		return st;
	return pg_query_params(i->c,
			       "INSERT INTO metrics (time, metric_name, value)"
			       " VALUES ($1::timestamptz, $2, $3::float8)",
			       &params, i->err);
}

/*
 * Copies a part to where it belongs.  *rows_met says whether a failure came when rows were on their
 * way: else it is none of theirs.
 */
static enum store_status
copy_part(struct isolation *i, const struct part *p, bool *rows_met)
{
	enum store_status st;
	struct copy rows;

	*rows_met = true;
	if (i->c->distributed && p->rows.rows == 1 && !p->refused)
		return insert_row(i, p);
	copy_init(&rows, p->rows.frames, p->rows.len);
	st = pg_query_anew(i->c, "SAVEPOINT half", i->err);
	if (st != STORE_OK)
		return st;
	if (!p->refused) {
		st = pg_copy(i->c, PG_COPY, &rows, i->err);
		*rows_met = copy_begun(&rows);
		return st;
	}
	copy_set_tail(&rows, i->tail, i->tail_len, TAIL_FIELDS);
	st = pg_copy(i->c, COPY_REJECTED, &rows, i->err);
	*rows_met = pg_error_class(i->err->sqlstate) == PG_ISOLATE;
	if (st != STORE_OK && !*rows_met)
		hint_rejected(st, i->err);
	return st;
}

static enum store_status
note_copied(struct isolation *i, const struct part *p)
{
	if (p->refused) {
		i->untried += p->rows.rows;
	} else {
		i->stored += p->rows.rows;
		if (!i->first_stored)
			i->first_stored = p->rows.frames;
	}
	return pg_query(i->c, "RELEASE SAVEPOINT half", i->err);
}

/* Is an error that a single row meets one of Citus's nodes? */
static bool
is_hidden(const struct isolation *i)
{
	return i->c->distributed && strcmp(i->err->sqlstate, "XX000") == 0;
}

/* Copies a part; *taken says whether that was refused, which has then left nothing behind. */
static enum store_status
attempt(struct isolation *i, const struct part *p, bool *taken, bool *raised)
{
	struct store_error second;
	enum store_status st;
	bool rows_met;

	st = copy_part(i, p, &rows_met);
	*taken = st == STORE_OK;
	if (*taken)
		return note_copied(i, p);
	*raised = blame_raised(i->c);
	st = blame_correct(i->c, st, i->err);
	if (st != STORE_HOLD || i->err->reconnect || !rows_met)
		return st;
	if (p->rows.rows == 1 && is_hidden(i))
		return st;
	st = pg_query(i->c, "ROLLBACK TO SAVEPOINT half; RELEASE SAVEPOINT half", &second);
	if (st != STORE_OK)
		*i->err = second;
	return st;
}

/* Stores a part, or takes it apart. */
static enum store_status
try_part(struct isolation *i, const struct part *p)
{
	bool taken, raised = false;
	enum store_status st = attempt(i, p, &taken, &raised);

	if (st != STORE_OK || taken)
		return st;
	if (p->rows.rows == 1)
		return reject(i, p, raised);
	halve(i, p);
	return STORE_OK;
}

/* ---- the server tries ---- */

/* The frame of the n-th row, from 1; NULL for 0. */
static const uint8_t *
frame_of(const struct batch_view *b, uint64_t n)
{
	const uint8_t *p = b->data;

	if (n == 0 || n > b->rows)
		return NULL;
	while (--n > 0)
		p += frame_size_at(p);
	return p;
}

static enum store_status
show_sieved(struct isolation *i)
{
	PGresult *r = NULL;
	enum store_status st = sieve_show(i->c, SHOWN_MAX, &r, i->err);
	int n, rows = st == STORE_OK ? PQntuples(r) : 0;

	for (n = 0; n < rows && n < SHOWN_MAX; n++) {
		const uint8_t *frame = frame_of(i->b, strtoull(PQgetvalue(r, n, 0), NULL, 10));

		if (!frame)
			break;
		i->rejected = (uint64_t)n;
		show(i, frame, PQgetvalue(r, n, 1), PQgetvalue(r, n, 2));
	}
	PQclear(r);
	return st;
}

static enum store_status
suspect_sieved(struct isolation *i)
{
	PGresult *r = NULL;
	enum store_status st = sieve_states(i->c, SUSPECTS_MAX, &r, i->err);
	int n, states = st == STORE_OK ? PQntuples(r) : 0;

	for (n = 0; n < states; n++)
		suspect(i, frame_of(i->b, strtoull(PQgetvalue(r, n, 1), NULL, 10)),
			PQgetvalue(r, n, 0));
	PQclear(r);
	return st;
}

/* Tries all rows; *usable is as sieve_fill() sets it. */
static enum store_status
sieve(struct isolation *i, bool *usable)
{
	struct sieve_result res = {0};
	enum store_status st = sieve_fill(i->c, i->b, usable, i->err);

	if (st != STORE_OK || !*usable)
		return st;
	st = sieve_run(i->c, i->b->rows, &res, i->err);
	if (st == STORE_OK && res.refused)
		st = show_sieved(i);
	if (st == STORE_OK && res.refused)
		st = suspect_sieved(i);
	if (st != STORE_OK)
		return st;
	i->rejected = res.refused < i->b->rows ? res.refused : i->b->rows;
	i->stored = i->b->rows - i->rejected;
	i->first_stored = frame_of(i->b, res.first_stored);
	st = sieve_reject(i->c, i->b, i->err);
	if (st != STORE_OK)
		hint_rejected(st, i->err);
	return st;
}

/* ---- all of it ---- */

/* Is the row to blame for what was met? */
static enum store_status
judge(struct isolation *i, const uint8_t *frame)
{
	enum blame_verdict verdict = BLAME_ROWS;
	enum store_status st =
	    blame_judge(i->blame, i->c, frame, i->first_stored, &verdict, i->err);

	return st == STORE_OK && verdict != BLAME_ROWS ? STORE_HOLD : st;
}

/* Most rows were refused, perhaps for several reasons: the table is one as soon as one of them is. */
static enum store_status
judge_all(struct isolation *i)
{
	enum store_status st = STORE_OK;

	for (unsigned n = 0; n < i->n_suspects && st == STORE_OK; n++)
		st = judge(i, i->suspects[n].frame);
	return st;
}

static enum store_status
try_rows(struct isolation *i, bool whole_first)
{
	struct part all = {{i->b->data, i->b->bytes, i->b->rows}, false};
	bool raised, done = i->b->rows == 0;
	enum store_status st = STORE_OK;

	if (whole_first && !done)
		st = attempt(i, &all, &done, &raised);
	if (st == STORE_OK && !done && !i->c->distributed)
		st = sieve(i, &done);
	if (st == STORE_OK && !done)
		i->stack[i->depth++] = all;
	while (st == STORE_OK && i->depth > 0) {
		struct part p = i->stack[--i->depth];

		st = try_part(i, &p);
	}
	return st == STORE_OK && i->rejected > i->stored ? judge_all(i) : st;
}

static enum store_status
commit(struct isolation *i)
{
	struct store_error *err = i->err;
	char rejected[24], number[24];
	const char *values[] = {rejected, i->b->collector, number};
	const struct pg_params params = {.n = 3, .values = values};
	enum store_status st;

	(void)snprintf(rejected, sizeof(rejected), "%" PRIu64, i->rejected + i->untried);
	(void)snprintf(number, sizeof(number), "%" PRIu64, i->b->number);
	st = pg_query_params(i->c,
			     "UPDATE metric_collectord.batches"
			     " SET rows = rows - $1::bigint, rejected = rejected + $1::bigint"
			     " WHERE collector = $2::uuid AND batch = $3::bigint",
			     &params, err);
	if (st == STORE_OK) {
		crash_point("before_commit");
		st = pg_query(i->c, "COMMIT", err);
	}
	return st;
}

/* The first few rows, and all of them together if there were more. */
static void
tell(const struct isolation *i)
{
	const struct shown *s = i->shown;
	bool same = i->n_suspects == 1;
	struct frame f;
	uint64_t n;

	for (n = 0; n < i->rejected && n < SHOWN_MAX && s[n].frame; n++) {
		(void)frame_read(s[n].frame, &f);
		log_event_limited(LOG_WARNING, "row_rejected", "row_rejected",
				  LOG_BYTES("metric", f.name, f.name_len),
				  LOG_TIME("time", f.time_us), LOG_F64("value", f.value),
				  LOG_STR("sqlstate", s[n].sqlstate), LOG_STR("error", s[n].error),
				  LOG_U64("batch", i->b->number));
	}
	if (i->rejected > SHOWN_MAX)
		log_event_limited(LOG_WARNING, "rows_rejected", "rows_rejected",
				  LOG_U64("batch", i->b->number), LOG_U64("rows", i->rejected),
				  LOG_U64("stored", i->stored),
				  same ? LOG_STR("sqlstate", s[0].sqlstate) : LOG_NONE,
				  same ? LOG_STR("error", s[0].error) : LOG_NONE);
}

enum store_status
isolate(struct pg_conn *c, struct blame *blame, const struct batch_view *b, const char *settings,
	const char *ledger, const struct isolate_refused *refused, uint64_t *rejected,
	struct store_error *err)
{
	struct isolation i = {.c = c, .blame = blame, .b = b, .err = err};
	bool expected = blame_expects_table(blame, err);
	enum store_status st;

	st = pg_begin(c, settings, err);
	/* a deferred constraint shall refuse rows here, not the whole at COMMIT */
	if (st == STORE_OK)
		st = pg_query(c, "SET CONSTRAINTS ALL IMMEDIATE", err);
	if (st == STORE_OK)
		st = pg_query(c, ledger, err);
	if (st == STORE_OK && expected && b->rows)
		st = judge(&i, b->data);
	if (refused) {
		describe_refused(&i, refused);
		i.stack[i.depth++] = (struct part){refused->rows, true};
	}
	if (st == STORE_OK)
		st = try_rows(&i, refused != NULL);
	if (st == STORE_OK)
		st = commit(&i);
	if (st == STORE_OK) {
		crash_point("after_commit");
		tell(&i);
		*rejected = i.rejected + i.untried;
	}
	return st;
}
