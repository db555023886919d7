/*
 * crash_point.h - named places where a fault test can stop the daemon and kill it.
 *
 * METRIC_COLLECTORD_CRASH_POINT=NAME has the process stop itself (SIGSTOP) when it
 * passes crash_point("NAME") for the first time, NAME:N when it does for the N-th time,
 * after one line on stderr that says so.  Any thread.
 *
 * Only a build with --enable-crash-points has them; otherwise they are nothing.
 */
#pragma once

#ifdef ENABLE_CRASH_POINTS
void crash_point(const char *name);
#else
#define crash_point(name) ((void)0)
#endif
