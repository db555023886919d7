/*
 * sqlite_clock.h - may the clock say what is old?
 *
 * SQLite has no clock but ours, which may be wrong: a board without a battery, a hypervisor, an
 * operator.  What was deleted by a wrong one is gone; so nothing is, until the machine has been
 * running for a day after
 *
 *	a step         against the time since boot, from one look to the next
 *	a strange gap  back, or ahead by more than a day, between two runs of the machine
 *	stale rows     the newest row is more than a day old, and nothing has shown yet that it should
 *		       be; this pause ends as soon as a fresh one comes
 *
 * A collector that was switched off for weeks, or whose senders were, waits for a day in vain.
 */
#pragma once

#include "store/sqlite/sqlite_db.h"

struct sqlite_clock {
	char boot[40];    /* see sql/sqlite/002-clock.sql */
	int64_t boot_ms;  /* ... as all of these */
	uint64_t seen_us; /* 0: there was no look yet */
	uint64_t pause_ms;
	bool stale;
	bool trusted;
	bool ours;            /* this process has looked */
	uint64_t saved_at_ms; /* when it was written last, monotonic */
};

/*
 * Looks at the clock, and remembers it in c and in the file.  *now_us is what it shows, or 0 where
 * nothing may count as old by it.  retained says that rows of metrics are meant, too: they may only
 * where c->trusted, which an empty table does not make it.  Logs clock_differs, deletion_paused and
 * deletion_resumed.
 */
enum store_status sqlite_clock_look(struct sqlite_clock *c, struct sqlite_db *s, bool retained,
				    uint64_t *now_us, struct store_error *err);
