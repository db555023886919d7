# shellcheck shell=sh
# What quickstart.sh and tests/run.sh share; they set $root, the top of the source tree, and have a
# function look() with a line `need ...` for each thing that must be there.

: "${root:?}"
needed_deb=
needed_rpm=

# need DEBIAN-PACKAGES FEDORA-PACKAGES COMMAND...: the command succeeds if they are there.
need() {
	need_deb=$1
	need_rpm=$2
	shift 2
	"$@" >/dev/null 2>&1 && return
	needed_deb="$needed_deb $need_deb"
	needed_rpm="$needed_rpm $need_rpm"
}

# What every build needs.
need_for_build() {
	need gcc gcc command -v "${CC:-cc}"
	need libc6-dev glibc-devel test -e /usr/include/stdio.h
	need make make command -v "${MAKE:-make}"
	need pkg-config pkgconf-pkg-config command -v pkg-config
	need tar tar command -v tar
	need diffutils diffutils command -v cmp
	need gawk gawk command -v awk
	if [ ! -x "$root/configure" ]; then
		need autoconf autoconf command -v autoconf
		need automake automake command -v automake
	fi
	need libpq-dev libpq-devel pkg-config libpq
	need libsqlite3-dev sqlite-devel pkg-config sqlite3
	need libsystemd-dev systemd-devel pkg-config libsystemd
	need libconfuse-dev libconfuse-devel pkg-config libconfuse
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	else
		sudo -n "$@"
	fi
}

# shellcheck disable=SC2086 # lists of packages are to be split
install_packages() {
	if command -v apt-get >/dev/null; then
		as_root apt-get update -q &&
			as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y \
				--no-install-recommends $needed_deb
	elif command -v dnf >/dev/null; then
		as_root dnf install -q -y $needed_rpm
	else
		false
	fi
}

look_again() {
	needed_deb=
	needed_rpm=
	look
	[ -z "$needed_deb" ]
}

# Installs what look() misses, or says what to install and ends the script with status 2.
install_needed() {
	look_again && return
	if command -v dnf >/dev/null; then
		how="dnf install$needed_rpm"
	else
		how="apt-get install$needed_deb"
	fi
	if [ "$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; then
		echo "Something is missing. Install it as root: $how" >&2
		exit 2
	fi
	echo "Installing what is missing: $how"
	if ! install_packages; then
		echo "That did not work; install it by hand: $how" >&2
		exit 2
	fi
	if ! look_again; then
		echo "Still missing: $needed_deb" >&2
		exit 2
	fi
}

# choose_build_dir NAME: sets $run to NAME in the source tree, or to a temporary directory where
# that cannot be written to.
choose_build_dir() {
	if [ -w "$root" ]; then
		run=$root/$1
	else
		run=$(mktemp -d "${TMPDIR:-/tmp}/metric-collectord.XXXXXX") || exit 1
	fi
	mkdir -p "$run" || exit 1
}

# Sets $source to the tree to build from, with its configure made.  It is this one; or a copy in $run, where
# this one is built in itself (then configure refuses to build elsewhere) or cannot be written to.
choose_source() {
	source=$root
	if [ -e "$root/config.status" ] || { [ ! -x "$root/configure" ] && [ ! -w "$root" ]; }; then
		source=$run/source
		rm -rf "$source"
		mkdir -p "$source" || exit 1
		(cd "$root" && tar -cf - --exclude='./build-*' --exclude=./.git .) |
			(cd "$source" && tar -xf -) || exit 1
		if [ -e "$source/config.status" ]; then
			"${MAKE:-make}" -C "$source" distclean >"$run/distclean.log" 2>&1 || exit 1
			rm -f "$source/configure"
		fi
	fi
	[ -x "$source/configure" ] && [ -e "$source/Makefile.in" ] && return
	sh "$source/autogen.sh" >"$run/autogen.log" 2>&1 || {
		cat "$run/autogen.log" >&2
		exit 1
	}
}
