#!/usr/bin/env bash
# idle.sh - how long the GPU waits for the host between decode steps (idle_module.cu).
#
#   idle.sh BIN-FOLDER SHAPE-FOLDER       BIN-FOLDER: inferd, libinferd_cuda.so, libinferd_cuda_idle.so
#
# Prints the engine's table, and then a line for each width of step: the last of the module's.
set -euo pipefail
bin=$(cd "$1" && pwd)
work=$(mktemp -d /tmp/inferd-idle-XXXXXX)
trap 'rm -rf "$work"' EXIT
cp "$bin/inferd" "$work"
cp "$bin/libinferd_cuda.so" "$work/libinferd_cuda_real.so"
cp "$bin/libinferd_cuda_idle.so" "$work/libinferd_cuda.so"
"$work/inferd" bench engine --random "$2" --device cuda --parallel-max 0 --repeats 1 \
    --decode 1x128,8x128,16x128,32x128,64x128,128x128,256x128 2>"$work/log"
grep -q ^idle: "$work/log" || { cat "$work/log" >&2; exit 1; }
awk '/^idle:/ {last[$3] = $0} END {for (w in last) print last[w]}' "$work/log" | sort -n -k 3
