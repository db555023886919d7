#include "wire/crc32c.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

/* RFC 3720, appendix B.4; the CRCs there are printed as bytes, the low one first. */
static const uint8_t read_pdu[48] = {
    [0] = 0x01,  [1] = 0xC0,  [16] = 0x14, [22] = 0x04,
    [27] = 0x14, [31] = 0x18, [32] = 0x28, [40] = 0x02,
};

enum pattern { ZEROS, ONES, UP, DOWN };

static void
fill(uint8_t *buf, size_t len, enum pattern pattern)
{
	for (size_t i = 0; i < len; i++) {
		const uint8_t of[] = {
		    [ZEROS] = 0, [ONES] = 0xFF, [UP] = (uint8_t)i, [DOWN] = (uint8_t)(len - 1 - i)};
		buf[i] = of[pattern];
	}
}

/* The definition itself, one bit at a time. */
static uint32_t
by_bits(const uint8_t *p, size_t len)
{
	uint32_t crc = 0xFFFFFFFF;

	for (size_t i = 0; i < len; i++) {
		crc ^= p[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? crc >> 1 ^ 0x82F63B78 : crc >> 1;
	}
	return ~crc;
}

static void
expect(const void *data, size_t len, uint32_t crc)
{
	ck_assert_uint_eq(crc32c(0, data, len), crc);
	ck_assert_uint_eq(crc32c_portable(0, data, len), crc);
	ck_assert_uint_eq(by_bits(data, len), crc);
}

START_TEST(published_vectors)
{
	static const uint32_t crc[] = {
	    [ZEROS] = 0x8A9136AA, [ONES] = 0x62A8AB43, [UP] = 0x46DD794E, [DOWN] = 0x113FDB5C};
	uint8_t buf[32];

	for (enum pattern p = ZEROS; p <= DOWN; p++) {
		fill(buf, sizeof(buf), p);
		expect(buf, sizeof(buf), crc[p]);
	}
	expect(read_pdu, sizeof(read_pdu), 0xD9963A56);
	expect("123456789", 9, 0xE3069283);
	expect("", 0, 0);
}
END_TEST

/* Every length and alignment around the eight-byte step, in exact-size memory. */
START_TEST(hardware_equals_portable)
{
	for (size_t len = 0; len < 300; len++) {
		for (size_t align = 0; align < 8; align++) {
			uint8_t *mem = malloc(align + len + !(align + len));
			uint8_t *p = mem + align;
			uint32_t crc;

			for (size_t i = 0; i < len; i++)
				p[i] = (uint8_t)(i * 167 + len * 13 + align);
			crc = by_bits(p, len);
			ck_assert_uint_eq(crc32c(0, p, len), crc);
			ck_assert_uint_eq(crc32c_portable(0, p, len), crc);
			free(mem);
		}
	}
}
END_TEST

START_TEST(chained)
{
	uint8_t buf[200];
	uint32_t whole;

	fill(buf, sizeof(buf), UP);
	whole = by_bits(buf, sizeof(buf));
	for (size_t cut = 0; cut <= sizeof(buf); cut++) {
		const uint8_t *rest = buf + cut;
		size_t left = sizeof(buf) - cut;

		ck_assert_uint_eq(crc32c(crc32c(0, buf, cut), rest, left), whole);
		ck_assert_uint_eq(crc32c_portable(crc32c_portable(0, buf, cut), rest, left), whole);
		ck_assert_uint_eq(crc32c(crc32c_portable(0, buf, cut), rest, left), whole);
	}
}
END_TEST

START_TEST(each_bit_matters)
{
	uint8_t buf[64];
	uint32_t good;

	fill(buf, sizeof(buf), UP);
	good = crc32c(0, buf, sizeof(buf));
	for (size_t bit = 0; bit < sizeof(buf) * 8; bit++) {
		buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
		ck_assert_uint_ne(crc32c(0, buf, sizeof(buf)), good);
		buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
}
END_TEST

int
main(void)
{
	Suite *s = suite_create("crc32c");
	TCase *tc = tcase_create("crc32c");
	SRunner *sr = srunner_create(s);
	int failed;

	suite_add_tcase(s, tc);
	tcase_add_test(tc, published_vectors);
	tcase_add_test(tc, hardware_equals_portable);
	tcase_add_test(tc, chained);
	tcase_add_test(tc, each_bit_matters);

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
