/*
 * frame.h - the wire protocol, version 1: bytes in, metrics out.
 *
 *	| timestamp 8 | name_len 1 | metric_name name_len | value 8 |
 *
 * All integers are big-endian; the timestamp counts microseconds since
 * 1970-01-01 UTC, the value is an IEEE 754 binary64.  metric-collectord-protocol(7)
 * describes it for the writers of senders.
 *
 * Everything here is a pure function over bytes: no I/O, no allocation, no
 * state.  A stream is decoded by calling frame_decode() over and over.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define FRAME_FIXED 17 /* bytes beside the name */
#define FRAME_NAME_MAX 255
#define FRAME_MAX (FRAME_FIXED + FRAME_NAME_MAX)

/* 9999-12-31T23:59:59.999999Z, the last instant that ISO 8601 writes with four digits. */
#define FRAME_TIME_MAX UINT64_C(253402300799999999)

#define FRAME_ANSWER_SIZE 17 /* the answer to a sync frame */

enum frame_kind {
	FRAME_METRIC,
	FRAME_SYNC,
	/* the refused ones; their framing is sound, the stream goes on behind them */
	FRAME_EMPTY_NAME,
	FRAME_INVALID_UTF8,
	FRAME_CONTROL_BYTE,
	FRAME_TIMESTAMP_RANGE,  /* past the year 9999 */
	FRAME_TIMESTAMP_WINDOW, /* outside the operator's window */
};

/* One decoded frame.  name points into the decoded bytes and is not terminated. */
struct frame {
	enum frame_kind kind;
	uint64_t time_us; /* of a sync frame: the client's token */
	double value;     /* not set for FRAME_SYNC */
	const char *name; /* borrowed from the input */
	uint8_t name_len;
	uint8_t sync_level; /* 1 or 2, of a FRAME_SYNC */
};

/* The timestamps that an operator accepts; both ends are inclusive. */
struct frame_window {
	uint64_t min_us;
	uint64_t max_us;
};

#define FRAME_WINDOW_ALL ((struct frame_window){0, UINT64_MAX})

/*
 * Decodes the frame at the start of buf.  Returns its size in bytes, or 0 when
 * len bytes are not a whole frame yet (*ret is then untouched).  A frame that
 * must be refused is decoded all the same; ret->kind says why.  Where several
 * reasons apply, the first in this order is given: empty name, UTF-8, control
 * byte, range, window.
 */
size_t frame_decode(const uint8_t *buf, size_t len, const struct frame_window *w,
		    struct frame *ret);

/*
 * Where the fields of a frame are.  The value follows the name:
 *
 *	0          8   9          9 + name_len
 *	| timestamp | n | name ... | value     |
 */
#define FRAME_LEN_AT 8
#define FRAME_NAME_AT 9

/* Parts of the frame at p; of the first two only the bytes up to the name must be there. */
static inline size_t
frame_name_len_at(const uint8_t *p)
{
	return p[FRAME_LEN_AT];
}

static inline size_t
frame_size_at(const uint8_t *p)
{
	return FRAME_FIXED + frame_name_len_at(p);
}

static inline const uint8_t *
frame_name_at(const uint8_t *p)
{
	return p + FRAME_NAME_AT;
}

/* Eight bytes, as they travel. */
static inline const uint8_t *
frame_value_at(const uint8_t *p)
{
	return p + FRAME_NAME_AT + frame_name_len_at(p);
}

/* The answer to a question: | token 8 | a byte that says what it answers | number 8 | */
#define FRAME_ANSWER_KIND_AT 8
#define FRAME_ANSWER_NUMBER_AT 9

/*
 * Reads a frame that frame_decode() accepted earlier (memory and spool hold
 * nothing else), without judging it again.  Returns its size.
 */
size_t frame_read(const uint8_t *p, struct frame *ret);

/* "empty_name", "invalid_utf8", ... as they stand in logs; "metric", "sync". */
const char *frame_kind_name(enum frame_kind kind);

/* Writes a metric; returns its size.  name_len is 1..255; nothing else is checked. */
size_t frame_encode(uint8_t out[FRAME_MAX], uint64_t time_us, const char *name, size_t name_len,
		    double value);

/* Writes a sync frame (FRAME_FIXED bytes) of level 1 or 2. */
size_t frame_encode_sync(uint8_t out[FRAME_FIXED], uint64_t token, uint8_t level);

/* Writes the answer to a sync frame: token, a zero byte, the count of refused frames. */
void frame_encode_answer(uint8_t out[FRAME_ANSWER_SIZE], uint64_t token, uint64_t refused);

/*
 * The unit in which a timestamp would be of these years: "seconds", "milliseconds",
 * "nanoseconds"; NULL where none fits, and where it is of these years as it stands.
 */
const char *frame_time_unit(uint64_t time_us, uint64_t now_us);
#define FRAME_UNIT_HINT "a sender seems to send %s; timestamps are microseconds since 1970"
