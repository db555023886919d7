#!/bin/sh
# Includes point down the layers of the source tree:
#
#	main > server > net, store > buffer > wire > conf > log > base
#
# net and store never see each other.  tools may include anything but server and main,
# and nobody includes tools.  A new directory must be given its place here.
# Usage: check-layers.sh [SOURCE-ROOT]; prints each offence as file:line and exits 1.
set -u

root=${1:-${srcdir:-.}}
if ! [ -d "$root/src" ]; then
	echo "check-layers: $root/src is no directory" >&2
	exit 2
fi

# In src/ itself the layer is the file's name up to a dot or underscore: server.c, server_stop.c.
# shellcheck disable=SC2016
offences=$(LC_ALL=C find "$root/src" -name '*.[ch]' -exec awk -v src="$root/src/" '
	function layer(path) {
		if (path ~ /\//)
			sub(/\/.*/, "", path)
		else
			sub(/[._].*/, "", path)
		return path
	}
	function allowed(from, to) {
		if (!(from in rank) || !(to in rank))
			return 0
		if (from == "tools" && (to == "server" || to == "main"))
			return 0
		return from == to || rank[to] < rank[from]
	}
	BEGIN {
		rank["base"] = 0
		rank["log"] = 1
		rank["conf"] = 2
		rank["wire"] = 3
		rank["buffer"] = 4
		rank["net"] = rank["store"] = 5
		rank["server"] = 6
		rank["main"] = rank["tools"] = 7
	}
	/^[ \t]*#[ \t]*include[ \t]*"/ {
		from = layer(substr(FILENAME, length(src) + 1))
		to = $0
		sub(/^[^"]*"/, "", to)
		sub(/".*/, "", to)
		if (to !~ /\// && to !~ /^(main|server)[._]/)
			next # config.h, and what else is in no layer
		if (to ~ /(^|\/)\.\.?\//)
			why = "must name its path from src/"
		else if (!allowed(from, layer(to)))
			why = from " must not include " layer(to)
		else
			next
		printf "%s:%d: \"%s\": %s\n", FILENAME, FNR, to, why
	}
' {} +) || exit 2
[ -z "$offences" ] && exit 0
printf '%s\n' "$offences"
exit 1
