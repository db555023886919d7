/*
 * conf_read.h - a file of settings, or a password's, into memory.
 *
 * It must be a regular file, of limited size: a FIFO or a terminal would be waited for, and what
 * comes out of a pipe could not be read again at a reload, where nothing would look like an empty
 * file.  /dev/null is an empty file.
 */
#pragma once

#include <stddef.h>

/*
 * Reads the whole file; its length is below size.  Returns 0 or a negative errno: -EISDIR for a
 * directory, -ENXIO for anything else that is no regular file, -EFBIG when it does not fit.
 */
int conf_read(const char *path, char *buf, size_t size, size_t *ret);

/* What such an error means here. */
const char *conf_read_error(int error);
