#include "server.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "buffer/queue/queue.h"
#include "buffer/spool/spool.h"
#include "config.h"
#include "server_reload.h"
#include "conf/conf_effect.h"
#include "net/clients.h"
#include "net/listeners.h"
#include "net/loop.h"
#include "base/clock.h"
#include "log/log.h"
#include "log/notify.h"
#include "log/stats.h"
#include "store/writer.h"

#define TICK_MS 1000
#define WRITERS_END_MS 2000 /* one that goes on hangs in a name server's answer */
#define DISK_END_MS 2000    /* a disk that takes longer hangs */
#define HOLD_MS 5000
#define OTHER_DESCRIPTORS 256 /* beside clients: listeners, spool, database, libraries */
#define OTHER_DESCRIPTORS_MIN 48

enum server_state { SERVER_STARTING, SERVER_RUNNING, SERVER_STOPPING, SERVER_DONE };

struct server {
	enum server_state state;
	const struct conf_source *source; /* borrowed */
	struct conf *conf;                /* a reference */
	struct stats stats;
	struct loop *loop;
	struct spool *spool; /* NULL without one */
	struct queue *queue;
	struct clients *clients;
	unsigned most_clients; /* for whom there are descriptors */
	struct listeners *listeners;
	struct writers *writers; /* NULL while a reload waits for the old ones to end */
	struct writers *ending;  /* those of the configuration before */

	struct reload *reload; /* one that is under way, or NULL */
	bool reload_again;     /* a SIGHUP came meanwhile */

	struct loop_signals signals;
	struct loop_event wake; /* the queue, a writer or a reload has news */
	struct loop_timer flush;
	struct loop_timer tick;
	struct loop_timer watchdog;
	uint64_t deadline_ms;     /* of the stop */
	uint64_t retire_until_ms; /* then ending is cut off */
	uint64_t hold_until_ms;   /* see server_hold_listeners() */
	uint64_t last_received;   /* for the rate in the status line */
	bool timers_made;
	bool at_once; /* second signal */
};

/* ---- callbacks from other parts ---- */

static void
wake_from_any_thread(void *arg)
{
	struct server *s = arg;

	loop_event_raise(&s->wake);
}

static void
queue_drained(void *arg)
{
	struct server *s = arg;

	if (s->clients)
		clients_resume(s->clients);
}

/*
 * While the buffer is full, whoever finds all places taken waits unaccepted; and a little longer,
 * since those that have a place could not finish and leave before.
 */
static void
server_hold_listeners(struct server *s)
{
	uint64_t now_ms = clock_ms();

	if (s->conf->buffer.overflow == CONF_BLOCK && !queue_accepts(s->queue))
		s->hold_until_ms = now_ms + HOLD_MS;
	listeners_hold(s->listeners, clients_full(s->clients) && now_ms < s->hold_until_ms);
}

static void
client_connected(void *arg, int fd, const struct sockaddr *sa, socklen_t len)
{
	struct server *s = arg;

	clients_accept(s->clients, fd, sa, len);
	server_hold_listeners(s);
}

static void
flush_due(void *arg)
{
	struct server *s = arg;

	queue_flush(s->queue);
}

static void
watchdog_due(void *arg)
{
	(void)arg;
	notify_watchdog(); /* from the loop, so only while it turns */
}

/* ---- writers ---- */

static int
server_start_writers(struct server *s)
{
	int r;

	if (s->ending || s->writers)
		return 0;
	r = writers_start(s->conf, s->queue, wake_from_any_thread, s, &s->writers);
	if (r < 0)
		log_event(LOG_ERR, "writers_failed", LOG_STR("error", strerror(-r)));
	return r;
}

/* Frees writers of an earlier configuration once they have ended, and starts the next. */
static void
server_replace_writers(struct server *s)
{
	if (s->ending && writers_ended(s->ending)) {
		writers_free(s->ending);
		s->ending = NULL;
	}
	if (s->state != SERVER_DONE && !s->ending && !s->writers)
		(void)server_start_writers(s); /* the tick tries again */
}

