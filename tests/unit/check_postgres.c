#include "pg_fixture.h"

#include <math.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "wire/frame.h"

/* ---- storing ---- */

START_TEST(a_batch_counts_once)
{
	struct store *s = open_store();

	fill_batch(7, BATCH_ROWS);
	assert_put(s, BATCH_ROWS, 0, false);
	assert_put(s, BATCH_ROWS, 0, true);
	store_close(s);
	s = open_store();
	assert_put(s, BATCH_ROWS, 0, true);
	store_close(s);
	ck_assert_str_eq(SQL("SELECT count(*) || ' ' || sum(value) || ' ' || count(DISTINCT value)"
			     " FROM metrics"),
			 "40000 799980000 40000");
	ck_assert_str_eq(SQL("SELECT rows || ' ' || rejected || ' ' || bytes FROM"
			     " metric_collectord.batches WHERE collector = '" COLLECTOR "'"),
			 SQL("SELECT '40000 0 %zu'", view.bytes));
}
END_TEST

START_TEST(rows_are_exact)
{
	struct store *s = open_store();

	new_batch(1);
	add(0, "a", -0.0);
	add(FRAME_TIME_MAX, "b", NAN);
	add(946684800000000, "c", INFINITY);
	add(1, "\xC3\xA4\xE2\x82\xAC", 5e-324);
	assert_put(s, 4, 0, false);
	store_close(s);
	ck_assert_str_eq(SQL("SET timezone = 'UTC'; SELECT string_agg(time || '=' || metric_name ||"
			     " '=' || value, ', ' ORDER BY time) FROM metrics"),
			 "1970-01-01 00:00:00+00=a=-0, 1970-01-01 00:00:00.000001+00=\xC3\xA4\xE2"
			 "\x82\xAC=5e-324, 2000-01-01 00:00:00+00=c=Infinity, "
			 "9999-12-31 23:59:59.999999+00=b=NaN");
	ck_assert_str_eq(SQL("SET timezone = 'UTC'; SELECT min_time || ' ' || max_time"
			     " FROM metric_collectord.batches"),
			 "1970-01-01 00:00:00+00 9999-12-31 23:59:59.999999+00");
}
END_TEST

START_TEST(two_daemons_with_one_identity_are_told_apart)
{
	struct store *s = open_store();

	fill_batch(1, 100);
	assert_put(s, 100, 0, false);
	fill_batch(1, 100);
	add(EPOCH, "x", 1); /* more rows than the ledger knows */
	assert_held(s, "23505");
	ck_assert(err.batch_only);
	ck_assert(err.conflict);
	ck_assert(!err.disjoint);
	new_batch(1); /* another time */
	add(EPOCH - 1, "x", 1);
	assert_held(s, "23505");
	/* what damage in the spool has left of the batch is no other batch */
	fill_batch(1, 60);
	assert_put(s, 60, 0, true);
	fill_batch(2, 10);
	assert_put(s, 10, 0, false);
	store_close(s);
	ck_assert_str_eq(METRICS, "110");
}
END_TEST

/* A copied spool goes on under the same identity and numbers, with batches that look much alike. */
START_TEST(a_batch_opened_at_another_time_is_another_batch)
{
	struct store *s = open_store();

	fill_batch(1, 100);
	assert_put(s, 100, 0, false);
	view.opened_us++;
	assert_held(s, "23505");
	ck_assert(err.conflict);
	ck_assert(err.disjoint);
	ck_assert_ptr_nonnull(strstr(err.hint, "metric-spool new-identity"));
	fill_batch(1, 60);
	view.opened_us--;
	assert_held(s, "23505");
	fill_batch(1, 100); /* as it was */
	assert_put(s, 100, 0, true);
	(void)SQL("UPDATE metric_collectord.batches SET bytes = bytes + 1");
	assert_held(s, "23505");
	ck_assert(!err.disjoint);
	store_close(s);
	ck_assert_str_eq(METRICS, "100");
}
END_TEST

