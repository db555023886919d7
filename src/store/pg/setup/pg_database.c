#include "store/pg/setup/pg_database.h"

#include <stdio.h>
#include <string.h>

#define CREATE_TRIES 20
#define CREATE_PAUSE_MS 250

/* Has another collector been quicker? */
static bool
exists_already(const struct store_error *err)
{
	return strcmp(err->sqlstate, "42P04") == 0 || strcmp(err->sqlstate, "23505") == 0;
}

static enum store_status
create_database_as(struct pg_conn *c, const char *name, const char *options,
		   struct store_error *err)
{
	char *quoted = PQescapeIdentifier(c->pg, name, strlen(name));
	enum store_status st;
	char sql[512];

	if (!quoted)
		return pg_fail(err, "out of memory");
	(void)snprintf(sql, sizeof(sql), "CREATE DATABASE %s%s", quoted, options);
	PQfreemem(quoted);
	st = pg_query_bare(c, sql, err);
	return st != STORE_OK && exists_already(err) ? STORE_OK : st;
}

static enum store_status
create_database(struct pg_conn *c, const char *name, struct store_error *err)
{
	enum store_status st;
	int i;

	for (i = 0; i < CREATE_TRIES; i++) {
		st = create_database_as(c, name, " ENCODING 'UTF8' TEMPLATE template0", err);
		/* the locale of the server wants another encoding */
		if (strcmp(err->sqlstate, "22023") == 0 && st != STORE_OK)
			st = create_database_as(c, name, "", err);
		/* somebody else uses the template */
		if (st == STORE_OK || strcmp(err->sqlstate, "55006") != 0)
			return st;
		st = pg_sleep(c, CREATE_PAUSE_MS, err);
		if (st != STORE_OK)
			return st;
	}
	return STORE_RETRY;
}

enum store_status
pg_database_create(int stop_fd, const struct conf *conf, const char *name, struct store_error *err)
{
	static const char *const doors[] = {"postgres", "template1"};
	struct pg_conn c = {.stop_fd = stop_fd};
	enum store_status st = STORE_HOLD;
	size_t i;

	for (i = 0; i < sizeof(doors) / sizeof(doors[0]) && st == STORE_HOLD; i++)
		st = pg_connect(&c, conf, doors[i], NULL, err);
	if (st == STORE_HOLD)
		err->hint = "create the database; the collector cannot: it gets into neither "
			    "postgres nor template1";
	if (st != STORE_OK)
		return st;
	c.patient = true;
	/* the session is ours alone, and CREATE DATABASE takes no transaction that could say it */
	st = pg_query_bare(&c,
			   c.read_write ? "SET statement_timeout = 0;"
					  "SET default_transaction_read_only = off"
					: "SET statement_timeout = 0",
			   err);
	if (st == STORE_OK)
		st = create_database(&c, name, err);
	if (st == STORE_HOLD)
		err->hint = "create the database, or grant the role CREATEDB";
	pg_close(&c);
	return st;
}
