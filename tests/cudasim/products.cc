/* products.cc - the loops of tensor cores; the one file whose speed matters. */
#include "tests/cudasim/products.h"

#include <memory>

namespace sim
{

namespace
{

/* N: how many columns, where the compiler is to know; else 0. */
template <int N, class T, class WIDE> void multiply_rows(tile<T, WIDE> *t, int any, int k)
{
    const int n = N ? N : any;
    for (int j = 0; j < k; j++)
        for (int c = 0; c < n; c++)
            t->wide[j][c] = static_cast<WIDE>(t->b[j][c]);
    for (int r = 0; r < ROWS; r++) {
        WIDE sum[N ? N : COLUMNS_MAX];
        for (int c = 0; c < n; c++)
            sum[c] = 0;
        for (int j = 0; j < k; j++) {
            const WIDE one = static_cast<WIDE>(t->a[r][j]);
            for (int c = 0; c < n; c++)
                sum[c] += one * t->wide[j][c];
        }
        for (int c = 0; c < n; c++)
            t->d[r][c] = static_cast<T>(static_cast<WIDE>(t->d[r][c]) + sum[c]);
    }
}

} // namespace

void multiply(float_tile *t, int n, int k)
{
    if (n == 8 && k == 16) /* mma.sync */
        multiply_rows<8>(t, 8, 16);
    else
        multiply_rows<0>(t, n, k);
}

void multiply(byte_tile *t, int n, int k)
{
    multiply_rows<0>(t, n, k);
}

template <class TILE> TILE *own_tile()
{
    static thread_local std::unique_ptr<TILE> own;
    if (!own)
        own.reset(new TILE());
    return own.get();
}

template float_tile *own_tile<float_tile>();
template byte_tile *own_tile<byte_tile>();

} // namespace sim
