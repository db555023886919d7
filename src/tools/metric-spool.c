/*
 * metric-spool.c - looks into the spool of a daemon, and repairs it.
 *
 * Nothing is changed by looking (spool_look.h); repair --apply has the spool itself do what
 * the daemon would do when it meets the damage.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "buffer/spool/spool.h"
#include "conf/conf.h"
#include "base/text.h"
#include "tools/spool_back.h"
#include "tools/spool_look.h"
#include "wire/frame.h"

#define EXIT_DAMAGE 1
#define EXIT_USAGE 2
#define PATH_MAX_TEXT 4096

struct tool {
	const char *dir;
	struct look_entry *entries;
	size_t n;
	int lock;
	bool json;
	bool raw;
	bool all; /* kept ones, too */
	bool apply;
	FILE *out;
};

static int
fail(const char *what, const char *path)
{
	(void)fprintf(stderr, "metric-spool: %s: %s: %s\n", path, what, strerror(errno));
	return EXIT_FAILURE;
}

/* ---- the directory ---- */

static int
by_number(const void *a, const void *b)
{
	const struct look_entry *x = a, *y = b;

	return x->number < y->number ? -1 : x->number > y->number;
}

static bool
tool_add(struct tool *t, uint64_t number, bool kept)
{
	struct look_entry *grown = reallocarray(t->entries, t->n + 1, sizeof(*grown));

	if (!grown)
		return false;
	t->entries = grown;
	t->entries[t->n++] = (struct look_entry){number, kept};
	return true;
}

static int
tool_list(struct tool *t)
{
	DIR *dir = opendir(t->dir);
	struct dirent *d;

	if (!dir)
		return fail("cannot be listed", t->dir);
	t->n = 0;
	while ((d = readdir(dir)) != NULL) {
		bool kept = false;
		uint64_t number;

		if (!spool_name_parse(d->d_name, &number)) {
			kept = spool_name_parse_as(d->d_name, ".stored", &number);
			if (!kept)
				continue;
		}
		if (!tool_add(t, number, kept)) {
			(void)closedir(dir);
			return fail("listing", t->dir);
		}
	}
	(void)closedir(dir);
	if (t->n)
		qsort(t->entries, t->n, sizeof(*t->entries), by_number);
	return EXIT_SUCCESS;
}

/*
 * Locks the spool as a daemon does.  Returns the descriptor, -1 when a process has it (and
 * its number in *pid, 0 if unknown), -2 when there is nothing to lock, -3 when that fails: it is
 * said.
 */
static int
tool_lock(const struct tool *t, long *pid)
{
	char path[PATH_MAX_TEXT], text[32];
	ssize_t n;
	int fd;

	*pid = 0;
	(void)snprintf(path, sizeof(path), "%s/lock", t->dir);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 && errno == EACCES)
		(void)fail("cannot be opened", path);
	if (fd < 0)
		return errno == EACCES ? -3 : -2;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	if (errno != EWOULDBLOCK) {
		(void)fail("cannot be locked", path);
		(void)close(fd);
		return -3;
	}
	n = read(fd, text, sizeof(text) - 1);
	if (n > 0) {
		text[n] = '\0';
		*pid = strtol(text, NULL, 10);
	}
	(void)close(fd);
	return -1;
}

/* For the spool, which takes the lock itself. */
static void
tool_unlock(struct tool *t)
{
	if (t->lock >= 0)
		(void)close(t->lock);
	t->lock = -1;
}

/* ---- metrics ---- */

static void
emit_metric(struct tool *t, const struct frame *f)
{
	char time[TEXT_VALUE_MAX], value[TEXT_VALUE_MAX], name[FRAME_NAME_MAX * 6 + 3];
	struct text text = {.buf = name, .size = sizeof(name)};

	(void)text_time(time, f->time_us);
	(void)text_f64(value, f->value);
	text_put_json(&text, f->name, f->name_len, sizeof(name) - 1);
	text_end(&text);
	(void)fprintf(t->out, "{\"time\":\"%s\",\"metric\":%s,\"value\":%s%s%s}\n", time, text.buf,
		      value[0] == 'N' || strstr(value, "Inf") ? "\"" : "", value,
		      value[0] == 'N' || strstr(value, "Inf") ? "\"" : "");
}

