#include "store/pg/link/pg_conn.h"

#include <errno.h>
#include <linux/tcp.h> /* the C library's has a shorter tcp_info */
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/crash_point.h"
#include "log/log.h"
#include "store/pg/link/pg_error.h"
#include "store/pg/link/pg_session.h"
#include "store/pg/link/pg_watch.h"
#include "store/pg/link/wait.h"

#define COPY_PIECE (256u << 10)
#define LOOK_FIRST_MS 8000 /* a wait for a lock shall be in the log before it ends in an error */
#define LOOK_MS 60000
#define BLIND_MAX 3   /* looks */
#define WAITS_MAX 3   /* looks */
#define READ_MIN 8192 /* libpq makes so much room at the least, before it reads */

enum store_status
pg_fail(struct store_error *err, const char *text)
{
	return pg_error_set(err, "", text, NULL, false);
}

enum store_status
pg_odd(struct store_error *err, const char *text)
{
	enum store_status st = pg_error_set(err, "08P01", text, NULL, false);

	err->hint = "this is not what PostgreSQL answers: look what database.uri leads to";
	return st;
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
	r = clock_ms() < deadline_ms ? wait_fd(fd, events, c->stop_fd, deadline_ms) : 0;
	return r ? waited(r, err) : pg_fail(err, "no answer from the server");
}

enum store_status
pg_sleep(const struct pg_conn *c, uint64_t ms, struct store_error *err)
{
	return waited(wait_fd(-1, 0, c->stop_fd, clock_ms() + ms), err);
}

/* ---- deadlines ---- */

/* From here on the server has so long for an answer. */
static void
set_deadline(struct pg_conn *c)
{
	uint64_t now_ms = clock_ms();

	c->deadline_ms = now_ms + (c->ddl ? PG_DDL_MS : c->answer_ms);
	c->look_ms = c->conf ? now_ms + LOOK_FIRST_MS : UINT64_MAX;
}

/* There is no answer: err says what was seen. */
static enum store_status
given_up(const struct pg_conn *c, const struct pg_sight *s, struct store_error *err)
{
	char text[256];
	int n;

	n = snprintf(text, sizeof(text), "no answer from the server for %.0f s",
		     (double)(clock_ms() - c->sent_ms) / 1000);
	if (*s->what)
		n += snprintf(text + n, sizeof(text) - (size_t)n, ", which waits for %s", s->what);
	if (s->pid)
		(void)snprintf(text + n, sizeof(text) - (size_t)n, " of pid %d (%s, user %s)",
			       s->pid, s->application, s->user);
	(void)pg_fail(err, text);
	err->hint = pg_watch_hint(s);
	return STORE_RETRY;
}

/*
 * Looks what the server does, and says so where it waits for others, or does what takes long.  Is
 * it of use to wait on?
 */
static enum store_status
look(struct pg_conn *c, struct store_error *err)
{
	uint64_t now_ms = clock_ms();
	struct pg_sight s;

	pg_watch(c, &s);
	c->look_ms = c->sent_ms + (now_ms - c->sent_ms) / LOOK_MS * LOOK_MS + LOOK_MS;
	c->blind = s.seen == PG_SEEN_NOTHING && !s.reached ? c->blind + 1 : 0;
	if (s.seen == PG_SEEN_DONE)
		return pg_fail(err, "the server has answered, and nothing has come here");
	if (c->blind >= BLIND_MAX)
		return pg_fail(err, "no answer from the server, nor to other connections");
	c->waits = s.seen == PG_SEEN_WAITING ? c->waits + 1 : 0;
	/* no work is done meanwhile, and others may wait for us */
	if (c->waits >= WAITS_MAX ||
	    (s.seen == PG_SEEN_STANDBY && now_ms - c->sent_ms >= c->answer_ms))
		return given_up(c, &s, err);
	if (s.seen == PG_SEEN_WAITING || s.seen == PG_SEEN_STANDBY ||
	    (c->ddl && now_ms - c->sent_ms >= LOOK_MS))
		pg_watch_log(&s, now_ms - c->sent_ms);
	return STORE_OK;
}

static enum store_status
look_last(const struct pg_conn *c, struct store_error *err)
{
	struct pg_sight s = {.seen = PG_SEEN_NOTHING};

	if (c->conf)
		pg_watch(c, &s);
	return given_up(c, &s, err);
}

/* Waits until bytes can move. */
static enum store_status
await(struct pg_conn *c, short events, struct store_error *err)
{
	enum store_status st = STORE_OK;
	int r = 0;

	while (st == STORE_OK && r == 0) {
		uint64_t now_ms = clock_ms();

		if (PQsocket(c->pg) < 0)
			return pg_fail(err, "connection lost");
		if (now_ms >= c->deadline_ms)
			return look_last(c, err);
		if (now_ms >= c->look_ms)
			st = look(c, err);
		if (st != STORE_OK)
			break;
		r = wait_fd(PQsocket(c->pg), events, c->stop_fd,
			    c->deadline_ms < c->look_ms ? c->deadline_ms : c->look_ms);
		st = waited(r, err);
	}
	return st;
}

