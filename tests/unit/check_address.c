#include "base/address.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define UNIX_OFFSET offsetof(struct sockaddr_un, sun_path)
#define S10 "abcdefghij"
#define S100 S10 S10 S10 S10 S10 S10 S10 S10 S10 S10

static const struct {
	const char *text;
	const char *shown; /* as address_format() writes it */
	socklen_t len;
} good[] = {
    {"0.0.0.0:9999", "0.0.0.0:9999", sizeof(struct sockaddr_in)},
    {"192.0.2.1:1", "192.0.2.1:1", sizeof(struct sockaddr_in)},
    {"255.255.255.255:65535", "255.255.255.255:65535", sizeof(struct sockaddr_in)},
    {"127.0.0.1:0", "127.0.0.1:0", sizeof(struct sockaddr_in)},
    {"*:9999", "0.0.0.0:9999", sizeof(struct sockaddr_in)},
    {"localhost:9999", "127.0.0.1:9999", sizeof(struct sockaddr_in)},
    {"[::]:9999", "[::]:9999", sizeof(struct sockaddr_in6)},
    {"[2001:DB8::1]:09999", "[2001:db8::1]:9999", sizeof(struct sockaddr_in6)},
    {"[0123:4567:89ab:cdef:0123:4567:255.255.255.255]:65535",
     "[123:4567:89ab:cdef:123:4567:ffff:ffff]:65535", sizeof(struct sockaddr_in6)},
    {"[::ffff:192.0.2.7]:80", "192.0.2.7:80", sizeof(struct sockaddr_in6)},
    {"unix:/run/x", "unix:/run/x", UNIX_OFFSET + 7},
    {"unix:/a:b", "unix:/a:b", UNIX_OFFSET + 5},
    {"unix:/" S100 "123456", "unix:/" S100 "123456", UNIX_OFFSET + 108},
    {"unix:@name", "unix:@name", UNIX_OFFSET + 5},
    {"unix:@" S100 "123456", "unix:@" S100 "123456", UNIX_OFFSET + 107},
};

START_TEST(good_addresses)
{
	struct address a;
	char buf[ADDRESS_TEXT_MAX];
	const char *why = NULL;

	memset(&a, 0xA5, sizeof(a));
	ck_assert_int_eq(address_parse(good[_i].text, &a, &why), 0);
	ck_assert_ptr_null(why);
	ck_assert_uint_eq(a.len, good[_i].len);
	ck_assert_ptr_eq(address_format((struct sockaddr *)&a.sa, a.len, buf), buf);
	ck_assert_str_eq(buf, good[_i].shown);
}
END_TEST

static const struct {
	const char *text;
	const char *why; /* part of the reason */
} bad[] = {
    {"", "port is missing"},
    {"9999", "port is missing"},
    {"localhost", "port is missing"},
    {"[::1]", "port is missing"},
    {"[::]", "port is missing"},
    {":9999", "HOST is missing"},
    {"localhost:", "PORT must be"},
    {"localhost:http", "PORT must be"},
    {"localhost:-1", "PORT must be"},
    {"localhost:+1", "PORT must be"},
    {"localhost: 1", "PORT must be"},
    {"localhost:1 ", "PORT must be"},
    {"localhost:65536", "PORT must be"},
    {"localhost:4294967297", "PORT must be"},
    {"localhost:99999999999999999999", "PORT must be"},
    {"metrics.example.org:9999", "numeric IPv4"},
    {"192.0.2:9999", "numeric IPv4"},
    {"192.0.2.256:9999", "numeric IPv4"},
    {"192.0.2.1.1:9999", "numeric IPv4"},
    {" *:9999", "numeric IPv4"},
    {"LOCALHOST:9999", "numeric IPv4"},
    {S100 ":9999", "too long"},
    {"::1:9999", "brackets"},
    {"[::1:9999", "closing ]"},
    {"[::1]x:9999", "closing ]"},
    {"[:9999", "closing ]"},
    {"[]:9999", "numeric IPv6"},
    {"[192.0.2.1]:9999", "numeric IPv6"},
    {"[::1%lo]:9999", "numeric IPv6"},
    {"[" S100 "]:9999", "too long"},
    {"unix:", "unix:/path"},
    {"unix:run/x", "unix:/path"},
    {"unix:/", "no name"},
    {"unix:@", "no name"},
    {"unix://run/x", "unix:/path, without //"},
    {"unix:/" S100 "1234567", "longer than 107"},
    {"unix:@" S100 "1234567", "longer than 107"},
    {"tls://0.0.0.0:9999", "tls://"},
    {"graphite://0.0.0.0:2003", "graphite://"},
    {"tcp://0.0.0.0:9999", "without tcp://"},
    {"gopher://0.0.0.0:70", "unknown scheme"},
    {"://", "unknown scheme"},
};

