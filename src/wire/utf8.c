#include "wire/utf8.h"

#include <stdbool.h>

#include "base/text.h"
#include "wire/bytes.h"

#define EACH_BYTE(b) (UINT64_C(0x0101010101010101) * (b))

/*
 * Zero when each of the eight bytes is plain: 0x20..0x7F.  A byte from 0x80 up
 * shows its own top bit; one below 0x20 makes the subtraction wrap and set it.
 * Without such bytes nothing borrows, so that the zero is exact; where some
 * are, the lowest of them is always seen.
 */
static inline uint64_t
not_plain(uint64_t word)
{
	return (word | (word - EACH_BYTE(0x20))) & EACH_BYTE(0x80);
}

/*
 * Are all the bytes plain?  The last word overlaps its predecessor, so that no
 * rest is left to take byte by byte, and only the outcome is a branch: names
 * nearly always are plain, and short.
 */
static inline bool
all_plain(const uint8_t *s, size_t len)
{
	uint64_t found = 0;

	if (len >= 8) {
		for (size_t i = 0; i + 8 < len; i += 8)
			found |= not_plain(be64_load(s + i));
		return !(found | not_plain(be64_load(s + len - 8)));
	}
	if (len >= 4)
		return !not_plain((uint64_t)be32_load(s) << 32 | be32_load(s + len - 4));
	if (len > 0) /* first, middle, last: all there is of one to three bytes */
		return !not_plain((EACH_BYTE(0x20) << 24) | (uint64_t)s[0] << 16 |
				  (uint64_t)s[len / 2] << 8 | s[len - 1]);
	return true;
}

enum utf8_verdict
utf8_check(const uint8_t *s, size_t len)
{
	bool control = false;
	size_t i = 0;

	if (all_plain(s, len))
		return UTF8_OK;
	while (i < len) {
		bool valid = true;
		size_t n = 1;

		if (s[i] >= 0x80)
			n = text_sequence(s + i, len - i, &valid);
		else if (len - i >= 8 && !not_plain(be64_load(s + i)))
			n = 8;
		else if (s[i] < 0x20)
			control = true; /* go on: ill-formed bytes outrank it */
		if (!valid)
			return UTF8_INVALID;
		i += n;
	}
	return control ? UTF8_CONTROL : UTF8_OK;
}
