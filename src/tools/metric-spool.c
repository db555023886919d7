/*
 * metric-spool.c - looks into the spool of a daemon, and repairs it.
 *
 * Reading is done with what spool_file.h offers, so that nothing is changed by looking; repair
 * --apply has the spool itself do what the daemon would do when it meets the damage.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "buffer/spool.h"
#include "config.h"
#include "service/conf.h"
#include "service/log.h"
#include "service/text.h"
#include "wire/frame.h"

#define EXIT_DAMAGE 1
#define EXIT_USAGE 2
#define PATH_MAX_TEXT 4096

/* One file of the spool, as the listing found it. */
struct entry {
	uint64_t number;
	bool kept; /* .stored: the database has it */
};

struct tool {
	const char *dir;
	struct entry *entries;
	size_t n;
	bool json;
	bool raw;
	bool all; /* kept ones, too */
	bool apply;
	FILE *out;
};

/* What was found in one file. */
struct look {
	struct tool *tool;
	const char *name;
	struct spool_header header;
	struct spool_summary sum; /* of the sound blocks */
	uint64_t size;
	uint64_t damaged; /* bytes */
	size_t torn;
	bool header_damaged;
	bool print; /* the damage */
	bool emit;  /* the metrics */
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
	const struct entry *x = a, *y = b;

	return x->number < y->number ? -1 : x->number > y->number;
}

static bool
tool_add(struct tool *t, uint64_t number, bool kept)
{
	struct entry *grown = reallocarray(t->entries, t->n + 1, sizeof(*grown));

	if (!grown)
		return false;
	t->entries = grown;
	t->entries[t->n++] = (struct entry){number, kept};
	return true;
}

