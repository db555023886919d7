# shellcheck shell=sh
# What the scripts share that run inside of the booted system, as root.
# shellcheck disable=SC2034 # they use these

address=127.0.0.1:9999
conf=/etc/metric-collectord.conf
store=/var/lib/metric-collectord/metrics.db

step() {
	printf '== %s\n' "$*"
}

# The service's last words, and the end.
die() {
	printf 'FAILED: %s\n' "$*" >&2
	journalctl -q --no-pager -n 40 -u 'metric-collectord*' >&2
	systemctl --no-pager status metric-collectord.service metric-collectord.socket >&2
	exit 1
}

# await WHAT COMMAND...: until the command succeeds; gives up after 60 s.
await() {
	what=$1
	tries=600
	shift
	until "$@" >/dev/null 2>&1; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || die "$what: waited in vain for: $*"
		sleep 0.1
	done
}

# same WHAT WANTED SEEN
same() {
	[ "$2" = "$3" ] || die "$1 is \"$3\", not \"$2\""
}

# What it depends on is in the root already: there is no network here.
install_deb() { # PACKAGE
	apt-get -q -y install "$1" >/tmp/apt.log 2>&1 || {
		cat /tmp/apt.log
		die "apt-get install $1"
	}
}

query() { # SQL
	sqlite3 -readonly "$store" "$1"
}

rows() {
	query 'SELECT count(*) FROM metrics'
}

# Rows, and how many of them are different.
rows_and_distinct() {
	query 'SELECT count(*), count(DISTINCT metric_name || value) FROM metrics'
}

has_rows() { # COUNT
	[ "$(rows)" = "$1" ]
}

# As many metrics with values FIRST.. , on standard output as metric-send reads them.
series() { # NAME FIRST COUNT
	awk -v name="$1" -v first="$2" -v n="$3" 'BEGIN { for (i = 0; i < n; i++) print name, first + i }'
}

main_pid() {
	systemctl show -P MainPID "${1:-metric-collectord.service}"
}

# start_instance NAME PORT: stores a metric of its own.
start_instance() {
	cat >"/etc/metric-collectord/$1.conf" <<-CONF
		listen = {"127.0.0.1:$2"}
		buffer {
			spool = "/var/lib/metric-collectord/$1/spool"
		}
		database {
			uri = "sqlite:/var/lib/metric-collectord/$1/metrics.db"
		}
	CONF
	systemctl start "metric-collectord@$1" || die "metric-collectord@$1"
	metric-send -s 2 "127.0.0.1:$2" instance 1 || die "sending to $1"
	same "rows of $1" 1 "$(sqlite3 "/var/lib/metric-collectord/$1/metrics.db" 'SELECT count(*) FROM metrics')"
	systemctl reload "metric-collectord@$1" || die "reload of $1"
}

# Uncomments a key of the sample file and gives it a value; both are taken literally.
set_key() { # KEY VALUE
	awk -v key="$1" -v value="$2" '
		{ text = $0; sub(/^[ \t]*#?/, "", text) }
		index(text, key " = ") == 1 && !done { match($0, /^[ \t]*/); print substr($0, 1, RLENGTH) key " = " value; done = 1; next }
		{ print }
		END { exit !done }' "$conf" >/tmp/conf || die "$conf has no $1"
	cat /tmp/conf >"$conf"
}