START_TEST(bad_addresses)
{
	struct address a = {.len = 42}, before = a;
	const char *why = NULL;

	ck_assert_int_eq(address_parse(bad[_i].text, &a, &why), -EINVAL);
	ck_assert_ptr_nonnull(why);
	if (!strstr(why, bad[_i].why))
		ck_abort_msg("%s: \"%s\" does not say \"%s\"", bad[_i].text, why, bad[_i].why);
	ck_assert_mem_eq(&a, &before, sizeof(a));
}
END_TEST

START_TEST(parsed_fields)
{
	struct address a;
	const char *why;
	struct sockaddr_in in;
	struct sockaddr_un un;

	ck_assert_int_eq(address_parse("192.0.2.1:9999", &a, &why), 0);
	memcpy(&in, &a.sa, sizeof(in));
	ck_assert_int_eq(in.sin_family, AF_INET);
	ck_assert_uint_eq(ntohl(in.sin_addr.s_addr), 0xC0000201);
	ck_assert_uint_eq(ntohs(in.sin_port), 9999);
	ck_assert_int_eq(address_parse("unix:@name", &a, &why), 0);
	memcpy(&un, &a.sa, sizeof(un));
	ck_assert_int_eq(un.sun_family, AF_UNIX);
	ck_assert_mem_eq(un.sun_path, "\0name", 6);
}
END_TEST

START_TEST(formats_of_unix_peers)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	char buf[ADDRESS_TEXT_MAX];

	ck_assert_str_eq(address_format((struct sockaddr *)&un, sizeof(sa_family_t), buf), "unix");
	memset(un.sun_path, 'p', sizeof(un.sun_path)); /* unix(7): no NUL need follow */
	ck_assert_str_eq(address_format((struct sockaddr *)&un, sizeof(un), buf),
			 "unix:pppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppp"
			 "pppppppppppppppppppppppppppppppppppppppp");
	memcpy(un.sun_path, "\0a\0b", 4);
	ck_assert_str_eq(address_format((struct sockaddr *)&un, UNIX_OFFSET + 4, buf), "unix:@a@b");
}
END_TEST

START_TEST(formats_of_others)
{
	struct sockaddr_storage sa = {.ss_family = AF_APPLETALK};
	char buf[ADDRESS_TEXT_MAX];

	ck_assert_str_eq(address_format((struct sockaddr *)&sa, sizeof(sa), buf), "unknown");
	ck_assert_str_eq(address_format((struct sockaddr *)&sa, 0, buf), "unknown");
}
END_TEST

static const struct {
	const char *network;
	const char *peer;
	bool match;
} matches[] = {
    {"192.0.2.0/24", "192.0.2.0:1", true},
    {"192.0.2.0/24", "192.0.2.255:1", true},
    {"192.0.2.0/24", "192.0.3.0:1", false},
    {"192.0.2.0/24", "192.0.1.255:1", false},
    {"192.0.2.64/26", "192.0.2.127:1", true},
    {"192.0.2.64/26", "192.0.2.128:1", false},
    {"192.0.2.64/26", "192.0.2.63:1", false},
    {"128.0.0.0/1", "128.0.0.0:1", true},
    {"128.0.0.0/1", "127.255.255.255:1", false},
    {"0.0.0.0/0", "203.0.113.9:1", true},
    {"0.0.0.0/0", "[2001:db8::1]:1", false},
    {"192.0.2.7", "192.0.2.7:1", true},
    {"192.0.2.7", "192.0.2.6:1", false},
    {"192.0.2.6/31", "192.0.2.7:1", true},
    {"192.0.2.0/24", "[::ffff:192.0.2.9]:1", true},
    {"192.0.2.0/24", "[::ffff:192.0.3.9]:1", false},
    {"2001:db8::/32", "[2001:db8:ffff::1]:1", true},
    {"2001:db8::/32", "[2001:db9::1]:1", false},
    {"2001:db8::/33", "[2001:db8:7fff::1]:1", true},
    {"2001:db8::/33", "[2001:db8:8000::1]:1", false},
    {"::1", "[::1]:1", true},
    {"::1", "[::2]:1", false},
    {"::/0", "[2001:db8::1]:1", true},
    {"::/0", "192.0.2.1:1", false},
    {"::/0", "[::ffff:192.0.2.1]:1", false},
    {"::ffff:192.0.2.0/120", "192.0.2.9:1", true},
    {"::ffff:192.0.2.0/120", "[::ffff:192.0.2.9]:1", true},
    {"::ffff:192.0.2.0/120", "192.0.3.9:1", false},
    {"192.0.2.0/24", "unix:/run/x", true},
    {"2001:db8::/32", "unix:@x", true},
};