/* Who writes, and can they? */
static void
server_look_at_writers(struct server *s)
{
	server_replace_writers(s);
	queue_set_away(s->queue, !s->writers || !writers_can_store(s->writers));
}

static const char *
database_status(const struct server *s)
{
	return s->writers ? writers_status_name(writers_status(s->writers)) : "reconnecting";
}

static void server_reloaded(struct server *s);

static void
server_woken(void *arg)
{
	struct server *s = arg;

	queue_collect(s->queue);
	server_look_at_writers(s);
	server_reloaded(s);
}

/* ---- status line ---- */

/* 12410 -> "12,410" */
static const char *
thousands(uint64_t n, char buf[32])
{
	char digits[24];
	int len = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)n);
	char *p = buf;
	int i;

	for (i = 0; i < len; i++) {
		if (i && (len - i) % 3 == 0)
			*p++ = ',';
		*p++ = digits[i];
	}
	*p = '\0';
	return buf;
}

static void
server_status(struct server *s)
{
	char rate[32], clients[32], batches[32];
	uint64_t received = s->stats.received - s->last_received;

	s->last_received = s->stats.received;
	notify_status("%s %s metrics/s from %s clients; database %s; %s batches waiting",
		      s->state == SERVER_STOPPING ? "stopping;" : "receiving",
		      thousands(received * 1000 / TICK_MS, rate),
		      thousands(s->stats.clients, clients), database_status(s),
		      thousands(s->stats.batches_waiting, batches));
}

static void
tick_due(void *arg)
{
	struct server *s = arg;

	queue_tick(s->queue);
	if (s->clients)
		clients_tick(s->clients);
	if (s->ending && clock_ms() >= s->retire_until_ms)
		writers_stop(s->ending);
	server_look_at_writers(s);
	notify_tick();
	server_status(s);
	log_tick();
}

/* ---- stop ---- */

static void
server_stop(struct server *s, const char *why)
{
	log_event(LOG_INFO, "stopping", LOG_STR("reason", why),
		  LOG_U64("buffered", s->stats.buffered));
	notify_stopping();
	s->state = SERVER_STOPPING;
	s->deadline_ms = clock_ms() + SERVER_STOP_MS;
	listeners_stop(s->listeners);
	clients_drain(s->clients);
	queue_seal(s->queue);
	queue_kick(s->queue); /* who waits for a database tries it once more */
}

/* Is there nothing left that waiting could improve? */
static bool
server_may_end(struct server *s)
{
	enum writers_status status = s->writers ? writers_status(s->writers) : WRITERS_CONNECTING;

	if (s->at_once || clock_ms() >= s->deadline_ms)
		return true;
	if (s->stats.buffered == 0)
		return clients_waiting(s->clients) == 0;
	/* Without a database, what is safe in the spool is as good as it gets. */
	return (status == WRITERS_UNAVAILABLE || status == WRITERS_HELD) && queue_secure(s->queue);
}

/* The end-of-turn hook. */
static void
server_turn(void *arg)
{
	struct server *s = arg;

	if (s->state == SERVER_STOPPING) {
		clients_drain(s->clients); /* those that waited for room */
		queue_seal(s->queue);
	}
	queue_end_turn(s->queue);
	server_hold_listeners(s);
	if (s->state == SERVER_STOPPING && server_may_end(s))
		s->state = SERVER_DONE;
}

/* ---- reload ---- */

struct changes {
	bool writers;
	unsigned restart;
};

static void
change_seen(void *arg, const char *key, bool restart)
{
	struct changes *ch = arg;

	if (restart) {
		ch->restart++;
		log_event(LOG_WARNING, "restart_required", LOG_STR("key", key));
	}
	if (strncmp(key, "database.", 9) == 0 || strncmp(key, "table.", 6) == 0 ||
	    strcmp(key, "buffer.keep") == 0 || strcmp(key, "batch.interval") == 0)
		ch->writers = true;
}

static void server_share_descriptors(struct server *s);

