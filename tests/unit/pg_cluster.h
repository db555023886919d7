/*
 * pg_cluster.h - a private PostgreSQL server for a test program.
 *
 * It lives in a temporary directory and listens on a unix socket there alone.  Whoever is
 * root drops to another user for it, since PostgreSQL refuses to run as root.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

struct pg_cluster {
	char dir[32]; /* also that of the socket */
	char bin[256];
	uid_t uid;
	gid_t gid;
};

/* Is a server installed?  Then its programs are found in bin. */
bool pg_cluster_find(char bin[256]);

/* Initializes and starts one with one more line of configuration; ends the test on failure. */
void pg_cluster_start(struct pg_cluster *c, const char *setting);

/* Stops it and deletes its directory. */
void pg_cluster_stop(struct pg_cluster *c);