START_TEST(networks)
{
	struct address a;
	struct cidr c;
	const char *why;

	memset(&c, 0xA5, sizeof(c));
	ck_assert_int_eq(cidr_parse(matches[_i].network, &c, &why), 0);
	ck_assert_int_eq(address_parse(matches[_i].peer, &a, &why), 0);
	if (cidr_match(&c, (struct sockaddr *)&a.sa) != matches[_i].match)
		ck_abort_msg("%s and %s", matches[_i].network, matches[_i].peer);
}
END_TEST

START_TEST(other_families_match_nothing)
{
	struct sockaddr_storage sa = {.ss_family = AF_APPLETALK};
	struct cidr c;
	const char *why;

	ck_assert_int_eq(cidr_parse("0.0.0.0/0", &c, &why), 0);
	ck_assert(!cidr_match(&c, (struct sockaddr *)&sa));
}
END_TEST

static const struct {
	const char *text;
	const char *why;
} bad_networks[] = {
    {"", "numeric"},
    {"/24", "numeric"},
    {"example.org", "numeric"},
    {"192.0.2", "numeric"},
    {"192.0.2.0.0/24", "numeric"},
    {"[::1]/128", "numeric"},
    {S100 "/8", "numeric"},
    {"192.0.2.0/", "0 to 32"},
    {"192.0.2.0/33", "0 to 32"},
    {"192.0.2.0/-1", "0 to 32"},
    {"192.0.2.0/255.255.255.0", "0 to 32"},
    {"192.0.2.0/24/24", "0 to 32"},
    {"192.0.2.0/4294967320", "0 to 32"},
    {"2001:db8::/129", "0 to 128"},
    {"192.0.2.1/24", "bits are set"},
    {"192.0.2.128/24", "bits are set"},
    {"192.0.2.1/31", "bits are set"},
    {"128.0.0.0/0", "bits are set"},
    {"2001:db8::1/127", "bits are set"},
    {"2001:db8::1/32", "bits are set"},
    {"::ffff:192.0.2.1/120", "bits are set"},
};

START_TEST(bad_network)
{
	struct cidr c = {.bits = 42}, before = c;
	const char *why = NULL;

	ck_assert_int_eq(cidr_parse(bad_networks[_i].text, &c, &why), -EINVAL);
	ck_assert_ptr_nonnull(why);
	if (!strstr(why, bad_networks[_i].why))
		ck_abort_msg("%s: \"%s\"", bad_networks[_i].text, why);
	ck_assert_mem_eq(&c, &before, sizeof(c));
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("address");
	TCase *tc = tcase_create("address");
	SRunner *sr = srunner_create(s);
	int failed;

	suite_add_tcase(s, tc);
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, good_addresses, 0, (int)COUNT(good));
	tcase_add_loop_test(tc, bad_addresses, 0, (int)COUNT(bad));
	tcase_add_test(tc, parsed_fields);
	tcase_add_test(tc, formats_of_unix_peers);
	tcase_add_test(tc, formats_of_others);
	tcase_add_loop_test(tc, networks, 0, (int)COUNT(matches));
	tcase_add_test(tc, other_families_match_nothing);
	tcase_add_loop_test(tc, bad_network, 0, (int)COUNT(bad_networks));

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
