/* The directory, its lock, identity and numbers; check_spool_*.c have the rest. */
#include "buffer/spool/spool.h"

#include "spool_dir.h"
#include "wire/bytes.h"
#include "wire/crc32c.h"

#define OTHER_UUID "01234567-89ab-4cde-8f01-23456789abcd"

/* ---- the directory ---- */

START_TEST(a_new_directory_gets_what_it_needs)
{
	char text[256] = "", expected[256];
	struct stat st;
	struct spool *s;

	ck_assert_int_eq(rmdir(dir), 0);
	s = spool_must_open(CONF_SYNC_INTERVAL);
	ck_assert_int_eq(stat(dir, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0700);
	(void)snprintf(expected, sizeof(expected), "metric-collectord spool 1\n%s\n",
		       spool_identity(s));
	ck_assert_int_gt(file_get(path_of("identity"), text, sizeof(text) - 1), 0);
	ck_assert_str_eq(text, expected);
	ck_assert_uint_eq(strlen(spool_identity(s)), 36);
	ck_assert_uint_eq(spool_bytes(s), 0);
	ck_assert_uint_eq(must_recover(s).n, 0);
	spool_free(s);
}
END_TEST

START_TEST(a_directory_that_cannot_be_is_an_error_with_a_reason)
{
	char why[SPOOL_WHY_MAX] = "";
	struct spool *s;

	file_put(path_of("file"), "x", 1);
	(void)strcat(dir, "/file");
	ck_assert_int_eq(spool_open(dir, CONF_SYNC_NEVER, &s, why), -ENOTDIR);
	ck_assert_ptr_nonnull(strstr(why, dir));
	ck_assert_int_eq(spool_open("/nonexistent/a/b", CONF_SYNC_NEVER, &s, why), -ENOENT);
	ck_assert_ptr_nonnull(strstr(why, "/nonexistent/a/b"));
	*strrchr(dir, '/') = '\0';
}
END_TEST

START_TEST(a_second_daemon_is_kept_out)
{
	char why[SPOOL_WHY_MAX] = "", expected[SPOOL_WHY_MAX];
	struct spool *s = spool_must_open(CONF_SYNC_INTERVAL), *second;

	ck_assert_int_eq(spool_open(dir, CONF_SYNC_INTERVAL, &second, why), -EBUSY);
	(void)snprintf(expected, sizeof(expected), "spool %s is in use by process %ld", dir,
		       (long)getpid());
	ck_assert_str_eq(why, expected);
	spool_free(s);
	spool_free(spool_must_open(CONF_SYNC_INTERVAL));
}
END_TEST

/* ---- the reserve ---- */

static bool
reserve_is_there(void)
{
	struct stat st;

	return stat(path_of("reserve"), &st) == 0 && (uint64_t)st.st_blocks * 512 >= SPOOL_RESERVE;
}

START_TEST(the_reserve_is_used_once_and_made_anew_by_the_next_start)
{
	struct spool *s = spool_must_open(CONF_SYNC_NEVER);

	ck_assert(reserve_is_there());
	ck_assert(spool_reserve_use(s));
	ck_assert(!reserve_is_there());
	ck_assert(!spool_reserve_use(s));
	spool_free(s);
	ck_assert(!reserve_is_there());
	spool_free(spool_must_open(CONF_SYNC_NEVER));
	ck_assert(reserve_is_there());
}
END_TEST

/* Something stands in its way, as a full disk would. */
START_TEST(a_reserve_that_cannot_be_had_is_made_later)
{
	struct spool *s;

	ck_assert_int_eq(mkdir(path_of("reserve"), 0700), 0);
	file_put(path_of("corrupt"), "", 0); /* it cannot be moved there */
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert(!spool_reserve_use(s));
	spool_free(s);
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert(spool_reserve_missing(s));
	ck_assert_int_lt(spool_reserve_make(s), 0);
	ck_assert(spool_reserve_missing(s));
	ck_assert_int_eq(rmdir(path_of("reserve")), 0);
	ck_assert_int_eq(spool_reserve_make(s), 0);
	ck_assert(!spool_reserve_missing(s));
	ck_assert(reserve_is_there());
	spool_free(s);
}
END_TEST

/* ---- a newer format ---- */

static void
put_newer_file(const char *name, uint64_t number)
{
	struct spool_header h = {.collector = OTHER_UUID, .number = number};
	uint8_t bytes[SPOOL_FILE_HEADER + 5] = {0};

	spool_header_encode(bytes, &h);
	be16_store(bytes + 8, SPOOL_FILE_VERSION + 1);
	be32_store(bytes + 52, crc32c(0, bytes, 52));
	file_put(path_of(name), bytes, sizeof(bytes));
}

START_TEST(a_newer_spool_is_left_untouched)
{
	static const char title[] = "metric-collectord spool 2\nand who knows what\n";
	char why[SPOOL_WHY_MAX] = "", text[256];
	struct stat before, after;
	struct spool *s;

	if (_i == 0)
		file_put(path_of("identity"), title, sizeof(title) - 1);
	else if (_i == 1)
		put_newer_file("00000000000000000007.batch", 7);
	else
		put_newer_file("00000000000000000007.stored", 7);
	file_put(batch_path(3), "damaged", 7);
	file_put(batch_path(4), "", 0);
	ck_assert_int_eq(stat(dir, &before), 0);
	ck_assert_int_eq(spool_open(dir, CONF_SYNC_INTERVAL, &s, why), -ENOTSUP);
	ck_assert_ptr_nonnull(strstr(why, "newer version"));
	ck_assert_int_eq(stat(dir, &after), 0);
	ck_assert_uint_eq(count_names(dir), 3); /* those from above */
	ck_assert(before.st_mtim.tv_sec == after.st_mtim.tv_sec &&
		  before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);
	ck_assert_int_eq(file_get(batch_path(3), text, sizeof(text)), 7);
	if (_i == 0)
		ck_assert_int_eq(file_get(path_of("identity"), text, sizeof(text)),
				 sizeof(title) - 1);
}
END_TEST

/* ---- numbers ---- */

START_TEST(numbers_never_repeat)
{
	uint64_t last = 0;
	char identity[UUID_TEXT] = "";

	for (int i = 0; i < 5; i++) {
		struct spool *s = spool_must_open(CONF_SYNC_NEVER);

		ck_assert(i == 0 || strcmp(identity, spool_identity(s)) == 0);
		(void)strcpy(identity, spool_identity(s));
		for (int k = 0; k < 10; k++) {
			uint64_t number = spool_number(s);

			ck_assert_uint_gt(number, last);
			last = number;
		}
		spool_free(s);
	}
}
END_TEST

static const struct damage {
	const char *name;
	const char *content; /* NULL: deleted; "/": a directory instead */
} damages[] = {
    {"sequence", NULL},
    {"sequence", ""},
    {"sequence", "/"},
    {"sequence", "1"},
    {"sequence", "1 00000000\n"},
    {"sequence", "-1 00000000\n"},
    {"sequence", "99999999999999999999999999 00000000\n"},
    {"sequence",
     "a long line of no sense at all, longer than any sequence could ever be; and so on, "
     "and on, and on, and on, and on, and on"},
    {"identity", NULL},
    {"identity", ""},
    {"identity", "/"},
    {"identity", "metric-collectord spool 1\n"},
    {"identity", "metric-collectord spool 1\n" OTHER_UUID},
    {"identity", "metric-collectord spool 0\n" OTHER_UUID "\n"},
    {"identity", "metric-collectord spool 1x\n" OTHER_UUID "\n"},
    {"identity", "metric-collectord spool 1\n01234567-89ab-4cde-8f01-23456789abcx\n"},
};

/* Also when no batch is left that would tell: then the identity is a new one. */
START_TEST(numbers_never_repeat_after_damage)
{
	const struct damage *d = &damages[_i];
	struct spool *s = spool_must_open(CONF_SYNC_NEVER);
	char identity[UUID_TEXT];
	uint64_t batch = put_batch(s, 1, 3);

	(void)strcpy(identity, spool_identity(s));
	spool_free(s);
	ck_assert_int_eq(unlink(path_of(d->name)), 0);
	if (d->content && *d->content == '/')
		ck_assert_int_eq(mkdir(path_of(d->name), 0700), 0);
	else if (d->content)
		file_put(path_of(d->name), d->content, strlen(d->content));

	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_str_ne(spool_identity(s), identity);
	ck_assert_uint_gt(spool_number(s), batch);
	ck_assert_int_eq(exists(path_of("corrupt")), d->content != NULL);
	ck_assert_uint_eq(must_recover(s).n, 1);
	assert_holds(s, batch, 0, 3);
	(void)strcpy(identity, spool_identity(s));
	spool_free(s);

	s = spool_must_open(CONF_SYNC_NEVER); /* the new one lasts */
	ck_assert_str_eq(spool_identity(s), identity);
	ck_assert_str_ne(must_recover(s).h[0].collector, identity);
	spool_free(s);
}
END_TEST

START_TEST(every_flip_in_the_sequence_is_noticed)
{
	char text[64], identity[UUID_TEXT];
	ssize_t len = 1;

	for (ssize_t i = 0; i < len; i++) {
		struct spool *s = spool_must_open(CONF_SYNC_NEVER);

		(void)strcpy(identity, spool_identity(s));
		spool_free(s);
		len = file_get(path_of("sequence"), text, sizeof(text));
		ck_assert_int_ge(len, 15);
		text[i] ^= 1;
		file_put(path_of("sequence"), text, (size_t)len);
		s = spool_must_open(CONF_SYNC_NEVER);
		ck_assert_str_ne(spool_identity(s), identity);
		spool_free(s);
	}
}
END_TEST

START_TEST(numbers_go_on_behind_the_greatest_file)
{
	static const uint64_t numbers[] = {5, 1000000, SPOOL_NUMBER_MAX};
	struct spool *s;
	uint64_t n;

	for (size_t i = 0; i < 3; i++)
		file_put(batch_path(numbers[i]), "damaged", 7);
	s = spool_must_open(CONF_SYNC_NEVER);
	n = spool_number(s); /* the absurd one is not counted on from */
	ck_assert_uint_gt(n, 1000000);
	ck_assert_uint_lt(n, SPOOL_NUMBER_MAX / 2);
	spool_free(s);
}
END_TEST

static Suite *
suite(void)
{
	Suite *s = suite_create("spool");
	TCase *tc = tcase_create("all");

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, dir_make, dir_clear);
	tcase_add_test(tc, a_new_directory_gets_what_it_needs);
	tcase_add_test(tc, a_directory_that_cannot_be_is_an_error_with_a_reason);
	tcase_add_test(tc, a_second_daemon_is_kept_out);
	tcase_add_test(tc, the_reserve_is_used_once_and_made_anew_by_the_next_start);
	tcase_add_test(tc, a_reserve_that_cannot_be_had_is_made_later);
	tcase_add_loop_test(tc, a_newer_spool_is_left_untouched, 0, 3);
	tcase_add_test(tc, numbers_never_repeat);
	tcase_add_loop_test(tc, numbers_never_repeat_after_damage, 0,
			    sizeof(damages) / sizeof(*damages));
	tcase_add_test(tc, every_flip_in_the_sequence_is_noticed);
	tcase_add_test(tc, numbers_go_on_behind_the_greatest_file);
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
