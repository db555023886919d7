#include "store/pg/batch/chunk_guard.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "wire/bytes.h"
#include "wire/frame.h"

#define NEWS_FIRST 64

/* ---- where a time falls ---- */

/* Ranges that begin at or before a time. */
static size_t
ranges_up_to(const struct chunk_limits *l, uint64_t time_us)
{
	size_t low = 0, high = l->n_ranges;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (l->ranges[middle].start_us <= time_us)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* True when the chunk exists; else ret is the one that would be created. */
static bool
find_chunk(const struct chunk_limits *l, uint64_t time_us, struct chunk_new *ret)
{
	size_t before = ranges_up_to(l, time_us);

	if (before > 0 && time_us < l->ranges[before - 1].end_us)
		return true;
	*ret = (struct chunk_new){.number = time_us / l->interval_us, .gap = before};
	return false;
}

static uint64_t
distance(const struct chunk_limits *l, uint64_t number)
{
	uint64_t now = l->now_us / l->interval_us;

	return number > now ? number - now : now - number;
}

static int
compare(const void *a, const void *b)
{
	const struct chunk_new *x = a, *y = b;

	if (x->number != y->number)
		return x->number < y->number ? -1 : 1;
	return (x->gap > y->gap) - (x->gap < y->gap);
}

/* Nearest to the present first; of two equally near ones the past. */
static int
compare_distance(const void *a, const void *b)
{
	const struct chunk_new *x = a, *y = b;

	if (x->distance != y->distance)
		return x->distance < y->distance ? -1 : 1;
	return compare(a, b);
}

/* ---- the batch ---- */

bool
chunk_guard_concerns(const struct chunk_limits *limits, uint64_t min_us, uint64_t max_us)
{
	return max_us / limits->interval_us - min_us / limits->interval_us >= limits->max_new;
}

/* Sorts and removes what is there twice. */
static void
unique(struct chunk_guard *g, size_t n)
{
	size_t i;

	if (n > 1)
		qsort(g->news, n, sizeof(*g->news), compare);
	g->n_new = 0;
	for (i = 0; i < n; i++)
		if (i == 0 || compare(&g->news[g->n_new - 1], &g->news[i]) != 0)
			g->news[g->n_new++] = g->news[i];
}

/* Makes sure that at least as many fit in as there are. */
static int
reserve(struct chunk_guard *g, size_t n, size_t *capacity)
{
	size_t wanted = *capacity ? *capacity * 2 : NEWS_FIRST;
	struct chunk_new *grown;

	if (*capacity && n * 2 <= *capacity)
		return 0;
	grown = realloc(g->news, wanted * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	g->news = grown;
	*capacity = wanted;
	return 0;
}

/* Lists the new chunks of all frames. */
static int
collect(struct chunk_guard *g, const uint8_t *frames, size_t len)
{
	size_t n = 0, capacity = 0, at;
	int r;

	for (at = 0; at < len; at += frame_size_at(frames + at)) {
		struct chunk_new chunk;

		if (find_chunk(&g->limits, be64_load(frames + at), &chunk))
			continue;
		if (n > 0 && compare(&g->news[n - 1], &chunk) == 0)
			continue; /* as its neighbour, as a rule */
		if (n == capacity) {
			unique(g, n); /* times that alternate shall not take memory */
			n = g->n_new;
			r = reserve(g, n, &capacity);
			if (r < 0)
				return r;
		}
		g->news[n++] = chunk;
	}
	unique(g, n);
	return 0;
}

/* Keeps the nearest ones, in the order that lookups need. */
static void
choose(struct chunk_guard *g)
{
	size_t i;

	g->n_kept = g->n_new < g->limits.max_new ? g->n_new : g->limits.max_new;
	if (g->n_kept == g->n_new)
		return;
	for (i = 0; i < g->n_new; i++)
		g->news[i].distance = distance(&g->limits, g->news[i].number);
	qsort(g->news, g->n_new, sizeof(*g->news), compare_distance);
	qsort(g->news, g->n_kept, sizeof(*g->news), compare);
}

int
chunk_guard_init(struct chunk_guard *g, const struct chunk_limits *limits, const uint8_t *frames,
		 size_t len)
{
	int r;

	*g = (struct chunk_guard){.limits = *limits};
	r = collect(g, frames, len);
	if (r < 0)
		chunk_guard_done(g);
	else
		choose(g);
	return r;
}

void
chunk_guard_done(struct chunk_guard *g)
{
	free(g->news);
	g->news = NULL;
	g->n_kept = g->n_new = 0;
}

bool
chunk_guard_keeps(const struct chunk_guard *g, uint64_t time_us)
{
	struct chunk_new chunk;

	return find_chunk(&g->limits, time_us, &chunk) ||
	       (g->n_kept > 0 &&
		bsearch(&chunk, g->news, g->n_kept, sizeof(chunk), compare) != NULL);
}
