/*
 * pg_interval.h - durations as PostgreSQL reads them, and as names have them.
 *
 * Pure functions; all durations are microseconds, above 0, and every one has both forms.
 */
#pragma once

#include <stdint.h>

#define SECOND_US UINT64_C(1000000)
#define MINUTE_US (60 * SECOND_US)
#define HOUR_US (60 * MINUTE_US)
#define DAY_US (24 * HOUR_US)

#define PG_INTERVAL_MAX 40 /* with its NUL */

/* 3600000000 -> "1 hour", for interval '...'; the largest unit but weeks that divides it. */
void pg_interval(char out[PG_INTERVAL_MAX], uint64_t us);

/* 3600000000 -> "1h", 604800000000 -> "1w"; below a second "1500us". */
void pg_interval_short(char out[PG_INTERVAL_MAX], uint64_t us);
