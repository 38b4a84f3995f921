#!/bin/sh
# syntax.sh - shell scripts parse, and JSON in the tree is JSON.
set -eu
cd "${1:-.}"
for f in $(git ls-files '*.sh' .ci/run); do bash -n "$f"; done
for f in $(git ls-files '*.json' | grep -v '/corpus/'); do python3 -m json.tool "$f" >/dev/null; done
