#!/bin/sh
# syntax.sh - shell scripts parse, and JSON in the tree is JSON.
set -eu
cd "${1:-.}"
files() { # files NAME: those of the tree, built and fetched ones and fuzz corpora left out
    find . \( -name build -o -name .git -o -name models -o -name corpus -o -name node_modules \) \
        -prune -o -type f -name "$1" -print
}
for f in $(files '*.sh') .ci/run; do bash -n "$f"; done
for f in $(files '*.json'); do python3 -m json.tool "$f" >/dev/null; done
