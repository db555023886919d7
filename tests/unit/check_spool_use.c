/*
 * check_spool_use.c - a spool that cannot be used now: others' files, a disk that does not read or
 * lock, things that are no files.  None of it is damage.
 */
#include <pwd.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "spool_dir.h"

#define NOBODY 65534

/* ---- a file system that refuses ---- */

static int lock_error;         /* of flock() */
static const char *unreadable; /* names that hold this give EIO */

int
flock(int fd, int operation)
{
	if (!lock_error)
		return (int)syscall(SYS_flock, fd, operation);
	errno = lock_error;
	return -1;
}

static bool
is_unreadable(int fd)
{
	char link[64], path[PATH_SIZE];
	ssize_t n;

	if (!unreadable)
		return false;
	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	path[n < 0 ? 0 : n] = '\0';
	return strstr(path, unreadable) != NULL;
}

ssize_t
pread(int fd, void *buf, size_t size, off_t offset)
{
	if (!is_unreadable(fd))
		return syscall(SYS_pread64, fd, buf, size, offset);
	errno = EIO;
	return -1;
}

/* ---- starts that are refused ---- */

static void
assert_refused(int error, const char *word)
{
	char why[SPOOL_WHY_MAX] = "";
	struct spool *s = NULL;

	ck_assert_int_eq(spool_open(dir, CONF_SYNC_NEVER, &s, why), error);
	ck_assert_msg(strstr(why, word) != NULL, "%s", why);
	ck_assert_msg(strstr(why, dir) != NULL, "%s", why);
}

static void
become_nobody(void)
{
	if (geteuid() == 0)
		ck_assert_int_eq(seteuid(NOBODY), 0);
}

static void
become_again(void)
{
	ck_assert_int_eq(seteuid(getuid()), 0);
}

/* The daemon was run once as root: everything is as it was once the file has its owner again. */
START_TEST(anothers_file_refuses_the_start_and_stays)
{
	static const char *const names[] = {"00000000000000000001.batch",
					    "00000000000000000002.stored", "identity", "sequence",
					    "lock"};
	const char *name = names[_i];
	char identity[UUID_TEXT], command[PATH_SIZE];
	const struct passwd *nobody = getpwuid(NOBODY);
	struct spool *s;
	struct found f;

	if (geteuid() != 0 || !nobody)
		return; /* only root can make another's file */
	(void)snprintf(command, sizeof(command), "'chown -R %s: %s'", nobody->pw_name, dir);
	ck_assert_int_eq(chown(dir, NOBODY, (gid_t)-1), 0);
	become_nobody();
	s = spool_must_open(CONF_SYNC_NEVER);
	(void)strcpy(identity, spool_identity(s));
	ck_assert_uint_eq(put_batch(s, 2, 3), 1);
	ck_assert_uint_eq(put_batch(s, 1, 3), 2);
	ck_assert_int_eq(spool_remove(s, 2, true), 0);
	spool_free(s);
	become_again();
	ck_assert_int_eq(chown(path_of(name), 0, 0), 0);
	ck_assert_int_eq(chmod(path_of(name), 0600), 0);

	become_nobody();
	assert_refused(-EACCES, path_of(name));
	assert_refused(-EACCES, "belongs to user root");
	assert_refused(-EACCES, command);
	become_again();
	ck_assert(exists(path_of(name)));
	ck_assert(!exists(path_of("corrupt")));

	ck_assert_int_eq(chown(path_of(name), NOBODY, (gid_t)-1), 0);
	become_nobody();
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_str_eq(spool_identity(s), identity);
	f = must_recover(s);
	ck_assert_uint_eq(f.n, 1);
	assert_holds(s, 1, 0, 6);
	ck_assert_uint_eq(count_kept(s, NULL, NULL), 1);
	spool_free(s);
	become_again();
}
END_TEST

START_TEST(our_own_file_without_rights_refuses_the_start)
{
	struct spool *s;

	if (geteuid() == 0)
		ck_assert_int_eq(chown(dir, NOBODY, (gid_t)-1), 0);
	become_nobody();
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_uint_eq(put_batch(s, 2, 3), 1);
	spool_free(s);
	ck_assert_int_eq(chmod(batch_path(1), 0), 0);
	assert_refused(-EACCES, "'chmod u+rw ");
	assert_refused(-EACCES, "mode 0000");
	ck_assert_int_eq(chmod(batch_path(1), 0600), 0);
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_uint_eq(must_recover(s).n, 1);
	spool_free(s);
	become_again();
}
END_TEST

/* It would say that it is ready, and receive nothing. */
START_TEST(a_directory_that_cannot_be_written_refuses_the_start)
{
	struct spool *s;

	if (geteuid() == 0)
		ck_assert_int_eq(chown(dir, NOBODY, (gid_t)-1), 0);
	become_nobody();
	spool_free(spool_must_open(CONF_SYNC_NEVER));
	ck_assert_int_eq(chmod(dir, 0500), 0);
	assert_refused(-EACCES, "cannot be written");
	assert_refused(-EACCES, "'chmod u+rwx ");
	ck_assert_int_eq(chmod(dir, 0), 0);
	assert_refused(-EACCES, "cannot be opened");
	ck_assert_int_eq(chmod(dir, 0700), 0);
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_uint_gt(spool_number(s), 0);
	spool_free(s);
	become_again();
}
END_TEST

