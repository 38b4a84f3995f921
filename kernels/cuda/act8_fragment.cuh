/* act8_fragment.cuh - high bytes of x on their way from columns in shared memory to registers, as
 * wgmma wants a[64, 32] of bytes: with t = lane % 4 a thread holds k 4t .. 4t + 3 of its lower and
 * its higher row, and those 16 behind. */
#ifndef KERNELS_CUDA_ACT8_FRAGMENT_CUH
#define KERNELS_CUDA_ACT8_FRAGMENT_CUH

#include "kernels/cuda/act8_high.cuh"

namespace
{

enum { STEPS = TILE_K / 32 }; /* wgmmas of a stage */

/* The lower of a thread's two rows in a tile; the higher is 8 behind. */
__device__ __forceinline__ int thread_row()
{
    return threadIdx.x / 128 * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
}

/* All of it: column k at from + k * PITCH, zeros from the n-th on. */
template <int PITCH>
__device__ __forceinline__ void fragment_take(uint32_t (&to)[4], const uint8_t *from, int n)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint32_t low = 0, high = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int k = 16 * half + threadIdx.x % 4 * 4 + i;
            const uint8_t *at = from + k * PITCH + thread_row();
            const uint32_t l = at[0], h = at[8];
            low |= k < n ? l << 8 * i : 0;
            high |= k < n ? h << 8 * i : 0;
        }
        to[2 * half] = low;
        to[2 * half + 1] = high;
    }
}

__device__ __forceinline__ void fragments_pin(uint32_t (&f)[STEPS][4])
{
#pragma unroll
    for (int s = 0; s < STEPS; s++)
        registers_pin(f[s]);
}

} // namespace

#endif
