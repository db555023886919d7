#!/bin/sh
# Runs each fuzz target in $FUZZ_TARGETS, built with standalone.c, over its seed corpus.
# `make check` calls it in the build directory, with $srcdir set.
set -u
: "${srcdir:?}"

status=0
for target in $FUZZ_TARGETS; do
	if ! tests/fuzz/"fuzz_$target" "$srcdir/tests/fuzz/corpus/$target"; then
		echo "fuzz_$target: failed" >&2
		status=1
	fi
done
exit $status
