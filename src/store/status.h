/*
 * status.h - how writers and janitor get on with the database.
 */
#pragma once

enum writers_status {
	WRITERS_CONNECTING,  /* not tried yet */
	WRITERS_OK,          /* every connection is good */
	WRITERS_UNAVAILABLE, /* the last try failed; it goes on trying */
	WRITERS_HELD,        /* an operator must act */
};

const char *writers_status_name(enum writers_status s); /* "ok", "unavailable", ... */
