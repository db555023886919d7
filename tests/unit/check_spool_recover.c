/* What an earlier run left, in whatever state. */
#include "buffer/spool/spool.h"

#include "spool_dir.h"

#define OTHER_UUID "01234567-89ab-4cde-8f01-23456789abcd"

START_TEST(what_an_earlier_run_left_is_found)
{
	struct spool *s = spool_must_open(CONF_SYNC_INTERVAL);
	uint64_t sealed = put_batch(s, 4, 5), growing = spool_number(s), empty = spool_number(s);
	struct spool_file *f = must_create(s, growing);
	struct found found;

	ck_assert_int_eq(append(f, 0, 7), 0);
	ck_assert_int_eq(append(f, 7, 1), 0);
	spool_file_free(f);
	spool_file_free(must_create(s, empty));
	ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
	spool_free(s);

	for (int again = 0; again < 2; again++) { /* the second time all of them are sealed */
		s = spool_must_open(CONF_SYNC_INTERVAL);
		found = must_recover(s);
		ck_assert_uint_eq(found.n, 2);
		ck_assert_uint_eq(found.h[0].number, sealed);
		ck_assert_uint_eq(found.h[0].summary.rows, 20);
		ck_assert_uint_eq(found.h[0].summary.blocks, 4);
		ck_assert_uint_eq(found.h[1].number, growing);
		ck_assert(found.h[1].sealed);
		ck_assert_uint_eq(found.h[1].summary.rows, 8);
		ck_assert_str_eq(found.h[1].collector, spool_identity(s));
		assert_holds(s, sealed, 0, 20);
		assert_holds(s, growing, 0, 8);
		spool_free(s);
	}
	ck_assert(!exists(batch_path(empty)));
	ck_assert(!exists(path_of("corrupt")));
}
END_TEST

#define SMALL 3 /* blocks, of 1, 2 and 3 metrics */

struct small {
	uint8_t bytes[1024];
	size_t len;
	size_t end[SMALL + 1]; /* of the header and of each block */
};

static void
small_make(struct small *f, bool sealed)
{
	struct spool_header h = {.collector = OTHER_UUID, .number = 42, .sealed = sealed};
	struct sample s;

	f->len = f->end[0] = SPOOL_FILE_HEADER;
	for (unsigned i = 0; i < SMALL; i++) {
		sample_fill(&s, i * 10, i + 1);
		f->len += sample_block(f->bytes + f->len, &s);
		f->end[i + 1] = f->len;
		spool_summary_add(&h.summary, s.len, s.rows, s.min_us, s.max_us);
	}
	h.summary.blocks = SMALL;
	h.summary.file_size = f->len;
	spool_header_encode(f->bytes, &h);
}

/* The batch holds these blocks (a bit for each), exactly. */
static void
assert_blocks(struct spool *s, const struct small *f, unsigned blocks)
{
	struct spool_summary sum;
	size_t at = 0;
	uint64_t rows = 0;
	uint8_t *data;

	ck_assert_int_eq(read_and_repair(s, 42, &data, &sum), 0);
	for (unsigned i = 0; i < SMALL; i++) {
		size_t len = f->end[i + 1] - f->end[i] - SPOOL_BLOCK_HEADER;

		if (!(blocks >> i & 1))
			continue;
		rows += i + 1;
		ck_assert_uint_le(at + len, sum.bytes);
		ck_assert_mem_eq(data + at, f->bytes + f->end[i] + SPOOL_BLOCK_HEADER, len);
		at += len;
	}
	ck_assert_uint_eq(sum.rows, rows);
	ck_assert_uint_eq(sum.bytes, at);
	free(data);
	ck_assert_uint_eq(spool_bytes(s), bytes_on_disk());
}

static void
forget(struct spool *s)
{
	(void)spool_remove(s, 42, false);
	ck_assert_uint_eq(spool_bytes(s), 0);
	spool_free(s);
}

