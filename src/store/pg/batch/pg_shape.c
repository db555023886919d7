#include "store/pg/batch/pg_shape.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/log.h"
#include "store/pg/link/pg_session.h"
#include "wire/bytes.h"
#include "wire/frame.h"

/* Fewer are not worth the trouble; HACKING.md has the figures of both. */
#define SORT_MIN 500
#define DIRECT_SEGMENT_ROWS 200

/* ---- what is known of the table ---- */

void
pg_shaper_init(struct pg_shaper *s, const struct conf *conf)
{
	*s = (struct pg_shaper){.conf = conf};
	sort_init(&s->sort);
}

void
pg_shaper_done(struct pg_shaper *s)
{
	sort_done(&s->sort);
}

static const char *
not_direct(const struct pg_shaper *s)
{
	if (s->conf->database.timescaledb == CONF_OFF)
		return "database.timescaledb is off";
	return s->table.not_direct;
}

static void
tell(struct pg_shaper *s)
{
	const char *reason = not_direct(s);

	if (s->conf->table.direct_compress == CONF_OFF || (s->told && s->told_as == reason))
		return;
	log_event(LOG_NOTICE, "direct_compress", LOG_BOOL("usable", !reason),
		  LOG_STR("reason", reason));
	s->told = true;
	s->told_as = reason;
}

enum store_status
pg_shaper_refresh(struct pg_shaper *s, struct pg_conn *c, struct store_error *err)
{
	enum store_status st = pg_table_read(c, &s->table, err);

	if (st != STORE_OK)
		return st;
	s->direct_failed = false;
	tell(s);
	return STORE_OK;
}

void
pg_shaper_failed(struct pg_shaper *s, const struct store_error *err)
{
	static const char refused[] = "the server refused it";

	log_event_limited(LOG_NOTICE, "direct_compress", "direct_compress",
			  LOG_BOOL("usable", false), LOG_STR("reason", refused),
			  LOG_STR("error", err->text), LOG_STR("sqlstate", err->sqlstate));
	s->told_as = refused;
	s->direct_failed = true;
}

/* ---- rows beyond the limit ---- */

/* Counts what the refused times seem to be measured in. */
struct unit_count {
	const char *unit;
	uint64_t rows;
};

static void
count_unit(struct unit_count units[4], const char *unit)
{
	size_t i = 0;

	while (i < 3 && units[i].unit != unit && units[i].rows > 0)
		i++;
	units[i].unit = unit;
	units[i].rows++;
}

static const char *
likely_unit(const struct unit_count units[4])
{
	size_t i, best = 0;

	for (i = 1; i < 4; i++)
		if (units[i].rows > units[best].rows)
			best = i;
	return units[best].unit;
}

/* Copies the frames apart: those that are accepted to the front, the others behind them. */
static void
divide(struct pg_shape *shape, const struct batch_view *b, const struct chunk_guard *g)
{
	struct unit_count units[4] = {{NULL, 0}};
	struct batch_view *accepted = &shape->accepted;
	uint8_t *end = shape->split + b->bytes;
	size_t at, size;

	*accepted = *b;
	accepted->data = shape->split;
	accepted->rows = accepted->bytes = 0;
	for (at = 0; at < b->bytes; at += size) {
		const uint8_t *p = b->data + at;
		uint64_t time_us = be64_load(p);

		size = frame_size_at(p);
		if (chunk_guard_keeps(g, time_us)) {
			memcpy(shape->split + accepted->bytes, p, size);
			accepted->bytes += size;
			accepted->rows++;
			continue;
		}
		end -= size;
		memcpy(end, p, size);
		count_unit(units, frame_time_unit(time_us, g->limits.now_us));
	}
	shape->unit = likely_unit(units);
	shape->refused.rows =
	    (struct isolate_rows){end, b->bytes - accepted->bytes, b->rows - accepted->rows};
}

static enum store_status
refuse(struct pg_shape *shape, const struct batch_view *b, const struct chunk_guard *g,
       struct store_error *err)
{
	shape->split = malloc(b->bytes);
	if (!shape->split)
		return pg_fail(err, "out of memory");
	divide(shape, b, g);
	(void)snprintf(shape->error, sizeof(shape->error),
		       "the batch would create %zu chunks, table.max_new_chunks is %zu", g->n_new,
		       g->limits.max_new);
	shape->refused.reason = "chunk_limit";
	shape->refused.error = shape->error;
	return STORE_OK;
}

