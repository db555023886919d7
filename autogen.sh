#!/bin/sh
# Makes ./configure and Makefile.in out of configure.ac and Makefile.am.
# Needed in a checkout only: release tarballs contain them.
set -eu

cd "$(dirname "$0")"

lacks() {
	echo "autogen.sh: $1 is missing; install it:" >&2
	echo "  Debian, Ubuntu:  apt-get install $2" >&2
	echo "  Fedora, RHEL:    dnf install $3" >&2
	exit 1
}

command -v autoreconf >/dev/null || lacks autoconf autoconf autoconf
command -v automake >/dev/null || lacks automake automake automake
command -v pkg-config >/dev/null || lacks pkg-config pkg-config pkgconf-pkg-config

autoreconf --install --warnings=all,error "$@"
echo "autogen.sh: done; now: mkdir -p build && cd build && ../configure && make"
