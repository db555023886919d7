/*
 * server_reload.h - reads the settings anew in a thread, since files may be on a disk that hangs.
 *
 * One at a time: libconfuse, below conf_load(), is not made for two.
 */
#pragma once

#include <stdbool.h>

#include "conf/conf.h"

struct reload;

/*
 * ended(arg) is called from the thread when it is done; errors have been logged then
 * (reload_failed).  source and arg must outlive the thread.  Returns 0 or a negative errno.
 */
int reload_start(const struct conf_source *source, void (*ended)(void *arg), void *arg,
		 struct reload **ret);

/* Has it ended?  Then reload_finish() does not wait. */
bool reload_ended(struct reload *r);

/*
 * Does not wait for it any more: ended() is not called after this, and the thread frees r
 * when it ends.
 */
void reload_leave(struct reload *r);

/* The settings, for the caller to unref, or NULL when they had errors.  Frees r. */
struct conf *reload_finish(struct reload *r);
