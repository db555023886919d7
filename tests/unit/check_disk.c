/* check_disk.c - the disk thread: order, sharing, refusals, and calls that hang. */
#include <sys/resource.h>

#include "base/clock.h"
#include "buffer/spool/disk.h"
#include "spool_disk.h"

#define HOUR_MS 3600000

static struct spool *spool;
static struct disk *thread;
static atomic_uint news;

static void
on_news(void *arg)
{
	(void)arg;
	atomic_fetch_add(&news, 1);
}

static void
start(enum conf_sync sync)
{
	spool = spool_must_open(sync);
	disk_attach(spool);
	ck_assert_int_eq(disk_start(spool, sync, on_news, NULL, &thread), 0);
}

static void
stop(void)
{
	ck_assert(disk_stop(thread, HOUR_MS));
	disk_free(thread);
	spool_free(spool);
}

static struct disk_progress
progress(void)
{
	struct disk_progress p;

	disk_progress(thread, &p);
	return p;
}

/* Nothing is left to be done but what was refused. */
static struct disk_progress
await_idle(void)
{
	struct disk_progress p = progress();

	while (p.call || (p.jobs && !p.error) || p.removing) {
		(void)usleep(100);
		p = progress();
	}
	return p;
}

static void
await_synced(uint64_t position)
{
	while (progress().synced < position)
		(void)usleep(100);
}

/* A batch's memory, as the queue has it, and what was handed over of it. */
struct source {
	struct slab *slab;
	struct disk_file *file;
	uint64_t number;
	size_t len;
	unsigned rows;
};

static struct source
new_source(void)
{
	struct source s = {.slab = slab_new(1 << 20), .number = disk_number(thread)};

	s.file = disk_create(thread, s.number, 1);
	return s;
}

/* Hands over so many metrics more; returns what disk_append() does. */
static int
feed(struct source *s, uint32_t rows)
{
	struct sample sample;
	struct batch_part part;
	size_t at = s->len;

	sample_fill(&sample, s->rows, rows);
	memcpy(s->slab->data + at, sample.frames, sample.len);
	s->len += sample.len;
	s->rows += rows;
	part = (struct batch_part){rows, sample.min_us, sample.max_us};
	return disk_append(s->file, s->slab, at, sample.len, &part);
}

static void
end_source(struct source *s)
{
	disk_release(s->file);
	slab_unref(s->slab);
}

static uint32_t
blocks_of(uint64_t number)
{
	struct spool_header h;
	char name[SPOOL_NAME_MAX];
	uint64_t size;

	spool_name(name, number);
	ck_assert_int_eq(io_get_header(spool, name, number, &h, &size), 0);
	ck_assert(h.sealed);
	return h.summary.blocks;
}

START_TEST(what_is_handed_over_is_in_the_file)
{
	struct source s;

	start((enum conf_sync)_i);
	s = new_source();
	ck_assert_int_eq(feed(&s, 10), 1);
	for (unsigned i = 0; i < 50; i++)
		ck_assert_int_ge(feed(&s, 20), 0);
	ck_assert_int_eq(disk_seal(s.file), 0);
	disk_sync(thread);
	await_synced(s.len);
	while (progress().sealed < 1)
		(void)usleep(100);
	ck_assert_uint_eq(progress().written, s.len);
	ck_assert_uint_eq(progress().unsafe, 0);
	assert_holds(spool, s.number, 0, 1010);
	end_source(&s);
	stop();
}
END_TEST

/* ---- a call that hangs ---- */

/* Nobody waits but who waits for the disk; what was handed over meanwhile shares a block and a
 * sync. */
