/*
 * spool_dir.h - a spool in a temporary directory, for the tests, and looks behind its back.
 */
#pragma once

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "buffer/spool/spool_internal.h"
#include "spool_samples.h"

#define PATH_SIZE 512
#define OWN_NAMES 4 /* in a spool without batches: identity, sequence, lock, reserve */

/* Check runs each test in a process of its own. */
static char dir[64];

static inline const char *
path_of(const char *name)
{
	static char paths[4][PATH_SIZE];
	static unsigned next;
	char *path = paths[next++ % 4];

	(void)snprintf(path, PATH_SIZE, "%s/%s", dir, name);
	return path;
}

static inline const char *
batch_path(uint64_t number)
{
	char name[SPOOL_NAME_MAX];

	spool_name(name, number);
	return path_of(name);
}

static inline void
dir_make(void)
{
	const char *tmp = getenv("TMPDIR");

	(void)snprintf(dir, sizeof(dir), "%.40s/spool.XXXXXX", tmp ? tmp : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(dir));
}

static inline int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static inline void
dir_clear(void)
{
	(void)nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static inline void
file_put(const char *path, const void *data, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, data, len), (ssize_t)len);
	ck_assert_int_eq(close(fd), 0);
}

/* The size of a file, and its content in data; -1 when it is not there. */
static inline ssize_t
file_get(const char *path, void *data, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = read(fd, data, size);
	(void)close(fd);
	return n;
}

static inline bool
exists(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0;
}

/* How many names there are in a directory, 0 where there is none. */
static inline unsigned
count_names(const char *path)
{
	DIR *d = opendir(path);
	unsigned n = 0;

	if (!d)
		return 0;
	for (struct dirent *e = readdir(d); e; e = readdir(d))
		n += e->d_name[0] != '.';
	(void)closedir(d);
	return n;
}

/* What spool_bytes() should say. */
static inline uint64_t
bytes_on_disk(void)
{
	DIR *d = opendir(dir);
	uint64_t sum = 0, number;
	struct stat st;

	ck_assert_ptr_nonnull(d);
	for (struct dirent *e = readdir(d); e; e = readdir(d))
		if (spool_name_parse(e->d_name, &number) ||
		    spool_name_parse_as(e->d_name, ".stored", &number))
			if (lstat(path_of(e->d_name), &st) == 0 && S_ISREG(st.st_mode))
				sum += spool_disk_bytes((uint64_t)st.st_size);
	(void)closedir(d);
	return sum;
}

static inline struct spool *
spool_must_open(enum conf_sync sync)
{
	char why[SPOOL_WHY_MAX] = "";
	struct spool *s = NULL;
	int r = spool_open(dir, sync, &s, why);

	ck_assert_msg(r == 0, "%s", why);
	return s;
}

static inline struct spool_file *
must_create(struct spool *s, uint64_t number)
{
	struct spool_file *f = NULL;

	ck_assert_int_eq(spool_create(s, number, 1, &f), 0);
	return f;
}

static inline int
append(struct spool_file *f, unsigned first, uint32_t rows)
{
	static __thread struct sample b;

	sample_fill(&b, first, rows);
	return spool_append(f, b.frames, b.len, b.rows, b.min_us, b.max_us);
}

/* A sealed batch of blocks of so many metrics each; returns its number. */
static inline uint64_t
put_batch(struct spool *s, unsigned blocks, uint32_t rows)
{
	uint64_t number = spool_number(s);
	struct spool_file *f = must_create(s, number);

	for (unsigned i = 0; i < blocks; i++)
		ck_assert_int_eq(append(f, i * rows, rows), 0);
	ck_assert_int_eq(spool_seal(f), 0);
	return number;
}

/* Does the batch hold exactly the metrics first .. first + rows - 1? */
static inline void
assert_holds(struct spool *s, uint64_t number, unsigned first, uint32_t rows)
{
	static struct sample right;
	struct spool_summary sum;
	uint8_t *data;
	bool damaged;

	sample_fill(&right, first, rows);
	ck_assert_int_eq(spool_read(s, number, &data, &sum, &damaged), 0);
	ck_assert(!damaged);
	ck_assert_uint_eq(sum.rows, rows);
	ck_assert_uint_eq(sum.bytes, right.len);
	ck_assert_uint_eq(sum.min_us, right.min_us);
	ck_assert_uint_eq(sum.max_us, right.max_us);
	ck_assert_mem_eq(data, right.frames, right.len);
	free(data);
}

/* Reads a batch, and puts what is damaged out of the way, as the daemon does. */
static inline int
read_and_repair(struct spool *s, uint64_t number, uint8_t **data, struct spool_summary *sum)
{
	bool damaged;
	int r = spool_read(s, number, data, sum, &damaged);

	if (r == -ENODATA)
		spool_set_aside(s, number);
	else if (damaged)
		spool_repair(s, number);
	return r;
}

static inline void
sync_now(struct spool *s)
{
	ck_assert_int_eq(spool_sync(s), 0);
}

/* How many batches of ours are kept; the first two numbers go to *a and *b (may be NULL). */
static inline size_t
count_kept(struct spool *s, uint64_t *a, uint64_t *b)
{
	uint64_t *numbers;
	size_t n;

	ck_assert_int_eq(spool_kept(s, &numbers, &n), 0);
	if (a && n > 0)
		*a = numbers[0];
	if (b && n > 1)
		*b = numbers[1];
	free(numbers);
	return n;
}

#define FOUND_MAX 16

struct found {
	struct spool_header h[FOUND_MAX];
	unsigned n;
};

static inline void
found_add(void *arg, const struct spool_header *h)
{
	struct found *f = arg;

	ck_assert_uint_lt(f->n, FOUND_MAX);
	f->h[f->n++] = *h;
}

static inline struct found
must_recover(struct spool *s)
{
	struct found f = {.n = 0};

	ck_assert_int_eq(spool_recover(s, found_add, &f), 0);
	ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
	return f;
}
