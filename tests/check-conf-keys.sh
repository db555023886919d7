#!/bin/sh
# Compares the table of settings with the manual page and the sample file: keys and their order,
# types, ranges, defaults, and whether a reload applies them.
# usage: check-conf-keys.sh [PROGRAM]; PROGRAM prints the table (tests/unit/print_conf_keys).
set -u

program=${1:-tests/unit/print_conf_keys}
srcdir=${srcdir:-$(dirname "$0")/..}
man=$srcdir/man/metric-collectord.conf.5
sample=$srcdir/metric-collectord.conf
status=0

unset DB_HOST DB_PORT DB_NAME DB_USER DB_PASSWORD TCP_HOST TCP_PORT BATCH_INTERVAL
unset DATABASE_URL LOG_LEVEL CREDENTIALS_DIRECTORY

dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

# same WHAT: are $dir/want and $dir/have the same?
same() {
	if [ ! -s "$dir/want" ]; then
		echo "$program: no table" >&2
		status=1
	elif ! diff -U 0 --label "the table (src/conf/conf_key.c)" --label "$1" \
		"$dir/want" "$dir/have"; then
		echo "$1 does not agree with the table" >&2
		status=1
	fi
}

# defaults FILE WHAT: is FILE good, and does it change nothing?
defaults() {
	if ! "$program" "$1"; then
		echo "$2: see above" >&2
		status=1
	fi
}

"$program" >"$dir/table" || exit 1

# .It Ic batch.interval
# seconds (0.01..86400), default 5, reload.
awk -F '\t' '{ print $1 ": " $2 " (" $4 "), default " $3 ", " $5 "." }' \
	"$dir/table" >"$dir/want"
# .Pp
awk '
	/^\.Pp/ && key { print text; key = "" }
	key { text = text " " $0 }
	/^\.It Ic / { key = $3; text = key ":" }
' "$man" >"$dir/have"
same man/metric-collectord.conf.5

# batch {
#	# seconds (0.01..86400)
#	#interval = 5
awk -F '\t' '{
	restart = $5 == "restart" ? "; needs a restart" : ""
	print $1 " = " $3 ": # " $2 " (" $4 ")" restart
}' "$dir/table" >"$dir/want"
awk '
	{ sub(/^\t/, "") }
	/^[a-z_]+ \{$/ { section = $1 "." }
	/^\}$/ { section = "" }
	/^#[a-z_]+ = / { print section substr($0, 2) ": " before }
	{ before = $0 }
' "$sample" >"$dir/have"
same metric-collectord.conf

defaults "$sample" metric-collectord.conf
sed 's/^\([[:blank:]]*\)#\([a-z_]* = \)/\1\2/' "$sample" >"$dir/all.conf"
defaults "$dir/all.conf" "metric-collectord.conf, with every setting made active"

exit $status