/* The batch asks for many chunks: which of them are there? */
static enum store_status
check_chunks(struct pg_conn *c, struct chunk_limits *limits, const struct batch_view *b,
	     struct pg_shape *ret, struct store_error *err)
{
	struct chunk_range *ranges = NULL;
	struct chunk_guard guard;
	enum store_status st =
	    pg_table_ranges(c, b->min_us, b->max_us, &ranges, &limits->n_ranges, err);

	if (st != STORE_OK)
		return st;
	limits->ranges = ranges;
	if (chunk_guard_init(&guard, limits, b->data, b->bytes) < 0) {
		free(ranges);
		return pg_fail(err, "out of memory");
	}
	if (guard.n_new > limits->max_new)
		st = refuse(ret, b, &guard, err);
	chunk_guard_done(&guard);
	free(ranges);
	return st;
}

static enum store_status
limit_chunks(struct pg_shaper *s, struct pg_conn *c, const struct batch_view *b,
	     struct pg_shape *ret, struct store_error *err)
{
	struct chunk_limits limits = {.interval_us = s->table.chunk_interval_us,
				      .max_new = s->conf->table.max_new_chunks};
	struct chunk_guard guard;
	enum store_status st;
	bool many;

	if (!limits.interval_us || !chunk_guard_concerns(&limits, b->min_us, b->max_us))
		return STORE_OK;
	st = pg_now(c, &limits.now_us, err);
	if (st != STORE_OK)
		return st;
	if (chunk_guard_init(&guard, &limits, b->data, b->bytes) < 0)
		return pg_fail(err, "out of memory");
	many = guard.n_new > limits.max_new;
	chunk_guard_done(&guard);
	return many ? check_chunks(c, &limits, b, ret, err) : STORE_OK;
}

/* ---- all of it ---- */

/* Segments that the batch will make: of each metric one in each chunk. */
static size_t
count_segments(const struct sort_order *o, const struct batch_view *b, uint64_t interval_us)
{
	uint64_t before = 0;
	size_t i, n = 0;

	if (b->min_us / interval_us == b->max_us / interval_us)
		return o->names;
	for (i = 0; i < o->n; i++) {
		uint64_t chunk = o->rows[i].key / interval_us;

		n += i == 0 || chunk != before || o->rows[i].name != o->rows[i - 1].name;
		before = chunk;
	}
	return n;
}

static bool
wants_direct(const struct pg_shaper *s, const struct batch_view *b, const struct sort_order *o)
{
	if (s->conf->table.direct_compress == CONF_OFF || not_direct(s) || s->direct_failed)
		return false;
	return b->rows >= DIRECT_SEGMENT_ROWS * count_segments(o, b, s->table.chunk_interval_us);
}

enum store_status
pg_shape(struct pg_shaper *s, struct pg_conn *c, const struct batch_view *b, struct pg_shape *ret,
	 struct store_error *err)
{
	enum store_status st;

	*ret = (struct pg_shape){.accepted = *b};
	st = limit_chunks(s, c, b, ret, err);
	if (st != STORE_OK || ret->split || b->rows < SORT_MIN)
		return st;
	if (sort_frames(&s->sort, b->data, b->bytes, b->rows, &ret->order) < 0)
		return STORE_OK; /* then as they stand */
	ret->direct = wants_direct(s, b, &ret->order);
	if (ret->direct) /* the order of the columnstore, which then has little to sort */
		sort_newest_first(&ret->order);
	return STORE_OK;
}

void
pg_shape_done(struct pg_shape *shape)
{
	free(shape->split);
	shape->split = NULL;
}

void
pg_shape_copy(const struct pg_shape *shape, struct copy *ret)
{
	if (shape->order.rows)
		copy_init_order(ret, shape->accepted.data, shape->order.rows, shape->order.n);
	else
		copy_init(ret, shape->accepted.data, shape->accepted.bytes);
}

void
pg_shape_log(const struct pg_shape *shape)
{
	char hint[128];

	if (!shape->refused.rows.rows)
		return;
	if (shape->unit)
		(void)snprintf(hint, sizeof(hint), FRAME_UNIT_HINT, shape->unit);
	else
		(void)snprintf(hint, sizeof(hint),
			       "correct the sender's clock, or raise table.max_new_chunks for "
			       "old data");
	log_event_limited(
	    LOG_WARNING, "chunk_limit", "chunk_limit", LOG_U64("batch", shape->accepted.number),
	    LOG_U64("rows", shape->refused.rows.rows), LOG_U64("kept", shape->accepted.rows),
	    LOG_STR("error", shape->error), LOG_STR("hint", hint));
}
