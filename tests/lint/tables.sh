#!/bin/sh
# tables.sh - every source file of a layer is named in a table of ARCHITECTURE.md, in its first column.
#
# `name` or `folder/name`, with or without its ending; `name*` names several.  The inside of what is named,
# name_int.h, needs no name of its own.
set -eu
cd "${1:-.}"
bad=0
set -f # names are patterns for `case`, and match no file here
names=$(sed -n '/^## Layers/,/^## Processes/s/^| \([^|]*\)|.*/\1/p' ARCHITECTURE.md | grep -o '`[^`]*`' | tr -d '`' | sed 's|.*/||; s/\.[a-z]*$//' | sort -u)
for file in $(find base kernels engine scheduler server -maxdepth 2 \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) \
    ! -path 'engine/arch/*'); do
    stem=$(basename "$file")
    stem=${stem%.*}
    for name in $names; do
        # shellcheck disable=SC2254 # it is a pattern
        case $stem in $name) continue 2 ;; esac
        # shellcheck disable=SC2254
        case ${stem%_int} in $name) continue 2 ;; esac
    done
    echo "tables: $file is not named in ARCHITECTURE.md" >&2
    bad=1
done
exit $bad
