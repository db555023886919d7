#!/bin/sh
# The service as its operator sees it: journal, status, reload, watchdog, failures.
# /srv/packages holds the package.
# shellcheck disable=SC2154 # common.sh sets address, conf and store
set -u
# shellcheck source=/dev/null
. "$(dirname "$0")/common.sh"

unit=metric-collectord.service

# The events of the daemon, as `journalctl ... -o cat` prints them; arguments are more matches.
events() {
	journalctl -q -o cat "_SYSTEMD_UNIT=$unit" "$@"
}

# has_event EVENT [COUNT]
has_event() {
	journalctl --sync
	[ "$(events "EVENT=$1" | wc -l)" -ge "${2:-1}" ]
}

await_event() {
	await "event $1" has_event "$@"
}

installed() {
	step "installation"
	install_deb "$(echo /srv/packages/metric-collectord_*-1_*.deb)"
	await "start" systemctl is-active $unit
}

journal() {
	step "journal: JSON texts, fields, priorities"
	metric-send -s 2 "$address" load 0.5 || die "sending"
	await_event batch_stored
	events | jq -r .event >/tmp/events || die "not everything is JSON"
	for event in starting listening ready database_connected batch_stored; do
		grep -qx $event /tmp/events || die "no event $event in $(tr '\n' ' ' </tmp/events)"
	done
	# With the words that systemd itself has about the unit:
	journalctl -q -u $unit -o cat | jq -R -r 'fromjson? | .event' >/tmp/with-u
	cmp /tmp/events /tmp/with-u || die "journalctl -u has other events"
	journalctl -q EVENT=batch_stored -o json >/tmp/stored
	same "rows of batch_stored" 1 "$(jq -r .ROWS /tmp/stored)"
	same "its message" batch_stored "$(jq -r '.MESSAGE | fromjson | .event' /tmp/stored)"
	same "its priority" 6 "$(jq -r .PRIORITY /tmp/stored)"
	same "its identifier" metric-collectord "$(jq -r .SYSLOG_IDENTIFIER /tmp/stored)"
	same "addresses that it listens on" 2 "$(journalctl -q EVENT=listening NAME=metrics -o cat | wc -l)"
	printf 'nonsense = 1\n' >>"$conf"
	kill -HUP "$(main_pid)"
	await_event reload_failed
	sed -i '$d' "$conf"
	same "priority of reload_failed" 3 "$(journalctl -q EVENT=reload_failed -o json | jq -r .PRIORITY)"
	set_key uri '"postgresql://nobody@127.0.0.1:1/nowhere"'
	systemctl reload $unit || die "reload"
	metric-send -s 1 "$address" load 0.6
	await_event database_unavailable
	same "priority of database_unavailable" 4 \
		"$(journalctl -q -n 1 EVENT=database_unavailable -o json | jq -r .PRIORITY)"
	[ "$(journalctl -q -p warning -u $unit -o cat | jq -r .event | sort -u | tr '\n' ' ')" = \
		"database_unavailable reload_failed " ] || die "other warnings: $(journalctl -q -p warning -u $unit)"
}

has_status() { # PATTERN
	systemctl --no-pager status $unit | grep -q "Status: \"$1"
}

status_line() {
	step "status line and states"
	await "status" has_status 'receiving [0-9,]* metrics/s from [0-9]* clients; database unavailable; 1 batches waiting'
	set_key uri "\"sqlite:$store\""
	systemctl reload $unit || die "reload"
	await "status" has_status 'receiving .*; database ok; 0 batches waiting'
	same "type" notify "$(systemctl show -P Type $unit)"
	same "state" active/running "$(systemctl show -P ActiveState $unit)/$(systemctl show -P SubState $unit)"
}

reload() {
	step "reload: fails loudly on a bad file, and the service goes on"
	before=$(main_pid)
	printf 'batch {\n\tintervall = 1\n}\n' >>"$conf"
	if systemctl reload $unit 2>/tmp/reload; then
		die "a bad file was no error"
	fi
	grep -q "$unit" /tmp/reload || die "systemctl says: $(cat /tmp/reload)"
	journalctl --sync
	journalctl -q -u $unit -p err EVENT=configuration_error -o cat | jq -r .error | grep "^$conf:[0-9]*: .*intervall" ||
		die "no error in the journal says what is wrong"
	same "state" active "$(systemctl is-active $unit)"
	same "process" "$before" "$(main_pid)"
	metric-send -s 2 "$address" load 0.7 || die "sending after a failed reload"
	sed -i '$d' "$conf"
	sed -i '$d' "$conf"
	sed -i '$d' "$conf"
	n=$(events EVENT=reloaded | wc -l)
	systemctl reload $unit || die "reload of a good file"
	await_event reloaded $((n + 1))
	same "process" "$before" "$(main_pid)"
}

