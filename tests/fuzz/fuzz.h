/*
 * fuzz.h - what a fuzz target has, and what runs it.
 *
 * A target is one file, fuzz_<what>.c, with LLVMFuzzerTestOneInput().  Linked
 * with -fsanitize=fuzzer (clang) it searches; linked with standalone.c it
 * replays its corpus, with any compiler.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* Judges one input: returns 0, or does not return.  data may be NULL when size is 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* assert() that NDEBUG cannot take away. */
#define FUZZ_CHECK(condition)                                                                 \
	do {                                                                                  \
		if (!(condition)) {                                                           \
			(void)fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
			abort();                                                              \
		}                                                                             \
	} while (0)
