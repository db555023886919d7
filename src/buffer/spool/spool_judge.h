/*
 * spool_judge.h - what the file of a batch is, and what is left of it: recovery, reading back and
 * metric-spool go by this.
 *
 * The file is read in pieces of a megabyte.  What is damaged is not kept, and holes are not read, so
 * that a file costs as much memory as one of its blocks, however long it claims to be.
 */
#pragma once

#include "buffer/spool/spool_file.h"

struct spool_verdict {
	bool header_sound;
	bool other_number;          /* a sound header, but of another batch than the name says */
	struct spool_header header; /* zero where it is not sound */
	struct spool_summary sound; /* what the sound blocks hold, and how long they make a file */
	uint64_t size;              /* of the file */
	uint64_t damaged;           /* bytes of header and blocks */
	size_t torn;  /* bytes of a block at the end of a file that was growing: no damage */
	bool differs; /* it was sealed, and its rows or its size are not those of then */
};

/*
 * The file.  get() reads up to len bytes from offset on, fewer at its end; 0 or a negative errno.
 * next() says where the first byte is, from offset on, that may not be zero.
 */
struct spool_content {
	int (*get)(void *arg, uint8_t *data, size_t len, uint64_t offset, size_t *got);
	uint64_t (*next)(void *arg, uint64_t offset);
	void *arg;
	uint64_t size; /* as far as it is known: it may be growing */
};

/*
 * Judges the file that has the name of that number.  w gets blocks and damage as from spool_walk(),
 * but with offsets in the file, the header's damage and a sealed file's torn end among it.  ret
 * has the header before the first call.  Returns 0, -ENOTSUP for a newer format version, -ENOMEM,
 * or what get() has returned.
 */
int spool_judge(const struct spool_content *c, uint64_t number, const struct spool_walk *w,
		struct spool_verdict *ret);