/* Nothing would keep a second daemon away. */
START_TEST(a_file_system_without_locks_refuses_the_start)
{
	lock_error = ENOLCK;
	assert_refused(-ENOLCK, "cannot be locked");
	lock_error = EOPNOTSUPP;
	assert_refused(-EOPNOTSUPP, "flock(2)");
	lock_error = 0;
	spool_free(spool_must_open(CONF_SYNC_NEVER));
}
END_TEST

START_TEST(without_descriptors_the_start_is_refused)
{
	struct spool *s = spool_must_open(CONF_SYNC_NEVER);
	struct rlimit before, few = {0, 0};
	char identity[UUID_TEXT];
	int next;

	(void)strcpy(identity, spool_identity(s));
	(void)put_batch(s, 2, 3);
	spool_free(s);
	next = dup(STDIN_FILENO);
	ck_assert_int_ge(next, 0);
	ck_assert_int_eq(close(next), 0);
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
	for (int i = 1; i < 4; i++) { /* the directory, then a file at a time */
		few = (struct rlimit){(rlim_t)(next + 1), before.rlim_max};
		ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
		assert_refused(-EMFILE, "Too many open files");
	}
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_str_eq(spool_identity(s), identity);
	ck_assert_uint_eq(must_recover(s).n, 1);
	spool_free(s);
}
END_TEST

/* ---- a disk that does not read ---- */

START_TEST(an_identity_that_the_disk_does_not_give_is_not_made_anew)
{
	static const char *const names[] = {"/identity", "/sequence"};
	struct spool *s = spool_must_open(CONF_SYNC_NEVER);
	char identity[UUID_TEXT];

	(void)strcpy(identity, spool_identity(s));
	spool_free(s);
	for (int i = 0; i < 2; i++) {
		unreadable = names[i];
		assert_refused(-EIO, names[i]);
	}
	unreadable = NULL;
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_str_eq(spool_identity(s), identity);
	spool_free(s);
}
END_TEST

START_TEST(a_batch_that_the_disk_does_not_give_stays)
{
	struct spool *s = spool_must_open(CONF_SYNC_NEVER);
	uint64_t sealed = put_batch(s, 2, 3);
	struct spool_file *f = must_create(s, spool_number(s));
	struct spool_summary sum;
	uint8_t *data;
	bool damaged;

	ck_assert_int_eq(append(f, 0, 4), 0);
	unreadable = ".batch";
	ck_assert_int_eq(spool_read(s, sealed, &data, &sum, &damaged), -EIO);
	ck_assert(!damaged);
	spool_free(s);

	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_uint_eq(must_recover(s).n, 0);
	ck_assert_uint_eq(spool_left_floor(s), sealed); /* the ledger needs its rows still */
	spool_free(s);
	unreadable = NULL;
	ck_assert(!exists(path_of("corrupt")));
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_uint_eq(must_recover(s).n, 2);
	assert_holds(s, sealed, 0, 6);
	assert_holds(s, sealed + 1, 0, 4);
	spool_free(s);
}
END_TEST

/* metric-spool repair. */
START_TEST(what_the_disk_does_not_give_is_damage_when_the_operator_says_so)
{
	struct spool *s = spool_must_open(CONF_SYNC_NEVER);
	struct spool_summary sum;
	uint64_t number = put_batch(s, 2, 3);
	uint8_t *data;
	bool damaged;

	unreadable = ".batch";
	spool_salvage(s);
	ck_assert_int_eq(spool_read(s, number, &data, &sum, &damaged), -ENODATA);
	ck_assert(damaged);
	spool_free(s);
}
END_TEST

/* ---- things that are no files ---- */

static const char *const temporaries[] = {"sequence.new", "identity.new",
					  "00000000000000000001.batch.new", "reserve", "lock"};
enum { TEMPORARIES = sizeof(temporaries) / sizeof(*temporaries) };

static void
assert_works(void)
{
	struct spool *s = spool_must_open(CONF_SYNC_NEVER);
	uint64_t number = spool_number(s);
	struct stat st;

	ck_assert_uint_eq(number, 1);
	ck_assert(!spool_reserve_missing(s));
	(void)must_recover(s);
	number = spool_number(s);
	ck_assert_int_eq(stat(path_of("lock"), &st), 0);
	ck_assert(S_ISREG(st.st_mode));
	spool_free(s);
}

START_TEST(a_pipe_in_the_place_of_a_file_keeps_nobody_waiting)
{
	ck_assert_int_eq(mkfifo(path_of(temporaries[_i]), 0600), 0);
	assert_works();
}
END_TEST

