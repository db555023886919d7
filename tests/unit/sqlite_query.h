/* sqlite_query.h - looking into, and meddling with, the database file under test from outside. */
#pragma once

#include <check.h>
#include <sqlite3.h>
#include <stddef.h>
#include <stdio.h>

static inline sqlite3 *
outsider(const char *path)
{
	sqlite3 *db;

	ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
	ck_assert_int_eq(sqlite3_busy_timeout(db, 30000), SQLITE_OK);
	return db;
}

static inline void
execute_on(sqlite3 *db, const char *sql)
{
	ck_assert_msg(sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK, "%s: %s", sql,
		      sqlite3_errmsg(db));
}

static inline void
execute(const char *path, const char *sql)
{
	sqlite3 *db = outsider(path);

	execute_on(db, sql);
	ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
}

/* All rows as text: columns apart by "|", each row ends with a newline, NULL is "NULL". */
#define QUERY_MAX 4096

static inline int
query_row(void *arg, int n, char **values, char **names)
{
	char *out = arg;
	size_t len = 0;

	(void)names;
	while (out[len])
		len++;
	for (int i = 0; i < n; i++) {
		len += (size_t)snprintf(out + len, QUERY_MAX - len, "%s%c",
					values[i] ? values[i] : "NULL", i + 1 < n ? '|' : '\n');
		ck_assert_uint_lt(len, QUERY_MAX);
	}
	return 0;
}

static inline void
query(const char *path, const char *sql, char out[QUERY_MAX])
{
	sqlite3 *db = outsider(path);

	out[0] = '\0';
	ck_assert_msg(sqlite3_exec(db, sql, query_row, out, NULL) == SQLITE_OK, "%s: %s", sql,
		      sqlite3_errmsg(db));
	ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
}

#define assert_query(path, sql, expected)                \
	do {                                             \
		char query_out[QUERY_MAX];               \
                                                         \
		query((path), (sql), query_out);         \
		ck_assert_str_eq(query_out, (expected)); \
	} while (0)
