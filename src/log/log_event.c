#include "log/log_event.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"

/* What always finds room: ,"suppressed":18446744073709551615} */
#define LOG_EVENT_RESERVE 40
#define LOG_COPY_STRING (LOG_COPY_BYTES / 2) /* one long string leaves room for others */

static const char *
level_name(int level)
{
	switch (level) {
	case LOG_WARNING:
		return "warning";
	case LOG_NOTICE:
		return "notice";
	case LOG_INFO:
		return "info";
	case LOG_DEBUG:
		return "debug";
	default:
		return "error"; /* and what syslog has above it */
	}
}

static bool
key_valid(const char *key)
{
	return key[0] >= 'a' && key[0] <= 'z' &&
	       strspn(key, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen(key);
}

static bool
is_bytes(const struct log_field *f)
{
	return f->type == LOG_T_STR || f->type == LOG_T_HEX;
}

/* The text of a field that is not bytes. */
static size_t
value_text(char buf[TEXT_VALUE_MAX], const struct log_field *f)
{
	switch (f->type) {
	case LOG_T_U64:
		return (size_t)snprintf(buf, TEXT_VALUE_MAX, "%" PRIu64, f->u64);
	case LOG_T_I64:
		return (size_t)snprintf(buf, TEXT_VALUE_MAX, "%" PRId64, f->i64);
	case LOG_T_F64:
		return text_f64(buf, f->f64);
	case LOG_T_BOOL:
		return (size_t)snprintf(buf, TEXT_VALUE_MAX, "%s", f->boolean ? "true" : "false");
	case LOG_T_TIME:
		return text_time(buf, f->u64);
	case LOG_T_STR:
	case LOG_T_HEX:
	case LOG_T_SKIP:
	case LOG_T_END:
		break;
	}
	buf[0] = '\0';
	return 0;
}

static bool
value_quoted(const struct log_field *f)
{
	return f->type == LOG_T_TIME || (f->type == LOG_T_F64 && !isfinite(f->f64));
}

static void
put_string(struct text *t, const char *s)
{
	text_put(t, s, strlen(s));
}

static void
put_key(struct text *t, const char *key)
{
	put_string(t, ",\"");
	put_string(t, key);
	put_string(t, "\":");
}

static void
json_bytes(struct text *t, const struct log_field *f, size_t room)
{
	size_t digits_room = room - 2;

	if (f->type == LOG_T_STR) {
		text_put_json(t, f->bytes.data, f->bytes.len, room);
		return;
	}
	put_string(t, "\"");
	text_put_hex(t, f->bytes.data,
		     f->bytes.len < digits_room / 2 ? f->bytes.len : digits_room / 2);
	put_string(t, "\"");
}

/* Puts a field, or nothing when limit leaves no room for it. */
static void
json_field(struct text *t, const struct log_field *f, size_t limit)
{
	size_t around = strlen(f->key) + strlen(",\"\":");
	size_t room = limit > t->len + around ? limit - t->len - around : 0;

	assert(key_valid(f->key));
	if (room < TEXT_VALUE_MAX + 2)
		return; /* any number fits into that, and a string is worth cutting */
	put_key(t, f->key);
	if (is_bytes(f)) {
		json_bytes(t, f, room < LOG_VALUE_MAX ? room : LOG_VALUE_MAX);
	} else {
		const char *quote = value_quoted(f) ? "\"" : "";
		char buf[TEXT_VALUE_MAX];
		size_t len = value_text(buf, f);

		put_string(t, quote);
		text_put(t, buf, len);
		put_string(t, quote);
	}
}

size_t
log_event_json(char *buf, size_t size, const struct log_event *e)
{
	struct text t = {.buf = buf, .size = size};
	char value[TEXT_VALUE_MAX];

	put_string(&t, "{\"event\":");
	text_put_json(&t, e->name, strlen(e->name), LOG_VALUE_MAX);
	put_key(&t, "timestamp");
	(void)text_time(value, e->time_us);
	put_string(&t, "\"");
	put_string(&t, value);
	put_string(&t, "\"");
	put_key(&t, "level");
	text_put_json(&t, level_name(e->level), strlen(level_name(e->level)), LOG_VALUE_MAX);
	for (const struct log_field *f = e->fields; f->type != LOG_T_END; f++)
		if (f->type != LOG_T_SKIP)
			json_field(&t, f, LOG_EVENT_MAX - LOG_EVENT_RESERVE);
	if (e->suppressed > 0) {
		put_key(&t, "suppressed");
		text_put(&t, value, value_text(value, &LOG_U64("suppressed", e->suppressed)));
	}
	put_string(&t, "}");
	text_end(&t);
	return t.len;
}

/* Fields of the journal's own that an event must not set; see systemd.journal-fields(7). */
static bool
key_reserved(const char *key)
{
	static const char *const reserved[] = {"message", "message_id", "priority",
					       "syslog_identifier"};

	for (size_t i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++)
		if (strcmp(key, reserved[i]) == 0)
			return true;
	return false;
}

struct journal {
	struct text t;
	struct iovec *iov;
	size_t n, max;
};

static void
journal_field(struct journal *j, const struct log_field *f)
{
	struct text t = {.buf = j->t.buf + j->t.len, .size = j->t.size - j->t.len};
	char value[TEXT_VALUE_MAX];

	for (const char *k = f->key; *k; k++) {
		char upper = *k >= 'a' && *k <= 'z' ? (char)(*k - 'a' + 'A') : *k;

		text_put(&t, &upper, 1);
	}
	put_string(&t, "=");
	if (f->type == LOG_T_STR)
		text_put(&t, f->bytes.data, text_cut(f->bytes.data, f->bytes.len, LOG_VALUE_MAX));
	else if (f->type == LOG_T_HEX)
		text_put_hex(&t, f->bytes.data,
			     f->bytes.len < LOG_VALUE_MAX / 2 ? f->bytes.len : LOG_VALUE_MAX / 2);
	else
		text_put(&t, value, value_text(value, f));
	if (t.len > t.size || j->n == j->max)
		return; /* MESSAGE= still has it */
	j->iov[j->n++] = (struct iovec){.iov_base = t.buf, .iov_len = t.len};
	j->t.len += t.len;
}

size_t
log_event_journal(char *buf, size_t size, struct iovec *iov, size_t max, const struct log_event *e)
{
	struct journal j = {.t = {.buf = buf, .size = size}, .iov = iov, .max = max};

	const struct log_field always[] = {
	    LOG_I64("priority", e->level),
	    LOG_STR("syslog_identifier", "metric-collectord"),
	    LOG_STR("event", e->name),
	};

	for (size_t i = 0; i < sizeof(always) / sizeof(always[0]); i++)
		journal_field(&j, &always[i]);
	if (e->suppressed > 0)
		journal_field(&j, &LOG_U64("suppressed", e->suppressed));
	for (const struct log_field *f = e->fields; f->type != LOG_T_END; f++)
		if (f->type != LOG_T_SKIP && !key_reserved(f->key))
			journal_field(&j, f);
	return j.n;
}

void
log_line_make(struct log_line *ret, char *buf, size_t size, const struct log_event *e, bool journal)
{
	size_t prefix = strlen(LOG_MESSAGE), len;

	memcpy(buf, LOG_MESSAGE, prefix);
	len = prefix + log_event_json(buf + prefix, size - prefix, e);
	assert(len < size);
	buf[len] = '\n';
	ret->parts[0] = (struct iovec){.iov_base = buf, .iov_len = len++};
	ret->n = 1;
	if (!journal)
		return;
	if (size - len > LOG_EVENT_MAX)
		size = len + LOG_EVENT_MAX;
	ret->n += log_event_journal(buf + len, size - len, ret->parts + 1, LOG_LINE_PARTS - 1, e);
}

void
log_event_copy(struct log_copy *ret, const struct log_event *e)
{
	size_t n = 0, used = 0;

	ret->event = *e;
	for (const struct log_field *f = e->fields; f->type != LOG_T_END; f++) {
		struct log_field *to = &ret->fields[n];
		size_t room = LOG_COPY_BYTES - used;

		if (f->type == LOG_T_SKIP)
			continue;
		if (n == LOG_COPY_FIELDS)
			break;
		*to = *f;
		n++;
		if (!is_bytes(f))
			continue;
		if (room > LOG_COPY_STRING)
			room = LOG_COPY_STRING;
		to->bytes.len = f->type == LOG_T_STR ? text_cut(f->bytes.data, f->bytes.len, room)
						     : (f->bytes.len < room ? f->bytes.len : room);
		to->bytes.data = ret->bytes + used;
		if (to->bytes.len > 0)
			memcpy(ret->bytes + used, f->bytes.data, to->bytes.len);
		used += to->bytes.len;
	}
	ret->fields[n] = LOG_END;
	ret->event.fields = ret->fields;
}
