#!/bin/sh
# headers.sh - every header compiles alone, has its guard and opens with its one sentence.
set -eu
cd "${1:-.}"
bad=0
flags=$(pkg-config --cflags libuv libmicrohttpd libcjson 2>/dev/null || true)
for h in $(find base kernels engine scheduler server -name '*.h'); do
    case $h in # the body of a kernel, compiled once for each instruction set by files that say so
    kernels/cpu/*_rows.h | kernels/cpu/*_tile.h | kernels/cpu/*_lanes16.h | kernels/cpu/*_body.h)
        continue ;;
    esac
    # Headers of CUDA C++ are compiled with the module, where there is nvcc.
    case $h in kernels/cuda/*) grep -qE 'cuda_int|cuda_runtime|cuda/(stage|matmul_int)' "$h" && continue ;; esac
    # shellcheck disable=SC2086
    echo "#include \"$h\"" | ${CC:-cc} -std=c17 -D_GNU_SOURCE -Wall -Wextra -mavx2 -mfma -mf16c \
        -I. $flags -fsyntax-only -x c - || { echo "headers: $h does not compile alone" >&2; bad=1; }
    guard=$(echo "$h" | tr 'a-z/.-' 'A-Z___')
    case $h in kernels/cpu/*) guard=KERNELS_CPU_$(basename "$h" | tr 'a-z.-' 'A-Z__') ;; esac
    grep -q "^#ifndef $guard\$" "$h" || { echo "headers: $h: want guard $guard" >&2; bad=1; }
    head -1 "$h" | grep -q "^/\* $(basename "$h") - " ||
        { echo "headers: $h: want first line '/* $(basename "$h") - ...'" >&2; bad=1; }
done
exit $bad
