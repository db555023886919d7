/*
 * crc32c.h - the Castagnoli CRC of iSCSI (RFC 3720, B.4): polynomial
 * 0x1EDC6F41, reflected, initial value and final xor 0xFFFFFFFF.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/*
 * The CRC of len bytes that follow bytes whose CRC is crc; 0 to begin.
 * crc32c(0, "123456789", 9) is 0xE3069283.  Uses the processor's instruction
 * (SSE 4.2, ARMv8 CRC) where there is one.
 */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);

/* The table-driven form, for the tests to compare with. */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t len);