START_TEST(every_truncation_of_a_growing_file_is_survived)
{
	struct small f;

	small_make(&f, false);
	for (size_t len = SPOOL_FILE_HEADER; len <= f.len; len++) {
		unsigned whole = 0;
		struct spool *s;
		struct found found;

		file_put(batch_path(42), f.bytes, len);
		for (unsigned i = 0; i < SMALL; i++)
			whole |= (unsigned)(f.end[i + 1] <= len) << i;
		s = spool_must_open(CONF_SYNC_NEVER);
		found = must_recover(s);
		ck_assert_uint_eq(found.n, whole != 0);
		if (whole) {
			ck_assert_str_eq(found.h[0].collector, OTHER_UUID);
			assert_blocks(s, &f, whole);
		}
		ck_assert_int_eq(exists(batch_path(42)), whole != 0);
		forget(s);
	}
	ck_assert(!exists(path_of("corrupt")));
}
END_TEST

START_TEST(every_truncation_of_a_sealed_file_is_reported)
{
	struct small f;
	unsigned reported = 0;

	small_make(&f, true);
	for (size_t len = 0; len < f.len; len++) {
		unsigned whole = 0;
		struct spool *s;

		file_put(batch_path(42), f.bytes, len);
		for (unsigned i = 0; i < SMALL; i++)
			whole |= (unsigned)(f.end[i + 1] <= len) << i;
		s = spool_must_open(CONF_SYNC_NEVER);
		ck_assert_uint_eq(must_recover(s).n, whole != 0);
		if (whole)
			assert_blocks(s, &f, whole);
		/* saved, unless it was cut between two blocks, or nothing is left */
		reported += len != 0 && len != f.end[1] && len != f.end[2];
		ck_assert_uint_eq(count_names(path_of("corrupt")), reported);
		forget(s);
	}
}
END_TEST

/* Which blocks are whole when the byte at that place is not right? */
static unsigned
unhit(const struct small *f, size_t at)
{
	unsigned blocks = (1u << SMALL) - 1;

	for (unsigned i = 0; i < SMALL; i++)
		if (f->end[i] <= at && at < f->end[i + 1])
			blocks &= ~(1u << i);
	return blocks;
}

/* One bit of that byte is another one; f stays as it is. */
static struct spool *
recover_flipped(struct small *f, size_t at)
{
	uint8_t bit = (uint8_t)(1 << at % 8);
	struct spool *s;

	f->bytes[at] ^= bit;
	file_put(batch_path(42), f->bytes, f->len);
	f->bytes[at] ^= bit;
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_uint_eq(must_recover(s).n, 1);
	return s;
}

START_TEST(every_flipped_byte_of_a_growing_file_is_survived)
{
	struct small f;

	small_make(&f, false);
	for (size_t at = 0; at < f.len; at++) {
		unsigned saved = count_names(path_of("corrupt"));
		struct spool *s = recover_flipped(&f, at);

		assert_blocks(s, &f, unhit(&f, at));
		/* a flip in the place of the summary is nothing: there is none yet */
		if (at < SPOOL_FILE_SUMMARY || at >= SPOOL_FILE_HEADER)
			saved++;
		ck_assert_uint_eq(count_names(path_of("corrupt")), saved);
		forget(s);
	}
}
END_TEST

START_TEST(every_flipped_byte_of_a_sealed_file_is_found_by_reading)
{
	struct small f;

	small_make(&f, true);
	for (size_t at = 0; at < f.len; at++) {
		unsigned saved = count_names(path_of("corrupt"));
		struct spool *s = recover_flipped(&f, at);

		assert_blocks(s, &f, unhit(&f, at));
		if (at < SPOOL_FILE_SUMMARY || at >= SPOOL_FILE_HEADER)
			saved++;
		ck_assert_uint_eq(count_names(path_of("corrupt")), saved);
		assert_blocks(s, &f, unhit(&f, at)); /* and again */
		ck_assert_uint_eq(count_names(path_of("corrupt")), saved);
		forget(s);
	}
}
END_TEST

