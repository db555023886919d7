/*
 * pg_hosts.h - the servers that a connection string names, one by one.
 *
 * What libpq itself would take from the string, a service file and the environment, so
 * that all its conveniences keep working; but each server can be tried with a
 * deadline of its own.
 */
#pragma once

#include <libpq-fe.h>
#include <stdbool.h>
#include <stddef.h>

#define PG_HOSTS_MAX 64
#define PG_KEYWORDS_MAX 128

struct pg_host {
	const char *name; /* a name, a directory of unix sockets, "" = libpq's default */
	const char *addr; /* numeric, or "": the name must be resolved */
	const char *port;
};

/*
 * What a server must be.  Each is asked by a query of ours: libpq goes by what a server said when
 * the connection was made, and PgBouncer repeats what its server said long ago, when it may have
 * been a standby.
 */
enum pg_wanted {
	PG_WANTED_ANY,     /* or something else, which libpq looks after */
	PG_WANTED_WRITES,  /* it takes writes */
	PG_WANTED_PRIMARY, /* it is no standby */
};

struct pg_hosts {
	struct pg_host v[PG_HOSTS_MAX];
	size_t n;
	enum pg_wanted wanted;
	PQconninfoOption *options;   /* what the string says */
	char *names, *addrs, *ports; /* what v points into */
};

/*
 * Returns 0; -EINVAL when the string makes no sense (libpq's text might hold a password); -ENOMEM.
 */
int pg_hosts_init(struct pg_hosts *h, const char *uri);
void pg_hosts_done(struct pg_hosts *h);

/* Must this host's name be resolved first? */
bool pg_host_is_name(const struct pg_host *host);

/* What a connection is made with beside the string: before it, and over it. */
struct pg_login {
	const char *password; /* where the string has none; may be NULL */
	const char *dbname;   /* over the string's; may be NULL */
	const char *addr;     /* of the host; may be NULL */
};

/* Starts a connection to one host: PQconnectStartParams().  NULL when memory is short. */
PGconn *pg_hosts_start(const struct pg_hosts *h, const struct pg_host *host,
		       const struct pg_login *login);

/* Starts one more to where another has led, with all that was said for that one. */
PGconn *pg_hosts_again(PGconn *like);
