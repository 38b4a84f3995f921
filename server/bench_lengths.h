/* bench_lengths.h - how long the prompts and answers of a load are.
 *
 * Fixed, or as people write to assistants (the ShareGPT conversations of serving benchmarks, by
 * their means): log-normal, cut to what such benchmarks keep.
 *
 *     tokens   mean   sigma of the logarithm   from, to
 *     prompt    202                      1.3    4, 1024
 *     answer    179                      0.9    4,  900
 *
 * A pair depends on the seed and the request's number alone: every server gets the same.
 *
 * Thread: any; no state. */
#ifndef SERVER_BENCH_LENGTHS_H
#define SERVER_BENCH_LENGTHS_H

#include <stdint.h>

struct lengths {
    int32_t prompt, answer;
};

struct lengths lengths_sharegpt(uint64_t seed, int32_t request);

#endif
