#include "pg_fixture.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- opening ---- */

START_TEST(a_missing_database_is_made_once)
{
	struct store *s = open_store();

	store_close(s);
	ck_assert_str_eq(SQL("SELECT pg_encoding_to_char(encoding) FROM pg_database"
			     " WHERE datname = current_database()"),
			 "UTF8");
	ck_assert_str_eq(SQL("SELECT string_agg(column_name || ' ' || data_type || ' ' ||"
			     " is_nullable, ', ' ORDER BY ordinal_position)"
			     " FROM information_schema.columns WHERE table_name = 'metrics'"),
			 "time timestamp with time zone NO, metric_name text NO, "
			 "value double precision NO");
	ck_assert_str_eq(SQL("SELECT min(flavour || version) FROM metric_collectord.migrations"),
			 "postgresql1");
	(void)SQL("UPDATE metric_collectord.migrations SET applied_at = '2000-01-01'");
	store_close(open_store());
	ck_assert_str_eq(SQL("SELECT count(*) FROM metric_collectord.migrations"
			     " WHERE applied_at <> '2000-01-01'"),
			 "0");
	/* a changed file is worth a warning, no more */
	(void)SQL("UPDATE metric_collectord.migrations SET checksum = 'other'");
	store_close(open_store());
}
END_TEST

/* What a writer finds, it does not make; but it knows what to ask the janitor for. */
START_TEST(a_store_makes_nothing)
{
	struct store *s = NULL;

	ck_assert_int_eq(store_open(&conf, stop_fd, &s, &err), STORE_HOLD);
	ck_assert_str_eq(err.sqlstate, "3D000");
	ck_assert(err.setup);
	(void)sql_in("postgres", "CREATE DATABASE \"test \"\"%d\"\"\"", (int)getpid());
	ck_assert_int_eq(store_open(&conf, stop_fd, &s, &err), STORE_HOLD);
	ck_assert(err.setup);
	ck_assert_str_eq(SQL("SELECT count(*) FROM pg_class WHERE relname = 'metrics'"), "0");
	store_close(open_store());
	(void)SQL("ALTER TABLE metrics RENAME TO elsewhere");
	ck_assert_int_eq(store_open(&conf, stop_fd, &s, &err), STORE_HOLD);
	ck_assert(err.setup);
	(void)SQL("ALTER TABLE elsewhere RENAME TO metrics");
	ck_assert_int_eq(store_open(&conf, stop_fd, &s, &err), STORE_OK);
	fill_batch(1, 10);
	assert_put(s, 10, 0, false);
	ck_assert_int_eq(store_check(s, &err), STORE_OK);
	(void)SQL("DROP SCHEMA metric_collectord CASCADE");
	ck_assert_int_eq(store_check(s, &err), STORE_HOLD);
	ck_assert(err.setup);
	ck_assert(!err.reconnect);
	store_close(s);
}
END_TEST

START_TEST(without_leave_nothing_is_made)
{
	conf.database.create = false;
	assert_not_opened(STORE_HOLD, "3D000");
	(void)sql_in("postgres", "CREATE DATABASE \"test \"\"%d\"\"\"", (int)getpid());
	conf.database.migrate = false;
	assert_not_opened(STORE_HOLD, "");
	ck_assert_str_eq(SQL("SELECT count(*) FROM pg_class WHERE relname = 'metrics'"), "0");
}
END_TEST

START_TEST(six_collectors_start_at_once)
{
	pid_t pids[6];
	int i, status;

	conf.database.timescaledb = CONF_AUTO;
	for (i = 0; i < 6; i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			store_close(open_store());
			_exit(0);
		}
	}
	for (i = 0; i < 6; i++) {
		ck_assert_int_eq(waitpid(pids[i], &status, 0), pids[i]);
		ck_assert_int_eq(status, 0);
	}
}
END_TEST

