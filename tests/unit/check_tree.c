#include "base/tree.h"

#include <check.h>
#include <stdbool.h>
#include <stdlib.h>

#define MANY 20000

struct item {
	struct tree_node node;
	uint32_t key;
	bool in;
};

#define ITEM(n) TREE_ENTRY(n, struct item, node)

static struct item items[MANY];
static struct tree tree;

static int
by_key(const struct tree_node *a, const struct tree_node *b)
{
	return ITEM(a)->key < ITEM(b)->key ? -1 : ITEM(a)->key > ITEM(b)->key;
}

static void
setup(void)
{
	tree_init(&tree, by_key);
	for (uint32_t i = 0; i < MANY; i++)
		items[i].key = i;
}

static void
put(uint32_t i)
{
	tree_insert(&tree, &items[i].node);
	items[i].in = true;
}

static void
cut(uint32_t i)
{
	tree_remove(&tree, &items[i].node);
	items[i].in = false;
}

/* Order, links, priorities; returns the depth. */
static unsigned
check_below(const struct tree_node *n, const struct tree_node *parent)
{
	unsigned left, right;

	if (!n)
		return 0;
	ck_assert_ptr_eq(n->parent, parent);
	ck_assert(!parent || n->priority <= parent->priority);
	ck_assert(!n->left || by_key(n->left, n) < 0);
	ck_assert(!n->right || by_key(n->right, n) > 0);
	left = check_below(n->left, n);
	right = check_below(n->right, n);
	return 1 + (left > right ? left : right);
}

static unsigned
check_all(void)
{
	const struct tree_node *n = tree_first(&tree), *last = NULL;

	for (uint32_t i = 0; i < MANY; i++) {
		if (!items[i].in)
			continue;
		ck_assert_ptr_eq(n, &items[i].node);
		last = n;
		n = tree_next(n);
	}
	ck_assert_ptr_null(n);
	ck_assert_ptr_eq(tree_last(&tree), last);
	return check_below(tree.root, NULL);
}

START_TEST(an_empty_one_has_nothing)
{
	const struct item key = {.key = 0};

	ck_assert_ptr_null(tree_first(&tree));
	ck_assert_ptr_null(tree_last(&tree));
	ck_assert_ptr_null(tree_from(&tree, &key.node));
	ck_assert_ptr_null(ITEM(tree_first(&tree)));
	put(5);
	cut(5);
	ck_assert_ptr_null(tree.root);
}
END_TEST

/* _i: rising, falling, or from both ends: what chance alone would not do to it. */
START_TEST(any_order_of_coming_leaves_it_shallow)
{
	for (uint32_t i = 0; i < MANY; i++)
		put(_i == 0 ? i : _i == 1 ? MANY - 1 - i : i % 2 ? MANY - 1 - i / 2 : i / 2);
	ck_assert_uint_lt(check_all(), 60);
	for (uint32_t i = 0; i < MANY; i++)
		if (i % 3)
			cut(i);
	ck_assert_uint_lt(check_all(), 60);
	for (uint32_t i = 0; i < MANY; i += 3)
		cut(i);
	ck_assert_ptr_null(tree.root);
}
END_TEST

START_TEST(from_a_key_on)
{
	struct item key = {.key = 0};

	for (uint32_t i = 10; i < 100; i += 10)
		put(i);
	for (key.key = 0; key.key < 100; key.key++) {
		struct item *found = ITEM(tree_from(&tree, &key.node));

		if (key.key > 90) {
			ck_assert_ptr_null(found);
			continue;
		}
		ck_assert_uint_eq(found->key, key.key < 10 ? 10 : (key.key + 9) / 10 * 10);
	}
}
END_TEST

START_TEST(coming_and_going_at_random)
{
	srand(7);
	for (int step = 0; step < 200000; step++) {
		uint32_t i = (uint32_t)rand() % MANY;

		if (items[i].in)
			cut(i);
		else
			put(i);
		if (step % 20000 == 0)
			ck_assert_uint_lt(check_all(), 60);
	}
	(void)check_all();
}
END_TEST

static Suite *
suite(void)
{
	Suite *s = suite_create("tree");
	TCase *tc = tcase_create("all");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_test(tc, an_empty_one_has_nothing);
	tcase_add_loop_test(tc, any_order_of_coming_leaves_it_shallow, 0, 3);
	tcase_add_test(tc, from_a_key_on);
	tcase_add_test(tc, coming_and_going_at_random);
	suite_add_tcase(s, tc);
	return s;
}

int
main(void)
{
	SRunner *sr = srunner_create(suite());
	int failed;

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
