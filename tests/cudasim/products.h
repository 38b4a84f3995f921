/* products.h - what tensor cores compute, on plain arrays.
 *
 * Products are exact, and so is their sum before it is added to the accumulator and rounded once to
 * f32: the same for mma and for wgmma, as kernels count on.  The hardware drops low bits of the
 * terms instead; tests leave room for that. */
#ifndef TESTS_CUDASIM_PRODUCTS_H
#define TESTS_CUDASIM_PRODUCTS_H

#include <stdint.h>

namespace sim
{

enum { ROWS = 16, COLUMNS_MAX = 256, DEPTH_MAX = 32 };
enum { PITCH = COLUMNS_MAX + 16 }; /* rows a power of two apart would share lines of the cache */

/* Too much for a fiber's stack: each thread of the host has one of each type. */
template <class T, class WIDE> struct tile {
    T a[ROWS][DEPTH_MAX];
    T b[DEPTH_MAX][PITCH];
    T d[ROWS][PITCH];
    WIDE wide[DEPTH_MAX][PITCH]; /* multiply's */
};

using float_tile = tile<float, double>;
using byte_tile = tile<int32_t, uint32_t>; /* unsigned, since sums may wrap */

/* d[16, n] += a[16, k] b[k, n] */
void multiply(float_tile *, int n, int k);
void multiply(byte_tile *, int n, int k);

/* This thread's. */
template <class TILE> TILE *own_tile();

} // namespace sim

#endif
