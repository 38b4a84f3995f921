/* bench_random.h - the random numbers of benchmarks: splitmix64, small and good enough.
 *
 * Thread: the state's owner. */
#ifndef SERVER_BENCH_RANDOM_H
#define SERVER_BENCH_RANDOM_H

#include <stdint.h>

static inline uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static inline double random_unit(uint64_t *state) /* [0, 1) */
{
    return (double)(random_next(state) >> 11) * 0x1p-53;
}

/* A state of its own for number i under a seed. */
static inline uint64_t random_of(uint64_t seed, uint64_t i)
{
    uint64_t state = seed;
    const uint64_t start = random_next(&state);
    state = start ^ i;
    return random_next(&state);
}

#endif
