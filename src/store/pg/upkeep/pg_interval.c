#include "store/pg/upkeep/pg_interval.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

static const struct unit {
	uint64_t us;
	const char *name;
	const char *letter; /* NULL: none */
} units[] = {
    {7 * DAY_US, "week", "w"},  {DAY_US, "day", "d"},       {HOUR_US, "hour", "h"},
    {MINUTE_US, "minute", "m"}, {SECOND_US, "second", "s"}, {1000, "millisecond", NULL},
    {1, "microsecond", NULL},
};

/* The last one divides everything. */
static const struct unit *
unit_of(uint64_t us, bool weeks)
{
	const struct unit *u = weeks ? units : units + 1;

	while (us % u->us)
		u++;
	return u;
}

void
pg_interval(char out[PG_INTERVAL_MAX], uint64_t us)
{
	const struct unit *u = unit_of(us, false);
	uint64_t n = us / u->us;

	(void)snprintf(out, PG_INTERVAL_MAX, "%" PRIu64 " %s%s", n, u->name, n == 1 ? "" : "s");
}

void
pg_interval_short(char out[PG_INTERVAL_MAX], uint64_t us)
{
	const struct unit *u = unit_of(us, true);

	if (u->letter)
		(void)snprintf(out, PG_INTERVAL_MAX, "%" PRIu64 "%s", us / u->us, u->letter);
	else
		(void)snprintf(out, PG_INTERVAL_MAX, "%" PRIu64 "us", us);
}
