#!/bin/sh
# shell.sh - shellcheck has no complaint of any script.
#
# Not asked for: SC2317, "unreachable", which is wrong about functions that a trap or an argument names; SC2012,
# SC2013 and SC2044, about names with spaces, which we do not have; SC2015, "A && B || C", and SC2016,
# expressions in single quotes, which are meant.
set -eu
cd "${1:-.}"
command -v shellcheck >/dev/null || { echo "shell: no shellcheck; deploy/setup.sh test installs it" >&2; exit 1; }
# By their first line: some have no ending.  What git does not have is not ours.
scripts=$(git ls-files -co --exclude-standard | grep -v '/corpus/' | while read -r f; do
    if head -c 64 "$f" | tr -d '\000' | head -n 1 | grep -qE '^#!.*\b(ba)?sh$'; then echo "$f"; fi
done)
[ "$(echo "$scripts" | wc -l)" -gt 15 ] || { echo "shell: found no scripts" >&2; exit 1; }
# shellcheck disable=SC2086
shellcheck -e SC2317,SC2012,SC2013,SC2015,SC2016,SC2044 $scripts
