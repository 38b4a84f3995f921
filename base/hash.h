/* hash.h - the two hashes inferd needs.
 *
 * siphash128: SipHash-2-4 with 128-bit output (Aumasson, Bernstein 2012), keyed
 * with random bytes from the start of the process: for anything a client can
 * choose (prefix-cache keys, trust domains).
 * hash64: a fast mix without a key, for tables over content that is fixed at start
 * (the vocabulary) and for the fake engine. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hash128 {
    uint64_t lo, hi;
};

struct hash_key {
    uint64_t k0, k1;
};

bool hash_key_random(struct hash_key *key); /* from getrandom(2) */
struct hash128 siphash128(const struct hash_key *key, const void *bytes, size_t n);
uint64_t hash64(const void *bytes, size_t n, uint64_t seed);
uint64_t hash64_mix(uint64_t x); /* splitmix64's finalizer: a bijection */

static inline bool hash128_equal(struct hash128 a, struct hash128 b)
{
    return a.lo == b.lo && a.hi == b.hi;
}

#endif
