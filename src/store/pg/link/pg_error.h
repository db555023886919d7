/*
 * pg_error.h - what PostgreSQL's errors mean for a batch.
 *
 * Three classes by SQLSTATE (PostgreSQL documentation, appendix A): passing troubles are tried
 * again, with data exceptions and the like some row is to blame, everything else waits for an
 * operator.  That is all there is to go by where no rows were on their way; else isolate.h tries
 * them, whatever the SQLSTATE.  Pure functions, no libpq.
 */
#pragma once

#include <stdbool.h>

#include "store/store.h"

enum pg_class {
	PG_RETRY,
	PG_ISOLATE, /* some row is to blame */
	PG_HOLD,
};

/* The class of a SQLSTATE.  "" is a failure without one: the connection, PG_RETRY. */
enum pg_class pg_error_class(const char *sqlstate);

/* Is a session with this error of no use, even though its connection stands? */
bool pg_error_reconnect(const char *sqlstate);

/* What the operator can do, a static string; NULL where there is nothing to say. */
const char *pg_error_hint(const char *sqlstate);

/* For the column reason of metric_collectord.rejected: "value", "constraint", "trigger", "other". */
const char *pg_error_reason(const char *sqlstate);

/*
 * Fills err in and returns the status that goes with it.  PG_ISOLATE gives STORE_HOLD: who
 * can isolate looks at the class itself.  err->setup is set where something essential is missing.
 * connected: the connection still stands.  detail may be NULL.  White space in the text becomes
 * single blanks.
 */
enum store_status pg_error_set(struct store_error *err, const char *sqlstate, const char *text,
			       const char *detail, bool connected);

/*
 * libpq gives no SQLSTATE of a failed connection, but with PQERRORS_VERBOSE its
 * message holds it ("...: FATAL:  3D000: database ...", whatever the language).  Copies it to
 * sqlstate, "" where there is none, and cuts it and the LOCATION line out of text.
 */
void pg_error_extract(char *text, char sqlstate[6]);

/*
 * PgBouncer has one SQLSTATE, 08P01, for all that it refuses at the door, and until 1.20 also for
 * what the server behind it refused.  When text says that an operator must act, err becomes what
 * the server itself would have made of it, or gets a hint about the pooler, and the status is
 * STORE_HOLD; else STORE_RETRY, and err stays as it is.
 */
enum store_status pg_error_pooler(struct store_error *err, const char *dbname);

/* What to do where libpq could not connect for a reason on our side, such as a file; or NULL. */
const char *pg_error_obstacle(const char *text);
