/*
 * standalone.c - runs a fuzz target over the files, and the files in the
 * directories, that are its arguments.  For replaying a corpus without
 * libFuzzer.  An argument that yields no input at all is a failure: a corpus
 * that got lost must not look like one that passed.
 */
#include "fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

/* Of exact size, so that ASan sees the target read past the end. */
static uint8_t *
read_file(FILE *file, size_t size)
{
	uint8_t *data = malloc(size + !size);

	if (data && fread(data, 1, size, file) != size) {
		free(data);
		return NULL;
	}
	return data;
}

/* Returns 1, or -1 after an error that is told. */
static int
run_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data = NULL;
	struct stat st;

	if (file && fstat(fileno(file), &st) == 0)
		data = read_file(file, (size_t)st.st_size);
	if (!data)
		(void)fprintf(stderr, "%s: %s\n", path, strerror(errno));
	else
		(void)LLVMFuzzerTestOneInput(data, (size_t)st.st_size);
	free(data);
	if (file)
		(void)fclose(file);
	return data ? 1 : -1;
}

/* Returns the number of inputs, -1 after an error that is told. */
static int
run_directory(const char *path, DIR *dir)
{
	const struct dirent *entry;
	int inputs = 0;

	while ((entry = readdir(dir))) {
		char file[4096];

		if (entry->d_name[0] == '.')
			continue;
		(void)snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
		if (run_file(file) < 0)
			return -1;
		inputs++;
	}
	return inputs;
}

/* Likewise. */
static int
run(const char *path)
{
	DIR *dir = opendir(path);
	int inputs;

	if (!dir)
		return run_file(path);
	inputs = run_directory(path, dir);
	(void)closedir(dir);
	return inputs;
}

int
main(int argc, char **argv)
{
	int status = argc > 1 ? EXIT_SUCCESS : EXIT_FAILURE;

	for (int i = 1; i < argc; i++) {
		int inputs = run(argv[i]);

		if (inputs >= 0)
			(void)fprintf(stderr, "%s: %d inputs\n", argv[i], inputs);
		if (inputs <= 0)
			status = EXIT_FAILURE;
	}
	return status;
}
