#include "log/stats.h"

#include "log/log.h"

bool
stats_conserved(const struct stats *s)
{
	return s->received == s->stored + s->buffered + s->rejected + s->dropped;
}

void
stats_log(const struct stats *s, const struct stats_turns *turns, int level)
{
#define STATS_LOG_FIELD(name, text) LOG_U64(#name, s->name),
	const struct log_field fields[] = {STATS_COUNTERS(STATS_LOG_FIELD)
					       LOG_F64("turn_ms_max", turns->max_ms),
					   LOG_F64("turn_ms_p99", turns->p99_ms), LOG_END};
#undef STATS_LOG_FIELD

	log_fields(level, "statistics", fields);
}
