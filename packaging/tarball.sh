# shellcheck shell=sh
# What scripts share that build packages.  They set $root, the top of the source tree, and use $tarball.
# shellcheck disable=SC2034

: "${root:?}"
run=
source=
# shellcheck source=/dev/null
. "$root/packaging/common.sh"

# make_tarball DIRECTORY: sets $tarball to what `make dist` makes of this tree, there.
make_tarball() {
	choose_source
	mkdir -p "$1" || exit 1
	(
		cd "$1" &&
			"$source/configure" --quiet --with-systemdsystemunitdir=no &&
			"${MAKE:-make}" -s dist
	) >"$1/dist.log" 2>&1 || {
		tail -n 40 "$1/dist.log" >&2
		exit 1
	}
	tarball=$1/metric-collectord-$("$source/configure" --version | sed -n '1s/.* //p').tar.gz
}

# find_tarball [TARBALL]: sets $tarball to its absolute path; without one, makes it.
find_tarball() {
	if [ $# = 0 ]; then
		choose_build_dir build-dist
		make_tarball "$run"
	elif [ -f "$1" ]; then
		tarball=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
	else
		echo "$1: no such tarball" >&2
		exit 2
	fi
}
