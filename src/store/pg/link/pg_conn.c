#include "store/pg/link/pg_conn.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/crash_point.h"
#include "store/pg/link/pg_error.h"
#include "store/pg/link/pg_session.h"
#include "store/pg/link/wait.h"

#define COPY_PIECE (256u << 10)

enum store_status
pg_fail(struct store_error *err, const char *text)
{
	return pg_error_set(err, "", text, NULL, false);
}

void
pg_close(struct pg_conn *c)
{
	PQclear(c->failure);
	c->failure = NULL;
	PQfinish(c->pg);
	c->pg = NULL;
	free(c->buf);
	c->buf = NULL;
	pg_session_done(c);
}

static enum store_status
stopped(struct store_error *err)
{
	(void)pg_fail(err, "stopped");
	return STORE_STOPPED;
}

/* What wait_fd() returned, as a status; a timeout is none. */
static enum store_status
waited(int r, struct store_error *err)
{
	if (r == -ECANCELED)
		return stopped(err);
	return r < 0 ? pg_fail(err, strerror(-r)) : STORE_OK;
}

enum store_status
pg_wait(const struct pg_conn *c, short events, uint64_t deadline_ms, struct store_error *err)
{
	int fd = PQsocket(c->pg);
	int r;

	if (fd < 0)
		return pg_fail(err, "connection lost");
	r = wait_fd(fd, events, c->stop_fd, deadline_ms);
	return r ? waited(r, err) : pg_fail(err, "no answer from the server");
}

enum store_status
pg_sleep(const struct pg_conn *c, uint64_t ms, struct store_error *err)
{
	return waited(wait_fd(-1, 0, c->stop_fd, clock_ms() + ms), err);
}

/* Waits until bytes can move, and takes in what has come. */
static enum store_status
exchange(struct pg_conn *c, bool sending, struct store_error *err)
{
	short events = (short)(sending ? POLLIN | POLLOUT : POLLIN);
	enum store_status st = pg_wait(c, events, clock_ms() + c->stall_ms, err);

	if (st != STORE_OK)
		return st;
	/* a connection that is gone has a last result, which says more; see next() */
	if (!PQconsumeInput(c->pg) && PQstatus(c->pg) != CONNECTION_BAD)
		return pg_fail(err, PQerrorMessage(c->pg));
	return STORE_OK;
}

/* The next result of the message under way; NULL when there are no more. */
static enum store_status
next(struct pg_conn *c, PGresult **ret, struct store_error *err)
{
	enum store_status st;

	for (;;) {
		bool sending = PQflush(c->pg) > 0;

		/* PQgetResult() does not wait on a connection that is gone */
		if (!PQisBusy(c->pg) || PQstatus(c->pg) == CONNECTION_BAD)
			break;
		st = exchange(c, sending, err);
		if (st != STORE_OK)
			return st;
	}
	*ret = PQgetResult(c->pg);
	return STORE_OK;
}

/* Takes over a result that says that the server refused. */
static enum store_status
refused(struct pg_conn *c, PGresult *r, struct store_error *err)
{
	const char *sqlstate = PQresultErrorField(r, PG_DIAG_SQLSTATE);
	const char *text = PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(r, PG_DIAG_MESSAGE_DETAIL);

	PQclear(c->failure);
	c->failure = r;
	return pg_error_set(err, sqlstate ? sqlstate : "", text ? text : PQresultErrorMessage(r),
			    detail, PQstatus(c->pg) == CONNECTION_OK);
}

/* Where next_step() stands in the results of a message. */
enum step { STEP_MORE, STEP_COPY, STEP_END };

/* Takes one result in.  Errors go to *verdict and err, the first one only. */
static enum store_status
next_step(struct pg_conn *c, PGresult **rows, enum store_status *verdict, enum step *step,
	  struct store_error *err)
{
	PGresult *r;
	enum store_status st = next(c, &r, err);

	if (st != STORE_OK)
		return st;
	*step = r ? STEP_MORE : STEP_END;
	switch (r ? PQresultStatus(r) : PGRES_COMMAND_OK) {
	case PGRES_COPY_IN:
		*step = STEP_COPY;
		break;
	case PGRES_TUPLES_OK:
		if (rows) {
			PQclear(*rows);
			*rows = r;
			return STORE_OK;
		}
		break;
	case PGRES_COMMAND_OK:
	case PGRES_EMPTY_QUERY:
		break;
	default:
		if (*verdict == STORE_OK) {
			*verdict = refused(c, r, err);
			return STORE_OK;
		}
		break;
	}
	PQclear(r);
	return STORE_OK;
}

/* A server that ends the session says why, and only then closes the connection. */
static void
note_loss(const struct pg_conn *c, struct store_error *err)
{
	if (PQstatus(c->pg) == CONNECTION_BAD)
		err->reconnect = true;
}

/* Takes in all results that are left. */
static enum store_status
collect(struct pg_conn *c, PGresult **ret, struct store_error *err)
{
	enum store_status verdict = STORE_OK;
	enum step step = STEP_MORE;
	PGresult *rows = NULL;
	enum store_status st;

	do
		st = next_step(c, &rows, &verdict, &step, err);
	while (st == STORE_OK && step == STEP_MORE);
	if (st == STORE_OK && step == STEP_COPY)
		st = pg_fail(err, "the server wants data that nobody has");
	note_loss(c, err);
	if (st == STORE_OK)
		st = verdict;
	if (st == STORE_OK && ret)
		*ret = rows;
	else
		PQclear(rows);
	return st;
}

/* Forgets the last failure; sent says whether the next statement is on its way. */
static enum store_status
begin(struct pg_conn *c, int sent, struct store_error *err)
{
	PQclear(c->failure);
	c->failure = NULL;
	return sent ? STORE_OK : pg_fail(err, PQerrorMessage(c->pg));
}