START_TEST(damaged_bytes_are_saved_as_they_were)
{
	struct small f;
	uint8_t got[1024];
	char name[PATH_SIZE / 2];
	struct spool *s;

	small_make(&f, false);
	f.bytes[f.end[1] + 20] ^= 0x55;
	(void)snprintf(name, sizeof(name), "corrupt/00000000000000000042.batch.%zu", f.end[1]);
	for (int i = 0; i < 2; i++) {
		file_put(batch_path(42), f.bytes, f.len);
		s = spool_must_open(CONF_SYNC_NEVER);
		ck_assert_uint_eq(must_recover(s).n, 1);
		ck_assert_int_eq(file_get(path_of(name), got, sizeof(got)),
				 (ssize_t)(f.end[2] - f.end[1]));
		ck_assert_mem_eq(got, f.bytes + f.end[1], f.end[2] - f.end[1]);
		ck_assert_uint_eq(count_names(path_of("corrupt")), 1); /* the same is saved once */
		forget(s);
	}
	f.bytes[f.end[1] + 21] ^= 0x55; /* other bytes in the same place are not */
	file_put(batch_path(42), f.bytes, f.len);
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_uint_eq(must_recover(s).n, 1);
	(void)strcat(name, "-1");
	ck_assert_int_eq(file_get(path_of(name), got, sizeof(got)), (ssize_t)(f.end[2] - f.end[1]));
	ck_assert_mem_eq(got, f.bytes + f.end[1], f.end[2] - f.end[1]);
	forget(s);
}
END_TEST

