# shellcheck shell=sh
# What scripts share that build packages.  They set $root, the top of the source tree, and use $tarball.
# shellcheck disable=SC2034

: "${root:?}"
run=
source=
# shellcheck source=/dev/null
. "$root/packaging/common.sh"

# For common.sh's look(): what building a package needs.
need_for_deb() {
	need_for_build
	need build-essential gcc dpkg-query -W build-essential
	need check check-devel pkg-config check
	need debhelper debhelper command -v dh
	need dpkg-dev dpkg-dev command -v dpkg-buildpackage
	need fakeroot fakeroot command -v fakeroot
}

need_for_rpm() {
	need_for_build
	need check check-devel pkg-config check
	need rpm rpm-build command -v rpmbuild
	need systemd systemd-rpm-macros command -v systemd-sysusers
	need file file command -v file
}

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
