/* philox.h - random numbers that are a function of (seed, position).
 *
 * Philox4x32-10: Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3",
 * SC 2011.  No state: the same key and counter give the same numbers on every device. */
#ifndef KERNELS_PHILOX_H
#define KERNELS_PHILOX_H

#include <stdint.h>

void philox4x32(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);

/* Uniform in [0, 1), in steps of 2^-53. */
double philox_uniform(uint64_t seed, uint64_t position);

#endif
