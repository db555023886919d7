/*
 * fuzz_conf.c - the input is a configuration file.  It loads without a word, or is refused with
 * at least one line; and whatever it did to libconfuse's scanner, the next file is read afresh.
 */
#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "conf/conf.h"

static void
count_line(void *arg, const char *line)
{
	unsigned *lines = arg;

	FUZZ_CHECK(!strchr(line, '\n'));
	(*lines)++;
}

/* Loads these bytes as a file; returns whether they are good. */
static int
load(const void *data, size_t size, unsigned *lines, struct conf **ret)
{
	char path[64];
	struct conf_source src = {.file = path};
	int fd = memfd_create("conf", MFD_CLOEXEC);
	int r;

	FUZZ_CHECK(fd >= 0);
	FUZZ_CHECK(size == 0 || write(fd, data, size) == (ssize_t)size);
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	*lines = 0;
	r = conf_load(&src, count_line, lines, ret);
	(void)close(fd);
	return r;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char good[] = "max_clients = 7 # good\n";
	static const char bad[] = "/* no */ max_clients = 'x' log { level = x }\n";
	struct conf *c = NULL;
	unsigned lines;
	int r;

	r = load(data, size, &lines, &c);
	FUZZ_CHECK(r == 0 || r == -EINVAL);
	FUZZ_CHECK((r == 0) == (lines == 0));
	conf_unref(c);

	c = NULL;
	FUZZ_CHECK(load(good, strlen(good), &lines, &c) == 0);
	FUZZ_CHECK(c->max_clients == 7);
	conf_unref(c);
	FUZZ_CHECK(load(bad, strlen(bad), &lines, &c) == -EINVAL);
	FUZZ_CHECK(lines == 2);
	return 0;
}
