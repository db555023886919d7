/*
 * check_pg_link.c - connections: forms of answers, deadlines, taking leave, and who holds a lock.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "pg_fixture.h"
#include "store/pg/link/pg_conn.h"
#include "store/pg/link/pg_watch.h"
#include "store/pg/setup/pg_lock.h"

#define LOCK_KEY "7882266284294234996"

static struct pg_conn c;

static enum store_status
connect_to(struct pg_conn *conn)
{
	*conn = (struct pg_conn){.stop_fd = stop_fd};
	return pg_connect(conn, &conf, "postgres", NULL, &err);
}

static void
connect_all(void)
{
	conf.database.connections = 1;
	ck_assert_msg(connect_to(&c) == STORE_OK, "%s", err.text);
}

static int
count_ours(void)
{
	return atoi(sql_in("postgres", "SELECT count(*) FROM pg_stat_activity"
				       " WHERE application_name = 'metric-collectord'"));
}

/* Until there are n backends of ours. */
static void
await_ours(int n)
{
	uint64_t end_ms = clock_ms() + 30000;

	while (count_ours() != n && clock_ms() < end_ms)
		(void)usleep(10000);
	ck_assert_int_eq(count_ours(), n);
}

/* ---- answers ---- */

static const struct {
	const char *sql;
	struct pg_form form;
	bool good;
} forms[] = {
    {"SELECT 1", {.columns = 1, .min = 1, .max = 1}, true},
    {"SELECT 1 WHERE false", {.columns = 1, .max = 1}, true},
    {"SELECT 1 WHERE false", {.columns = 1, .min = 1, .max = 1}, false},
    {"SELECT 1, 2", {.columns = 1, .min = 1, .max = 1}, false},
    {"SELECT", {.columns = 1, .min = 1, .max = 1}, false},
    {"SELECT n FROM generate_series(1, 3) n", {.columns = 1, .max = 2}, false},
    {"SET statement_timeout = 0", {.columns = 1, .max = 1}, false},
    {"", {.columns = 1, .max = 1}, false},
};

START_TEST(answers_of_another_form_are_errors)
{
	PGresult *r = NULL;
	enum store_status st;

	connect_all();
	st = pg_select(&c, forms[_i].sql, forms[_i].form, &r, &err);
	if (forms[_i].good) {
		ck_assert_int_eq(st, STORE_OK);
		ck_assert_ptr_nonnull(r);
	} else {
		ck_assert_int_eq(st, STORE_RETRY);
		ck_assert_str_eq(err.sqlstate, "08P01");
		ck_assert(err.reconnect);
		ck_assert_ptr_null(r);
	}
	PQclear(r);
	pg_close(&c);
}
END_TEST

START_TEST(copies_nobody_asked_for_end_the_connection)
{
	static const char *const sql[] = {"COPY (SELECT 1) TO STDOUT",
					  "CREATE TEMP TABLE t (n int); COPY t FROM STDIN"};

	connect_all();
	ck_assert_int_eq(pg_query(&c, sql[_i], &err), STORE_RETRY);
	ck_assert_str_eq(err.sqlstate, "08P01");
	ck_assert(err.reconnect);
	pg_close(&c);
	await_ours(0);
}
END_TEST

START_TEST(answer_has_a_largest_size)
{
	PGresult *r = NULL;

	connect_all();
	ck_assert_int_eq(pg_select(&c, "SELECT repeat('x', 1000) FROM generate_series(1, 10000000)",
				   PG_ROWS(1), &r, &err),
			 STORE_RETRY);
	ck_assert_str_eq(err.sqlstate, "08P01");
	ck_assert_ptr_null(r);
	pg_close(&c);
	ck_assert_int_eq(count_ours(), 0);
}
END_TEST

/* ---- deadlines, and taking leave ---- */

