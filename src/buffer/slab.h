/*
 * slab.h - memory that one thread fills and others read.
 *
 *	| filled: never changed again | being filled | free |
 *	  ^ readers
 *
 * The owner writes behind what it has shown to others, so both work on one slab without a lock.  A
 * slab is counted: who keeps a pointer holds a reference, and the last one frees it.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct slab {
	atomic_uint refs;
	size_t size;
	uint8_t data[];
};

/* With one reference.  NULL when memory is short. */
struct slab *slab_new(size_t size);

struct slab *slab_ref(struct slab *s);
void slab_unref(struct slab *s); /* NULL is fine */

/* Does anybody but the owner hold a reference?  Only the owner adds some, so no stays no. */
bool slab_is_shared(const struct slab *s);

/*
 * Makes *s of another size, of which the first `filled` bytes stay; readers of the old one keep
 * that.  Returns 0, or -ENOMEM: then nothing has changed.
 */
int slab_resize(struct slab **s, size_t filled, size_t size);