/* The metrics of one block. */
static void
emit_block(void *arg, const uint8_t *frames, uint32_t len)
{
	struct tool *t = arg;
	size_t done = 0;

	if (t->raw) {
		(void)fwrite(frames, 1, len, t->out);
		return;
	}
	while (done < len) {
		struct frame f;

		done += frame_read(frames + done, &f);
		emit_metric(t, &f);
	}
}

/* ---- status ---- */

/* As text, and as JSON; nothing has no time. */
static void
print_time(const struct tool *t, const char *key, uint64_t rows, uint64_t us)
{
	char buf[TEXT_VALUE_MAX] = "-";

	if (rows)
		(void)text_time(buf, us);
	if (!t->json)
		(void)printf(" %27s", buf);
	else if (rows)
		(void)printf(",\"%s\":\"%s\"", key, buf);
}

static const char *
state_name(const struct look_entry *e, const struct look *l)
{
	switch (l->state) {
	case LOOK_OPEN:
		return "open";
	case LOOK_WHOLE:
		return e->kept ? "kept" : "waiting";
	case LOOK_DAMAGED:
		return "damaged";
	}
	return "unknown";
}

struct totals {
	uint64_t batches;
	uint64_t rows;
	uint64_t bytes;
	uint64_t min_us;
};

static int
status_file(struct tool *t, const struct look_entry *e, bool live, struct totals *sums)
{
	struct look l = {.dir = t->dir, .live = live};
	struct totals *sum = &sums[e->kept];
	int r = look_at(&l, e, true);

	if (r < 0)
		return r == -ENOENT ? EXIT_SUCCESS : EXIT_FAILURE; /* stored meanwhile */
	sum->batches++;
	sum->rows += l.verdict.sound.rows;
	sum->bytes += l.size;
	if (l.verdict.sound.rows && (!sum->min_us || l.verdict.sound.min_us < sum->min_us))
		sum->min_us = l.verdict.sound.min_us;
	(void)printf(t->json ? "{\"file\":\"%s\",\"state\":\"%s\",\"rows\":%" PRIu64
			       ",\"bytes\":%" PRIu64
			     : "%-27s %-8s %10" PRIu64 " %12" PRIu64,
		     l.name, state_name(e, &l), l.verdict.sound.rows, l.size);
	print_time(t, "oldest", l.verdict.sound.rows, l.verdict.sound.min_us);
	print_time(t, "newest", l.verdict.sound.rows, l.verdict.sound.max_us);
	if (t->json)
		(void)printf(",\"batch\":%" PRIu64 ",\"damaged_bytes\":%" PRIu64 "}", e->number,
			     l.verdict.damaged);
	(void)putchar('\n');
	return EXIT_SUCCESS;
}

static void
print_totals(const struct tool *t, const char *what, const struct totals *sum)
{
	char oldest[TEXT_VALUE_MAX] = "-";

	if (sum->rows)
		(void)text_time(oldest, sum->min_us);
	if (!t->json) {
		(void)printf("%s: batches %" PRIu64 ", rows %" PRIu64 ", bytes %" PRIu64
			     ", oldest %s\n",
			     what, sum->batches, sum->rows, sum->bytes, oldest);
		return;
	}
	(void)printf("{\"total\":\"%s\",\"batches\":%" PRIu64 ",\"rows\":%" PRIu64
		     ",\"bytes\":%" PRIu64,
		     what, sum->batches, sum->rows, sum->bytes);
	print_time(t, "oldest", sum->rows, sum->min_us);
	(void)puts("}");
}

