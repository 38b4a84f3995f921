#!/usr/bin/env bash
# run.sh - everything of inferd that a GPU decides: right, free of races, and how fast.
#
#   tests/gpu/run.sh [--only LIST] [--out FOLDER] [FOLDER]
#
# FOLDER is what tests/gpu/pack.sh packed (by default where this script lies, if it is one; else
# the repository packs itself, which wants cmake and nvcc).  LIST is some of
#   parity     the C tests of ops, and the probes' checks
#   sanitizer  compute-sanitizer's four tools over the C tests, their small parts, on all GPUs at once
#   engine     the same model on the CPU and on the GPU; faults under load; ranks and who starts them
#   logits     log-probabilities of whole models against transformers in float32 and bfloat16
#   memory     what quantized weights take of the device
#   bench      kernels and engine
#   peers      torch, transformers and bitsandbytes on the same shapes, where python has them
# No network.  Each part has a time limit: INFERD_PART_S (300 s), and under a sanitizer
# INFERD_SANITIZER_S (240 s), which makes a program "slow" and not failed.  Logs go to --out, by
# default a new folder in /tmp.  A line says how each part ended, all of them as a table at the end; without
# a GPU every line says "skipped".  Greedy tokens want INFERD_TEST_MODEL, or models/ here or in the repository.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
all="parity sanitizer engine logits memory bench peers"
only=$all
out=
dir=
part_s=${INFERD_PART_S:-300}
sanitizer_s=${INFERD_SANITIZER_S:-240}
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
out=$(cd "$out" && pwd)
models=$(mktemp -d "$([ -w /dev/shm ] && echo /dev/shm || echo "$out")/inferd-models-XXXXXX")
trap 'rm -rf "$models"' EXIT
table=$out/table.txt
: >"$table"

row() { # row STATE NAME SECONDS FIGURE
    printf '%-8s %-34s %6s  %s\n' "$1" "$2" "$3" "$4" | tee -a "$table"
}

wanted() { case " ${only//,/ } " in *" $1 "*) ;; *) return 1 ;; esac; }

finish() {
    echo
    cat "$table"
    echo "logs: $out"
    ! grep -q ^FAIL "$table"
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

# Their numbers, as CUDA_VISIBLE_DEVICES takes them.
read -r -a gpus < <(echo "${CUDA_VISIBLE_DEVICES:-$(nvidia-smi --query-gpu=index --format=csv,noheader | xargs)}" | tr , ' ')
n_gpus=${#gpus[@]}

py=(env "LD_LIBRARY_PATH=$libraries" python3) # its libraries are not ours

has_python() { "${py[@]}" -c "import $1" 2>/dev/null; }

last='grep -v "^ *$"'
tests='grep -E "PASSED|FAILED" | tr -d "[]" | tr -s " "'

# ---- the parts ----

# Waits until less than N parts run.
room() { while [ "$(jobs -rp | wc -l)" -ge "$1" ]; do wait -n; done; }

# Next to each other: their time is that of operands and references on the CPU.
parity() {
    local t i=0 at_once=$(($(nproc) / 2 + 1))
    for t in "$bin"/gpu_test_*; do
        case $t in *_engine|*_ranks|*_greedy) continue ;; esac
        room "$at_once"
        CUDA_VISIBLE_DEVICES=${gpus[i % n_gpus]} part "parity $(basename "$t")" "$tests" "$t" &
        i=$((i + 1))
    done
    for t in probe_small probe_decode probe_matmul probe_act8 probe_scheme_wide check_prefill bench_all_reduce; do
        room "$at_once"
        [ ! -x "$bin/$t" ] || part "parity $t" "$last" "$bin/$t" check &
    done
    wait
}

find_sanitizer() {
    command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer \
        /usr/local/cuda*/compute-sanitizer/compute-sanitizer 2>/dev/null | head -1
}

# Under a sanitizer a launch takes up to a thousand times as long: an argument asks for a small part.
# racecheck (2025.3) of whole engines ends without a word within a minute; their kernels are the others'.
sanitizer_jobs() { # the longest first
    local tool t
    for tool in racecheck initcheck memcheck synccheck; do
        for t in "scheme waves int4" "scheme waves nf4" "matmul waves" "scheme waves fp8"; do echo "$tool gpu_test_$t"; done
    done
    for t in int4 int8 nf4 fp q; do # each takes two minutes
        for tool in racecheck initcheck memcheck synccheck; do echo "$tool gpu_test_scheme small $t"; done
    done
    for t in matmul wide qkv gguf act8 engine attention kv8 f32 sample small_ops head; do
        [ -x "$bin/gpu_test_$t" ] || continue
        for tool in racecheck initcheck memcheck synccheck; do
            case $tool,$t in racecheck,engine|racecheck,gguf) continue ;; esac
            case $t in
            act8|attention|engine|f32|gguf|head|kv8|matmul|qkv|sample|wide) echo "$tool gpu_test_$t small" ;;
            *) echo "$tool gpu_test_$t" ;;
            esac
        done
    done
}

