/* sqlite_clock.c - see sqlite_clock.h. */
#include "store/sqlite/sqlite_clock.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "log/log.h"
#include "wire/frame.h"

#define BOOT_ID "/proc/sys/kernel/random/boot_id"

#define SECOND_US UINT64_C(1000000)
#define MINUTE_MS UINT64_C(60000)
#define DAY_MS (1440 * MINUTE_MS)
#define PAUSE_MS DAY_MS
#define STEP_MS MINUTE_MS /* less is no step */
#define DRIFT_PART 1000   /* of the time passed, that a clock which is being corrected may be off */
#define GAP_MS DAY_MS
#define STALE_MS DAY_MS
#define SAVE_MS (10 * MINUTE_MS)

#define HINT                                                                                   \
	"set the clock, if it is wrong; so that a wrong one deletes nothing, metrics and the " \
	"ledger's rows stay, however old, until the machine has been running for a day more"

/* ---- the clocks ---- */

static void
read_boot(char boot[40])
{
	int fd = open(BOOT_ID, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t n = fd < 0 ? 0 : read(fd, boot, 39);

	boot[n > 0 ? n : 0] = '\0';
	boot[strcspn(boot, "\n")] = '\0';
	if (fd >= 0)
		(void)close(fd);
}

static void
read_clocks(struct sqlite_clock *ret)
{
	struct timespec ts = {0};

	*ret = (struct sqlite_clock){.seen_us = clock_real_us(), .ours = true};
	if (ret->seen_us > FRAME_TIME_MAX)
		ret->seen_us = FRAME_TIME_MAX;
	(void)clock_gettime(CLOCK_BOOTTIME, &ts);
	ret->boot_ms = (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
	read_boot(ret->boot);
}

/* ---- the file ---- */

static int
has_table(struct sqlite_db *s, bool *ret)
{
	sqlite3_stmt *st;
	int rc = sqlite3_prepare_v2(s->db,
				    "SELECT 1 FROM sqlite_master WHERE type = 'table' AND "
				    "name = 'metric_collectord_clock'",
				    -1, &st, NULL);

	if (rc != SQLITE_OK)
		return rc;
	*ret = sqlite3_step(st) == SQLITE_ROW;
	return sqlite3_finalize(st);
}

/* Without a row, c stays what this process knows. */
static int
load(struct sqlite_clock *c, struct sqlite_db *s)
{
	sqlite3_stmt *st;
	int rc =
	    sqlite3_prepare_v2(s->db,
			       "SELECT CAST(strftime('%s', seen_at) AS INTEGER), boot, "
			       "boot_ms, pause_ms, stale, trusted FROM metric_collectord_clock",
			       -1, &st, NULL);

	if (rc != SQLITE_OK)
		return rc;
	if (sqlite3_step(st) == SQLITE_ROW) {
		sqlite3_int64 seen = sqlite3_column_int64(st, 0);
		const unsigned char *boot = sqlite3_column_text(st, 1);

		c->seen_us = seen > 0 ? (uint64_t)seen * SECOND_US : 1;
		(void)snprintf(c->boot, sizeof(c->boot), "%s", boot ? (const char *)boot : "");
		c->boot_ms = sqlite3_column_int64(st, 2);
		c->pause_ms = (uint64_t)sqlite3_column_int64(st, 3);
		c->pause_ms = c->pause_ms < PAUSE_MS ? c->pause_ms : PAUSE_MS;
		c->stale = sqlite3_column_int(st, 4) != 0;
		c->trusted = sqlite3_column_int(st, 5) != 0;
	}
	return sqlite3_finalize(st);
}

static int
replace(const struct sqlite_clock *c, struct sqlite_db *s)
{
	struct iso_time seen = ISO_TIME_NONE;
	sqlite3_stmt *st;
	int rc = sqlite3_prepare_v2(s->db,
				    "INSERT OR REPLACE INTO metric_collectord_clock (one, seen_at, "
				    "boot, boot_ms, pause_ms, stale, trusted) "
				    "VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)",
				    -1, &st, NULL);

	if (rc != SQLITE_OK)
		return rc;
	bind_time(st, 1, &seen, c->seen_us);
	bind_text(st, 2, c->boot, strlen(c->boot));
	(void)sqlite3_bind_int64(st, 3, c->boot_ms);
	bind_u64(st, 4, c->pause_ms);
	bind_u64(st, 5, c->stale);
	bind_u64(st, 6, c->trusted);
	(void)sqlite3_step(st);
	return sqlite3_finalize(st);
}

static enum store_status
save(struct sqlite_clock *c, struct sqlite_db *s, struct store_error *err)
{
	enum store_status status = sqlite_db_begin(s, err);
	int rc;

	if (status == STORE_OK) {
		rc = replace(c, s);
		status = rc == SQLITE_OK ? sqlite_db_commit(s, err) : sqlite_db_fail(s, rc, err);
	}
	sqlite_db_roll_back(s, err);
	if (status == STORE_OK)
		c->saved_at_ms = clock_ms();
	return status;
}

/* The time of the newest row that is not in the future; 0 where there is none. */
static int
newest_row(struct sqlite_db *s, uint64_t now_us, uint64_t *ret)
{
	struct iso_time now = ISO_TIME_NONE;
	sqlite3_stmt *st;
	int rc = sqlite3_prepare_v2(s->db,
				    "SELECT CAST(strftime('%s', time) AS INTEGER) FROM metrics "
				    "WHERE time <= ?1 AND time GLOB " ISO_TIME_GLOB
				    " ORDER BY time DESC LIMIT 1",
				    -1, &st, NULL);

	*ret = 0;
	if (rc != SQLITE_OK)
		return rc;
	bind_time(st, 1, &now, now_us);
	if (sqlite3_step(st) == SQLITE_ROW && sqlite3_column_int64(st, 0) > 0)
		*ret = (uint64_t)sqlite3_column_int64(st, 0) * SECOND_US;
	return sqlite3_finalize(st);
}

/* ---- what to think of it ---- */

static bool
same_boot(const struct sqlite_clock *then, const struct sqlite_clock *now)
{
	if (strcmp(then->boot, now->boot) != 0 || then->boot_ms > now->boot_ms)
		return false;
	return *now->boot || then->ours;
}

/* What is to be remembered, and told once it is: a look that could not be written is done again. */
struct look {
	struct sqlite_clock now;
	const char *compared_with; /* NULL: with nothing that differs */
	double seconds;            /* by which it does */
	bool resumed;
	bool told_again; /* a pause goes on that another run began */
};

static void
pause_deletion(struct look *l, double seconds, const char *compared_with)
{
	l->compared_with = compared_with;
	l->seconds = seconds;
	l->now.pause_ms = PAUSE_MS;
	l->now.stale = false;
	l->now.trusted = false;
}

static void
trust(struct look *l, bool was_paused)
{
	l->resumed = was_paused;
	l->now.pause_ms = 0;
	l->now.stale = false;
	l->now.trusted = true;
}

static void
tell(const struct look *l)
{
	if (l->resumed && !l->now.pause_ms)
		log_event(LOG_NOTICE, "deletion_resumed");
	if (l->compared_with)
		log_event(LOG_WARNING, "clock_differs", LOG_F64("seconds", l->seconds),
			  LOG_STR("compared_with", l->compared_with), LOG_STR("hint", HINT));
	else if (l->told_again && l->now.pause_ms)
		log_event(LOG_NOTICE, "deletion_paused",
			  LOG_F64("seconds", (double)l->now.pause_ms / 1000));
}

/* Is the time that has passed by the clock what it should be? */
static void
compare(const struct sqlite_clock *then, struct look *l)
{
	bool same = same_boot(then, &l->now);
	int64_t passed_ms = same ? l->now.boot_ms - then->boot_ms : 0;
	int64_t ahead_ms = ((int64_t)l->now.seen_us - (int64_t)then->seen_us) / 1000 - passed_ms;
	int64_t may_ms = (int64_t)STEP_MS + passed_ms / DRIFT_PART;

	if (ahead_ms < -may_ms || ahead_ms > (same ? may_ms : (int64_t)GAP_MS))
		pause_deletion(l, (double)ahead_ms / 1000,
			       same ? "the time since boot" : "the last run");
}

/* Takes over what is left of a pause. */
static void
count_pause(const struct sqlite_clock *then, struct look *l)
{
	bool same = same_boot(then, &l->now);
	uint64_t passed_ms = same ? (uint64_t)(l->now.boot_ms - then->boot_ms) : 0;

	l->now.trusted = then->trusted;
	l->now.stale = then->stale;
	if (!then->pause_ms)
		return;
	l->now.pause_ms = then->pause_ms > passed_ms ? then->pause_ms - passed_ms : 0;
	l->told_again = !then->ours;
	if (!l->now.pause_ms)
		trust(l, true);
}

static enum store_status
compare_rows(struct look *l, struct sqlite_db *s, struct store_error *err)
{
	uint64_t newest_us, age_us;
	int rc = newest_row(s, l->now.seen_us, &newest_us);

	if (rc != SQLITE_OK)
		return sqlite_db_fail(s, rc, err);
	age_us = l->now.seen_us - newest_us;
	if (newest_us && age_us <= STALE_MS * 1000) {
		trust(l, l->now.pause_ms > 0);
	} else if (newest_us && !l->now.pause_ms) {
		pause_deletion(l, (double)(age_us / SECOND_US), "the newest row");
		l->now.stale = true;
	}
	return STORE_OK;
}

static bool
is_news(const struct sqlite_clock *then, const struct sqlite_clock *now)
{
	return !then->seen_us || strcmp(then->boot, now->boot) != 0 || !then->ours ||
	       !then->pause_ms != !now->pause_ms || now->pause_ms > then->pause_ms ||
	       then->trusted != now->trusted || clock_ms() - then->saved_at_ms >= SAVE_MS;
}

enum store_status
sqlite_clock_look(struct sqlite_clock *c, struct sqlite_db *s, bool retained, uint64_t *now_us,
		  struct store_error *err)
{
	enum store_status status = STORE_OK;
	struct look l = {.resumed = false};
	bool kept = false; /* without the migration, this process alone knows */
	int rc = has_table(s, &kept);

	if (rc == SQLITE_OK && kept)
		rc = load(c, s);
	if (rc != SQLITE_OK)
		return sqlite_db_fail(s, rc, err);
	read_clocks(&l.now);
	l.now.saved_at_ms = c->saved_at_ms;
	if (c->seen_us) {
		count_pause(c, &l);
		compare(c, &l);
	}
	if (retained && !l.now.trusted && (!l.now.pause_ms || l.now.stale))
		status = compare_rows(&l, s, err);
	if (status == STORE_OK && kept && is_news(c, &l.now))
		status = save(&l.now, s, err);
	if (status != STORE_OK)
		return status;
	tell(&l);
	*c = l.now;
	*now_us = l.now.pause_ms ? 0 : l.now.seen_us;
	return STORE_OK;
}
