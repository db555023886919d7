#include "pg_cluster.h"

#include <check.h>
#include <fcntl.h>
#include <glob.h>
#include <grp.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static bool
has_initdb(const char *bin)
{
	char path[300];

	(void)snprintf(path, sizeof(path), "%s/initdb", bin);
	return access(path, X_OK) == 0;
}

bool
pg_cluster_find(char bin[256])
{
	FILE *f = popen("pg_config --bindir 2>/dev/null", "r");
	bool found = f && fscanf(f, "%255[^\n]", bin) == 1 && has_initdb(bin);
	glob_t g;
	size_t i;

	if (f)
		(void)pclose(f);
	if (found || glob("/usr/lib/postgresql/*/bin", 0, NULL, &g) != 0)
		return found;
	for (i = g.gl_pathc; i > 0 && !found; i--) {
		(void)snprintf(bin, 256, "%s", g.gl_pathv[i - 1]);
		found = has_initdb(bin);
	}
	globfree(&g);
	return found;
}

#define ARGS_MAX 16

/*
 * Runs argv[0], a program of the server's, as its user; what it says goes to the file "log".  It is
 * given its whole path, beside which it looks for the others.
 */
static int
run(const struct pg_cluster *c, const char *const *argv)
{
	const char *args[ARGS_MAX] = {NULL};
	char path[300], log[64];
	pid_t pid = fork();
	int status, fd;

	ck_assert_int_ge(pid, 0);
	if (pid > 0) {
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		return status;
	}
	(void)snprintf(path, sizeof(path), "%s/%s", c->bin, argv[0]);
	args[0] = path;
	for (int i = 1; i < ARGS_MAX - 1 && argv[i]; i++)
		args[i] = argv[i];
	(void)snprintf(log, sizeof(log), "%s/log", c->dir);
	if (geteuid() == 0 &&
	    (setgroups(0, NULL) != 0 || setgid(c->gid) != 0 || setuid(c->uid) != 0))
		_exit(126);
	fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0 || chdir(c->dir) != 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
		_exit(126);
	execv(path, (char *const *)(uintptr_t)args);
	_exit(127);
}

static void
show_log(const struct pg_cluster *c)
{
	char path[64], line[512];
	FILE *f;

	(void)snprintf(path, sizeof(path), "%s/log", c->dir);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		(void)fputs(line, stderr);
	if (f)
		(void)fclose(f);
}

static void
choose_user(struct pg_cluster *c)
{
	const struct passwd *pw;

	if (geteuid() != 0)
		return;
	pw = getpwnam("postgres");
	if (!pw)
		pw = getpwnam("nobody");
	ck_assert_ptr_nonnull(pw);
	c->uid = pw->pw_uid;
	c->gid = pw->pw_gid;
	ck_assert_int_eq(chown(c->dir, c->uid, c->gid), 0);
}

static void
configure(const struct pg_cluster *c, const char *setting)
{
	char path[64];
	FILE *f;

	(void)snprintf(path, sizeof(path), "%s/data/postgresql.conf", c->dir);
	f = fopen(path, "a");
	ck_assert_ptr_nonnull(f);
	(void)fprintf(f,
		      "listen_addresses = ''\nunix_socket_directories = '%s'\nfsync = off\n"
		      "max_connections = 40\nshared_buffers = 16MB\nautovacuum = off\n"
		      "timescaledb.telemetry_level = off\nlc_messages = 'C'\n%s\n",
		      c->dir, setting);
	ck_assert_int_eq(fclose(f), 0);
}

void
pg_cluster_start(struct pg_cluster *c, const char *setting)
{
	const char *const init[] = {"initdb", "-D",        "data",
				    "-U",     "postgres",  "-A",
				    "trust",  "--no-sync", "--no-instructions",
				    "-E",     "UTF8",      "--locale=C",
				    NULL};
	const char *const start[] = {"pg_ctl", "-D", "data", "-w", "-t", "60", "start", NULL};
	int status;

	ck_assert(pg_cluster_find(c->bin));
	(void)snprintf(c->dir, sizeof(c->dir), "/tmp/mc-pg-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(c->dir));
	choose_user(c);
	status = run(c, init);
	if (status == 0) {
		configure(c, setting);
		status = run(c, start);
	}
	if (status != 0) {
		show_log(c);
		pg_cluster_stop(c);
	}
	ck_assert_int_eq(status, 0);
}

void
pg_cluster_stop(struct pg_cluster *c)
{
	const char *const stop[] = {"pg_ctl", "-D", "data", "-w", "-m", "immediate", "stop", NULL};
	pid_t pid;

	(void)run(c, stop);
	pid = fork();
	if (pid == 0) {
		(void)execlp("rm", "rm", "-rf", c->dir, (char *)NULL);
		_exit(127);
	}
	(void)waitpid(pid, NULL, 0);
}
