#include "wire/frame.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "wire/bytes.h"
#include "wire/utf8.h"

/* "MCSYNC", 0, level: what a sync frame has for a value. */
#define SYNC_MAGIC UINT64_C(0x4D4353594E430000)

#define YEAR_US (UINT64_C(31556952) * 1000000)
#define NEAR_US (20 * YEAR_US) /* what counts as "of these years" */

static_assert(sizeof(double) == 8, "the value is an IEEE 754 binary64");

static inline double
double_of_bits(uint64_t bits)
{
	double value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

static inline uint64_t
bits_of_double(double value)
{
	uint64_t bits;

	memcpy(&bits, &value, sizeof(bits));
	return bits;
}

/* A frame without a name: a question, or a mistake. */
static void
judge_nameless(uint64_t value_bits, struct frame *f)
{
	uint64_t level = value_bits ^ SYNC_MAGIC;

	if (level == 1 || level == 2) {
		f->kind = FRAME_SYNC;
		f->sync_level = (uint8_t)level;
	} else {
		f->kind = FRAME_EMPTY_NAME;
	}
}

static enum frame_kind
judge_metric(const struct frame *f, const struct frame_window *w)
{
	switch (utf8_check((const uint8_t *)f->name, f->name_len)) {
	case UTF8_INVALID:
		return FRAME_INVALID_UTF8;
	case UTF8_CONTROL:
		return FRAME_CONTROL_BYTE;
	case UTF8_OK:
		break;
	}
	if (f->time_us > FRAME_TIME_MAX)
		return FRAME_TIMESTAMP_RANGE;
	if (f->time_us < w->min_us || f->time_us > w->max_us)
		return FRAME_TIMESTAMP_WINDOW;
	return FRAME_METRIC;
}

size_t
frame_decode(const uint8_t *buf, size_t len, const struct frame_window *w, struct frame *ret)
{
	size_t size;

	if (len < FRAME_FIXED)
		return 0;
	size = frame_size_at(buf);
	if (len < size)
		return 0;
	(void)frame_read(buf, ret);
	if (ret->name_len > 0)
		ret->kind = judge_metric(ret, w);
	else
		judge_nameless(bits_of_double(ret->value), ret);
	return size;
}

size_t
frame_read(const uint8_t *p, struct frame *ret)
{
	size_t size = frame_size_at(p);

	*ret = (struct frame){
	    .kind = FRAME_METRIC,
	    .time_us = be64_load(p),
	    .value = double_of_bits(be64_load(frame_value_at(p))),
	    .name = (const char *)frame_name_at(p),
	    .name_len = (uint8_t)frame_name_len_at(p),
	};
	return size;
}

const char *
frame_kind_name(enum frame_kind kind)
{
	switch (kind) {
	case FRAME_METRIC:
		return "metric";
	case FRAME_SYNC:
		return "sync";
	case FRAME_EMPTY_NAME:
		return "empty_name";
	case FRAME_INVALID_UTF8:
		return "invalid_utf8";
	case FRAME_CONTROL_BYTE:
		return "control_byte";
	case FRAME_TIMESTAMP_RANGE:
		return "timestamp_range";
	case FRAME_TIMESTAMP_WINDOW:
		return "timestamp_window";
	}
	return "unknown";
}

size_t
frame_encode(uint8_t out[FRAME_MAX], uint64_t time_us, const char *name, size_t name_len,
	     double value)
{
	assert(name_len >= 1 && name_len <= FRAME_NAME_MAX);
	be64_store(out, time_us);
	out[FRAME_LEN_AT] = (uint8_t)name_len;
	memcpy(out + FRAME_NAME_AT, name, name_len);
	be64_store(out + FRAME_NAME_AT + name_len, bits_of_double(value));
	return FRAME_FIXED + name_len;
}

size_t
frame_encode_sync(uint8_t out[FRAME_FIXED], uint64_t token, uint8_t level)
{
	assert(level == 1 || level == 2);
	be64_store(out, token);
	out[FRAME_LEN_AT] = 0;
	be64_store(out + FRAME_NAME_AT, SYNC_MAGIC | level);
	return FRAME_FIXED;
}

void
frame_encode_answer(uint8_t out[FRAME_ANSWER_SIZE], uint64_t token, uint64_t refused)
{
	be64_store(out, token);
	out[FRAME_ANSWER_KIND_AT] = 0;
	be64_store(out + FRAME_ANSWER_NUMBER_AT, refused);
}

static bool
is_near(uint64_t time_us, uint64_t now_us)
{
	return (time_us > now_us ? time_us - now_us : now_us - time_us) < NEAR_US;
}

const char *
frame_time_unit(uint64_t time_us, uint64_t now_us)
{
	if (is_near(time_us, now_us))
		return NULL;
	if (time_us < UINT64_MAX / 1000000 && is_near(time_us * 1000000, now_us))
		return "seconds";
	if (time_us < UINT64_MAX / 1000 && is_near(time_us * 1000, now_us))
		return "milliseconds";
	return is_near(time_us / 1000, now_us) ? "nanoseconds" : NULL;
}
