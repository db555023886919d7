#include "server_reload.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/thread.h"
#include "log/log.h"

struct reload {
	const struct conf_source *source; /* borrowed */
	void (*ended_fn)(void *arg);
	void *arg;
	pthread_t thread;
	struct conf *conf;    /* the thread's until it has ended */
	pthread_mutex_t lock; /* of the two below */
	bool ended;
	bool left; /* nobody waits for it */
};

static void
report(void *arg, const char *line)
{
	(void)arg;
	log_event(LOG_ERR, "reload_failed", LOG_STR("error", line));
}

static void
reload_free(struct reload *r)
{
	(void)pthread_mutex_destroy(&r->lock);
	free(r);
}

static void *
reload_main(void *arg)
{
	struct reload *r = arg;
	bool left;

	if (conf_load(r->source, report, NULL, &r->conf) < 0)
		r->conf = NULL;
	(void)pthread_mutex_lock(&r->lock);
	left = r->left;
	r->ended = true;
	if (!left)
		r->ended_fn(r->arg);
	(void)pthread_mutex_unlock(&r->lock);
	if (left) {
		conf_unref(r->conf);
		reload_free(r);
	}
	return NULL;
}

int
reload_start(const struct conf_source *source, void (*ended)(void *arg), void *arg,
	     struct reload **ret)
{
	struct reload *r = calloc(1, sizeof(*r));
	int e;

	if (!r)
		return -ENOMEM;
	*r = (struct reload){.source = source, .ended_fn = ended, .arg = arg};
	(void)pthread_mutex_init(&r->lock, NULL);
	e = thread_start(&r->thread, "reload", reload_main, r);
	if (e < 0) {
		reload_free(r);
		return e;
	}
	*ret = r;
	return 0;
}

bool
reload_ended(struct reload *r)
{
	bool ended;

	(void)pthread_mutex_lock(&r->lock);
	ended = r->ended;
	(void)pthread_mutex_unlock(&r->lock);
	return ended;
}

void
reload_leave(struct reload *r)
{
	bool ended;

	(void)pthread_mutex_lock(&r->lock);
	ended = r->ended;
	r->left = true;
	if (!ended)
		(void)pthread_detach(r->thread); /* r is the thread's once the lock is free */
	(void)pthread_mutex_unlock(&r->lock);
	if (ended)
		conf_unref(reload_finish(r));
}

struct conf *
reload_finish(struct reload *r)
{
	struct conf *conf;

	(void)pthread_join(r->thread, NULL);
	conf = r->conf;
	reload_free(r);
	return conf;
}
