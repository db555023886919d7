#include "store/pg/batch/isolate.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/crash_point.h"
#include "log/log.h"
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

struct part {
	struct isolate_rows rows;
	bool refused; /* goes to the rejected table untried */
};

struct isolation {
	struct pg_conn *c;
	const struct batch_view *b;
	uint8_t tail[TAIL_MAX]; /* the fields of COPY_REJECTED behind the metric's */
	size_t tail_len;
	struct part stack[DEPTH_MAX];
	size_t depth;
	uint64_t rejected;
	struct store_error *err;
};

bool
isolate_helps(const struct pg_conn *c, const struct store_error *err)
{
	return pg_error_class(err->sqlstate) == PG_ISOLATE ||
	       (c->distributed && strcmp(err->sqlstate, "XX000") == 0);
}

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

/* Puts a single row that was refused, as err says, into the rejected table. */
static enum store_status
reject(struct isolation *i, const struct part *p)
{
	const char *reason = pg_error_reason(i->err->sqlstate);
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
	log_event_limited(LOG_WARNING, "row_rejected", "row_rejected",
			  LOG_BYTES("metric", f.name, f.name_len), LOG_TIME("time", f.time_us),
			  LOG_F64("value", f.value), LOG_STR("sqlstate", sqlstate),
			  LOG_STR("error", i->err->text), LOG_U64("batch", i->b->number));
	st = pg_query_params(i->c,
			     "INSERT INTO metric_collectord.rejected"
			     " (time, name, value, reason, sqlstate, error, collector, batch)"
			     " VALUES ($1::timestamptz, $2, $3::float8, $4, $5, $6, $7::uuid, $8)",
			     &params, NULL, i->err);
	if (st == STORE_OK)
		i->rejected++;
	else
		hint_rejected(st, i->err);
	return st;
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
	st = pg_query(i->c, "SAVEPOINT half", NULL, i->err);
	if (st != STORE_OK)
		return st;
	return pg_query_params(i->c,
			       "INSERT INTO metrics (time, metric_name, value)"
			       " VALUES ($1::timestamptz, $2, $3::float8)",
			       &params, NULL, i->err);
}

/* Copies a part to where it belongs. */
static enum store_status
copy_part(struct isolation *i, const struct part *p)
{
	enum store_status st;
	struct copy rows;

	if (i->c->distributed && p->rows.rows == 1 && !p->refused)
		return insert_row(i, p);
	copy_init(&rows, p->rows.frames, p->rows.len);
	if (!p->refused)
		return pg_copy(i->c, "SAVEPOINT half; " PG_COPY, &rows, i->err);
	copy_set_tail(&rows, i->tail, i->tail_len, TAIL_FIELDS);
	st = pg_copy(i->c, "SAVEPOINT half; " COPY_REJECTED, &rows, i->err);
	if (st == STORE_OK)
		i->rejected += p->rows.rows;
	else if (pg_error_class(i->err->sqlstate) != PG_ISOLATE)
		hint_rejected(st, i->err);
	return st;
}

/* Stores a part, or takes it apart. */
static enum store_status
try_part(struct isolation *i, const struct part *p)
{
	struct store_error second;
	enum store_status st;

	st = copy_part(i, p);
	if (st == STORE_OK)
		return pg_query(i->c, "RELEASE SAVEPOINT half", NULL, i->err);
	if (st != STORE_HOLD || !isolate_helps(i->c, i->err))
		return st;
	if (p->rows.rows == 1 && pg_error_class(i->err->sqlstate) != PG_ISOLATE)
		return st;
	st = pg_query(i->c, "ROLLBACK TO SAVEPOINT half; RELEASE SAVEPOINT half", NULL, &second);
	if (st != STORE_OK) {
		*i->err = second;
		return st;
	}
	if (p->rows.rows == 1)
		return reject(i, p);
	halve(i, p);
	return STORE_OK;
}

static enum store_status
commit(struct isolation *i)
{
	struct store_error *err = i->err;
	char rejected[24], number[24];
	const char *values[] = {rejected, i->b->collector, number};
	const struct pg_params params = {.n = 3, .values = values};
	enum store_status st;

	(void)snprintf(rejected, sizeof(rejected), "%" PRIu64, i->rejected);
	(void)snprintf(number, sizeof(number), "%" PRIu64, i->b->number);
	st = pg_query_params(i->c,
			     "UPDATE metric_collectord.batches"
			     " SET rows = rows - $1::bigint, rejected = $1::bigint"
			     " WHERE collector = $2::uuid AND batch = $3::bigint",
			     &params, NULL, err);
	if (st == STORE_OK) {
		crash_point("before_commit");
		st = pg_query(i->c, "COMMIT", NULL, err);
	}
	return st;
}

enum store_status
isolate(struct pg_conn *c, const struct batch_view *b, const char *settings, const char *ledger,
	const struct isolate_refused *refused, uint64_t *rejected, struct store_error *err)
{
	struct isolation i = {.c = c, .b = b, .err = err};
	enum store_status st;

	st = pg_begin(c, settings, err);
	/* a deferred constraint shall refuse rows here, not the whole at COMMIT */
	if (st == STORE_OK)
		st = pg_query(c, "SET CONSTRAINTS ALL IMMEDIATE", NULL, err);
	if (st == STORE_OK)
		st = pg_query(c, ledger, NULL, err);
	if (b->rows)
		i.stack[i.depth++] = (struct part){{b->data, b->bytes, b->rows}, false};
	if (refused) {
		describe_refused(&i, refused);
		i.stack[i.depth++] = (struct part){refused->rows, true};
	}
	while (st == STORE_OK && i.depth > 0) {
		struct part p = i.stack[--i.depth];

		st = try_part(&i, &p);
	}
	if (st == STORE_OK)
		st = commit(&i);
	if (st == STORE_OK) {
		crash_point("after_commit");
		*rejected = i.rejected;
	}
	return st;
}
