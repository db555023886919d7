#include "store/pg/link/pg_backends.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

/* Twice what database.connections can be, and the janitor's. */
#define BACKENDS_MAX 160

enum state { FREE, LIVE, WATCH, LEFT };

struct pg_backend {
	enum state state;
	bool looks; /* holds the right to */
	int pid;    /* 0: not known */
	uint64_t left_ms;
	char where[PG_WHERE_MAX];
};

/*
 * The process's: what one pool of writers has left, the next one, after a reload, has to know of.
 */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct pg_backend all[BACKENDS_MAX];
static bool looking;

static bool
is_left_at(const struct pg_backend *b, const char *where)
{
	return b->state == LEFT && strcmp(b->where, where) == 0;
}

static size_t
count(const char *where, bool left)
{
	size_t n = 0;

	for (size_t i = 0; i < BACKENDS_MAX; i++)
		if (left ? is_left_at(&all[i], where)
			 : all[i].state == LIVE && strcmp(all[i].where, where) == 0)
			n++;
	return n;
}

/* Where there is no room, the one that was left longest ago gives way. */
static struct pg_backend *
find_room(void)
{
	struct pg_backend *oldest = NULL;

	for (size_t i = 0; i < BACKENDS_MAX; i++) {
		if (all[i].state == FREE)
			return &all[i];
		if (all[i].state == LEFT && (!oldest || all[i].left_ms < oldest->left_ms))
			oldest = &all[i];
	}
	return oldest;
}

/* The mutex is held. */
static int
add(const char *where, enum state state, bool look, struct pg_backend **ret)
{
	struct pg_backend *b;

	if (look && looking)
		return -EBUSY;
	b = find_room();
	if (!b)
		return -EBUSY;
	*b = (struct pg_backend){.state = state, .looks = look};
	(void)snprintf(b->where, sizeof(b->where), "%s", where);
	looking = looking || look;
	*ret = b;
	return 0;
}

int
pg_backends_enter(const char *where, struct pg_backend **ret, bool *look)
{
	int r;

	(void)pthread_mutex_lock(&mutex);
	*look = count(where, true) > 0;
	r = add(where, LIVE, *look, ret);
	(void)pthread_mutex_unlock(&mutex);
	return r;
}

int
pg_backends_watch(const struct pg_backend *other, struct pg_backend **ret)
{
	int r;

	(void)pthread_mutex_lock(&mutex);
	r = add(other->where, WATCH, true, ret);
	(void)pthread_mutex_unlock(&mutex);
	return r;
}

void
pg_backends_opened(struct pg_backend *b, int pid)
{
	(void)pthread_mutex_lock(&mutex);
	b->pid = pid;
	(void)pthread_mutex_unlock(&mutex);
}

void
pg_backends_close(struct pg_backend *b, bool gone)
{
	if (!b)
		return;
	(void)pthread_mutex_lock(&mutex);
	if (b->looks)
		looking = false;
	b->looks = false;
	b->state = gone || !b->pid ? FREE : LEFT;
	b->left_ms = clock_ms();
	(void)pthread_mutex_unlock(&mutex);
}

bool
pg_backends_left(const struct pg_backend *b, size_t n, int *pid, uint64_t *ago_ms)
{
	bool found = false;

	(void)pthread_mutex_lock(&mutex);
	for (size_t i = 0; i < BACKENDS_MAX && !found; i++) {
		if (!is_left_at(&all[i], b->where) || n-- > 0)
			continue;
		found = true;
		*pid = all[i].pid;
		*ago_ms = clock_ms() - all[i].left_ms;
	}
	(void)pthread_mutex_unlock(&mutex);
	return found;
}

void
pg_backends_ended(const struct pg_backend *b, int pid)
{
	(void)pthread_mutex_lock(&mutex);
	for (size_t i = 0; i < BACKENDS_MAX; i++)
		if (is_left_at(&all[i], b->where) && all[i].pid == pid)
			all[i].state = FREE;
	(void)pthread_mutex_unlock(&mutex);
}

int
pg_backends_looked(struct pg_backend *b, size_t limit)
{
	size_t left, n;

	(void)pthread_mutex_lock(&mutex);
	left = count(b->where, true);
	n = left + count(b->where, false);
	looking = false;
	b->looks = false;
	(void)pthread_mutex_unlock(&mutex);
	return left && n > limit ? -EBUSY : 0;
}
