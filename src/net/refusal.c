#include "net/refusal.h"

#include <assert.h>
#include <stdio.h>

#include "base/clock.h"
#include "log/log.h"

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

void
refusal_report(struct stats *stats, const char *client, const struct frame *f, const uint8_t *p,
	       size_t size)
{
	char hint[128];

	count_refused(stats, f->kind);
	log_event_limited(LOG_WARNING, refusal_kind(f->kind), "frame_refused",
			  LOG_STR("client", client), LOG_STR("reason", frame_kind_name(f->kind)),
			  f->name_len ? LOG_BYTES("metric", f->name, f->name_len) : LOG_NONE,
			  LOG_HEX("frame", p, size), LOG_STR("hint", refusal_hint(f, hint)));
}

void
refusal_report_truncated(struct stats *stats, const char *client, const uint8_t *p, size_t len)
{
	stats->truncated_frames++;
	stats->truncated_bytes += len;
	log_event_limited(LOG_WARNING, "frame_refused/truncated_frame", "frame_refused",
			  LOG_STR("client", client), LOG_STR("reason", "truncated_frame"),
			  LOG_HEX("frame", p, len));
}
