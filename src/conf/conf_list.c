#include "conf/conf_list.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void
conf_list_clear(struct conf_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->items[i]);
	free(l->items);
	*l = (struct conf_list){0};
}

int
conf_list_copy(const char *const *values, size_t n, struct conf_list *ret)
{
	struct conf_list l = {0};

	l.items = calloc(n + 1, sizeof(*l.items)); /* never of size 0 */
	if (!l.items)
		return -ENOMEM;
	for (; l.n < n; l.n++) {
		l.items[l.n] = strdup(values[l.n]);
		if (!l.items[l.n]) {
			conf_list_clear(&l);
			return -ENOMEM;
		}
	}
	*ret = l;
	return 0;
}

bool
conf_list_equal(const struct conf_list *a, const struct conf_list *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++) {
		if (strcmp(a->items[i], b->items[i]) != 0)
			return false;
	}
	return true;
}

size_t
conf_list_split(char *text, const char *values[], size_t max)
{
	size_t n = 0;
	char *item;

	while ((item = strsep(&text, ",")) != NULL && n < max) {
		size_t len;

		item += strspn(item, " \t");
		len = strlen(item);
		while (len > 0 && strchr(" \t", item[len - 1]))
			len--;
		item[len] = '\0';
		if (len > 0 || text || n > 0) /* an empty text is an empty list */
			values[n++] = item;
	}
	return n;
}
