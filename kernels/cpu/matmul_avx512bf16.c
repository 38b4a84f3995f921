/* matmul_avx512bf16.c - the tile multiply for AVX512_BF16: bf16 weights and activations.
 *
 * VDPBF16PS adds two products to each lane, the odd column's first, each sum rounded to float and
 * a subnormal taken as zero.  Even and odd pairs of 256 columns are summed apart, and the parts
 * added in order, whatever the number of rows.  All else is AVX-512 with VNNI. */
#include "kernels/cpu/matmul_int.h"

#ifdef __AVX512BF16__
#include "kernels/cpu/matmul_lanes16.h"

#include "kernels/cpu/decode_tile.h"

enum { PAIRS = 128, ROWS = 6 };

typedef VF sums_of_row[TILES_TOGETHER];

/* Adds n_pairs pairs of columns of n rows; `fetches`: these are the first rows to meet them. */
ALWAYS_INLINE void pair_rows(const struct matmul_tile *t, size_t first, size_t n_pairs, int tiles,
                             int n, int row, bool fetches, sums_of_row *out)
{
    const uint8_t *w = t->w + first * VI_BYTES;
    const char *x[ROWS];
    VF sum[2][ROWS * TILES_TOGETHER];
    UNROLL for (int i = 0; i < n; i++) x[i] =
        (const char *)row_of(t->x, row + i, t->x_stride) + first * 4;
    UNROLL for (int k = 0; k < tiles * n; k++) sum[0][k] = sum[1][k] = vf_set1(0);
    for (size_t p = 0; p < n_pairs; p += 2)
        UNROLL for (size_t odd = 0; odd < 2; odd++)
        {
            if (p + odd == n_pairs)
                break;
            const uint8_t *at = w + (p + odd) * VI_BYTES;
            UNROLL for (int tile = 0; tile < tiles; tile++)
            {
                const uint8_t *from = at + (size_t)tile * t->tile_bytes;
                const VI ws = vi_load(from);
                if (fetches)
                    __builtin_prefetch(from + PREFETCH_BYTES);
                UNROLL for (int i = 0; i < n; i++)
                {
                    VF *to = &sum[odd][i * tiles + tile];
                    const VI xs = vi_bcast4((const void *)(x[i] + (p + odd) * 4));
                    *to = _mm512_dpbf16_ps(*to, (__m512bh)ws, (__m512bh)xs);
                }
            }
        }
    UNROLL for (int k = 0; k < tiles * n; k++)
    {
        VF *to = &out[row + k / tiles][k % tiles];
        *to = vf_add(*to, vf_add(sum[0][k], sum[1][k]));
    }
}

ALWAYS_INLINE void all_pair_rows(const struct matmul_tile *t, size_t first, size_t n_pairs,
                                 int tiles, sums_of_row *acc)
{
    int i = 0;
    for (; i + ROWS <= t->n_rows; i += ROWS)
        pair_rows(t, first, n_pairs, tiles, ROWS, i, i == 0, acc);
    for (; i + 2 <= t->n_rows; i += 2)
        pair_rows(t, first, n_pairs, tiles, 2, i, i == 0, acc);
    if (i < t->n_rows)
        pair_rows(t, first, n_pairs, tiles, 1, i, i == 0, acc);
}

void matmul_tile_avx512bf16(const struct matmul_tile *t)
{
    if (!t->is_bf16) {
        matmul_tile_avx512vnni(t);
        return;
    }
    sums_of_row acc[MATMUL_ROWS_MAX];
    for (int i = 0; i < t->n_rows; i++)
        acc[i][0] = acc[i][1] = vf_set1(0);
    for (size_t first = 0, all = ((size_t)t->cols + 1) / 2; first < all; first += PAIRS) {
        const size_t n = all - first < PAIRS ? all - first : PAIRS;
        if (t->n_tiles == 2)
            all_pair_rows(t, first, n, 2, acc);
        else
            all_pair_rows(t, first, n, 1, acc);
    }
    store_rows(t, acc);
}

void act_round_bf16(const float *x, int cols, uint16_t *out)
{
    for (int i = 0; i < cols; i += LANES) {
        const int n = cols - i < LANES ? cols - i : LANES;
        const VF v = _mm512_maskz_loadu_ps((__mmask16)((1 << n) - 1), x + i);
        _mm256_storeu_si256((void *)(out + i), (__m256i)_mm512_cvtneps_pbh(v));
    }
}
#endif
