#include "store/pg/batch/sort.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "wire/bytes.h"
#include "wire/frame.h"

#define SLOTS_FIRST 1024      /* a power of two */
#define PROBES 8              /* at a load of a half at most, one or two are usual */
#define INSERTION_MAX 24      /* up to here no other sort is quicker */
#define KEEP_ROWS (1UL << 16) /* so much memory is kept in any case */

/* A distinct name, when it was met first. */
struct sort_name {
	uint64_t hash;
	uint32_t offset; /* of that frame */
	uint32_t rows;   /* how many have it; then where the next of them goes */
};

struct sort_slot {
	uint32_t tag;  /* the upper half of the hash */
	uint32_t name; /* its index + 1; 0 = free */
};

void
sort_init(struct sort *s)
{
	*s = (struct sort){.probes = PROBES};
	if (getrandom(s->seed, sizeof(s->seed), GRND_NONBLOCK) != (ssize_t)sizeof(s->seed)) {
		s->seed[0] = clock_real_us() ^ (uint64_t)(uintptr_t)s;
		s->seed[1] = UINT64_C(0x9E3779B97F4A7C15) * (s->seed[0] | 1);
	}
	s->seed[1] |= 1;
}

void
sort_done(struct sort *s)
{
	free(s->rows);
	free(s->spare);
	free(s->names);
	free(s->slots);
	*s = (struct sort){.probes = s->probes};
}

/* ---- memory ---- */

/* Room for n rows; what a much larger batch has left is given back. */
static int
reserve_rows(struct sort *s, size_t n)
{
	size_t capacity = n > KEEP_ROWS ? n : KEEP_ROWS;

	if (s->capacity >= n && s->capacity / 8 <= capacity)
		return 0;
	free(s->rows);
	free(s->spare);
	free(s->names);
	free(s->slots);
	s->names = NULL;
	s->slots = NULL;
	s->names_capacity = s->slots_capacity = 0;
	s->rows = malloc(capacity * sizeof(*s->rows));
	s->spare = malloc(capacity * sizeof(*s->spare));
	s->capacity = s->rows && s->spare ? capacity : 0;
	return s->capacity ? 0 : -ENOMEM;
}

static int
reserve_names(struct sort *s, size_t n)
{
	size_t capacity = s->names_capacity ? s->names_capacity * 2 : SLOTS_FIRST / 2;
	struct sort_name *names;

	if (n <= s->names_capacity)
		return 0;
	names = realloc(s->names, capacity * sizeof(*names));
	if (!names)
		return -ENOMEM;
	s->names = names;
	s->names_capacity = capacity;
	return 0;
}

/* ---- sorting by 64-bit keys; all of it stable ---- */

static bool
is_ascending(const struct sort_row *a, size_t n)
{
	size_t i;

	for (i = 1; i < n; i++)
		if (a[i - 1].key > a[i].key)
			return false;
	return true;
}

static void
insertion_by_key(struct sort_row *a, size_t n)
{
	size_t i, j;

	for (i = 1; i < n; i++) {
		struct sort_row row = a[i];

		for (j = i; j > 0 && a[j - 1].key > row.key; j--)
			a[j] = a[j - 1];
		a[j] = row;
	}
}

/* One pass of a radix sort: from a to b by the byte at that bit. */
static void
scatter(const struct sort_row *a, struct sort_row *b, size_t n, unsigned bit)
{
	size_t at[256] = {0};
	size_t i, sum = 0;

	for (i = 0; i < n; i++)
		at[(a[i].key >> bit) & 255]++;
	for (i = 0; i < 256; i++) {
		size_t count = at[i];

		at[i] = sum;
		sum += count;
	}
	for (i = 0; i < n; i++)
		b[at[(a[i].key >> bit) & 255]++] = a[i];
}

/* A radix sort, least significant byte first, over the bytes in which keys differ. */
static void
by_key(struct sort_row *a, struct sort_row *spare, size_t n)
{
	struct sort_row *from = a, *to = spare;
	uint64_t differ = 0;
	unsigned bit;
	size_t i;

	if (n <= INSERTION_MAX) {
		insertion_by_key(a, n);
		return;
	}
	for (i = 1; i < n; i++)
		differ |= a[i].key ^ a[0].key;
	for (bit = 0; bit < 64; bit += 8) {
		struct sort_row *swap = from;

		if (!((differ >> bit) & 255))
			continue;
		scatter(from, to, n, bit);
		from = to;
		to = swap;
	}
	if (from != a)
		memcpy(a, from, n * sizeof(*a));
}

/* ---- names ---- */

/*
 * Eight bytes of a name of len bytes, as a number whose order is that of the bytes; zeros (which
 * no name holds) behind its end.  The value behind the name makes it safe to read them all.
 */
static uint64_t
word_at(const uint8_t *name, size_t len, size_t at)
{
	uint64_t word;

	if (at >= len)
		return 0;
	word = be64_load(name + at);
	return len - at >= 8 ? word : word & (UINT64_MAX << (64 - 8 * (len - at)));
}