static int
command_status(struct tool *t, char **argv)
{
	struct totals sums[2] = {{0}, {0}};
	int status = EXIT_SUCCESS;
	long pid;
	int lock = tool_lock(t, &pid);

	(void)argv;
	if (lock == -1)
		(void)fprintf(t->json ? stderr : stdout, "%s: in use by process %ld\n", t->dir,
			      pid);
	else if (lock >= 0)
		(void)close(lock);
	if (!t->json && t->n)
		(void)printf("%-27s %-8s %10s %12s %27s %27s\n", "FILE", "STATE", "ROWS", "BYTES",
			     "OLDEST", "NEWEST");
	for (size_t i = 0; i < t->n; i++)
		if (status_file(t, &t->entries[i], lock == -1, sums) != EXIT_SUCCESS)
			status = EXIT_FAILURE;
	print_totals(t, "waiting", &sums[false]);
	if (sums[true].batches || t->json)
		print_totals(t, "kept", &sums[true]);
	return status;
}

/* ---- check, cat, export ---- */

/* Says what is wrong with identity or sequence; returns whether something is. */
static bool
check_own(const char *name, int error)
{
	if (error == -ENOENT)
		(void)printf("%s: missing: the next start makes a new identity\n", name);
	else if (error == -EBADMSG || error == -EFBIG || error == -EISDIR || error == -ELOOP)
		(void)printf("%s: damaged: the next start moves it to corrupt/, and makes a new "
			     "identity\n",
			     name);
	else if (error < 0)
		(void)printf("%s: cannot be read: %s\n", name, strerror(-error));
	return error < 0;
}

/* A directory that no daemon has used yet lacks both. */
static long
check_owns(const struct tool *t)
{
	int identity, sequence;
	long bad = 0;

	if (spool_look_at_names(t->dir, &identity, &sequence) < 0)
		return 0; /* listing it has said so */
	if (identity == -ENOENT && sequence == -ENOENT && t->n == 0 && t->lock == -2)
		return 0;
	bad += check_own("identity", identity);
	bad += check_own("sequence", sequence);
	return bad;
}

static int
command_check(struct tool *t, char **argv)
{
	uint64_t rows = 0, damaged = 0;
	bool owns = check_owns(t) > 0;
	size_t bad = 0;

	(void)argv;
	for (size_t i = 0; i < t->n; i++) {
		struct look l = {.dir = t->dir, .print = true};

		if (look_at(&l, &t->entries[i], false) < 0) {
			bad++;
			continue;
		}
		if (l.verdict.other_number)
			(void)printf("%s: holds batch %" PRIu64 "\n", l.name,
				     l.verdict.header.number);
		if (l.verdict.torn)
			(void)printf("%s: the last %zu bytes are an unfinished block, as a crash "
				     "leaves it\n",
				     l.name, l.verdict.torn);
		bad += l.state == LOOK_DAMAGED;
		rows += l.verdict.sound.rows;
		damaged += l.verdict.damaged;
	}
	(void)printf("%s: files %zu, rows %" PRIu64 ", damaged files %zu, damaged bytes %" PRIu64
		     "\n",
		     t->dir, t->n, rows, bad, damaged);
	return bad || owns ? EXIT_DAMAGE : EXIT_SUCCESS;
}

/* Is that what somebody typed for this batch? */
static bool
names_batch(const char *text, const struct look_entry *e)
{
	char *end;
	uint64_t number = strtoull(text, &end, 10);

	return *text >= '0' && *text <= '9' && *end == '\0' && number == e->number;
}

static int
check_names(const struct tool *t, char **argv)
{
	for (; *argv; argv++) {
		bool found = false;

		for (size_t i = 0; i < t->n && !found; i++)
			found = names_batch(*argv, &t->entries[i]);
		if (!found) {
			(void)fprintf(stderr, "metric-spool: %s: no batch %s\n", t->dir, *argv);
			return EXIT_FAILURE;
		}
	}
	return EXIT_SUCCESS;
}

/* Writes the metrics of all batches, or of those named in argv. */
static int
emit_all(struct tool *t, char **argv)
{
	int status = check_names(t, argv);

	if (status != EXIT_SUCCESS)
		return status;
	for (size_t i = 0; i < t->n; i++) {
		struct look l = {.dir = t->dir, .block = emit_block, .arg = t};
		const struct look_entry *e = &t->entries[i];
		bool wanted = !*argv && (!e->kept || t->all);

		for (char **a = argv; *a; a++)
			wanted |= names_batch(*a, e);
		if (!wanted)
			continue;
		if (look_at(&l, e, false) < 0)
			status = EXIT_FAILURE;
		else if (l.state == LOOK_DAMAGED) {
			(void)fprintf(stderr,
				      "metric-spool: %s is damaged: see metric-spool check\n",
				      l.name);
			status = EXIT_DAMAGE;
		}
	}
	if (fflush(t->out) != 0 || ferror(t->out))
		return fail("write", "output");
	return status;
}

