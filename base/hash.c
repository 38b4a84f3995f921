/* hash.c - SipHash-2-4-128 and a fast unkeyed mix. */
#include "base/hash.h"

#include <string.h>
#include <sys/random.h>

bool hash_key_random(struct hash_key *key)
{
    return getrandom(key, sizeof *key, 0) == (ssize_t)sizeof *key;
}

static uint64_t rotl(uint64_t x, int b)
{
    return x << b | x >> (64 - b);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1], v[1] = rotl(v[1], 13) ^ v[0], v[0] = rotl(v[0], 32);
    v[2] += v[3], v[3] = rotl(v[3], 16) ^ v[2];
    v[0] += v[3], v[3] = rotl(v[3], 21) ^ v[0];
    v[2] += v[1], v[1] = rotl(v[1], 17) ^ v[2], v[2] = rotl(v[2], 32);
}

static void sip_word(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    sip_round(v);
    sip_round(v);
    v[0] ^= word;
}

static uint64_t sip_finish(uint64_t v[4])
{
    for (int i = 0; i < 4; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static uint64_t read_u64(const unsigned char *at, size_t n) /* little endian, n <= 8 bytes */
{
    uint64_t word = 0;
    memcpy(&word, at, n);
    return word;
}

struct hash128 siphash128(const struct hash_key *key, const void *bytes, size_t n)
{
    uint64_t v[4] = {0x736f6d6570736575u ^ key->k0, 0x646f72616e646f6du ^ key->k1 ^ 0xee,
                     0x6c7967656e657261u ^ key->k0, 0x7465646279746573u ^ key->k1};
    const unsigned char *at = bytes;
    size_t left = n;
    for (; left >= 8; left -= 8, at += 8)
        sip_word(v, read_u64(at, 8));
    sip_word(v, (uint64_t)n << 56 | (left ? read_u64(at, left) : 0));

    struct hash128 h;
    v[2] ^= 0xee;
    h.lo = sip_finish(v);
    v[1] ^= 0xdd;
    h.hi = sip_finish(v);
    return h;
}

uint64_t hash64_mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

uint64_t hash64(const void *bytes, size_t n, uint64_t seed)
{
    const unsigned char *at = bytes;
    uint64_t h = hash64_mix(seed + 0x9e3779b97f4a7c15u) ^ n;
    for (; n >= 8; n -= 8, at += 8)
        h = hash64_mix(h ^ read_u64(at, 8));
    return hash64_mix(h ^ (n ? read_u64(at, n) : 0));
}
