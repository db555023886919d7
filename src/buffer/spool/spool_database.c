/* spool_database.c - the database in which the spool's batches were stored. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "buffer/spool/spool_internal.h"

int
spool_database_get(const struct spool *s, char text[SPOOL_DATABASE_MAX])
{
	int r = io_get_text(s, SPOOL_DATABASE, text, SPOOL_DATABASE_MAX);

	if (r < 0)
		return r;
	text[strcspn(text, "\n")] = '\0';
	return *text ? 0 : -EBADMSG;
}

int
spool_database_put(const struct spool *s, const char *text)
{
	char line[SPOOL_DATABASE_MAX];

	(void)snprintf(line, sizeof(line), "%s\n", text);
	return io_put_text(s, SPOOL_DATABASE, line);
}
