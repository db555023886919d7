#include "store/store.h"

#include <string.h>

#include "log/log.h"

static const struct store_ops *
ops_of(const struct conf *conf)
{
	switch (conf->database.store) {
	case CONF_STORE_POSTGRES:
		return &postgres_store_ops;
	case CONF_STORE_SQLITE:
		return &sqlite_store_ops;
	}
	return &sqlite_store_ops;
}

enum store_status
store_open(const struct conf *conf, int stop_fd, enum store_use use, struct store **ret,
	   struct store_error *err)
{
	memset(err, 0, sizeof(*err));
	return ops_of(conf)->open(conf, stop_fd, use, ret, err);
}

void
store_close(struct store *s)
{
	if (s)
		s->ops->close(s);
}

enum store_status
store_put(struct store *s, const struct batch_view *b, struct store_result *ret,
	  struct store_error *err)
{
	memset(err, 0, sizeof(*err));
	return s->ops->put(s, b, ret, err);
}

void
store_look_again(struct store *s)
{
	if (s->ops->look_again)
		s->ops->look_again(s);
}

enum store_status
store_maintain(struct store *s, const char *collector, uint64_t floor, struct store_error *err)
{
	memset(err, 0, sizeof(*err));
	return s->ops->maintain(s, collector, floor, err);
}

bool
store_has_claims(const struct conf *conf)
{
	return ops_of(conf)->claim != NULL;
}

enum store_status
store_claim(struct store *s, const char *collector, uint64_t complete_until_us,
	    struct store_error *err)
{
	memset(err, 0, sizeof(*err));
	if (!s->ops->claim)
		return STORE_OK;
	return s->ops->claim(s, collector, complete_until_us, err);
}

enum store_status
store_missing(struct store *s, const char *collector, uint64_t *numbers, size_t *n,
	      struct store_error *err)
{
	memset(err, 0, sizeof(*err));
	return s->ops->missing(s, collector, numbers, n, err);
}

void
store_log_failure(int level, const char *event, const struct batch *b,
		  const struct store_error *err, uint64_t retry_ms)
{
	log_event_limited(level, event, event, b ? LOG_U64("batch", b->number) : LOG_NONE,
			  LOG_STR("error", err->text),
			  LOG_STR("sqlstate", *err->sqlstate ? err->sqlstate : NULL),
			  LOG_F64("retry_in", (double)retry_ms / 1000), LOG_STR("hint", err->hint));
}
