/*
 * pg_conn.h - one libpq connection, spoken to in a linear way.
 *
 * Every wait is a poll on the connection and the stop descriptor, with a deadline that
 * moves on whenever bytes move.  A statement that was cut off (STORE_STOPPED, a
 * deadline, a lost connection) leaves the connection unusable: err->reconnect is set, and all
 * that remains is pg_close(), which never waits.
 *
 * Two habits of libpq shape this module: nonblocking PQputCopyData() never pushes back by
 * itself, so data is fed only while PQflush() has nothing left; and an answer may
 * already sit in libpq's buffer while the socket is silent, so results are drained before
 * each wait.
 *
 * Statements keep no session state, so that PgBouncer's transaction pooling works.
 */
#pragma once

#include <libpq-fe.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/pg/batch/copy.h"
#include "store/store.h"

#define PG_STALL_MS 60000                        /* without a byte: the peer counts as dead */
#define PG_DDL_STALL_MS (UINT64_C(24) * 3600000) /* a large table takes its time */

/* The server's clock, read once: pg_session.h. */
struct pg_clock {
	uint64_t server_us; /* what it said; 0 = it was not asked */
	uint64_t mono_us;   /* our clocks, right after the answer */
	uint64_t real_us;
};

struct pg_conn {
	PGconn *pg;
	int stop_fd;       /* borrowed */
	uint64_t stall_ms; /* how long a wait may last without a byte */
	PGresult *failure; /* of the last statement that the server refused; NULL: none */
	uint8_t *buf;      /* for pg_copy() */
	char *home;        /* the schema of metrics, quoted; these five are pg_session.h's */
	char *begin;       /* SQL that begins a transaction, ends with ';' */
	char *prefix;      /* ... that one statement or message needs before it, likewise */
	bool read_write;   /* the role's default is to read only; we write */
	struct pg_clock clock;
	bool distributed; /* metrics is, by Citus (pg_citus.h); set by who has asked */
};

/*
 * Connects to conf->database.uri: the hosts in turn, the addresses of each in turn, each
 * with connect_timeout, since libpq waits for ever for one that does not answer.
 * dbname overrides the one of the uri unless it is NULL.  With several hosts only one
 * that takes writes will do, unless target_session_attrs says otherwise.  A server
 * that refuses us for good (password, missing database) ends the search.
 *
 * c->stop_fd is set by the caller; the rest is filled in.  On failure c is closed, and the
 * name of the database that was asked for is in missing (when not NULL).
 */
enum store_status pg_connect(struct pg_conn *c, const struct conf *conf, const char *dbname,
			     char missing[64], struct store_error *err);
void pg_close(struct pg_conn *c); /* a zeroed one is fine */

/* poll(2) events on the connection until the deadline. */
enum store_status pg_wait(const struct pg_conn *c, short events, uint64_t deadline_ms,
			  struct store_error *err);

/* Sleeps, unless stopped. */
enum store_status pg_sleep(const struct pg_conn *c, uint64_t ms, struct store_error *err);

/*
 * Runs one simple-query message, after c->prefix where no transaction is open.  All its results are awaited; ret (may be NULL)
 * gets the last one that holds rows, or NULL, to be given to PQclear().  The first error is what
 * counts.
 */
enum store_status pg_query(struct pg_conn *c, const char *sql, PGresult **ret,
			   struct store_error *err);

/* The same without a prefix: for statements that begin a transaction, or must not be in one. */
enum store_status pg_query_bare(struct pg_conn *c, const char *sql, PGresult **ret,
				struct store_error *err);

/* Begins a transaction, and runs what more there is (may be "") in the same message. */
enum store_status pg_begin(struct pg_conn *c, const char *more, struct store_error *err);

/*
 * The same with parameters (all text, unless formats says 1) and one statement.  Where no
 * transaction is open, it gets one of its own.
 */
struct pg_params {
	int n;
	const char *const *values;
	const int *lengths; /* NULL when all are text */
	const int *formats; /* likewise */
};
enum store_status pg_query_params(struct pg_conn *c, const char *sql, const struct pg_params *p,
				  PGresult **ret, struct store_error *err);

/*
 * Runs a message with a COPY ... FROM STDIN (FORMAT binary) in it and sends it rows; PG_COPY is the
 * one for metrics.  It must be in a transaction that BEGIN has started: a COPY that fails in
 * mid-stream ends an implicit one while rows are still on their way, and then PgBouncer has given
 * the backend to another client, who is sent the rest (in any version until 2026).
 */
#define PG_COPY "COPY metrics (time, metric_name, value) FROM STDIN (FORMAT binary)"
enum store_status pg_copy(struct pg_conn *c, const char *sql, struct copy *rows,
			  struct store_error *err);

/*
 * Ends a transaction that has failed with err, if one is open.  err stays what it is, and so does
 * what pg_failed_on() says; but err->reconnect is set where this has failed, too.
 */
void pg_rollback(struct pg_conn *c, struct store_error *err);

/* err for a failure of our own, such as a lack of memory; returns the status. */
enum store_status pg_fail(struct store_error *err, const char *text);

/* Did the last error come from this constraint? */
bool pg_failed_on(const struct pg_conn *c, const char *schema, const char *table,
		  const char *constraint);
