/*
 * thread.h - threads as the daemon has them: with a name, with all signals blocked, and with
 * conditions whose time limits go by the monotonic clock.
 */
#pragma once

#include <pthread.h>

#define THREAD_NAME_MAX 16 /* the kernel's limit, with the NUL */

/* name is below THREAD_NAME_MAX.  Returns 0 or a negative errno. */
int thread_start(pthread_t *ret, const char *name, void *(*fn)(void *arg), void *arg);

/* For pthread_cond_timedwait() with clock_timespec().  Returns 0 or a negative errno. */
int thread_cond_init(pthread_cond_t *ret);