/* What the log got on stderr. */
static void
capture_stderr(void)
{
	int fd = open(path_of("stderr"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_ge(dup2(fd, STDERR_FILENO), 0);
	(void)close(fd);
}

START_TEST(damage_is_logged_with_its_size)
{
	struct small f;
	char text[4096] = "", lost[64];
	struct spool *s;

	small_make(&f, false);
	f.bytes[f.end[0]] ^= 1;
	f.bytes[f.end[2] + 30] ^= 1;
	file_put(batch_path(42), f.bytes, f.len);
	capture_stderr();
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_uint_eq(must_recover(s).n, 1);
	ck_assert_int_gt(file_get(path_of("stderr"), text, sizeof(text) - 1), 0);
	(void)snprintf(lost, sizeof(lost), "\"lost_bytes\":%zu",
		       f.len - (f.end[2] - f.end[1]) - SPOOL_FILE_HEADER);
	ck_assert_ptr_nonnull(strstr(text, "\"event\":\"spool_corrupt\""));
	ck_assert_ptr_nonnull(strstr(text, lost));
	ck_assert_ptr_nonnull(strstr(text, "00000000000000000042.batch\""));
	ck_assert_ptr_null(strstr(strstr(text, "spool_corrupt") + 1, "spool_corrupt"));
	forget(s);
}
END_TEST

START_TEST(unusable_files_go_aside_whole)
{
	static const char junk[] = "no header, and no block either";
	struct spool *s;
	char got[64];

	for (int i = 0; i < 3; i++) { /* a name that is taken gets a suffix */
		file_put(batch_path(7), junk, sizeof(junk));
		file_put(batch_path(8), "\0", 1);
		s = spool_must_open(CONF_SYNC_NEVER);
		ck_assert_uint_eq(must_recover(s).n, 0);
		ck_assert(!exists(batch_path(7)));
		ck_assert(!exists(batch_path(8)));
		ck_assert_uint_eq(spool_bytes(s), 0);
		spool_free(s);
	}
	ck_assert_uint_eq(count_names(path_of("corrupt")), 6);
	ck_assert_int_eq(
	    file_get(path_of("corrupt/00000000000000000007.batch-2"), got, sizeof(got)),
	    sizeof(junk));
	ck_assert_mem_eq(got, junk, sizeof(junk));
}
END_TEST

START_TEST(what_is_no_file_goes_aside)
{
	struct spool *s;
	struct small f;

	small_make(&f, true);
	file_put(path_of("elsewhere"), f.bytes, f.len);
	ck_assert_int_eq(symlink("elsewhere", batch_path(42)), 0);
	ck_assert_int_eq(mkdir(batch_path(43), 0700), 0);
	ck_assert_int_eq(mkdir(batch_path(44), 0700), 0);
	file_put(path_of("00000000000000000044.batch/inside"), "x", 1);
	ck_assert_int_eq(mkfifo(batch_path(45), 0600), 0);
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_uint_eq(must_recover(s).n, 0);
	ck_assert_uint_eq(count_names(path_of("corrupt")), 4);
	ck_assert(exists(path_of("corrupt/00000000000000000044.batch/inside")));
	ck_assert(exists(path_of("elsewhere")));
	spool_free(s);
}
END_TEST

START_TEST(where_nothing_can_be_moved_aside_it_stays)
{
	struct spool *s;
	struct small f;

	file_put(path_of("corrupt"), "in the way", 10);
	file_put(batch_path(7), "damaged", 7);
	ck_assert_int_eq(mkdir(batch_path(8), 0700), 0);
	small_make(&f, false);
	f.bytes[f.end[0] + 20] ^= 1;
	file_put(batch_path(42), f.bytes, f.len);
	for (int i = 0; i < 2; i++) {
		s = spool_must_open(CONF_SYNC_NEVER);
		ck_assert_uint_eq(must_recover(s).n, 1); /* what is sound is used all the same */
		assert_blocks(s, &f, 6);
		spool_free(s);
	}
	ck_assert(exists(batch_path(7)));
	ck_assert(exists(batch_path(8)));
}
END_TEST

START_TEST(foreign_files_are_left_alone)
{
	static const char *const names[] = {"README",     "42.batch",
					    "notes.txt",  "00000000000000000042.batch~",
					    "core.batch", "0000000000000000042.batch"};
	const unsigned n = sizeof(names) / sizeof(*names);
	struct spool *s;
	char got[8];

	for (unsigned i = 0; i < n; i++)
		file_put(path_of(names[i]), "mine", 4);
	file_put(path_of("00000000000000000042.batch.new"), "an unfinished copy", 18);
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_uint_eq(must_recover(s).n, 0);
	for (unsigned i = 0; i < n; i++)
		ck_assert_int_eq(file_get(path_of(names[i]), got, sizeof(got)), 4);
	ck_assert(!exists(path_of("00000000000000000042.batch.new")));
	ck_assert_uint_eq(count_names(dir), n + OWN_NAMES);
	spool_free(s);
}
END_TEST

START_TEST(a_file_under_another_number_is_not_believed)
{
	struct spool *s;
	struct small f;

	small_make(&f, true);
	file_put(batch_path(42), f.bytes, f.len);
	file_put(batch_path(43), f.bytes, f.len); /* it would be stored twice */
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_uint_eq(must_recover(s).n, 1);
	ck_assert(exists(path_of("corrupt/00000000000000000043.batch")));
	assert_blocks(s, &f, 7);
	forget(s);
}
END_TEST

START_TEST(many_damaged_stretches_make_few_files)
{
	enum { BLOCKS = 200 };
	static uint8_t bytes[BLOCKS * 128];
	struct spool_header h = {.collector = OTHER_UUID, .number = 42};
	size_t len = SPOOL_FILE_HEADER;
	struct spool_summary sum;
	struct sample b;
	struct spool *s;
	uint8_t *data;

	spool_header_encode(bytes, &h);
	for (unsigned i = 0; i < BLOCKS; i++) {
		sample_fill(&b, i, 1);
		len += sample_block(bytes + len, &b);
		if (i % 2)
			bytes[len - 1] ^= 1;
	}
	file_put(batch_path(42), bytes, len);
	s = spool_must_open(CONF_SYNC_NEVER);
	ck_assert_uint_eq(must_recover(s).h[0].summary.rows, BLOCKS / 2);
	ck_assert_uint_le(count_names(path_of("corrupt")), 64);
	ck_assert_int_eq(read_and_repair(s, 42, &data, &sum), 0);
	ck_assert_uint_eq(sum.rows, BLOCKS / 2);
	free(data);
	forget(s);
}
END_TEST

static Suite *
suite(void)
{
	Suite *s = suite_create("spool_recover");
	TCase *tc = tcase_create("all");

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, dir_make, dir_clear);
	tcase_add_test(tc, what_an_earlier_run_left_is_found);
	tcase_add_test(tc, every_truncation_of_a_growing_file_is_survived);
	tcase_add_test(tc, every_truncation_of_a_sealed_file_is_reported);
	tcase_add_test(tc, every_flipped_byte_of_a_growing_file_is_survived);
	tcase_add_test(tc, every_flipped_byte_of_a_sealed_file_is_found_by_reading);
	tcase_add_test(tc, damaged_bytes_are_saved_as_they_were);
	tcase_add_test(tc, damage_is_logged_with_its_size);
	tcase_add_test(tc, unusable_files_go_aside_whole);
	tcase_add_test(tc, what_is_no_file_goes_aside);
	tcase_add_test(tc, where_nothing_can_be_moved_aside_it_stays);
	tcase_add_test(tc, foreign_files_are_left_alone);
	tcase_add_test(tc, a_file_under_another_number_is_not_believed);
	tcase_add_test(tc, many_damaged_stretches_make_few_files);
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