START_TEST(deadline_holds_while_notices_come)
{
	static const char sql[] = "DO $$ BEGIN LOOP RAISE NOTICE 'still here';"
				  " PERFORM pg_catalog.pg_sleep(0.01); END LOOP; END $$";

	connect_all();
	c.answer_ms = 300;
	ck_assert_int_eq(pg_query(&c, sql, &err), STORE_RETRY);
	ck_assert_str_eq(err.sqlstate, "");
	ck_assert_ptr_nonnull(strstr(err.text, "no answer from the server"));
	ck_assert(err.reconnect);
	pg_close(&c);
	ck_assert_int_eq(count_ours(), 0);
}
END_TEST

/* It would have gone on for a minute. */
START_TEST(what_is_under_way_is_cancelled)
{
	connect_all();
	c.answer_ms = 300;
	ck_assert_int_eq(pg_query(&c, "SELECT pg_sleep(60)", &err), STORE_RETRY);
	pg_close(&c);
	ck_assert_int_eq(count_ours(), 0);
}
END_TEST

/* Both are ours, and so is the one that stands still: with a third there would be too many. */
START_TEST(backend_that_does_not_end_is_counted)
{
	struct pg_conn second, third;
	int pid;

	connect_all();
	c.answer_ms = 300;
	pid = PQbackendPID(c.pg);
	ck_assert_int_eq(kill(pid, SIGSTOP), 0);
	ck_assert_int_eq(pg_query(&c, "SELECT 1", &err), STORE_RETRY);
	pg_close(&c);
	ck_assert_int_eq(count_ours(), 1);
	ck_assert_msg(connect_to(&second) == STORE_OK, "%s", err.text);
	ck_assert_int_eq(connect_to(&third), STORE_RETRY);
	ck_assert_ptr_nonnull(strstr(err.text, "does not end"));
	ck_assert_ptr_nonnull(err.hint);
	ck_assert_int_eq(count_ours(), 2);
	ck_assert_int_eq(kill(pid, SIGCONT), 0);
	ck_assert_msg(connect_to(&third) == STORE_OK, "%s", err.text);
	ck_assert_int_eq(count_ours(), 2);
	pg_close(&second);
	pg_close(&third);
	ck_assert_int_eq(count_ours(), 0);
}
END_TEST

/* ---- locks ---- */

START_TEST(watch_names_who_holds_a_lock)
{
	PGconn *culprit = admin("postgres");
	struct pg_sight s = {.seen = PG_SEEN_NOTHING};
	uint64_t end_ms = clock_ms() + 30000;
	PGresult *r;

	(void)ask(culprit, "SET application_name = 'culprit'");
	(void)ask(culprit, "SELECT pg_advisory_lock(1)");
	connect_all();
	ck_assert_int_eq(PQsendQuery(c.pg, "SELECT pg_advisory_xact_lock(1)"), 1);
	ck_assert_int_eq(PQflush(c.pg), 0);
	while (s.seen != PG_SEEN_WAITING && clock_ms() < end_ms)
		pg_watch(&c, &s);
	ck_assert_int_eq(s.seen, PG_SEEN_WAITING);
	ck_assert_str_eq(s.what, "Lock advisory");
	ck_assert_int_eq(s.pid, PQbackendPID(culprit));
	ck_assert_str_eq(s.application, "culprit");
	ck_assert_str_eq(s.user, "postgres");
	ck_assert_ptr_nonnull(pg_watch_hint(&s));
	PQfinish(culprit);
	r = PQgetResult(c.pg);
	PQclear(r);
	pg_close(&c);
}
END_TEST

