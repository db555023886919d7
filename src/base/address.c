#include "base/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#define HOST_MAX INET6_ADDRSTRLEN /* the longest numeric host with its NUL */
#define UNIX_PATH_OFFSET offsetof(struct sockaddr_un, sun_path)
#define MAPPED_BITS 96 /* of ::ffff:0:0/96, where IPv6 sockets show IPv4 peers (RFC 4291) */

static int
fail(const char **why, const char *reason)
{
	*why = reason;
	return -EINVAL;
}

/* A decimal number of digits only, up to max. */
static int
parse_number(const char *s, unsigned max, unsigned *ret)
{
	unsigned n = 0;

	if (!*s)
		return -EINVAL;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return -EINVAL;
		n = n * 10 + (unsigned)(*s - '0');
		if (n > max)
			return -EINVAL;
	}
	*ret = n;
	return 0;
}

static int
parse_unix(const char *path, struct address *ret, const char **why)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	size_t len = strlen(path);

	if (path[0] == '/' && path[1] == '/')
		return fail(why, "write unix:/path, with a single slash");
	if (path[0] != '/' && path[0] != '@')
		return fail(why, "a unix socket is unix:/path or unix:@name");
	if (len == 1)
		return fail(why, "the unix socket has no name");
	if (len >= sizeof(un.sun_path))
		return fail(why, "the unix socket's name is longer than 107 bytes");
	memcpy(un.sun_path, path, len);
	if (path[0] == '@')
		un.sun_path[0] = '\0'; /* abstract: the length counts, no NUL ends it */
	else
		len++;
	memcpy(&ret->sa, &un, sizeof(un));
	ret->len = (socklen_t)(UNIX_PATH_OFFSET + len);
	return 0;
}

static int
parse_in6(const char *host, in_port_t port, struct address *ret, const char **why)
{
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = port};

	if (inet_pton(AF_INET6, host, &in6.sin6_addr) != 1)
		return fail(why, "no numeric IPv6 address between [ and ]");
	memcpy(&ret->sa, &in6, sizeof(in6));
	ret->len = sizeof(in6);
	return 0;
}

static int
parse_in(const char *host, in_port_t port, struct address *ret, const char **why)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = port};

	if (strchr(host, ':'))
		return fail(why, "an IPv6 address goes into brackets: [ADDRESS]:PORT");
	if (strcmp(host, "*") == 0)
		in.sin_addr.s_addr = htonl(INADDR_ANY);
	else if (strcmp(host, "localhost") == 0)
		in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else if (inet_pton(AF_INET, host, &in.sin_addr) != 1)
		return fail(why, "HOST must be a numeric IPv4 address, localhost or *");
	memcpy(&ret->sa, &in, sizeof(in));
	ret->len = sizeof(in);
	return 0;
}

/* Splits "HOST:PORT" or "[V6]:PORT" at its last colon. */
static int
parse_tcp(const char *text, struct address *ret, const char **why)
{
	const char *colon = strrchr(text, ':');
	bool brackets = text[0] == '[';
	char host[HOST_MAX] = "";
	unsigned port;
	size_t len;

	if (!colon || (brackets && strchr(colon, ']')))
		return fail(why, "the port is missing: HOST:PORT, [V6]:PORT or unix:/path");
	if (parse_number(colon + 1, UINT16_MAX, &port) < 0)
		return fail(why, "PORT must be a number from 0 to 65535");
	if (colon == text)
		return fail(why, "HOST is missing; *:PORT listens on every IPv4 address");
	if (brackets && colon[-1] != ']')
		return fail(why, "the closing ] is missing");
	len = (size_t)(colon - text) - (brackets ? 2 : 0);
	if (len >= sizeof(host))
		return fail(why, "HOST is too long for a numeric address");
	memcpy(host, brackets ? text + 1 : text, len);
	if (brackets)
		return parse_in6(host, htons((uint16_t)port), ret, why);
	return parse_in(host, htons((uint16_t)port), ret, why);
}

/* Schemes that have a meaning to come; the reason names what is asked for. */
static int
parse_scheme(const char *text, const char **why)
{
	static const struct {
		const char *prefix;
		const char *reason;
	} schemes[] = {
	    {"tls://", "the scheme tls:// is not supported by this version"},
	    {"graphite://", "the scheme graphite:// is not supported by this version"},
	    {"http://", "the scheme http:// is not supported by this version"},
	    {"tcp://", "write HOST:PORT, without tcp://"},
	    {"unix://", "write unix:/path, without //"},
	};

	for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++)
		if (strncmp(text, schemes[i].prefix, strlen(schemes[i].prefix)) == 0)
			return fail(why, schemes[i].reason);
	return fail(why, "what stands before :// is an unknown scheme");
}

int
address_parse(const char *text, struct address *ret, const char **why)
{
	struct address a = {0};
	int r;

	if (strstr(text, "://"))
		return parse_scheme(text, why);
	if (strncmp(text, "unix:", strlen("unix:")) == 0)
		r = parse_unix(text + strlen("unix:"), &a, why);
	else
		r = parse_tcp(text, &a, why);
	if (r == 0)
		*ret = a;
	return r;
}

/* A socket address, copied out of its borrowed memory to where it is aligned. */
union peer {
	struct sockaddr_storage storage;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	struct sockaddr_un un;
};

/* Puts an IPv4 address and port into the place of the IPv6 address that wraps them. */
static void
unmap(union peer *p)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = p->in6.sin6_port};

	if (p->storage.ss_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&p->in6.sin6_addr))
		return;
	memcpy(&in.sin_addr, p->in6.sin6_addr.s6_addr + MAPPED_BITS / 8, sizeof(in.sin_addr));
	p->in = in;
}

