#include "buffer/spool/spool_file.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>

#include "spool_samples.h"
#include "wire/bytes.h"
#include "wire/crc32c.h"

#define UUID "01234567-89ab-4cde-8f01-23456789abcd"

/* ---- names ---- */

START_TEST(names_go_there_and_back)
{
	static const uint64_t numbers[] = {1, 42, 65536, SPOOL_NUMBER_MAX - 1, SPOOL_NUMBER_MAX};
	char name[SPOOL_NAME_MAX];
	uint64_t n;

	spool_name(name, 42);
	ck_assert_str_eq(name, "00000000000000000042.batch");
	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
		n = 0;
		spool_name(name, numbers[i]);
		ck_assert(spool_name_parse(name, &n));
		ck_assert_uint_eq(n, numbers[i]);
		ck_assert(!spool_name_parse_as(name, ".stored", &n));
		spool_name_as(name, numbers[i], ".stored");
		ck_assert(!spool_name_parse(name, &n));
		ck_assert(spool_name_parse_as(name, ".stored", &n));
		ck_assert_uint_eq(n, numbers[i]);
	}
}
END_TEST

static const char *const foreign_names[] = {
    "",
    ".",
    "..",
    "identity",
    "42.batch",
    "0000000000000000042.batch",
    "000000000000000000042.batch",
    "00000000000000000000.batch",
    "0000000000000000004x.batch",
    "-0000000000000000042.batch",
    "+0000000000000000042.batch",
    " 0000000000000000042.batch",
    "00000000000000000042",
    "00000000000000000042.",
    "00000000000000000042.batc",
    "00000000000000000042.batch.new",
    "00000000000000000042.batch~",
    "00000000000000000042.BATCH",
    "04611686018427387905.batch", /* SPOOL_NUMBER_MAX + 1 */
    "18446744073709551617.batch", /* 2^64 + 1 */
    "99999999999999999999.batch",
};

START_TEST(foreign_names_are_not_ours)
{
	uint64_t n = 7;

	ck_assert(!spool_name_parse(foreign_names[_i], &n));
	ck_assert_uint_eq(n, 7);
}
END_TEST

START_TEST(uuids_go_there_and_back)
{
	uint8_t bin[16];
	char text[UUID_TEXT];

	ck_assert(uuid_parse(UUID, bin));
	ck_assert_uint_eq(bin[0], 0x01);
	ck_assert_uint_eq(bin[15], 0xcd);
	uuid_format(text, bin);
	ck_assert_str_eq(text, UUID);
	ck_assert(uuid_parse("01234567-89AB-4CDE-8F01-23456789ABCD", bin));
	uuid_format(text, bin);
	ck_assert_str_eq(text, UUID);
}
END_TEST

static const char *const not_uuids[] = {
    "",
    "0",
    "01234567-89ab-4cde-8f01-23456789abc",
    "01234567-89ab-4cde-8f01-23456789abcde",
    "01234567-89ab-4cde-8f01-23456789abcd\n",
    "0123456789ab4cde8f0123456789abcd",
    "01234567-89ab-4cde-8f01-23456789abcg",
    "0123456-789ab-4cde-8f01-23456789abcd",
    "01234567-89ab-4cde-8f01+23456789abcd",
    "{1234567-89ab-4cde-8f01-23456789abcd",
};

START_TEST(other_text_is_no_uuid)
{
	uint8_t bin[16] = {7};

	ck_assert(!uuid_parse(not_uuids[_i], bin));
	ck_assert_uint_eq(bin[0], 7);
}
END_TEST

/* ---- the header ---- */

static struct spool_header
sealed_header(void)
{
	struct spool_header h = {
	    .collector = UUID,
	    .number = 42,
	    .created_us = SAMPLE_TIME,
	    .sealed = true,
	    .summary = {.rows = 10,
			.bytes = 300,
			.min_us = 5,
			.max_us = UINT64_C(1) << 40,
			.file_size = SPOOL_FILE_HEADER + 2 * SPOOL_BLOCK_HEADER + 300,
			.blocks = 2},
	};
	return h;
}