/* Some of its parts are stored, and then the spool lost some of the rest. */
START_TEST(parts_of_a_batch_that_has_shrunk_since)
{
	struct store *s = open_store();

	fill_batch(1, 60);
	assert_put(s, 60, 0, false);
	(void)SQL("UPDATE metric_collectord.batches SET bytes = -2 * bytes");
	fill_batch(1, 50);
	assert_held(s, "23505");
	ck_assert_ptr_nonnull(strstr(err.text, "60 rows of the batch are stored"));
	ck_assert(err.batch_only);
	ck_assert(!err.disjoint);
	fill_batch(1, 100);
	assert_held(s, "23505");
	store_close(s);
	ck_assert_str_eq(METRICS, "60");
}
END_TEST

/* The file's header was damaged: what is left of it tells as much as it can. */
START_TEST(a_batch_whose_file_does_not_know_the_instant)
{
	struct store *s = open_store();

	fill_batch(1, 100);
	assert_put(s, 100, 0, false);
	view.opened_us = 0;
	assert_put(s, 100, 0, true);
	add(EPOCH, "x", 1);
	assert_held(s, "23505");
	ck_assert(!err.disjoint);
	store_close(s);
	ck_assert_str_eq(METRICS, "100");
}
END_TEST

/* ... is known by its times and rows. */
START_TEST(a_ledger_row_of_before_that_lacks_the_instant)
{
	struct store *s = open_store();

	fill_batch(1, 100);
	assert_put(s, 100, 0, false);
	(void)SQL("UPDATE metric_collectord.batches SET opened = NULL");
	view.opened_us += 5;
	assert_put(s, 100, 0, true);
	add(EPOCH, "x", 1);
	assert_held(s, "23505");
	ck_assert(!err.disjoint);
	store_close(s);
}
END_TEST

/* A commit must be on disk before the spool forgets the batch. */
START_TEST(commits_are_synchronous)
{
	struct store *s = open_store();

	(void)SQL("ALTER DATABASE \"test \"\"%d\"\"\" SET synchronous_commit = off", (int)getpid());
	(void)SQL("CREATE TABLE seen (s text);"
		  "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
		  " INSERT INTO seen VALUES (current_setting('synchronous_commit'));"
		  " RETURN NULL; END $$;"
		  "CREATE TRIGGER look AFTER INSERT ON metrics EXECUTE FUNCTION look()");
	store_close(s);
	s = open_store();
	fill_batch(1, 10);
	assert_put(s, 10, 0, false);
	store_close(s);
	ck_assert_str_eq(SQL("SELECT string_agg(s, ' ') FROM seen"), "on");
}
END_TEST

/* ---- rows that are refused ---- */

/* What makes the server refuse the values 0, 13 and 999 of a thousand, and what it says. */
static const struct {
	const char *sql, *sqlstate, *reason;
} refusals[] = {
    {"ALTER TABLE metrics ADD CHECK (value NOT IN (0, 13, 999))", "23514", "constraint"},
    {"CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.value IN"
     " (0, 13, 999) THEN RAISE EXCEPTION 'not %', NEW.value; END IF; RETURN NEW; END $$;"
     "CREATE TRIGGER no BEFORE INSERT ON metrics FOR EACH ROW EXECUTE FUNCTION no()",
     "P0001", "trigger"},
    {"CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.value IN"
     " (0, 13, 999) THEN NEW.value = 1 / (NEW.value - NEW.value); END IF; RETURN NEW; END $$;"
     "CREATE TRIGGER no BEFORE INSERT ON metrics FOR EACH ROW EXECUTE FUNCTION no()",
     "22012", "value"},
    /* refused at COMMIT only, if nothing is done about it */
    {"CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.value IN"
     " (0, 13, 999) THEN RAISE EXCEPTION 'late'; END IF; RETURN NULL; END $$;"
     "CREATE CONSTRAINT TRIGGER no AFTER INSERT ON metrics DEFERRABLE INITIALLY DEFERRED"
     " FOR EACH ROW EXECUTE FUNCTION no()",
     "P0001", "trigger"},
    {"CREATE UNIQUE INDEX ON metrics_default (value); INSERT INTO metrics SELECT '2001-01-01Z',"
     " 'x', unnest('{0, 13, 999}'::float8[])",
     "23505", "constraint"},
};