START_TEST(nobody_waits_for_a_disk_that_hangs)
{
	struct source s, other;
	uint64_t first;

	start(CONF_SYNC_ALWAYS);
	s = new_source();
	(void)feed(&s, 1);
	disk_set(0, true);
	disk_sync(thread);
	disk_await_caller();
	first = s.len;
	ck_assert_int_eq(feed(&s, 1), 1);
	for (unsigned i = 0; i < 99; i++) {
		ck_assert_int_eq(feed(&s, 1), 0);
		disk_sync(thread);
	}
	ck_assert_int_eq(disk_seal(s.file), 0);
	other = new_source();
	ck_assert_int_eq(feed(&other, 1), 1);
	disk_sync(thread);
	disk_remove(thread, NULL, 12345, 0);
	disk_set_limits(thread, 1, 1);
	disk_repair(thread, 12345, false);
	ck_assert_uint_eq(progress().written, first);
	ck_assert_uint_lt(progress().synced, first);
	ck_assert_uint_eq(progress().unsafe, 101);
	ck_assert_str_eq(progress().call, "sync");
	ck_assert(!disk_stop(thread, 0));
	disk_set(0, false);
	ck_assert(disk_stop(thread, HOUR_MS));
	ck_assert_uint_eq(progress().written, s.len + other.len);
	(void)pthread_mutex_lock(&disk.mutex);
	/* the first file's when it was released, then at the end that one's and the other's */
	ck_assert_uint_le(disk.files, 5);
	(void)pthread_mutex_unlock(&disk.mutex);
	ck_assert_uint_eq(blocks_of(s.number), 2);
	end_source(&s);
	end_source(&other);
	disk_free(thread);
	spool_free(spool);
}
END_TEST

START_TEST(a_long_call_is_seen)
{
	struct source s;

	start(CONF_SYNC_ALWAYS);
	s = new_source();
	(void)feed(&s, 1);
	disk_set(0, true);
	disk_sync(thread);
	disk_await_caller();
	while (progress().call_ms < 20)
		(void)usleep(1000);
	disk_set(0, false);
	ck_assert_ptr_null(await_idle().call);
	end_source(&s);
	stop();
}
END_TEST

/* ---- refusals ---- */

/* Something stands where the file is to be. */
static void
stand_in_the_way(uint64_t number, bool there)
{
	if (there)
		ck_assert_int_eq(mkdir(batch_path(number), 0700), 0);
	else
		ck_assert_int_eq(rmdir(batch_path(number)), 0);
}

START_TEST(a_write_that_is_refused_stays_the_first)
{
	struct source a, b;
	uint64_t stored;

	start(CONF_SYNC_NEVER);
	a = new_source();
	(void)feed(&a, 10);
	ck_assert_int_eq(disk_seal(a.file), 0);
	(void)await_idle();
	stored = a.number;
	disk_release(a.file);
	a = (struct source){.slab = a.slab, .number = disk_number(thread)};
	a.file = disk_create(thread, a.number, 1);
	stand_in_the_way(a.number, true);
	(void)feed(&a, 3);
	ck_assert_int_eq(disk_seal(a.file), 0);
	b = new_source();
	(void)feed(&b, 4);
	ck_assert_int_eq(disk_seal(b.file), 0);
	while (!progress().error)
		(void)usleep(100);
	ck_assert_int_eq(progress().error, -EEXIST);
	ck_assert_uint_eq(progress().unsafe, 7);
	ck_assert(!exists(batch_path(b.number))); /* it does not overtake */
	disk_remove(thread, NULL, stored, 0);     /* this one does: it may be what makes room */
	(void)await_idle();
	ck_assert(!exists(batch_path(stored)));
	stand_in_the_way(a.number, false);
	while (progress().sealed < 3)
		(void)usleep(100);
	ck_assert_int_eq(progress().error, 0);
	assert_holds(spool, a.number, 0, 3);
	assert_holds(spool, b.number, 0, 4);
	end_source(&a);
	end_source(&b);
	stop();
}
END_TEST

START_TEST(a_stop_does_not_wait_for_a_disk_that_refuses)
{
	struct source a;

	start(CONF_SYNC_NEVER);
	a = new_source();
	stand_in_the_way(a.number, true);
	(void)feed(&a, 3);
	ck_assert(disk_stop(thread, HOUR_MS));
	ck_assert_uint_eq(progress().unsafe, 3);
	end_source(&a);
	disk_free(thread);
	spool_free(spool);
}
END_TEST

/* ---- the end of a batch ---- */