static void
assert_same_summary(const struct spool_summary *a, const struct spool_summary *b)
{
	ck_assert_uint_eq(a->rows, b->rows);
	ck_assert_uint_eq(a->bytes, b->bytes);
	ck_assert_uint_eq(a->min_us, b->min_us);
	ck_assert_uint_eq(a->max_us, b->max_us);
	ck_assert_uint_eq(a->file_size, b->file_size);
	ck_assert_uint_eq(a->blocks, b->blocks);
}

START_TEST(header_goes_there_and_back)
{
	static const struct spool_summary none;
	struct spool_header h = sealed_header(), got;
	uint8_t bytes[SPOOL_FILE_HEADER];

	for (int sealed = 0; sealed < 2; sealed++) {
		h.sealed = sealed;
		spool_header_encode(bytes, &h);
		ck_assert_int_eq(spool_header_decode(bytes, sizeof(bytes), &got), 0);
		ck_assert_str_eq(got.collector, UUID);
		ck_assert_uint_eq(got.number, h.number);
		ck_assert_uint_eq(got.created_us, h.created_us);
		ck_assert_int_eq(got.sealed, h.sealed);
		assert_same_summary(&got.summary, sealed ? &h.summary : &none);
	}
}
END_TEST

START_TEST(header_stands_as_drawn)
{
	struct spool_header h = sealed_header();
	uint8_t p[SPOOL_FILE_HEADER];

	spool_header_encode(p, &h);
	ck_assert_mem_eq(p, "MCSPOOL\0", 8);
	ck_assert_uint_eq(be16_load(p + 8), 1);
	ck_assert_uint_eq(be16_load(p + 10), 112);
	ck_assert_mem_eq(p + 16, "\x01\x23\x45\x67\x89\xab\x4c\xde", 8);
	ck_assert_uint_eq(be64_load(p + 32), 42);
	ck_assert_uint_eq(be64_load(p + 40), SAMPLE_TIME);
	ck_assert_uint_eq(be32_load(p + 52), crc32c(0, p, 52));
	ck_assert_mem_eq(p + 56, "SEAL", 4);
	ck_assert_uint_eq(be32_load(p + 60), 2);
	ck_assert_uint_eq(be64_load(p + 64), 10);
	ck_assert_uint_eq(be64_load(p + 72), 300);
	ck_assert_uint_eq(be64_load(p + 80), 5);
	ck_assert_uint_eq(be64_load(p + 88), UINT64_C(1) << 40);
	ck_assert_uint_eq(be64_load(p + 96), h.summary.file_size);
	ck_assert_uint_eq(be32_load(p + 108), crc32c(0, p + 56, 52));
}
END_TEST

START_TEST(every_flipped_bit_of_the_header_is_noticed)
{
	struct spool_header h = sealed_header(), got;
	uint8_t bytes[SPOOL_FILE_HEADER];

	for (int bit = 0; bit < 8; bit++) {
		int r;

		spool_header_encode(bytes, &h);
		bytes[_i] ^= (uint8_t)(1 << bit);
		r = spool_header_decode(bytes, sizeof(bytes), &got);
		if (_i < SPOOL_FILE_SUMMARY) {
			ck_assert_int_eq(r, -EBADMSG);
			continue;
		}
		ck_assert_int_eq(r, 0);
		ck_assert_uint_eq(got.number, 42);
		ck_assert(!got.sealed);
	}
}
END_TEST

START_TEST(every_prefix_of_the_header_is_no_header)
{
	struct spool_header h = sealed_header(), got;
	uint8_t bytes[SPOOL_FILE_HEADER];
	uint8_t *copy = malloc((size_t)_i + 1);

	spool_header_encode(bytes, &h);
	memcpy(copy, bytes, (size_t)_i);
	ck_assert_int_eq(spool_header_decode(copy, (size_t)_i, &got), -EBADMSG);
	free(copy);
}
END_TEST

static void
put_version(uint8_t *bytes, uint16_t version, uint16_t header_size)
{
	be16_store(bytes + 8, version);
	be16_store(bytes + 10, header_size);
	be32_store(bytes + 52, crc32c(0, bytes, 52));
}