static int
command_export(struct tool *t, char **argv)
{
	static char *none[] = {NULL};
	const char *path = argv[0];
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int status;

	if (fd < 0)
		return fail("cannot be made", path);
	t->out = fdopen(fd, "wb");
	if (!t->out) {
		(void)close(fd);
		return fail("cannot be made", path);
	}
	t->raw = true;
	status = emit_all(t, none);
	if (fsync(fd) < 0)
		status = fail("write", path);
	if (fclose(t->out) != 0)
		status = fail("write", path);
	t->out = stdout;
	return status;
}

/* ---- repair ---- */

/* Prints what is to be done about a file, if anything is; returns whether that is so. */
static bool
plan_file(const struct look *l)
{
	const char *name = l->name;

	if (l->state == LOOK_WHOLE)
		return false;
	if (l->verdict.other_number)
		(void)printf("%s: holds batch %" PRIu64 ": move it to corrupt/\n", name,
			     l->verdict.header.number);
	else if (l->verdict.sound.rows == 0)
		(void)printf("%s: holds no sound block: %s\n", name,
			     l->state == LOOK_DAMAGED ? "move it to corrupt/" : "delete it");
	else if (l->state == LOOK_DAMAGED)
		(void)printf("%s: save %" PRIu64 " damaged bytes in corrupt/, keep %" PRIu64
			     " rows\n",
			     name, l->verdict.damaged, l->verdict.sound.rows);
	else
		(void)printf("%s: cut %zu bytes of an unfinished block off, seal it with %" PRIu64
			     " rows\n",
			     name, l->verdict.torn, l->verdict.sound.rows);
	return true;
}

static bool
has_batch(void *arg, uint64_t number)
{
	const struct tool *t = arg;

	for (size_t i = 0; i < t->n; i++)
		if (t->entries[i].number == number)
			return true;
	return false;
}

/* What lies in corrupt/ and is whole. */
static long
bring_back(struct tool *t, bool apply)
{
	const struct spool_back back = {.dir = t->dir, .has = has_batch, .arg = t, .apply = apply};

	return spool_back(&back);
}

/* How many files need repair; -1 when the spool is not for this version, or cannot be read. */
static long
plan(struct tool *t)
{
	long steps = bring_back(t, false);

	if (steps < 0)
		return -1;
	steps += check_owns(t);
	for (size_t i = 0; i < t->n; i++) {
		struct look l = {.dir = t->dir, .print = true};
		int r;

		if (t->entries[i].kept) /* the database has it */
			continue;
		r = look_at(&l, &t->entries[i], false);
		if (r == -ENOTSUP)
			return -1;
		if (r == -EISDIR || r == -ELOOP || r == -ENXIO)
			(void)printf("%s: move it to corrupt/\n", l.name);
		else if (r < 0)
			return -1;
		steps += r < 0 || plan_file(&l);
	}
	return steps;
}

struct repaired {
	struct spool *spool;
	uint64_t batches;
	uint64_t rows;
};

static void
repair_batch(void *arg, const struct spool_header *h)
{
	struct repaired *rep = arg;
	struct spool_summary sum;
	uint8_t *data = NULL;
	bool damaged;
	int r = spool_read(rep->spool, h->number, &data, &sum, &damaged);

	if (r == 0) {
		rep->batches++;
		rep->rows += sum.rows;
	}
	free(data);
	/* as the daemon does */
	if (r == -ENODATA)
		spool_set_aside(rep->spool, h->number);
	else if (damaged)
		spool_repair(rep->spool, h->number);
}

/* What root would write here the daemon could not read: work as the directory's owner. */
static int
become_owner(const char *dir)
{
	struct stat st;

	if (stat(dir, &st) < 0)
		return -errno;
	if (geteuid() != 0 || st.st_uid == 0)
		return 0;
	if (setgroups(0, NULL) < 0 || setgid(st.st_gid) < 0 || setuid(st.st_uid) < 0)
		return -errno;
	return 0;
}

