#!/usr/bin/env bash
# pack.sh - builds what a GPU machine needs, and packs it into one folder for tests/gpu/run.sh.
#
#   tests/gpu/pack.sh FOLDER       then, there: FOLDER/run.sh
#
# The machine needs a driver and the C and C++ libraries, no compiler and no network.  Wants nvcc here;
# probes that need a library of the toolkit which is missing here are left out, and all but those that
# INFERD_PROBES names where it is set: each with the products takes minutes to compile.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:?usage: tests/gpu/pack.sh FOLDER}
build=build/release
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
arch=${INFERD_CUDA_ARCHS:-90a}
limit_mib=400 # before it is compressed: several probes have all products in them
probes=()

make_all() {
    cmake --preset release -DINFERD_CUDA=ON >/dev/null
    cmake --build --preset release -j "${JOBS:-$(nproc)}" --target inferd inferd_cuda gpu_tests
}

# Objects are shared by the probes that are compiled with the same options: most have all products in them.
object() { # object FOLDER SOURCE OPTIONS...: made when a source is newer than it
    local to=$1/${2//\//_}.o from=$2; shift 2
    [ -e "$to" ] && [ -z "$(find kernels tests/gpu base -newer "$to" \( -name '*.cu*' -o -name '*.h' -o -name '*.c' \) | head -1)" ] && return
    rm -f "$to" # a compiler that fails leaves it, and the probe would be that of before
    # shellcheck disable=SC2086
    ${CMAKE_CUDA_COMPILER_LAUNCHER:-} "$nvcc" -std=c++17 -O3 "-gencode=arch=compute_$arch,code=sm_$arch" -I. "$@" -c "$from" -o "$to"
}

probe() { # probe NAME SOURCES [OPTIONS]
    local name=$1 target=$build/gpu/$1 a at objects=() sources=() options=(); shift
    case " ${INFERD_PROBES-$name} " in *" $name "*) ;; *) return ;; esac
    probes+=("$target")
    echo "probe $name"
    for a; do case $a in *.cu|*.c) sources+=("$a") ;; *) options+=("$a") ;; esac; done
    at=$build/gpu/objects-$(printf %s "$arch ${options[*]-}" | cksum | cut -d' ' -f1)
    mkdir -p "$at"
    for a in "${sources[@]}"; do
        while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-$(nproc)}" ]; do wait -n || true; done
        object "$at" "$a" ${options[@]+"${options[@]}"} &
        objects+=("$at/${a//\//_}.o")
    done
    wait
    "$nvcc" "-gencode=arch=compute_$arch,code=sm_$arch" "${objects[@]}" ${options[@]+"${options[@]}"} -o "$target" ||
        { echo "probe $name: not built, left out" >&2; rm -f "$target"; }
}

make_probes() {
    local products=(kernels/cuda/{matmul*,act8_quantize,tensor_map,norm}.cu kernels/cuda/*choose*.c
        kernels/cuda/{weight,scheme,block}_layout*.c kernels/{scheme,tensor}.c base/status.c)
    local prefill="tests/gpu/probe_prefill.cu kernels/cuda/attention_prefill.cu kernels/cuda/attention_prefill_sm90.cu"
    probe probe_small tests/gpu/probe_small.cu kernels/cuda/{embed,embed_act8,embed_block,embed_scheme,rope_kv,slots,sample}.cu \
        "${products[@]}"
    probe probe_matmul tests/gpu/probe_matmul.cu "${products[@]}"
    probe bench_scheme tests/gpu/bench_scheme.cu "${products[@]}" -Xlinker --wrap=scheme_choose -lcublasLt
    probe bench_blocks tests/gpu/bench_blocks.cu "${products[@]}" -lcublasLt
    probe probe_scheme_wide tests/gpu/probe_scheme_wide.cu kernels/cuda/{matmul_scheme_sm90{,_bf16,_f16},tensor_map}.cu \
        kernels/cuda/{scheme_layout,scheme_wide_choose}.c kernels/{scheme,tensor}.c base/status.c -lcublasLt
    probe probe_decode tests/gpu/probe_decode.cu
    probe probe_act8 tests/gpu/probe_act8.cu "${products[@]}"
    probe bench_all_reduce tests/gpu/bench_all_reduce.cu kernels/cuda/{peers,nccl}.cu kernels/cuda/rank_device.c kernels/comm*.c \
        base/{status,clock,hash,event}.c -D_GNU_SOURCE -DINFERD_VERSION='"pack"' -ldl
    # shellcheck disable=SC2086
    probe check_prefill $prefill -DMBARRIER_SPINS_MAX=1000000
    # shellcheck disable=SC2086
    probe bench_prefill $prefill
}

is_everywhere() { # a library that each machine has
    case $1 in
    libcublasLt.so*|libc.so*|libm.so*|libstdc++.so*|libgcc_s.so*|libpthread.so*|libdl.so*|librt.so*|ld-linux*|linux-vdso*) ;;
    *) return 1 ;;
    esac
}

copy_libraries() { # of one program
    ldd "$1" | awk '$2 == "=>" && $3 ~ /^\// {print $1, $3}' | while read -r name path; do
        is_everywhere "$name" || cp -Lu "$path" "$out/lib/$name"
    done
}

make_all
make_probes
rm -rf "${out:?}/bin" "${out:?}/lib" "${out:?}/tests"
mkdir -p "$out/bin" "$out/lib" "$out/tests/gpu"
cp "$build/inferd" "$build/libinferd_cuda.so" "$out/bin"
cp "$build"/libinferd_cuda_{fault,fill,idle,ops}.so "$out/bin"
find "$build" -maxdepth 1 -name 'gpu_test_*' -type f -perm -u+x -exec cp {} "$out/bin" \;
for f in "${probes[@]}"; do [ ! -x "$f" ] || cp "$f" "$out/bin"; done
for f in "$out"/bin/*; do
    copy_libraries "$f"
    strip "$f"
done
for f in "$out"/lib/*; do strip --strip-unneeded "$f" 2>/dev/null || true; done
mkdir -p "$out/tests/bench" "$out/tests/golden"
cp -r tests/golden/logprobs "$out/tests/golden"
cp -r tests/bench/shapes tests/bench/peer_*.py "$out/tests/bench"
cp -r tests/gpu/shapes tests/gpu/*.py tests/gpu/{idle,op_times,saturate}.sh "$out/tests/gpu"
cp tests/gpu/run.sh "$out/run.sh"
git rev-parse HEAD >"$out/commit"

size=$(du -sm "$out" | cut -f1)
echo "$out: $size MiB, $(find "$out" -type f | wc -l) files"
[ "$size" -lt "$limit_mib" ] || { echo "pack: want less than $limit_mib MiB" >&2; exit 1; }
