#!/bin/sh
# Builds each fuzz target in $FUZZ_TARGETS with clang and libFuzzer, and has it search for
# $FUZZ_SECONDS.  `make fuzz` calls it in the build directory, with
# $srcdir, $SOURCES (of the library), $CPPFLAGS, $CFLAGS and $LIBS set.
#
# What is found stays in fuzz/: fuzz/TARGET/ has the inputs that reached new code, and
# fuzz/TARGET-crash-... those that failed.
# Lists of files are to be split:
# shellcheck disable=SC2086
set -eu
: "${srcdir:?}"

clang=${CLANG:-clang}
if ! command -v "$clang" >/dev/null; then
	echo "make fuzz needs clang (with its compiler-rt)" >&2
	exit 1
fi

# The caller's flags are quoted for a shell.
compile() {
	eval "\"\$clang\" $CPPFLAGS $CFLAGS $flags \"\$@\""
}

flags="-g -O1 -fno-omit-frame-pointer -fno-sanitize-recover=all"
mkdir -p fuzz/objects
objects=
for source in $SOURCES; do
	case $source in *.c) ;; *) continue ;; esac
	object=fuzz/objects/$(printf '%s' "${source%.c}" | tr / -).o
	objects="$objects $object"
	[ -f "$source" ] || source=$srcdir/$source
	compile -fsanitize=fuzzer-no-link,address,undefined -c -o "$object" "$source"
done
# As an archive: a target takes only what it needs.
rm -f fuzz/objects/library.a
ar cr fuzz/objects/library.a $objects

status=0
for target in $FUZZ_TARGETS; do
	compile -fsanitize=fuzzer,address,undefined -o "fuzz/fuzz_$target" \
		"$srcdir/tests/fuzz/fuzz_$target.c" fuzz/objects/library.a $LIBS
	mkdir -p "fuzz/$target"
	echo "fuzz_$target: searching for $FUZZ_SECONDS seconds"
	"fuzz/fuzz_$target" -max_total_time="$FUZZ_SECONDS" -print_final_stats=1 \
		-artifact_prefix="fuzz/$target-" "fuzz/$target" \
		"$srcdir/tests/fuzz/corpus/$target" || status=1
done
exit $status
