#!/bin/sh
# Builds the Debian package, source and binary.
#
# Usage: sh packaging/build-deb.sh [-o DIRECTORY] [TARBALL]
#
# TARBALL is one of `make dist`; without it, one is made of this tree.  What was built goes to
# DIRECTORY (build-packages/).  Installs what is missing (as root, or with a sudo that asks for
# no password); runs lintian where it is installed.
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
	need_for_deb
}

out=build-packages
while getopts o: option; do
	case $option in
	o) out=$OPTARG ;;
	*) usage ;;
	esac
done
shift $((OPTIND - 1))
[ $# -le 1 ] || usage

install_needed
mkdir -p "$out"
out=$(cd "$out" && pwd)
find_tarball "$@"

work=$(mktemp -d "${TMPDIR:-/tmp}/metric-deb.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
tar -xf "$tarball"
cd metric-collectord-*
# Source packages are made of a real directory.
cp -R packaging/debian debian
version=$(dpkg-parsechangelog -S Version)
cp "$tarball" "../metric-collectord_${version%-*}.orig.tar.gz"
dpkg-buildpackage --no-sign
cd ..
if command -v lintian >/dev/null; then
	lintian --allow-root --fail-on error,warning ./*.changes
fi
cp ./*.deb ./*.dsc ./*.changes ./*.buildinfo ./*.tar.* "$out"
echo "$out/metric-collectord_${version}_$(dpkg --print-architecture).deb"
