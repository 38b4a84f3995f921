#!/usr/bin/env bash
# run.sh - everything of inferd that a GPU decides: right, free of races, and how fast.
#
#   tests/gpu/run.sh [--only LIST] [--out FOLDER] [FOLDER]
#
# FOLDER is what tests/gpu/pack.sh packed (by default where this script lies, if it is one; else
# the repository packs itself, which wants cmake and nvcc).  LIST is some of
#   parity     the C tests of ops, and the probes' checks
#   sanitizer  compute-sanitizer's four tools over the C tests, and over a probe
#   engine     the same model on the CPU and on the GPU; faults under load
#   bench      kernels and engine
#   peers      torch and transformers on the same shapes, where python has them
# No network.  Each part has a time limit: INFERD_PART_S (300 s), and under a sanitizer
# INFERD_SANITIZER_S (60 s), which makes a program "slow" and not failed.  Logs go to --out, by
# default a new folder in /tmp.  The table comes last; without a GPU every line says "skipped".
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
only="parity sanitizer engine bench peers"
out=
dir=
part_s=${INFERD_PART_S:-300}
sanitizer_s=${INFERD_SANITIZER_S:-60}
libraries=${LD_LIBRARY_PATH:-}
while [ $# -gt 0 ]; do
    case $1 in
    --only) only=${2:?--only LIST}; shift 2 ;;
    --out) out=${2:?--out FOLDER}; shift 2 ;;
    -*) sed -n '2,19p' "$0"; exit 2 ;;
    *) dir=$1; shift ;;
    esac
done
out=${out:-$(mktemp -d /tmp/inferd-gpu-XXXXXX)}
mkdir -p "$out"
table=$out/table.txt
: >"$table"
failed=0

row() { # row STATE NAME SECONDS FIGURE
    printf '%-8s %-34s %6s  %s\n' "$1" "$2" "$3" "$4" >>"$table"
    [ "$1" != FAIL ] || failed=$((failed + 1))
}

wanted() { case " ${only//,/ } " in *" $1 "*) ;; *) return 1 ;; esac; }

finish() {
    echo
    cat "$table"
    echo "logs: $out"
    [ "$failed" -eq 0 ]
    exit
}

has_gpu() { [ -e /dev/nvidia0 ] || { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; }; }

if ! has_gpu; then
    for part in ${only//,/ }; do row skipped "$part" - "no GPU here"; done
    finish
fi

# ---- what to run ----

if [ -z "$dir" ]; then
    if [ -d "$here/bin" ]; then
        dir=$here
    else
        dir=$out/pack
        "$here/pack.sh" "$dir" >"$out/pack.log" 2>&1 || { tail -20 "$out/pack.log"; row FAIL build - "$out/pack.log"; finish; }
    fi
fi
dir=$(cd "$dir" && pwd)
export LD_LIBRARY_PATH=$dir/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
bin=$dir/bin
cd "$dir" || exit 1

# part NAME FIGURE COMMAND...: runs it, and notes PASS or FAIL and the figure, which a filter finds
# in what it printed
part() {
    local name=$1 filter=$2 state=PASS start rc log figure limit=$part_s
    shift 2
    case $name in *check\ *) limit=$sanitizer_s ;; esac
    log=$out/$(echo "$name" | tr ' /' '__').log
    echo "== $name"
    start=$SECONDS
    timeout --kill-after=10 "$limit" "$@" >"$log" 2>&1
    rc=$?
    case $rc in
    0) ;;
    77) state=skipped ;;
    124|137) state=FAIL; [ "$limit" = "$part_s" ] || state=slow ;;
    *) state=FAIL ;;
    esac
    figure=$(eval "$filter" <"$log" | tail -1)
    [ "$rc" -ne 124 ] && [ "$rc" -ne 137 ] || figure="over $limit s"
    [ "$state" != FAIL ] || tail -5 "$log"
    row "$state" "$name" $((SECONDS - start)) "$figure"
}

last='grep -v "^ *$"'
tests='grep -E "PASSED|FAILED" | tr -d "[]" | tr -s " "'

# ---- the parts ----

parity() {
    local t
    for t in "$bin"/gpu_test_*; do
        case $t in *_engine|*_ranks) continue ;; esac
        part "parity $(basename "$t")" "$tests" "$t"
    done
    for t in probe_small probe_decode probe_matmul probe_scheme_wide check_prefill bench_all_reduce; do
        [ ! -x "$bin/$t" ] || part "parity $t" "$last" "$bin/$t" check
    done
}