START_TEST(single_rows_are_isolated)
{
	struct store *s = open_store();

	(void)SQL("%s", refusals[_i].sql);
	(void)SQL("CREATE TABLE before AS SELECT count(*) AS n FROM metrics");
	fill_batch(3, 1000);
	assert_put(s, 997, 3, false);
	assert_put(s, 997, 3, true);
	fill_batch(4, 1); /* nothing to halve */
	assert_put(s, 0, 1, false);
	new_batch(5);
	add(EPOCH, "good", 5000);
	assert_put(s, 1, 0, false);
	store_close(s);
	ck_assert_str_eq(SQL("SELECT count(*) - n FROM metrics, before GROUP BY n"), "998");
	ck_assert_str_eq(SQL("SELECT string_agg(DISTINCT value || name || (extract(epoch FROM time)"
			     " * 1000000)::bigint %% 1000, ' ') FROM metric_collectord.rejected"
			     " WHERE batch = 3 AND collector = '" COLLECTOR "'"),
			 "0metric.00 13metric.1313 999metric.99999");
	ck_assert_str_eq(SQL("SELECT string_agg(DISTINCT sqlstate || ' ' || reason, ',')"
			     " FROM metric_collectord.rejected WHERE error <> ''"),
			 SQL("SELECT '%s %s'", refusals[_i].sqlstate, refusals[_i].reason));
	ck_assert_str_eq(SQL("SELECT string_agg(rows || '/' || rejected, ' ' ORDER BY batch)"
			     " FROM metric_collectord.batches"),
			 "997/3 0/1 1/0");
}
END_TEST

START_TEST(every_row_can_be_refused)
{
	struct store *s = open_store();

	(void)SQL("ALTER TABLE metrics ADD CHECK (value < 0)");
	fill_batch(1, 300);
	assert_put(s, 0, 300, false);
	assert_put(s, 0, 300, true);
	store_close(s);
	ck_assert_str_eq(REJECTED, "300");
	ck_assert_str_eq(METRICS, "0");
}
END_TEST

/* Isolation that fails leaves nothing behind, not even a transaction. */
START_TEST(rejected_rows_need_their_table)
{
	struct store *s = open_store();

	(void)SQL("ALTER TABLE metrics ADD CHECK (value <> 13);"
		  "ALTER TABLE metric_collectord.rejected RENAME TO elsewhere");
	fill_batch(1, 100);
	assert_held(s, "42P01");
	ck_assert_str_eq(METRICS, "0");
	ck_assert_str_eq(SQL("SELECT count(*) FROM metric_collectord.batches"), "0");
	(void)SQL("ALTER TABLE metric_collectord.elsewhere RENAME TO rejected;"
		  "ALTER TABLE metric_collectord.rejected ADD CHECK (value <> 13)");
	assert_held(s, "23514");
	(void)SQL("ALTER TABLE metric_collectord.rejected DROP CONSTRAINT rejected_value_check");
	assert_put(s, 99, 1, false);
	store_close(s);
}
END_TEST

START_TEST(names_that_the_encoding_lacks_are_recorded)
{
	struct store *s;

	(void)sql_in("postgres",
		     "CREATE DATABASE \"test \"\"%d\"\"\" ENCODING 'LATIN1' TEMPLATE template0",
		     (int)getpid());
	s = open_store();
	new_batch(1);
	add(EPOCH, "\xC3\xA4", 1);
	add(EPOCH, "10\\\xE2\x82\xAC", 2);
	add(EPOCH, "plain", 3);
	assert_put(s, 2, 1, false);
	store_close(s);
	ck_assert_str_eq(SQL("SELECT string_agg(metric_name, ' ' ORDER BY value) FROM metrics"),
			 "\xC3\xA4 plain");
	ck_assert_str_eq(SQL("SELECT name || ' ' || sqlstate FROM metric_collectord.rejected"),
			 "10\\x5c\\xe2\\x82\\xac 22P05");
}
END_TEST

/* ---- a batch in parts ---- */

