#!/bin/sh
# The version stands in configure.ac; NEWS.md and the packages agree with it.
exec sh "${srcdir:-$(dirname "$0")/..}/packaging/changelogs.sh" --check
