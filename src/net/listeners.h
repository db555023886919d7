/*
 * listeners.h - all the sockets that clients connect to.
 *
 * Sockets that systemd passed (sd_listen_fds(3)) are used as they are, and the listen
 * setting is then ignored; otherwise each address of it gets a listener.  Logs listening
 * {address, name?} for each one that opens, listen_failed {address, error} for each that does not.
 */
#pragma once

#include "net/listener.h"
#include "net/loop.h"
#include "conf/conf.h"

struct listeners;

/*
 * Opens everything, or nothing: a negative errno when one address fails.  fn gets the connections.
 */
int listeners_new(struct loop *loop, const struct conf *conf, listener_accept_fn *fn, void *arg,
		  struct listeners **ret);
void listeners_free(struct listeners *ls); /* NULL is fine */

/*
 * Applies a changed listen setting: addresses that stay keep their sockets, new ones are opened,
 * those that are gone are closed.  Where a new one cannot be opened, which is logged, those that
 * were to go stay: senders are never left without a listener.
 */
void listeners_set_conf(struct listeners *ls, const struct conf *conf);

/*
 * Nobody is accepted as long as hold is true, which accept_paused {error, hint} says when it begins.
 */
void listeners_hold(struct listeners *ls, bool hold);

/*
 * Stop: takes the connections that wait already, then closes.  Those that wait on sockets
 * of systemd's stay there for the next start.
 */
void listeners_stop(struct listeners *ls);
