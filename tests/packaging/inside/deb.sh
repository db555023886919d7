#!/bin/sh
# The Debian package from its installation to its purge, with senders that never pause.
# /srv/packages holds the package as it is, and as the version after it.
# shellcheck disable=SC2154 # common.sh sets address, conf and store
set -u
# shellcheck source=/dev/null
. "$(dirname "$0")/common.sh"

old=$(echo /srv/packages/metric-collectord_*-1_*.deb)
new=$(echo /srv/packages/metric-collectord_*-2_*.deb)

installed() {
	step "a fresh installation runs, listens and stores"
	install_deb "$old"
	await "start" systemctl is-active metric-collectord.service
	same "owner of the state" 'metric-collectord:metric-collectord 750' \
		"$(stat -c '%U:%G %a' /var/lib/metric-collectord)"
	same "owner of the spool" 'metric-collectord:metric-collectord 700' \
		"$(stat -c '%U:%G %a' /var/lib/metric-collectord/spool)"
	same "owner of the configuration" 'root:metric-collectord 640' "$(stat -c '%U:%G %a' "$conf")"
	same "user of the daemon" metric-collectord "$(ps -o user:32= -p "$(main_pid)" | tr -d ' ')"
	n=0
	for to in 127.0.0.1:9999 '[::1]:9999' unix:/run/metric-collectord/ingest.sock; do
		metric-send -s 2 "$to" fresh $n || die "sending to $to"
		n=$((n + 1))
	done
	# An unprivileged sender reaches the unix socket, too.
	setpriv --reuid=nobody --regid=nogroup --clear-groups \
		metric-send -s 2 unix:/run/metric-collectord/ingest.sock fresh $n || die "sending as nobody"
	same "what is stored" '4|4' "$(rows_and_distinct)"
	metric-collectord -t || die "metric-collectord -t"
}

sandboxed() {
	step "the sandbox"
	exposure=$(systemd-analyze security --no-pager metric-collectord.service | sed -n 's/.*: \([0-9.]*\) .*/\1/p' | tail -n 1)
	echo "exposure $exposure"
	awk -v x="$exposure" 'BEGIN { exit !(x != "" && x <= 1.5) }' || die "exposure is $exposure"
	same "CapEff" 0000000000000000 "$(awk '/^CapEff/ { print $2 }' "/proc/$(main_pid)/status")"
	same "NoNewPrivs" 1 "$(awk '/^NoNewPrivs/ { print $2 }' "/proc/$(main_pid)/status")"
	same "descriptors" 16384 "$(awk '/^Max open files/ { print $4 }' "/proc/$(main_pid)/limits")"
}

# Sends a metric after the other, each over a connection of its own, until /tmp/enough is there.
sender() {
	i=0
	while [ ! -e /tmp/enough ]; do
		if metric-send -s 1 -w 60 "$address" running $i 2>>/tmp/refused; then
			i=$((i + 1))
			echo $i >/tmp/sent
		else
			echo "metric $i" >>/tmp/refused
			return
		fi
	done
}

sent_more() { # THAN
	[ "$(cat /tmp/sent)" -gt "$1" ]
}

# A full spool, and senders that do not pause: during an upgrade nothing is refused, lost or doubled.
upgraded() {
	step "upgrade with a running service and a full spool"
	set_key uri '"postgresql://nobody@127.0.0.1:1/nowhere"'
	echo '# edited by the administrator' >>"$conf"
	systemctl reload metric-collectord || die "reload"
	series kept 0 20000 | metric-send -s 1 "$address" || die "filling the spool"
	before=$(main_pid)
	listening=$(systemctl show -P ActiveEnterTimestampMonotonic metric-collectord.socket)
	echo 0 >/tmp/sent
	: >/tmp/refused
	sender &
	sender_pid=$!
	await "sending" sent_more 10
	dpkg -i "$new" >/tmp/dpkg.log 2>&1 || {
		cat /tmp/dpkg.log
		die "dpkg -i $new"
	}
	count=$(cat /tmp/sent)
	await "sending after the upgrade" sent_more $((count + 10))
	touch /tmp/enough
	wait $sender_pid
	[ ! -s /tmp/refused ] || die "a sender was refused: $(cat /tmp/refused)"
	same "version" "$(dpkg-deb -f "$new" Version)" "$(dpkg-query -W -f '${Version}' metric-collectord)"
	[ "$before" != "$(main_pid)" ] || die "the service was not restarted"
	same "time when the socket was opened" "$listening" \
		"$(systemctl show -P ActiveEnterTimestampMonotonic metric-collectord.socket)"
	grep -q 'edited by the administrator' "$conf" || die "the configuration was overwritten"
	same "mode of the configuration" 'root:metric-collectord 640' "$(stat -c '%U:%G %a' "$conf")"
	set_key uri "\"sqlite:$store\""
	systemctl reload metric-collectord || die "reload"
	total=$((20004 + $(cat /tmp/sent)))
	await "the spool's metrics" has_rows $total
	same "what is stored" "$total|$total" "$(rows_and_distinct)"
	echo "$(cat /tmp/sent) metrics were sent during the upgrade"
}

