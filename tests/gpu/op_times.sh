#!/usr/bin/env bash
# op_times.sh - where the device's time of a step goes, op by op (ops_module.cu).
#
#   op_times.sh [--fill] BIN-FOLDER SHAPE-FOLDER [options of bench engine]
#
# BIN-FOLDER: inferd, libinferd_cuda.so, libinferd_cuda_ops.so; with --fill libinferd_cuda_fill.so too, by which
# prompts cost next to nothing: only steps that decode mean something then, and only their tables are printed.
# Prints the engine's table, and then the last table of each kind of step.  Rows of one batch but of several
# contexts are one kind: ask for them one by one.
set -euo pipefail
fill=
[ "$1" != --fill ] || { fill=1; shift; }
bin=$(cd "$1" && pwd)
shape=$2
shift 2
work=$(mktemp -d /tmp/inferd-ops-XXXXXX)
trap 'rm -rf "$work"' EXIT
cp "$bin/inferd" "$work"
cp "$bin/libinferd_cuda_ops.so" "$work/libinferd_cuda.so"
if [ -n "$fill" ]; then
    cp "$bin/libinferd_cuda_fill.so" "$work/libinferd_cuda_real.so"
    cp "$bin/libinferd_cuda.so" "$work/libinferd_cuda_real_real.so"
else
    cp "$bin/libinferd_cuda.so" "$work/libinferd_cuda_real.so"
fi
rc=0
"$work/inferd" bench engine --random "$shape" --device cuda --parallel-max 0 --repeats 1 --tables full \
    "$@" 2>"$work/log" || rc=$?
grep -v ^ops: "$work/log" >&2 || true
awk -v fill="$fill" '
    /^ops: device/ {
        split($0, part, ": [0-9]+ steps")
        kind = fill && $4 != $7 ? "" : part[1]
        if (kind && !(kind in table)) order[n++] = kind
        table[kind] = ""
    }
    /^ops:/ {table[kind] = table[kind] substr($0, 6) "\n"}
    END {for (i = 0; i < n; i++) printf "%s", table[order[i]]}' "$work/log"
exit $rc
