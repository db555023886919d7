#include "buffer/spool/spool_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "wire/bytes.h"
#include "wire/crc32c.h"
#include "wire/frame.h"

/* Where the header's fields stand; the drawing is in spool_file.h. */
enum {
	AT_VERSION = 8,
	AT_HEADER_SIZE = 10,
	AT_COLLECTOR = 16,
	AT_NUMBER = 32,
	AT_CREATED = 40,
	AT_HEADER_CRC = 52,
	AT_SEAL = 56,
	AT_BLOCKS = 60,
	AT_ROWS = 64,
	AT_BYTES = 72,
	AT_MIN = 80,
	AT_MAX = 88,
	AT_FILE_SIZE = 96,
	AT_SEAL_CRC = 108,
};

static const uint8_t file_magic[8] = "MCSPOOL";
static const uint8_t seal_magic[4] = {'S', 'E', 'A', 'L'};
static const uint8_t block_magic[] = SPOOL_BLOCK_MAGIC;
#define MAGIC_SIZE 4

/*
 * What failed candidates may cost a walk, as a multiple of the bytes walked.  A sender can
 * put block headers into its metrics, so that each of many overlapping candidates asks for a
 * long CRC; chance alone spends less than one of these.
 */
#define WALK_BUDGET 64

void
spool_header_encode(uint8_t out[SPOOL_FILE_HEADER], const struct spool_header *h)
{
	memset(out, 0, SPOOL_FILE_HEADER);
	memcpy(out, file_magic, sizeof(file_magic));
	be16_store(out + AT_VERSION, SPOOL_FILE_VERSION);
	be16_store(out + AT_HEADER_SIZE, SPOOL_FILE_HEADER);
	(void)uuid_parse(h->collector, out + AT_COLLECTOR);
	be64_store(out + AT_NUMBER, h->number);
	be64_store(out + AT_CREATED, h->created_us);
	be32_store(out + AT_HEADER_CRC, crc32c(0, out, AT_HEADER_CRC));
	if (!h->sealed)
		return;
	memcpy(out + AT_SEAL, seal_magic, sizeof(seal_magic));
	be32_store(out + AT_BLOCKS, h->summary.blocks);
	be64_store(out + AT_ROWS, h->summary.rows);
	be64_store(out + AT_BYTES, h->summary.bytes);
	be64_store(out + AT_MIN, h->summary.min_us);
	be64_store(out + AT_MAX, h->summary.max_us);
	be64_store(out + AT_FILE_SIZE, h->summary.file_size);
	be32_store(out + AT_SEAL_CRC, crc32c(0, out + AT_SEAL, AT_SEAL_CRC - AT_SEAL));
}

/* Could len bytes hold that many frames? */
static bool
rows_fit(uint64_t rows, uint64_t len)
{
	return rows <= len / (FRAME_FIXED + 1) && len <= rows * FRAME_MAX;
}

static bool
summary_decode(const uint8_t *p, struct spool_summary *ret)
{
	struct spool_summary s = {
	    .rows = be64_load(p + AT_ROWS),
	    .bytes = be64_load(p + AT_BYTES),
	    .min_us = be64_load(p + AT_MIN),
	    .max_us = be64_load(p + AT_MAX),
	    .file_size = be64_load(p + AT_FILE_SIZE),
	    .blocks = be32_load(p + AT_BLOCKS),
	};

	if (memcmp(p + AT_SEAL, seal_magic, sizeof(seal_magic)) != 0)
		return false;
	if (be32_load(p + AT_SEAL_CRC) != crc32c(0, p + AT_SEAL, AT_SEAL_CRC - AT_SEAL))
		return false;
	if (!rows_fit(s.rows, s.bytes) || s.blocks > s.rows || s.min_us > s.max_us)
		return false;
	if (s.file_size != SPOOL_FILE_HEADER + (uint64_t)s.blocks * SPOOL_BLOCK_HEADER + s.bytes)
		return false;
	*ret = s;
	return true;
}

int
spool_header_decode(const uint8_t *p, size_t len, struct spool_header *ret)
{
	uint16_t version;

	if (len < SPOOL_FILE_HEADER || memcmp(p, file_magic, sizeof(file_magic)) != 0)
		return -EBADMSG;
	if (be32_load(p + AT_HEADER_CRC) != crc32c(0, p, AT_HEADER_CRC))
		return -EBADMSG;
	version = be16_load(p + AT_VERSION);
	if (version > SPOOL_FILE_VERSION)
		return -ENOTSUP;
	if (version == 0 || be16_load(p + AT_HEADER_SIZE) != SPOOL_FILE_HEADER)
		return -EBADMSG;
	memset(ret, 0, sizeof(*ret));
	uuid_format(ret->collector, p + AT_COLLECTOR);
	ret->number = be64_load(p + AT_NUMBER);
	ret->created_us = be64_load(p + AT_CREATED);
	ret->sealed = summary_decode(p, &ret->summary);
	return 0;
}