find_sanitizer() {
    command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer \
        /usr/local/cuda*/compute-sanitizer/compute-sanitizer 2>/dev/null | head -1
}

sanitizer() {
    local cs tool t
    cs=$(find_sanitizer)
    if [ -z "$cs" ]; then row skipped sanitizer - "no compute-sanitizer here"; return; fi
    for tool in memcheck racecheck initcheck synccheck; do
        for t in "$bin"/gpu_test_*; do
            [ -x "$t" ] || continue
            part "$tool $(basename "$t")" 'grep -E "ERROR SUMMARY|RACECHECK SUMMARY"' \
                "$cs" --tool "$tool" --error-exitcode 9 --print-limit 20 "$t"
        done
    done
}

engine() {
    local t
    for t in gpu_test_engine gpu_test_ranks; do
        [ ! -x "$bin/$t" ] || part "engine $t" "$tests" "$bin/$t"
    done
    if python3 -c 'import torch, safetensors' 2>/dev/null; then
        part "engine faults" 'grep passed' sh -c '
            python3 tests/gpu/make_random_hf.py llama-3.2-1b "$1/model" &&
            python3 tests/gpu/fault.py "$2" "$1/model"' - "$out" "$bin"
        rm -rf "$out/model"
        if [ "$(nvidia-smi -L 2>/dev/null | grep -c GPU)" -gt 1 ]; then
            part "engine lost ranks" 'grep passed' sh -c '
                python3 tests/gpu/make_random_hf.py small "$1/model" &&
                python3 tests/gpu/ranks.py "$2" "$1/model"' - "$out" "$bin"
            rm -rf "$out/model"
        fi
    else
        row skipped "engine faults" - "python3 has no torch and safetensors here"
    fi
}

bench() {
    local shape
    part "bench kernels" 'head -1' "$bin/inferd" bench kernels --device cuda
    for shape in llama-3.1-8b llama-3.2-1b; do
        part "bench engine $shape" 'grep -E "^decode +1 +128 "' \
            "$bin/inferd" bench engine --random "tests/bench/shapes/$shape" --device cuda --repeats 3
    done
    [ "$(nvidia-smi -L 2>/dev/null | grep -c GPU)" -lt 2 ] ||
        part "bench engine llama-3.1-8b 2 GPUs" 'grep -E "^decode +1 +128 "' "$bin/inferd" bench engine \
            --random tests/bench/shapes/llama-3.1-8b --device cuda --repeats 3 --tensor-parallel 2
    part "bench idle" 'grep "^idle: width    1 "' tests/gpu/idle.sh "$bin" tests/bench/shapes/llama-3.2-1b
    [ ! -x "$bin/bench_all_reduce" ] || part "bench all_reduce" 'grep -E "^ +32768 "' "$bin/bench_all_reduce" bench
    [ ! -x "$bin/probe_scheme_wide" ] || part "bench scheme wide" "$last" "$bin/probe_scheme_wide"
    [ ! -x "$bin/probe_decode" ] || part "bench decode" "$last" "$bin/probe_decode" bench
    [ ! -x "$bin/bench_scheme" ] || part "bench scheme" "$last" "$bin/bench_scheme"
    [ ! -x "$bin/bench_prefill" ] || part "bench prefill" "$last" "$bin/bench_prefill" bench
}

peers() {
    local mode py=(env "LD_LIBRARY_PATH=$libraries" python3) # its libraries are not ours
    if ! "${py[@]}" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
        row skipped peers - "no torch with CUDA here"
        return
    fi
    part "peer matmul" 'head -1' "${py[@]}" tests/bench/peer_matmul.py
    part "peer sdpa" 'head -1' "${py[@]}" tests/bench/peer_sdpa.py
    "${py[@]}" -c 'import transformers' 2>/dev/null || { row skipped "peer transformers" - "not there"; return; }
    for mode in eager compiled; do
        part "peer transformers 8b $mode" 'grep ^transformers' \
            "${py[@]}" tests/bench/peer_transformers.py tests/bench/shapes/llama-3.1-8b/config.json --only "$mode"
    done
}

for name in parity sanitizer engine bench peers; do
    if wanted "$name"; then "$name"; fi
done
[ -s "$table" ] || { echo "--only: none of parity sanitizer engine bench peers" >&2; exit 2; }
finish