static int
repair_apply(const struct tool *t)
{
	struct repaired rep = {0};
	char why[SPOOL_WHY_MAX] = "";
	int r = become_owner(t->dir);

	if (r == 0)
		r = spool_open(t->dir, CONF_SYNC_ALWAYS, &rep.spool, why);
	if (r == 0) {
		spool_salvage(rep.spool);
		r = spool_recover(rep.spool, repair_batch, &rep);
	}
	spool_free(rep.spool);
	if (r < 0) {
		(void)fprintf(stderr, "metric-spool: %s: %s\n", t->dir, *why ? why : strerror(-r));
		return EXIT_FAILURE;
	}
	(void)printf("%s: batches %" PRIu64 ", rows %" PRIu64 " are sound\n", t->dir, rep.batches,
		     rep.rows);
	return EXIT_SUCCESS;
}

static int
command_repair(struct tool *t, char **argv)
{
	long steps = plan(t);
	int status;

	(void)argv;
	if (steps < 0)
		return EXIT_FAILURE;
	if (!steps) {
		(void)printf("%s: nothing to repair\n", t->dir);
		return EXIT_SUCCESS;
	}
	if (!t->apply) {
		(void)printf("%s: %ld files to repair; --apply does it\n", t->dir, steps);
		return EXIT_DAMAGE;
	}
	if (bring_back(t, true) < 0)
		return EXIT_FAILURE;
	tool_unlock(t);
	status = repair_apply(t);
	if (status == EXIT_SUCCESS)
		status = tool_list(t);
	if (status == EXIT_SUCCESS && plan(t) != 0) {
		(void)printf("%s: what is listed now could not be repaired\n", t->dir);
		status = EXIT_DAMAGE;
	}
	return status;
}

/* ---- a copy's own identity ---- */

