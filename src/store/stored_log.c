#include "store/stored_log.h"

#include "log/log.h"

#define COST_MS (1000 / STORED_LOG_PER_SECOND)
#define CREDIT_MAX_MS (STORED_LOG_BURST * COST_MS)

void
stored_log_init(struct stored_log *l)
{
	*l = (struct stored_log){.credit_ms = CREDIT_MAX_MS};
	(void)pthread_mutex_init(&l->mutex, NULL);
}

void
stored_log_done(struct stored_log *l)
{
	(void)pthread_mutex_destroy(&l->mutex);
}

static void
write_event(const struct stored_log_sum *s)
{
	log_event(LOG_INFO, "batch_stored", LOG_U64("batch", s->batch),
		  s->batches > 1 ? LOG_U64("batches", s->batches) : LOG_NONE,
		  LOG_U64("rows", s->rows), LOG_U64("bytes", s->bytes),
		  LOG_F64("seconds", (double)s->ms / 1000),
		  s->rejected ? LOG_U64("rejected", s->rejected) : LOG_NONE,
		  s->lost ? LOG_U64("lost", s->lost) : LOG_NONE,
		  s->repeated ? LOG_BOOL("repeated", true) : LOG_NONE,
		  s->direct ? LOG_BOOL("direct_compress", true) : LOG_NONE);
}

/* Writes what has been summed. */
static void
flush(struct stored_log *l)
{
	if (l->sum.batches > 0)
		write_event(&l->sum);
	l->sum = (struct stored_log_sum){.batches = 0};
}

static void
add(struct stored_log_sum *s, const struct stored_log_sum *one)
{
	s->batches += one->batches;
	s->batch = one->batch;
	s->rows += one->rows;
	s->bytes += one->bytes;
	s->rejected += one->rejected;
	s->lost += one->lost;
	s->ms += one->ms;
	s->repeated = s->repeated || one->repeated;
	s->direct = s->direct || one->direct;
}

static void
gain_credit(struct stored_log *l, uint64_t now_ms)
{
	l->credit_ms += now_ms - l->last_ms;
	if (l->credit_ms > CREDIT_MAX_MS)
		l->credit_ms = CREDIT_MAX_MS;
	l->last_ms = now_ms;
}

void
stored_log_add(struct stored_log *l, const struct stored_log_sum *one, uint64_t now_ms)
{
	(void)pthread_mutex_lock(&l->mutex);
	if (now_ms > l->last_ms) /* writers read the clock before they come here */
		gain_credit(l, now_ms);
	if (l->sum.batches > 0 && now_ms >= l->since_ms + STORED_LOG_SUM_MS)
		flush(l);
	if (l->sum.batches == 0 && l->credit_ms >= COST_MS) {
		l->credit_ms -= COST_MS;
		write_event(one);
	} else {
		if (l->sum.batches == 0)
			l->since_ms = now_ms;
		add(&l->sum, one);
	}
	(void)pthread_mutex_unlock(&l->mutex);
}

bool
stored_log_pending(struct stored_log *l)
{
	bool pending;

	(void)pthread_mutex_lock(&l->mutex);
	pending = l->sum.batches > 0;
	(void)pthread_mutex_unlock(&l->mutex);
	return pending;
}

void
stored_log_flush(struct stored_log *l)
{
	(void)pthread_mutex_lock(&l->mutex);
	flush(l);
	(void)pthread_mutex_unlock(&l->mutex);
}