/* ---- what comes in ---- */

size_t
pg_pending(const struct pg_conn *c)
{
	int n = 0;

	return ioctl(PQsocket(c->pg), FIONREAD, &n) < 0 || n < 0 ? 0 : (size_t)n;
}

/* What a TCP connection has received in all; 0 for others, and before it is one. */
static uint64_t
received(const struct pg_conn *c)
{
	struct tcp_info info = {.tcpi_bytes_received = 0};
	socklen_t len = sizeof(info);

	return getsockopt(PQsocket(c->pg), IPPROTO_TCP, TCP_INFO, &info, &len) < 0
		   ? 0
		   : info.tcpi_bytes_received;
}

void
pg_count_anew(struct pg_conn *c)
{
	c->taken = 0;
	c->received = received(c);
}

/*
 * libpq goes on reading a long message for as long as something comes, which the kernel counts; for
 * a unix socket it may seem to be less than it was.
 */
void
pg_count(struct pg_conn *c, size_t pending)
{
	size_t left = pg_pending(c), least = PQsslInUse(c->pg) ? 1 : READ_MIN;
	uint64_t now = received(c);

	if (now > c->received) {
		c->taken += now - c->received;
		c->received = now;
		return;
	}
	c->received = now; /* libpq may have begun a connection anew */
	if (now)
		return;
	if (least > pending)
		least = pending;
	c->taken += left + least < pending ? pending - left : least;
}

static void
drop_notifications(struct pg_conn *c)
{
	PGnotify *n;

	while ((n = PQnotifies(c->pg)))
		PQfreemem(n);
}

/* Waits until bytes can move, and takes in what has come. */
static enum store_status
exchange(struct pg_conn *c, bool sending, struct store_error *err)
{
	short events = (short)(sending ? POLLIN | POLLOUT : POLLIN);
	enum store_status st = await(c, events, err);
	size_t pending;

	if (st != STORE_OK)
		return st;
	pending = pg_pending(c);
	/* a connection that is gone has a last result, which says more; see next() */
	if (!PQconsumeInput(c->pg) && PQstatus(c->pg) != CONNECTION_BAD)
		return pg_fail(err, PQerrorMessage(c->pg));
	pg_count(c, pending);
	drop_notifications(c);
	return c->taken <= PG_TAKE_MAX ? STORE_OK : pg_odd(err, "the server's answer has no end");
}

/* ---- statements ---- */

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
	const char *severity = PQresultErrorField(r, PG_DIAG_SEVERITY_NONLOCALIZED);

	PQclear(c->failure);
	c->failure = r;
	if (severity && (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0))
		c->dismissed = true;
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
	if (!r && PQstatus(c->pg) == CONNECTION_OK)
		c->under_way = false;
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
	case PGRES_NONFATAL_ERROR:
	case PGRES_FATAL_ERROR:
		if (*verdict == STORE_OK) {
			*verdict = refused(c, r, err);
			return STORE_OK;
		}
		break;
	default: /* it would come again and again */
		PQclear(r);
		return pg_odd(err, "the server begins what nobody has asked for");
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
		st = pg_odd(err, "the server wants data that nobody has");
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
begin(struct pg_conn *c, int sent, bool ddl, struct store_error *err)
{
	PQclear(c->failure);
	c->failure = NULL;
	c->ddl = ddl;
	c->blind = 0;
	c->waits = 0;
	pg_count_anew(c);
	c->sent_ms = clock_ms();
	set_deadline(c);
	if (!sent)
		return pg_fail(err, PQerrorMessage(c->pg));
	c->under_way = true;
	return STORE_OK;
}

static enum store_status
run(struct pg_conn *c, const char *sql, bool slow, PGresult **ret, struct store_error *err)
{
	enum store_status st = begin(c, PQsendQuery(c->pg, sql), slow, err);

	return st == STORE_OK ? collect(c, ret, err) : st;
}

/* Runs both in one message. */
static enum store_status
run_two(struct pg_conn *c, const char *first, const char *then, bool slow, PGresult **ret,
	struct store_error *err)
{
	enum store_status st;
	char *sql;

	if (asprintf(&sql, "%s%s", first, then) < 0)
		return pg_fail(err, "out of memory");
	st = run(c, sql, slow, ret, err);
	free(sql);
	return st;
}

static bool
is_idle(const struct pg_conn *c)
{
	return PQtransactionStatus(c->pg) == PQTRANS_IDLE;
}

static const char *
prefix(const struct pg_conn *c)
{
	return is_idle(c) && c->prefix ? c->prefix : "";
}

enum store_status
pg_query_bare(struct pg_conn *c, const char *sql, struct store_error *err)
{
	return run(c, sql, c->patient, NULL, err);
}

