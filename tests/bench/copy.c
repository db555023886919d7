/*
 * copy.c - bare COPY from memory, to compare the daemon with.
 *
 *	copy [-n ROWS] [-b ROWS_A_COPY] [-m NAMES] [-l] [-t START] CONNINFO
 *
 * Encodes the same metrics as load.c does and feeds them to COPY metrics (time, metric_name, value)
 *with blocking libpq, one transaction for each ROWS_A_COPY; with -l each has a ledger row in the
 *same message, as the daemon's have.  Prints seconds and rows a second.  The schema must be there.
 */
#include <getopt.h>
#include <libpq-fe.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store/copy.h"
#include "wire/frame.h"

#define PIECE ((size_t)256 * 1024)

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
copy_batch(PGconn *pg, const uint8_t *frames, size_t len, unsigned long number, unsigned long rows,
	   bool ledger, char *buf)
{
	char sql[512];
	struct copy c;
	size_t n;

	(void)snprintf(
	    sql, sizeof(sql),
	    "INSERT INTO metric_collectord.batches (collector, batch, rows, bytes, rejected,"
	    " min_time, max_time) VALUES ('00000000-0000-4000-8000-000000000000', %lu, %lu,"
	    " %zu, 0, now(), now());",
	    number, rows, len);
	(void)snprintf(sql + (ledger ? strlen(sql) : 0), sizeof(sql) - (ledger ? strlen(sql) : 0),
		       "COPY metrics (time, metric_name, value) FROM STDIN (FORMAT binary)");
	if (PQsendQuery(pg, sql) != 1 || !expect(pg, PGRES_COPY_IN))
		die(pg);
	copy_init(&c, frames, len);
	while ((n = copy_fill(&c, (uint8_t *)buf, PIECE)) > 0)
		if (PQputCopyData(pg, buf, (int)n) != 1)
			die(pg);
	if (PQputCopyEnd(pg, NULL) != 1)
		die(pg);
	(void)expect(pg, PGRES_FATAL_ERROR);
}

int
main(int argc, char *argv[])
{
	unsigned long rows = 1000000, a_copy = 100000, names = 200;
	uint64_t start = (uint64_t)time(NULL) * 1000000;
	bool ledger = false;
	uint8_t *frames;
	size_t *offsets;
	char *buf;
	PGconn *pg;
	double begin;
	int opt;

	while ((opt = getopt(argc, argv, "n:b:m:lt:")) != -1) {
		switch (opt) {
		case 'n':
			rows = strtoul(optarg, NULL, 10);
			break;
		case 'b':
			a_copy = strtoul(optarg, NULL, 10);
			break;
		case 'm':
			names = strtoul(optarg, NULL, 10);
			break;
		case 'l':
			ledger = true;
			break;
		case 't':
			start = strtoull(optarg, NULL, 10);
			break;
		default:
			return 2;
		}
	}
	if (optind + 1 != argc || !rows || !a_copy || !names)
		return 2;
	frames = malloc(rows * (FRAME_FIXED + 32));
	offsets = calloc(rows + 1, sizeof(*offsets));
	buf = malloc(PIECE);
	if (!frames || !offsets || !buf)
		return EXIT_FAILURE;
	for (unsigned long i = 0; i < rows; i++) {
		char name[32];
		int n = snprintf(name, sizeof(name), "bench.metric.%04lu", i % names);

		offsets[i + 1] = offsets[i] + frame_encode(frames + offsets[i], start + i, name,
							   (size_t)n, (double)i);
	}
	pg = PQconnectdb(argv[optind]);
	if (PQstatus(pg) != CONNECTION_OK)
		die(pg);
	begin = now();
	for (unsigned long i = 0; i < rows; i += a_copy) {
		unsigned long end = i + a_copy < rows ? i + a_copy : rows;

		copy_batch(pg, frames + offsets[i], offsets[end] - offsets[i], start / 1000 + i,
			   end - i, ledger, buf);
	}
	(void)printf("rows %lu seconds %.3f rate %.0f\n", rows, now() - begin,
		     (double)rows / (now() - begin));
	PQfinish(pg);
	free(frames);
	free(offsets);
	free(buf);
	return EXIT_SUCCESS;
}
