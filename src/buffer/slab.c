#include "buffer/slab.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct slab *
slab_new(size_t size)
{
	struct slab *s = malloc(sizeof(*s) + size);

	if (!s)
		return NULL;
	atomic_init(&s->refs, 1);
	s->size = size;
	return s;
}

struct slab *
slab_ref(struct slab *s)
{
	atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	return s;
}

void
slab_unref(struct slab *s)
{
	if (s && atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) == 1)
		free(s);
}

bool
slab_is_shared(const struct slab *s)
{
	return atomic_load_explicit(&s->refs, memory_order_acquire) > 1;
}

static int
resize_own(struct slab **s, size_t size)
{
	struct slab *moved = realloc(*s, sizeof(**s) + size);

	if (!moved)
		return -ENOMEM;
	moved->size = size;
	*s = moved;
	return 0;
}

int
slab_resize(struct slab **s, size_t filled, size_t size)
{
	struct slab *copy;

	if (!slab_is_shared(*s))
		return resize_own(s, size);
	copy = slab_new(size);
	if (!copy)
		return -ENOMEM;
	memcpy(copy->data, (*s)->data, filled);
	slab_unref(*s);
	*s = copy;
	return 0;
}