START_TEST(newer_versions_are_told_from_damage)
{
	struct spool_header h = sealed_header(), got;
	uint8_t bytes[SPOOL_FILE_HEADER];

	spool_header_encode(bytes, &h);
	put_version(bytes, 2, 112);
	ck_assert_int_eq(spool_header_decode(bytes, sizeof(bytes), &got), -ENOTSUP);
	put_version(bytes, 2, 256);
	ck_assert_int_eq(spool_header_decode(bytes, sizeof(bytes), &got), -ENOTSUP);
	bytes[20] ^= 1;
	ck_assert_int_eq(spool_header_decode(bytes, sizeof(bytes), &got), -EBADMSG);
	bytes[20] ^= 1;
	put_version(bytes, 0, 112);
	ck_assert_int_eq(spool_header_decode(bytes, sizeof(bytes), &got), -EBADMSG);
	put_version(bytes, 1, 111);
	ck_assert_int_eq(spool_header_decode(bytes, sizeof(bytes), &got), -EBADMSG);
}
END_TEST

START_TEST(absurd_summaries_are_not_believed)
{
	static const struct spool_summary absurd[] = {
	    {.rows = 1, .bytes = 17, .file_size = 145, .blocks = 1},
	    {.rows = 1, .bytes = 273, .file_size = 401, .blocks = 1},
	    {.rows = 1, .bytes = 18, .file_size = 147, .blocks = 1},
	    {.rows = 1, .bytes = 18, .file_size = 162, .blocks = 2},
	    {.rows = 1, .bytes = 18, .file_size = 146, .blocks = 1, .min_us = 2, .max_us = 1},
	    {.rows = UINT64_MAX / 16, .bytes = 18, .file_size = 146, .blocks = 1},
	    {.rows = 0, .bytes = 18, .file_size = 130, .blocks = 0},
	};
	struct spool_header h = sealed_header(), got;
	uint8_t bytes[SPOOL_FILE_HEADER];

	h.summary = absurd[_i];
	spool_header_encode(bytes, &h);
	ck_assert_int_eq(spool_header_decode(bytes, sizeof(bytes), &got), 0);
	ck_assert(!got.sealed);
}
END_TEST

/* ---- the walk ---- */

#define BLOCKS 6

/* Blocks of 1, 2, 3, ... metrics. */
struct file {
	uint8_t bytes[4096];
	size_t len;
	struct block {
		size_t at, end;
		uint32_t rows;
		unsigned first; /* metric */
	} blocks[BLOCKS];
};

static void
file_make(struct file *f)
{
	struct sample s;
	unsigned first = 0;

	f->len = 0;
	for (unsigned i = 0; i < BLOCKS; i++) {
		sample_fill(&s, first, i + 1);
		f->blocks[i] = (struct block){.at = f->len, .rows = i + 1, .first = first};
		f->len += sample_block(f->bytes + f->len, &s);
		f->blocks[i].end = f->len;
		first += i + 1;
	}
}

/* What a walk gave, checked against the file as it was before it was damaged. */
struct walked {
	const struct file *whole;
	unsigned seen; /* a bit for each block */
	size_t sound, damaged, reached;
	size_t torn;
	struct spool_summary sum;
};

static void
walked_block(void *arg, size_t offset, const uint8_t *frames, uint32_t len, uint32_t rows)
{
	struct walked *w = arg;

	ck_assert_uint_eq(offset, w->reached);
	for (unsigned i = 0; i < BLOCKS; i++) {
		const struct block *b = &w->whole->blocks[i];
		const uint8_t *right = w->whole->bytes + b->at + SPOOL_BLOCK_HEADER;

		if (b->rows != rows)
			continue;
		ck_assert_uint_eq(len, b->end - b->at - SPOOL_BLOCK_HEADER);
		ck_assert_mem_eq(frames, right, len);
		ck_assert(!(w->seen & 1u << i));
		w->seen |= 1u << i;
		w->sound += SPOOL_BLOCK_HEADER + len;
		w->reached = offset + SPOOL_BLOCK_HEADER + len;
		return;
	}
	ck_abort_msg("a block of %u metrics that nobody wrote", rows);
}

static void
walked_damage(void *arg, size_t offset, size_t len)
{
	struct walked *w = arg;

	ck_assert_uint_eq(offset, w->reached);
	ck_assert_uint_gt(len, 0);
	w->damaged += len;
	w->reached = offset + len;
}

