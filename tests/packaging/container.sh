#!/bin/sh
# Builds the container image of this tree and tries it, with docker or podman ($ENGINE).
# Usage: sh tests/packaging/container.sh
set -u

root=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
image=metric-collectord-test
container=metric-collectord-test-$$

# shellcheck disable=SC2317 # called by die()
failed() {
	"$engine" logs "$container"
}

engine=
# shellcheck source=/dev/null
. "$root/tests/packaging/engine.sh"

clean_up() {
	"$engine" rm -f "$container" >/dev/null 2>&1
}

inside() {
	"$engine" exec "$container" "$@"
}

healthy() {
	inside sh -c "$health"
}

logs() {
	"$engine" logs "$container" 2>&1
}

has_event() {
	logs | grep -q "\"event\":\"$1\""
}

trap clean_up EXIT
step "build"
"$engine" build -q -t $image "$root" || die "the build"
size=$("$engine" image inspect -f '{{.Size}}' $image)
echo "$((size / 1000000)) MB"
[ "$size" -lt 120000000 ] || die "the image has $size bytes"

step "health: no daemon, not healthy"
health=$("$engine" image inspect -f '{{index .Config.Healthcheck.Test 1}}' $image)
[ -n "$health" ] || die "the image has no health check"
"$engine" run -d --name "$container" --entrypoint sleep $image 600 >/dev/null || die "run"
! healthy >/dev/null 2>&1 || die "healthy without a daemon"
clean_up

step "health: wherever it listens"
for host in 127.0.0.2 ::1 0.0.0.0; do
	"$engine" run -d --name "$container" -e TCP_HOST=$host -e TCP_PORT=9998 $image >/dev/null || die "run"
	await "ready" has_event ready
	healthy || die "not healthy on $host"
	clean_up
done

step "runs as nobody special, without what it was built with"
"$engine" run -d --name "$container" -e BATCH_INTERVAL=60 $image >/dev/null || die "run"
await "ready" has_event ready
healthy || die "not healthy"
[ "$(inside id -u)" != 0 ] || die "it runs as root"
for tool in gcc cc ld make autoconf apt-get perl; do
	! inside sh -c "command -v $tool" || die "$tool is in the image"
done

step "SIGTERM: everything is stored within docker's 10 seconds"
inside sh -c 'seq 1 10000 | sed "s/^/metric /" | metric-send 127.0.0.1:9999' || die "sending"
"$engine" stop -t 10 "$container" >/dev/null || die "stop"
[ "$("$engine" inspect -f '{{.State.ExitCode}}' "$container")" = 0 ] || die "exit status"
logs | tail -n 1
logs | tail -n 1 | grep -q '"event":"stopped".*"stored":10000,"buffered":0' || die "not all was stored"

step "logs: JSON lines on standard error"
logs | jq -e .event >/dev/null || die "not every line is JSON"
[ -z "$("$engine" logs "$container" 2>/dev/null)" ] || die "something is on standard output"
echo "container: passed"