static void
server_apply(struct server *s, struct conf *conf)
{
	struct changes ch = {0};

	conf_diff(s->conf, conf, change_seen, &ch);
	conf_unref(s->conf);
	s->conf = conf;
	server_share_descriptors(s);
	if (log_open(conf->log.target, conf->log.level) < 0)
		log_event(LOG_ERR, "reload_failed",
			  LOG_STR("error", "log.target: the journal cannot be reached"));
	conf_log_ignored(conf, CONF_FOUND_NOTHING);
	queue_set_conf(s->queue, conf);
	clients_set_conf(s->clients, conf);
	clients_set_most(s->clients, s->most_clients);
	clients_resume(s->clients); /* another policy may not make them wait */
	listeners_set_conf(s->listeners, conf);
	loop_timer_set(&s->flush, conf->batch.interval_ms, conf->batch.interval_ms);
	if (ch.writers && s->writers) {
		assert(!s->ending); /* new ones start only once those have ended */
		writers_retire(s->writers);
		s->retire_until_ms = clock_ms() + WRITERS_END_MS;
		s->ending = s->writers;
		s->writers = NULL;
	}
	queue_kick(s->queue); /* an operator who reloads has just repaired something */
	log_event(LOG_NOTICE, "reloaded", LOG_STR("file", conf->file ? conf->file : ""),
		  LOG_U64("restart_required", ch.restart));
}

/* The files are read by a thread; server_reloaded() goes on with what it has found. */
static void
server_reload(struct server *s)
{
	int r;

	if (s->reload) {
		s->reload_again = true;
		return;
	}
	notify_reloading();
	r = reload_start(s->source, wake_from_any_thread, s, &s->reload);
	if (r < 0) {
		log_event(LOG_ERR, "reload_failed", LOG_STR("error", strerror(-r)));
		notify_ready();
	}
}

static void
server_reloaded(struct server *s)
{
	struct conf *conf;

	if (!s->reload || !reload_ended(s->reload))
		return;
	conf = reload_finish(s->reload);
	s->reload = NULL;
	if (s->state != SERVER_RUNNING) {
		conf_unref(conf);
		return;
	}
	if (conf)
		server_apply(s, conf);
	notify_ready();
	if (s->reload_again) {
		s->reload_again = false;
		server_reload(s);
	}
}

/* ---- signals ---- */

static void
server_log_statistics(struct server *s)
{
	struct loop_turns turns;

	loop_take_turns(s->loop, &turns);
	stats_log(&s->stats,
		  &(struct stats_turns){.max_ms = (double)turns.max_ns / 1e6,
					.p99_ms = (double)turns.p99_ns / 1e6},
		  LOG_INFO);
}

static void
signal_received(void *arg, int signo)
{
	struct server *s = arg;

	switch (signo) {
	case SIGTERM:
	case SIGINT:
		if (s->state == SERVER_RUNNING)
			server_stop(s, signo == SIGTERM ? "SIGTERM" : "SIGINT");
		else
			s->at_once = true;
		break;
	case SIGHUP:
		if (s->state == SERVER_RUNNING)
			server_reload(s);
		break;
	case SIGUSR1:
		queue_seal(s->queue);
		queue_kick(s->queue);
		break;
	case SIGUSR2:
		server_log_statistics(s);
		break;
	default:
		break;
	}
}

static int
server_watch_signals(struct server *s)
{
	sigset_t set;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGHUP);
	(void)sigaddset(&set, SIGUSR1);
	(void)sigaddset(&set, SIGUSR2);
	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGXFSZ, SIG_IGN); /* a file-size limit is a full disk, not a crash */
	return loop_signals_init(s->loop, &s->signals, &set, signal_received, s);
}

/* ---- start ---- */

/* Raises the process's limit to need; returns what it is then. */
static rlim_t
raise_descriptor_limit(rlim_t need)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) < 0 || rl.rlim_cur >= need)
		return need;
	rl.rlim_cur = need;
	if (rl.rlim_max < need)
		rl.rlim_max = need;
	if (setrlimit(RLIMIT_NOFILE, &rl) == 0)
		return need;
	(void)getrlimit(RLIMIT_NOFILE, &rl);
	rl.rlim_cur = rl.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &rl);
	return rl.rlim_cur;
}

