/*
 * utf8.h - is this well-formed UTF-8?
 *
 * Strict, as Unicode 15 table 3-7 ("Well-Formed UTF-8 Byte Sequences") has it:
 * no overlong forms, no surrogates, nothing above U+10FFFF.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum utf8_verdict {
	UTF8_OK,
	UTF8_CONTROL, /* well-formed, but holds a C0 control byte (0x00..0x1F) */
	UTF8_INVALID,
};

/* Judges len bytes.  Runs of ASCII are taken eight bytes at a time. */
enum utf8_verdict utf8_check(const uint8_t *s, size_t len);
