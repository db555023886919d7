/* client_frames.c - from bytes to frames: what is valid goes to the queue, the rest is refused. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/client_internal.h"
#include "base/clock.h"
#include "log/log.h"

/* A run of valid frames that the queue has not got yet. */
struct run {
	const uint8_t *p;
	size_t len;
	struct batch_part part;
	struct queue_room room;
};

static void
run_begin(struct run *run, struct queue *q, const uint8_t *p)
{
	run->p = p;
	run->len = 0;
	run->part = BATCH_PART_NONE;
	run->room = queue_make_room(q);
}

static void
run_flush(struct run *run, struct client *c)
{
	uint64_t number;

	if (!run->len)
		return;
	number = queue_append(c->set->queue, run->p, run->len, &run->part);
	c->frames += run->part.rows;
	if (!number) {
		c->lost = true;
	} else {
		if (!c->first_batch[0])
			c->first_batch[0] = number;
		if (!c->first_batch[1])
			c->first_batch[1] = number;
	}
	run->p += run->len;
	run->len = 0;
	run->part = BATCH_PART_NONE;
}

static void
run_add(struct run *run, struct client *c, const uint8_t *p, size_t size, uint64_t time_us)
{
	if (!run->len)
		run_begin(run, c->set->queue, p);
	else if (run->part.rows == run->room.rows || run->len + size > run->room.bytes) {
		run_flush(run, c);
		run_begin(run, c->set->queue, p);
	}
	run->len += size;
	run->part.rows++;
	if (time_us < run->part.min_us)
		run->part.min_us = time_us;
	if (time_us > run->part.max_us)
		run->part.max_us = time_us;
}

static void
count_refused(struct stats *stats, enum frame_kind kind)
{
	stats->refused++;
	switch (kind) {
	case FRAME_EMPTY_NAME:
		stats->refused_empty_name++;
		break;
	case FRAME_INVALID_UTF8:
		stats->refused_invalid_utf8++;
		break;
	case FRAME_CONTROL_BYTE:
		stats->refused_control_byte++;
		break;
	case FRAME_TIMESTAMP_RANGE:
		stats->refused_timestamp_range++;
		break;
	case FRAME_TIMESTAMP_WINDOW:
		stats->refused_timestamp_window++;
		break;
	case FRAME_METRIC:
	case FRAME_SYNC:
		assert(false); /* not a refusal */
	}
}

static const char *
refusal_kind(enum frame_kind kind)
{
	switch (kind) { /* static strings for the rate limit: one kind a reason */
	case FRAME_EMPTY_NAME:
		return "frame_refused/empty_name";
	case FRAME_INVALID_UTF8:
		return "frame_refused/invalid_utf8";
	case FRAME_CONTROL_BYTE:
		return "frame_refused/control_byte";
	case FRAME_TIMESTAMP_RANGE:
		return "frame_refused/timestamp_range";
	case FRAME_TIMESTAMP_WINDOW:
		return "frame_refused/timestamp_window";
	case FRAME_METRIC:
	case FRAME_SYNC:
		break;
	}
	return "frame_refused";
}

/* What may be wrong with a timestamp that is refused; NULL when nothing comes to mind. */
static const char *
refusal_hint(const struct frame *f, char text[128])
{
	const char *unit = NULL;

	if (f->kind == FRAME_TIMESTAMP_RANGE || f->kind == FRAME_TIMESTAMP_WINDOW)
		unit = frame_time_unit(f->time_us, clock_real_us());
	if (!unit)
		return NULL;
	(void)snprintf(text, 128, FRAME_UNIT_HINT, unit);
	return text;
}

