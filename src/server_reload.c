#include "server_reload.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "log/log.h"

struct reload {
	const struct conf_source *source; /* borrowed */
	void (*ended_fn)(void *arg);
	void *arg;
	pthread_t thread;
	struct conf *conf; /* the thread's until it has ended */
	atomic_bool ended;
};

static void
report(void *arg, const char *line)
{
	(void)arg;
	log_event(LOG_ERR, "reload_failed", LOG_STR("error", line));
}

static void *
run(void *arg)
{
	struct reload *r = arg;

	(void)pthread_setname_np(pthread_self(), "reload");
	if (conf_load(r->source, report, NULL, &r->conf) < 0)
		r->conf = NULL;
	atomic_store(&r->ended, true);
	r->ended_fn(r->arg);
	return NULL;
}

int
reload_start(const struct conf_source *source, void (*ended)(void *arg), void *arg,
	     struct reload **ret)
{
	struct reload *r = calloc(1, sizeof(*r));
	sigset_t all, before;
	int e;

	if (!r)
		return -ENOMEM;
	*r = (struct reload){.source = source, .ended_fn = ended, .arg = arg};
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &before);
	e = -pthread_create(&r->thread, NULL, run, r);
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (e < 0) {
		free(r);
		return e;
	}
	*ret = r;
	return 0;
}

bool
reload_ended(const struct reload *r)
{
	return atomic_load(&r->ended);
}

struct conf *
reload_finish(struct reload *r)
{
	struct conf *conf;

	(void)pthread_join(r->thread, NULL);
	conf = r->conf;
	free(r);
	return conf;
}
