/*
 * store.h - a place where batches end up, for good.
 *
 * Two kinds of connection lead there.  A store takes batches; each writer thread has one.  An
 * upkeep makes what batches need and looks after it; the janitor (janitor.h) has the only one.
 * Their code is linear and looks blocking, but every wait also watches the stop descriptor and a
 * deadline, and then gives up with STORE_STOPPED or STORE_RETRY.
 *
 * store_put() commits a batch and its ledger row (collector, number) in one transaction, or
 * nothing.  It may be called again with the same batch after any outcome but STORE_OK,
 * also by another process: what was committed already is recognised by the ledger and
 * reported as STORE_OK with repeated set.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "buffer/batch.h"
#include "buffer/spool/spool.h"
#include "conf/conf.h"

enum store_status {
	STORE_OK,
	STORE_RETRY,   /* passing: try again, after a while */
	STORE_HOLD,    /* an operator must act; nothing is dropped, try again later */
	STORE_STOPPED, /* the stop descriptor became readable */
};

#define STORE_ERROR_MAX 512

/* Why something did not work: for the log. */
struct store_error {
	char sqlstate[6]; /* "" where there is none (no connection, SQLite) */
	char text[STORE_ERROR_MAX];
	const char *hint; /* what the operator can do; NULL, static, or the store's until its next
			     call */
	bool reconnect;   /* the connection is of no use any more: close and open again */
	bool batch_only;  /* another batch may well succeed (a lock, a conflict of identity) */
	bool conflict;    /* the ledger holds another batch under this one's key */
	bool disjoint;    /* ... which has none of its rows */
	bool setup;       /* something is missing that upkeep_setup() may be able to make */
};

struct store_result {
	uint64_t stored;
	uint64_t rejected; /* rows that went to the rejected table */
	bool repeated;     /* an earlier try had committed it */
	bool direct;       /* it went straight into compressed storage */
};

/* ---- writers: batches ---- */

struct store;

/*
 * Connects, and makes sure by reading that batches can be stored; makes nothing.  What is missing
 * sets err->setup.  Logs database_connected.  stop_fd is borrowed.  conf is borrowed for the life
 * of the store.
 */
enum store_status store_open(const struct conf *conf, int stop_fd, struct store **ret,
			     struct store_error *err);
void store_close(struct store *s); /* NULL is fine; waits for seconds at the most */

/* Which database it is, as upkeep_database() has it. */
const char *store_database(const struct store *s);

enum store_status store_put(struct store *s, const struct batch_view *b, struct store_result *ret,
			    struct store_error *err);

/*
 * For times without a batch: would one be taken, as far as can be told without one?  Also reads
 * anew what is known of the table.
 */
enum store_status store_check(struct store *s, struct store_error *err);

/* ---- the janitor: everything else ---- */

struct upkeep;

/* Not connected yet.  stop_fd and conf as above.  0, or -ENOMEM. */
int upkeep_new(const struct conf *conf, int stop_fd, struct upkeep **ret);
void upkeep_free(struct upkeep *u); /* NULL is fine; likewise */

/*
 * Connects; creates the database if need be and allowed.  After a failure, too, upkeep_disconnect()
 * may be called, and upkeep_connect() again.  What setup() and maintain() have found out is
 * remembered from connection to connection.
 */
enum store_status upkeep_connect(struct upkeep *u, struct store_error *err);
void upkeep_disconnect(struct upkeep *u);

/*
 * Which database upkeep_connect() has led to, as a line of text: how it is reached, and what no
 * other one has.  "" where nothing is known.
 */
#define STORE_DATABASE_MAX SPOOL_DATABASE_MAX
const char *upkeep_database(const struct upkeep *u);

/* The real time by its clock, when upkeep_connect() returned; 0 where it has none but ours. */
uint64_t upkeep_now_us(const struct upkeep *u);

/*
 * The one in which batches were stored before ("" = in none): reached in the same way, it is not
 * made where it is missing.
 */
void upkeep_expect(struct upkeep *u, const char *known);

/* Is it another one, though reached in the same way? */
bool store_database_differs(const char *known, const char *met);

/*
 * Makes all that must be there before the first batch: applies migrations, makes metrics what it is
 * configured to be.  Reads first: where nothing is missing, no lock and no right is needed.  Logs
 * migration_applied, hypertable_created, ...
 */
