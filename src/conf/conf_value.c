#include "conf/conf_value.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "base/text.h"

/* Six digits after the point are exact for microseconds; further ones are not looked at. */
#define FRACTION 1000000u

struct number {
	uint64_t whole;
	uint64_t millionths; /* below FRACTION */
	bool more;           /* digits other than 0 behind those */
};

/* isspace() and isdigit() would ask the locale. */
static bool
blank(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool
digit(char c)
{
	return c >= '0' && c <= '9';
}

static const char *
skip_blanks(const char *p)
{
	while (blank(*p))
		p++;
	return p;
}

static void
read_fraction(const char **p, struct number *n)
{
	uint64_t unit = FRACTION / 10;

	for (; digit(**p); (*p)++) {
		uint64_t d = (uint64_t)(**p - '0');

		n->millionths += d * unit;
		n->more = n->more || (unit == 0 && d != 0);
		unit /= 10;
	}
}

/* Reads "12" or "1.5" (or ".5") at *p, past leading blanks, and moves *p behind it. */
static int
read_number(const char **p, struct number *ret)
{
	struct number n = {0};
	const char *start;
	bool minus, overflow = false;

	*p = skip_blanks(*p);
	minus = **p == '-';
	if (minus)
		(*p)++;
	for (start = *p; digit(**p); (*p)++)
		overflow = __builtin_mul_overflow(n.whole, 10, &n.whole) ||
			   __builtin_add_overflow(n.whole, (uint64_t)(**p - '0'), &n.whole) ||
			   overflow;
	if (**p == '.' && digit((*p)[1])) {
		(*p)++;
		read_fraction(p, &n);
	}
	if (*p == start)
		return -EINVAL;
	*ret = n;
	return minus || overflow ? -ERANGE : 0;
}

/* n * unit, rounded up.  unit is below 2^44, so that the fraction's product fits. */
static int
scale(const struct number *n, uint64_t unit, uint64_t *ret)
{
	uint64_t whole, part = n->millionths * unit;

	part = part / FRACTION + (part % FRACTION != 0 || n->more);
	if (__builtin_mul_overflow(n->whole, unit, &whole) ||
	    __builtin_add_overflow(whole, part, &whole))
		return -ERANGE;
	*ret = whole;
	return 0;
}

struct unit {
	const char *name;
	uint64_t size;
};

/* Is the rest of the text this word, but for blanks around it? */
static bool
rest_is(const char *p, const char *word)
{
	size_t len = strlen(word);

	p = skip_blanks(p);
	return strncasecmp(p, word, len) == 0 && *skip_blanks(p + len) == '\0';
}

static int
find_unit(const char *p, const struct unit *units, uint64_t *ret)
{
	for (; units->name; units++) {
		if (rest_is(p, units->name)) {
			*ret = units->size;
			return 0;
		}
	}
	return -EINVAL;
}

/* A number and one of the units.  A nonsensical unit outweighs a number out of range. */
static int
read_quantity(const char *text, const struct unit *units, uint64_t *ret)
{
	struct number n;
	uint64_t unit;
	int r;

	r = read_number(&text, &n);
	if (r == -EINVAL || find_unit(text, units, &unit) < 0)
		return -EINVAL;
	return r < 0 ? r : scale(&n, unit, ret);
}

int
conf_value_integer(const char *text, uint64_t *ret)
{
	static const struct unit units[] = {{"", 1}, {NULL, 0}};

	if (strchr(text, '.'))
		return -EINVAL;
	return read_quantity(text, units, ret);
}

int
conf_value_size(const char *text, uint64_t *ret)
{
	static const struct unit units[] = {
	    {"", 1},
	    {"B", 1},
	    {"K", 1ull << 10},
	    {"KB", 1ull << 10},
	    {"KiB", 1ull << 10},
	    {"M", 1ull << 20},
	    {"MB", 1ull << 20},
	    {"MiB", 1ull << 20},
	    {"G", 1ull << 30},
	    {"GB", 1ull << 30},
	    {"GiB", 1ull << 30},
	    {"T", 1ull << 40},
	    {"TB", 1ull << 40},
	    {"TiB", 1ull << 40},
	    {NULL, 0},
	};

	return read_quantity(text, units, ret);
}

#define SECOND 1000000ull

/* The first entry is for bare numbers, which only conf_value_seconds() takes. */
static const struct unit durations[] = {
    {"", SECOND},
    {"ms", SECOND / 1000},
    {"millisecond", SECOND / 1000},
    {"milliseconds", SECOND / 1000},
    {"s", SECOND},
    {"sec", SECOND},
    {"secs", SECOND},
    {"second", SECOND},
    {"seconds", SECOND},
    {"m", 60 * SECOND},
    {"min", 60 * SECOND},
    {"mins", 60 * SECOND},
    {"minute", 60 * SECOND},
    {"minutes", 60 * SECOND},
    {"h", 3600 * SECOND},
    {"hour", 3600 * SECOND},
    {"hours", 3600 * SECOND},
    {"d", 86400 * SECOND},
    {"day", 86400 * SECOND},
    {"days", 86400 * SECOND},
    {"w", 604800 * SECOND},
    {"week", 604800 * SECOND},
    {"weeks", 604800 * SECOND},
    {NULL, 0},
};

int
conf_value_duration(const char *text, uint64_t *ret)
{
	uint64_t bare;

	if (*skip_blanks(text) == '\0' || (conf_value_integer(text, &bare) == 0 && bare == 0)) {
		*ret = 0;
		return 0;
	}
	return read_quantity(text, durations + 1, ret);
}

int
conf_value_seconds(const char *text, uint64_t *ret)
{
	return read_quantity(text, durations, ret);
}

int
conf_value_choice(const char *text, const struct conf_choice *choices, int *ret)
{
	for (; choices->name; choices++) {
		if (rest_is(text, choices->name)) {
			*ret = choices->value;
			return 0;
		}
	}
	return -EINVAL;
}

int
conf_value_bool(const char *text, bool *ret)
{
	static const struct conf_choice words[] = {
	    {"true", 1, false}, {"yes", 1, false},   {"on", 1, false},
	    {"1", 1, false},    {"false", 0, false}, {"no", 0, false},
	    {"off", 0, false},  {"0", 0, false},     {NULL, 0, false},
	};
	int value;

	if (conf_value_choice(text, words, &value) < 0)
		return -EINVAL;
	*ret = value != 0;
	return 0;
}

const char *
conf_value_show(const char *text, char buf[CONF_VALUE_SHOWN])
{
	struct text t = {.buf = buf, .size = CONF_VALUE_SHOWN};
	size_t len = strlen(text);

	if (len > 0 && len < CONF_VALUE_SHOWN && strspn(text, "-.0123456789") == len)
		text_put(&t, text, len);
	else
		text_put_json(&t, text, len, CONF_VALUE_SHOWN - 1);
	text_end(&t);
	return buf;
}