START_TEST(a_role_without_rights_uses_what_is_there)
{
	struct store *s;

	store_close(open_store());
	(void)SQL("CREATE ROLE modest LOGIN");
	(void)snprintf(uri, sizeof(uri), "host=%s user=modest dbname='%s'", cluster.dir, database);
	assert_not_opened(STORE_HOLD, "42501");
	(void)SQL("GRANT USAGE ON SCHEMA metric_collectord TO modest;"
		  "GRANT SELECT ON metric_collectord.migrations TO modest;"
		  "GRANT SELECT, INSERT, UPDATE, DELETE ON metric_collectord.batches TO modest;"
		  "GRANT INSERT ON metric_collectord.rejected, metrics TO modest");
	s = open_store();
	fill_batch(1, 10);
	assert_put(s, 10, 0, false);
	assert_put(s, 10, 0, true);
	(void)SQL("REVOKE INSERT ON metrics FROM modest");
	fill_batch(2, 10);
	assert_held(s, "42501");
	(void)SQL("GRANT INSERT ON metrics TO modest");
	assert_put(s, 10, 0, false);
	store_close(s);
	/* nor may it make a database */
	(void)snprintf(uri, sizeof(uri), "host=%s user=modest dbname=none%d", cluster.dir,
		       (int)getpid());
	assert_not_opened(STORE_HOLD, "42501");
}
END_TEST

START_TEST(refusals_at_the_door)
{
	(void)snprintf(uri, sizeof(uri), "host=%s user=nobody_at_all dbname=postgres", cluster.dir);
	assert_not_opened(STORE_HOLD, "28000");
	(void)snprintf(uri, sizeof(uri), "postgresql://u:secret word@[");
	assert_not_opened(STORE_HOLD, "");
	ck_assert_ptr_null(strstr(err.text, "secret"));
	(void)snprintf(uri, sizeof(uri), "host=%s/none user=postgres", cluster.dir);
	assert_not_opened(STORE_RETRY, "");
	(void)snprintf(uri, sizeof(uri), "host=no-such-host.invalid user=postgres");
	assert_not_opened(STORE_RETRY, "");
}
END_TEST

/* A listener that accepts nothing more than its backlog stands for a host that hangs. */
START_TEST(a_silent_host_is_passed_over)
{
	struct sockaddr_in sin = {.sin_family = AF_INET};
	socklen_t len = sizeof(sin);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char silent[64];

	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	ck_assert_int_eq(listen(fd, 1), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&sin, &len), 0);
	(void)snprintf(silent, sizeof(silent), "%d", ntohs(sin.sin_port));
	conf.database.connect_timeout_ms = 300;
	(void)snprintf(uri, sizeof(uri), "host=127.0.0.1,%s port=%s,5432 user=postgres dbname='%s'",
		       cluster.dir, silent, database);
	store_close(open_store());
	/* the same by the environment, and by name */
	(void)setenv("PGPORT", "5432", 1);
	(void)setenv("PGHOST", cluster.dir, 1);
	(void)snprintf(uri, sizeof(uri), "user=postgres dbname='%s'", database);
	store_close(open_store());
	(void)snprintf(uri, sizeof(uri), "postgresql://postgres@localhost:%s/x", silent);
	assert_not_opened(STORE_RETRY, "");
	ck_assert_ptr_nonnull(strstr(err.text, "no answer"));
	(void)close(fd);
}
END_TEST

START_TEST(stop_ends_a_connection_attempt)
{
	struct sockaddr_in sin = {.sin_family = AF_INET};
	socklen_t len = sizeof(sin);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	ck_assert_int_eq(listen(fd, 1), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&sin, &len), 0);
	(void)snprintf(uri, sizeof(uri), "postgresql://postgres@127.0.0.1:%d/x",
		       ntohs(sin.sin_port));
	conf.database.connect_timeout_ms = 3600000;
	ck_assert_int_eq(eventfd_write(stop_fd, 1), 0);
	assert_not_opened(STORE_STOPPED, "");
	(void)close(fd);
}
END_TEST

START_TEST(a_standby_like_server_is_left_again)
{
	struct store *s = open_store();

	(void)SQL("ALTER DATABASE \"test \"\"%d\"\"\" SET default_transaction_read_only = on",
		  (int)getpid());
	store_close(s);
	s = open_store(); /* all is there, nothing to write */
	fill_batch(1, 10);
	ck_assert_int_eq(put(s), STORE_RETRY);
	ck_assert_str_eq(err.sqlstate, "25006");
	ck_assert(err.reconnect);
	store_close(s);
	/* among several hosts only one that can be written to will do */
	(void)snprintf(uri, sizeof(uri), "host=%s,%s user=postgres dbname='%s'", cluster.dir,
		       cluster.dir, database);
	assert_not_opened(STORE_RETRY, "25006");
	ck_assert_ptr_nonnull(strstr(err.text, "takes no writes"));
	/* unless the string says what will do: no standby, whatever else it is */
	(void)snprintf(uri, sizeof(uri),
		       "host=%s user=postgres dbname='%s' target_session_attrs=read-write",
		       cluster.dir, database);
	assert_not_opened(STORE_RETRY, "25006");
	(void)snprintf(uri, sizeof(uri),
		       "host=%s,%s user=postgres dbname='%s' target_session_attrs=primary",
		       cluster.dir, cluster.dir, database);
	store_close(open_store());
}
END_TEST

