#include "conf/conf_key.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "conf/conf_list.h"
#include "conf/conf_value.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define LIST_MAX 64 /* addresses, networks, roll-ups */

/* ---- the table ---- */

enum type {
	INTEGER,
	SECONDS,
	SIZE,
	DURATION_MS,
	DURATION_US,
	BOOLEAN,
	CHOICE,
	STRING,
	LIST,
	CIDRS
};

/* Checks one string: 0, or -EINVAL with a reason, or -ENOMEM. */
typedef int check_fn(const char *text, char why[CONF_WHY_MAX]);
static check_fn check_listen, check_absolute, check_secret_path, check_rollup;

struct conf_key {
	const char *name;
	enum type type;
	size_t offset;
	size_t size;
	const char *def; /* as it would be given to -o */
	const char *min; /* numbers; for strings what is accepted */
	const char *max; /* numbers */
	unsigned flags;
	const struct conf_choice *choices;
	check_fn *check;
	const char *unit; /* what an integer counts */
};

#define RESTART 1u   /* a reload does not apply it */
#define NOT_EMPTY 2u /* a list of at least one */
#define OPTIONAL 4u  /* "" is accepted: 0 in the struct, not subject to the range */

static const struct conf_choice sync_names[] = {
    {"always", CONF_SYNC_ALWAYS, false},
    {"interval", CONF_SYNC_INTERVAL, false},
    {"never", CONF_SYNC_NEVER, false},
    {NULL, 0, false},
};
static const struct conf_choice overflow_names[] = {
    {"block", CONF_BLOCK, false},
    {"drop_oldest", CONF_DROP_OLDEST, false},
    {"drop_newest", CONF_DROP_NEWEST, false},
    {NULL, 0, false},
};
static const struct conf_choice use_names[] = {
    {"auto", CONF_AUTO, false},
    {"require", CONF_REQUIRE, false},
    {"off", CONF_OFF, false},
    {NULL, 0, false},
};
static const struct conf_choice attempt_names[] = {
    {"off", CONF_OFF, false},
    {"auto", CONF_AUTO, false},
    {NULL, 0, false},
};
static const struct conf_choice level_names[] = {
    {"error", LOG_ERR, false},       {"err", LOG_ERR, true},
    {"warning", LOG_WARNING, false}, {"warn", LOG_WARNING, true},
    {"notice", LOG_NOTICE, false},   {"info", LOG_INFO, false},
    {"debug", LOG_DEBUG, false},     {NULL, 0, false},
};
static const struct conf_choice target_names[] = {
    {"auto", LOG_TARGET_AUTO, false},
    {"journal", LOG_TARGET_JOURNAL, false},
    {"stderr", LOG_TARGET_STDERR, false},
    {NULL, 0, false},
};

#define FIELD(f) offsetof(struct conf, f), sizeof(((struct conf *)0)->f)
#define KEY(name, type, field, def, min, max, flags)                                         \
	{                                                                                    \
		(name), (type), FIELD(field), (def), (min), (max), (flags), NULL, NULL, NULL \
	}
#define KEY_COUNT(name, field, def, min, max, unit)                                       \
	{                                                                                 \
		(name), INTEGER, FIELD(field), (def), (min), (max), 0, NULL, NULL, (unit) \
	}
#define KEY_BOOL(name, field, def)                                                    \
	{                                                                             \
		(name), BOOLEAN, FIELD(field), (def), NULL, NULL, 0, NULL, NULL, NULL \
	}
#define KEY_CHOICE(name, field, def, choices, flags)                                            \
	{                                                                                       \
		(name), CHOICE, FIELD(field), (def), NULL, NULL, (flags), (choices), NULL, NULL \
	}
#define KEY_TEXT(name, type, field, def, accepted, check, flags)                               \
	{                                                                                      \
		(name), (type), FIELD(field), (def), (accepted), NULL, (flags), NULL, (check), \
		    NULL                                                                       \
	}

#define YEARS "36500 days"
#define ROLLUP_MIN "1 s"
#define ROLLUP_MAX "365 days"

