/* sample_rows.h - the two passes over a whole vocabulary: maxima and sums, block by block. */
#include "kernels/cpu/rows.h"
#include "kernels/cpu/vec.h"

static bool sample_tops(float *tops, const float *x, int n)
{
    vf nan = vf_set(0.0f);
    bool tail_nan = false;
    for (int first = 0; first < n; first += SAMPLE_BLOCK) {
        int end = smaller(first + SAMPLE_BLOCK, n), i = first;
        vf top = vf_set(-INFINITY);
        for (; i + VEC_N <= end; i += VEC_N) {
            vf v = vf_load(x + i);
            nan = vf_note_nan(nan, v);
            top = vf_max(top, v);
        }
        float best = vf_top(top);
        for (; i < end; i++) {
            tail_nan |= isnan(x[i]);
            best = x[i] > best ? x[i] : best;
        }
        tops[first / SAMPLE_BLOCK] = best;
    }
    return !tail_nan && !vf_any_nan(nan);
}

static void sample_weights(float *y, double *sums, const float *x, int n, float top, float rate)
{
    vf t = vf_set(top), r = vf_set(rate);
    for (int first = 0; first < n; first += SAMPLE_BLOCK) {
        int end = smaller(first + SAMPLE_BLOCK, n);
        vf sum = vf_set(0.0f);
        for (int i = first; i < end; i += VEC_N) {
            int k = smaller(end - i, VEC_N);
            vf w = vf_keep_n(vf_exp(vf_mul(vf_sub(vf_load_n(x + i, k), t), r)), k);
            if (y)
                vf_store_n(y + i, w, k);
            sum = vf_add(sum, w);
        }
        sums[first / SAMPLE_BLOCK] = (double)vf_sum(sum);
    }
}
