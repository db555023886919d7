/*
 * fuzz_spool.c - the input is a spool file as recovery may find it, and a byte
 * that chooses: where it is odd, the CRCs of header, summary and blocks are made right first,
 * which chance would not.
 */
#include "fuzz.h"

#include <errno.h>
#include <string.h>

#include "buffer/spool/spool_judge.h"
#include "wire/bytes.h"
#include "wire/crc32c.h"
#include "wire/frame.h"

/* What a walk hands out, in turn. */
struct walked {
	const uint8_t *p;
	size_t len;
	size_t reached; /* everything before it was handed out */
	size_t sound, damaged;
	struct spool_summary sum;
	uint8_t *blocks; /* the sound ones, back to back */
};

static void
make_right(uint8_t *p, size_t len)
{
	size_t at = SPOOL_FILE_HEADER;

	if (len < SPOOL_FILE_HEADER)
		return;
	be32_store(p + 52, crc32c(0, p, 52));
	be32_store(p + 108, crc32c(0, p + SPOOL_FILE_SUMMARY, 108 - SPOOL_FILE_SUMMARY));
	while (at + SPOOL_BLOCK_HEADER <= len) {
		uint8_t *frames = p + at + SPOOL_BLOCK_HEADER;
		size_t room = len - at - SPOOL_BLOCK_HEADER;
		uint32_t n = be32_load(p + at + 4);

		if (memcmp(p + at, SPOOL_BLOCK_MAGIC, 4) != 0 || n > room) {
			at++;
			continue;
		}
		be32_store(p + at + 12, crc32c(crc32c(0, p + at, 12), frames, n));
		at += SPOOL_BLOCK_HEADER + (size_t)n;
	}
}

/* A sound block holds whole metrics, and is what encoding them gives. */
static void
on_block(void *arg, size_t offset, const uint8_t *frames, uint32_t len, uint32_t rows)
{
	struct walked *w = arg;
	uint8_t header[SPOOL_BLOCK_HEADER];
	uint32_t count = 0;

	FUZZ_CHECK(offset == w->reached);
	FUZZ_CHECK(frames == w->p + offset + SPOOL_BLOCK_HEADER);
	FUZZ_CHECK(offset + SPOOL_BLOCK_HEADER + len <= w->len);
	for (size_t at = 0; at < len; count++) {
		struct frame f;
		size_t n = frame_decode(frames + at, len - at, &FRAME_WINDOW_ALL, &f);

		FUZZ_CHECK(n > 0 && f.kind == FRAME_METRIC);
		spool_summary_add(&w->sum, n, 1, f.time_us, f.time_us);
		at += n;
	}
	FUZZ_CHECK(count == rows && rows > 0);
	spool_block_encode(header, frames, len, rows);
	FUZZ_CHECK(memcmp(header, w->p + offset, sizeof(header)) == 0);
	w->sum.blocks++;
	memcpy(w->blocks + w->sound, w->p + offset, SPOOL_BLOCK_HEADER + (size_t)len);
	w->sound += SPOOL_BLOCK_HEADER + (size_t)len;
	w->reached += SPOOL_BLOCK_HEADER + (size_t)len;
}

static void
on_damage(void *arg, size_t offset, size_t len)
{
	struct walked *w = arg;

	FUZZ_CHECK(offset == w->reached);
	FUZZ_CHECK(len > 0 && offset + len <= w->len);
	w->damaged += len;
	w->reached += len;
}

static void
check_same(const struct spool_summary *a, const struct spool_summary *b)
{
	FUZZ_CHECK(a->rows == b->rows);
	FUZZ_CHECK(a->bytes == b->bytes);
	FUZZ_CHECK(a->min_us == b->min_us);
	FUZZ_CHECK(a->max_us == b->max_us);
	FUZZ_CHECK(a->blocks == b->blocks);
	FUZZ_CHECK(a->file_size == b->file_size);
}