/* More than 50 rows at once need more room for temporary files than there is (53400). */
#define SMALL_PARTS                                                                           \
	"CREATE FUNCTION small() RETURNS trigger LANGUAGE plpgsql SET work_mem = '64kB'"      \
	" SET temp_file_limit = '64kB' AS $$ BEGIN IF (SELECT count(*) FROM added) > 50 THEN" \
	" PERFORM count(*) FROM (SELECT repeat('x', 999) || i AS t FROM"                      \
	" generate_series(1, 9999) i ORDER BY 1 OFFSET 0) s WHERE t <> ''; END IF;"           \
	" RETURN NULL; END $$;"                                                               \
	"CREATE TRIGGER small AFTER INSERT ON metrics REFERENCING NEW TABLE AS added"         \
	" FOR EACH STATEMENT EXECUTE FUNCTION small();"

START_TEST(a_batch_that_is_too_large_is_divided)
{
	struct store *s = open_store();

	(void)SQL(SMALL_PARTS "ALTER TABLE metrics ADD CHECK (value NOT IN (0, 500, 999))");
	fill_batch(7, 1000);
	view.complete_until_us = EPOCH;
	assert_put(s, 997, 3, false);
	assert_put(s, 997, 3, true);
	fill_batch(8, 50);
	assert_put(s, 49, 1, false);
	store_close(s);
	ck_assert_str_eq(SQL("SELECT count(*) || ' ' || (count(DISTINCT xmin::text) > 20) FROM"
			     " metrics WHERE value <> 7"),
			 "1044 true");
	ck_assert_str_eq(SQL("SELECT string_agg(value::text, ' ' ORDER BY value) FROM"
			     " metric_collectord.rejected WHERE batch = 7"),
			 "0 500 999");
	/* the promise is by the server's clock, and rather too early than too late */
	ck_assert_str_eq(SQL("SELECT rows || ' ' || rejected || ' ' || (bytes > 0) || ' ' ||"
			     " (complete_until <= to_timestamp(1700000000) AND"
			     " complete_until > to_timestamp(1700000000 - 10)) FROM"
			     " metric_collectord.batches WHERE batch = 7"),
			 "997 3 true true");
}
END_TEST

/* A server that went away when the first parts of a batch were stored. */
START_TEST(parts_that_are_stored_are_not_stored_again)
{
	struct store *s = open_store();
	struct upkeep *u = open_upkeep();
	uint64_t numbers[1] = {7};
	size_t n = 1;

	fill_batch(7, 100);
	assert_put(s, 100, 0, false);
	(void)SQL("DELETE FROM metrics WHERE value >= 40;"
		  "UPDATE metric_collectord.batches SET rows = 39, rejected = 1, bytes = -bytes,"
		  " complete_until = NULL");
	ck_assert_int_eq(upkeep_missing(u, COLLECTOR, numbers, &n, &err), STORE_OK);
	ck_assert_uint_eq(n, 1);
	(void)SQL("ALTER TABLE metrics ADD CHECK (value NOT IN (50, 51))");
	assert_put(s, 97, 3, false);
	assert_put(s, 97, 3, true);
	ck_assert_str_eq(SQL("SELECT count(*) || ' ' || count(DISTINCT value) FROM metrics"),
			 "98 98");
	ck_assert_str_eq(SQL("SELECT rows || ' ' || rejected || ' ' || bytes FROM"
			     " metric_collectord.batches"),
			 SQL("SELECT '97 3 %zu'", view.bytes));
	upkeep_free(u);
	store_close(s);
}
END_TEST

/* Somebody else was there between two parts. */
START_TEST(parts_of_another_are_not_counted_on)
{
	struct store *s = open_store();

	fill_batch(7, 100);
	assert_put(s, 100, 0, false);
	(void)SQL("DELETE FROM metrics WHERE value >= 40;"
		  "UPDATE metric_collectord.batches SET rows = 40, bytes = -bytes - 1");
	assert_held(s, "23505");
	ck_assert_str_eq(METRICS, "40");
	store_close(s);
}
END_TEST

/* ---- an operator must act ---- */

