#!/bin/sh
# Builds the RPM packages, source and binary.
#
# Usage: sh packaging/build-rpm.sh [-o DIRECTORY] [-r RELEASE] [TARBALL]
#
# TARBALL is one of `make dist`; without it, one is made of this tree.  What was built goes to
# DIRECTORY (build-packages/); RELEASE counts packages of the same version (1).  On Fedora and RHEL it installs what is missing.  On Debian, whose rpm knows
# neither the packages installed nor systemd's macros, stand-ins take their place: good enough to try
# the spec.  Runs rpmlint where it is installed.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
tarball=
# shellcheck source=/dev/null
. "$root/packaging/tarball.sh"

usage() {
	sed -n '/^# Usage/s/^# //p' "$0" >&2
	exit 2
}

look() {
	need_for_rpm
}

# Does rpm not know systemd's macros?
is_foreign() {
	[ "$(rpm --eval '%{?_unitdir}')" = '' ]
}

out=build-packages
release=1
while getopts o:r: option; do
	case $option in
	o) out=$OPTARG ;;
	r) release=$OPTARG ;;
	*) usage ;;
	esac
done
shift $((OPTIND - 1))
[ $# -le 1 ] || usage

install_needed
mkdir -p "$out"
out=$(cd "$out" && pwd)
find_tarball "$@"

work=$(mktemp -d "${TMPDIR:-/tmp}/metric-rpm.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir SOURCES
cp "$tarball" SOURCES
spec=$(tar -tf "$tarball" | grep '/packaging/metric-collectord\.spec$')
tar -xOf "$tarball" "$spec" | sed "s/^\\(Release: *\\)1/\\1$release/" >metric-collectord.spec
set -- --define "_topdir $work"
if is_foreign; then
	tar -xOf "$tarball" "${spec%.spec}.macros" >macros
	set -- "$@" --nodeps --load="$work/macros"
fi
rpmbuild -ba "$@" metric-collectord.spec
if command -v rpmlint >/dev/null; then
	tar -xOf "$tarball" "${spec%.spec}.rpmlint.toml" >rpmlint.toml
	rpmlint -c rpmlint.toml metric-collectord.spec SRPMS/*.rpm RPMS/*/*.rpm
fi
cp SRPMS/*.rpm RPMS/*/*.rpm "$out"
ls "$out"/metric-collectord-[0-9]*.rpm
