/*
 * pg_database.h - the database itself, where it is missing.
 */
#pragma once

#include "store/pg/link/pg_conn.h"

/*
 * CREATE DATABASE, through a connection of its own to "postgres" or "template1".  That another
 * collector was quicker is fine.
 */
enum store_status pg_database_create(int stop_fd, const struct conf *conf, const char *name,
				     struct store_error *err);
