/* philox.h - random numbers that are a function of (seed, position).
 *
 * Philox4x32-10: Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3",
 * SC 2011.  No state: the same key and counter give the same numbers on every device, which is
 * why the code is here, where each device's compiler sees it. */
#ifndef KERNELS_PHILOX_H
#define KERNELS_PHILOX_H

#include <stdint.h>

#ifdef __CUDACC__
#define PHILOX_INLINE static inline __host__ __device__
#else
#define PHILOX_INLINE static inline
#endif

PHILOX_INLINE void philox4x32(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
    enum { ROUNDS = 10 };
    const uint32_t weyl0 = 0x9E3779B9, weyl1 = 0xBB67AE85; /* golden ratio, sqrt(3) - 1 */
    uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]};
    uint32_t k[2] = {key[0], key[1]};
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t p0 = (uint64_t)0xD2511F53 * c[0], p1 = (uint64_t)0xCD9E8D57 * c[2];
        uint32_t c1 = c[1], c3 = c[3];
        c[0] = (uint32_t)(p1 >> 32) ^ c1 ^ k[0];
        c[1] = (uint32_t)p1;
        c[2] = (uint32_t)(p0 >> 32) ^ c3 ^ k[1];
        c[3] = (uint32_t)p0;
        k[0] += weyl0;
        k[1] += weyl1;
    }
    for (int i = 0; i < 4; i++)
        out[i] = c[i];
}

/* Uniform in [0, 1), in steps of 2^-53. */
PHILOX_INLINE double philox_uniform(uint64_t seed, uint64_t position)
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    const uint32_t counter[4] = {(uint32_t)position, (uint32_t)(position >> 32), 0, 0};
    uint32_t word[4];
    philox4x32(word, counter, key);
    uint64_t bits = ((uint64_t)word[0] << 32 | word[1]) >> 11;
    return (double)bits * 0x1p-53;
}

#endif
