/*
 * refusal.h - frames that are not stored: counted by reason, and logged (frame_refused).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "log/stats.h"
#include "wire/frame.h"

/* client is how logs call the peer; f was decoded from the size bytes at p. */
void refusal_report(struct stats *stats, const char *client, const struct frame *f,
		    const uint8_t *p, size_t size);

/* A client's stream ended in the middle of a frame, of which these bytes came. */
void refusal_report_truncated(struct stats *stats, const char *client, const uint8_t *p,
			      size_t len);