/* Of so many descriptors, too few for all, those that clients leave alone. */
static rlim_t
descriptors_not_for_clients(const struct conf *conf, rlim_t limit)
{
	rlim_t half = limit / 2 < OTHER_DESCRIPTORS ? limit / 2 : OTHER_DESCRIPTORS;
	rlim_t least =
	    OTHER_DESCRIPTORS_MIN + 2 * (rlim_t)(conf->listen.n + conf->database.connections);

	return half > least ? half : least;
}

/*
 * Decides for how many clients there are descriptors: if they took the last ones, neither the
 * spool nor the database could be opened.
 */
static void
server_share_descriptors(struct server *s)
{
	const struct conf *conf = s->conf;
	rlim_t need = (rlim_t)conf->max_clients + OTHER_DESCRIPTORS;
	rlim_t limit = raise_descriptor_limit(need);
	rlim_t others = descriptors_not_for_clients(conf, limit);
	unsigned most = limit > others ? (unsigned)(limit - others) : 1;

	if (limit >= need)
		most = conf->max_clients;
	if (most < conf->max_clients && most != s->most_clients)
		log_event(LOG_WARNING, "descriptor_limit", LOG_U64("needed", need),
			  LOG_U64("available", limit), LOG_U64("max_clients", most),
			  LOG_STR("hint", "no more clients than these are accepted: raise "
					  "LimitNOFILE= (ulimit -n), or lower max_clients"));
	s->most_clients = most;
}

static int
server_open_spool(struct server *s)
{
	char why[SPOOL_WHY_MAX];
	int r;

	if (!s->conf->buffer.spool[0])
		return 0;
	r = spool_open(s->conf->buffer.spool, s->conf->buffer.sync, &s->spool, why);
	if (r < 0)
		log_event(LOG_ERR, "spool_failed", LOG_STR("path", s->conf->buffer.spool),
			  LOG_STR("error", why));
	return r;
}

static int
server_make_timers(struct server *s)
{
	uint64_t watchdog_ms = notify_watchdog_ms();
	int r = loop_timer_init(s->loop, &s->flush, flush_due, s);

	if (r == 0)
		r = loop_timer_init(s->loop, &s->tick, tick_due, s);
	if (r == 0)
		r = loop_timer_init(s->loop, &s->watchdog, watchdog_due, s);
	if (r < 0)
		return r;
	s->timers_made = true;
	loop_timer_set(&s->flush, s->conf->batch.interval_ms, s->conf->batch.interval_ms);
	loop_timer_set(&s->tick, TICK_MS, TICK_MS);
	if (watchdog_ms)
		loop_timer_set(&s->watchdog, watchdog_ms, watchdog_ms);
	return 0;
}

/* Logs what it could not do; a plain errno is logged by the caller. */
static int
server_start(struct server *s)
{
	struct queue_events events = {queue_drained, wake_from_any_thread, s};
	int r = loop_new(LOOP_DEFAULT, &s->loop);

	if (r == 0)
		r = server_watch_signals(s);
	if (r == 0)
		r = loop_event_init(s->loop, &s->wake, server_woken, s);
	if (r == 0)
		r = server_open_spool(s);
	if (r == 0)
		r = queue_new(s->conf, &s->stats, s->spool, &events, &s->queue);
	if (r == 0)
		r = clients_new(s->loop, s->queue, &s->stats, s->conf, &s->clients);
	if (r == 0)
		clients_set_most(s->clients, s->most_clients);
	if (r == 0)
		r = listeners_new(s->loop, s->conf, client_connected, s, &s->listeners);
	if (r == 0)
		r = server_make_timers(s);
	if (r == 0)
		r = server_start_writers(s);
	if (r < 0)
		return r;
	loop_on_turn(s->loop, server_turn, s);
	s->state = SERVER_RUNNING;
	return 0;
}

/* ---- end ---- */

/* Waits a little for the writers to end; false when they do not. */
static bool
server_end_writers(struct server *s)
{
	uint64_t deadline_ms = clock_ms() + WRITERS_END_MS;
	bool ended = true;

	if (s->writers)
		writers_stop(s->writers);
	if (s->ending)
		writers_stop(s->ending);
	while (ended && ((s->writers && !writers_ended(s->writers)) ||
			 (s->ending && !writers_ended(s->ending))))
		ended = clock_ms() < deadline_ms && loop_turn(s->loop, 100) == 0;
	return ended;
}