/* Returns false when that was one too many, and the client is closed. */
static bool
client_refuse(struct client *c, const struct frame *f, const uint8_t *p, size_t size)
{
	char peer[ADDRESS_TEXT_MAX], hint[128];

	count_refused(c->set->stats, f->kind);
	c->refused++;
	c->refused_since_sync++;
	log_event_limited(LOG_WARNING, refusal_kind(f->kind), "frame_refused",
			  LOG_STR("client", client_name(c, peer)),
			  LOG_STR("reason", frame_kind_name(f->kind)),
			  f->name_len ? LOG_BYTES("metric", f->name, f->name_len) : LOG_NONE,
			  LOG_HEX("frame", p, size), LOG_STR("hint", refusal_hint(f, hint)));
	if (++c->refused_in_row < c->set->conf->max_invalid_frames)
		return true;
	c->set->stats->clients_protocol_error++;
	client_close(c, "protocol_error");
	return false;
}

static struct frame_window
window_now(const struct conf *conf)
{
	struct frame_window w = FRAME_WINDOW_ALL;
	uint64_t now_us;

	if (!conf->timestamps.max_age_us && !conf->timestamps.max_future_us)
		return w;
	now_us = clock_real_us();
	if (conf->timestamps.max_age_us && conf->timestamps.max_age_us < now_us)
		w.min_us = now_us - conf->timestamps.max_age_us;
	if (conf->timestamps.max_future_us)
		w.max_us = now_us + conf->timestamps.max_future_us;
	return w;
}

static void
log_metric(const struct client *c, const struct frame *f)
{
	char peer[ADDRESS_TEXT_MAX];

	log_event(LOG_INFO, "metric_received", LOG_STR("client", client_name(c, peer)),
		  LOG_BYTES("metric", f->name, f->name_len), LOG_F64("value", f->value),
		  LOG_TIME("time", f->time_us));
}

size_t
client_parse(struct client *c, const uint8_t *buf, size_t len)
{
	struct frame_window window = window_now(c->set->conf);
	struct run run = {.p = buf};
	size_t done = 0;

	while (c->state != CLIENT_CLOSED && c->n_syncs < CLIENT_SYNCS_MAX) {
		struct frame f;
		size_t size = frame_decode(buf + done, len - done, &window, &f);

		if (!size)
			break;
		if (f.kind == FRAME_METRIC) {
			run_add(&run, c, buf + done, size, f.time_us);
			c->refused_in_row = 0;
			if (c->set->conf->log.metrics)
				log_metric(c, &f);
		} else {
			run_flush(&run, c);
			if (c->state == CLIENT_CLOSED) /* it has just lost what it waits for */
				break;
			if (f.kind == FRAME_SYNC) {
				c->refused_in_row = 0;
				client_sync(c, &f);
			} else if (!client_refuse(c, &f, buf + done, size)) {
				return len;
			}
		}
		done += size;
	}
	run_flush(&run, c);
	return done;
}

void
client_keep(struct client *c, const uint8_t *p, size_t len)
{
	c->kept = 0;
	if (c->state == CLIENT_CLOSED)
		return;
	/* Once it may ask no more, even a few bytes can be whole frames, to be parsed later. */
	if (len == 0 || (len <= TAIL_MAX && c->n_syncs < CLIENT_SYNCS_MAX)) {
		memcpy(c->tail, p, len);
	} else {
		if (c->set->stashed + len <= STASHED_MAX)
			c->stash = malloc(len);
		if (!c->stash) {
			client_close(c, "error");
			return;
		}
		memcpy(c->stash, p, len);
		c->set->stashed += len;
	}
	c->kept = len;
}

void
client_drop_stash(struct client *c)
{
	if (!c->stash)
		return;
	c->set->stashed -= c->kept;
	free(c->stash);
	c->stash = NULL;
}

size_t
client_take_kept(struct client *c)
{
	size_t len = c->kept;

	memcpy(c->set->buffer, c->stash ? c->stash : c->tail, len);
	client_drop_stash(c);
	c->kept = 0;
	return len;
}

void
client_parse_kept(struct client *c)
{
	size_t len = client_take_kept(c);
	size_t done = client_parse(c, c->set->buffer, len);

	client_keep(c, c->set->buffer + done, len - done);
}
