/*
 * sqlite_file.h - the database's file before SQLite opens it.
 *
 * SQLite would wait at a FIFO, call a directory unable to open, and throw away what the -wal of a
 * truncated file holds.
 */
#pragma once

#include <stdbool.h>

#include "store/store.h"

/*
 * Where the file is missing or empty: with make makes its directory, if database.create lets us, and else
 * that is STORE_HOLD, err->setup.  Where it, or one of the files beside it, is what no operator can
 * have meant, STORE_HOLD with what to do.
 */
enum store_status sqlite_file_prepare(const struct conf_database *conf, bool make,
				      struct store_error *err);