START_TEST(a_directory_in_the_place_of_a_file_gives_way)
{
	struct spool *s;

	ck_assert_int_eq(mkdir(path_of(temporaries[_i]), 0700), 0);
	assert_works();
	s = spool_must_open(CONF_SYNC_NEVER);
	spool_file_free(must_create(s, 1));
	spool_free(s);
}
END_TEST

START_TEST(a_link_in_the_place_of_a_file_is_not_followed)
{
	char text[16];

	file_put(path_of("elsewhere"), "mine", 4);
	ck_assert_int_eq(symlink("elsewhere", path_of(temporaries[_i])), 0);
	assert_works();
	ck_assert_int_eq(file_get(path_of("elsewhere"), text, sizeof(text)), 4);
}
END_TEST

/* What it claims to be is more than the machine has. */
START_TEST(a_file_with_holes_costs_no_memory)
{
	const off_t size = (off_t)3900 << 20;
	struct spool *s = spool_must_open(CONF_SYNC_NEVER);
	uint64_t number = put_batch(s, 2, 3);
	struct spool_summary sum;
	struct rusage before, after;
	uint8_t *data;
	bool damaged;
	struct stat st;

	spool_free(s);
	ck_assert_int_eq(truncate(batch_path(number), size), 0);
	file_put(batch_path(number + 1), "", 0);
	ck_assert_int_eq(truncate(batch_path(number + 1), size), 0);
	ck_assert_int_eq(getrusage(RUSAGE_SELF, &before), 0);
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_int_eq(spool_read(s, number, &data, &sum, &damaged), 0);
	ck_assert(damaged);
	ck_assert_uint_eq(sum.rows, 6);
	free(data);
	ck_assert_uint_eq(must_recover(s).n, 1);
	assert_holds(s, number, 0, 6);
	spool_free(s);
	ck_assert_int_eq(getrusage(RUSAGE_SELF, &after), 0);
	ck_assert_int_lt(after.ru_maxrss - before.ru_maxrss, 64 << 10); /* KiB */
	ck_assert(!exists(batch_path(number + 1)));
	/* what was saved of it has holes, too */
	ck_assert_uint_eq(count_names(path_of("corrupt")), 2);
	ck_assert_int_eq(stat(path_of("corrupt/00000000000000000002.batch"), &st), 0);
	ck_assert_int_lt(st.st_blocks, 8192);
}
END_TEST

START_TEST(an_empty_file_is_removed_without_a_word)
{
	struct spool *s;
	char text[4096] = "";

	file_put(batch_path(7), "", 0);
	ck_assert_ptr_nonnull(freopen(path_of("stderr"), "w", stderr));
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_uint_eq(must_recover(s).n, 0);
	ck_assert(!exists(batch_path(7)));
	ck_assert(!exists(path_of("corrupt")));
	spool_free(s);
	ck_assert_int_eq(file_get(path_of("stderr"), text, sizeof(text) - 1), 0);
}
END_TEST

/* ---- a copy ---- */

START_TEST(a_new_identity_keeps_numbers_and_batches)
{
	struct spool *s = spool_must_open(CONF_SYNC_NEVER);
	uint64_t number = put_batch(s, 1, 3);
	char old[UUID_TEXT];
	struct found f;

	(void)strcpy(old, spool_identity(s));
	ck_assert_int_eq(spool_new_identity(s), 0);
	ck_assert_str_ne(spool_identity(s), old);
	spool_free(s);
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_str_ne(spool_identity(s), old);
	f = must_recover(s);
	ck_assert_uint_eq(f.n, 1);
	ck_assert_str_eq(f.h[0].collector, old);
	ck_assert_uint_gt(spool_number(s), number);
	spool_free(s);
}
END_TEST

static Suite *
suite(void)
{
	Suite *s = suite_create("spool_use");
	TCase *tc = tcase_create("all");

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, dir_make, dir_clear);
	tcase_add_loop_test(tc, anothers_file_refuses_the_start_and_stays, 0, 5);
	tcase_add_test(tc, our_own_file_without_rights_refuses_the_start);
	tcase_add_test(tc, a_directory_that_cannot_be_written_refuses_the_start);
	tcase_add_test(tc, a_file_system_without_locks_refuses_the_start);
	tcase_add_test(tc, without_descriptors_the_start_is_refused);
	tcase_add_test(tc, an_identity_that_the_disk_does_not_give_is_not_made_anew);
	tcase_add_test(tc, a_batch_that_the_disk_does_not_give_stays);
	tcase_add_test(tc, what_the_disk_does_not_give_is_damage_when_the_operator_says_so);
	tcase_add_loop_test(tc, a_pipe_in_the_place_of_a_file_keeps_nobody_waiting, 0, TEMPORARIES);
	tcase_add_loop_test(tc, a_directory_in_the_place_of_a_file_gives_way, 0, TEMPORARIES);
	tcase_add_loop_test(tc, a_link_in_the_place_of_a_file_is_not_followed, 0, TEMPORARIES);
	tcase_add_test(tc, a_file_with_holes_costs_no_memory);
	tcase_add_test(tc, an_empty_file_is_removed_without_a_word);
	tcase_add_test(tc, a_new_identity_keeps_numbers_and_batches);
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
