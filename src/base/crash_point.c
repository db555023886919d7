#include "base/crash_point.h"

#ifdef ENABLE_CRASH_POINTS

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Passages of the one point that the environment names.  Fault tests' builds only. */
static atomic_ulong passages;

void
crash_point(const char *name)
{
	const char *wanted = getenv("METRIC_COLLECTORD_CRASH_POINT");
	size_t len = strlen(name);
	unsigned long nth = 1;

	if (!wanted || strncmp(wanted, name, len) != 0)
		return;
	if (wanted[len] == ':')
		nth = strtoul(wanted + len + 1, NULL, 10);
	else if (wanted[len] != '\0')
		return;
	if (atomic_fetch_add(&passages, 1) + 1 != nth)
		return;
	(void)fprintf(stderr, "crash point %s\n", name);
	(void)fflush(stderr);
	(void)raise(SIGSTOP);
}

#else

/* ISO C wants a translation unit to declare something. */
typedef int crash_points_are_not_enabled;

#endif