# The sender that waits loses its connection, and with it what was not acknowledged.
upgraded_full() {
	step "upgrade with a spool that takes no more"
	before=$(rows)
	set_key uri '"postgresql://nobody@127.0.0.1:1/nowhere"'
	set_key memory_limit '"64K"'
	set_key spool_limit '"256K"'
	systemctl reload metric-collectord || die "reload"
	series acknowledged 0 3000 | metric-send -s 1 "$address" || die "sending"
	series waiting 0 100000 | metric-send -s 2 -w 300 "$address" 2>/dev/null &
	sender_pid=$!
	await "a full buffer" journalctl -q -n 1 -g '"event":"buffer_full"' EVENT=buffer_full
	dpkg -i "$new" >/tmp/dpkg.log 2>&1 || die "dpkg -i $new: $(cat /tmp/dpkg.log)"
	! wait $sender_pid || die "what does not fit was acknowledged"
	journalctl --sync
	left=$(journalctl -q -n 1 EVENT=stopped -o cat | jq .buffered)
	same "what was recovered" "$left" "$(journalctl -q -n 1 EVENT=spool_recovered -o cat | jq .rows)"
	[ "$left" -gt 3000 ] || die "only $left metrics were in the spool"
	set_key uri "\"sqlite:$store\""
	set_key memory_limit '"256M"'
	set_key spool_limit '"8G"'
	systemctl reload metric-collectord || die "reload"
	total=$((before + left))
	await "the spool's metrics" has_rows $total
	same "what is stored" "$total|$total" "$(rows_and_distinct)"
	same "what was acknowledged" 3000 "$(query "SELECT count(*) FROM metrics WHERE metric_name = 'acknowledged'")"
	echo "$left metrics were in the spool"
}

restarted() {
	step "systemctl restart: the sockets stay, and so does what waits on them"
	systemctl stop metric-collectord.service 2>/dev/null
	await "activation" metric-send -s 1 -w 60 "$address" activated 1
	systemctl is-active -q metric-collectord.service || die "a connection did not start the service"
	for _ in 1 2 3; do
		systemctl restart metric-collectord.service || die "restart"
		[ -S /run/metric-collectord/ingest.sock ] || die "the unix socket is gone"
	done
}

instances() {
	step "two instances beside it"
	start_instance one 9991
	start_instance two 9992
	systemctl stop metric-collectord@one || die "stop of one instance"
	systemctl is-active -q metric-collectord@two || die "the other ended, too"
	systemctl is-active -q metric-collectord || die "the service itself ended, too"
	systemctl stop metric-collectord@two

	step "an upgrade restarts the instances that run, and no others"
	systemctl enable --now metric-collectord@one || die "enable --now"
	before=$(main_pid metric-collectord@one)
	dpkg -i "$new" >/tmp/dpkg.log 2>&1 || die "dpkg -i $new: $(cat /tmp/dpkg.log)"
	systemctl is-active -q metric-collectord@one || die "the instance does not run"
	[ "$(main_pid metric-collectord@one)" != "$before" ] || die "the instance was not restarted"
	! systemctl is-active -q metric-collectord@two || die "the other was started"
}

removed() {
	step "remove keeps configuration and data, purge does not"
	apt-get -q -y remove metric-collectord >/dev/null 2>&1 || die "remove"
	for unit in .service .socket @one.service; do
		! systemctl is-active -q metric-collectord$unit || die "$unit still runs"
	done
	! pgrep -u metric-collectord >/tmp/left || die "processes are left: $(cat /tmp/left)"
	[ -s "$conf" ] || die "the configuration is gone"
	[ -s "$store" ] || die "the data is gone"
	apt-get -q -y purge metric-collectord >/dev/null 2>&1 || die "purge"
	rm /etc/metric-collectord/one.conf /etc/metric-collectord/two.conf
	rmdir /etc/metric-collectord 2>/dev/null
	left=$(find /etc /lib /usr /var/lib /run -xdev -name '*metric-collectord*' ! -path '/var/lib/dpkg/*' ! -path '/run/credentials*')
	[ -z "$left" ] || die "purge left: $left"
	systemctl reset-failed
	same "failed units" '' "$(systemctl --failed --no-legend --plain)"
}

installed
sandboxed
upgraded
upgraded_full
restarted
instances
removed
echo "deb: passed"