/* Stored from memory before the disk had it: no file appears afterwards, and nothing is unsafe. */
START_TEST(what_a_removed_batch_had_to_write_is_left_out)
{
	struct source a, b;

	start(CONF_SYNC_ALWAYS);
	b = new_source();
	(void)feed(&b, 1);
	disk_set(0, true);
	disk_sync(thread);
	disk_await_caller();
	a = new_source();
	(void)feed(&a, 5);
	ck_assert_int_eq(disk_seal(a.file), 0);
	ck_assert_uint_eq(progress().unsafe, 5);
	ck_assert(slab_is_shared(a.slab));
	disk_remove(thread, a.file, a.number, 100);
	a.file = NULL;
	ck_assert(!slab_is_shared(a.slab)); /* however long the disk hangs */
	ck_assert_uint_eq(progress().removing_bytes, 100);
	ck_assert_uint_eq(progress().unsafe, 0);
	ck_assert_uint_eq(disk_floor(thread), a.number);
	disk_set(0, false);
	(void)await_idle();
	ck_assert_uint_eq(progress().written, a.len + b.len);
	ck_assert_uint_eq(progress().sealed, 1);
	ck_assert_uint_eq(progress().removing_bytes, 0);
	ck_assert_uint_eq(disk_floor(thread), UINT64_MAX);
	ck_assert(!exists(batch_path(a.number)));
	ck_assert(exists(batch_path(b.number)));
	end_source(&a);
	end_source(&b);
	stop();
}
END_TEST

/* A power cut would bring the file back: its ledger row must be there.  _i: it is kept instead. */
START_TEST(the_floor_waits_until_a_removal_lasts)
{
	struct source s;

	start(CONF_SYNC_INTERVAL);
	s = new_source();
	ck_assert_int_eq(feed(&s, 10), 1);
	ck_assert_int_eq(disk_seal(s.file), 0);
	disk_sync(thread);
	await_synced(s.len);
	disk_release(s.file);
	s.file = NULL;
	while (progress().sealed < 1)
		(void)usleep(100);
	ck_assert_uint_eq(disk_floor(thread), UINT64_MAX);
	disk_set(0, true);
	if (_i)
		disk_keep(thread, s.number, 100);
	else
		disk_remove(thread, NULL, s.number, 100);
	(void)await_idle();
	ck_assert(!exists(batch_path(s.number)));
	ck_assert_uint_eq(disk_floor(thread), s.number); /* has it synced */
	disk_await_caller();
	ck_assert_uint_eq(disk_floor(thread), s.number);
	disk_set(0, false);
	while (disk_floor(thread) != UINT64_MAX)
		(void)usleep(100);
	end_source(&s);
	stop();
}
END_TEST

/* _i: it is sealed in between. */
START_TEST(a_batch_may_be_removed_while_it_is_written)
{
	struct source a;

	start(CONF_SYNC_INTERVAL);
	a = new_source();
	(void)feed(&a, 5);
	(void)await_idle();
	ck_assert(exists(batch_path(a.number)));
	if (_i)
		ck_assert_int_eq(disk_seal(a.file), 0);
	disk_remove(thread, a.file, a.number, 0);
	a.file = NULL;
	(void)await_idle();
	ck_assert(!exists(batch_path(a.number)));
	ck_assert_uint_eq(spool_bytes(spool), 0);
	end_source(&a);
	stop();
}
END_TEST

/* ---- kept batches ---- */

#define MANY 3000

static uint64_t
keep_one(void)
{
	struct source a = new_source();

	(void)feed(&a, 1);
	ck_assert_int_eq(disk_seal(a.file), 0);
	(void)await_idle();
	disk_keep(thread, a.number, 0);
	end_source(&a);
	return a.number;
}

static uint64_t many[MANY];

/* Keeps so many, and takes them back. */
static void
take_all_back(void)
{
	struct spool_header *headers, out[64];
	size_t n, got = 0;

	for (unsigned i = 0; i < MANY; i++)
		many[i] = keep_one();
	(void)await_idle();
	headers = spool_kept_take(spool, many, MANY, &n);
	ck_assert_uint_eq(n, MANY);
	ck_assert_int_eq(disk_unkeep(thread, headers, n), 0);
	while (got < MANY) {
		n = disk_take_unkept(thread, out, 64);
		ck_assert_uint_gt(n, 0);
		for (size_t i = 0; i < n; i++, got++)
			ck_assert_uint_eq(out[i].number, many[got]);
	}
	ck_assert_uint_eq(disk_take_unkept(thread, out, 64), 0);
}

static bool
is_there(uint64_t number, const char *suffix)
{
	char name[SPOOL_NAME_MAX], path[sizeof(dir) + SPOOL_NAME_MAX + 1];

	spool_name_as(name, number, suffix);
	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	return exists(path);
}

