/* main.c - options, settings, and off it goes. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "server.h"
#include "conf/conf.h"
#include "conf/conf_effect.h"
#include "conf/conf_uri.h"
#include "log/log.h"

#define EXIT_USAGE 2
#define OVERRIDES_MAX 256

static void
usage(FILE *out)
{
	(void)fputs(
	    "Usage: metric-collectord [-c FILE] [-o KEY=VALUE]... [-t] [-V] [-h]\n"
	    "\n"
	    "Receives metrics over TCP and stores them in TimescaleDB, PostgreSQL or SQLite.\n"
	    "\n"
	    "  -c FILE       read FILE instead of the default configuration\n"
	    "  -o KEY=VALUE  set one key, such as batch.interval=1 (after file and environment)\n"
	    "  -t            check the configuration and exit\n"
	    "  -V            print the version and exit\n"
	    "  -h            print this text and exit\n"
	    "\n"
	    "It stays in the foreground and logs to stderr or the journal.\n"
	    "See metric-collectord(8) and metric-collectord.conf(5).\n",
	    out);
}

/* The journal gets events alone, whatever writes there: jq reads it. */
static void
report(void *arg, const char *line)
{
	(void)arg;
	if (log_is_journal(STDERR_FILENO)) {
		(void)log_open(LOG_TARGET_AUTO, LOG_INFO);
		log_event(LOG_ERR, "configuration_error", LOG_STR("error", line));
	} else {
		(void)fprintf(stderr, "metric-collectord: %s\n", line);
	}
}

static void
report_ignored(void *arg, const char *key, const char *where, const char *reason)
{
	(void)arg;
	(void)key;
	(void)fprintf(stderr, "metric-collectord: %s: has no effect: %s\n", where, reason);
}

/* What is given for database.uri may hold a password: ps(1) shows it no longer than it must. */
static const char *
take_override(char *arg)
{
	static const char uri[] = "database.uri=";
	char *copy = strdup(arg);

	if (copy && strncmp(arg, uri, strlen(uri)) == 0)
		memset(arg + strlen(uri), '*', strlen(arg + strlen(uri)));
	return copy;
}

static void
warn(const struct conf *conf, const struct conf_source *source)
{
	if (log_is_journal(STDERR_FILENO)) {
		(void)log_open(LOG_TARGET_AUTO, LOG_INFO);
		conf_log_ignored(conf, CONF_FOUND_NOTHING);
		return;
	}
	if (conf_shows_password(source))
		(void)fprintf(stderr, "metric-collectord: warning: %s\n", CONF_PASSWORD_SHOWN);
	conf_without_effect(conf, CONF_FOUND_NOTHING, report_ignored, NULL);
}

static int
check(const struct conf *conf, const struct conf_source *source)
{
	warn(conf, source);
	if (log_is_journal(STDOUT_FILENO)) {
		(void)log_open(conf->log.target, conf->log.level);
		log_event(LOG_INFO, "configuration_ok", LOG_STR("file", conf->file));
	} else if (conf->file)
		(void)printf("%s: configuration OK\n", conf->file);
	else
		(void)printf("%s: not there, defaults: configuration OK\n", conf_default_file);
	return EXIT_SUCCESS;
}

int
main(int argc, char *argv[])
{
	static const char *overrides[OVERRIDES_MAX];
	struct conf_source source = {.overrides = overrides};
	bool test = false;
	struct conf *conf;
	int opt, status;

	while ((opt = getopt(argc, argv, "c:o:tVh")) != -1) {
		switch (opt) {
		case 'c':
			source.file = optarg;
			break;
		case 'o':
			if (source.n_overrides == OVERRIDES_MAX) {
				(void)fprintf(stderr,
					      "metric-collectord: more than %d -o options\n",
					      OVERRIDES_MAX);
				return EXIT_USAGE;
			}
			overrides[source.n_overrides] = take_override(optarg);
			if (!overrides[source.n_overrides++]) {
				perror("metric-collectord");
				return EXIT_FAILURE;
			}
			break;
		case 't':
			test = true;
			break;
		case 'V':
			(void)puts(PACKAGE_STRING);
			return EXIT_SUCCESS;
		case 'h':
			usage(stdout);
			return EXIT_SUCCESS;
		default:
			usage(stderr);
			return EXIT_USAGE;
		}
	}
	if (optind < argc) {
		(void)fprintf(stderr, "metric-collectord: unexpected argument%s%s\n",
			      conf_may_hold_secret(argv[optind]) ? "" : ": ",
			      conf_may_hold_secret(argv[optind]) ? "" : argv[optind]);
		usage(stderr);
		return EXIT_USAGE;
	}
	if (conf_load(&source, report, NULL, &conf) < 0)
		return test ? EXIT_FAILURE : EXIT_USAGE;
	status = test ? check(conf, &source) : server_run(&source, conf);
	conf_unref(conf);
	return status;
}