enum store_status
pg_query_bare(struct pg_conn *c, const char *sql, PGresult **ret, struct store_error *err)
{
	enum store_status st = begin(c, PQsendQuery(c->pg, sql), err);

	return st == STORE_OK ? collect(c, ret, err) : st;
}

/* Runs both in one message. */
static enum store_status
query_two(struct pg_conn *c, const char *first, const char *then, PGresult **ret,
	  struct store_error *err)
{
	enum store_status st;
	char *sql;

	if (asprintf(&sql, "%s%s", first, then) < 0)
		return pg_fail(err, "out of memory");
	st = pg_query_bare(c, sql, ret, err);
	free(sql);
	return st;
}

static bool
is_idle(const struct pg_conn *c)
{
	return PQtransactionStatus(c->pg) == PQTRANS_IDLE;
}

enum store_status
pg_query(struct pg_conn *c, const char *sql, PGresult **ret, struct store_error *err)
{
	return query_two(c, is_idle(c) && c->prefix ? c->prefix : "", sql, ret, err);
}

enum store_status
pg_begin(struct pg_conn *c, const char *more, struct store_error *err)
{
	return query_two(c, c->begin ? c->begin : "BEGIN;", more, NULL, err);
}

static enum store_status
send_params(struct pg_conn *c, const char *sql, const struct pg_params *p, PGresult **ret,
	    struct store_error *err)
{
	enum store_status st = begin(
	    c, PQsendQueryParams(c->pg, sql, p->n, NULL, p->values, p->lengths, p->formats, 0),
	    err);

	return st == STORE_OK ? collect(c, ret, err) : st;
}

/* A message with parameters holds one statement only. */
static enum store_status
send_alone(struct pg_conn *c, const char *sql, const struct pg_params *p, PGresult **ret,
	   struct store_error *err)
{
	PGresult *rows = NULL;
	enum store_status st = pg_begin(c, "", err);

	if (st == STORE_OK)
		st = send_params(c, sql, p, &rows, err);
	if (st == STORE_OK)
		st = pg_query_bare(c, "COMMIT", NULL, err);
	else
		pg_rollback(c, err);
	if (st == STORE_OK && ret)
		*ret = rows;
	else
		PQclear(rows);
	return st;
}

enum store_status
pg_query_params(struct pg_conn *c, const char *sql, const struct pg_params *p, PGresult **ret,
		struct store_error *err)
{
	return is_idle(c) ? send_alone(c, sql, p, ret, err) : send_params(c, sql, p, ret, err);
}

void
pg_rollback(struct pg_conn *c, struct store_error *err)
{
	PGresult *failure = c->failure;
	struct store_error second;

	if (err->reconnect || PQtransactionStatus(c->pg) == PQTRANS_IDLE)
		return;
	c->failure = NULL;
	if (pg_query_bare(c, "ROLLBACK", NULL, &second) != STORE_OK)
		err->reconnect = true;
	PQclear(c->failure);
	c->failure = failure;
}

/* Sends what libpq has buffered, so that its buffer never holds more than one piece. */
static enum store_status
drain(struct pg_conn *c, struct store_error *err)
{
	enum store_status st = STORE_OK;

	while (st == STORE_OK && PQstatus(c->pg) == CONNECTION_OK && PQflush(c->pg) > 0)
		st = exchange(c, true, err);
	return st;
}

/*
 * Sends the rows.  A connection that breaks meanwhile is not reported here: its result is
 * collected afterwards.
 */
static enum store_status
push(struct pg_conn *c, struct copy *rows, struct store_error *err)
{
	enum store_status st = STORE_OK;
	size_t n;

	while (st == STORE_OK && (n = copy_fill(rows, c->buf, COPY_PIECE)) > 0) {
		int r = PQputCopyData(c->pg, (const char *)c->buf, (int)n);

		if (r < 0)
			return STORE_OK;
		if (r == 0) /* the buffer was empty: only memory can be short */
			return pg_fail(err, "out of memory");
		st = drain(c, err);
	}
	if (st != STORE_OK)
		return st;
	crash_point("before_copy_end");
	if (PQputCopyEnd(c->pg, NULL) > 0)
		st = drain(c, err);
	crash_point("after_copy_end");
	return st;
}

enum store_status
pg_copy(struct pg_conn *c, const char *sql, struct copy *rows, struct store_error *err)
{
	enum store_status verdict = STORE_OK;
	enum step step = STEP_MORE;
	enum store_status st = begin(c, PQsendQuery(c->pg, sql), err);

	if (st == STORE_OK && !c->buf && !(c->buf = malloc(COPY_PIECE)))
		st = pg_fail(err, "out of memory");
	while (st == STORE_OK && step == STEP_MORE)
		st = next_step(c, NULL, &verdict, &step, err);
	if (st == STORE_OK && step == STEP_COPY) {
		crash_point("after_ledger_insert");
		st = push(c, rows, err);
		if (st == STORE_OK)
			return collect(c, NULL, err);
	}
	note_loss(c, err);
	return st == STORE_OK ? verdict : st;
}

bool
pg_failed_on(const struct pg_conn *c, const char *schema, const char *table, const char *constraint)
{
	const struct {
		int field;
		const char *value;
	} wanted[] = {
	    {PG_DIAG_SCHEMA_NAME, schema},
	    {PG_DIAG_TABLE_NAME, table},
	    {PG_DIAG_CONSTRAINT_NAME, constraint},
	};
	size_t i;

	if (!c->failure)
		return false;
	for (i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		const char *value = PQresultErrorField(c->failure, wanted[i].field);

		if (!value || strcmp(value, wanted[i].value) != 0)
			return false;
	}
	return true;
}