/* In pieces of so many bytes, each of which is all that memory has. */
static void
assert_same_in_pieces(const uint8_t *bytes, size_t len, size_t piece, const struct walked *right)
{
	struct walked w = {.whole = right->whole};
	const struct spool_walk calls = {walked_block, walked_damage, &w};
	uint8_t *window = NULL;
	size_t at = 0, have = 0;
	struct spool_walker k;

	spool_walk_begin(&k, len, &calls, &w.sum);
	while (at < len) {
		size_t n = len - at < piece ? len - at : piece, done;
		uint8_t *grown = malloc(have + n);

		if (have)
			memcpy(grown, window, have);
		memcpy(grown + have, bytes + at, n);
		free(window);
		window = grown;
		at += n;
		have += n;
		done = spool_walk_on(&k, window, have);
		have -= done;
		grown = malloc(have + !have);
		memcpy(grown, window + done, have);
		free(window);
		window = grown;
	}
	w.torn = spool_walk_end(&k, window, have);
	free(window);
	ck_assert_uint_eq(w.seen, right->seen);
	ck_assert_uint_eq(w.damaged, right->damaged);
	ck_assert_uint_eq(w.torn, right->torn);
	ck_assert_uint_eq(w.sum.rows, right->sum.rows);
}

static struct walked
walk(const struct file *whole, const uint8_t *bytes, size_t len)
{
	struct walked w = {.whole = whole};
	const struct spool_walk calls = {walked_block, walked_damage, &w};
	uint8_t *copy = malloc(len + !len); /* exact size: ASan sees an overread */

	memcpy(copy, bytes, len);
	spool_walk(copy, len, &calls, &w.sum, &w.torn);
	free(copy);
	assert_same_in_pieces(bytes, len, 1 + len % 61, &w);
	ck_assert_uint_eq(w.sound + w.damaged + w.torn, len);
	ck_assert_uint_eq(w.sum.bytes + (size_t)w.sum.blocks * SPOOL_BLOCK_HEADER, w.sound);
	return w;
}

START_TEST(a_whole_file_is_returned_whole)
{
	struct file f;
	struct walked w;

	file_make(&f);
	w = walk(&f, f.bytes, f.len);
	ck_assert_uint_eq(w.seen, (1u << BLOCKS) - 1);
	ck_assert_uint_eq(w.sound, f.len);
	ck_assert_uint_eq(w.sum.blocks, BLOCKS);
	ck_assert_uint_eq(w.sum.rows, 21);
	ck_assert_uint_eq(w.sum.min_us, SAMPLE_TIME);
	ck_assert_uint_eq(w.sum.max_us, SAMPLE_TIME + 20);
}
END_TEST

START_TEST(a_sum_goes_on_from_what_it_was)
{
	struct spool_summary sum = {.rows = 1, .bytes = 30, .min_us = 7, .max_us = 7, .blocks = 1};
	struct file f;
	size_t torn;

	file_make(&f);
	spool_walk(f.bytes, f.len, &(struct spool_walk){0}, &sum, &torn);
	ck_assert_uint_eq(sum.rows, 22);
	ck_assert_uint_eq(sum.blocks, BLOCKS + 1);
	ck_assert_uint_eq(sum.min_us, 7);
	ck_assert_uint_eq(sum.max_us, SAMPLE_TIME + 20);
}
END_TEST

START_TEST(every_truncation_leaves_the_whole_blocks)
{
	struct file f;

	file_make(&f);
	for (size_t len = 0; len <= f.len; len++) {
		struct walked w = walk(&f, f.bytes, len);
		size_t whole = 0;

		for (unsigned i = 0; i < BLOCKS; i++) {
			ck_assert_int_eq((w.seen >> i) & 1, f.blocks[i].end <= len);
			if (f.blocks[i].end <= len)
				whole = f.blocks[i].end;
		}
		ck_assert_uint_eq(w.damaged, 0);
		ck_assert_uint_eq(w.torn, len - whole);
	}
}
END_TEST

START_TEST(every_flipped_bit_costs_its_block_alone)
{
	struct file f;
	uint8_t bytes[sizeof(f.bytes)];

	file_make(&f);
	memcpy(bytes, f.bytes, f.len);
	for (size_t at = 0; at < f.len; at++) {
		struct walked w;

		bytes[at] ^= (uint8_t)(1 << _i);
		w = walk(&f, bytes, f.len);
		bytes[at] ^= (uint8_t)(1 << _i);
		for (unsigned i = 0; i < BLOCKS; i++) {
			bool hit = f.blocks[i].at <= at && at < f.blocks[i].end;

			ck_assert_int_eq((w.seen >> i) & 1, !hit);
			if (hit)
				ck_assert_uint_eq(w.damaged, f.blocks[i].end - f.blocks[i].at);
		}
		ck_assert_uint_eq(w.torn, 0);
	}
}
END_TEST