# Whole engines without recorded graphs, whose launches synccheck cannot follow: the module of
# op_times.sh stands in front.
without_graphs() {
    local to=$out/without-graphs
    mkdir -p "$to"
    cp "$bin"/gpu_test_{engine,gguf} "$to"
    cp "$bin/libinferd_cuda.so" "$to/libinferd_cuda_real.so"
    cp "$bin/libinferd_cuda_ops.so" "$to/libinferd_cuda.so"
    echo "$to"
}

# Four at a time on each GPU: most of the time is the host's.
sanitizer() {
    local cs at plain i=0
    local -a job flags
    cs=$(find_sanitizer)
    if [ -z "$cs" ]; then row skipped sanitizer - "no compute-sanitizer here"; return; fi
    plain=$(without_graphs)
    while read -r -a job; do
        at=$bin flags=()
        case ${job[0]} in synccheck) flags=(--force-synchronization-limit 1) ;; esac # of many launches it loses some
        case ${job[0]},${job[1]} in synccheck,gpu_test_engine|synccheck,gpu_test_gguf) at=$plain ;; esac
        room $((4 * n_gpus))
        CUDA_VISIBLE_DEVICES=${gpus[i % n_gpus]} part "${job[*]}" 'grep -E "ERROR SUMMARY|RACECHECK SUMMARY"' \
            "$cs" --tool "${job[0]}" "${flags[@]}" --error-exitcode 9 --print-limit 20 "$at/${job[1]}" "${job[@]:2}" &
        i=$((i + 1))
    done < <(sanitizer_jobs)
    wait
}

model() { # model NAME [SHARD-BYTES]: a folder of random weights, made once
    local at=$models/$1${2:+-sharded}
    [ -d "$at" ] || "${py[@]}" tests/gpu/make_random_hf.py "$1" "$at" ${2:+--shard-bytes "$2"} >"$out/model.log" 2>&1
    echo "$at"
}

# The model whose prompts are in tests/golden/logprobs: 98 MB, which are not packed.
test_model() {
    local at name=SmolLM2-135M-Instruct.Q4_1.gguf
    for at in "${INFERD_TEST_MODEL:-}" "$dir/models/$name" "$here/models/$name" "$here/../../models/$name"; do
        [ ! -f "$at" ] || { realpath "$at"; return; }
    done
}

engine() {
    local t
    for t in gpu_test_engine gpu_test_ranks; do
        [ ! -x "$bin/$t" ] || part "engine $t" "$tests" "$bin/$t"
    done
    t=$(test_model)
    if [ -n "$t" ]; then
        part "engine greedy" 'grep "texts of"' "$bin/gpu_test_greedy" "$t"
        part "engine greedy f32" 'grep "texts of"' "$bin/gpu_test_greedy" "$t" cuda f32
    else
        row skipped "engine greedy" - "INFERD_TEST_MODEL names no SmolLM2-135M-Instruct.Q4_1.gguf, and models/ has none"
    fi
    if ! has_python torch,safetensors; then
        row skipped "engine faults" - "python3 has no torch and safetensors here"
        return
    fi
    part "engine faults" 'grep passed' "${py[@]}" tests/gpu/fault.py "$bin" "$(model llama-3.2-1b)"
    [ "$n_gpus" -gt 1 ] || return
    part "engine launchers" 'grep "ways passed"' "${py[@]}" tests/gpu/launchers.py "$bin" "$(model small)"
    part "engine lost ranks" 'grep passed' "${py[@]}" tests/gpu/ranks.py "$bin" "$(model small)" \
        --groups $((n_gpus / 2)) --seconds $((part_s - 30))
}