/* ---- TimescaleDB ---- */

START_TEST(without_timescaledb_the_table_stays_plain)
{
	struct store *s;

	conf.database.timescaledb = CONF_REQUIRE;
	assert_not_opened(STORE_HOLD, has_timescaledb() ? "55000" : "0A000");
	conf.database.timescaledb = CONF_AUTO;
	s = open_store();
	fill_batch(1, 10);
	assert_put(s, 10, 0, false);
	store_close(s);
}
END_TEST

#define HYPERTABLES                                                                           \
	SQL("SELECT count(*) FROM timescaledb_information.dimensions WHERE hypertable_name =" \
	    " 'metrics' AND time_interval = '1 day'")

START_TEST(metrics_becomes_a_hypertable)
{
	struct store *s;

	conf.database.timescaledb = CONF_REQUIRE;
	s = open_store();
	fill_batch(1, 1000);
	assert_put(s, 1000, 0, false);
	assert_put(s, 1000, 0, true);
	store_close(s);
	store_close(open_store());
	ck_assert_str_eq(HYPERTABLES, "1");
	ck_assert_str_eq(METRICS, "1000");
	ck_assert_str_eq(SQL("SELECT count(*) FROM pg_indexes WHERE tablename = 'metrics'"), "2");
}
END_TEST

START_TEST(a_table_with_rows_becomes_a_hypertable)
{
	struct store *s = open_store();

	fill_batch(1, 1000);
	assert_put(s, 1000, 0, false);
	store_close(s);
	conf.database.timescaledb = CONF_AUTO;
	s = open_store();
	assert_put(s, 1000, 0, true);
	fill_batch(2, 1000);
	(void)SQL("ALTER TABLE metrics ADD CHECK (value <> 13) NOT VALID");
	assert_put(s, 999, 1, false);
	store_close(s);
	ck_assert_str_eq(HYPERTABLES, "1");
	ck_assert_str_eq(METRICS, "1999");
}
END_TEST

/* A unique index without time forbids it: "auto" goes on with a plain table. */
START_TEST(a_table_that_cannot_be_converted_stays_plain)
{
	struct store *s = open_store();

	(void)SQL("DROP TABLE metrics; CREATE TABLE metrics (time timestamptz NOT NULL,"
		  " metric_name text NOT NULL, value float8 NOT NULL UNIQUE)");
	store_close(s);
	conf.database.timescaledb = CONF_REQUIRE;
	assert_not_opened(STORE_HOLD, "TS103");
	conf.database.timescaledb = CONF_AUTO;
	s = open_store();
	fill_batch(1, 10);
	assert_put(s, 10, 0, false);
	store_close(s);
	ck_assert_str_eq(HYPERTABLES, "0");
}
END_TEST

static void
add_tests(Suite *s)
{
	TCase *tc = plain_case(s);

	tcase_add_test(tc, a_missing_database_is_made_once);
	tcase_add_test(tc, a_store_makes_nothing);
	tcase_add_test(tc, without_leave_nothing_is_made);
	tcase_add_test(tc, six_collectors_start_at_once);
	tcase_add_test(tc, a_role_without_rights_uses_what_is_there);
	tcase_add_test(tc, refusals_at_the_door);
	tcase_add_test(tc, a_silent_host_is_passed_over);
	tcase_add_test(tc, stop_ends_a_connection_attempt);
	tcase_add_test(tc, a_standby_like_server_is_left_again);
	tcase_add_test(tc, without_timescaledb_the_table_stays_plain);
	if (!has_timescaledb()) {
		(void)printf("skipped: TimescaleDB is not installed\n");
		return;
	}
	tc = timescaledb_case(s);
	tcase_add_test(tc, metrics_becomes_a_hypertable);
	tcase_add_test(tc, a_table_with_rows_becomes_a_hypertable);
	tcase_add_test(tc, a_table_that_cannot_be_converted_stays_plain);
	tcase_add_test(tc, six_collectors_start_at_once);
}

int
main(void)
{
	return run_suite("pg_setup", add_tests);
}