/* clang-format off */
static const struct conf_key keys[] = {
	KEY_TEXT("listen", LIST, listen, "0.0.0.0:9999",
		 "HOST:PORT, [V6]:PORT, unix:/PATH", check_listen, NOT_EMPTY),
	KEY_COUNT("max_clients", max_clients, "10000", "1", "1000000", "connections"),
	KEY("client_timeout", SECONDS, client_timeout_ms, "0", "0", "31536000", 0),
	KEY_COUNT("max_invalid_frames", max_invalid_frames, "100", "1", "1000000", "frames"),
	KEY_TEXT("allow", CIDRS, allow, "", "networks", NULL, 0),

	KEY("batch.interval", SECONDS, batch.interval_ms, "5", "0.01", "86400", 0),
	KEY_COUNT("batch.max_rows", batch.max_rows, "100000", "1", "10000000", "rows"),
	KEY("batch.max_bytes", SIZE, batch.max_bytes, "16M", "4K", "1G", 0),

	KEY("buffer.memory_limit", SIZE, buffer.memory_limit, "256M", "4K", "1T", 0),
	KEY_TEXT("buffer.spool", STRING, buffer.spool, "/var/lib/metric-collectord/spool",
		 "absolute path, \"\"", check_absolute, RESTART),
	KEY("buffer.spool_limit", SIZE, buffer.spool_limit, "8G", "64K", "1024T", 0),
	KEY_CHOICE("buffer.sync", buffer.sync, "interval", sync_names, RESTART),
	KEY_CHOICE("buffer.overflow", buffer.overflow, "block", overflow_names, 0),
	KEY("buffer.keep", DURATION_MS, buffer.keep_ms, "0", "0", "365 days", OPTIONAL),

	KEY("timestamps.max_age", DURATION_US, timestamps.max_age_us, "", "1 s", YEARS, OPTIONAL),
	KEY("timestamps.max_future", DURATION_US, timestamps.max_future_us, "", "1 s", YEARS, OPTIONAL),

	KEY_TEXT("database.uri", STRING, database.uri, "sqlite:/var/lib/metric-collectord/metrics.db",
		 "postgresql://..., key=value ..., sqlite:/PATH", conf_uri_check, 0),
	KEY_TEXT("database.password_file", STRING, database.password_file, "",
		 "absolute path, \"\"", check_secret_path, 0),
	KEY_COUNT("database.connections", database.connections, "1", "1", "64", "connections"),
	KEY_BOOL("database.create", database.create, "true"),
	KEY_BOOL("database.migrate", database.migrate, "true"),
	KEY("database.connect_timeout", SECONDS, database.connect_timeout_ms, "5", "0.1", "3600", 0),
	KEY("database.ledger_keep", DURATION_MS, database.ledger_keep_ms, "1 day", "1 s", YEARS, 0),
	KEY_CHOICE("database.timescaledb", database.timescaledb, "auto", use_names, 0),
	KEY_CHOICE("database.citus", database.citus, "off", use_names, 0),

	KEY("table.chunk_interval", DURATION_US, table.chunk_interval_us, "1 day", "1 min", "3650 days", 0),
	KEY("table.retention", DURATION_US, table.retention_us, "", "1 min", YEARS, OPTIONAL),
	KEY("table.compress_after", DURATION_US, table.compress_after_us, "7 days", "1 min", YEARS, OPTIONAL),
	KEY_TEXT("table.rollups", LIST, table.rollups, "", ROLLUP_MIN ".." ROLLUP_MAX, check_rollup, 0),
	KEY_CHOICE("table.direct_compress", table.direct_compress, "off", attempt_names, 0),
	KEY_COUNT("table.max_new_chunks", table.max_new_chunks, "16", "1", "100000", "chunks"),

	KEY("senders.keep", DURATION_MS, senders.keep_ms, "30 days", "1 s", YEARS, 0),

	KEY_CHOICE("log.level", log.level, "info", level_names, 0),
	KEY_CHOICE("log.target", log.target, "auto", target_names, 0),
	KEY_BOOL("log.metrics", log.metrics, "false"),
};
/* clang-format on */

#define N_KEYS COUNT(keys)

size_t
conf_key_count(void)
{
	return N_KEYS;
}

const struct conf_key *
conf_key_at(size_t index)
{
	assert(index < N_KEYS);
	return &keys[index];
}

const struct conf_key *
conf_key_find(const char *name)
{
	for (size_t i = 0; i < N_KEYS; i++) {
		if (strcmp(keys[i].name, name) == 0)
			return &keys[i];
	}
	return NULL;
}

size_t
conf_key_index(const struct conf_key *k)
{
	return (size_t)(k - keys);
}

const char *
conf_key_name(const struct conf_key *k)
{
	return k->name;
}

const char *
conf_key_default(const struct conf_key *k)
{
	return k->def;
}

bool
conf_key_restart(const struct conf_key *k)
{
	return (k->flags & RESTART) != 0;
}