static bool
same_name(const uint8_t *a, const uint8_t *b)
{
	return frame_name_len_at(a) == frame_name_len_at(b) &&
	       memcmp(frame_name_at(a), frame_name_at(b), frame_name_len_at(a)) == 0;
}

/* Sorts by the names from the byte at on; those before it are equal.  Keys are lost. */
static void
insertion_by_name(const uint8_t *frames, struct sort_row *a, size_t n, size_t at)
{
	size_t i, j;

	for (i = 1; i < n; i++) {
		struct sort_row row = a[i];
		const uint8_t *p = frames + row.offset;

		for (j = i; j > 0; j--) {
			const uint8_t *q = frames + a[j - 1].offset;
			size_t len = frame_name_len_at(p) < frame_name_len_at(q)
					 ? frame_name_len_at(p)
					 : frame_name_len_at(q);
			int r = len > at
				    ? memcmp(frame_name_at(q) + at, frame_name_at(p) + at, len - at)
				    : 0;

			if (r < 0 || (r == 0 && frame_name_len_at(q) <= frame_name_len_at(p)))
				break;
			a[j] = a[j - 1];
		}
		a[j] = row;
	}
}

/*
 * The same for many: eight bytes at a time, rows with the same ones again by the next eight.  A row
 * is looked at once for each eight bytes of its name, however the names were chosen.
 */
static void
by_name(const uint8_t *frames, struct sort_row *a, struct sort_row *spare, size_t n, size_t at)
{
	size_t i, end;

	if (n <= INSERTION_MAX) {
		insertion_by_name(frames, a, n, at);
		return;
	}
	for (i = 0; i < n; i++) {
		const uint8_t *p = frames + a[i].offset;

		a[i].key = word_at(frame_name_at(p), frame_name_len_at(p), at);
	}
	by_key(a, spare, n);
	at += 8;
	if (at >= FRAME_NAME_MAX)
		return;
	for (i = 0; i < n; i = end) {
		for (end = i + 1; end < n && a[end].key == a[i].key; end++)
			;
		/* a name that ends here is alone with its like */
		if (end - i > 1 && (a[i].key & 255))
			by_name(frames, a + i, spare, end - i, at);
	}
}

/* The keyed hash of a name: products folded to 64 bits, as wyhash does (Wang Yi, public domain). */
static uint64_t
hash_of(const struct sort *s, const uint8_t *name, size_t len)
{
	uint64_t h = s->seed[0] ^ len;
	size_t at;

	for (at = 0; at < len; at += 8) {
		unsigned __int128 product =
		    (unsigned __int128)(h ^ word_at(name, len, at)) * s->seed[1];

		h = (uint64_t)product ^ (uint64_t)(product >> 64);
	}
	return h * s->seed[1];
}

/* ---- interning ---- */

/* A hash table of the distinct names, a power of two in size and at most half full. */
struct table {
	size_t n;     /* names */
	size_t mask;  /* slots in use - 1 */
	size_t steps; /* that may still be taken */
};

/* Twice the slots; names find new places. */
static int
grow(struct sort *s, struct table *t)
{
	size_t slots = t->mask ? (t->mask + 1) * 2 : SLOTS_FIRST;
	size_t i;

	if (slots > s->slots_capacity) {
		free(s->slots);
		s->slots = malloc(slots * sizeof(*s->slots));
		s->slots_capacity = s->slots ? slots : 0;
		if (!s->slots)
			return -ENOMEM;
	}
	memset(s->slots, 0, slots * sizeof(*s->slots));
	t->mask = slots - 1;
	for (i = 0; i < t->n; i++) {
		size_t at = s->names[i].hash & t->mask;

		for (; s->slots[at].name; at = (at + 1) & t->mask)
			if (t->steps-- == 0)
				return -EAGAIN;
		s->slots[at] =
		    (struct sort_slot){(uint32_t)(s->names[i].hash >> 32), (uint32_t)i + 1};
	}
	return 0;
}

/* Finds the name of a frame in the table, or adds it.  -EAGAIN: names collide too often. */
static int
intern(struct sort *s, struct table *t, const uint8_t *frames, uint32_t offset, uint32_t *ret)
{
	const uint8_t *p = frames + offset;
	uint64_t hash = hash_of(s, frame_name_at(p), frame_name_len_at(p));
	uint32_t tag = (uint32_t)(hash >> 32);
	size_t at = hash & t->mask;
	int r;

	for (; s->slots[at].name; at = (at + 1) & t->mask) {
		if (s->slots[at].tag == tag) {
			*ret = s->slots[at].name - 1;
			if (same_name(frames + s->names[*ret].offset, p)) {
				s->names[*ret].rows++;
				return 0;
			}
		}
		if (t->steps-- == 0)
			return -EAGAIN;
	}
	r = reserve_names(s, t->n + 1);
	if (r < 0)
		return r;
	*ret = (uint32_t)t->n;
	s->names[t->n++] = (struct sort_name){.hash = hash, .offset = offset, .rows = 1};
	s->slots[at] = (struct sort_slot){tag, *ret + 1};
	return t->n * 2 > t->mask ? grow(s, t) : 0;
}

