#!/bin/sh
# Builds metric-collectord and shows it at work, on a fresh Debian, Ubuntu or Fedora too.
#
# Usage: sh packaging/quickstart.sh
#
# Installs what is missing (as root, or with a sudo that asks for no password), builds,
# starts the collector with an SQLite store in a scratch directory, sends it this machine's load, memory
# and disk figures and the two example frames of the README, and shows the rows that it stored.  On a
# terminal it goes on until Ctrl-C; otherwise it ends once the rows are shown.
set -u

root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
jobs=$(nproc 2>/dev/null || echo 1)
daemon_pid=
scratch=
run=
source=
# shellcheck source=/dev/null
. "$root/packaging/common.sh"

say() {
	printf '\n==> %s\n' "$*"
}

die() {
	printf 'quickstart: %s\n' "$*" >&2
	exit 1
}

look() {
	need_for_build
	need sqlite3 sqlite command -v sqlite3
}

build() {
	log=$run/build.log
	(
		cd "$run" &&
			"$source/configure" --prefix="$run/prefix" --with-systemdsystemunitdir=no &&
			"${MAKE:-make}" -j"$jobs"
	) >"$log" 2>&1 || {
		tail -n 40 "$log" >&2
		die "the build failed, see $log"
	}
}

# ---- the collector ----

write_conf() { # PORT
	cat >"$scratch/metric-collectord.conf" <<CONF
listen = {"127.0.0.1:$1"}
batch {
	interval = 1
}
buffer {
	spool = "$scratch/spool"
}
database {
	uri = "sqlite:$scratch/metrics.db"
}
log {
	target = "stderr"
}
CONF
}

# Has the collector said that it is ready?  Gives up when it has ended, or after 30 s.
wait_ready() {
	tries=300
	until grep -q '"event":"ready"' "$scratch/log"; do
		kill -0 "$daemon_pid" 2>/dev/null || return 1
		tries=$((tries - 1))
		[ $tries -gt 0 ] || return 1
		sleep 0.1
	done
}

# Whoever uses port 9999 keeps it.
start_collector() {
	# The caller's settings are for another collector.
	unset DB_HOST DB_PORT DB_NAME DB_USER DB_PASSWORD DATABASE_URL TCP_HOST TCP_PORT \
		BATCH_INTERVAL LOG_LEVEL
	for port in 9999 19999 29999 39999; do
		write_conf $port
		"$run/metric-collectord" -c "$scratch/metric-collectord.conf" 2>"$scratch/log" &
		daemon_pid=$!
		wait_ready && return
		stop_collector
	done
	cat "$scratch/log" >&2
	die "the collector did not start"
}

stop_collector() {
	[ -n "$daemon_pid" ] || return 0
	kill "$daemon_pid" 2>/dev/null
	wait "$daemon_pid"
	daemon_pid=
}

# ---- metrics ----

# This machine's figures, as metric-send reads them: NAME VALUE.
figures() {
	read -r load1 load5 load15 _ </proc/loadavg
	printf 'load1 %s\nload5 %s\nload15 %s\n' "$load1" "$load5" "$load15"
	awk '$1 == "MemTotal:" { total = $2 } $1 == "MemAvailable:" { available = $2 }
		END { printf "memory.used_bytes %.0f\n", (total - available) * 1024 }' /proc/meminfo
	df -Pk / | awk 'NR == 2 { printf "disk.used_bytes %.0f\n", $3 * 1024 }'
}

# Returns once they are in the database.
send_figures() {
	figures | "$run/metric-send" -s 2 "127.0.0.1:$port"
}

# The README's shell example: a frame needs nothing but printf and a connection.
send_shell_example() {
	frame='\000\000\001\210\322\351\240\000\006metric\100\111\017\333\000\000\000\000'
	if command -v bash >/dev/null; then
		# shellcheck disable=SC2016 # bash is to expand them
		bash -c 'printf "$1" >"/dev/tcp/127.0.0.1/$2"' bash "$frame" "$port"
	else
		# shellcheck disable=SC2059 # the escapes are wanted
		printf "$frame" | nc -w 1 127.0.0.1 "$port"
	fi
}

# The README's Python example; where there is no Python, the same metric by metric-send.
send_python_example() {
	if ! command -v python3 >/dev/null; then
		"$run/metric-send" "127.0.0.1:$port" temperature 21.5
		return
	fi
	python3 - "$port" <<'PYTHON'
import socket, struct, sys, time

name = "temperature".encode()
timestamp = int(time.time() * 1_000_000)
frame = struct.pack("!Q B {}s d".format(len(name)), timestamp, len(name), name, 21.5)
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as s:
    s.sendall(frame)
PYTHON
}

# ---- what was stored ----

rows() {
	sqlite3 -readonly "$scratch/metrics.db" 'SELECT count(*) FROM metrics' 2>/dev/null || echo 0
}

wait_rows() { # COUNT
	tries=300
	until [ "$(rows)" -ge "$1" ]; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || return 1
		sleep 0.1
	done
}

show_rows() { # LIMIT
	query="SELECT time, metric_name, value FROM metrics ORDER BY time DESC LIMIT $1"
	printf '%s\n\n' "$query"
	sqlite3 -readonly -header -column "$scratch/metrics.db" "$query"
}

# ---- all together ----

clean_up() {
	status=$?
	trap '' INT TERM
	stop_collector
	if [ $status = 0 ]; then
		rm -rf "$scratch"
	elif [ -e "$scratch/log" ]; then
		echo "quickstart: the collector's log is $scratch/log" >&2
	fi
	exit $status
}

finish() {
	say "stopping; what the collector says at the end:"
	stop_collector
	grep '"event":"stopped"' "$scratch/log"
	exit 0
}

go_on() {
	say "going on; Ctrl-C ends it (log: $scratch/log)"
	while sleep 5; do
		send_figures || die "sending failed"
		echo
		show_rows 5
	done
}

install_needed
choose_build_dir build-quickstart
choose_source
say "building in $run"
build

scratch=$(mktemp -d "${TMPDIR:-/tmp}/metric-quickstart.XXXXXX") || exit 1
trap clean_up EXIT
trap finish INT TERM
say "starting the collector; everything of it is in $scratch"
start_collector
echo "listening on 127.0.0.1:$port, storing in $scratch/metrics.db"

say "sending this machine's load, memory and disk figures, and the README's two example frames"
send_shell_example || die "sending the shell example failed"
send_python_example || die "sending the Python example failed"
send_figures || die "sending failed"
wait_rows 7 || die "only $(rows) of 7 rows were stored"

say "the rows in the database:"
show_rows 10
if [ -t 0 ] && [ -t 1 ]; then
	go_on
fi