/* ---- numbers ---- */

static int __attribute__((format(printf, 2, 3)))
why_not(char why[CONF_WHY_MAX], const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(why, CONF_WHY_MAX, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

/* In the unit of the text: bytes, microseconds, or just a number. */
static int
parse_number(enum type type, const char *text, uint64_t *ret)
{
	switch (type) {
	case INTEGER:
		return conf_value_integer(text, ret);
	case SIZE:
		return conf_value_size(text, ret);
	case SECONDS:
		return conf_value_seconds(text, ret);
	case DURATION_MS:
	case DURATION_US:
		return conf_value_duration(text, ret);
	case BOOLEAN:
	case CHOICE:
	case STRING:
	case LIST:
	case CIDRS:
		break;
	}
	return -EINVAL; /* not a number */
}

static bool
in_range(const struct conf_key *k, uint64_t value)
{
	uint64_t min = 0, max = 0;
	int r = parse_number(k->type, k->min, &min);

	if (r == 0)
		r = parse_number(k->type, k->max, &max);
	assert(r == 0); /* the table is ours */
	return r == 0 && value >= min && value <= max;
}

/* What a number should have looked like. */
static const char *
number_kind(enum type type)
{
	switch (type) {
	case INTEGER:
		return "an integer";
	case SIZE:
		return "a size such as \"16M\"";
	case SECONDS:
		return "a number of seconds";
	default:
		return "a duration such as \"90 s\" or \"30 days\"";
	}
}

static void
store_number(const struct conf_key *k, struct conf *c, uint64_t value)
{
	char *field = (char *)c + k->offset;

	if (k->type == SECONDS || k->type == DURATION_MS)
		value = value / 1000 + (value % 1000 != 0);
	if (k->size == sizeof(unsigned)) {
		unsigned small = (unsigned)value;

		assert(value <= UINT_MAX);
		memcpy(field, &small, sizeof(small));
	} else {
		assert(k->size == sizeof(value));
		memcpy(field, &value, sizeof(value));
	}
}

static int
set_number(const struct conf_key *k, struct conf *c, const char *text, char why[CONF_WHY_MAX])
{
	const char *unit = k->type == SECONDS ? " seconds" : "";
	const char *or_none = (k->flags & OPTIONAL) ? ", or \"\"" : "";
	char shown[CONF_VALUE_SHOWN];
	uint64_t value;
	int r;

	if ((k->flags & OPTIONAL) && text[strspn(text, " \t")] == '\0') {
		store_number(k, c, 0);
		return 0;
	}
	r = *text ? parse_number(k->type, text, &value) : -EINVAL;
	if (r == -EINVAL)
		return why_not(why, "%s is not %s (%s..%s%s)", conf_value_show(text, shown),
			       number_kind(k->type), k->min, k->max, or_none);
	if (r < 0 || !in_range(k, value))
		return why_not(why, "%s is out of range %s..%s%s%s", conf_value_show(text, shown),
			       k->min, k->max, unit, or_none);
	store_number(k, c, value);
	return 0;
}

/* ---- words ---- */

/* "always, interval, never" */
static void
join_choices(const struct conf_choice *choices, const char *between, char *buf, size_t size)
{
	size_t len = 0;

	buf[0] = '\0';
	for (; choices->name && len < size; choices++) {
		if (!choices->alias)
			len += (size_t)snprintf(buf + len, size - len, "%s%s",
						len > 0 ? between : "", choices->name);
	}
}

static int
set_choice(const struct conf_key *k, struct conf *c, const char *text, char why[CONF_WHY_MAX])
{
	char shown[CONF_VALUE_SHOWN], names[100];
	int value;

	assert(k->size == sizeof(value));
	if (conf_value_choice(text, k->choices, &value) < 0) {
		join_choices(k->choices, ", ", names, sizeof(names));
		return why_not(why, "%s is not one of %s", conf_value_show(text, shown), names);
	}
	memcpy((char *)c + k->offset, &value, sizeof(value));
	return 0;
}

static int
set_bool(const struct conf_key *k, struct conf *c, const char *text, char why[CONF_WHY_MAX])
{
	char shown[CONF_VALUE_SHOWN];

	if (conf_value_bool(text, (bool *)((char *)c + k->offset)) < 0)
		return why_not(why, "%s is neither true nor false", conf_value_show(text, shown));
	return 0;
}

/* ---- strings ---- */

static int
check_absolute(const char *path, char why[CONF_WHY_MAX])
{
	char shown[CONF_VALUE_SHOWN];

	if (path[0] == '\0')
		return 0;
	if (path[0] != '/')
		return why_not(why, "%s is not an absolute path, or \"\"",
			       conf_value_show(path, shown));
	if (strlen(path) >= PATH_MAX - NAME_MAX) /* room for the files in it */
		return why_not(why, "the path is too long");
	return 0;
}

/* Not shown where it is no path: somebody may have written the password itself. */
static int
check_secret_path(const char *path, char why[CONF_WHY_MAX])
{
	if (path[0] != '\0' && path[0] != '/')
		return why_not(why, "needs the absolute path of a file, or \"\"");
	return check_absolute(path, why);
}

static int
check_listen(const char *text, char why[CONF_WHY_MAX])
{
	char shown[CONF_VALUE_SHOWN];
	struct address address;
	const char *reason;

	if (address_parse(text, &address, &reason) < 0)
		return why_not(why, "%s: %s", conf_value_show(text, shown), reason);
	return 0;
}

static int
check_rollup(const char *text, char why[CONF_WHY_MAX])
{
	char shown[CONF_VALUE_SHOWN];
	uint64_t us, max;

	(void)conf_value_duration(ROLLUP_MAX, &max);
	if (conf_value_duration(text, &us) < 0 || us < 1000000 || us > max)
		return why_not(why, "%s is not a duration of " ROLLUP_MIN ".." ROLLUP_MAX,
			       conf_value_show(text, shown));
	return 0;
}

static int
set_string(const struct conf_key *k, struct conf *c, const char *text, char why[CONF_WHY_MAX])
{
	char **field = (char **)((char *)c + k->offset), *copy;
	int r;

	r = k->check(text, why);
	if (r < 0)
		return r;
	copy = strdup(text);
	if (!copy)
		return -ENOMEM;
	conf_secret_free(*field); /* a uri may hold a password */
	*field = copy;
	return 0;
}

/* ---- lists ---- */

static int
check_twice(const char *const *values, size_t n, char why[CONF_WHY_MAX])
{
	char shown[CONF_VALUE_SHOWN];

	for (size_t i = 0; i < n; i++) {
		for (size_t k = 0; k < i; k++) {
			if (strcmp(values[i], values[k]) == 0)
				return why_not(why, "%s is there twice",
					       conf_value_show(values[i], shown));
		}
	}
	return 0;
}

static int
set_list(const struct conf_key *k, struct conf *c, const char *const *values, size_t n,
	 char why[CONF_WHY_MAX])
{
	struct conf_list *field = (struct conf_list *)(void *)((char *)c + k->offset), list;
	int r = 0;

	if (n == 0 && (k->flags & NOT_EMPTY))
		return why_not(why, "needs at least one of %s", k->min);
	for (size_t i = 0; i < n && r == 0; i++)
		r = k->check(values[i], why);
	if (r == 0)
		r = conf_list_copy(values, n, &list);
	if (r < 0)
		return r;
	conf_list_clear(field);
	*field = list;
	return 0;
}

/* The only key of its type. */
static int
set_cidrs(struct conf *c, const char *const *values, size_t n, char why[CONF_WHY_MAX])
{
	char shown[CONF_VALUE_SHOWN];
	struct cidr *networks;
	const char *reason;

	networks = calloc(n + 1, sizeof(*networks)); /* never of size 0 */
	if (!networks)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		if (cidr_parse(values[i], &networks[i], &reason) < 0) {
			free(networks);
			return why_not(why, "%s: %s", conf_value_show(values[i], shown), reason);
		}
	}
	free(c->allow);
	c->allow = networks;
	c->n_allow = n;
	return 0;
}

/* ---- any ---- */

static bool
is_list(const struct conf_key *k)
{
	return k->type == LIST || k->type == CIDRS;
}

static int
set_one(const struct conf_key *k, struct conf *c, const char *text, char why[CONF_WHY_MAX])
{
	switch (k->type) {
	case BOOLEAN:
		return set_bool(k, c, text, why);
	case CHOICE:
		return set_choice(k, c, text, why);
	case STRING:
		return set_string(k, c, text, why);
	default:
		return set_number(k, c, text, why);
	}
}

int
conf_key_set(const struct conf_key *k, struct conf *c, const char *const *values, size_t n,
	     char why[CONF_WHY_MAX])
{
	if (!is_list(k)) {
		if (n != 1)
			return why_not(why, "takes one value, not a list");
		return set_one(k, c, values[0], why);
	}
	if (n > LIST_MAX)
		return why_not(why, "takes at most %d values", LIST_MAX);
	if (check_twice(values, n, why) < 0)
		return -EINVAL;
	return k->type == CIDRS ? set_cidrs(c, values, n, why) : set_list(k, c, values, n, why);
}

int
conf_key_set_text(const struct conf_key *k, struct conf *c, const char *text,
		  char why[CONF_WHY_MAX])
{
	const char *values[LIST_MAX + 1] = {text};
	char *copy;
	int r;

	if (!is_list(k))
		return conf_key_set(k, c, values, 1, why);
	copy = strdup(text);
	if (!copy)
		return -ENOMEM;
	r = conf_key_set(k, c, values, conf_list_split(copy, values, LIST_MAX + 1), why);
	free(copy);
	return r;
}

static bool
cidrs_equal(const struct conf *a, const struct conf *b)
{
	if (a->n_allow != b->n_allow)
		return false;
	for (size_t i = 0; i < a->n_allow; i++) {
		if (a->allow[i].family != b->allow[i].family ||
		    a->allow[i].bits != b->allow[i].bits ||
		    memcmp(a->allow[i].addr, b->allow[i].addr, sizeof(a->allow[i].addr)) != 0)
			return false;
	}
	return true;
}

bool
conf_key_equal(const struct conf_key *k, const struct conf *a, const struct conf *b)
{
	const void *fa = (const char *)a + k->offset;
	const void *fb = (const char *)b + k->offset;

	switch (k->type) {
	case LIST:
		return conf_list_equal(fa, fb);
	case CIDRS:
		return cidrs_equal(a, b);
	case STRING:
		return strcmp(*(char *const *)fa, *(char *const *)fb) == 0;
	default:
		return memcmp(fa, fb, k->size) == 0; /* numbers: no padding */
	}
}

void
conf_key_clear(const struct conf_key *k, struct conf *c)
{
	char *field = (char *)c + k->offset;

	if (k->type == LIST) {
		conf_list_clear((struct conf_list *)(void *)field);
	} else if (k->type == CIDRS) {
		free(c->allow);
		c->allow = NULL;
		c->n_allow = 0;
	} else if (k->type == STRING) {
		conf_secret_free(*(char **)(void *)field);
		*(char **)(void *)field = NULL;
	}
}

/* ---- the table in print ---- */

static const char *
type_name(enum type type)
{
	switch (type) {
	case INTEGER:
		return "integer";
	case SECONDS:
		return "seconds";
	case SIZE:
		return "size";
	case DURATION_MS:
	case DURATION_US:
		return "duration";
	case BOOLEAN:
		return "boolean";
	case CHOICE:
		return "choice";
	case STRING:
		return "string";
	case LIST:
	case CIDRS:
		break;
	}
	return "list";
}

/* As in the file: numbers of a kind and truth values bare, the rest in quotes. */
static void
print_default(const struct conf_key *k, FILE *out)
{
	if (is_list(k))
		(void)fprintf(out, *k->def ? "{\"%s\"}" : "{}", k->def);
	else if (k->type == INTEGER || k->type == SECONDS || k->type == BOOLEAN)
		(void)fputs(k->def, out);
	else
		(void)fprintf(out, "\"%s\"", k->def);
}

static void
print_range(const struct conf_key *k, FILE *out)
{
	char names[100];

	switch (k->type) {
	case BOOLEAN:
		(void)fputs("true, false", out);
		break;
	case CHOICE:
		join_choices(k->choices, ", ", names, sizeof(names));
		(void)fputs(names, out);
		break;
	case STRING:
	case LIST:
	case CIDRS:
		(void)fputs(k->min, out);
		break;
	default:
		(void)fprintf(out, "%s..%s%s", k->min, k->max,
			      (k->flags & OPTIONAL) ? ", \"\"" : "");
	}
}

void
conf_print_keys(FILE *out)
{
	for (size_t i = 0; i < N_KEYS; i++) {
		(void)fprintf(out, "%s\t%s%s%s\t", keys[i].name, type_name(keys[i].type),
			      keys[i].unit ? ", " : "", keys[i].unit ? keys[i].unit : "");
		print_default(&keys[i], out);
		(void)fputc('\t', out);
		print_range(&keys[i], out);
		(void)fprintf(out, "\t%s\n", conf_key_restart(&keys[i]) ? "restart" : "reload");
	}
}
