# shellcheck shell=sh
# What build-deb.sh and build-rpm.sh share.  They set $root, the top of the source tree.

: "${root:?}"
run=
source=
# shellcheck source=/dev/null
. "$root/packaging/common.sh"

# find_tarball [TARBALL]: sets $tarball to an absolute path.  Without one, makes it: make dist.
find_tarball() {
	if [ $# -gt 0 ]; then
		tarball=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
		[ -f "$tarball" ] || {
			echo "$1: no such tarball" >&2
			exit 2
		}
		return
	fi
	choose_build_dir build-dist
	choose_source
	(
		cd "$run" &&
			"$source/configure" --quiet --with-systemdsystemunitdir=no &&
			"${MAKE:-make}" -s dist
	) >"$run/dist.log" 2>&1 || {
		tail -n 40 "$run/dist.log" >&2
		exit 1
	}
	version=$("$source/configure" --version | sed -n '1s/.* //p')
	tarball=$run/metric-collectord-$version.tar.gz
}
