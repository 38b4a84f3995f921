#!/bin/sh
# banned.sh - functions that lose data, overflow or depend on the locale; getenv outside config.c.
set -eu
cd "${1:-.}"
bad=0
hits() { grep -nE "$1" -r base kernels engine scheduler server --include='*.[ch]' --include='*.cu' --include='*.cuh' || true; }
found=$(hits '(^|[^a-zA-Z_])(strcpy|strcat|sprintf|vsprintf|gets|atoi|atol|atof|strtok|alloca|system|popen)[ ]*\(' )
[ -z "$found" ] || { echo "$found"; echo "banned: use the bounded or checked form" >&2; bad=1; }
found=$(hits '(^|[^a-zA-Z_])(secure_)?getenv[ ]*\(' | grep -v '^server/config\.c:' || true)
[ -z "$found" ] || { echo "$found"; echo "banned: only server/config.c reads the environment" >&2; bad=1; }
found=$(hits '//[^"]*(TODO|FIXME|XXX)|/\*.*(TODO|FIXME|XXX)')
[ -z "$found" ] || { echo "$found"; echo "banned: a note to do something later" >&2; bad=1; }
exit $bad