static const struct {
	const char *change, *back, *sqlstate;
} changes[] = {
    {"ALTER TABLE metrics ALTER value TYPE numeric", "ALTER TABLE metrics ALTER value TYPE float8",
     "42804"},
    {"ALTER TABLE metrics ALTER value TYPE real", "ALTER TABLE metrics ALTER value TYPE float8",
     "42804"},
    /* eight bytes too: COPY would take them for what they are not */
    {"ALTER TABLE metrics ALTER value TYPE bigint", "ALTER TABLE metrics ALTER value TYPE float8",
     "42804"},
    {"ALTER TABLE metrics RENAME TO elsewhere;"
     "CREATE TABLE metrics (time timestamp, metric_name text, value float8)",
     "DROP TABLE metrics; ALTER TABLE elsewhere RENAME TO metrics", "42804"},
    {"ALTER TABLE metrics ALTER metric_name TYPE bytea USING metric_name::bytea",
     "ALTER TABLE metrics ALTER metric_name TYPE text USING metric_name::text", "42804"},
    {"ALTER TABLE metrics RENAME value TO v", "ALTER TABLE metrics RENAME v TO value", "42703"},
    {"ALTER TABLE metrics RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO metrics", "42P01"},
    {"ALTER TABLE metric_collectord.batches RENAME TO elsewhere",
     "ALTER TABLE metric_collectord.elsewhere RENAME TO batches", "42P01"},
};

START_TEST(a_changed_table_is_held_and_nothing_rejected)
{
	struct store *s = open_store();

	fill_batch(1, 100);
	(void)SQL("%s", changes[_i].change);
	assert_held(s, changes[_i].sqlstate);
	assert_held(s, changes[_i].sqlstate);
	(void)SQL("%s", changes[_i].back);
	assert_put(s, 100, 0, false);
	store_close(s);
	ck_assert_str_eq(REJECTED, "0");
	ck_assert_str_eq(METRICS, "100");
}
END_TEST

START_TEST(a_type_that_will_do_is_taken)
{
	struct store *s = open_store();

	fill_batch(1, 100);
	(void)SQL(
	    "CREATE DOMAIN measure AS float8 CHECK (value <> 50);"
	    "ALTER TABLE metrics ALTER metric_name TYPE varchar(9), ALTER value TYPE measure");
	assert_put(s, 99, 1, false);
	store_close(s);
	store_close(open_store());
}
END_TEST

/* ---- trouble on the way ---- */

/*
 * Somebody with a transaction of their own who waits until a statement of the store's is stuck
 * behind it, and then acts.
 */
struct watcher {
	pthread_t thread;
	PGconn *pg;
	const char *sql;
	bool stop;
};

static void *
watch(void *arg)
{
	struct watcher *w = arg;

	while (strcmp(ask(w->pg, "SELECT pg_stat_clear_snapshot();"
				 "SELECT count(*) FROM pg_stat_activity WHERE datname ="
				 " current_database() AND wait_event_type = 'Lock' AND"
				 " application_name = 'metric-collectord'"),
		      "0") == 0)
		(void)ask(w->pg, "SELECT pg_sleep(0.01)");
	if (w->sql)
		(void)ask(w->pg, w->sql);
	if (w->stop)
		(void)eventfd_write(stop_fd, 1);
	return NULL;
}

static void
watch_start(struct watcher *w, const char *before, const char *sql, bool stop)
{
	w->pg = admin(database);
	(void)ask(w->pg, "BEGIN");
	(void)ask(w->pg, before);
	w->sql = sql;
	w->stop = stop;
	ck_assert_int_eq(pthread_create(&w->thread, NULL, watch, w), 0);
}

static void
watch_end(struct watcher *w)
{
	ck_assert_int_eq(pthread_join(w->thread, NULL), 0);
	PQfinish(w->pg);
}

START_TEST(stop_ends_a_put_behind_a_lock)
{
	struct store *s = open_store();
	struct watcher w;

	fill_batch(1, BATCH_ROWS);
	watch_start(&w, "LOCK TABLE metrics", NULL, true);
	ck_assert_int_eq(put(s), STORE_STOPPED);
	watch_end(&w);
	store_close(s);
}
END_TEST

