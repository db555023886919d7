#!/bin/sh
# The package's own test, as autopkgtest runs it.  /srv/packages holds the package and its source tree.
set -u
# shellcheck source=/dev/null
. "$(dirname "$0")/common.sh"

install_deb "$(echo /srv/packages/metric-collectord_*-1_*.deb)"
rm /etc/systemd/system/postgresql.service
systemctl daemon-reload
systemctl start postgresql || die "postgresql"
await "postgresql" pg_isready -q
cd /srv/packages/source/tree || exit 1
sh debian/tests/postgresql || die "debian/tests/postgresql"
echo "postgresql: passed"
