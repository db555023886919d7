/*
 * pg_conn.h - one libpq connection, spoken to in a linear way.
 *
 * Every wait is a poll on the connection and the stop descriptor, with a deadline that what the
 * server sends does not move, and there is a limit to what it may send.  A statement that was
 * cut off (STORE_STOPPED, a deadline, a lost connection) leaves the connection unusable:
 * err->reconnect is set, and all that remains is pg_close().
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
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/pg/batch/copy.h"
#include "store/store.h"

#define PG_ANSWER_MS 60000                 /* for a statement, and each piece of a COPY */
#define PG_DDL_MS (UINT64_C(24) * 3600000) /* a large table takes its time */
#define PG_TAKE_MAX (32u << 20)            /* bytes that a statement's answer may have */

struct pg_backend;

/* The server's clock, read once: pg_session.h. */
struct pg_clock {
	uint64_t server_us; /* what it said; 0 = it was not asked */
	uint64_t mono_us;   /* our clocks, right after the answer */
	uint64_t real_us;
};

struct pg_conn {
	PGconn *pg;
	const struct conf *conf; /* borrowed, from pg_connect() */
	int stop_fd;             /* borrowed */
	uint64_t answer_ms;      /* how long an answer may take */
	bool patient;            /* set by who runs DDL: see pg_query() */
	int pid;                 /* of the backend that is ours for the transaction; 0: not asked */
	PGresult *failure;       /* of the last statement that the server refused; NULL: none */
	uint8_t *buf;            /* for pg_copy() */
	char *home;              /* the schema of metrics, quoted; these seven are pg_session.h's */
	char *settings;          /* SQL that says again what a transaction needs, likewise */
	char *begin;             /* SQL that begins a transaction, ends with ';' */
	char *prefix;            /* ... that one statement or message needs before it, likewise */
	bool read_write;         /* the role's default is to read only; we write */
	bool own_tablespace;     /* the database's own one is named as the default one */
	struct pg_clock clock;
	bool lock_busy;   /* the last pg_lock_begin() found somebody else at it */
	bool distributed; /* metrics is, by Citus (pg_citus.h); set by who has asked */

	/* for pg_close() */
	struct pg_backend *backend; /* NULL: not counted */
	PGcancel *cancel;
	bool under_way; /* a statement was sent, and its end has not come */
	bool dismissed; /* the server has ended the session, and said so */

	/* the statement under way */
	uint64_t sent_ms;
	uint64_t deadline_ms;
	uint64_t look_ms;  /* when it is looked what it waits for (pg_watch.h) */
	bool ddl;          /* it may take as long as DDL does */
	unsigned blind;    /* looks in a row that have led to no server */
	unsigned waits;    /* looks in a row that have found it waiting for a lock */
	uint64_t taken;    /* bytes of its answer */
	uint64_t received; /* those of the connection when they were counted */
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

/* One more to the same server as the same user, to look at what like is doing. */
enum store_status pg_connect_again(struct pg_conn *c, const struct pg_conn *like,
				   struct store_error *err);

/*
 * Takes leave: what is under way is cancelled, and the end of the backend is awaited, for a few
 * seconds at the most, and for moments once stopped.  One that has not ended by then is remembered
 * (pg_backends.h).  A zeroed one is fine.
 */
void pg_close(struct pg_conn *c);

/* poll(2) events on the connection until the deadline, which holds also while bytes come. */
enum store_status pg_wait(const struct pg_conn *c, short events, uint64_t deadline_ms,
			  struct store_error *err);

/* Sleeps, unless stopped. */
enum store_status pg_sleep(const struct pg_conn *c, uint64_t ms, struct store_error *err);

/*
 * Runs one simple-query message, after c->prefix where no transaction is open.  The first error is
 * what counts.  While c->patient is set it may take as long as DDL does, and it is logged again and
 * again what it waits for.
 */
enum store_status pg_query(struct pg_conn *c, const char *sql, struct store_error *err);

/* The same without a prefix: what must not be in a transaction. */
enum store_status pg_query_bare(struct pg_conn *c, const char *sql, struct store_error *err);

/*
 * Likewise, in an open transaction, after c->settings: a trigger may have changed them for what comes
 * behind it.
 */
enum store_status pg_query_anew(struct pg_conn *c, const char *sql, struct store_error *err);

/* Likewise, and where nothing takes long, whatever c->patient says: COMMIT, settings. */
enum store_status pg_order(struct pg_conn *c, const char *sql, struct store_error *err);

/* Begins a transaction, and runs what more there is (may be "") in the same message. */
enum store_status pg_begin(struct pg_conn *c, const char *more, struct store_error *err);

/*
 * What an answer must look like.  Whoever reads a result has got it from pg_select(): there are no
 * fewer columns and rows in it, and no more, than he goes by.
 */
struct pg_form {
	int columns;
	int min, max; /* rows */
	bool slow;    /* work, too, that may take as long as DDL does */
};
#define PG_ROWS_FROM(min_, columns_) \
	((struct pg_form){.columns = (columns_), .min = (min_), .max = INT_MAX})
#define PG_ROWS(columns_) PG_ROWS_FROM(0, columns_)
#define PG_ROW(columns_) ((struct pg_form){.columns = (columns_), .min = 1, .max = 1})
#define PG_SLOW_ROW(columns_) \
	((struct pg_form){.columns = (columns_), .min = 1, .max = 1, .slow = true})
#define PG_SLOW_ROWS(columns_) \
	((struct pg_form){.columns = (columns_), .max = INT_MAX, .slow = true})
#define PG_ROW_OR_NONE(columns_) ((struct pg_form){.columns = (columns_), .max = 1})

/*
 * As pg_query(), pg_query_bare() and pg_begin(), for the last result that holds rows.  *ret is
 * written on success, and to be given to PQclear(); an answer of another form is an error of
 * class 08, and ends the connection.
 */
enum store_status pg_select(struct pg_conn *c, const char *sql, struct pg_form form, PGresult **ret,
			    struct store_error *err);
enum store_status pg_select_bare(struct pg_conn *c, const char *sql, struct pg_form form,
				 PGresult **ret, struct store_error *err);
enum store_status pg_begin_select(struct pg_conn *c, const char *more, struct pg_form form,
				  PGresult **ret, struct store_error *err);

/*
 * For what libpq takes in by itself: what waits to be read before, and how many bytes of it are
 * counted after.  libpq reads 8 kB at the least, if there are so many.
 */
size_t pg_pending(const struct pg_conn *c);
void pg_count_anew(struct pg_conn *c);
void pg_count(struct pg_conn *c, size_t pending);

/*
 * With parameters (all text, unless formats says 1) and one statement.  Where no transaction is
 * open, it gets one of its own.
 */
struct pg_params {
	int n;
	const char *const *values;
	const int *lengths; /* NULL when all are text */
	const int *formats; /* likewise */
};
enum store_status pg_query_params(struct pg_conn *c, const char *sql, const struct pg_params *p,
				  struct store_error *err);
enum store_status pg_select_params(struct pg_conn *c, const char *sql, const struct pg_params *p,
				   struct pg_form form, PGresult **ret, struct store_error *err);

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

/* The same for an answer that no server gives: whoever is at the other end, it ends there. */
enum store_status pg_odd(struct store_error *err, const char *text);

/* Did the last error come from this constraint? */
bool pg_failed_on(const struct pg_conn *c, const char *schema, const char *table,
		  const char *constraint);
