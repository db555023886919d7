/*
 * pg_columns.h - does metrics have the columns that COPY needs, and has it still?
 */
#pragma once

#include "store/pg/link/pg_conn.h"

/*
 * The types of the columns of metrics, as SQL that fails with division_by_zero
 * (22012) once they are no longer what they were: a binary COPY into another type of
 * eight bytes would be taken without a word.
 */
#define PG_GUARD_MAX 512
struct pg_guard {
	char sql[PG_GUARD_MAX];
};

/* Checks that metrics is what COPY needs (STORE_HOLD if not) and writes the guard. */
enum store_status pg_columns_read(struct pg_conn *c, struct pg_guard *ret, struct store_error *err);