is_restarted() { # PID
	[ "$(main_pid)" != "$1" ] && [ "$(main_pid)" != 0 ] && systemctl is-active -q $unit
}

killed() {
	step "kill -9: started again, nothing is lost"
	for i in 1 2 3 4 5 6 7; do
		before=$(main_pid)
		series "killed$i" 0 100 | metric-send -s 1 "$address" || die "sending"
		kill -KILL "$before"
		await "restart $i" is_restarted "$before"
	done
	await "what was acknowledged" has_rows 703
	same "what is stored" '703|703' "$(rows_and_distinct)"
}

# A sender that the stopped daemon does not answer waits in the backlog, and is answered by the next.
watchdog() {
	step "watchdog: a daemon that hangs is killed, and its successor loses nothing"
	same "watchdog" 30s "$(systemctl show -P WatchdogUSec $unit)"
	mkdir -p /run/systemd/system/$unit.d
	printf '[Service]\nWatchdogSec=2\n' >/run/systemd/system/$unit.d/watchdog.conf
	systemctl daemon-reload
	set_key uri '"postgresql://nobody@127.0.0.1:1/nowhere"'
	systemctl restart $unit || die "restart"
	before=$(main_pid)
	series before 0 1000 | metric-send -s 1 "$address" || die "sending"
	kill -STOP "$before"
	series during 0 1000 | metric-send -s 1 -w 60 "$address" || die "the sender that waited"
	is_restarted "$before" || die "the daemon was not restarted"
	# A restart of ours counts from zero again, this one does not.
	[ "$(systemctl show -P NRestarts $unit)" -ge 1 ] || die "NRestarts is 0"
	journalctl -q -u $unit | grep -q 'Watchdog timeout' || die "the watchdog is not in the journal"
	set_key uri "\"sqlite:$store\""
	systemctl reload $unit || die "reload"
	await "all of it" has_rows 2703
	same "what is stored" '2703|2703' "$(rows_and_distinct)"
	rm -r /run/systemd/system/$unit.d
	systemctl daemon-reload
}

bad_start() {
	step "a bad file at start: an error, no loop, and all is well once it is mended"
	printf 'nonsense = 1\n' >>"$conf"
	systemctl restart $unit 2>/tmp/restart && die "a bad file was no error"
	same "exit status" 2 "$(systemctl show -P ExecMainStatus $unit)"
	journalctl --sync
	journalctl -q -u $unit -p err -n 1 EVENT=configuration_error -o cat | jq -r .error | grep "^$conf:[0-9]*: nonsense: " ||
		die "no error in the journal says what is wrong"
	sed -i '$d' "$conf"
	systemctl start $unit || die "start after the repair"
	metric-send -s 2 "$address" load 0.8 || die "sending after the repair"
}

stopped() {
	step "stop: nothing is lost, and the end is in the journal"
	n=$(events EVENT=stopped | wc -l)
	series stop 0 1000 | metric-send "$address" || die "sending"
	systemctl stop metric-collectord.socket $unit || die "stop"
	same "result" success "$(systemctl show -P Result $unit)"
	await_event stopped $((n + 1))
	same "what is stored" '3704|3704' "$(rows_and_distinct)"
	events EVENT=stopped | tail -n 1
	same "failed units" '' "$(systemctl --failed --no-legend --plain)"
}

# README.md's and the manual page's lines, as they stand there; but none that goes on for ever.
documented() {
	step "journalctl: the documented lines, after all of this"
	journalctl --sync
	zcat -f /usr/share/doc/metric-collectord/README.md* /usr/share/man/man8/metric-collectord.8.gz |
		sed 's/^\$ //; s/ -f$//' | grep '^journalctl ' >/tmp/lines
	for form in '-t .*| jq .event$' '-u .* -t .*| jq .event$' '-u .* EVENT=' '-u .* -p warning$'; do
		grep -q -e "$form" /tmp/lines || die "not documented: $form"
	done
	while read -r line; do
		echo "$line"
		bash -o pipefail -c "$line" >/tmp/out 2>/tmp/errors </dev/null || die "it failed: $(cat /tmp/errors)"
		[ -s /tmp/out ] || die "it shows nothing"
	done </tmp/lines
	# Nothing but events has that identifier, or comes from the unit's processes.
	journalctl -q -t metric-collectord -o cat | jq -r .event >/tmp/with-t || die "-t: not everything is JSON"
	events | jq -r .event | cmp - /tmp/with-t || die "the unit has other events"
	journalctl -q -u $unit -o cat | jq -R -r 'fromjson? | .event' | cmp - /tmp/with-t || die "-u has other events"
	for event in configuration_error configuration_ok reload_failed reloaded starting stopped; do
		grep -qx $event /tmp/with-t || die "no event $event"
	done
}

installed
journal
status_line
reload
killed
watchdog
bad_start
stopped
documented
echo "service: passed"