/* What it finds in pieces is what it finds at once. */
static void
check_pieces(const uint8_t *p, size_t len, const struct spool_summary *right, size_t torn)
{
	size_t piece = len / 3 + 1, begin = 0, end = 0;
	struct spool_summary sum = {0};
	struct spool_walker k;

	spool_walk_begin(&k, len, &(struct spool_walk){0}, &sum);
	while (end < len) {
		end += len - end < piece ? len - end : piece;
		begin += spool_walk_on(&k, p + begin, end - begin);
		FUZZ_CHECK(begin <= end && begin == k.from);
		piece = piece / 2 + 1;
	}
	FUZZ_CHECK(spool_walk_end(&k, p + begin, end - begin) == torn);
	check_same(&sum, right);
}

static void
check_walk(const uint8_t *p, size_t len)
{
	struct walked w = {.p = p, .len = len, .blocks = malloc(len + 1)};
	const struct spool_walk calls = {on_block, on_damage, &w};
	struct spool_summary sum = {0}, again = {0};
	size_t torn;

	FUZZ_CHECK(w.blocks != NULL);
	spool_walk(p, len, &calls, &sum, &torn);
	FUZZ_CHECK(w.sound + w.damaged + torn == len);
	FUZZ_CHECK(w.reached + torn == len);
	check_same(&sum, &w.sum);
	check_pieces(p, len, &sum, torn);
	/* what recovery writes is sound throughout */
	spool_walk(w.blocks, w.sound, &(struct spool_walk){0}, &again, &torn);
	FUZZ_CHECK(torn == 0);
	check_same(&again, &sum);
	free(w.blocks);
}

/* ---- a whole file ---- */

static int
get(void *arg, uint8_t *data, size_t len, uint64_t offset, size_t *got)
{
	const struct walked *w = arg;

	FUZZ_CHECK(offset <= w->len);
	*got = w->len - offset < len ? w->len - (size_t)offset : len;
	memcpy(data, w->p + offset, *got);
	return 0;
}

static uint64_t
next(void *arg, uint64_t offset)
{
	const struct walked *w = arg;

	while (offset < w->len && w->p[offset] == 0)
		offset++;
	return offset;
}

/* Everything is in sound blocks, damaged or torn, also where holes are passed over. */
static void
check_judge(const uint8_t *p, size_t len)
{
	struct walked w = {.p = p, .len = len};
	const struct spool_content content = {get, next, &w, len};
	struct spool_verdict v;
	struct spool_header h;
	uint64_t number = spool_header_decode(p, len, &h) == 0 ? h.number : 1;
	int r = spool_judge(&content, number, &(struct spool_walk){0}, &v);
	uint64_t rest;

	FUZZ_CHECK(r == 0 || r == -ENOTSUP);
	if (r < 0)
		return;
	FUZZ_CHECK(v.size == len && !v.other_number);
	rest = len - v.damaged - v.torn;
	FUZZ_CHECK(rest == v.sound.file_size - (v.header_sound ? 0 : SPOOL_FILE_HEADER));
	FUZZ_CHECK(v.header_sound || !v.header.sealed);
}

static void
check_header(const uint8_t *p, size_t len)
{
	struct spool_header h, again;
	uint8_t bytes[SPOOL_FILE_HEADER];
	int r = spool_header_decode(p, len, &h);

	FUZZ_CHECK(r == 0 || r == -EBADMSG || r == -ENOTSUP);
	if (r != 0)
		return;
	spool_header_encode(bytes, &h);
	FUZZ_CHECK(spool_header_decode(bytes, sizeof(bytes), &again) == 0);
	FUZZ_CHECK(strcmp(again.collector, h.collector) == 0);
	FUZZ_CHECK(again.number == h.number);
	FUZZ_CHECK(again.created_us == h.created_us);
	FUZZ_CHECK(again.sealed == h.sealed);
	check_same(&again.summary, &h.summary);
	if (h.sealed)
		FUZZ_CHECK(h.summary.file_size >= SPOOL_FILE_HEADER + h.summary.bytes);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *file;

	if (size == 0)
		return 0;
	size--;
	file = malloc(size + !size);
	FUZZ_CHECK(file != NULL);
	memcpy(file, data, size);
	if (data[size] & 1)
		make_right(file, size);
	check_header(file, size);
	check_judge(file, size);
	if (size > SPOOL_FILE_HEADER)
		check_walk(file + SPOOL_FILE_HEADER, size - SPOOL_FILE_HEADER);
	free(file);
	return 0;
}
