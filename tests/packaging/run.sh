#!/bin/sh
# Builds the packages and tries them in a booted system: systemd in a container, made of this machine's Debian.
#
# Usage: sh tests/packaging/run.sh [deb] [service] [postgresql] [rpm] [container] [compose]
#
#   deb         Debian package: installation, sandbox, upgrade under load, instances, removal
#   service     journal, status line, reload, watchdog, failures
#   postgresql  the package's own test (autopkgtest): a metric in a real PostgreSQL; its password as a credential
#   rpm         RPM package: files and owners, installation, upgrade, removal
#   container   the image: size, user, health, stop; where docker or podman is there
#   compose     README.md's commands for docker-compose; likewise
#
# Without arguments, all of them.  Needs root and Debian; installs what is missing.  What was built and the
# logs are in build-run/packaging/, or in $RUN_DIR/packaging.
set -u

root=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
here=$root/tests/packaging
tarball=
# shellcheck source=/dev/null
. "$root/packaging/tarball.sh"

look() {
	need_for_deb
	need_for_rpm
	need jq jq command -v jq
	need lintian lintian command -v lintian
	need mmdebstrap mmdebstrap command -v mmdebstrap
	need rpmlint rpmlint command -v rpmlint
	need systemd-container systemd-container command -v systemd-nspawn
}

say() {
	printf '\n==== %s\n' "$*"
}

# quietly NAME COMMAND...: shows the log only if it fails.
quietly() {
	log=$run/$1.log
	shift
	"$@" >"$log" 2>&1 && return
	tail -n 60 "$log" >&2
	echo "FAILED: $*, see $log" >&2
	exit 1
}

# What the package depends on, and what the tests call.
included=systemd,systemd-sysv,dbus,procps,libpq5,libsqlite3-0,libconfuse2,libsystemd0,sqlite3,jq,postgresql,rpm,cpio

# Made once; remove the directory for a fresh one.
make_root() {
	tree=$run/root
	[ ! -e "$tree/made" ] || return 0
	say "making a root tree"
	rm -rf "$tree"
	# shellcheck source=/dev/null
	codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
	sources=/etc/apt/sources.list
	[ ! -s /etc/apt/sources.list.d/debian.sources ] || sources=/etc/apt/sources.list.d/debian.sources
	quietly root mmdebstrap --variant=minbase --mode=root --format=directory --include="$included" \
		"$codename" "$tree" "$sources"
	: >"$tree/etc/machine-id"
	# A server is there only where a test starts it.
	ln -sf /dev/null "$tree/etc/systemd/system/postgresql.service"
	touch "$tree/made"
}

# The same package, as if it were the next version.
next_deb() { # DEB
	version=$(dpkg-deb -f "$1" Version)
	rm -rf "$run/next"
	dpkg-deb -R "$1" "$run/next" &&
		sed -i "s/^Version: .*/Version: ${version%-*}-2/" "$run/next/DEBIAN/control" &&
		dpkg-deb -b "$run/next" "$(echo "$1" | sed "s/_${version}_/_${version%-*}-2_/")"
}

build_debs() {
	[ ! -e "$packages/debs" ] || return 0
	say "building the Debian package"
	quietly build-deb sh "$root/packaging/build-deb.sh" -o "$packages" "$tarball"
	sed -n '/^[EWIPX]: /p' "$run/build-deb.log"
	deb=$(echo "$packages"/metric-collectord_*-1_*.deb)
	quietly next-deb next_deb "$deb"
	mkdir "$packages/source"
	dpkg-source --no-check -x "$packages"/*.dsc "$packages/source/tree" >/dev/null
	touch "$packages/debs"
}

build_rpms() {
	say "building the RPM package"
	quietly build-rpm sh "$root/packaging/build-rpm.sh" -o "$packages" "$tarball"
	sed -n '/rpmlint session/,$p' "$run/build-rpm.log"
	quietly build-rpm-next sh "$root/packaging/build-rpm.sh" -o "$packages" -r 2 "$tarball"
}

booted() { # NAME COMMAND
	say "$1, in a booted system"
	sh "$here/boot.sh" "$run/root" "$run/srv" "$2" || {
		echo "FAILED: $1" >&2
		failed="$failed $1"
	}
}

[ "$(id -u)" = 0 ] || {
	echo "$0: needs root" >&2
	exit 2
}
command -v apt-get >/dev/null || {
	echo "$0: needs Debian" >&2
	exit 2
}
wanted=${*:-deb service postgresql rpm container compose}
install_needed
if [ -n "${RUN_DIR:-}" ]; then
	mkdir -p "$RUN_DIR" && run=$(cd "$RUN_DIR" && pwd) || exit 1
else
	choose_build_dir build-run
fi
run=$run/packaging
packages=$run/srv/packages
rm -rf "$run/srv"
mkdir -p "$packages"
failed=
make_root
make_tarball "$run/dist"
cp -R "$here/inside" "$run/srv/"
for test in $wanted; do
	case $test in
	deb | service)
		build_debs
		booted "$test" "sh inside/$test.sh"
		;;
	postgresql)
		build_debs
		booted "$test" "sh inside/postgresql.sh"
		;;
	rpm)
		build_rpms
		booted "$test" "sh inside/rpm.sh"
		;;
	container | compose)
		say "$test"
		sh "$here/$test.sh" || failed="$failed $test"
		;;
	*)
		echo "$test: no such test" >&2
		exit 2
		;;
	esac
done
if [ -n "$failed" ]; then
	echo "FAILED:$failed"
	exit 1
fi
echo "All passed."
