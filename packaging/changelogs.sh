#!/bin/sh
# Writes the version of configure.ac and the releases that NEWS.md lists into what packages are made of:
# packaging/debian/changelog and packaging/metric-collectord.spec.
#
# Usage: sh packaging/changelogs.sh [--check]
#
# --check only compares, and shows what differs; `make check` does that.  A heading in NEWS.md is
# "## VERSION (YYYY-MM-DD)"; one without a date keeps the one that its changelog entry has.
set -u

root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
changelog=packaging/debian/changelog
spec=packaging/metric-collectord.spec
maintainer=$(sed -n 's/^Maintainer: //p' "$root/packaging/debian/control")
version=$(sed -n 's/^AC_INIT(\[metric-collectord\], \[\(.*\)\])$/\1/p' "$root/configure.ac")

export LC_ALL=C TZ=UTC

# The date of a version without one: as its entry in the changelog has it, or now.
kept_date() { # VERSION
	kept=$(awk -v version="($1-1)" '
		$1 == "metric-collectord" { on = $2 == version }
		on && /^ -- / { sub(/.*>  /, ""); print; exit }' "$root/$changelog" 2>/dev/null)
	date -d "${kept:-now}" +%s
}

# "VERSION SECONDS" for each heading, the newest first.
releases() {
	sed -n -e 's/^## \([0-9][0-9.]*\) (\([0-9]*-[0-9]*-[0-9]*\))$/\1 \2/p' \
		-e 's/^## \([0-9][0-9.]*\) (not released yet)$/\1/p' "$root/NEWS.md" |
		while read -r v day; do
			if [ -n "$day" ]; then
				echo "$v $(date -d "$day 12:00:00" +%s)"
			else
				echo "$v $(kept_date "$v")"
			fi
		done
}

debian_changelog() {
	while read -r v seconds; do
		cat <<-ENTRY
			metric-collectord ($v-1) unstable; urgency=medium

			  * Version $v; NEWS.md says what is new.

			 -- $maintainer  $(date -R -d "@$seconds")

		ENTRY
	done <"$work/releases" | sed '$d'
}

# The spec, with its version and its changelog replaced.
rpm_spec() {
	sed -e "s/^\\(Version: *\\).*/\\1$version/" -e '/^%changelog$/q' "$root/$spec"
	while read -r v seconds; do
		cat <<-ENTRY
			* $(date -d "@$seconds" '+%a %b %d %Y') $maintainer - $v-1
			- Version $v; NEWS.md says what is new

		ENTRY
	done <"$work/releases" | sed '$d'
}

# Compares a file with $work/new, or replaces it.
settle() { # FILE
	if [ -n "$check" ]; then
		diff -u "$root/$1" "$work/new" && return
		echo "$1 does not agree with configure.ac and NEWS.md: run packaging/changelogs.sh" >&2
		status=1
	elif ! cmp -s "$root/$1" "$work/new"; then
		cat "$work/new" >"$root/$1"
	fi
}

check=
case ${1:-} in
'') ;;
--check) check=yes ;;
*)
	sed -n '/^# Usage/s/^# //p' "$0" >&2
	exit 2
	;;
esac
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
status=0
releases >"$work/releases"
newest=$(sed -n '1s/ .*//p' "$work/releases")
if [ "$newest" != "$version" ]; then
	echo "NEWS.md begins with $newest, but configure.ac says $version" >&2
	status=1
fi
debian_changelog >"$work/new"
settle $changelog
rpm_spec >"$work/new"
settle $spec
exit $status
