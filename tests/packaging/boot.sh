#!/bin/sh
# Boots a system in a container and runs a command in it.
#
# Usage: boot.sh ROOT DIRECTORY COMMAND
#
# ROOT is a tree with systemd in it, which is not changed; DIRECTORY is there as /srv.  The network is loopback
# alone.  COMMAND runs as a service with systemd as process 1; its exit status is ours, and
# what it writes is our output.  124: it took longer than 15 minutes; 125: the system did not boot.
set -u

if [ "${1:-}" != --unshared ]; then
	[ $# = 3 ] || {
		sed -n '/^# Usage/s/^# //p' "$0" >&2
		exit 2
	}
	exec unshare --mount --propagation private sh "$0" --unshared "$@"
fi
root=$2
directory=$3
command=$4
name=metric-boot-$$
group=/sys/fs/cgroup/$name

# Everything is shown and cleaned up from here; the container's processes are in a cgroup of their own.
# shellcheck disable=SC2317 # called by the trap
clean_up() {
	[ -z "$tail_pid" ] || kill "$tail_pid" 2>/dev/null
	echo $$ >/sys/fs/cgroup/cgroup.procs
	find "$group" -depth -type d -exec rmdir {} + 2>/dev/null
}
tail_pid=
nspawn_pid=
trap clean_up EXIT
trap 'kill "$nspawn_pid" 2>/dev/null; wait "$nspawn_pid"; exit 130' INT TERM HUP

# The container's systemd wants the unified hierarchy, whatever this machine has.
if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
	umount -l /sys/fs/cgroup
	mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 125
fi
mkdir -p /run/systemd/nspawn "$group" || exit 125
mount -t tmpfs -o mode=755 nspawn /run/systemd/nspawn || exit 125
echo $$ >"$group/cgroup.procs" || exit 125

rm -f "$directory/status"
: >"$directory/log"
cat >"$directory/command" <<SCRIPT
cd /srv
$command
SCRIPT
cat >"$directory/run" <<'SCRIPT'
sh /srv/command >/srv/log 2>&1 </dev/null
echo $? >/srv/status
systemctl --no-block exit
SCRIPT
mkdir -p "$directory/units"
cat >"$directory/units/metric-test.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
ExecStart=/bin/sh /srv/run
Environment=HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
UNIT

timeout -k 30 900 systemd-nspawn --quiet --register=no --keep-unit --directory="$root" --volatile=overlay \
	--machine="$name" --private-network --link-journal=no --timezone=off --resolv-conf=off \
	--console=pipe --bind="$directory:/srv" \
	--bind-ro="$directory/units/metric-test.service:/etc/systemd/system/metric-test.service" \
	--boot -- systemd.unit=multi-user.target systemd.wants=metric-test.service \
	</dev/null >"$directory/console" 2>&1 &
nspawn_pid=$!
tail -n +1 -f --pid=$nspawn_pid "$directory/log" &
tail_pid=$!
wait $nspawn_pid
status=$?
wait $tail_pid
tail_pid=
if [ -s "$directory/status" ]; then
	exit "$(cat "$directory/status")"
fi
tail -n 40 "$directory/console" >&2
[ $status = 124 ] && exit 124
exit 125
