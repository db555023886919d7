/*
 * spool_look.h - looks at one file of a spool, and changes nothing.
 *
 * What is judged here is what the spool itself makes of a file (buffer/spool_recover.c).  The
 * daemon may be writing the file, or removing it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer/spool/spool_judge.h"

/* A file, as the directory's listing names it. */
struct look_entry {
	uint64_t number;
	bool kept; /* .stored: the database has it */
};

#define LOOK_NAME_MAX 64

enum look_state {
	LOOK_OPEN,    /* it grows, or its daemon was killed */
	LOOK_WHOLE,   /* sealed */
	LOOK_DAMAGED, /* some of it is lost */
};

/* The caller sets the first six (all may be zero but dir), look_at() the others. */
struct look {
	const char *dir; /* borrowed */
	bool print;      /* a line on stdout for each damage */
	bool quiet;      /* errors are not said */
	bool live;       /* a daemon has the spool: a file may have no header yet */
	void (*block)(void *arg, const uint8_t *frames, uint32_t len); /* gets the sound blocks */
	void *arg;

	char name[LOOK_NAME_MAX];
	enum look_state state;
	uint64_t size; /* of the file */
	struct spool_verdict verdict;
};

/*
 * With quick, a sealed file costs a read of its header, and damage in its blocks is not seen.
 * Returns 0; -ENOENT when there is no such file; -ENOTSUP for a newer format, or another
 * error: then it says so on stderr.
 */
int look_at(struct look *l, const struct look_entry *e, bool quick);

/* The same for a file of another name, which the caller sets. */
int look_at_name(struct look *l, const struct look_entry *e, bool quick);