/* At once, and their files get their names back meanwhile; some end before that, newest first. */
START_TEST(kept_batches_come_back)
{
	start(CONF_SYNC_NEVER);
	take_all_back();
	for (unsigned i = MANY; i-- > 0;) {
		struct spool_summary sum;
		uint8_t *data;
		bool damaged;

		ck_assert_int_eq(spool_read(spool, many[i], &data, &sum, &damaged), 0);
		ck_assert_uint_eq(sum.rows, 1);
		free(data);
		if (i % 3 == 1)
			disk_remove(thread, NULL, many[i], 0);
		else if (i % 3 == 2)
			disk_keep(thread, many[i], 0);
	}
	while (progress().unkeeping || progress().removing)
		(void)usleep(100);
	for (unsigned i = 0; i < MANY; i++) {
		ck_assert_int_eq(is_there(many[i], ".batch"), i % 3 == 0);
		ck_assert_int_eq(is_there(many[i], ".stored"), i % 3 == 2);
	}
	ck_assert_uint_eq(count_kept(spool, NULL, NULL), MANY / 3);
	stop();
}
END_TEST

START_TEST(a_stop_gives_all_names_back)
{
	start(CONF_SYNC_NEVER);
	take_all_back();
	stop();
	for (unsigned i = 0; i < MANY; i++)
		ck_assert(is_there(many[i], ".batch"));
}
END_TEST

/* Those of a process before may have been about to be stored again. */
START_TEST(old_kept_batches_stay_until_they_are_compared)
{
	start(CONF_SYNC_NEVER);
	(void)keep_one();
	(void)await_idle();
	(void)usleep(2000);
	disk_set_limits(thread, 1, UINT64_MAX);
	for (unsigned i = 0; i < 2; i++) { /* it has gone round at least once */
		(void)keep_one();
		(void)await_idle();
	}
	ck_assert_uint_eq(count_kept(spool, NULL, NULL), 3);
	disk_may_prune(thread);
	disk_set_limits(thread, 1, UINT64_MAX);
	while (spool_bytes(spool))
		(void)usleep(100);
	stop();
}
END_TEST

START_TEST(kept_batches_go_by_themselves)
{
	uint64_t each;

	start(CONF_SYNC_NEVER);
	for (unsigned i = 0; i < 10; i++)
		(void)keep_one();
	(void)await_idle();
	each = spool_bytes(spool) / 10;
	ck_assert_uint_eq(spool_kept_bytes(spool), 10 * each);
	disk_set_limits(thread, HOUR_MS, 4 * each);
	while (spool_bytes(spool) > 4 * each)
		(void)usleep(100);
	ck_assert_uint_eq(count_kept(spool, NULL, NULL), 4);
	disk_set_limits(thread, 0, UINT64_MAX);
	while (spool_bytes(spool))
		(void)usleep(100);
	ck_assert_uint_eq(bytes_on_disk(), 0);
	stop();
}
END_TEST

/* ---- the rest ---- */

START_TEST(numbers_are_reserved_ahead)
{
	uint64_t last = 0;

	start(CONF_SYNC_NEVER);
	for (unsigned i = 0; i < 3 * SPOOL_NUMBERS; i++) {
		uint64_t number = disk_number(thread);

		while (!number) { /* the loop would tell its clients to wait */
			(void)usleep(100);
			number = disk_number(thread);
		}
		ck_assert_uint_gt(number, last);
		last = number;
	}
	stop();
}
END_TEST

START_TEST(a_stop_syncs_what_nobody_asked_for)
{
	struct source a;

	start(CONF_SYNC_INTERVAL);
	a = new_source();
	(void)feed(&a, 1);
	ck_assert_int_eq(disk_seal(a.file), 0);
	ck_assert(disk_stop(thread, HOUR_MS));
	ck_assert_uint_eq(disk.files, 1);
	ck_assert_uint_eq(disk.all, 2); /* and the directory */
	end_source(&a);
	disk_free(thread);
	spool_free(spool);
}
END_TEST

