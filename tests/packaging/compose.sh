#!/bin/sh
# The commands that README.md has for docker-compose, with docker or podman ($ENGINE).
# Usage: sh tests/packaging/compose.sh
#
# What cannot be pulled has a stand-in: Debian's PostgreSQL for TimescaleDB; and for Grafana a container that does
# nothing, in which the files are looked at that Grafana would read.
set -u

root=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
project=metric-compose-$$
port=$((20000 + $$ % 10000))
password='not the default'
work=$(mktemp -d) || exit 1
service_pid=
follower_pid=
made=

# shellcheck disable=SC2317 # called by die()
failed() {
	docker-compose ps
	docker-compose logs --tail=40
	tail -n 5 "$work"/*.log
}

# shellcheck disable=SC2317 # called by the trap
clean_up() {
	[ ! -e "$work/tree/.env" ] || docker-compose down -v --remove-orphans --rmi local >/dev/null 2>&1
	[ -z "$follower_pid" ] || kill "$follower_pid" 2>/dev/null
	for image in $project $made; do
		"$engine" rmi "$image" >/dev/null 2>&1
	done
	[ -z "$service_pid" ] || kill "$service_pid" 2>/dev/null
	cd / && rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

engine=
base=
# shellcheck source=/dev/null
. "$root/tests/packaging/engine.sh"
command -v docker-compose >/dev/null || skip "docker-compose is not installed"

stand_in() { # IMAGE DIRECTORY
	has_image "$1" && return
	echo "a stand-in for $1"
	"$engine" build -q -t "$1" "$2" >"$work/build.log" 2>&1 || die "the stand-in for $1: $(tail -n 20 "$work/build.log")"
	made="$made $1"
}

image_of() { # SERVICE
	docker-compose config | awk -v service="  $1:" '
		/^  [a-z]/ { here = $0 == service }
		here && $1 == "image:" { print $2 }'
}

# A command as it stands in README.md, there perhaps with a comment.
readme() { # COMMAND
	grep -q "^$1\( *#.*\)\{0,1\}\$" "$root/README.md" || die "README.md has no line: $1"
	echo "$1"
	sh -c "$1" >"$work/command.log" 2>&1 || die "$1"
}

# docker-compose talks to podman's socket; health checks are for systemd's timers there, and run by hand here.
start_podman() {
	podman system service --time=0 "unix://$work/podman.sock" >"$work/podman.log" 2>&1 &
	service_pid=$!
	DOCKER_HOST=unix://$work/podman.sock
	DOCKER_BUILDKIT=0
	COMPOSE_DOCKER_CLI_BUILD=0
	export DOCKER_HOST DOCKER_BUILDKIT COMPOSE_DOCKER_CLI_BUILD
	await "podman's socket" test -S "$work/podman.sock"
}

id_of() { # SERVICE
	docker-compose ps -q "$1"
}

is_healthy() { # SERVICE
	[ "$engine" != podman ] || podman healthcheck run "$(id_of "$1")" || return
	[ "$("$engine" inspect -f '{{.State.Health.Status}}' "$(id_of "$1")")" = healthy ]
}

# Follows the collector's log in a file, as README.md does on a terminal.
follow() {
	[ -z "$follower_pid" ] || kill "$follower_pid" 2>/dev/null
	grep -q '^docker-compose logs -f collector$' "$root/README.md" || die "README.md does not follow the log"
	docker-compose logs -f collector >"$work/followed.log" 2>&1 &
	follower_pid=$!
}

# The lines behind docker-compose's prefix, which is in colour.
lines() {
	sed -n 's/^[^|]*collector[^|]*|[^{]* //p' "$work/followed.log"
}

followed() { # EVENT
	lines | grep -q "^{\"event\":\"$1\""
}

send() { # LEVEL NAME VALUE
	docker-compose exec -T collector metric-send -s "$1" "127.0.0.1:$port" "$2" "$3" || die "sending $2"
}

psql_as() { # USER SQL
	docker-compose exec -T timescaledb psql -qtA "postgresql://$1:$(echo "$password" | sed 's/ /%20/g')@127.0.0.1/metrics_db" -c "$2"
}

# As many different rows, and no other.
has_rows() { # COUNT
	[ "$(psql_as postgres 'SELECT count(*), count(DISTINCT metric_name) FROM metrics')" = "$1|$1" ]
}

same_file() { # FILE PATH-IN-GRAFANA
	docker-compose exec -T grafana cat "$2" | cmp - "$1" || die "Grafana does not find $2"
}

[ "$engine" != podman ] || start_podman
mkdir "$work/tree"
(cd "$root" && tar -cf - --exclude='./build*' --exclude=./.git .) | (cd "$work/tree" && tar -xf -) || exit 1
cd "$work/tree" || exit 1
COMPOSE_PROJECT_NAME=$project
export COMPOSE_PROJECT_NAME
# An image of that name may be here, and is not ours.
sed -i "s/image: metric-collectord\$/image: $project/" docker-compose.yml

step "configuration: the variables of README.md"
readme 'cp .env.example .env'
for variable in DB_HOST DB_PORT DB_NAME DB_USER DB_PASSWORD TCP_HOST TCP_PORT BATCH_INTERVAL; do
	grep -q "^$variable=." .env || die ".env.example has no $variable"
	grep -q "^| \`$variable\` |" "$root/README.md" || die "README.md has no $variable"
done
sed -i -e "s/^DB_PASSWORD=.*/DB_PASSWORD=$password/" -e "s/^TCP_PORT=.*/TCP_PORT=$port/" .env
stand_in "$(image_of timescaledb)" "$root/tests/packaging/stand-in"
mkdir "$work/grafana"
printf 'FROM %s\nSTOPSIGNAL SIGKILL\nCMD ["sleep", "infinity"]\n' "$base" >"$work/grafana/Dockerfile"
stand_in "$(image_of grafana)" "$work/grafana"

step "the collector, before there is a database"
docker-compose up -d collector >"$work/command.log" 2>&1 || die "up -d collector"
follow
await "ready" followed ready
send 1 first 1
await "its own health" is_healthy collector

step "all of it"
readme 'docker-compose up -d'
await "the database's health" is_healthy timescaledb
await "what came before the database" has_rows 1
# The frame of README.md, through the published port.
bash -c "printf '\x00\x00\x01\x88\xD2\xE9\xA0\x00\x06metric\x40\x49\x0F\xDB\x00\x00\x00\x00' >/dev/tcp/127.0.0.1/$port" ||
	die "the published port"
await "the frame of README.md" has_rows 2
await "the stored batch in the log" followed batch_stored
lines | jq -e .event >/dev/null || die "not every line of the log is JSON"

step "Grafana: its files, and the role that it reads with"
same_file packaging/grafana/provisioning/datasources/metrics.yml /etc/grafana/provisioning/datasources/metrics.yml
same_file packaging/grafana/provisioning/dashboards/metrics.yml /etc/grafana/provisioning/dashboards/metrics.yml
same_file packaging/grafana/dashboards/metric-collectord.json /var/lib/grafana/dashboards/metric-collectord.json
[ "$(docker-compose exec -T grafana printenv DB_NAME DB_PASSWORD)" = "metrics_db
$password" ] || die "Grafana has another database or password"
[ "$(psql_as grafana 'SELECT count(*) FROM metrics')" = 2 ] || die "Grafana's role cannot read"
! psql_as grafana 'DELETE FROM metrics' 2>/dev/null || die "Grafana's role can delete"

step "after a change, while the database is away"
docker-compose stop timescaledb >/dev/null 2>&1 || die "stop timescaledb"
send 1 kept 3
collector=$(id_of collector)
database=$(id_of timescaledb)
echo 'LABEL changed=yes' >>Dockerfile
readme 'docker-compose up --build -d'
[ "$(id_of collector)" != "$collector" ] || die "the collector is the old one"
[ "$(id_of timescaledb)" = "$database" ] || die "the database is another one"
follow
await "ready" followed ready
await "what was in the spool" has_rows 3

step "down: nothing is lost, and the volumes stay"
send 1 last 4
readme 'docker-compose down'
await "the end of the log" followed stopped
[ -z "$("$engine" ps -aq --filter "label=com.docker.compose.project=$project")" ] || die "containers are left"
readme 'docker-compose up -d'
await "the database's health" is_healthy timescaledb
await "what was stored, or in the spool" has_rows 4
echo "compose: passed"