START_TEST(a_lost_backend_is_tried_again)
{
	struct store *s = open_store();
	struct watcher w;

	fill_batch(1, BATCH_ROWS);
	watch_start(&w, "LOCK TABLE metrics",
		    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
		    " current_database() AND application_name = 'metric-collectord'",
		    false);
	ck_assert_int_eq(put(s), STORE_RETRY);
	ck_assert_str_eq(err.sqlstate, "57P01");
	ck_assert(err.reconnect);
	watch_end(&w);
	store_close(s);
	s = open_store();
	assert_put(s, BATCH_ROWS, 0, false);
	/* between two batches it is noticed with the next one */
	(void)SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
		  " current_database() AND application_name = 'metric-collectord'");
	ck_assert_int_eq(put(s), STORE_RETRY);
	ck_assert(err.reconnect);
	store_close(s);
	s = open_store();
	assert_put(s, BATCH_ROWS, 0, true);
	(void)SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
		  " current_database() AND application_name = 'metric-collectord'");
	ck_assert_int_eq(store_check(s, &err), STORE_RETRY);
	ck_assert(err.reconnect);
	store_close(s);
	ck_assert_str_eq(METRICS, "40000");
}
END_TEST

START_TEST(a_cancelled_statement_keeps_the_connection)
{
	struct store *s = open_store();
	struct watcher w;

	fill_batch(1, 100);
	watch_start(&w, "LOCK TABLE metrics",
		    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname ="
		    " current_database() AND application_name = 'metric-collectord'",
		    false);
	ck_assert_int_eq(put(s), STORE_RETRY);
	ck_assert_str_eq(err.sqlstate, "57014");
	ck_assert(!err.reconnect);
	watch_end(&w);
	assert_put(s, 100, 0, false);
	store_close(s);
}
END_TEST

/* An earlier backend still holds the batch's transaction: its outcome is waited for. */
START_TEST(a_transaction_in_doubt_is_waited_for)
{
	struct store *s = open_store();
	struct watcher w;

	fill_batch(1, 100);
	watch_start(
	    &w,
	    "INSERT INTO metric_collectord.batches (collector, batch, rows, bytes, min_time,"
	    " max_time) VALUES ('" COLLECTOR "', 1, 100, 1, '2000-01-01', '2100-01-01')",
	    "COMMIT", false);
	assert_put(s, 100, 0, true);
	watch_end(&w);
	fill_batch(2, 100);
	watch_start(
	    &w,
	    "INSERT INTO metric_collectord.batches (collector, batch, rows, bytes, min_time,"
	    " max_time) VALUES ('" COLLECTOR "', 2, 100, 1, '2000-01-01', '2100-01-01')",
	    "ROLLBACK", false);
	assert_put(s, 100, 0, false);
	watch_end(&w);
	store_close(s);
}
END_TEST

START_TEST(the_ledger_tells_what_is_missing)
{
	struct store *s = open_store();
	struct upkeep *u = open_upkeep();
	uint64_t numbers[] = {1, 2, 3, 4, 5, UINT64_C(1) << 40};
	uint64_t some[] = {3};
	size_t n = 6;

	fill_batch(2, 10);
	assert_put(s, 10, 0, false);
	fill_batch(4, 10);
	assert_put(s, 10, 0, false);
	ck_assert_int_eq(upkeep_missing(u, COLLECTOR, numbers, &n, &err), STORE_OK);
	ck_assert_uint_eq(n, 4);
	ck_assert_uint_eq(numbers[0], 1);
	ck_assert_uint_eq(numbers[1], 3);
	ck_assert_uint_eq(numbers[2], 5);
	ck_assert_uint_eq(numbers[3], UINT64_C(1) << 40);
	n = 1;
	ck_assert_int_eq(upkeep_missing(u, OTHER, some, &n, &err), STORE_OK);
	ck_assert_uint_eq(n, 1);
	n = 0;
	ck_assert_int_eq(upkeep_missing(u, OTHER, some, &n, &err), STORE_OK);
	ck_assert_uint_eq(n, 0);
	upkeep_free(u);
	store_close(s);
}
END_TEST

