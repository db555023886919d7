#!/bin/sh
# The package's own test, as autopkgtest runs it, and what becomes of its credential afterwards.
# /srv/packages holds the package and its source tree.
# shellcheck disable=SC2154 # common.sh sets address
set -u
# shellcheck source=/dev/null
. "$(dirname "$0")/common.sh"

unit=metric-collectord.service

as_postgres() { # SQL
	setpriv --reuid=postgres --regid=postgres --init-groups env HOME=/ psql -qtA -d metrics -c "$1"
}

# Another name makes the daemon connect anew, and give the server the password again.
call_it() { # NAME
	set_key uri "\"postgresql://collector@127.0.0.1/metrics?application_name=$1\""
}

# stores NAME COUNT: is COUNT stored with one metric more, over a connection of that name?
stores() {
	metric-send -s 2 -w 60 "$address" credential "$2" || die "sending"
	same "rows stored" "$2" "$(as_postgres 'SELECT count(*) FROM metrics')"
	same "connections named $1" 1 "$(as_postgres "SELECT count(*) FROM pg_stat_activity WHERE application_name = '$1'")"
}

package_test() {
	step "debian/tests/postgresql"
	install_deb "$(echo /srv/packages/metric-collectord_*-1_*.deb)"
	rm /etc/systemd/system/postgresql.service
	systemctl daemon-reload
	systemctl start postgresql || die "postgresql"
	await "postgresql" pg_isready -q
	(cd /srv/packages/source/tree && sh debian/tests/postgresql) || die "debian/tests/postgresql"
	# It has made them: a password that the server asks for, and that comes from nowhere else.
	[ -s /etc/credstore/db-password ] || die "there is no credential"
	setpriv --reuid=postgres --regid=postgres --init-groups psql -qtA -w -c '' \
		postgresql://collector@127.0.0.1/metrics 2>/dev/null && die "the server asks for no password"
}

reloaded() {
	step "reload: the credential is read again"
	before=$(main_pid)
	for n in 2 3; do
		call_it "reload-$n"
		systemctl reload $unit || die "reload"
		stores "reload-$n" $n
	done
	same "process" "$before" "$(main_pid)"
}

changed() {
	step "another password, from another file: a drop-in and a restart"
	as_postgres "ALTER ROLE collector PASSWORD 'looking-glass'"
	(umask 077 && echo looking-glass >/etc/other-password)
	mkdir -p /etc/systemd/system/$unit.d
	printf '[Service]\nLoadCredential=db-password:/etc/other-password\n' >/etc/systemd/system/$unit.d/credential.conf
	systemctl daemon-reload
	call_it restart
	systemctl restart $unit || die "restart"
	stores restart 4
	call_it reload-5
	systemctl reload $unit || die "reload"
	stores reload-5 5
}

# Its file is another one, named after the instance.
instance() {
	step "an instance: a credential of its own"
	as_postgres "CREATE ROLE second LOGIN CREATEDB PASSWORD 'cheshire'"
	(umask 077 && echo cheshire >/etc/credstore/db-password.second)
	cat >/etc/metric-collectord/second.conf <<-'CONF'
		listen = {"127.0.0.1:9991"}
		buffer {
			spool = "/var/lib/metric-collectord/second/spool"
		}
		database {
			uri = "postgresql://second@127.0.0.1/second"
		}
	CONF
	systemctl start metric-collectord@second || die "metric-collectord@second"
	metric-send -s 2 -w 60 127.0.0.1:9991 credential 1 || die "sending"
}

package_test
reloaded
changed
instance
echo "postgresql: passed"
