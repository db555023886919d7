# shellcheck shell=sh
# What container.sh and compose.sh share.  They set $root, the top of the source tree, and have a function
# failed() that shows what an operator would look at.
# shellcheck disable=SC2034 # they use these

: "${root:?}"
name=$(basename "$0" .sh)
base=debian:bookworm-slim

skip() {
	echo "$name: skipped: $*"
	exit 0
}

step() {
	printf '== %s\n' "$*"
}

die() {
	printf 'FAILED: %s\n' "$*" >&2
	failed >&2
	exit 1
}

# await WHAT COMMAND...: until the command succeeds; gives up after 60 s.
await() {
	what=$1
	tries=600
	shift
	until "$@" >/dev/null 2>&1; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || die "$what: waited in vain"
		sleep 0.1
	done
}

# Is the image here, or does it come?
has_image() { # IMAGE
	"$engine" image inspect "$1" >/dev/null 2>&1 || "$engine" pull -q "$1" >/dev/null 2>&1
}

engine=${ENGINE:-}
for candidate in docker podman; do
	[ -n "$engine" ] || ! "$candidate" info >/dev/null 2>&1 || engine=$candidate
done
[ -n "$engine" ] || skip "neither docker nor podman works here"
has_image "$base" || skip "$base is not here, and cannot be pulled"
# podman: the format that can hold a HEALTHCHECK.
BUILDAH_FORMAT=docker
export BUILDAH_FORMAT
