#include "store/migrate.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

/* The order that migration_next() relies on, and what the migrations table records. */
START_TEST(files_are_sorted_and_whole)
{
	const struct migration_file *m;

	ck_assert_ptr_nonnull(migration_files[0].flavour);
	for (m = migration_files; m->flavour; m++) {
		ck_assert_uint_gt(m->version, 0);
		ck_assert_uint_eq(strlen(m->sha256), 64);
		ck_assert_uint_eq(strspn(m->sha256, "0123456789abcdef"), 64);
		ck_assert_uint_gt(strlen(m->name), 0);
		ck_assert_uint_gt(strlen(m->text), 0);
		if (m == migration_files)
			continue;
		ck_assert_int_le(strcmp(m[-1].flavour, m->flavour), 0);
		if (strcmp(m[-1].flavour, m->flavour) == 0)
			ck_assert_uint_lt(m[-1].version, m->version);
	}
}
END_TEST

START_TEST(each_file_is_found_once_in_order)
{
	static const char *const flavours[] = {"citus", "postgresql", "sqlite", "timescaledb"};
	const struct migration_file *m;
	size_t total = 0, found = 0, i;

	for (m = migration_files; m->flavour; m++)
		total++;
	for (i = 0; i < 4; i++) {
		unsigned version = 0;

		while ((m = migration_next(flavours[i], version))) {
			ck_assert_str_eq(m->flavour, flavours[i]);
			ck_assert_uint_gt(m->version, version);
			version = m->version;
			found++;
		}
	}
	ck_assert_uint_eq(found, total);
}
END_TEST

START_TEST(nothing_follows_the_last)
{
	ck_assert_ptr_null(migration_next("postgresql", 999));
	ck_assert_ptr_null(migration_next("oracle", 0));
	ck_assert_ptr_nonnull(migration_next("postgresql", 0));
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("migrate");
	TCase *tc = tcase_create("migrate");
	SRunner *sr;
	int failed;

	tcase_add_test(tc, files_are_sorted_and_whole);
	tcase_add_test(tc, each_file_is_found_once_in_order);
	tcase_add_test(tc, nothing_follows_the_last);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
