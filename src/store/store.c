#include "store/store.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "log/log.h"

/* ---- stores ---- */

static const struct store_ops *
store_ops_of(const struct conf *conf)
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
store_open(const struct conf *conf, int stop_fd, struct store **ret, struct store_error *err)
{
	memset(err, 0, sizeof(*err));
	return store_ops_of(conf)->open(conf, stop_fd, ret, err);
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

enum store_status
store_check(struct store *s, struct store_error *err)
{
	memset(err, 0, sizeof(*err));
	return s->ops->check(s, err);
}

const char *
store_database(const struct store *s)
{
	return s->database;
}

/* "HOW WHICH": an operator who has changed how it is reached means another one. */
bool
store_database_differs(const char *known, const char *met)
{
	size_t how = strcspn(known, " ");

	return *known && *met && strncmp(known, met, how + 1) == 0 && strcmp(known, met) != 0;
}

/* ---- upkeep ---- */

static const struct upkeep_ops *
upkeep_ops_of(const struct conf *conf)
{
	switch (conf->database.store) {
	case CONF_STORE_POSTGRES:
		return &postgres_upkeep_ops;
	case CONF_STORE_SQLITE:
		return &sqlite_upkeep_ops;
	}
	return &sqlite_upkeep_ops;
}

int
upkeep_new(const struct conf *conf, int stop_fd, struct upkeep **ret)
{
	return upkeep_ops_of(conf)->new (conf, stop_fd, ret);
}

void
upkeep_free(struct upkeep *u)
{
	if (u)
		u->ops->free(u);
}

enum store_status
upkeep_connect(struct upkeep *u, struct store_error *err)
{
	memset(err, 0, sizeof(*err));
	return u->ops->connect(u, err);
}

void
upkeep_disconnect(struct upkeep *u)
{
	u->ops->disconnect(u);
}

const char *
upkeep_database(const struct upkeep *u)
{
	return u->database;
}

uint64_t
upkeep_now_us(const struct upkeep *u)
{
	return u->now_us;
}

void
upkeep_expect(struct upkeep *u, const char *known)
{
	(void)snprintf(u->known, sizeof(u->known), "%s", known);
}

enum store_status
upkeep_setup(struct upkeep *u, struct store_error *err)
{
	memset(err, 0, sizeof(*err));
	return u->ops->setup(u, err);
}

enum store_status
upkeep_maintain(struct upkeep *u, const char *collector, uint64_t floor, struct store_error *err)
{
	memset(err, 0, sizeof(*err));
	return u->ops->maintain(u, collector, floor, err);
}

bool
upkeep_claims(const struct upkeep *u)
{
	return u->ops->claim != NULL;
}

enum store_status
upkeep_claim(struct upkeep *u, const char *collector, uint64_t complete_until_us,
	     struct store_error *err)
{
	memset(err, 0, sizeof(*err));
	if (!u->ops->claim)
		return STORE_OK;
	return u->ops->claim(u, collector, complete_until_us, err);
}

enum store_status
upkeep_missing(struct upkeep *u, const char *collector, uint64_t *numbers, size_t *n,
	       struct store_error *err)
{
	memset(err, 0, sizeof(*err));
	return u->ops->missing(u, collector, numbers, n, err);
}

uint64_t
upkeep_server(const struct upkeep *u)
{
	return u->ops->server ? u->ops->server(u) : 0;
}

/* ---- the ledger ---- */

static bool
is_same(const struct store_ledger *l, const struct batch_view *b)
{
	if (l->partial || !l->spans || b->rows > l->rows)
		return false;
	if (!l->has_opened || !b->opened_us)
		return true;
	if (l->opened_us != b->opened_us)
		return false;
	return b->rows == l->rows ? b->bytes == l->bytes : b->bytes < l->bytes;
}

enum store_status
store_recognise(const struct store_ledger *l, const struct batch_view *b, struct store_error *err)
{
	if (is_same(l, b))
		return STORE_OK;
	err->conflict = true;
	err->batch_only = true;
	if (l->partial && l->opened_us == b->opened_us) {
		(void)snprintf(err->text, sizeof(err->text),
			       "%" PRIu64 " rows of the batch are stored, and its file has lost "
			       "some since: nobody knows which",
			       l->rows);
		err->hint = "send what the table lacks of it by hand: 'metric-spool cat -r' "
			    "gives its metrics";
		return STORE_HOLD;
	}
	(void)snprintf(err->text, sizeof(err->text),
		       "the ledger holds another batch under the number %" PRIu64
		       " of collector %s",
		       b->number, b->collector);
	err->disjoint = l->has_opened && b->opened_us && l->opened_us != b->opened_us;
	err->hint = "another collector has the identity of this one, whose spool is a copy of the "
		    "other's or the other way round: stop the copy, and give it an identity of its "
		    "own with 'metric-spool new-identity'";
	return STORE_HOLD;
}

/* ---- the log ---- */

void
store_log_failure(int level, const char *event, uint64_t batch, const struct store_error *err,
		  uint64_t retry_ms)
{
	log_event_limited(level, event, event, batch ? LOG_U64("batch", batch) : LOG_NONE,
			  LOG_STR("error", err->text),
			  LOG_STR("sqlstate", *err->sqlstate ? err->sqlstate : NULL),
			  LOG_F64("retry_in", (double)retry_ms / 1000), LOG_STR("hint", err->hint));
}
