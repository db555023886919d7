#!/bin/sh
# Static analysis: cppcheck and scan-build over the sources, shellcheck over the scripts, mandoc over the
# manual pages, systemd-analyze over the units, docker-compose over its file.  Says which tool is
# missing, and goes on without it.
# `make lint` calls it in the build directory, with $srcdir, $CPPFLAGS and $CFLAGS set.
# Arguments choose some of them.
# Lists of files are to be split, and functions are called by check():
# shellcheck disable=SC2046,SC2317
set -u

srcdir=${srcdir:-$(dirname "$0")/..}
status=0

# Is tool $1 there?
have() {
	command -v "$1" >/dev/null && return 0
	echo "lint: skipped $1: not installed"
	return 1
}

# Runs a check, tells how it went.
check() {
	what=$1
	shift
	if "$@"; then
		echo "lint: $what: clean"
	else
		echo "lint: $what: see above" >&2
		status=1
	fi
}

sources() {
	find "$srcdir/src" -name '*.c' | LC_ALL=C sort
}

scripts() {
	find "$srcdir" -name 'build*' -prune -o -name .git -prune -o -name '*.sh' -print
	echo "$srcdir/.ci/run"
	find "$srcdir/packaging/debian" -name '*.postinst' -o -name '*.postrm' -o -name '*.prerm'
	echo "$srcdir/packaging/debian/tests/postgresql"
}

pages() {
	find "$srcdir/man" -name '*.[1-9]'
}

# Everything that mandoc has to say, but for pages that are not installed here, ours among them.
man_pages() {
	! mandoc -T lint $(pages) 2>&1 |
		grep -v -e 'STYLE: referenced manual not found:' -e ': outdated mandoc.db '
}

# The caller's flags are quoted for a shell.
compile() {
	eval "\"\$CC\" $CPPFLAGS $CFLAGS \"\$@\""
}

# scan-build runs us again with its own compiler in $CC.
if [ "${1:-}" = --compile ]; then
	object=$(mktemp) || exit 1
	for source in $(sources); do
		compile -c -o "$object" "$source" || status=1
	done
	rm -f "$object"
	exit $status
fi

wanted=${*:-cppcheck scan-build shellcheck mandoc systemd-analyze docker-compose}
for tool in $wanted; do
	have "$tool" || continue
	case $tool in
	cppcheck)
		check cppcheck cppcheck --quiet --error-exitcode=1 --inline-suppr --std=c11 \
			--enable=warning,performance,portability --suppress=missingIncludeSystem \
			-D__linux__ '-DCONF_DEFAULT_FILE="FILE"' -I "$srcdir/src" "$srcdir/src" "$srcdir/tests/fuzz"
		;;
	scan-build)
		check scan-build scan-build --status-bugs -o scan-build sh "$0" --compile
		;;
	shellcheck)
		check shellcheck shellcheck $(scripts)
		;;
	mandoc)
		check mandoc man_pages
		;;
	systemd-analyze)
		check systemd-analyze sh "$srcdir/tests/check-units.sh"
		;;
	docker-compose)
		check docker-compose docker-compose -f "$srcdir/docker-compose.yml" config -q
		;;
	*)
		echo "lint: $tool: unknown" >&2
		exit 2
		;;
	esac
done
exit $status
