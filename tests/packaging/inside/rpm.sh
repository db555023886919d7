#!/bin/sh
# The RPM package in a system that is not its own: installed by rpm with its scriptlets, and without Debian's
# package of the same program.  /srv/packages holds it as release 1 and 2.
# shellcheck disable=SC2154 # common.sh sets address, conf and store
set -u
# shellcheck source=/dev/null
. "$(dirname "$0")/common.sh"

first=$(echo /srv/packages/metric-collectord-[0-9]*-1.x86_64.rpm)
second=$(echo /srv/packages/metric-collectord-[0-9]*-2.x86_64.rpm)

# Debian's rpm has no database of what is installed, and wants to be told that we know.
quiet_rpm() {
	rpm --force-debian "$@" 2>/tmp/rpm.log || {
		cat /tmp/rpm.log
		die "rpm $*"
	}
}

cat >/tmp/wanted <<'LIST'
-rw-r--r-- root root /etc/metric-collectord.conf
-rw-r--r-- root root /usr/lib/systemd/system/metric-collectord.service
-rw-r--r-- root root /usr/lib/systemd/system/metric-collectord.socket
-rw-r--r-- root root /usr/lib/systemd/system/metric-collectord@.service
-rw-r--r-- root root /usr/lib/sysusers.d/metric-collectord.conf
-rw-r--r-- root root /usr/lib/tmpfiles.d/metric-collectord.conf
-rw-r--r-- root root /usr/share/man/man1/metric-send.1.gz
-rw-r--r-- root root /usr/share/man/man5/metric-collectord.conf.5.gz
-rw-r--r-- root root /usr/share/man/man7/metric-collectord-guarantee.7.gz
-rw-r--r-- root root /usr/share/man/man7/metric-collectord-protocol.7.gz
-rw-r--r-- root root /usr/share/man/man7/metric-collectord-sizing.7.gz
-rw-r--r-- root root /usr/share/man/man7/metric-collectord-sql.7.gz
-rw-r--r-- root root /usr/share/man/man8/metric-collectord.8.gz
-rw-r--r-- root root /usr/share/man/man8/metric-spool.8.gz
-rwxr-xr-x root root /usr/bin/metric-send
-rwxr-xr-x root root /usr/sbin/metric-collectord
-rwxr-xr-x root root /usr/sbin/metric-spool
drwxr-xr-x root root /etc/metric-collectord
LIST

files() {
	step "files and their owners"
	rpm -qp --qf '[%{FILEMODES:perms} %{FILEUSERNAME} %{FILEGROUPNAME} %{FILENAMES}\n]' "$first" |
		LC_ALL=C sort >/tmp/files
	missing=$(LC_ALL=C comm -23 /tmp/wanted /tmp/files)
	[ -z "$missing" ] || die "the package lacks: $missing"
	foreign=$(awk '$2 != "root" || $3 != "root"' /tmp/files)
	[ -z "$foreign" ] || die "not root's: $foreign"
	same "configuration files" /etc/metric-collectord.conf "$(rpm -qpc "$first")"
	rpm -qp --qf '[%{FILEFLAGS:fflags} %{FILENAMES}\n]' "$first" | grep -qx 'cn /etc/metric-collectord.conf' ||
		die "the configuration is not config(noreplace)"
	line=$(rpm -qp --scripts "$first" | grep '^u metric-collectord')
	same "the user in %pre" "$(rpm2cpio "$first" | cpio -i --quiet --to-stdout ./usr/lib/sysusers.d/metric-collectord.conf)" "$line"
}

installed() {
	step "installed: there, and not started"
	# As Fedora and RHEL have it.
	mkdir -p /etc/systemd/system-preset
	echo 'disable *' >/etc/systemd/system-preset/99-default.preset
	quiet_rpm -i --nodeps "$first"
	for unit in metric-collectord.service metric-collectord.socket; do
		same "$unit" disabled/inactive "$(systemctl is-enabled $unit)/$(systemctl is-active $unit)"
	done
	# What a file trigger of systemd's package does there.
	systemd-tmpfiles --create metric-collectord.conf || die "systemd-tmpfiles"
	same "owner of the state" metric-collectord "$(stat -c %U /var/lib/metric-collectord)"
	quiet_rpm -V --nodeps metric-collectord
	systemctl enable --now metric-collectord.service || die "enable --now"
	metric-send -s 2 "$address" rpm 1 || die "sending"
}

upgraded() {
	step "upgraded: restarted, the socket stays, the configuration, too"
	start_instance one 9991
	instance=$(main_pid metric-collectord@one)
	before=$(main_pid)
	listening=$(systemctl show -P ActiveEnterTimestampMonotonic metric-collectord.socket)
	echo '# edited by the administrator' >>"$conf"
	quiet_rpm -U --nodeps "$second"
	systemctl is-active -q metric-collectord || die "it does not run"
	[ "$before" != "$(main_pid)" ] || die "the service was not restarted"
	systemctl is-active -q metric-collectord@one || die "the instance does not run"
	[ "$instance" != "$(main_pid metric-collectord@one)" ] || die "the instance was not restarted"
	same "time when the socket was opened" "$listening" \
		"$(systemctl show -P ActiveEnterTimestampMonotonic metric-collectord.socket)"
	grep -q 'edited by the administrator' "$conf" || die "the configuration was overwritten"
	metric-send -s 2 "$address" rpm 2 || die "sending"
	same "what is stored" '2|2' "$(rows_and_distinct)"
}

removed() {
	step "removed: stopped, data and the edited configuration stay"
	quiet_rpm -e metric-collectord
	for unit in metric-collectord.service metric-collectord.socket metric-collectord@one.service; do
		! systemctl is-active -q $unit || die "$unit still runs"
	done
	! pgrep -u metric-collectord >/tmp/left || die "processes are left: $(cat /tmp/left)"
	[ -s "$conf.rpmsave" ] || die "the edited configuration is gone"
	[ -s "$store" ] || die "the data is gone"
	left=$(find /etc/systemd -name '*metric-collectord*')
	[ -z "$left" ] || die "left: $left"
}

files
installed
upgraded
removed
echo "rpm: passed"