static uint32_t
block_crc(const uint8_t *header, const uint8_t *frames, size_t len)
{
	return crc32c(crc32c(0, header, SPOOL_BLOCK_HEADER - 4), frames, len);
}

void
spool_block_encode(uint8_t out[SPOOL_BLOCK_HEADER], const uint8_t *frames, uint32_t len,
		   uint32_t rows)
{
	memcpy(out, block_magic, MAGIC_SIZE);
	be32_store(out + 4, len);
	be32_store(out + 8, rows);
	be32_store(out + 12, block_crc(out, frames, len));
}

void
spool_summary_add(struct spool_summary *sum, uint64_t bytes, uint64_t rows, uint64_t min_us,
		  uint64_t max_us)
{
	if (rows == 0)
		return;
	if (sum->rows == 0 || min_us < sum->min_us)
		sum->min_us = min_us;
	if (sum->rows == 0 || max_us > sum->max_us)
		sum->max_us = max_us;
	sum->rows += rows;
	sum->bytes += bytes;
}

/*
 * Adds the metrics at p to *sum, up to the first bytes that are none; returns how many bytes
 * were metrics.
 */
static size_t
metrics_add(const uint8_t *p, size_t len, struct spool_summary *sum)
{
	struct frame f;
	size_t at = 0;

	while (at < len) {
		size_t n = frame_decode(p + at, len - at, &FRAME_WINDOW_ALL, &f);

		if (n == 0 || f.kind != FRAME_METRIC)
			break;
		spool_summary_add(sum, n, 1, f.time_us, f.time_us);
		at += n;
	}
	return at;
}

/* The length of the block whose header is at p, or 0 for what cannot be one. */
static uint32_t
block_length(const uint8_t *p, size_t len)
{
	uint32_t n;

	if (len < SPOOL_BLOCK_HEADER || memcmp(p, block_magic, MAGIC_SIZE) != 0)
		return 0;
	n = be32_load(p + 4);
	return n <= SPOOL_BLOCK_MAX && rows_fit(be32_load(p + 8), n) ? n : 0;
}

/*
 * The sound block at p: adds it to *sum and returns the length of its frames; 0 if there is
 * none.  Looking in vain is paid from *budget; once that is spent there are no blocks.
 */
static uint32_t
block_take(const uint8_t *p, size_t len, uint64_t *budget, struct spool_summary *sum)
{
	uint32_t n = block_length(p, len);
	struct spool_summary s = *sum;

	if (n == 0 || n > len - SPOOL_BLOCK_HEADER || n > *budget)
		return 0;
	if (block_crc(p, p + SPOOL_BLOCK_HEADER, n) != be32_load(p + 12) ||
	    metrics_add(p + SPOOL_BLOCK_HEADER, n, &s) != n ||
	    s.rows - sum->rows != be32_load(p + 8)) {
		*budget -= n;
		return 0;
	}
	s.blocks++;
	*sum = s;
	return n;
}

/*
 * Is this the beginning of a block that was being written when the daemon died?  One that has
 * all its metrics was whole: then it is the length that is damaged.
 */
static bool
block_torn(const uint8_t *p, size_t len)
{
	struct spool_summary have = {0};
	uint32_t n;

	if (len < SPOOL_BLOCK_HEADER)
		return true;
	n = block_length(p, len);
	if (n <= len - SPOOL_BLOCK_HEADER) /* 0 is no block at all */
		return false;
	(void)metrics_add(p + SPOOL_BLOCK_HEADER, len - SPOOL_BLOCK_HEADER, &have);
	return have.rows < be32_load(p + 8);
}

static size_t
next_magic(const uint8_t *p, size_t len, size_t from)
{
	const uint8_t *hit = memmem(p + from, len - from, block_magic, MAGIC_SIZE);

	return hit ? (size_t)(hit - p) : len;
}

/* ---- a walk ---- */

/* How many bytes at the end may be the beginning of a magic. */
static size_t
magic_begun(const uint8_t *p, size_t len)
{
	size_t n = MAGIC_SIZE - 1;

	while (n > 0 && memcmp(p + len - n, block_magic, n) != 0)
		n--;
	return n;
}

