/* Writing, syncing and the end of a batch's file; check_spool.c has the directory and recovery. */
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

#include "buffer/spool_internal.h"
#include "spool_dir.h"

/* For other threads than the test's own: Check's assertions are not theirs to use. */
#define MUST(condition)           \
	do {                      \
		if (!(condition)) \
			abort();  \
	} while (0)

/* ---- waiting for tickets ---- */

struct waiter {
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	unsigned calls;
};

static struct waiter waiter = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};

static void
synced(void *arg)
{
	struct waiter *w = arg;

	(void)pthread_mutex_lock(&w->mutex);
	w->calls++;
	(void)pthread_cond_broadcast(&w->cond);
	(void)pthread_mutex_unlock(&w->mutex);
}

static struct spool *
open_waiting(enum conf_sync sync)
{
	struct spool *s = spool_must_open(sync);

	spool_on_synced(s, synced, &waiter);
	return s;
}

static void
await_ticket(struct spool *s, uint64_t ticket)
{
	(void)pthread_mutex_lock(&waiter.mutex);
	while (spool_synced(s, NULL) < ticket)
		(void)pthread_cond_wait(&waiter.cond, &waiter.mutex);
	(void)pthread_mutex_unlock(&waiter.mutex);
}

static void
await_error(struct spool *s, int error)
{
	int now = 0;

	(void)pthread_mutex_lock(&waiter.mutex);
	while ((void)spool_synced(s, &now), now != error)
		(void)pthread_cond_wait(&waiter.cond, &waiter.mutex);
	(void)pthread_mutex_unlock(&waiter.mutex);
}

static void
sync_now(struct spool *s)
{
	await_ticket(s, spool_sync(s));
}

/* ---- a disk that can be made to fail, or to wait ---- */

struct disk {
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	bool held;          /* calls wait */
	bool waiting;       /* one does */
	unsigned files;     /* calls for files */
	unsigned all;       /* calls */
	unsigned fail_next; /* so many calls for files fail */
	unsigned fail_each; /* and each so-manieth does */
};

static int
disk_hook(void *arg, int fd)
{
	struct disk *d = arg;
	struct stat st;
	int r = 0;

	MUST(fstat(fd, &st) == 0);
	(void)pthread_mutex_lock(&d->mutex);
	d->waiting = true;
	(void)pthread_cond_broadcast(&d->cond);
	while (d->held)
		(void)pthread_cond_wait(&d->cond, &d->mutex);
	d->waiting = false;
	d->all++;
	if (S_ISREG(st.st_mode)) {
		d->files++;
		if (d->fail_next) {
			d->fail_next--;
			r = -EIO;
		} else if (d->fail_each && d->files % d->fail_each == 0) {
			r = -EIO;
		}
	}
	(void)pthread_mutex_unlock(&d->mutex);
	return r;
}