static int
tool_list(struct tool *t)
{
	DIR *dir = opendir(t->dir);
	struct dirent *d;

	if (!dir)
		return fail("cannot be listed", t->dir);
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

static void
entry_name(const struct entry *e, char out[SPOOL_NAME_MAX])
{
	spool_name_as(out, e->number, e->kept ? ".stored" : ".batch");
}

/*
 * Locks the spool as a daemon does.  Returns the descriptor, -1 when a process has it (and
 * its number in *pid, 0 if unknown), -2 when there is nothing to lock.
 */
static int
tool_lock(const struct tool *t, long *pid)
{
	char path[PATH_MAX_TEXT], text[32];
	ssize_t n;
	int fd;

	*pid = 0;
	(void)snprintf(path, sizeof(path), "%s/lock", t->dir);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -2;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	n = read(fd, text, sizeof(text) - 1);
	if (n > 0) {
		text[n] = '\0';
		*pid = strtol(text, NULL, 10);
	}
	(void)close(fd);
	return -1;
}

/* ---- one file ---- */

static void
emit_metric(struct tool *t, const struct frame *f)
{
	char time[TEXT_VALUE_MAX], value[TEXT_VALUE_MAX], name[FRAME_NAME_MAX * 6 + 3];
	struct text text = {.buf = name, .size = sizeof(name)};

	(void)text_time(time, f->time_us);
	(void)text_f64(value, f->value);
	text_put_json(&text, f->name, f->name_len, sizeof(name) - 1);
	text_end(&text);
	(void)fprintf(t->out, "{\"time\":\"%s\",\"metric\":%s,\"value\":%s%s%s}\n", time, name,
		      value[0] == 'N' || strstr(value, "Inf") ? "\"" : "", value,
		      value[0] == 'N' || strstr(value, "Inf") ? "\"" : "");
}

static void
on_block(void *arg, size_t offset, const uint8_t *frames, uint32_t len, uint32_t rows)
{
	struct look *l = arg;
	size_t done = 0;

	(void)offset;
	(void)rows;
	if (!l->emit)
		return;
	if (l->tool->raw) {
		(void)fwrite(frames, 1, len, l->tool->out);
		return;
	}
	while (done < len) {
		struct frame f;

		done += frame_read(frames + done, &f);
		emit_metric(l->tool, &f);
	}
}

static void
on_damage(void *arg, size_t offset, const uint8_t *p, size_t len)
{
	struct look *l = arg;

	(void)p;
	l->damaged += len;
	if (l->print)
		(void)printf("%s: %zu damaged bytes at offset %zu\n", l->name, len,
			     offset + SPOOL_FILE_HEADER);
}

static uint8_t *
read_file(const char *path, uint64_t *size)
{
	FILE *in = fopen(path, "rbe");
	struct stat st;
	uint8_t *data = NULL;

	if (!in)
		return NULL;
	if (fstat(fileno(in), &st) == 0 && S_ISREG(st.st_mode)) {
		data = malloc((size_t)st.st_size + 1);
		*size = data ? fread(data, 1, (size_t)st.st_size, in) : 0;
	} else {
		errno = EISDIR;
	}
	(void)fclose(in);
	return data;
}

/* Reads and walks a file.  EXIT_FAILURE when it cannot be read at all. */
static int
look_at(struct look *l, const struct entry *e)
{
	const struct spool_walk walk = {on_block, on_damage, l};
	char path[PATH_MAX_TEXT];
	uint8_t *data;
	int r;

	(void)snprintf(path, sizeof(path), "%s/%s", l->tool->dir, l->name);
	data = read_file(path, &l->size);
	if (!data)
		return fail("cannot be read", path);
	r = spool_header_decode(data, (size_t)l->size, &l->header);
	if (r == -ENOTSUP) {
		(void)fprintf(stderr, "metric-spool: %s: a newer version wrote this file\n", path);
		free(data);
		return EXIT_FAILURE;
	}
	l->header_damaged = r < 0 || l->header.number != e->number;
	if (l->header_damaged && l->print)
		(void)printf("%s: the header is damaged\n", l->name);
	if (l->size > SPOOL_FILE_HEADER)
		spool_walk(data + SPOOL_FILE_HEADER, (size_t)l->size - SPOOL_FILE_HEADER, &walk,
			   &l->sum, &l->torn);
	free(data);
	return EXIT_SUCCESS;
}

static bool
look_is_sound(const struct look *l)
{
	return !l->header_damaged && !l->damaged && (!l->torn || !l->header.sealed) &&
	       (!l->header.sealed || l->sum.rows == l->header.summary.rows);
}

/* ---- status ---- */

static void
print_time(uint64_t rows, uint64_t us)
{
	char buf[TEXT_VALUE_MAX];

	(void)text_time(buf, us);
	(void)printf(" %27s", rows ? buf : "-");
}

static const char *
state_name(const struct entry *e, const struct look *l)
{
	if (!look_is_sound(l))
		return "damaged";
	if (e->kept)
		return "kept";
	return l->header.sealed ? "waiting" : "open";
}

struct totals {
	uint64_t batches;
	uint64_t rows;
	uint64_t bytes;
	uint64_t min_us;
};

static int
status_file(struct tool *t, const struct entry *e, struct totals *sums)
{
	char name[SPOOL_NAME_MAX];
	struct look l = {.tool = t, .name = name};
	struct totals *sum = &sums[e->kept];

	entry_name(e, name);
	if (look_at(&l, e) != EXIT_SUCCESS)
		return errno == ENOENT ? EXIT_SUCCESS : EXIT_FAILURE; /* stored meanwhile */
	sum->batches++;
	sum->rows += l.sum.rows;
	sum->bytes += l.size;
	if (l.sum.rows && (!sum->min_us || l.sum.min_us < sum->min_us))
		sum->min_us = l.sum.min_us;
	if (t->json) {
		(void)printf("{\"file\":\"%s\",\"state\":\"%s\",\"batch\":%" PRIu64
			     ",\"rows\":%" PRIu64 ",\"bytes\":%" PRIu64
			     ",\"damaged_bytes\":%" PRIu64 "}\n",
			     name, state_name(e, &l), e->number, l.sum.rows, l.size, l.damaged);
		return EXIT_SUCCESS;
	}
	(void)printf("%-30s %-8s %10" PRIu64 " %12" PRIu64, name, state_name(e, &l), l.sum.rows,
		     l.size);
	print_time(l.sum.rows, l.sum.min_us);
	print_time(l.sum.rows, l.sum.max_us);
	(void)putchar('\n');
	return EXIT_SUCCESS;
}

static void
print_totals(const struct tool *t, const char *what, const struct totals *sum)
{
	char oldest[TEXT_VALUE_MAX] = "-";

	if (sum->rows)
		(void)text_time(oldest, sum->min_us);
	(void)printf(t->json ? "{\"%s\":true,\"batches\":%" PRIu64 ",\"rows\":%" PRIu64
			       ",\"bytes\":%" PRIu64 ",\"oldest\":\"%s\"}\n"
			     : "%s: batches %" PRIu64 ", rows %" PRIu64 ", bytes %" PRIu64
			       ", oldest %s\n",
		     what, sum->batches, sum->rows, sum->bytes, oldest);
}

static int
command_status(struct tool *t)
{
	struct totals sums[2] = {{0}, {0}};
	int status = EXIT_SUCCESS;
	long pid;
	int lock = tool_lock(t, &pid);

	if (lock == -1)
		(void)fprintf(t->json ? stderr : stdout, "%s: in use by process %ld\n", t->dir,
			      pid);
	else if (lock >= 0)
		(void)close(lock);
	if (!t->json && t->n)
		(void)printf("%-30s %-8s %10s %12s %27s %27s\n", "FILE", "STATE", "ROWS", "BYTES",
			     "OLDEST", "NEWEST");
	for (size_t i = 0; i < t->n; i++)
		if (status_file(t, &t->entries[i], sums) != EXIT_SUCCESS)
			status = EXIT_FAILURE;
	print_totals(t, "waiting", &sums[false]);
	if (sums[true].batches || t->json)
		print_totals(t, "kept", &sums[true]);
	return status;
}

/* ---- check, cat, export ---- */

static int
command_check(struct tool *t)
{
	uint64_t rows = 0, damaged = 0;
	size_t bad = 0;

	for (size_t i = 0; i < t->n; i++) {
		char name[SPOOL_NAME_MAX];
		struct look l = {.tool = t, .name = name, .print = true};

		entry_name(&t->entries[i], name);
		if (look_at(&l, &t->entries[i]) != EXIT_SUCCESS) {
			bad++;
			continue;
		}
		if (l.torn)
			(void)printf("%s: the last %zu bytes are an unfinished block%s\n", name,
				     l.torn, l.header.sealed ? "" : ", as a crash leaves it");
		if (!look_is_sound(&l)) {
			if (l.header.sealed && l.sum.rows < l.header.summary.rows)
				(void)printf("%s: %" PRIu64 " of %" PRIu64 " rows are left\n", name,
					     l.sum.rows, l.header.summary.rows);
			bad++;
		}
		rows += l.sum.rows;
		damaged += l.damaged;
	}
	(void)printf("%s: files %zu, rows %" PRIu64 ", damaged files %zu, damaged bytes %" PRIu64
		     "\n",
		     t->dir, t->n, rows, bad, damaged);
	return bad ? EXIT_DAMAGE : EXIT_SUCCESS;
}

/* Writes the metrics of all batches, or of those named in argv. */
static int
emit_all(struct tool *t, char **argv)
{
	int status = EXIT_SUCCESS;

	for (size_t i = 0; i < t->n; i++) {
		char name[SPOOL_NAME_MAX];
		struct look l = {.tool = t, .name = name, .emit = true};
		const struct entry *e = &t->entries[i];
		bool wanted = !*argv && (!e->kept || t->all);

		for (char **a = argv; *a; a++)
			wanted |= strtoull(*a, NULL, 10) == e->number;
		if (!wanted)
			continue;
		entry_name(e, name);
		if (look_at(&l, e) != EXIT_SUCCESS)
			status = EXIT_FAILURE;
		if (!look_is_sound(&l)) {
			(void)fprintf(
			    stderr, "metric-spool: %s is damaged: see metric-spool check\n", name);
			status = EXIT_DAMAGE;
		}
	}
	if (fflush(t->out) != 0)
		return fail("write", "output");
	return status;
}

static int
command_export(struct tool *t, const char *path)
{
	static char *none[] = {NULL};
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int status;

	if (fd < 0)
		return fail("cannot be made", path);
	t->out = fdopen(fd, "wb");
	if (!t->out)
		return fail("cannot be made", path);
	t->raw = true;
	status = emit_all(t, none);
	if (fsync(fd) < 0 || fclose(t->out) != 0)
		return fail("write", path);
	t->out = stdout;
	return status;
}

/* ---- repair ---- */

static void
plan_file(struct tool *t, const struct entry *e, size_t *steps)
{
	char name[SPOOL_NAME_MAX];
	struct look l = {.tool = t, .name = name, .print = true};

	entry_name(e, name);
	if (look_at(&l, e) != EXIT_SUCCESS) {
		(void)printf("%s: move it to corrupt/\n", name);
		++*steps;
		return;
	}
	if (look_is_sound(&l) && l.header.sealed)
		return;
	++*steps;
	if (l.sum.rows == 0)
		(void)printf("%s: holds no sound block: %s\n", name,
			     l.damaged || l.header_damaged ? "move it to corrupt/" : "delete it");
	else if (l.damaged || l.header_damaged)
		(void)printf("%s: save %" PRIu64 " damaged bytes in corrupt/, keep %" PRIu64
			     " rows\n",
			     name, l.damaged, l.sum.rows);
	else
		(void)printf("%s: cut %zu bytes of an unfinished block off, seal it with %" PRIu64
			     " rows\n",
			     name, l.torn, l.sum.rows);
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

	/* Reading moves damage aside, as it does in the daemon. */
	if (spool_read(rep->spool, h->number, &data, &sum) == 0) {
		rep->batches++;
		rep->rows += sum.rows;
	}
	free(data);
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
	char why[SPOOL_WHY_MAX];
	int r = become_owner(t->dir);

	if (r < 0) {
		(void)fprintf(stderr, "metric-spool: %s: %s\n", t->dir, strerror(-r));
		return EXIT_FAILURE;
	}
	r = spool_open(t->dir, CONF_SYNC_ALWAYS, &rep.spool, why);

	if (r < 0) {
		(void)fprintf(stderr, "metric-spool: %s\n", why);
		return EXIT_FAILURE;
	}
	r = spool_recover(rep.spool, repair_batch, &rep);
	spool_free(rep.spool);
	if (r < 0) {
		(void)fprintf(stderr, "metric-spool: %s: %s\n", t->dir, strerror(-r));
		return EXIT_FAILURE;
	}
	(void)printf("%s: batches %" PRIu64 ", rows %" PRIu64 " are sound\n", t->dir, rep.batches,
		     rep.rows);
	return EXIT_SUCCESS;
}

static int
command_repair(struct tool *t, int *lock)
{
	size_t steps = 0;

	for (size_t i = 0; i < t->n; i++)
		if (!t->entries[i].kept)
			plan_file(t, &t->entries[i], &steps);
	if (!steps) {
		(void)printf("%s: nothing to repair\n", t->dir);
		return EXIT_SUCCESS;
	}
	if (!t->apply) {
		(void)printf("%s: %zu files to repair; --apply does it\n", t->dir, steps);
		return EXIT_DAMAGE;
	}
	if (*lock >= 0)
		(void)close(*lock); /* the spool takes it itself */
	*lock = -1;
	return repair_apply(t);
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

static int
run(struct tool *t, const char *command, char **argv)
{
	long pid;
	int lock = -1;
	int status;

	if (strcmp(command, "status") != 0) {
		lock = tool_lock(t, &pid);
		if (lock == -1) {
			(void)fprintf(
			    stderr,
			    "metric-spool: %s: in use by process %ld: stop the daemon first\n",
			    t->dir, pid);
			return EXIT_FAILURE;
		}
	}
	status = tool_list(t);
	if (status != EXIT_SUCCESS)
		;
	else if (strcmp(command, "status") == 0)
		status = command_status(t);
	else if (strcmp(command, "check") == 0)
		status = command_check(t);
	else if (strcmp(command, "cat") == 0)
		status = emit_all(t, argv);
	else if (strcmp(command, "repair") == 0)
		status = command_repair(t, &lock);
	else if (strcmp(command, "export") == 0 && argv[0] && !argv[1])
		status = command_export(t, argv[0]);
	else {
		usage(stderr);
		status = EXIT_USAGE;
	}
	if (lock >= 0)
		(void)close(lock);
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
	struct tool t = {.out = stdout};
	struct conf *conf = NULL;
	const char *command;
	int opt, status;

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
	command = argv[optind];
	if (!command) {
		usage(stderr);
		return EXIT_USAGE;
	}
	if (!t.dir) {
		if (conf_load(&source, report, NULL, &conf) < 0)
			return EXIT_USAGE;
		t.dir = conf->buffer.spool;
	}
	status = run(&t, command, argv + optind + 1);
	free(t.entries);
	conf_unref(conf);
	return status;
}
