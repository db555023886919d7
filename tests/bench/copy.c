/*
 * copy.c - bare COPY from memory, to compare the daemon with.
 *
 *	copy [-n ROWS] [-b ROWS_A_COPY] [-m NAMES] [-t START] [-l] [-s] [-d] [-r] CONNINFO
 *
 * Encodes the same metrics as load.c does and feeds them to COPY metrics (time, metric_name, value)
 * with blocking libpq, one transaction for each ROWS_A_COPY.  The schema must be there.
 *
 *	-l	a ledger row in the same message, as the daemon's batches have
 *	-s	each COPY sorted by (metric_name, time), the sort's time included
 *	-d	straight into TimescaleDB's columnstore
 *	-r	names and times at random, from a seed that is always the same
 *
 * Prints rows, seconds, the part of them that went into sorting, and rows a second.
 */
#include <getopt.h>
#include <libpq-fe.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store/pg/batch/copy.h"
#include "store/pg/batch/sort.h"
#include "wire/frame.h"

#define PIECE ((size_t)256 * 1024)
#define NAME_MAX_LEN 32

struct options {
	unsigned long rows, a_copy, names;
	uint64_t start;
	bool ledger, sorted, direct, random;
};

struct bench {
	struct options o;
	PGconn *pg;
	uint8_t *frames;
	size_t *offsets;
	char *buf;
	struct sort sort;
	double sorting;
};

static double
now(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void
die(PGconn *pg)
{
	(void)fprintf(stderr, "copy: %s", PQerrorMessage(pg));
	exit(EXIT_FAILURE);
}

/* Waits for results up to one of that status; false when they end before. */
static bool
expect(PGconn *pg, ExecStatusType wanted)
{
	PGresult *res;

	while ((res = PQgetResult(pg)) != NULL) {
		ExecStatusType got = PQresultStatus(res);

		PQclear(res);
		if (got == wanted)
			return true;
		if (got != PGRES_COMMAND_OK)
			die(pg);
	}
	return false;
}

static void
begin_walk(struct bench *b, struct copy *c, const uint8_t *frames, size_t len, size_t rows)
{
	double begin = now();
	struct sort_order order;

	if (!b->o.sorted) {
		copy_init(c, frames, len);
		return;
	}
	if (sort_frames(&b->sort, frames, len, rows, &order) < 0) {
		(void)fprintf(stderr, "copy: cannot sort\n");
		exit(EXIT_FAILURE);
	}
	copy_init_order(c, frames, order.rows, order.n);
	b->sorting += now() - begin;
}

static void
copy_batch(struct bench *b, unsigned long first, unsigned long end)
{
	const uint8_t *frames = b->frames + b->offsets[first];
	size_t len = b->offsets[end] - b->offsets[first];
	char ledger[384] = "", sql[512];
	struct copy c;
	size_t n;

	if (b->o.ledger)
		(void)snprintf(ledger, sizeof(ledger),
			       "INSERT INTO metric_collectord.batches (collector, batch, rows,"
			       " bytes, rejected, min_time, max_time) VALUES"
			       " ('00000000-0000-4000-8000-000000000000', %llu, %lu, %zu, 0, now(),"
			       " now());",
			       (unsigned long long)(b->o.start / 1000 + first), end - first, len);
	(void)snprintf(sql, sizeof(sql),
		       "%s%sCOPY metrics (time, metric_name, value) FROM STDIN"
		       " (FORMAT binary)",
		       b->o.direct ? "SET LOCAL timescaledb.enable_direct_compress_copy = on;" : "",
		       ledger);
	begin_walk(b, &c, frames, len, end - first);
	if (PQsendQuery(b->pg, sql) != 1 || !expect(b->pg, PGRES_COPY_IN))
		die(b->pg);
	while ((n = copy_fill(&c, (uint8_t *)b->buf, PIECE)) > 0)
		if (PQputCopyData(b->pg, b->buf, (int)n) != 1)
			die(b->pg);
	if (PQputCopyEnd(b->pg, NULL) != 1)
		die(b->pg);
	(void)expect(b->pg, PGRES_FATAL_ERROR);
}

/* ---- metrics ---- */

static uint64_t
any(uint64_t *rng)
{
	*rng ^= *rng << 13; /* xorshift64, Marsaglia 2003 */
	*rng ^= *rng >> 7;
	*rng ^= *rng << 17;
	return *rng;
}

static void
encode(struct bench *b)
{
	const struct options *o = &b->o;
	uint64_t rng = 88172645463325252U;
	char name[NAME_MAX_LEN];

	b->frames = malloc(o->rows * (FRAME_FIXED + NAME_MAX_LEN));
	b->offsets = calloc(o->rows + 1, sizeof(*b->offsets));
	b->buf = malloc(PIECE);
	if (!b->frames || !b->offsets || !b->buf)
		exit(EXIT_FAILURE);
	for (unsigned long i = 0; i < o->rows; i++) {
		unsigned long which = o->random ? any(&rng) : i;
		uint64_t late = o->random ? any(&rng) % 1000000 : 0;
		int n = snprintf(name, sizeof(name), "bench.metric.%04lu", which % o->names);

		b->offsets[i + 1] =
		    b->offsets[i] + frame_encode(b->frames + b->offsets[i], o->start + i - late,
						 name, (size_t)n, (double)i);
	}
}

static void
parse(int argc, char *argv[], struct options *o)
{
	int opt;

	while ((opt = getopt(argc, argv, "n:b:m:t:lsdr")) != -1) {
		switch (opt) {
		case 'n':
			o->rows = strtoul(optarg, NULL, 10);
			break;
		case 'b':
			o->a_copy = strtoul(optarg, NULL, 10);
			break;
		case 'm':
			o->names = strtoul(optarg, NULL, 10);
			break;
		case 't':
			o->start = strtoull(optarg, NULL, 10);
			break;
		case 'l':
			o->ledger = true;
			break;
		case 's':
			o->sorted = true;
			break;
		case 'd':
			o->direct = true;
			break;
		case 'r':
			o->random = true;
			break;
		default:
			exit(2);
		}
	}
	if (optind + 1 != argc || !o->rows || !o->a_copy || !o->names)
		exit(2);
}

int
main(int argc, char *argv[])
{
	struct bench b = {.o = {.rows = 1000000,
				.a_copy = 100000,
				.names = 200,
				.start = (uint64_t)time(NULL) * 1000000}};
	double begin, seconds;

	parse(argc, argv, &b.o);
	encode(&b);
	sort_init(&b.sort);
	b.pg = PQconnectdb(argv[optind]);
	if (PQstatus(b.pg) != CONNECTION_OK)
		die(b.pg);
	begin = now();
	for (unsigned long i = 0; i < b.o.rows; i += b.o.a_copy)
		copy_batch(&b, i, i + b.o.a_copy < b.o.rows ? i + b.o.a_copy : b.o.rows);
	seconds = now() - begin;
	(void)printf("rows %lu seconds %.3f sorting %.4f rate %.0f\n", b.o.rows, seconds, b.sorting,
		     (double)b.o.rows / seconds);
	PQfinish(b.pg);
	sort_done(&b.sort);
	free(b.frames);
	free(b.offsets);
	free(b.buf);
	return EXIT_SUCCESS;
}
