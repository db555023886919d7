#include "base/tree.h"

#include <assert.h>

void
tree_init(struct tree *t, tree_compare_fn *compare)
{
	*t = (struct tree){.compare = compare, .random = 0x9E3779B9};
}

/* Xorshift (G. Marsaglia, Xorshift RNGs, 2003): nobody gains by guessing it. */
static uint32_t
next_random(struct tree *t)
{
	t->random ^= t->random << 13;
	t->random ^= t->random >> 17;
	t->random ^= t->random << 5;
	return t->random;
}

/* What points to n. */
static struct tree_node **
link_of(struct tree *t, const struct tree_node *n)
{
	if (!n->parent)
		return &t->root;
	return n->parent->left == n ? &n->parent->left : &n->parent->right;
}

/*
 * Puts n in the place of its parent, which keeps its order:
 *
 *	    p              n
 *	   / \            / \
 *	  n   c   <-->   a   p
 *	 / \                / \
 *	a   b              b   c
 */
static void
rotate_up(struct tree *t, struct tree_node *n)
{
	struct tree_node *p = n->parent, **between;

	*link_of(t, p) = n;
	n->parent = p->parent;
	p->parent = n;
	between = p->left == n ? &n->right : &n->left;
	if (p->left == n)
		p->left = *between;
	else
		p->right = *between;
	if (*between)
		(*between)->parent = p;
	*between = p;
}

void
tree_insert(struct tree *t, struct tree_node *n)
{
	struct tree_node **link = &t->root, *parent = NULL;

	while (*link) {
		int r = t->compare(n, *link);

		assert(r != 0);
		parent = *link;
		link = r < 0 ? &parent->left : &parent->right;
	}
	*n = (struct tree_node){.parent = parent, .priority = next_random(t)};
	*link = n;
	while (n->parent && n->parent->priority < n->priority)
		rotate_up(t, n);
}

void
tree_remove(struct tree *t, struct tree_node *n)
{
	while (n->left && n->right)
		rotate_up(t, n->left->priority > n->right->priority ? n->left : n->right);
	if (n->left || n->right) {
		struct tree_node *child = n->left ? n->left : n->right;

		*link_of(t, n) = child;
		child->parent = n->parent;
	} else {
		*link_of(t, n) = NULL;
	}
	*n = (struct tree_node){0};
}

struct tree_node *
tree_first(const struct tree *t)
{
	struct tree_node *n = t->root;

	while (n && n->left)
		n = n->left;
	return n;
}

struct tree_node *
tree_last(const struct tree *t)
{
	struct tree_node *n = t->root;

	while (n && n->right)
		n = n->right;
	return n;
}

struct tree_node *
tree_next(const struct tree_node *n)
{
	if (n->right) {
		n = n->right;
		while (n->left)
			n = n->left;
		return (struct tree_node *)(uintptr_t)n;
	}
	while (n->parent && n->parent->right == n)
		n = n->parent;
	return n->parent;
}

struct tree_node *
tree_from(const struct tree *t, const struct tree_node *key)
{
	struct tree_node *n = t->root, *found = NULL;

	while (n) {
		if (t->compare(n, key) < 0) {
			n = n->right;
		} else {
			found = n;
			n = n->left;
		}
	}
	return found;
}
