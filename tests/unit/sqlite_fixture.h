/* sqlite_fixture.h - the embedded store on a file of its own, and batches for it, for the tests. */
#pragma once

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "sqlite_query.h"
#include "store/store.h"
#include "wire/frame.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

#define COLLECTOR "11111111-2222-4333-8444-555555555555"
#define OTHER "99999999-2222-4333-8444-555555555555"
#define SOME_TIME UINT64_C(1769851800123456) /* 2026-01-31T09:30:00.123456Z */

static char scratch[64];
static char path[128];
static struct conf conf;
static int stop_fd;
static struct store *store;
static struct upkeep *upkeep; /* the janitor's; connected while one of the functions below runs */
static struct store_error err;
static struct store_result result;

static inline void
setup(void)
{
	(void)snprintf(scratch, sizeof(scratch), "/tmp/check_sqlite.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(scratch));
	(void)snprintf(path, sizeof(path), "%s/metrics.db", scratch);
	conf = (struct conf){.database = {.store = CONF_STORE_SQLITE,
					  .path = path,
					  .create = true,
					  .migrate = true,
					  .connect_timeout_ms = 20,
					  .ledger_keep_ms = 86400 * 1000},
			     .senders = {.keep_ms = UINT64_C(30) * 86400 * 1000}};
	stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ck_assert_int_ge(stop_fd, 0);
	store = NULL;
	ck_assert_int_eq(upkeep_new(&conf, stop_fd, &upkeep), 0);
}

static inline void
teardown(void)
{
	char command[128];

	store_close(store);
	upkeep_free(upkeep);
	ck_assert_int_eq(close(stop_fd), 0);
	(void)snprintf(command, sizeof(command), "rm -rf %s", scratch);
	ck_assert_int_eq(system(command), 0);
}

/* As the janitor does it first. */
static inline enum store_status
set_up(struct upkeep *u, struct store_error *e)
{
	enum store_status status = upkeep_connect(u, e);

	if (status == STORE_OK)
		status = upkeep_setup(u, e);
	upkeep_disconnect(u);
	return status;
}

static inline enum store_status
open_store(void)
{
	enum store_status status = set_up(upkeep, &err);

	return status == STORE_OK ? store_open(&conf, stop_fd, &store, &err) : status;
}

static inline enum store_status
maintain(const char *collector, uint64_t floor)
{
	enum store_status status = upkeep_connect(upkeep, &err);

	if (status == STORE_OK)
		status = upkeep_maintain(upkeep, collector, floor, &err);
	upkeep_disconnect(upkeep);
	return status;
}

static inline enum store_status
missing(const char *collector, uint64_t *numbers, size_t *n)
{
	enum store_status status = upkeep_connect(upkeep, &err);

	if (status == STORE_OK)
		status = upkeep_missing(upkeep, collector, numbers, n, &err);
	upkeep_disconnect(upkeep);
	return status;
}

static inline void
must_open(void)
{
	ck_assert_msg(open_store() == STORE_OK, "%s", err.text);
}

static inline void
reopen(void)
{
	store_close(store);
	store = NULL;
	must_open();
}

static inline void
stop(void)
{
	ck_assert_int_eq(eventfd_write(stop_fd, 1), 0);
}

/* ---- batches ---- */

struct sample {
	uint64_t time_us;
	const char *name;
	double value;
};

/* The frames are the caller's to free. */
static uint64_t opened_us = SOME_TIME; /* of the next batch */

static inline struct batch_view
view_of(uint64_t number, const struct sample *samples, size_t n)
{
	struct batch_view b = {
	    .collector = COLLECTOR, .number = number, .opened_us = opened_us, .min_us = UINT64_MAX};
	uint8_t *p = malloc(n * FRAME_MAX);

	b.data = p;
	for (size_t i = 0; i < n; i++) {
		const struct sample *s = &samples[i];

		b.bytes +=
		    frame_encode(p + b.bytes, s->time_us, s->name, strlen(s->name), s->value);
		b.rows++;
		b.min_us = s->time_us < b.min_us ? s->time_us : b.min_us;
		b.max_us = s->time_us > b.max_us ? s->time_us : b.max_us;
	}
	return b;
}

static inline enum store_status
put(uint64_t number, const struct sample *samples, size_t n)
{
	struct batch_view b = view_of(number, samples, n);
	enum store_status status;

	memset(&result, 0, sizeof(result));
	status = store_put(store, &b, &result, &err);
	free((void *)(uintptr_t)b.data);
	return status;
}

/* n samples of the same name, a microsecond apart. */
static inline enum store_status
put_many(uint64_t number, size_t n)
{
	struct sample *samples = calloc(n, sizeof(*samples));
	enum store_status status;

	for (size_t i = 0; i < n; i++)
		samples[i] = (struct sample){SOME_TIME + i, "m", (double)i};
	status = put(number, samples, n);
	free(samples);
	return status;
}

static const struct sample three[] = {
    {SOME_TIME, "cpu", 1.5},
    {SOME_TIME - 1000000, "temp\xC3\xA9rature", -273.15},
    {SOME_TIME + 1, "cpu", 0.1},
};

#define COUNT_METRICS "SELECT count(*) FROM metrics"
