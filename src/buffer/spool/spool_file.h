/*
 * spool_file.h - the format of one spool file: a batch on disk, version 1.
 *
 *	header   112 bytes: what the batch is, and once it is sealed, a summary
 *	block    { magic 4 | length 4 | rows 4 | crc32c 4 | frames ... }   repeated
 *
 * A block's magic holds a byte that no UTF-8 has, so that no metric's name looks like one.
 * Frames stand in wire form (wire/frame.h).  The CRC covers the block's first
 * twelve bytes and its frames.  All integers are big-endian.
 *
 * A file grows by whole blocks.  Sealing writes the summary over its reserved
 * place in the header, so that it needs no space that is not there already.  A file
 * without a sound summary is one whose daemon died: its blocks are scanned.
 *
 *	  0  magic "MCSPOOL\0"      8      56  "SEAL" when sealed, else zero   4
 *	  8  version                2      60  blocks                          4
 *	 10  header size            2      64  rows                            8
 *	 12  zero                   4      72  bytes of frames                 8
 *	 16  collector's UUID      16      80  smallest timestamp, µs          8
 *	 32  batch number           8      88  largest timestamp, µs           8
 *	 40  created, µs since 1970 8      96  size of the file                8
 *	 48  zero                   4     104  zero                            4
 *	 52  crc32c of 0..51        4     108  crc32c of 56..107               4
 *
 * Everything here is a pure function over bytes; spool.h does the I/O.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/uuid.h"

#define SPOOL_FILE_VERSION 1
#define SPOOL_FILE_HEADER 112
#define SPOOL_FILE_SUMMARY 56 /* where the summary begins */
#define SPOOL_BLOCK_HEADER 16
#define SPOOL_BLOCK_MAGIC "\376MCB"
#define SPOOL_BLOCK_MAX (64u << 20) /* a longer length is damage */

/* What a file of that size takes of a disk: whole blocks, of 4 KiB on nearly every file system. */
#define SPOOL_DISK_BLOCK 4096

static inline uint64_t
spool_disk_bytes(uint64_t file_size)
{
	return (file_size + SPOOL_DISK_BLOCK - 1) / SPOOL_DISK_BLOCK * SPOOL_DISK_BLOCK;
}

/* What a batch holds. */
struct spool_summary {
	uint64_t rows;
	uint64_t bytes; /* of frames */
	uint64_t min_us;
	uint64_t max_us;
	uint64_t file_size; /* header, blocks and all */
	uint32_t blocks;
};

struct spool_header {
	char collector[UUID_TEXT];
	uint64_t number;
	uint64_t created_us;
	bool sealed; /* summary is sound */
	struct spool_summary summary;
};

/* Adds rows metrics, bytes long and between two instants, to *sum. */
void spool_summary_add(struct spool_summary *sum, uint64_t bytes, uint64_t rows, uint64_t min_us,
		       uint64_t max_us);

void spool_header_encode(uint8_t out[SPOOL_FILE_HEADER], const struct spool_header *h);

/*
 * Returns 0; -EBADMSG for what is not a sound header; -ENOTSUP for a sound one of a
 * newer format version.  A damaged summary is no error: sealed is then false.
 */
int spool_header_decode(const uint8_t *p, size_t len, struct spool_header *ret);

/* The 16 bytes in front of a block's frames. */
void spool_block_encode(uint8_t out[SPOOL_BLOCK_HEADER], const uint8_t *frames, uint32_t len,
			uint32_t rows);

/*
 * Walks the blocks of a file that was read into memory (p, len: what follows the
 * header).  Sound blocks, each holding exactly the whole valid frames it says, are
 * handed to block(); damaged stretches to damage() (either may be NULL), in the order of
 * their offsets.  After damage the walk goes on at the next sound block.  A torn end (the
 * beginning of a block, without all its metrics) is not damage: *torn counts its bytes.
 * The work is bounded by a multiple of len whatever the bytes are; where senders have forged so
 * many block headers that this does not suffice, the rest is damage.
 * Adds what the sound blocks hold to *sum (file_size excepted); min_us and max_us are
 * set from the first frame on.
 */
struct spool_walk {
	void (*block)(void *arg, size_t offset, const uint8_t *frames, uint32_t len, uint32_t rows);
	void (*damage)(void *arg, size_t offset, size_t len);
	void *arg;
};
void spool_walk(const uint8_t *p, size_t len, const struct spool_walk *w, struct spool_summary *sum,
		size_t *torn);

/*
 * The same in pieces, for what memory shall not hold as a whole.  spool_walk_on() gets all bytes
 * from k->from on that are there by now, and returns how many of them it is done with: k->from goes
 * on by so many.  It keeps one block at the most.  spool_walk_end() gets the rest, and returns how
 * many bytes are a torn end.  len is how many bytes there will be, as far as that is known.
 * Zeros need not be handed in: where spool_walk_may_skip(), they may be skipped.
 */
struct spool_walker {
	const struct spool_walk *w; /* borrowed */
	struct spool_summary *sum;  /* borrowed */
	uint64_t from;              /* offset of the bytes that are handed in next */

	/* its own */
	uint64_t len;
	uint64_t budget;
	uint64_t at;   /* what is looked at next */
	uint64_t bad;  /* what lies between here and at is in no sound block */
	bool no_block; /* nor does a block begin there */
};
void spool_walk_begin(struct spool_walker *k, uint64_t len, const struct spool_walk *w,
		      struct spool_summary *sum);
size_t spool_walk_on(struct spool_walker *k, const uint8_t *p, size_t len);
bool spool_walk_may_skip(const struct spool_walker *k);
void spool_walk_skip(struct spool_walker *k, uint64_t len);
size_t spool_walk_end(struct spool_walker *k, const uint8_t *p, size_t len);

/*
 * 42 -> "00000000000000000042.batch" and back; false for any other name.  Numbers are 1 to
 * SPOOL_NUMBER_MAX, so that counting on from any of them stays within SQL's bigint.
 */
#define SPOOL_NAME_MAX 32
#define SPOOL_NUMBER_MAX (UINT64_C(1) << 62)
void spool_name(char out[SPOOL_NAME_MAX], uint64_t number);
bool spool_name_parse(const char *name, uint64_t *number);

/* The same for names that end otherwise (suffix ".stored"). */
#define SPOOL_NAME_DIGITS 20
void spool_name_as(char out[SPOOL_NAME_MAX], uint64_t number, const char *suffix);
bool spool_name_parse_as(const char *name, const char *suffix, uint64_t *number);
