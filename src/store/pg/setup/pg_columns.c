#include "store/pg/setup/pg_columns.h"

#include <stdio.h>

#include "store/pg/link/pg_error.h"

/* One row for each column of ours: its name, its type, whether that will do. */
static const char columns_sql[] =
    "SELECT a.attname, a.atttypid, pg_catalog.format_type(a.atttypid, a.atttypmod),"
    " CASE a.attname"
    "  WHEN 'time' THEN b.oid = 'pg_catalog.timestamptz'::pg_catalog.regtype"
    "  WHEN 'value' THEN b.oid = 'pg_catalog.float8'::pg_catalog.regtype"
    "  ELSE b.typcategory = 'S' END"
    " FROM pg_catalog.pg_attribute a"
    " JOIN pg_catalog.pg_type t ON t.oid = a.atttypid"
    " JOIN pg_catalog.pg_type b ON b.oid ="
    "  CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END"
    " WHERE a.attrelid = 'metrics'::pg_catalog.regclass"
    " AND a.attname IN ('time', 'metric_name', 'value') AND NOT a.attisdropped"
    " ORDER BY 1";

#define GUARD_ROW "('%s', %s)"
static const char guard_format[] =
    "SELECT 1 / (pg_catalog.count(*) = 3)::pg_catalog.int4 FROM pg_catalog.pg_attribute"
    " WHERE attrelid = 'metrics'::pg_catalog.regclass"
    " AND (attname, atttypid) IN (" GUARD_ROW ", " GUARD_ROW ", " GUARD_ROW ")";

enum store_status
pg_columns_read(struct pg_conn *c, struct pg_guard *ret, struct store_error *err)
{
	PGresult *r = NULL;
	enum store_status st = pg_select(c, columns_sql, PG_ROWS(4), &r, err);
	char text[256];
	int i;

	if (st != STORE_OK)
		return st;
	if (PQntuples(r) != 3) {
		st = pg_error_set(err, "42703", "metrics lacks a column", NULL, true);
		goto out;
	}
	for (i = 0; i < 3; i++) {
		if (*PQgetvalue(r, i, 3) == 't')
			continue;
		(void)snprintf(text, sizeof(text), "column %s of metrics is of type %s",
			       PQgetvalue(r, i, 0), PQgetvalue(r, i, 2));
		st = pg_error_set(err, "42804", text, NULL, true);
		goto out;
	}
	(void)snprintf(ret->sql, sizeof(ret->sql), guard_format, PQgetvalue(r, 0, 0),
		       PQgetvalue(r, 0, 1), PQgetvalue(r, 1, 0), PQgetvalue(r, 1, 1),
		       PQgetvalue(r, 2, 0), PQgetvalue(r, 2, 1));
out:
	PQclear(r);
	return st;
}
