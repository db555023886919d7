#!/bin/sh
# Lays the C sources out with clang-format; with --check, only says which are not.
# Versions differ in what they do, so only one is asked; $CLANG_FORMAT may name it.
set -eu

version=14
cd "$(dirname "$0")/.."

clang_format=${CLANG_FORMAT:-}
for name in "clang-format-$version" clang-format; do
	[ -n "$clang_format" ] || clang_format=$(command -v "$name" || true)
done
case $("${clang_format:-false}" --version 2>/dev/null || true) in
*"version $version."*) ;;
*)
	echo "format: clang-format $version is not installed" >&2
	[ "${1:-}" = --check ] && exit 0
	exit 1
	;;
esac

case ${1:-} in
--check) set -- --dry-run -Werror ;;
*) set -- -i ;;
esac
find src tests -name '*.[ch]' -exec "$clang_format" "$@" {} +
