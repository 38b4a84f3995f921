#!/bin/bash
# peer.sh - inferd and llama.cpp on the same file and threads, by turns, and the ratio of medians.
#
#   tests/bench/peer.sh MODEL [ROUNDS] [THREADS]
#
# INFERD: the program (build/release/inferd).  NODE_PATH_PEER: a folder in which the npm package
# node-llama-cpp is installed.  A round is one process each, with one repeat after its warm-up.
set -euo pipefail
cd "$(dirname "$0")/../.."
model=${1:?peer.sh MODEL [ROUNDS] [THREADS]} rounds=${2:-5} threads=${3:-2}
inferd=${INFERD:-build/release/inferd}
all=$(mktemp)
trap 'rm -f "$all"' EXIT

for ((round = 0; round < rounds; round++)); do
    "$inferd" bench engine --model "$model" --threads "$threads" --repeats 1 --parallel-max 16 --tables none --json |
        sed 's/[{}"]//g' | tr ',' '\n' |
        awk -F: '/^prompt_512|^generate_128|^generate_16x128/ {gsub("_", "-", $1); print "inferd", $1, $2}' >>"$all"
    node tests/bench/peer_llama_cpp.mjs "$model" "$threads" 1 |
        sed -n 's/^llama.cpp \([^ ]*\) .*tok\/s=\([0-9.]*\)$/peer \1 \2/p' >>"$all"
done

median() { # median WHO MEASURE
    awk -v who="$1" -v what="$2" '$1 == who && $2 == what {print $3}' "$all" | sort -n |
        awk '{v[NR] = $1} END {if (!NR) exit 1; print v[int((NR + 1) / 2)]}'
}
printf '%-18s %12s %12s %8s   (tokens/s, medians of %d, %d threads)\n' \
    measure inferd llama.cpp ratio "$rounds" "$threads"
for what in prompt-512 generate-128 generate-16x128; do
    ours=$(median inferd "$what") peer=$(median peer "$what")
    awk -v what="$what" -v a="$ours" -v b="$peer" \
        'BEGIN {printf "%-18s %12.1f %12.1f %8.2f\n", what, a, b, a / b}'
done