/* What the writers have not stored goes to the spool; false when the disk does not answer. */
static bool
server_end_disk(struct server *s)
{
	uint64_t deadline_ms = clock_ms() + DISK_END_MS;

	queue_collect(s->queue); /* what the writers finished last */
	queue_seal(s->queue);
	while (s->spool && !queue_secure(s->queue) && clock_ms() < deadline_ms)
		if (loop_turn(s->loop, 100) < 0)
			break;
	return queue_close(s->queue, DISK_END_MS);
}

/* The last words.  Returns the exit status. */
static int
server_farewell(struct server *s)
{
	const struct stats *st = &s->stats;
	uint64_t lost = queue_unsafe_rows(s->queue);

	if (lost)
		log_event(LOG_ERR, "metrics_lost", LOG_U64("rows", lost),
			  LOG_STR("error", s->spool
					       ? "neither the database nor the spool took them"
					       : "the database did not take them, and there is "
						 "no spool"));
	log_event(LOG_INFO, "stopped", LOG_U64("received", st->received),
		  LOG_U64("stored", st->stored), LOG_U64("buffered", st->buffered),
		  LOG_U64("rejected", st->rejected), LOG_U64("dropped", st->dropped));
	return lost ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* Copes with a server that is half built.  The writers have ended, or were never started. */
static void
server_free(struct server *s)
{
	writers_free(s->ending);
	writers_free(s->writers);
	listeners_free(s->listeners);
	clients_free(s->clients);
	queue_free(s->queue);
	spool_free(s->spool);
	if (s->timers_made) {
		loop_timer_done(&s->watchdog);
		loop_timer_done(&s->tick);
		loop_timer_done(&s->flush);
	}
	loop_event_done(&s->wake);
	loop_signals_done(&s->signals);
	loop_free(s->loop);
	conf_unref(s->conf);
}

static int
server_loop(struct server *s)
{
	int r = 0;

	while (s->state != SERVER_DONE && r == 0)
		r = loop_turn(s->loop, -1);
	return r;
}

int
server_run(const struct conf_source *source, struct conf *conf)
{
	struct server s = {
	    .source = source, .conf = conf_ref(conf), .wake.fd = -1, .signals.fd = -1};
	int status = EXIT_FAILURE;
	bool ended = true, reload_left;
	int r;

	(void)log_open(conf->log.target, conf->log.level);
	r = log_start(); /* from here on no reader of the log holds anybody up */
	log_event(LOG_INFO, "starting", LOG_STR("version", PACKAGE_VERSION),
		  LOG_U64("pid", (uint64_t)getpid()), LOG_STR("file", conf->file));
	if (conf_shows_password(source))
		log_event(LOG_WARNING, "password_visible", LOG_STR("hint", CONF_PASSWORD_SHOWN));
	server_share_descriptors(&s);
	conf_log_ignored(conf, CONF_FOUND_NOTHING);
	if (r == 0)
		r = server_start(&s);
	if (r == 0) {
		notify_ready();
		log_event(LOG_INFO, "ready", LOG_STR("loop", loop_backend_name(s.loop)),
			  LOG_STR("collector", queue_collector(s.queue)));
		server_status(&s);
		r = server_loop(&s);
	}
	if (r < 0)
		log_event(LOG_ERR, "failed", LOG_STR("error", strerror(-r)));
	if (s.queue && s.state != SERVER_STARTING)
		ended = server_end_writers(&s);
	if (s.queue && !server_end_disk(&s))
		ended = false;
	if (s.queue && s.state != SERVER_STARTING)
		status = server_farewell(&s);
	if (r < 0)
		status = EXIT_FAILURE;
	if (!ended) {
		/* A thread hangs, in the resolver or in the disk: leave without it. */
		log_close();
		_exit(status);
	}
	reload_left = s.reload != NULL;
	if (reload_left)
		reload_leave(s.reload);
	server_free(&s);
	log_close();
	if (reload_left)
		_exit(status); /* its thread may go on with source, which is main()'s */
	return status;
}
