/* random.h - a small generator: which of what may happen next does. */
#ifndef TESTS_CUDASIM_RANDOM_H
#define TESTS_CUDASIM_RANDOM_H

#include <stdint.h>

namespace sim
{

struct random_source {
    uint64_t x;

    explicit random_source(uint64_t seed = 1) : x(seed * 0x9e3779b97f4a7c15u + 0x632be59bd9b4e019u)
    {
    }
    uint32_t next()
    {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        return static_cast<uint32_t>(x >> 32);
    }
    uint32_t below(uint32_t n)
    {
        return static_cast<uint32_t>((uint64_t)next() * n >> 32);
    }
};

} // namespace sim

#endif
