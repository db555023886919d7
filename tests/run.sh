#!/bin/sh
# Builds and tests everything, on a fresh Debian, Ubuntu or Fedora too.
#
# Usage: sh tests/run.sh [--quick|--full] [--only normal|asan|tsan] [-- PYTEST ARGUMENTS]
#        sh tests/run.sh --packaging [TEST]...
#
# Installs what is missing (as root, or with a sudo that asks for no password),
# then makes three builds and tests each:
#
#   normal  -Werror, epoll loop; static checks, unit tests, installation
#           into a private prefix, integration tests against what was installed
#   asan    AddressSanitizer and UBSan, poll loop, crash points; unit and integration tests
#   tsan    ThreadSanitizer; the unit and the integration tests in which threads meet
#
# --quick is the normal build without the integration tests marked "slow".  --full has these with asan, too, which
# takes more than 40 minutes on two cores.  --packaging tries the packages instead,
# in a booted system: see tests/packaging/run.sh.
# Builds and logs go to build-run/, or to $RUN_DIR.
# $runner is to be split:
# shellcheck disable=SC2086
set -u

usage() {
	sed -n '/^# Usage/,/^#$/s/^# //p' "$0" >&2
	exit 2
}

quick=
full=
only=
while [ $# -gt 0 ]; do
	case $1 in
	--quick) quick=yes ;;
	--full) full=yes ;;
	--packaging)
		shift
		exec sh "$(dirname "$0")/packaging/run.sh" "$@"
		;;
	--only)
		[ $# -ge 2 ] || usage
		only=$2
		shift
		;;
	--)
		shift
		break
		;;
	*) usage ;;
	esac
	shift
done
case $only in '' | normal | asan | tsan) ;; *) usage ;; esac
# What is left in "$@" goes to pytest.

root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
python=${PYTHON:-/usr/bin/python3}
make=${MAKE:-make}
jobs=$(nproc 2>/dev/null || echo 1)
failed=
run=
source=
# shellcheck source=/dev/null
. "$root/packaging/common.sh"

say() {
	printf '\n==== %s\n' "$*"
}

fail() {
	failed="$failed
  $*"
	printf '==== FAILED: %s\n' "$*" >&2
}

# ---- what is needed ----

postgres_server() {
	command -v postgres && return
	for server in /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres; do
		[ -x "$server" ] && return
	done
	return 1
}

# Can $1 (-fsanitize=) be linked?
sanitizer() {
	probe=$(mktemp) &&
		echo 'int main(void) { return 0; }' | ${CC:-cc} -x c -fsanitize="$1" -o "$probe" -
	result=$?
	rm -f "$probe"
	return $result
}

look() {
	need_for_build
	need check check-devel pkg-config check
	need python3 python3 test -x "$python"
	need python3-pytest python3-pytest "$python" -c 'import pytest'
	need python3-pytest-xdist python3-pytest-xdist "$python" -c 'import xdist'
	need python3-psycopg2 python3-psycopg2 "$python" -c 'import psycopg2'
	need postgresql postgresql-server postgres_server
	need pgbouncer pgbouncer test -x "$(PATH=$PATH:/usr/sbin command -v pgbouncer)"
	need sqlite3 sqlite command -v sqlite3
	need netcat-openbsd netcat command -v nc
	need systemd systemd command -v systemd-socket-activate
	need util-linux util-linux command -v setpriv
	need shellcheck ShellCheck command -v shellcheck
	need mandoc mandoc command -v mandoc
	# In Debian gcc brings them.
	case $only$quick in normal* | yes) return ;; esac
	command -v apt-get >/dev/null && return
	need gcc 'libasan libubsan' sanitizer address,undefined
	need gcc libtsan sanitizer thread
}

# ---- steps; each has a log, which is shown if it fails ----

# step VARIANT NAME COMMAND...
step() {
	log=$run/$1/$2.log
	what="$1: $2"
	shift 2
	printf '%s\n' "$what"
	"$@" >"$log" 2>&1 && return
	tail -n 60 "$log" >&2
	fail "$what, see $log"
	return 1
}

configure_in() { # VARIANT OPTIONS...
	dir=$run/$1
	shift
	cd "$dir" && "$source/configure" --prefix="$dir/prefix" --sysconfdir="$dir/prefix/etc" \
		--with-systemdsystemunitdir="$dir/prefix/lib/systemd/system" --enable-werror "$@"
}

# build VARIANT CONFIGURE OPTIONS...
build() {
	variant=$1
	shift
	mkdir -p "$run/$variant"
	step "$variant" configure configure_in "$variant" "$@" &&
		step "$variant" build $runner "$make" -C "$run/$variant" -j"$jobs"
}

# The closing line of every Check program, which the test harness of Automake hides.
show_unit_results() {
	for log in "$run/$1"/tests/unit/check_*.log; do
		[ -e "$log" ] || continue
		printf '%s\n' "$(basename "$log" .log)"
		grep '^[0-9]*%: Checks: ' "$log" || cat "$log"
	done
}

unit_tests() { # VARIANT, TARGET of make
	variant=$1
	say "$variant: unit tests"
	rm -f "$run/$variant"/tests/unit/check_*.log
	step "$variant" check $runner "$make" -C "$run/$variant" -j"$jobs" "$2" VERBOSE=1
	show_unit_results "$variant"
	sed -n '/^# TOTAL/,/^# ERROR/p;/^# ERROR/q' "$run/$variant/check.log"
}

