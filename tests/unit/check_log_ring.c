/* The ring of lines: what comes out is what went in, in order, wherever it wraps. */
#include "log/log_ring.h"

#include <check.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PART 48 /* bytes of a short part */

static struct log_ring ring;
static char bytes[LOG_LINE_MAX];

/* The n-th line: its number, and a length and a count of parts that follow from it. */
static void
make_line(struct log_line *l, unsigned n)
{
	size_t len = PART + (size_t)n * 7919 % 60000;

	l->n = 1 + n % 5;
	for (size_t i = 0; i < l->n; i++) {
		char *p = i == 0 ? bytes : bytes + 60100 + i * 100;

		memset(p, 0, PART);
		(void)snprintf(p, PART, "%u/%zu", n, i);
		l->parts[i] = (struct iovec){.iov_base = p, .iov_len = i == 0 ? len : PART};
	}
	memset(bytes + PART, 'a' + (int)(n % 26), len - PART);
}

static void
expect_line(unsigned n)
{
	struct log_line want, got;

	make_line(&want, n);
	ck_assert(log_ring_look(&ring, &got));
	ck_assert_uint_eq(got.n, want.n);
	for (size_t i = 0; i < got.n; i++) {
		ck_assert_uint_eq(got.parts[i].iov_len, want.parts[i].iov_len);
		ck_assert_mem_eq(got.parts[i].iov_base, want.parts[i].iov_base,
				 want.parts[i].iov_len);
	}
	ck_assert_int_eq(((char *)got.parts[0].iov_base)[got.parts[0].iov_len], '\n');
}

static bool
put_line(unsigned n)
{
	struct log_line l;

	make_line(&l, n);
	return log_ring_put(&ring, &l);
}

START_TEST(empty)
{
	struct log_line l;

	ck_assert(!log_ring_look(&ring, &l));
	ck_assert(put_line(1));
	expect_line(1);
	expect_line(1); /* it stays */
	log_ring_drop(&ring);
	ck_assert(!log_ring_look(&ring, &l));
	ck_assert_uint_eq(ring.used, 0);
	ck_assert_uint_eq(ring.head, 0); /* the same few pages again */
}
END_TEST

/* Full, then as many out as in, over and over: each wraps at another place. */
START_TEST(lines_survive_every_wrap)
{
	unsigned in = 0, out = 0;
	size_t most = 0;

	for (int round = 0; round < 200; round++) {
		while (put_line(in))
			in++;
		if (ring.used > most)
			most = ring.used;
		for (int i = 0; i < 1 + round % 40; i++, out++) {
			expect_line(out);
			log_ring_drop(&ring);
		}
	}
	ck_assert_uint_gt(in, 1000);
	ck_assert_uint_le(most, LOG_RING_BYTES);
	ck_assert_uint_gt(most, LOG_RING_BYTES - 61000);
	for (; out < in; out++) {
		expect_line(out);
		log_ring_drop(&ring);
	}
	ck_assert_uint_eq(ring.used, 0);
}
END_TEST

START_TEST(looked_at_line_stays_where_it_is)
{
	struct log_line l;
	const char *at;

	ck_assert(put_line(0));
	ck_assert(log_ring_look(&ring, &l));
	at = l.parts[0].iov_base;
	for (unsigned n = 1; put_line(n); n++)
		;
	ck_assert(log_ring_look(&ring, &l));
	ck_assert_ptr_eq(l.parts[0].iov_base, at);
	expect_line(0);
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("log_ring");
	TCase *tc = tcase_create("log_ring");
	SRunner *sr = srunner_create(s);
	int failed;

	suite_add_tcase(s, tc);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, empty);
	tcase_add_test(tc, lines_survive_every_wrap);
	tcase_add_test(tc, looked_at_line_stays_where_it_is);

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
