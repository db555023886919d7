#include "store/migrate.h"

#include <string.h>

const struct migration_file *
migration_next(const char *flavour, unsigned version)
{
	const struct migration_file *m;

	for (m = migration_files; m->flavour; m++)
		if (strcmp(m->flavour, flavour) == 0 && m->version > version)
			return m;
	return NULL;
}