# integration VARIANT DAEMON PYTEST ARGUMENTS...
# Tests wait more than they work: as many run side by side as there are processors, each file's in one process.
integration() {
	variant=$1 daemon=$2
	shift 2
	say "$variant: integration tests"
	status=$run/$variant/pytest.status
	{
		# The tests find the reports of sanitizers in what the daemon writes.
		cd "$run/$variant" &&
			env METRIC_COLLECTORD="$daemon" METRIC_LOAD="$run/$variant/tests/bench/load" \
				PYTHONDONTWRITEBYTECODE=1 \
				ASAN_OPTIONS="detect_stack_use_after_return=1" \
				UBSAN_OPTIONS="print_stacktrace=1" \
				TSAN_OPTIONS="suppressions=$source/tests/tsan.supp" \
				LSAN_OPTIONS="suppressions=$source/tests/lsan.supp:print_suppressions=0" \
				$runner "$python" -m pytest -p no:cacheprovider -rs \
				-n "$jobs" --dist loadfile "$@" \
				"$source/tests/integration"
		echo $? >"$status"
	} 2>&1 | tee "$run/$variant/pytest.log"
	[ "$(cat "$status")" = 0 ] ||
		fail "$variant: integration tests, see $run/$variant/pytest.log"
}

# The tests of PostgreSQL once more, with the daemon's role, databases and clock against it (hostile.py).
# SECONDS that its clock is ahead, or behind; the FILES to run.
hostile() {
	seconds=$1 files=
	shift
	for file in "$@"; do
		files="$files $source/tests/integration/test_$file.py"
	done
	say "normal: integration tests, a hostile role, a clock that is $seconds s ahead"
	status=$run/normal/pytest.status
	{
		# shellcheck disable=SC2086 # the files
		cd "$run/normal" && env METRIC_COLLECTORD="$daemon" METRIC_HOSTILE="$seconds" \
			PYTHONDONTWRITEBYTECODE=1 "$python" -m pytest -p no:cacheprovider -rs \
			-n "$jobs" --dist loadfile -m 'not slow' $files
		echo $? >"$status"
	} 2>&1 | tee "$run/normal/pytest-hostile-$seconds.log"
	[ "$(cat "$status")" = 0 ] ||
		fail "normal: hostile, see $run/normal/pytest-hostile-$seconds.log"
}

static_checks() {
	say "static checks"
	mkdir -p "$run/static"
	step static lint sh "$source/tests/lint.sh" shellcheck mandoc systemd-analyze &&
		grep skipped "$run/static/lint.log"
	step static format sh "$source/tests/format.sh" --check
}

# ---- the three builds ----

normal() {
	static_checks
	say "normal: build"
	build normal --with-loop=epoll || return
	unit_tests normal check
	step normal install "$make" -C "$run/normal" install || return
	daemon=$run/normal/prefix/sbin/metric-collectord
	if [ -n "$quick" ]; then
		integration normal "$daemon" -m 'not slow' "$@"
	else
		integration normal "$daemon" "$@"
	fi
	[ "$quick$*" ] && return
	hostile 34560000 errors foreign janitor partitions postgres readers shape timescale_policies
	hostile -34560000 partitions readers
}

asan() {
	say "asan: build"
	build asan --with-loop=poll --enable-sanitizers=address,undefined --enable-crash-points ||
		return
	unit_tests asan check
	METRIC_COLLECTORD_CRASH_POINTS=$run/asan/metric-collectord
	export METRIC_COLLECTORD_CRASH_POINTS
	if [ -n "$full" ]; then
		integration asan "$run/asan/metric-collectord" "$@"
	else
		integration asan "$run/asan/metric-collectord" -m 'not slow' "$@"
	fi
	unset METRIC_COLLECTORD_CRASH_POINTS
}

# ThreadSanitizer wants its addresses free, which some kernels' randomization does not leave.
find_tsan_runner() {
	probe=$run/tsan/probe
	mkdir -p "$run/tsan"
	echo 'int main(void) { return 0; }' | ${CC:-cc} -x c -fsanitize=thread -o "$probe" - || return
	"$probe" 2>/dev/null && return
	runner="setarch $(uname -m) -R"
	$runner "$probe" 2>/dev/null
}

tsan() {
	say "tsan: build"
	if ! find_tsan_runner; then
		echo "tsan: SKIPPED: ThreadSanitizer does not run on this kernel (vm.mmap_rnd_bits)"
		return
	fi
	build tsan --enable-sanitizers=thread && {
		unit_tests tsan check-threads
		integration tsan "$run/tsan/metric-collectord" -m threads "$@"
	}
	runner=
}

# What a test may take is for a machine that does nothing else, without sanitizers.
CK_TIMEOUT_MULTIPLIER=${CK_TIMEOUT_MULTIPLIER:-4}
export CK_TIMEOUT_MULTIPLIER

install_needed
if [ -n "${RUN_DIR:-}" ]; then
	mkdir -p "$RUN_DIR" && run=$(cd "$RUN_DIR" && pwd) || exit 1
else
	choose_build_dir build-run
fi
choose_source
cd "$run" || exit 1
runner=
start=$(date +%s)
case $only$quick in
normal* | yes) normal "$@" ;;
asan*) asan "$@" ;;
tsan*) tsan "$@" ;;
*)
	normal "$@"
	asan "$@"
	tsan "$@"
	;;
esac

say "$(($(date +%s) - start)) seconds; logs are in $run"
if [ -n "$failed" ]; then
	echo "FAILED:$failed"
	exit 1
fi
echo "All passed."
