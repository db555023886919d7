/*
 * spool_back.h - batches that lie in corrupt/ and are whole go back to the spool.
 *
 * A file gets there because it could not be read, or somebody has mended it since.  What was moved
 * aside was never stored; a batch whose number is in the spool stays where it is.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct spool_back {
	const char *dir;                         /* the spool; borrowed */
	bool (*has)(void *arg, uint64_t number); /* is it in the spool? */
	void *arg;
	bool apply;
};

/*
 * Says on stdout what there is to be done, or with apply, does it; the caller has the spool's lock.
 * Root gives the files to the directory's owner.  Returns how many batches it is about, -1 after an
 * error, which is on stderr.
 */
long spool_back(const struct spool_back *b);
