/*
 * address.h - the addresses that configuration and logs show.
 *
 * Listen addresses: "HOST:PORT" (HOST a numeric IPv4 address, "localhost" or
 * "*"), "[V6]:PORT", "unix:/path" (or "unix:@name", abstract).  Name servers
 * are never asked.  Room is kept for further schemes: what stands before "://"
 * is a scheme, and an unknown one is an error that names it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#define ADDRESS_TEXT_MAX 128 /* any formatted address with its NUL */

struct address {
	socklen_t len;
	struct sockaddr_storage sa;
};

/* Returns 0, or -EINVAL with a reason in *why (a static string). */
int address_parse(const char *text, struct address *ret, const char **why);

/*
 * "192.0.2.1:9999", "[2001:db8::1]:9999", "unix:/run/x", "unix" for a nameless
 * peer.  IPv4-mapped IPv6 addresses are written as IPv4.  Returns buf.
 */
const char *address_format(const struct sockaddr *sa, socklen_t len, char buf[ADDRESS_TEXT_MAX]);

/* A network: "192.0.2.0/24", "2001:db8::/32", or a single address. */
struct cidr {
	sa_family_t family; /* AF_INET or AF_INET6 */
	unsigned char bits;
	unsigned char addr[16];
};

/* Returns 0, or -EINVAL with a reason in *why. Host bits that are set are an error. */
int cidr_parse(const char *text, struct cidr *ret, const char **why);

/* IPv4-mapped IPv6 peers match IPv4 networks; unix peers match every network. */
bool cidr_match(const struct cidr *c, const struct sockaddr *sa);
