/* quantize_nested.c - the scales of a matrix as 8-bit codes.
 *
 * The mean is a float that depends on the order of its sum; the order here is that of a vector of
 * eight with four accumulators each, in levels, as the CPU build of PyTorch adds in one thread. */
#include "kernels/quantize.h"

#include <math.h>
#include <string.h>

enum { CHAINS = 32, LANES = 8, LEVELS = 4, STEP_MIN = 4 };

/* ---- the mean ---- */

/* Sums of 32 interleaved chains of n values each: a level takes what the one below has summed
 * every 2^step values, so that no sum grows long. */
static void sum_chains(const float *x, int64_t n, float sum[CHAINS])
{
    float level[LEVELS][CHAINS] = {{0}};
    int step = 0;
    while ((int64_t)1 << step < n)
        step++;
    step = step / LEVELS > STEP_MIN ? step / LEVELS : STEP_MIN;
    for (int64_t i = 0; i < n; i++) {
        for (int c = 0; c < CHAINS; c++)
            level[0][c] += x[i * CHAINS + c];
        for (int l = 1; l < LEVELS && (i + 1) % ((int64_t)1 << (step * l)) == 0; l++)
            for (int c = 0; c < CHAINS; c++) {
                level[l][c] += level[l - 1][c];
                level[l - 1][c] = 0;
            }
    }
    for (int l = 1; l < LEVELS; l++)
        for (int c = 0; c < CHAINS; c++)
            level[0][c] += level[l][c];
    memcpy(sum, level[0], sizeof level[0]);
}

static float mean(const float *x, int64_t n)
{
    float sum[CHAINS], total = 0;
    const int64_t n_vectors = n / LANES, n_chained = n_vectors / (CHAINS / LANES);
    sum_chains(x, n_chained, sum);
    for (int64_t i = n_chained * CHAINS; i < n_vectors * LANES; i++)
        sum[i % LANES] += x[i];
    for (int c = LANES; c < CHAINS; c++)
        sum[c % LANES] += sum[c];
    for (int64_t i = n_vectors * LANES; i < n; i++)
        total += x[i];
    for (int c = 0; c < LANES; c++)
        total += sum[c];
    return total / (float)n;
}

/* ---- the map ---- */

/* Point i of n that divide [0.1, 1] evenly; from the nearer end, as one multiply-add. */
static float point(int i, int n)
{
    const float start = 0.1F, end = 1, step = (end - start) / (float)(n - 1);
    return i < n / 2 ? (float)((double)start + (double)step * i)
                     : (float)((double)end - (double)step * (n - 1 - i));
}

/* Seven decades, each cut into twice as many parts as the one below it: 127 values and their
 * negatives, 0 and 1. */
static void make_map(float map[NESTED_CODES])
{
    static const float decade[7] = {1e-6F, 1e-5F, 1e-4F, 1e-3F, 1e-2F, 1e-1F, 1};
    int at = NESTED_CODES / 2;
    map[at - 1] = 0;
    for (int d = 0; d < 7; d++) {
        const int n = 1 << d;
        for (int i = 0; i < n; i++, at++) {
            map[at] = decade[d] * ((point(i, n + 1) + point(i + 1, n + 1)) / 2);
            map[NESTED_CODES - 2 - at] = -map[at];
        }
    }
    map[NESTED_CODES - 1] = 1;
}

/* bitsandbytes looks a value up in a table of 65536 places: the value is first rounded to one. */
static uint8_t code_of(const struct nested *x, float v)
{
    const uint16_t place = (uint16_t)fmaf((v + 1) * 0.5F, 65535, 0.5F);
    const float at = -1.0F + 2.0F * (float)place / 65535;
    int low = 0, high = NESTED_CODES - 1; /* the first whose middle to the next is not below `at` */
    while (low < high) {
        const int middle = (low + high) / 2;
        if (0.5F * (x->map[middle] + x->map[middle + 1]) < at)
            low = middle + 1;
        else
            high = middle;
    }
    return (uint8_t)low;
}

/* ---- scales ---- */

void nested_make(struct nested *x, const float *scales, int64_t n)
{
    make_map(x->map);
    x->offset = mean(scales, n);
    for (int64_t b = 0; b < nested_blocks(n); b++) {
        const int64_t end = (b + 1) * NESTED_BLOCK < n ? (b + 1) * NESTED_BLOCK : n;
        float largest = 0;
        for (int64_t i = b * NESTED_BLOCK; i < end; i++) {
            const float v = fabsf(scales[i] - x->offset);
            largest = v > largest ? v : largest;
        }
        x->absmax[b] = largest;
    }
}

void nested_round(const struct nested *x, int64_t first, int64_t n, float *scales, uint8_t *codes)
{
    for (int64_t i = 0; i < n; i++) {
        const float absmax = x->absmax[(first + i) / NESTED_BLOCK];
        float v = absmax > 0 ? (scales[i] - x->offset) * (1.0F / absmax) : 0;
        v = v < -1 ? -1 : v > 1 ? 1 : v;
        const uint8_t code = absmax > 0 ? code_of(x, v) : 0;
        scales[i] = x->map[code] * absmax + x->offset;
        if (codes)
            codes[i] = code;
    }
}
