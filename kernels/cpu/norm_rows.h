/* norm_rows.h - one row of RMS norm and layer norm.  Sums run in four vectors, in an order that
 * the width alone decides. */
#include "kernels/cpu/rows.h"
#include "kernels/cpu/vec.h"

/* Sum of (x - mean)^2. */
static float sum_squares(const float *x, int width, float mean)
{
    vf sum[4] = {vf_set(0.0f), vf_set(0.0f), vf_set(0.0f), vf_set(0.0f)};
    vf m = vf_set(mean);
    int i = 0;
    for (; i + 4 * VEC_N <= width; i += 4 * VEC_N) {
        for (int j = 0; j < 4; j++) {
            vf d = vf_sub(vf_load(x + i + j * VEC_N), m);
            sum[j] = vf_fma(d, d, sum[j]);
        }
    }
    for (; i < width; i += VEC_N) {
        int n = smaller(width - i, VEC_N);
        vf d = vf_keep_n(vf_sub(vf_load_n(x + i, n), m), n);
        sum[0] = vf_fma(d, d, sum[0]);
    }
    return vf_sum(vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3])));
}

static float sum_values(const float *x, int width)
{
    vf sum[4] = {vf_set(0.0f), vf_set(0.0f), vf_set(0.0f), vf_set(0.0f)};
    int i = 0;
    for (; i + 4 * VEC_N <= width; i += 4 * VEC_N) {
        for (int j = 0; j < 4; j++)
            sum[j] = vf_add(sum[j], vf_load(x + i + j * VEC_N));
    }
    for (; i < width; i += VEC_N)
        sum[0] = vf_add(sum[0], vf_load_n(x + i, smaller(width - i, VEC_N)));
    return vf_sum(vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3])));
}

static void norm_rms(float *y, const float *x, const float *add, const float *w, int width,
                     float eps)
{
    vf scale = vf_set(1.0f / sqrtf(sum_squares(x, width, 0.0f) / (float)width + eps));
    for (int i = 0; i < width; i += VEC_N) {
        int n = smaller(width - i, VEC_N);
        vf v = vf_mul(vf_load_n(x + i, n), scale);
        if (w)
            v = vf_mul(v, vf_load_n(w + i, n));
        if (add)
            v = vf_add(v, vf_load_n(add + i, n));
        vf_store_n(y + i, v, n);
    }
}

static void norm_layer(float *y, const float *x, const float *add, const struct norm *a, int width)
{
    float mean = sum_values(x, width) / (float)width;
    float var = sum_squares(x, width, mean) / (float)width;
    vf m = vf_set(mean), scale = vf_set(1.0f / sqrtf(var + a->eps));
    for (int i = 0; i < width; i += VEC_N) {
        int n = smaller(width - i, VEC_N);
        vf v = vf_mul(vf_sub(vf_load_n(x + i, n), m), scale);
        if (a->w)
            v = vf_mul(v, vf_load_n(a->w + i, n));
        if (a->b)
            v = vf_add(v, vf_load_n(a->b + i, n));
        if (add)
            v = vf_add(v, vf_load_n(add + i, n));
        vf_store_n(y + i, v, n);
    }
}