START_TEST(lock_that_somebody_keeps_is_not_waited_for)
{
	PGconn *culprit = admin("postgres");
	char who[128];

	(void)ask(culprit, "SET application_name = 'culprit'");
	(void)ask(culprit, "SELECT pg_advisory_lock(" LOCK_KEY ")");
	(void)snprintf(who, sizeof(who), "pid %d (culprit, user postgres)", PQbackendPID(culprit));
	connect_all();
	ck_assert_int_eq(pg_lock_begin(&c, 100, &err), STORE_RETRY);
	ck_assert_str_eq(err.sqlstate, "55P03");
	ck_assert_ptr_nonnull(strstr(err.text, who));
	ck_assert(c.lock_busy);
	ck_assert(!err.reconnect);
	ck_assert_int_eq(PQtransactionStatus(c.pg), PQTRANS_IDLE);
	PQfinish(culprit);
	ck_assert_int_eq(pg_lock_begin(&c, 30000, &err), STORE_OK);
	ck_assert(!c.lock_busy);
	ck_assert_int_eq(pg_lock_end(&c, STORE_OK, &err), STORE_OK);
	pg_close(&c);
}
END_TEST

START_TEST(set_up_ends_by_itself)
{
	PGresult *r = NULL;

	connect_all();
	ck_assert_int_eq(pg_lock_begin(&c, PG_LOCK_SETUP_MS, &err), STORE_OK);
	ck_assert_int_eq(pg_select(&c,
				   "SELECT current_setting('lock_timeout'),"
				   " current_setting('idle_in_transaction_session_timeout')",
				   PG_ROW(2), &r, &err),
			 STORE_OK);
	ck_assert_str_eq(PQgetvalue(r, 0, 0), "10s");
	ck_assert_str_eq(PQgetvalue(r, 0, 1), "1min");
	PQclear(r);
	ck_assert_int_eq(pg_lock_end(&c, STORE_OK, &err), STORE_OK);
	pg_close(&c);
}
END_TEST

START_TEST(table_that_somebody_keeps_is_named)
{
	PGconn *culprit = admin("postgres");
	enum store_status st;
	char who[128];

	(void)ask(culprit, "SET application_name = 'culprit'");
	(void)ask(culprit, "CREATE TABLE metrics (n int)");
	(void)ask(culprit, "BEGIN");
	(void)ask(culprit, "SELECT count(*) FROM metrics");
	(void)snprintf(who, sizeof(who), "pid %d (culprit, user postgres)", PQbackendPID(culprit));
	connect_all();
	ck_assert_int_eq(pg_lock_begin(&c, PG_LOCK_TRY_MS, &err), STORE_OK);
	ck_assert_int_eq(pg_query(&c, "SET LOCAL lock_timeout = 100", &err), STORE_OK);
	st = pg_query(&c, "ALTER TABLE metrics ADD m int", &err);
	ck_assert_int_eq(st, STORE_RETRY);
	ck_assert_int_eq(pg_lock_end(&c, st, &err), STORE_RETRY);
	ck_assert_str_eq(err.sqlstate, "55P03");
	ck_assert_ptr_nonnull(strstr(err.text, who));
	ck_assert(!c.lock_busy);
	(void)ask(culprit, "COMMIT");
	(void)ask(culprit, "DROP TABLE metrics");
	PQfinish(culprit);
	pg_close(&c);
}
END_TEST

static void
add_tests(Suite *s)
{
	TCase *tc = plain_case(s);

	tcase_add_loop_test(tc, answers_of_another_form_are_errors, 0,
			    (int)(sizeof(forms) / sizeof(forms[0])));
	tcase_add_loop_test(tc, copies_nobody_asked_for_end_the_connection, 0, 2);
	tcase_add_test(tc, answer_has_a_largest_size);
	tcase_add_test(tc, deadline_holds_while_notices_come);
	tcase_add_test(tc, what_is_under_way_is_cancelled);
	tcase_add_test(tc, backend_that_does_not_end_is_counted);
	tcase_add_test(tc, watch_names_who_holds_a_lock);
	tcase_add_test(tc, lock_that_somebody_keeps_is_not_waited_for);
	tcase_add_test(tc, set_up_ends_by_itself);
	tcase_add_test(tc, table_that_somebody_keeps_is_named);
}

int
main(void)
{
	return run_suite("pg_link", add_tests);
}