static void
format_unix(const struct sockaddr_un *un, socklen_t len, char buf[ADDRESS_TEXT_MAX])
{
	size_t path_len = len > UNIX_PATH_OFFSET ? len - UNIX_PATH_OFFSET : 0;
	char path[sizeof(un->sun_path) + 1] = "";

	if (path_len > sizeof(un->sun_path))
		path_len = sizeof(un->sun_path);
	memcpy(path, un->sun_path, path_len);
	if (path_len > 0 && path[0] == '\0') /* abstract, and may hold any bytes */
		for (size_t i = 0; i < path_len; i++)
			if (path[i] == '\0')
				path[i] = '@';
	(void)snprintf(buf, ADDRESS_TEXT_MAX, path_len > 0 ? "unix:%s" : "unix", path);
}

const char *
address_format(const struct sockaddr *sa, socklen_t len, char buf[ADDRESS_TEXT_MAX])
{
	union peer p = {0};
	char host[HOST_MAX] = "";

	memcpy(&p, sa, len < sizeof(p) ? len : sizeof(p));
	unmap(&p);
	switch (p.storage.ss_family) {
	case AF_INET:
		(void)inet_ntop(AF_INET, &p.in.sin_addr, host, sizeof(host));
		(void)snprintf(buf, ADDRESS_TEXT_MAX, "%s:%u", host, ntohs(p.in.sin_port));
		break;
	case AF_INET6:
		(void)inet_ntop(AF_INET6, &p.in6.sin6_addr, host, sizeof(host));
		(void)snprintf(buf, ADDRESS_TEXT_MAX, "[%s]:%u", host, ntohs(p.in6.sin6_port));
		break;
	case AF_UNIX:
		format_unix(&p.un, len, buf);
		break;
	default:
		(void)snprintf(buf, ADDRESS_TEXT_MAX, "unknown");
		break;
	}
	return buf;
}

/* ---- networks ---- */

/* Do the first bits bits of a and b agree? */
static bool
same_prefix(const unsigned char *a, const unsigned char *b, unsigned bits)
{
	unsigned char mask = (unsigned char)(0xFF00u >> bits % 8);

	return memcmp(a, b, bits / 8) == 0 &&
	       (bits % 8 == 0 || !((a[bits / 8] ^ b[bits / 8]) & mask));
}

/* Are all the bits behind the first bits bits of size bytes zero? */
static bool
host_bits_clear(const unsigned char *addr, unsigned bits, size_t size)
{
	for (unsigned i = bits; i < size * 8; i++)
		if (addr[i / 8] & (0x80u >> i % 8))
			return false;
	return true;
}

static int
parse_network(const char *text, sa_family_t *family, unsigned char addr[16])
{
	if (inet_pton(AF_INET, text, addr) == 1)
		*family = AF_INET;
	else if (inet_pton(AF_INET6, text, addr) == 1)
		*family = AF_INET6;
	else
		return -EINVAL;
	return 0;
}

/* Peers are unmapped before they are compared, and so must be the network. */
static void
unmap_network(struct cidr *c)
{
	static const unsigned char prefix[MAPPED_BITS / 8] = {[10] = 0xFF, [11] = 0xFF};

	if (c->family != AF_INET6 || c->bits < MAPPED_BITS ||
	    memcmp(c->addr, prefix, sizeof(prefix)) != 0)
		return;
	c->family = AF_INET;
	c->bits = (unsigned char)(c->bits - MAPPED_BITS);
	memmove(c->addr, c->addr + sizeof(prefix), 4);
	memset(c->addr + 4, 0, sizeof(c->addr) - 4);
}

int
cidr_parse(const char *text, struct cidr *ret, const char **why)
{
	size_t len = strcspn(text, "/");
	struct cidr c = {0};
	char host[HOST_MAX] = "";
	unsigned bits, size;

	if (len >= sizeof(host))
		return fail(why, "no numeric IPv4 or IPv6 address");
	memcpy(host, text, len);
	if (parse_network(host, &c.family, c.addr) < 0)
		return fail(why, "no numeric IPv4 or IPv6 address");
	size = c.family == AF_INET ? 4 : 16;
	bits = size * 8;
	if (text[len] == '/' && parse_number(text + len + 1, size * 8, &bits) < 0)
		return fail(why, c.family == AF_INET ? "the prefix length must be 0 to 32"
						     : "the prefix length must be 0 to 128");
	if (!host_bits_clear(c.addr, bits, size))
		return fail(why, "bits are set behind the prefix length");
	c.bits = (unsigned char)bits;
	unmap_network(&c);
	*ret = c;
	return 0;
}

bool
cidr_match(const struct cidr *c, const struct sockaddr *sa)
{
	union peer p = {0};

	switch (sa->sa_family) {
	case AF_UNIX: /* the file system's permissions say who may connect */
		return true;
	case AF_INET:
		memcpy(&p.in, sa, sizeof(p.in));
		break;
	case AF_INET6:
		memcpy(&p.in6, sa, sizeof(p.in6));
		break;
	default:
		return false;
	}
	unmap(&p);
	if (p.storage.ss_family != c->family)
		return false;
	if (c->family == AF_INET)
		return same_prefix((const unsigned char *)&p.in.sin_addr, c->addr, c->bits);
	return same_prefix(p.in6.sin6_addr.s6_addr, c->addr, c->bits);
}