START_TEST(every_missing_byte_costs_its_block_alone)
{
	struct file f;
	uint8_t bytes[sizeof(f.bytes)];

	file_make(&f);
	for (size_t at = 0; at < f.len; at++) {
		struct walked w;

		memcpy(bytes, f.bytes, at);
		memcpy(bytes + at, f.bytes + at + 1, f.len - at - 1);
		w = walk(&f, bytes, f.len - 1);
		for (unsigned i = 0; i < BLOCKS; i++)
			ck_assert_int_eq((w.seen >> i) & 1,
					 !(f.blocks[i].at <= at && at < f.blocks[i].end));
	}
}
END_TEST

START_TEST(strange_bytes_between_blocks_are_skipped)
{
	static const char *const junk[] = {"\0", "\376MC", "\376MCB", "\376\376MCB", "0123456789"};
	struct file f;
	uint8_t bytes[sizeof(f.bytes) + 16];
	size_t len = strlen(junk[_i]) + (_i == 0);

	file_make(&f);
	for (unsigned i = 0; i < BLOCKS; i++) {
		size_t at = f.blocks[i].at;
		struct walked w;

		memcpy(bytes, f.bytes, at);
		memcpy(bytes + at, junk[_i], len);
		memcpy(bytes + at + len, f.bytes + at, f.len - at);
		w = walk(&f, bytes, f.len + len);
		ck_assert_uint_eq(w.seen, (1u << BLOCKS) - 1);
		ck_assert_uint_eq(w.damaged, len);
	}
}
END_TEST

/* A block whose CRC is right, but which does not hold what it says. */
static void
assert_not_sound(const uint8_t *frames, uint32_t len, uint32_t rows)
{
	uint8_t bytes[1024];
	struct spool_summary sum = {0};
	size_t torn;

	spool_block_encode(bytes, frames, len, rows);
	memcpy(bytes + SPOOL_BLOCK_HEADER, frames, len);
	spool_walk(bytes, SPOOL_BLOCK_HEADER + (size_t)len, &(struct spool_walk){0}, &sum, &torn);
	ck_assert_uint_eq(sum.rows, 0);
	ck_assert_uint_eq(sum.blocks, 0);
	ck_assert_uint_eq(torn, 0);
}

START_TEST(a_right_crc_does_not_make_metrics)
{
	struct sample s;
	uint8_t sync[FRAME_FIXED];

	sample_fill(&s, 0, 3);
	assert_not_sound(s.frames, s.len, 2);
	assert_not_sound(s.frames, s.len, 4);
	assert_not_sound(s.frames, s.len, 0);
	assert_not_sound(s.frames, s.len - 1, 3);
	assert_not_sound(s.frames, 0, 0);
	s.frames[9] = 0xff; /* not UTF-8 */
	assert_not_sound(s.frames, s.len, 3);
	s.frames[9] = '\n';
	assert_not_sound(s.frames, s.len, 3);
	s.frames[9] = 's';
	s.frames[0] = 0xff; /* past the year 9999 */
	assert_not_sound(s.frames, s.len, 3);
	frame_encode_sync(sync, 1, 1);
	memcpy(s.frames + s.len, sync, sizeof(sync));
	assert_not_sound(s.frames, s.len + (uint32_t)sizeof(sync), 4);
}
END_TEST

START_TEST(a_forged_block_inside_a_damaged_one_is_its_senders_own)
{
	/*
	 * a sender can only forge blocks of metrics that it has sent, so nothing wrong comes of it
	 */
	uint8_t bytes[2048], inner[512];
	struct sample s;
	struct spool_summary sum = {0};
	size_t n, len, torn;

	sample_fill(&s, 0, 2);
	n = sample_block(inner, &s);
	memcpy(bytes + SPOOL_BLOCK_HEADER, inner, n);
	spool_block_encode(bytes, inner, (uint32_t)n, 4);
	len = SPOOL_BLOCK_HEADER + n;
	spool_walk(bytes, len, &(struct spool_walk){0}, &sum, &torn);
	ck_assert_uint_eq(sum.rows, 2);
	ck_assert_uint_eq(torn, 0);
}
END_TEST

