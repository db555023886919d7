/*
 * store.h - a place where batches end up, for good.
 *
 * A store is one connection, used by one thread: a writer's (store_put() alone), or the
 * janitor's, who does all the rest.  Its code is linear and
 * looks blocking, but every wait also watches the stop descriptor and a deadline, and then
 * gives up with STORE_STOPPED or STORE_RETRY.
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
	const char *hint; /* what the operator can do; a static string or NULL */
	bool reconnect;   /* the connection is of no use any more: close and open again */
	bool batch_only;  /* another batch may well succeed (a lock, a conflict of identity) */
	bool unprepared;  /* something is missing that the janitor has to set up */
};

struct store_result {
	uint64_t stored;
	uint64_t rejected; /* rows that went to the rejected table */
	bool repeated;     /* an earlier try had committed it */
	bool direct;       /* it went straight into compressed storage */
};

struct store;

/* What a connection is for, and so what opening it includes. */
enum store_use {
	/*
	 * Batches: looks whether the table is ready, and makes nothing.  If it is not, unprepared
	 * is set.  Logs database_connected.
	 */
	STORE_FOR_BATCHES,
	/*
	 * Set-up and upkeep: creates the database if need be and allowed, applies migrations,
	 * prepares the table, so that batches can be stored.  Logs migration_applied,
	 * hypertable_created. Takes batches, too.
	 */
	STORE_FOR_UPKEEP,
	/* store_claim(): connects, and that is all. */
	STORE_FOR_CLAIMS,
};

/* Connects.  stop_fd is borrowed.  conf is borrowed for the life of the store. */
enum store_status store_open(const struct conf *conf, int stop_fd, enum store_use use,
			     struct store **ret, struct store_error *err);
void store_close(struct store *s); /* NULL is fine; never waits */

enum store_status store_put(struct store *s, const struct batch_view *b, struct store_result *ret,
			    struct store_error *err);

/* The table may have changed: it is looked at before the next batch.  Never waits. */
void store_look_again(struct store *s);

/*
 * Upkeep, called every minute or so: policies, rollups, partitions, and this collector's ledger
 * rows that are older than database.ledger_keep and below floor, which are deleted.
 */
enum store_status store_maintain(struct store *s, const char *collector, uint64_t floor,
				 struct store_error *err);

/*
 * Says that everything which this collector received before an instant (real time, µs) is stored,
 * and that the collector is alive.  For times without batches, which say the same.
 */
bool store_has_claims(const struct conf *conf); /* does anybody read them? */
enum store_status store_claim(struct store *s, const char *collector, uint64_t complete_until_us,
			      struct store_error *err);

/*
 * Which of these batches (numbers in rising order) does the ledger not hold?  Moves
 * them to the front of numbers and sets *n to their count.  For buffer.keep.
 */
enum store_status store_missing(struct store *s, const char *collector, uint64_t *numbers,
				size_t *n, struct store_error *err);

/* database_unavailable or batch_held; b is NULL where no batch was under way. */
void store_log_failure(int level, const char *event, const struct batch *b,
		       const struct store_error *err, uint64_t retry_ms);

/* What a store implements; store.c picks the table by conf->database.store. */
struct store_ops {
	enum store_status (*open)(const struct conf *conf, int stop_fd, enum store_use use,
				  struct store **ret, struct store_error *err);
	void (*close)(struct store *s);
	enum store_status (*put)(struct store *s, const struct batch_view *b,
				 struct store_result *ret, struct store_error *err);
	void (*look_again)(struct store *s); /* NULL: there is nothing to be looked at */
	enum store_status (*maintain)(struct store *s, const char *collector, uint64_t floor,
				      struct store_error *err);
	/* NULL: nobody asks */
	enum store_status (*claim)(struct store *s, const char *collector,
				   uint64_t complete_until_us, struct store_error *err);
	enum store_status (*missing)(struct store *s, const char *collector, uint64_t *numbers,
				     size_t *n, struct store_error *err);
};

/* The common head of every store; each embeds it first. */
struct store {
	const struct store_ops *ops;
};

extern const struct store_ops postgres_store_ops;
extern const struct store_ops sqlite_store_ops;