enum store_status
pg_query(struct pg_conn *c, const char *sql, struct store_error *err)
{
	return run_two(c, prefix(c), sql, c->patient, NULL, err);
}

enum store_status
pg_query_anew(struct pg_conn *c, const char *sql, struct store_error *err)
{
	return run_two(c, c->settings ? c->settings : "", sql, c->patient, NULL, err);
}

enum store_status
pg_order(struct pg_conn *c, const char *sql, struct store_error *err)
{
	return run(c, sql, false, NULL, err);
}

static const char *
begin_sql(const struct pg_conn *c)
{
	return c->begin ? c->begin : "BEGIN;";
}

enum store_status
pg_begin(struct pg_conn *c, const char *more, struct store_error *err)
{
	return run_two(c, begin_sql(c), more, false, NULL, err);
}

/* ---- one that is read ---- */

/* Is r what was asked for? */
static enum store_status
check_form(PGresult *r, struct pg_form form, PGresult **ret, struct store_error *err)
{
	int columns = r ? PQnfields(r) : 0, rows = r ? PQntuples(r) : 0;
	char text[128];

	if (r && columns == form.columns && rows >= form.min && rows <= form.max) {
		*ret = r;
		return STORE_OK;
	}
	(void)snprintf(text, sizeof(text), "the server answers with %d rows of %d columns", rows,
		       columns);
	PQclear(r);
	return pg_odd(err, text);
}

enum store_status
pg_select_bare(struct pg_conn *c, const char *sql, struct pg_form form, PGresult **ret,
	       struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st = run(c, sql, form.slow, &r, err);

	return st == STORE_OK ? check_form(r, form, ret, err) : st;
}

static enum store_status
select_two(struct pg_conn *c, const char *first, const char *then, struct pg_form form,
	   PGresult **ret, struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st = run_two(c, first, then, form.slow, &r, err);

	return st == STORE_OK ? check_form(r, form, ret, err) : st;
}

enum store_status
pg_select(struct pg_conn *c, const char *sql, struct pg_form form, PGresult **ret,
	  struct store_error *err)
{
	return select_two(c, prefix(c), sql, form, ret, err);
}

enum store_status
pg_begin_select(struct pg_conn *c, const char *more, struct pg_form form, PGresult **ret,
		struct store_error *err)
{
	return select_two(c, begin_sql(c), more, form, ret, err);
}

/* ---- parameters ---- */

static enum store_status
run_params(struct pg_conn *c, const char *sql, const struct pg_params *p, PGresult **ret,
	   struct store_error *err)
{
	enum store_status st = begin(
	    c, PQsendQueryParams(c->pg, sql, p->n, NULL, p->values, p->lengths, p->formats, 0),
	    c->patient, err);

	return st == STORE_OK ? collect(c, ret, err) : st;
}

/* A message with parameters holds one statement only. */
static enum store_status
run_params_alone(struct pg_conn *c, const char *sql, const struct pg_params *p, PGresult **ret,
		 struct store_error *err)
{
	enum store_status st = pg_begin(c, "", err);
	PGresult *rows = NULL;

	if (st == STORE_OK)
		st = run_params(c, sql, p, &rows, err);
	if (st == STORE_OK)
		st = pg_order(c, "COMMIT", err);
	else
		pg_rollback(c, err);
	if (st == STORE_OK && ret)
		*ret = rows;
	else
		PQclear(rows);
	return st;
}

static enum store_status
query_params(struct pg_conn *c, const char *sql, const struct pg_params *p, PGresult **ret,
	     struct store_error *err)
{
	return is_idle(c) ? run_params_alone(c, sql, p, ret, err) : run_params(c, sql, p, ret, err);
}

enum store_status
pg_query_params(struct pg_conn *c, const char *sql, const struct pg_params *p,
		struct store_error *err)
{
	return query_params(c, sql, p, NULL, err);
}

enum store_status
pg_select_params(struct pg_conn *c, const char *sql, const struct pg_params *p, struct pg_form form,
		 PGresult **ret, struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st = query_params(c, sql, p, &r, err);

	return st == STORE_OK ? check_form(r, form, ret, err) : st;
}

void
pg_rollback(struct pg_conn *c, struct store_error *err)
{
	PGresult *failure = c->failure;
	struct store_error second;

	if (err->reconnect || PQtransactionStatus(c->pg) == PQTRANS_IDLE)
		return;
	c->failure = NULL;
	if (pg_order(c, "ROLLBACK", &second) != STORE_OK)
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
		set_deadline(c);
		st = drain(c, err);
	}
	if (st != STORE_OK)
		return st;
	crash_point("before_copy_end");
	set_deadline(c);
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
	enum store_status st = begin(c, PQsendQuery(c->pg, sql), false, err);

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
	if (st == STORE_OK && verdict == STORE_OK) /* nobody has taken a row */
		st = pg_odd(err, "the server confirms a COPY without having taken it");
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
