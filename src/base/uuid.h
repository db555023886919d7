/*
 * uuid.h - identities: random UUIDs (RFC 9562, version 4) as text and in binary.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define UUID_BYTES 16
#define UUID_TEXT 37 /* "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx" and its NUL */

/* A new one, in lower case. */
void uuid_random(char out[UUID_TEXT]);

/* From binary to text, in lower case, and back; uuid_parse() returns false for any other text. */
void uuid_format(char out[UUID_TEXT], const uint8_t bin[UUID_BYTES]);
bool uuid_parse(const char *text, uint8_t bin[UUID_BYTES]);