START_TEST(only_old_settled_rows_of_our_own_are_deleted)
{
	struct store *s = open_store();
	struct upkeep *u = open_upkeep();
	uint64_t i;

	for (i = 1; i <= 5; i++) {
		fill_batch(i, 1);
		assert_put(s, 1, 0, false);
	}
	(void)SQL("INSERT INTO metric_collectord.batches SELECT '" OTHER "', batch, rows, bytes,"
		  " rejected, min_time, max_time FROM metric_collectord.batches;"
		  "UPDATE metric_collectord.batches SET stored_at = now() - interval '61 minutes'"
		  " WHERE batch <> 2");
	ck_assert_int_eq(upkeep_maintain(u, COLLECTOR, 4, &err), STORE_OK);
	ck_assert_str_eq(SQL("SELECT string_agg(batch::text, ' ' ORDER BY batch) FROM"
			     " metric_collectord.batches WHERE collector = '" COLLECTOR "'"),
			 "2 4 5");
	ck_assert_str_eq(SQL("SELECT count(*) FROM metric_collectord.batches"), "8");
	ck_assert_int_eq(upkeep_maintain(u, COLLECTOR, UINT64_MAX, &err), STORE_OK);
	ck_assert_str_eq(SQL("SELECT count(*) FROM metric_collectord.batches"), "6");
	upkeep_free(u);
	store_close(s);
}
END_TEST

/* It is meant for readers. */
START_TEST(a_statement_timeout_does_not_bind_housekeeping)
{
	struct store *s = open_store();
	struct upkeep *u;

	fill_batch(1, 1);
	assert_put(s, 1, 0, false);
	store_close(s);
	(void)SQL("ALTER DATABASE \"test \"\"%d\"\"\" SET statement_timeout = '2s';"
		  "UPDATE metric_collectord.batches SET stored_at = now() - interval '61 minutes';"
		  "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
		  " $$BEGIN PERFORM pg_sleep(3); RETURN NULL; END$$;"
		  "CREATE TRIGGER slow BEFORE DELETE ON metric_collectord.batches"
		  " FOR EACH STATEMENT EXECUTE FUNCTION slow()",
		  (int)getpid());
	u = open_upkeep();
	ck_assert_int_eq(upkeep_maintain(u, COLLECTOR, UINT64_MAX, &err), STORE_OK);
	ck_assert_str_eq(SQL("SELECT count(*) FROM metric_collectord.batches"), "0");
	upkeep_free(u);
}
END_TEST

static void
add_tests(Suite *s)
{
	TCase *tc = plain_case(s);

	tcase_add_test(tc, a_batch_counts_once);
	tcase_add_test(tc, rows_are_exact);
	tcase_add_test(tc, two_daemons_with_one_identity_are_told_apart);
	tcase_add_test(tc, a_batch_opened_at_another_time_is_another_batch);
	tcase_add_test(tc, a_batch_whose_file_does_not_know_the_instant);
	tcase_add_test(tc, parts_of_a_batch_that_has_shrunk_since);
	tcase_add_test(tc, a_ledger_row_of_before_that_lacks_the_instant);
	tcase_add_test(tc, commits_are_synchronous);
	tcase_add_loop_test(tc, single_rows_are_isolated, 0, COUNT(refusals));
	tcase_add_test(tc, every_row_can_be_refused);
	tcase_add_test(tc, rejected_rows_need_their_table);
	tcase_add_test(tc, names_that_the_encoding_lacks_are_recorded);
	tcase_add_test(tc, a_batch_that_is_too_large_is_divided);
	tcase_add_test(tc, parts_that_are_stored_are_not_stored_again);
	tcase_add_test(tc, parts_of_another_are_not_counted_on);
	tcase_add_loop_test(tc, a_changed_table_is_held_and_nothing_rejected, 0, COUNT(changes));
	tcase_add_test(tc, a_type_that_will_do_is_taken);
	tcase_add_test(tc, stop_ends_a_put_behind_a_lock);
	tcase_add_test(tc, a_lost_backend_is_tried_again);
	tcase_add_test(tc, a_cancelled_statement_keeps_the_connection);
	tcase_add_test(tc, a_transaction_in_doubt_is_waited_for);
	tcase_add_test(tc, the_ledger_tells_what_is_missing);
	tcase_add_test(tc, only_old_settled_rows_of_our_own_are_deleted);
	tcase_add_test(tc, a_statement_timeout_does_not_bind_housekeeping);
}

int
main(void)
{
	return run_suite("postgres", add_tests);
}
