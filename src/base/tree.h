/*
 * tree.h - an ordered set of things that know their place in it.
 *
 * A treap (R. Seidel, C. Aragon, Randomized Search Trees, Algorithmica 16, 1996): a search
 * tree that random priorities keep balanced.  Nodes are embedded in what they order, as those of
 * <sys/queue.h> are; nothing is allocated, and every call takes a time that grows with the
 * logarithm of the number of nodes.
 *
 *	struct job { struct tree_node by_due; ... };
 *	#define JOB(node) TREE_ENTRY(node, struct job, by_due)
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct tree_node {
	struct tree_node *parent, *left, *right;
	uint32_t priority; /* not above that of the parent */
};

/* Below 0, 0, above 0: as strcmp().  No two nodes of a tree may be equal. */
typedef int tree_compare_fn(const struct tree_node *a, const struct tree_node *b);

struct tree {
	struct tree_node *root; /* NULL: empty */
	tree_compare_fn *compare;
	uint32_t random;
};

/* The thing that a node is embedded in; NULL for NULL. */
#define TREE_ENTRY(node, type, member) ((type *)tree_entry((node), offsetof(type, member)))

static inline void *
tree_entry(const struct tree_node *n, size_t offset)
{
	return n ? (void *)(uintptr_t)((const char *)n - offset) : NULL;
}

void tree_init(struct tree *t, tree_compare_fn *compare);

void tree_insert(struct tree *t, struct tree_node *n);
void tree_remove(struct tree *t, struct tree_node *n); /* which is in it */

/* NULL where there is none. */
struct tree_node *tree_first(const struct tree *t);
struct tree_node *tree_last(const struct tree *t);
struct tree_node *tree_next(const struct tree_node *n);

/* The first that is not below key, which need not be in the tree. */
struct tree_node *tree_from(const struct tree *t, const struct tree_node *key);
