/*
 * pg_fixture.h - what the tests of the PostgreSQL store have in common.
 *
 * Each test has a database of its own, which does not exist when it begins.
 */
#pragma once

#include <check.h>
#include <libpq-fe.h>

#include "pg_cluster.h"
#include "store/store.h"

#define COLLECTOR "6f1c0f3e-2d0a-4b61-9c0e-0d9a4a1b7c55"
#define OTHER "00000000-0000-4000-8000-000000000001"
#define EPOCH UINT64_C(1700000000000000)
#define BATCH_ROWS 40000 /* some pieces of COPY data */

#define COUNT(a) (int)(sizeof(a) / sizeof((a)[0]))

/* One process runs one test: what it works on may be global. */
extern struct pg_cluster cluster;
extern char database[64];
extern char uri[256]; /* of conf */
extern struct conf conf;
extern int stop_fd;
extern struct store_error err;
extern struct batch_view view;
extern struct store_result result; /* of the last put() */

/* ---- the server, asked directly ---- */

PGconn *admin(const char *db);

/* Runs statements on a connection; the first value of the last one, "" when there is none. */
const char *ask(PGconn *pg, const char *sql);

/* The same in a database, with a format. */
const char *sql_in(const char *db, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* In the test's own database. */
#define SQL(...) sql_in(database, __VA_ARGS__)
#define METRICS SQL("SELECT count(*) FROM metrics")
#define REJECTED SQL("SELECT count(*) FROM metric_collectord.rejected")

/* ---- the store ---- */

/* A database that is made and looked after first, and then a connection for batches. */
struct store *open_store(void);

/* The janitor's connection, after upkeep_setup(). */
struct upkeep *open_upkeep(void);

/* open_store() comes to nothing. */
void assert_not_opened(enum store_status expected, const char *sqlstate);

/* ---- batches ---- */

void new_batch(uint64_t number);
void add(uint64_t time_us, const char *name, double value);

/* Values 0, 1, 2, ...; names come round every hundred. */
void fill_batch(uint64_t number, unsigned rows);

enum store_status put(struct store *s);
void assert_put(struct store *s, uint64_t stored, uint64_t rejected, bool repeated);
void assert_held(struct store *s, const char *sqlstate);

/* ---- the suite ---- */

bool has_timescaledb(void);

/* Cases that run on a cluster of their own. */
TCase *plain_case(Suite *s);
TCase *timescaledb_case(Suite *s);

/* Runs the suite that add_tests() fills, unless there is no server; the program's exit status. */
int run_suite(const char *name, void (*add_tests)(Suite *s));