START_TEST(nobody_is_told_after_the_end)
{
	struct source a;
	unsigned before;

	start(CONF_SYNC_ALWAYS);
	a = new_source();
	(void)feed(&a, 1);
	ck_assert_int_eq(disk_seal(a.file), 0);
	disk_sync(thread);
	await_synced(a.len);
	ck_assert(disk_stop(thread, HOUR_MS));
	before = atomic_load(&news);
	ck_assert_uint_gt(before, 0);
	(void)feed(&a, 1);
	disk_sync(thread);
	end_source(&a);
	disk_free(thread);
	ck_assert_uint_eq(atomic_load(&news), before);
	spool_free(spool);
}
END_TEST

/* ---- all at once ---- */

#define CROWD 60

static uint64_t crowd[CROWD];
static atomic_uint sealed, taken;

/* A writer: reads batches back while others are written, synced and removed. */
static void *
reader(void *arg)
{
	unsigned i;

	(void)arg;
	while ((i = atomic_fetch_add(&taken, 1)) < CROWD) {
		struct spool_summary sum;
		uint8_t *data;
		bool damaged;

		while (atomic_load(&sealed) <= i)
			(void)usleep(100);
		MUST(spool_read(spool, crowd[i], &data, &sum, &damaged) == 0);
		MUST(sum.rows == 200 && !damaged);
		free(data);
	}
	return NULL;
}

/* _i: the disk fails in between. */
START_TEST(loop_disk_thread_and_writers_get_along)
{
	pthread_t threads[2];
	uint64_t position = 0;

	start(CONF_SYNC_ALWAYS);
	disk.fail_each = (unsigned)_i * 5;
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, reader, NULL), 0);
	for (unsigned b = 0; b < CROWD; b++) {
		struct source s = new_source();

		for (unsigned i = 0; i < 20; i++) {
			ck_assert_int_ge(feed(&s, 10), 0);
			disk_sync(thread);
		}
		position += s.len;
		crowd[b] = s.number;
		ck_assert_int_eq(disk_seal(s.file), 0);
		while (progress().sealed < b + 1)
			(void)usleep(100);
		end_source(&s);
		atomic_fetch_add(&sealed, 1);
	}
	for (int i = 0; i < 2; i++)
		(void)pthread_join(threads[i], NULL);
	await_synced(position);
	for (unsigned b = 0; b < CROWD; b++)
		if (b % 3 == 1)
			disk_remove(thread, NULL, crowd[b], 0);
		else if (b % 3)
			disk_keep(thread, crowd[b], 0);
	(void)await_idle();
	ck_assert_uint_eq(count_kept(spool, NULL, NULL), CROWD / 3);
	ck_assert_uint_eq(spool_bytes(spool), bytes_on_disk());
	ck_assert_uint_eq(count_names(dir), OWN_NAMES + 2 * CROWD / 3);
	stop();
}
END_TEST

static Suite *
suite(void)
{
	Suite *s = suite_create("disk");
	TCase *tc = tcase_create("all");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, dir_make, dir_clear);
	tcase_add_loop_test(tc, what_is_handed_over_is_in_the_file, 0, 3);
	tcase_add_test(tc, nobody_waits_for_a_disk_that_hangs);
	tcase_add_test(tc, a_long_call_is_seen);
	tcase_add_test(tc, a_write_that_is_refused_stays_the_first);
	tcase_add_test(tc, a_stop_does_not_wait_for_a_disk_that_refuses);
	tcase_add_test(tc, what_a_removed_batch_had_to_write_is_left_out);
	tcase_add_loop_test(tc, the_floor_waits_until_a_removal_lasts, 0, 2);
	tcase_add_loop_test(tc, a_batch_may_be_removed_while_it_is_written, 0, 2);
	tcase_add_test(tc, kept_batches_come_back);
	tcase_add_test(tc, a_stop_gives_all_names_back);
	tcase_add_test(tc, old_kept_batches_stay_until_they_are_compared);
	tcase_add_test(tc, kept_batches_go_by_themselves);
	tcase_add_test(tc, numbers_are_reserved_ahead);
	tcase_add_test(tc, a_stop_syncs_what_nobody_asked_for);
	tcase_add_test(tc, nobody_is_told_after_the_end);
	tcase_add_loop_test(tc, loop_disk_thread_and_writers_get_along, 0, 3);
	suite_add_tcase(s, tc);
	return s;
}

int
main(void)
{
	SRunner *sr = srunner_create(suite());
	int failed;

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
