#include "base/uuid.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void
uuid_format(char out[UUID_TEXT], const uint8_t bin[UUID_BYTES])
{
	static const char digits[] = "0123456789abcdef";
	char *o = out;

	for (int i = 0; i < UUID_BYTES; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*o++ = '-';
		*o++ = digits[bin[i] >> 4];
		*o++ = digits[bin[i] & 15];
	}
	*o = '\0';
}

static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

bool
uuid_parse(const char *text, uint8_t bin[UUID_BYTES])
{
	uint8_t out[UUID_BYTES];

	for (int i = 0; i < UUID_BYTES; i++) {
		int high, low;

		if ((i == 4 || i == 6 || i == 8 || i == 10) && *text++ != '-')
			return false;
		high = hex_value(text[0]);
		low = high < 0 ? -1 : hex_value(text[1]);
		if (low < 0)
			return false;
		out[i] = (uint8_t)(high << 4 | low);
		text += 2;
	}
	if (*text != '\0')
		return false;
	memcpy(bin, out, sizeof(out));
	return true;
}

void
uuid_random(char out[UUID_TEXT])
{
	uint8_t bin[UUID_BYTES];

	if (getrandom(bin, sizeof(bin), 0) != (ssize_t)sizeof(bin))
		abort(); /* cannot fail for so few bytes once the system is up */
	bin[6] = (uint8_t)((bin[6] & 0x0f) | 0x40); /* RFC 9562, 5.4: version 4 ... */
	bin[8] = (uint8_t)((bin[8] & 0x3f) | 0x80); /* ... and its variant */
	uuid_format(out, bin);
}