static int
command_new_identity(struct tool *t, char **argv)
{
	char why[SPOOL_WHY_MAX] = "", old[UUID_TEXT];
	struct spool *s = NULL;
	int r = become_owner(t->dir);

	(void)argv;
	tool_unlock(t);
	if (r == 0)
		r = spool_open(t->dir, CONF_SYNC_ALWAYS, &s, why);
	if (r == 0) {
		(void)snprintf(old, sizeof(old), "%s", spool_identity(s));
		r = spool_new_identity(s);
	}
	if (r == 0)
		(void)printf("%s: identity %s, which was %s\n", t->dir, spool_identity(s), old);
	else
		(void)fprintf(stderr, "metric-spool: %s: %s\n", t->dir, *why ? why : strerror(-r));
	spool_free(s);
	return r == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* ---- forget-database ---- */

/* A daemon that holds for another database looks again at each of its tries. */
static int
command_forget_database(struct tool *t, char **argv)
{
	char path[PATH_MAX_TEXT];

	(void)argv;
	(void)snprintf(path, sizeof(path), "%s/" SPOOL_DATABASE, t->dir);
	if (unlink(path) == 0)
		(void)printf(
		    "%s: the database that the collector meets next is the one that is meant\n",
		    t->dir);
	else if (errno == ENOENT)
		(void)printf("%s: no database is remembered\n", t->dir);
	else
		return fail("cannot be removed", path);
	return EXIT_SUCCESS;
}

/* ---- options ---- */

static void
usage(FILE *out)
{
	(void)fputs("Usage: metric-spool [-c FILE | -d DIR] COMMAND\n"
		    "\n"
		    "  status [-j]           what the spool holds; also while the daemon runs\n"
		    "  check                 verifies every block\n"
		    "  cat [-r] [-a] [N...]  the metrics as JSON lines, or as raw frames (-r)\n"
		    "  repair [--apply]      shows what it would do about damage, or does it\n"
		    "  export [-a] FILE      writes all metrics as frames, to be sent with nc\n"
		    "  new-identity          for a spool that was copied: an identity of its own\n"
		    "  forget-database       stores in another database than before; also while "
		    "it runs\n"
		    "\n"
		    "  -c FILE  the daemon's configuration, which names the spool\n"
		    "  -d DIR   the spool\n"
		    "  -a       batches that are stored and kept, too\n"
		    "  -V, -h   version, this text\n"
		    "See metric-spool(8).\n",
		    out);
}

static void
report(void *arg, const char *line)
{
	(void)arg;
	(void)fprintf(stderr, "metric-spool: %s\n", line);
}

static const struct command {
	const char *name;
	int (*run)(struct tool *t, char **argv);
	int max_args;
	int min_args;
	bool live; /* also while a daemon uses the spool */
} commands[] = {
    {"status", command_status, 0, 0, true},
    {"check", command_check, 0, 0, false},
    {"cat", emit_all, INT_MAX, 0, false},
    {"repair", command_repair, 0, 0, false},
    {"export", command_export, 1, 1, false},
    {"new-identity", command_new_identity, 0, 0, false},
    {"forget-database", command_forget_database, 0, 0, true},
};

static const struct command *
find_command(int argc, char **argv)
{
	for (size_t i = 0; argc > 0 && i < sizeof(commands) / sizeof(commands[0]); i++) {
		const struct command *c = &commands[i];

		if (strcmp(argv[0], c->name) == 0)
			return argc - 1 >= c->min_args && argc - 1 <= c->max_args ? c : NULL;
	}
	return NULL;
}

static int
run(struct tool *t, const struct command *command, char **argv)
{
	int status;
	long pid;

	if (!command->live) {
		t->lock = tool_lock(t, &pid);
		if (t->lock == -1) {
			(void)fprintf(
			    stderr,
			    "metric-spool: %s: in use by process %ld: stop the daemon first\n",
			    t->dir, pid);
			return EXIT_FAILURE;
		}
		if (t->lock == -3)
			return EXIT_FAILURE;
	}
	status = tool_list(t);
	if (status == EXIT_SUCCESS)
		status = command->run(t, argv);
	if (status == EXIT_SUCCESS && (fflush(stdout) != 0 || ferror(stdout)))
		status = fail("write", "output");
	if (t->lock >= 0)
		(void)close(t->lock);
	free(t->entries);
	return status;
}

/* The spool that the configuration names. */
static int
run_configured(struct tool *t, const struct conf_source *source, const struct command *command,
	       char **argv)
{
	struct conf *conf = NULL;
	int status;

	if (conf_load(source, report, NULL, &conf) < 0)
		return EXIT_USAGE;
	t->dir = conf->buffer.spool;
	if (*t->dir) {
		status = run(t, command, argv);
	} else {
		(void)fputs("metric-spool: the configuration has no spool (buffer.spool)\n",
			    stderr);
		status = EXIT_USAGE;
	}
	conf_unref(conf);
	return status;
}

int
main(int argc, char *argv[])
{
	static const struct option options[] = {
	    {"apply", no_argument, NULL, 'A'},
	    {"help", no_argument, NULL, 'h'},
	    {"version", no_argument, NULL, 'V'},
	    {NULL, 0, NULL, 0},
	};
	struct conf_source source = {0};
	struct tool t = {.out = stdout, .lock = -1};
	const struct command *command;
	int opt;

	while ((opt = getopt_long(argc, argv, "c:d:jraVh", options, NULL)) != -1) {
		switch (opt) {
		case 'c':
			source.file = optarg;
			break;
		case 'd':
			t.dir = optarg;
			break;
		case 'j':
			t.json = true;
			break;
		case 'r':
			t.raw = true;
			break;
		case 'a':
			t.all = true;
			break;
		case 'A':
			t.apply = true;
			break;
		case 'V':
			(void)puts("metric-spool " PACKAGE_VERSION);
			return EXIT_SUCCESS;
		case 'h':
			usage(stdout);
			return EXIT_SUCCESS;
		default:
			usage(stderr);
			return EXIT_USAGE;
		}
	}
	argv += optind;
	command = find_command(argc - optind, argv);
	if (!command) {
		usage(stderr);
		return EXIT_USAGE;
	}
	return t.dir ? run(&t, command, argv + 1) : run_configured(&t, &source, command, argv + 1);
}
