#!/bin/sh
# The systemd units make sense, and hardly anything is left that the service could do to the system: an
# exposure of 1.5 at most.  `make lint` calls it.
set -u

srcdir=${srcdir:-$(dirname "$0")/..}
from=$srcdir/packaging/systemd
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

# The programs that they start are looked for.
printf '#!/bin/sh\n' >"$dir/metric-collectord"
chmod 755 "$dir/metric-collectord"
cp "$from/metric-collectord.socket" "$dir"
sh "$from/expand.sh" "$from/metric-collectord.service.in" "$dir" /etc >"$dir/metric-collectord.service"
sh "$from/expand.sh" "$from/metric-collectord@.service.in" "$dir" /etc >"$dir/metric-collectord@x.service"

cd "$dir" || exit 1
units='metric-collectord.service metric-collectord@x.service'
# shellcheck disable=SC2086 # to be split
systemd-analyze verify --man=no metric-collectord.socket $units || exit 1
for unit in $units; do
	systemd-analyze security --no-pager --offline=true --threshold=15 "./$unit" >report || {
		cat report
		exit 1
	}
done