static int
intern_all(struct sort *s, const uint8_t *frames, size_t n, size_t *names)
{
	struct table t = {.steps = n * s->probes};
	size_t i;
	int r = grow(s, &t);

	for (i = 0; r == 0 && i < n; i++)
		r = intern(s, &t, frames, s->rows[i].offset, &s->rows[i].name);
	*names = t.n;
	return r;
}

/* ---- rows of a name together, names in order ---- */

/* Sets rows of each name to where the first of them goes. */
static int
rank_names(struct sort *s, const uint8_t *frames, size_t names)
{
	/* rows are needed still; spare has room: there are no more names than rows */
	struct sort_row *ranked = s->spare;
	struct sort_row *spare = malloc(names * sizeof(*spare));
	size_t i;
	uint32_t sum = 0;

	if (!spare)
		return -ENOMEM;
	for (i = 0; i < names; i++)
		ranked[i] = (struct sort_row){.offset = s->names[i].offset, .name = (uint32_t)i};
	by_name(frames, ranked, spare, names, 0);
	free(spare);
	for (i = 0; i < names; i++) {
		struct sort_name *name = &s->names[ranked[i].name];
		uint32_t rows = name->rows;

		name->rows = sum;
		sum += rows;
	}
	return 0;
}

static void
swap_rows(struct sort *s)
{
	struct sort_row *rows = s->rows;

	s->rows = s->spare;
	s->spare = rows;
}

/* The usual way. */
static int
group_by_hash(struct sort *s, const uint8_t *frames, size_t n, size_t *names)
{
	int r = intern_all(s, frames, n, names);
	size_t i;

	if (r == 0 && *names > 1)
		r = rank_names(s, frames, *names);
	if (r < 0 || *names <= 1)
		return r;
	for (i = 0; i < n; i++)
		s->spare[s->names[s->rows[i].name].rows++] = s->rows[i];
	swap_rows(s);
	return 0;
}

/* The way where hashes collide. */
static void
group_by_name(struct sort *s, const uint8_t *frames, size_t n, size_t *names)
{
	uint32_t name = 0;
	size_t i;

	by_name(frames, s->rows, s->spare, n, 0);
	for (i = 0; i < n; i++) {
		const uint8_t *p = frames + s->rows[i].offset;

		if (i > 0 && !same_name(frames + s->rows[i - 1].offset, p))
			name++;
		s->rows[i].key = be64_load(p);
		s->rows[i].name = name;
	}
	*names = n ? (size_t)name + 1 : 0;
}

/* ---- all of it ---- */

static int
load(struct sort *s, const uint8_t *frames, size_t len, size_t n)
{
	size_t at = 0, i;

	for (i = 0; i < n && at < len; i++) {
		s->rows[i] = (struct sort_row){be64_load(frames + at), (uint32_t)at, 0};
		at += frame_size_at(frames + at);
	}
	return i == n && at == len ? 0 : -EINVAL;
}

/* Sorts the rows of each name by time, if they are not so already. */
static void
order_times(struct sort *s, size_t n)
{
	size_t i, end;

	for (i = 0; i < n; i = end) {
		for (end = i + 1; end < n && s->rows[end].name == s->rows[i].name; end++)
			;
		if (!is_ascending(s->rows + i, end - i))
			by_key(s->rows + i, s->spare + i, end - i);
	}
}

int
sort_frames(struct sort *s, const uint8_t *frames, size_t len, size_t n, struct sort_order *ret)
{
	size_t names = 0;
	int r;

	if (n > SORT_ROWS_MAX || len > UINT32_MAX)
		return -EFBIG;
	r = reserve_rows(s, n);
	if (r == 0)
		r = load(s, frames, len, n);
	if (r == 0)
		r = group_by_hash(s, frames, n, &names);
	if (r == -EAGAIN) {
		group_by_name(s, frames, n, &names);
		r = 0;
	}
	if (r < 0)
		return r;
	order_times(s, n);
	*ret = (struct sort_order){.rows = s->rows, .n = n, .names = names};
	return 0;
}

static void
reverse(struct sort_row *a, size_t n)
{
	for (size_t i = 0, j = n; i + 1 < j; i++) {
		struct sort_row row = a[--j];

		a[j] = a[i];
		a[i] = row;
	}
}

void
sort_newest_first(struct sort_order *o)
{
	size_t i, end;

	for (i = 0; i < o->n; i = end) {
		for (end = i + 1; end < o->n && o->rows[end].name == o->rows[i].name; end++)
			;
		reverse(o->rows + i, end - i);
	}
}