void
spool_walk_begin(struct spool_walker *k, uint64_t len, const struct spool_walk *w,
		 struct spool_summary *sum)
{
	*k = (struct spool_walker){.w = w, .sum = sum, .len = len, .budget = len * WALK_BUDGET};
}

/* Takes the next block, or passes over what is none; false when more bytes have to tell. */
static bool
walk_step(struct spool_walker *k, const uint8_t *p, size_t len, bool last)
{
	size_t i = (size_t)(k->at - k->from), have = len - i;
	uint64_t rows = k->sum->rows, whole;
	uint32_t n;

	if (have < SPOOL_BLOCK_HEADER && !last)
		return false;
	n = block_length(p + i, have);
	whole = SPOOL_BLOCK_HEADER + (uint64_t)n;
	if (n && whole > have && whole <= k->len - k->at && n <= k->budget && !last)
		return false;
	n = block_take(p + i, have, &k->budget, k->sum);
	if (n == 0) {
		size_t next = next_magic(p, len, i + 1);

		if (next == len && !last)
			next = len - magic_begun(p, len);
		k->at = k->from + next;
		return true;
	}
	if (k->at > k->bad && k->w->damage)
		k->w->damage(k->w->arg, (size_t)k->bad, (size_t)(k->at - k->bad));
	if (k->w->block)
		k->w->block(k->w->arg, (size_t)k->at, p + i + SPOOL_BLOCK_HEADER, n,
			    (uint32_t)(k->sum->rows - rows));
	k->at += whole;
	k->bad = k->at;
	k->no_block = false;
	return true;
}

/* Where the bytes begin that are needed again: all of what may be a torn block. */
static uint64_t
walk_needs(struct spool_walker *k, const uint8_t *p, size_t len)
{
	if (!k->no_block && k->from + len - k->bad >= SPOOL_BLOCK_HEADER) {
		size_t i = (size_t)(k->bad - k->from);

		k->no_block = block_length(p + i, len - i) <= k->len - k->bad - SPOOL_BLOCK_HEADER;
	}
	return k->no_block ? k->at : k->bad;
}

size_t
spool_walk_on(struct spool_walker *k, const uint8_t *p, size_t len)
{
	uint64_t before = k->from;

	if (before + len > k->len)
		k->len = before + len;
	while (k->at < before + len && walk_step(k, p, len, false))
		;
	k->from = walk_needs(k, p, len);
	return (size_t)(k->from - before);
}

bool
spool_walk_may_skip(const struct spool_walker *k)
{
	return k->no_block && k->at == k->from;
}

void
spool_walk_skip(struct spool_walker *k, uint64_t len)
{
	k->at += len;
	k->from += len;
}

size_t
spool_walk_end(struct spool_walker *k, const uint8_t *p, size_t len)
{
	size_t rest;

	k->len = k->from + len;
	while (k->at < k->len)
		(void)walk_step(k, p, len, true);
	rest = (size_t)(k->len - k->bad);
	if (rest == 0)
		return 0;
	if (k->bad >= k->from && block_torn(p + (k->bad - k->from), rest))
		return rest;
	if (k->w->damage)
		k->w->damage(k->w->arg, (size_t)k->bad, rest);
	return 0;
}

void
spool_walk(const uint8_t *p, size_t len, const struct spool_walk *w, struct spool_summary *sum,
	   size_t *torn)
{
	struct spool_walker k;

	spool_walk_begin(&k, len, w, sum);
	*torn = spool_walk_end(&k, p, len);
}

/* ---- names ---- */

void
spool_name_as(char out[SPOOL_NAME_MAX], uint64_t number, const char *suffix)
{
	(void)snprintf(out, SPOOL_NAME_MAX, "%0*" PRIu64 "%s", SPOOL_NAME_DIGITS, number, suffix);
}

void
spool_name(char out[SPOOL_NAME_MAX], uint64_t number)
{
	spool_name_as(out, number, ".batch");
}

bool
spool_name_parse_as(const char *name, const char *suffix, uint64_t *number)
{
	uint64_t n = 0;

	for (int i = 0; i < SPOOL_NAME_DIGITS; i++) {
		unsigned digit = (unsigned)((unsigned char)name[i] - '0');

		if (digit > 9 || n > SPOOL_NUMBER_MAX / 10)
			return false;
		n = n * 10 + digit;
	}
	if (n == 0 || n > SPOOL_NUMBER_MAX || strcmp(name + SPOOL_NAME_DIGITS, suffix) != 0)
		return false;
	*number = n;
	return true;
}

bool
spool_name_parse(const char *name, uint64_t *number)
{
	return spool_name_parse_as(name, ".batch", number);
}
