#!/bin/sh
# Prints a unit with its directories and the sandbox filled in.
# Usage: expand.sh UNIT.in SBINDIR SYSCONFDIR
sed -e "/^@sandbox@\$/r $(dirname "$1")/sandbox.in" -e '/^@sandbox@$/d' \
	-e "s|@sbindir@|$2|g" -e "s|@sysconfdir@|$3|g" "$1"
