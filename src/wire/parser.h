/*
 * parser.h - what the bytes of a connection ask to be done, one step after the other.
 *
 * parser_next() is a pure function over bytes, like everything in wire: it calls nobody back,
 * and the only position is where its caller cuts the input.  The caller does what a step says,
 * and offers the bytes behind it for the next one:
 *
 *	PARSER_METRICS   valid frames back to back, as many as stand there and have room: append
 *	PARSER_QUESTION  a sync frame: answer it once everything before it is safe
 *	PARSER_REFUSED   a frame that must not be stored: count it and say why
 *	PARSER_MORE      nothing whole stands there: offer it again with more bytes behind it
 *
 * This is the parser of the binary protocol (frame.h).  One of another protocol is another
 * function that gives the same steps: what it appends are frames all the same, though not
 * those of its input.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "wire/frame.h"

enum parser_kind { PARSER_MORE, PARSER_METRICS, PARSER_QUESTION, PARSER_REFUSED };

/* How much one step may bring to be appended. */
struct parser_room {
	uint64_t rows; /* 1 or more */
	size_t bytes;  /* FRAME_MAX or more */
};

/* Everything is borrowed from the input. */
struct parser_step {
	size_t used; /* bytes of the input that this step deals with; 0 for PARSER_MORE */

	/* PARSER_METRICS */
	const uint8_t *frames;
	size_t len;
	uint64_t rows;
	uint64_t min_us; /* the earliest timestamp of them */
	uint64_t max_us; /* the latest */

	/* PARSER_QUESTION, PARSER_REFUSED */
	struct frame frame;
};

/*
 * Finds the first step that the bytes ask for.  A stretch of metrics ends in front of anything
 * else, and where the room ends.  Of *ret, only what belongs to the kind is set.
 */
enum parser_kind parser_next(const uint8_t *buf, size_t len, const struct frame_window *w,
			     const struct parser_room *room, struct parser_step *ret);