logits() {
    local name
    if ! has_python torch,safetensors,transformers; then
        row skipped logits - "python3 has no torch, safetensors and transformers here"
        return
    fi
    for name in tiny small qwen2-small gemma3-small llama-3.2-1b llama-3.1-8b; do
        part "logits $name" 'grep "bf16:"' "${py[@]}" tests/gpu/hf_logits.py "$bin" "$(model "$name")"
        part "logits $name f32" 'grep "f32:"' "${py[@]}" tests/gpu/hf_logits.py "$bin" "$(model "$name")" --dtypes f32
    done
    part "logits tiny, sharded" 'grep "bf16:"' "${py[@]}" tests/gpu/hf_logits.py "$bin" "$(model tiny 60000)"
}

memory() {
    local shape
    for shape in mistral-7b llama-3.1-8b; do
        part "memory $shape" 'grep "quantize int4, head none" | cut -d, -f3-' \
            "${py[@]}" tests/gpu/memory.py "$bin" "tests/bench/shapes/$shape"
    done
}

bench() {
    local shape rows=(--device cuda --repeats 3 --prefill "512,2048,8192"
        --decode "1x128,1x1024,1x8192,8x1024,64x1024,256x1024")
    part "bench kernels" 'head -1' "$bin/inferd" bench kernels --device cuda
    for shape in llama-3.1-8b llama-3.2-1b; do
        part "bench engine $shape" 'grep -E "^decode +1 +128 "' \
            "$bin/inferd" bench engine --random "tests/bench/shapes/$shape" "${rows[@]}"
    done
    [ "$n_gpus" -lt 2 ] ||
        part "bench engine llama-3.1-8b 2 GPUs" 'grep -E "^decode +1 +128 "' "$bin/inferd" bench engine \
            --random tests/bench/shapes/llama-3.1-8b "${rows[@]}" --tensor-parallel 2
    part "bench kv slope" 'grep "^int8:"' "${py[@]}" tests/gpu/kv_slope.py "$bin" tests/bench/shapes/llama-3.1-8b
    part "bench idle" 'grep "^idle: width    1 "' tests/gpu/idle.sh "$bin" tests/bench/shapes/llama-3.2-1b
    [ ! -x "$bin/bench_all_reduce" ] || part "bench all_reduce" 'grep -E "^ +32768 "' "$bin/bench_all_reduce" bench
    [ ! -x "$bin/probe_scheme_wide" ] || part "bench scheme wide" "$last" "$bin/probe_scheme_wide"
    [ ! -x "$bin/probe_act8" ] || part "bench act8" "$last" "$bin/probe_act8" bench
    [ ! -x "$bin/probe_decode" ] || part "bench decode" "$last" "$bin/probe_decode" bench
    [ ! -x "$bin/bench_scheme" ] || part "bench scheme" "$last" "$bin/bench_scheme"
    [ ! -x "$bin/bench_blocks" ] || part "bench blocks" "$last" "$bin/bench_blocks"
    [ ! -x "$bin/bench_prefill" ] || part "bench prefill" "$last" "$bin/bench_prefill" bench
}

peers() {
    local mode config=tests/bench/shapes/llama-3.1-8b/config.json
    if ! "${py[@]}" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
        row skipped peers - "no torch with CUDA here"
        return
    fi
    part "peer matmul" 'head -1' "${py[@]}" tests/bench/peer_matmul.py
    part "peer sdpa" 'head -1' "${py[@]}" tests/bench/peer_sdpa.py
    if ! has_python transformers; then row skipped "peer transformers" - "not there"; return; fi
    for mode in eager compiled; do
        part "peer transformers 8b $mode" 'grep ^transformers' \
            "${py[@]}" tests/bench/peer_transformers.py "$config" --only "$mode"
    done
    if ! has_python bitsandbytes; then row skipped "peer bitsandbytes" - "not there"; return; fi
    for mode in int8 nf4; do
        part "peer bitsandbytes 8b $mode" 'grep ^bitsandbytes' \
            "${py[@]}" tests/bench/peer_bitsandbytes.py "$config" --only "$mode"
    done
}

for name in $all; do
    if wanted "$name"; then "$name"; fi
done
[ -s "$table" ] || { echo "--only: none of $all" >&2; exit 2; }
finish
