/* units_bench.cuh - random weights of a scheme as units, made on the device: integers as normal
 * weights have them, scales that keep sums finite, as what is multiplied decides how fast the
 * clocks are.  For activations in bf16. */
#ifndef TESTS_GPU_UNITS_BENCH_CUH
#define TESTS_GPU_UNITS_BENCH_CUH

#include "kernels/cuda/scheme_layout.h"
#include "tests/gpu/matmul_bench.cuh"

/* 32 bits of codes of normal weights whose largest of a row (8 bits) or group of 128 (4) has the
 * largest code: 3.9 and 2.8 standard deviations.  NF4's codes are about evenly many anyway. */
__device__ inline uint32_t normal_codes(uint64_t seed, int bits)
{
    const float deviation = bits == 8 ? 127 / 3.9f : 7 / 2.8f;
    const int middle = 1 << (bits - 1);
    uint32_t v = 0;
    for (int at = 0; at < 32; at += bits) {
        const float u = (mix(seed * 8 + at / bits) + 1.0f) * 2.3283064e-10f;
        const int code = (int)rintf(deviation * normcdfinvf(fminf(u, 0.9999999f)));
        v |= (uint32_t)(middle + min(max(code, 1 - middle), middle - 1)) << at;
    }
    return v;
}

/* grid-stride over words of all units, which are 4-byte aligned in all their parts */
static __global__ void units_kernel(uint32_t *to, size_t n, struct scheme_layout l, uint64_t seed)
{
    const size_t per_unit = l.unit_bytes / 4;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        const size_t at = i % per_unit * 4;
        const uint32_t in_tile = (uint32_t)(at % l.tile_bytes);
        uint32_t v = mix(seed * 0x9e3779b97f4a7c15ull + i);
        if (at >= l.row_scales_at)
            v = l.bits == 8                ? 0x3a23d70a
                : l.kind == KIND_CODEBOOK ? 0x3f800000
                                          : 0x3c23d70a; /* 0.0006 or 0.01: gates of a few units */
        else if (in_tile >= l.operands_at)
            v = l.kind == KIND_CODEBOOK ? 0x3c233c23
                : l.operand_bytes == 1    ? 0x08070908
                                          : 0xc000c000; /* 0.01; 7 to 9; 128 */
        else if (in_tile >= l.scales_at)
            v = l.scale == SCALE_F16    ? 0x211f211f
                : l.scale == SCALE_BF16 ? 0x3c233c23
                                        : 0x4c8f4c8f; /* 0.01 */
        else if (l.kind == KIND_FP8)
            v &= 0xb7b7b7b7;
        else if (l.kind != KIND_CODEBOOK)
            v = normal_codes(seed * 0x9e3779b97f4a7c15ull + i, l.bits);
        to[i] = v;
    }
}

/* `copies` times the rows of a weight of `cols` columns. */
static uint8_t *random_units(const struct scheme *s, int rows, int cols, int copies)
{
    static uint64_t seed = 1;
    struct scheme_layout l;
    const size_t bytes = scheme_units_bytes(s, rows, cols) * (size_t)copies;
    uint8_t *at = take<uint8_t>(bytes);
    scheme_layout(&l, s, cols);
    units_kernel<<<1024, 256>>>((uint32_t *)at, bytes / 4, l, seed++);
    OK(cudaDeviceSynchronize());
    return at;
}

#endif