static struct disk disk = {.mutex = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

static void
disk_attach(struct spool *s)
{
	disk.files = disk.all = disk.fail_next = disk.fail_each = 0;
	s->hook_arg = &disk;
	s->hook = disk_hook;
}

static void
disk_set(unsigned fail_next, bool held)
{
	(void)pthread_mutex_lock(&disk.mutex);
	disk.fail_next = fail_next;
	disk.held = held;
	disk.files = disk.all = 0;
	(void)pthread_cond_broadcast(&disk.cond);
	(void)pthread_mutex_unlock(&disk.mutex);
}

static void
disk_await_caller(void)
{
	(void)pthread_mutex_lock(&disk.mutex);
	while (!disk.waiting)
		(void)pthread_cond_wait(&disk.cond, &disk.mutex);
	(void)pthread_mutex_unlock(&disk.mutex);
}

static unsigned
open_descriptors(void)
{
	return count_names("/proc/self/fd");
}

/* ---- writing ---- */

START_TEST(what_is_written_is_read_back)
{
	struct spool *s = open_waiting((enum conf_sync)_i);
	uint64_t number = spool_number(s);
	struct spool_file *f = must_create(s, number);
	uint64_t ticket = 0;

	ck_assert_uint_eq(spool_bytes(s), SPOOL_FILE_HEADER);
	for (unsigned i = 0; i < 50; i++) {
		ck_assert_int_eq(append(f, i * 20, 20), 0);
		ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
		if (i % 10 == 0)
			ticket = spool_sync(s);
	}
	ck_assert_int_eq(spool_seal(f), 0);
	assert_holds(s, number, 0, 1000);
	await_ticket(s, ticket);
	sync_now(s);
	assert_holds(s, number, 0, 1000);
	ck_assert_int_eq(spool_remove(s, number, false), 0);
	ck_assert_uint_eq(spool_bytes(s), 0);
	ck_assert_uint_eq(bytes_on_disk(), 0);
	spool_free(s);
}
END_TEST

START_TEST(numbers_are_given_while_the_reserve_lasts)
{
	struct spool *s = open_waiting(CONF_SYNC_NEVER);
	uint64_t last = 0;

	disk_attach(s);
	for (unsigned i = 0; i < 3 * SPOOL_NUMBERS; i++) {
		uint64_t number = spool_number(s);

		ck_assert_uint_gt(number, last);
		last = number;
		if (i % (SPOOL_NUMBERS / 4) == 0)
			sync_now(s); /* the syncer has renewed the reserve by then */
	}
	disk_set(UINT32_MAX, false);
	for (unsigned i = 0; i <= SPOOL_NUMBERS; i++) {
		uint64_t number = spool_number(s);

		if (number == 0)
			break;
		ck_assert_uint_gt(number, last);
		last = number;
	}
	ck_assert_uint_eq(spool_number(s), 0);
	disk_set(0, false);
	spool_free(s);
	s = open_waiting(CONF_SYNC_NEVER);
	ck_assert_uint_gt(spool_number(s), last);
	spool_free(s);
}
END_TEST

/* No assertions under a limit: Check writes each into a file of its own. */
static void
limit_file_size(rlim_t bytes)
{
	struct rlimit limit;

	(void)signal(SIGXFSZ, SIG_IGN);
	MUST(getrlimit(RLIMIT_FSIZE, &limit) == 0);
	limit.rlim_cur = bytes;
	MUST(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

static int
append_limited(struct spool_file *f, rlim_t bytes, unsigned first, uint32_t rows)
{
	int r;

	limit_file_size(bytes);
	r = append(f, first, rows);
	limit_file_size(RLIM_INFINITY);
	return r;
}

START_TEST(an_append_that_fails_changes_nothing)
{
	struct spool *s = open_waiting(CONF_SYNC_INTERVAL);
	uint64_t number = spool_number(s), bytes;
	struct spool_file *f = must_create(s, number), *none;
	int crash = _i, r;

	ck_assert_int_eq(append(f, 0, 10), 0);
	bytes = spool_bytes(s);
	for (rlim_t room = 0; room < 300; room += 7) { /* room for a part of the block */
		ck_assert_int_eq(append_limited(f, bytes + room, 1000, 20), -EFBIG);
		ck_assert_uint_eq(spool_bytes(s), bytes);
	}
	limit_file_size(SPOOL_FILE_HEADER - 1);
	r = spool_create(s, spool_number(s), &none);
	limit_file_size(RLIM_INFINITY);
	ck_assert_int_eq(r, -EFBIG);
	ck_assert_uint_eq(bytes_on_disk(), bytes); /* no empty file is left */
	if (crash) {
		spool_file_free(f);
	} else {
		ck_assert_int_eq(append(f, 10, 1), 0);
		ck_assert_int_eq(spool_seal(f), 0);
		assert_holds(s, number, 0, 11);
	}
	spool_free(s);
	s = open_waiting(CONF_SYNC_INTERVAL);
	ck_assert_uint_eq(must_recover(s).n, 1);
	assert_holds(s, number, 0, crash ? 10 : 11);
	ck_assert(!exists(path_of("corrupt")));
	spool_free(s);
}
END_TEST

START_TEST(blocks_beyond_the_format_are_refused)
{
	struct spool *s = open_waiting(CONF_SYNC_NEVER);
	struct spool_file *f = must_create(s, spool_number(s));
	uint8_t byte = 0;

	ck_assert_int_eq(spool_append(f, &byte, SPOOL_BLOCK_MAX + 1, 1, 0, 0), -EMSGSIZE);
	ck_assert_uint_eq(spool_bytes(s), SPOOL_FILE_HEADER);
	spool_file_free(f);
	spool_file_free(NULL);
	spool_free(s);
}
END_TEST

/* ---- syncing ---- */

START_TEST(tickets_share_a_sync)
{
	struct spool *s = open_waiting(CONF_SYNC_ALWAYS);
	struct spool_file *f = must_create(s, spool_number(s));
	uint64_t ticket;

	disk_attach(s);
	ck_assert_int_eq(append(f, 0, 1), 0);
	disk_set(0, true);
	ticket = spool_sync(s);
	disk_await_caller();
	ck_assert_uint_lt(spool_synced(s, NULL), ticket);
	for (unsigned i = 1; i <= 100; i++) {
		uint64_t next;

		ck_assert_int_eq(append(f, i, 1), 0);
		next = spool_sync(s);
		ck_assert_uint_gt(next, ticket);
		ticket = next;
	}
	disk_set(0, false);
	await_ticket(s, ticket);
	(void)pthread_mutex_lock(&disk.mutex);
	ck_assert_uint_eq(disk.files, 2); /* the one under way, and one for the hundred */
	(void)pthread_mutex_unlock(&disk.mutex);
	ck_assert_int_eq(spool_seal(f), 0);
	spool_free(s);
}
END_TEST

START_TEST(the_directory_is_synced_for_a_new_file)
{
	struct spool *s = open_waiting(CONF_SYNC_ALWAYS);
	struct spool_file *f = must_create(s, spool_number(s));

	disk_attach(s);
	sync_now(s);
	ck_assert_uint_eq(disk.files, 1);
	ck_assert_uint_eq(disk.all, 2);
	ck_assert_int_eq(append(f, 0, 1), 0);
	sync_now(s);
	ck_assert_uint_eq(disk.files, 2);
	ck_assert_uint_eq(disk.all, 3); /* once is enough */
	sync_now(s);
	ck_assert_uint_eq(disk.all, 3); /* nothing has changed */
	ck_assert_int_eq(spool_seal(f), 0);
	sync_now(s);
	ck_assert_uint_eq(disk.all, 4);
	spool_free(s);
}
END_TEST

START_TEST(sealed_files_are_closed_once_they_are_synced)
{
	struct spool *s = open_waiting(CONF_SYNC_INTERVAL);
	unsigned before = open_descriptors();

	for (int i = 0; i < 5; i++)
		(void)put_batch(s, 1, 1);
	ck_assert_uint_eq(open_descriptors(), before + 5);
	sync_now(s);
	ck_assert_uint_eq(open_descriptors(), before);
	spool_free(s);
}
END_TEST

START_TEST(never_closes_at_once_and_syncs_only_when_asked)
{
	struct spool *s = open_waiting(CONF_SYNC_NEVER);
	unsigned before = open_descriptors();
	uint64_t number = 0;

	disk_attach(s);
	for (int i = 0; i < 5; i++)
		number = put_batch(s, 1, 1);
	ck_assert_uint_eq(open_descriptors(), before);
	ck_assert_uint_eq(disk.all, 0);
	sync_now(s);
	ck_assert_uint_eq(disk.all, 1); /* all of them in one */
	sync_now(s);
	ck_assert_uint_eq(disk.all, 1);
	assert_holds(s, number, 0, 1);
	(void)put_batch(s, 1, 1);
	spool_free(s);
	ck_assert_uint_eq(disk.all, 1);
}
END_TEST

START_TEST(closing_syncs_what_nobody_asked_for)
{
	struct spool *s = open_waiting(CONF_SYNC_INTERVAL);

	(void)put_batch(s, 1, 1);
	spool_file_free(must_create(s, spool_number(s)));
	disk_attach(s);
	spool_free(s);
	ck_assert_uint_eq(disk.files, 2);
	ck_assert_uint_eq(disk.all, 3);
}
END_TEST

START_TEST(a_removed_file_needs_no_sync)
{
	struct spool *s = open_waiting(CONF_SYNC_INTERVAL);
	unsigned before = open_descriptors();
	uint64_t number = put_batch(s, 1, 1), ticket;

	disk_attach(s);
	ck_assert_int_eq(spool_remove(s, number, false), 0);
	ticket = spool_sync(s);
	await_ticket(s, ticket);
	ck_assert_uint_eq(disk.all, 0);
	ck_assert_uint_eq(open_descriptors(), before);
	spool_free(s);
}
END_TEST

/* Removed by a writer before the loop could seal it, and still written to. */
START_TEST(a_file_may_be_removed_while_it_grows)
{
	struct spool *s = open_waiting(CONF_SYNC_INTERVAL);
	uint64_t number = spool_number(s);
	struct spool_file *f = must_create(s, number);

	ck_assert_int_eq(append(f, 0, 5), 0);
	ck_assert_int_eq(spool_remove(s, number, false), 0);
	ck_assert_uint_eq(spool_bytes(s), 0);
	ck_assert_int_eq(append(f, 5, 5), 0);
	ck_assert_uint_eq(spool_bytes(s), 0);
	sync_now(s);
	ck_assert_int_eq(spool_seal(f), 0);
	sync_now(s);
	ck_assert_uint_eq(spool_bytes(s), 0);
	spool_free(s);
}
END_TEST

START_TEST(nobody_is_called_who_does_not_want_to_be)
{
	struct spool *s = open_waiting(CONF_SYNC_INTERVAL);
	unsigned calls;

	sync_now(s);
	spool_on_synced(s, NULL, NULL);
	calls = waiter.calls;
	(void)put_batch(s, 1, 1);
	(void)spool_sync(s);
	spool_free(s);
	ck_assert_uint_eq(waiter.calls, calls);
}
END_TEST

/* ---- a disk that fails ---- */

static ino_t
inode(uint64_t number)
{
	struct stat st;

	ck_assert_int_eq(stat(batch_path(number), &st), 0);
	return st.st_ino;
}

/* _i: how many calls fail; 0 is the fdatasync alone, more are those of the fresh file. */
START_TEST(a_file_whose_sync_failed_is_written_anew)
{
	struct spool *s = open_waiting(CONF_SYNC_ALWAYS);
	uint64_t number = spool_number(s), ticket;
	struct spool_file *f = must_create(s, number);
	ino_t first = inode(number);
	int error = -1;

	disk_attach(s);
	ck_assert_int_eq(append(f, 0, 10), 0);
	disk_set((unsigned)_i + 1, false);
	ticket = spool_sync(s);
	if (_i > 0)
		await_error(s, EIO);
	ck_assert_int_eq(append(f, 10, 10), 0); /* perhaps to the old file, perhaps to the new */
	await_ticket(s, ticket);
	(void)spool_synced(s, &error);
	ck_assert_int_eq(error, 0);
	ck_assert_uint_ne(inode(number), first);
	ck_assert_int_eq(append(f, 20, 10), 0);
	ck_assert_int_eq(spool_seal(f), 0);
	sync_now(s);
	assert_holds(s, number, 0, 30);
	ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
	ck_assert(!exists(path_of("00000000000000000001.batch.new")));
	spool_free(s);
	s = open_waiting(CONF_SYNC_ALWAYS);
	ck_assert_uint_eq(must_recover(s).h[0].summary.rows, 30);
	spool_free(s);
}
END_TEST

START_TEST(a_sealed_file_whose_sync_failed_stays_sealed)
{
	struct spool *s = open_waiting(CONF_SYNC_INTERVAL);
	uint64_t number = put_batch(s, 3, 10);
	ino_t first = inode(number);
	struct found found;

	disk_attach(s);
	disk_set(1, false);
	sync_now(s);
	ck_assert_uint_ne(inode(number), first);
	assert_holds(s, number, 0, 30);
	spool_free(s);
	s = open_waiting(CONF_SYNC_INTERVAL);
	found = must_recover(s);
	ck_assert_uint_eq(found.n, 1);
	ck_assert_uint_eq(found.h[0].summary.rows, 30);
	ck_assert_uint_eq(found.h[0].summary.blocks, 3);
	spool_free(s);
}
END_TEST

START_TEST(a_kept_file_whose_sync_failed_stays_kept)
{
	struct spool *s = open_waiting(CONF_SYNC_INTERVAL);
	uint64_t number = put_batch(s, 1, 10);

	disk_attach(s);
	ck_assert_int_eq(spool_remove(s, number, true), 0);
	disk_set(1, false);
	sync_now(s);
	ck_assert(!exists(batch_path(number)));
	ck_assert_int_eq(spool_unkeep(s, number), 0);
	assert_holds(s, number, 0, 10);
	ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
	spool_free(s);
}
END_TEST

START_TEST(what_cannot_be_read_back_is_not_called_safe)
{
	struct spool *s = open_waiting(CONF_SYNC_INTERVAL);
	uint64_t number = put_batch(s, 1, 10), ticket;
	int fd = open(batch_path(number), O_WRONLY | O_CLOEXEC);

	disk_attach(s);
	ck_assert_int_eq(pwrite(fd, "x", 1, SPOOL_FILE_HEADER + 30), 1);
	(void)close(fd);
	disk_set(1, false); /* one failure is enough for a file to be never trusted again */
	ticket = spool_sync(s);
	await_error(s, EIO);
	ck_assert_uint_lt(spool_synced(s, NULL), ticket);
	ck_assert_int_eq(spool_remove(s, number, false), 0); /* the database has it */
	await_ticket(s, ticket);
	ck_assert_uint_eq(spool_bytes(s), 0);
	spool_free(s);
}
END_TEST

/* A removed batch must not come back under its name when its copy is finished. */
START_TEST(a_file_removed_while_it_is_written_anew_stays_removed)
{
	struct spool *s = open_waiting(CONF_SYNC_INTERVAL);
	uint64_t number = put_batch(s, 1, 10), ticket;

	disk_attach(s);
	disk_set(2, false); /* the file's, and the fresh one's */
	ticket = spool_sync(s);
	await_error(s, EIO);
	disk_set(0, true);
	disk_await_caller(); /* the second try is in its fsync */
	ck_assert_int_eq(spool_remove(s, number, false), 0);
	disk_set(0, false);
	await_ticket(s, ticket);
	ck_assert_uint_eq(bytes_on_disk(), 0);
	ck_assert_uint_eq(count_names(dir), 3);
	spool_free(s);
}
END_TEST

/* ---- the end of a batch ---- */

START_TEST(what_is_not_there_is_said_so)
{
	struct spool *s = open_waiting(CONF_SYNC_NEVER);
	struct spool_summary sum;
	uint8_t *data;

	ck_assert_int_eq(spool_read(s, 7, &data, &sum), -ENOENT);
	ck_assert_int_eq(spool_remove(s, 7, false), -ENOENT);
	ck_assert_int_eq(spool_remove(s, 7, true), -ENOENT);
	ck_assert_int_eq(spool_unkeep(s, 7), -ENOENT);
	spool_free(s);
}
END_TEST

START_TEST(a_batch_of_which_nothing_is_sound_goes_aside)
{
	struct spool *s = open_waiting(CONF_SYNC_INTERVAL);
	uint64_t number = put_batch(s, 1, 10);
	struct spool_summary sum;
	uint8_t *data;
	int fd;

	if (_i)
		sync_now(s);
	fd = open(batch_path(number), O_WRONLY | O_CLOEXEC);
	ck_assert_int_eq(pwrite(fd, "x", 1, SPOOL_FILE_HEADER + 30), 1);
	(void)close(fd);
	ck_assert_int_eq(spool_read(s, number, &data, &sum), -ENODATA);
	ck_assert(!exists(batch_path(number)));
	ck_assert_uint_eq(count_names(path_of("corrupt")), 1);
	ck_assert_uint_eq(spool_bytes(s), 0);
	sync_now(s);
	ck_assert_int_eq(spool_read(s, number, &data, &sum), -ENOENT);
	spool_free(s);
}
END_TEST

START_TEST(kept_batches_are_listed_and_taken_back)
{
	struct spool *s = open_waiting((enum conf_sync)_i);
	uint64_t a = put_batch(s, 2, 10), b = put_batch(s, 1, 5);
	struct found found = {.n = 0};

	ck_assert_int_eq(spool_remove(s, a, true), 0);
	ck_assert_int_eq(spool_remove(s, b, true), 0);
	ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
	ck_assert_uint_gt(spool_bytes(s), 0);
	spool_free(s);

	s = open_waiting((enum conf_sync)_i); /* they are not to be stored again */
	ck_assert_uint_eq(must_recover(s).n, 0);
	ck_assert_int_eq(spool_kept(s, found_add, &found), 0);
	ck_assert_uint_eq(found.n, 2);
	ck_assert_uint_eq(found.h[0].number, a);
	ck_assert_uint_eq(found.h[0].summary.rows, 20);
	ck_assert_uint_eq(found.h[1].number, b);
	ck_assert_int_eq(spool_unkeep(s, b), 0);
	assert_holds(s, b, 0, 5);
	found.n = 0;
	ck_assert_int_eq(spool_kept(s, found_add, &found), 0);
	ck_assert_uint_eq(found.n, 1);
	spool_prune(s, UINT64_MAX);
	ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
	spool_prune(s, 0);
	found.n = 0;
	ck_assert_int_eq(spool_kept(s, found_add, &found), 0);
	ck_assert_uint_eq(found.n, 0);
	assert_holds(s, b, 0, 5);
	ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
	spool_free(s);
}
END_TEST

static void
set_stored(uint64_t number, time_t ago)
{
	char name[SPOOL_NAME_MAX];
	struct timespec ts[2] = {{.tv_sec = time(NULL) - ago}, {.tv_sec = time(NULL) - ago}};

	spool_name_as(name, number, SPOOL_STORED);
	ck_assert_int_eq(utimensat(AT_FDCWD, path_of(name), ts, 0), 0);
}

START_TEST(kept_batches_go_when_they_are_old_enough)
{
	struct spool *s = open_waiting(CONF_SYNC_NEVER);
	uint64_t old = put_batch(s, 1, 1), fresh = put_batch(s, 1, 2), future = put_batch(s, 1, 3);
	struct found found = {.n = 0};

	ck_assert_int_eq(spool_remove(s, old, true), 0);
	ck_assert_int_eq(spool_remove(s, fresh, true), 0);
	ck_assert_int_eq(spool_remove(s, future, true), 0);
	set_stored(old, 3600);
	set_stored(future, -3600); /* the clock was set back since */
	spool_prune(s, 1800 * 1000);
	ck_assert_int_eq(spool_kept(s, found_add, &found), 0);
	ck_assert_uint_eq(found.n, 2);
	ck_assert_uint_eq(found.h[0].number, fresh);
	ck_assert_uint_eq(found.h[1].number, future);
	set_stored(fresh, 3600);
	spool_free(s); /* what it knows about ages it has from the files */
	s = open_waiting(CONF_SYNC_NEVER);
	spool_prune(s, 1800 * 1000);
	found.n = 0;
	ck_assert_int_eq(spool_kept(s, found_add, &found), 0);
	ck_assert_uint_eq(found.n, 1);
	ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
	spool_prune(s, 0); /* its time counts from when it was seen, not from the future */
	ck_assert_uint_eq(spool_bytes(s), 0);
	spool_free(s);
}
END_TEST

/* ---- all at once ---- */

#define CROWD_BATCHES 60

struct crowd {
	struct spool *s;
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	uint64_t sealed[CROWD_BATCHES];
	unsigned n, taken;
};

/* A writer: reads batches back, and removes two of three. */
static void *
crowd_writer(void *arg)
{
	struct crowd *c = arg;

	for (;;) {
		unsigned i;

		(void)pthread_mutex_lock(&c->mutex);
		i = c->taken++;
		while (i < CROWD_BATCHES && c->n <= i)
			(void)pthread_cond_wait(&c->cond, &c->mutex);
		(void)pthread_mutex_unlock(&c->mutex);
		if (i >= CROWD_BATCHES)
			return NULL;
		if (i % 3) {
			struct spool_summary sum;
			uint8_t *data;

			MUST(spool_read(c->s, c->sealed[i], &data, &sum) == 0);
			MUST(sum.rows == 200);
			free(data);
			MUST(spool_remove(c->s, c->sealed[i], i % 3 == 2) == 0);
			spool_prune(c->s, 3600 * 1000);
		}
	}
}

START_TEST(loop_syncer_and_writers_get_along)
{
	struct crowd c = {.mutex = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
	pthread_t writers[2];
	uint64_t ticket = 0;
	struct found found = {.n = 0};

	c.s = open_waiting(CONF_SYNC_ALWAYS);
	disk_attach(c.s);
	disk.fail_each = (unsigned)_i * 5; /* 0: the disk is sound */
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&writers[i], NULL, crowd_writer, &c), 0);
	for (unsigned b = 0; b < CROWD_BATCHES; b++) {
		uint64_t number = spool_number(c.s);
		struct spool_file *f = must_create(c.s, number);

		for (unsigned i = 0; i < 20; i++) {
			ck_assert_int_eq(append(f, i * 10, 10), 0);
			ticket = spool_sync(c.s);
		}
		ck_assert_int_eq(spool_seal(f), 0);
		(void)pthread_mutex_lock(&c.mutex);
		c.sealed[c.n++] = number;
		(void)pthread_cond_broadcast(&c.cond);
		(void)pthread_mutex_unlock(&c.mutex);
	}
	for (int i = 0; i < 2; i++)
		(void)pthread_join(writers[i], NULL);
	await_ticket(c.s, ticket);
	for (unsigned i = 0; i < CROWD_BATCHES; i += 3)
		assert_holds(c.s, c.sealed[i], 0, 200);
	ck_assert_uint_eq(spool_bytes(c.s), bytes_on_disk());
	spool_prune(c.s, 0);
	ck_assert_int_eq(spool_kept(c.s, found_add, &found), 0);
	ck_assert_uint_eq(found.n, 0);
	ck_assert_uint_eq(spool_bytes(c.s), bytes_on_disk());
	ck_assert_uint_eq(count_names(dir), 3 + CROWD_BATCHES / 3);
	spool_free(c.s);
}
END_TEST

static Suite *
suite(void)
{
	Suite *s = suite_create("spool_sync");
	TCase *tc = tcase_create("all");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, dir_make, dir_clear);
	tcase_add_loop_test(tc, what_is_written_is_read_back, 0, 3);
	tcase_add_test(tc, numbers_are_given_while_the_reserve_lasts);
	tcase_add_loop_test(tc, an_append_that_fails_changes_nothing, 0, 2);
	tcase_add_test(tc, blocks_beyond_the_format_are_refused);
	tcase_add_test(tc, tickets_share_a_sync);
	tcase_add_test(tc, the_directory_is_synced_for_a_new_file);
	tcase_add_test(tc, sealed_files_are_closed_once_they_are_synced);
	tcase_add_test(tc, never_closes_at_once_and_syncs_only_when_asked);
	tcase_add_test(tc, closing_syncs_what_nobody_asked_for);
	tcase_add_test(tc, a_removed_file_needs_no_sync);
	tcase_add_test(tc, a_file_may_be_removed_while_it_grows);
	tcase_add_test(tc, nobody_is_called_who_does_not_want_to_be);
	tcase_add_loop_test(tc, a_file_whose_sync_failed_is_written_anew, 0, 3);
	tcase_add_test(tc, a_sealed_file_whose_sync_failed_stays_sealed);
	tcase_add_test(tc, a_kept_file_whose_sync_failed_stays_kept);
	tcase_add_test(tc, what_cannot_be_read_back_is_not_called_safe);
	tcase_add_test(tc, a_file_removed_while_it_is_written_anew_stays_removed);
	tcase_add_test(tc, what_is_not_there_is_said_so);
	tcase_add_loop_test(tc, a_batch_of_which_nothing_is_sound_goes_aside, 0, 2);
	tcase_add_loop_test(tc, kept_batches_are_listed_and_taken_back, 0, 3);
	tcase_add_test(tc, kept_batches_go_when_they_are_old_enough);
	tcase_add_loop_test(tc, loop_syncer_and_writers_get_along, 0, 3);
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