enum store_status upkeep_setup(struct upkeep *u, struct store_error *err);

/*
 * Housekeeping, every minute or so, once setup() has been through: what the section "table" of the
 * configuration asks for; and this collector's ledger rows that are older than database.ledger_keep
 * and below floor are deleted.  It may take long, but never holds a lock for long that a batch
 * needs.
 */
enum store_status upkeep_maintain(struct upkeep *u, const char *collector, uint64_t floor,
				  struct store_error *err);

/* Does anybody read claims? */
bool upkeep_claims(const struct upkeep *u);

/*
 * Says that everything which this collector received before an instant (real time, µs) is stored,
 * and that the collector is alive.  For times without batches, which say the same.
 */
enum store_status upkeep_claim(struct upkeep *u, const char *collector, uint64_t complete_until_us,
			       struct store_error *err);

/*
 * Which of these batches (numbers in rising order) does the ledger not hold?  Moves
 * them to the front of numbers and sets *n to their count.  For buffer.keep.
 */
enum store_status upkeep_missing(struct upkeep *u, const char *collector, uint64_t *numbers,
				 size_t *n, struct store_error *err);

/*
 * The server that it is connected to, as a number that is another one once commits may have been
 * lost; 0 where nothing is known.  For buffer.keep.
 */
uint64_t upkeep_server(const struct upkeep *u);

/* ---- the ledger ---- */

/* What the ledger holds under a batch's key. */
struct store_ledger {
	uint64_t rows; /* those that were refused among them */
	uint64_t bytes;
	bool partial;    /* the batch was stored in parts, and some are missing */
	bool has_opened; /* rows of before it was recorded do not */
	uint64_t opened_us;
	bool spans; /* its times reach from the batch's first to its last */
};

/*
 * The ledger has met the batch's key: was it this batch?  What the spool has lost of it since, by
 * damage or a crash, makes it smaller, never greater.  STORE_OK, or STORE_HOLD and err where it was
 * another one: a spool that was copied goes on under the identity of the first.
 */
enum store_status store_recognise(const struct store_ledger *l, const struct batch_view *b,
				  struct store_error *err);

/* ---- the log ---- */

/* Logs a failure, limited by event; batch is 0 where there was none. */
void store_log_failure(int level, const char *event, uint64_t batch, const struct store_error *err,
		       uint64_t retry_ms);

/* ---- what a store implements; store.c picks the table by conf->database.store ---- */

struct store_ops {
	enum store_status (*open)(const struct conf *conf, int stop_fd, struct store **ret,
				  struct store_error *err);
	void (*close)(struct store *s);
	enum store_status (*put)(struct store *s, const struct batch_view *b,
				 struct store_result *ret, struct store_error *err);
	enum store_status (*check)(struct store *s, struct store_error *err);
};

struct upkeep_ops {
	int (*new)(const struct conf *conf, int stop_fd, struct upkeep **ret);
	void (*free)(struct upkeep *u);
	enum store_status (*connect)(struct upkeep *u, struct store_error *err);
	void (*disconnect)(struct upkeep *u);
	enum store_status (*setup)(struct upkeep *u, struct store_error *err);
	enum store_status (*maintain)(struct upkeep *u, const char *collector, uint64_t floor,
				      struct store_error *err);
	/* NULL: nobody asks */
	enum store_status (*claim)(struct upkeep *u, const char *collector,
				   uint64_t complete_until_us, struct store_error *err);
	enum store_status (*missing)(struct upkeep *u, const char *collector, uint64_t *numbers,
				     size_t *n, struct store_error *err);
	uint64_t (*server)(const struct upkeep *u); /* NULL: nothing is known */
};

/* The common head of every store and every upkeep; each embeds it first. */
struct store {
	const struct store_ops *ops;
	char database[STORE_DATABASE_MAX];
};

struct upkeep {
	const struct upkeep_ops *ops;
	char database[STORE_DATABASE_MAX];
	char known[STORE_DATABASE_MAX];
	uint64_t now_us;
};

extern const struct store_ops postgres_store_ops;
extern const struct store_ops sqlite_store_ops;
extern const struct upkeep_ops postgres_upkeep_ops;
extern const struct upkeep_ops sqlite_upkeep_ops;
