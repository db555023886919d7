#include "base/text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char hex_digits[] = "0123456789abcdef";

void
text_put(struct text *t, const void *data, size_t len)
{
	if (t->len < t->size && len > 0) {
		size_t fits = t->size - t->len;

		memcpy(t->buf + t->len, data, len < fits ? len : fits);
	}
	t->len += len;
}

void
text_end(struct text *t)
{
	if (t->size > 0)
		t->buf[t->len < t->size ? t->len : t->size - 1] = '\0';
}

size_t
text_sequence(const void *data, size_t len, bool *valid)
{
	const unsigned char *s = data;
	unsigned char lead = s[0], low = 0x80, high = 0xBF;
	size_t need = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;

	*valid = false;
	if (lead >= 0x80 && (lead < 0xC2 || lead > 0xF4))
		return 1;
	if (lead == 0xE0)
		low = 0xA0; /* overlong below */
	else if (lead == 0xED)
		high = 0x9F; /* surrogates above */
	else if (lead == 0xF0)
		low = 0x90; /* overlong below */
	else if (lead == 0xF4)
		high = 0x8F; /* past U+10FFFF above */
	for (size_t i = 1; i < need; i++) {
		if (i >= len || s[i] < low || s[i] > high)
			return i;
		low = 0x80;
		high = 0xBF;
	}
	*valid = true;
	return need;
}

/* What a JSON string holds for the n bytes of one character; returns its length. */
static size_t
json_escape(char out[8], const unsigned char *s, size_t n)
{
	bool c1 = n == 2 && s[0] == 0xC2 && s[1] < 0xA0;

	if (s[0] < 0x20 || s[0] == 0x7F || c1) {
		unsigned char code = c1 ? s[1] : s[0];

		memcpy(out, "\\u00", 4);
		out[4] = hex_digits[code >> 4];
		out[5] = hex_digits[code & 15];
		return 6;
	}
	if (s[0] == '"' || s[0] == '\\') {
		out[0] = '\\';
		out[1] = (char)s[0];
		return 2;
	}
	memcpy(out, s, n);
	return n;
}

void
text_put_json(struct text *t, const void *data, size_t len, size_t room)
{
	const unsigned char *s = data;
	size_t end = t->len + room - 1;

	text_put(t, "\"", 1);
	for (size_t i = 0; i < len;) {
		char out[8] = "\xEF\xBF\xBD"; /* U+FFFD */
		size_t out_len = 3;
		bool valid;
		size_t n = text_sequence(s + i, len - i, &valid);

		if (valid)
			out_len = json_escape(out, s + i, n);
		if (out_len > end - t->len)
			break;
		text_put(t, out, out_len);
		i += n;
	}
	text_put(t, "\"", 1);
}

void
text_put_hex(struct text *t, const void *data, size_t len)
{
	const unsigned char *s = data;

	for (size_t i = 0; i < len; i++) {
		char pair[2] = {hex_digits[s[i] >> 4], hex_digits[s[i] & 15]};

		text_put(t, pair, sizeof(pair));
	}
}

/* Whatever the locale's decimal point is, one byte or several, make it a full stop. */
static size_t
c_number(char *s)
{
	size_t len = 0;

	for (const char *p = s; *p; p++) {
		if (strchr("0123456789+-e", *p))
			s[len++] = *p;
		else if (len > 0 && s[len - 1] != '.')
			s[len++] = '.';
	}
	s[len] = '\0';
	return len;
}

static size_t
put_word(char buf[TEXT_VALUE_MAX], const char *word)
{
	return (size_t)snprintf(buf, TEXT_VALUE_MAX, "%s", word);
}

size_t
text_f64(char buf[TEXT_VALUE_MAX], double value)
{
	if (isnan(value))
		return put_word(buf, "NaN");
	if (isinf(value))
		return put_word(buf, value > 0 ? "Infinity" : "-Infinity");
	for (int digits = 15; digits <= 17; digits++) {
		double back;

		(void)snprintf(buf, TEXT_VALUE_MAX, "%.*g", digits, value);
		back = strtod(buf, NULL);
		if (back == value)
			break;
	}
	return c_number(buf);
}

size_t
text_time(char buf[TEXT_VALUE_MAX], uint64_t time_us)
{
	time_t seconds = (time_t)(time_us / 1000000); /* UINT64_MAX is in the year 586524 */
	struct tm tm = {0};

	(void)gmtime_r(&seconds, &tm);
	return (size_t)snprintf(buf, TEXT_VALUE_MAX, "%s%04d-%02d-%02dT%02d:%02d:%02d.%06uZ",
				tm.tm_year + 1900 > 9999 ? "+" : "", tm.tm_year + 1900,
				tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
				(unsigned)(time_us % 1000000));
}

size_t
text_cut(const void *data, size_t len, size_t max)
{
	const unsigned char *s = data;
	size_t n = max;

	if (len <= max)
		return len;
	while (n > 0 && max - n < 3 && (s[n] & 0xC0) == 0x80)
		n--;
	/* Four continuation bytes in a row are no sequence: nothing to keep together. */
	return (s[n] & 0xC0) == 0x80 ? max : n;
}