/*
 * Headers at every sixteen bytes, each claiming half of the file: without a bound this is
 * more than the time limit of the test allows.
 */
START_TEST(forged_headers_take_bounded_time)
{
	const size_t len = 4u << 20;
	uint8_t *bytes = malloc(len);
	struct spool_summary sum = {0};
	struct sample s;
	size_t torn;

	ck_assert_ptr_nonnull(bytes);
	for (size_t at = 0; at < len; at += SPOOL_BLOCK_HEADER) {
		memcpy(bytes + at, SPOOL_BLOCK_MAGIC, 4);
		be32_store(bytes + at + 4, (uint32_t)len / 2);
		be32_store(bytes + at + 8, (uint32_t)len / 2 / 100);
		be32_store(bytes + at + 12, (uint32_t)at);
	}
	sample_fill(&s, 0, 1);
	(void)sample_block(bytes, &s); /* what comes before is found */
	spool_walk(bytes, len, &(struct spool_walk){0}, &sum, &torn);
	ck_assert_uint_eq(sum.rows, 1);
	ck_assert_uint_eq(torn, 0);
	free(bytes);
}
END_TEST

START_TEST(some_forged_headers_do_not_hide_what_is_behind)
{
	struct sample s;
	uint8_t bytes[8192];
	struct spool_summary sum = {0};
	size_t len = 0, torn;

	sample_fill(&s, 0, 2);
	for (int i = 0; i < 50; i++) {
		memcpy(bytes + len, SPOOL_BLOCK_MAGIC, 4);
		be32_store(bytes + len + 4, 2000);
		be32_store(bytes + len + 8, 20);
		be32_store(bytes + len + 12, 0);
		len += SPOOL_BLOCK_HEADER;
	}
	for (int i = 0; i < 50; i++)
		len += sample_block(bytes + len, &s);
	spool_walk(bytes, len, &(struct spool_walk){0}, &sum, &torn);
	ck_assert_uint_eq(sum.rows, 100);
}
END_TEST

static Suite *
suite(void)
{
	Suite *s = suite_create("spool_file");
	TCase *tc = tcase_create("format");

	tcase_set_timeout(tc, 20);
	tcase_add_test(tc, names_go_there_and_back);
	tcase_add_loop_test(tc, foreign_names_are_not_ours, 0,
			    sizeof(foreign_names) / sizeof(*foreign_names));
	tcase_add_test(tc, uuids_go_there_and_back);
	tcase_add_loop_test(tc, other_text_is_no_uuid, 0, sizeof(not_uuids) / sizeof(*not_uuids));
	tcase_add_test(tc, header_goes_there_and_back);
	tcase_add_test(tc, header_stands_as_drawn);
	tcase_add_loop_test(tc, every_flipped_bit_of_the_header_is_noticed, 0, SPOOL_FILE_HEADER);
	tcase_add_loop_test(tc, every_prefix_of_the_header_is_no_header, 0, SPOOL_FILE_HEADER);
	tcase_add_test(tc, newer_versions_are_told_from_damage);
	tcase_add_loop_test(tc, absurd_summaries_are_not_believed, 0, 7);
	tcase_add_test(tc, a_whole_file_is_returned_whole);
	tcase_add_test(tc, a_sum_goes_on_from_what_it_was);
	tcase_add_test(tc, every_truncation_leaves_the_whole_blocks);
	tcase_add_loop_test(tc, every_flipped_bit_costs_its_block_alone, 0, 8);
	tcase_add_test(tc, every_missing_byte_costs_its_block_alone);
	tcase_add_loop_test(tc, strange_bytes_between_blocks_are_skipped, 0, 5);
	tcase_add_test(tc, a_right_crc_does_not_make_metrics);
	tcase_add_test(tc, a_forged_block_inside_a_damaged_one_is_its_senders_own);
	tcase_add_test(tc, forged_headers_take_bounded_time);
	tcase_add_test(tc, some_forged_headers_do_not_hide_what_is_behind);
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
