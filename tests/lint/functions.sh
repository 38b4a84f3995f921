#!/bin/sh
# functions.sh - no function over 70 lines, no file over 900, but for those listed with a reason.
set -eu
cd "${1:-.}"
allowed=tests/lint/long_functions.txt
bad=0
for f in $(find base kernels engine scheduler server -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh'); do
    n=$(wc -l <"$f")
    if [ "$n" -gt 900 ] && ! grep -q "^$f - " "$allowed"; then
        echo "functions: $f has $n lines" >&2; bad=1
    fi
    # A kernel's name stands on a line of its own behind its launch bounds.
    long=$(awk '/^[a-z_].*\(/ || /^    [a-z_0-9]*_kernel\(/ {name=$0} /^{/ {start=NR} /^}/ {if (start && NR-start > 70) print FILENAME":"start" "NR-start" lines: "name; start=0}' "$f")
    [ -z "$long" ] && continue
    echo "$long" | while read -r line; do
        fn=$(echo "$line" | sed -E 's/^[^ ]* [0-9]+ lines: *//; s/^([^(]*[ *])?([a-z_0-9]+)\(.*/\2/')
        grep -q "^$f $fn - " "$allowed" || { echo "functions: $line" >&2; exit 1; }
    done || bad=1
done
exit $bad
