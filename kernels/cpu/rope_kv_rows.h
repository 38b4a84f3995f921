/* rope_kv_rows.h - rotates one head, and writes one row to the cache. */
#include "kernels/cpu/rows.h"
#include "kernels/cpu/vec.h"

static void rope_neox(float *x, const struct rope_angles *angles, int half)
{
    for (int i = 0; i < half; i += VEC_N) {
        int n = smaller(half - i, VEC_N);
        vf a = vf_load_n(x + i, n), b = vf_load_n(x + half + i, n);
        vf c = vf_load_n(angles->cos + i, n), s = vf_load_n(angles->sin + i, n);
        vf_store_n(x + i, vf_sub(vf_mul(a, c), vf_mul(b, s)), n);
        vf_store_n(x + half + i, vf_add(vf_mul(b, c), vf_mul(a, s)), n);
    }
}

static void rope_adjacent(float *x, const struct rope_angles *angles, int dims)
{
#if defined(__AVX2__)
    for (int i = 0; i < dims; i += VEC_N) {
        int n = smaller(dims - i, VEC_N);
        vf a = vf_load_n(x + i, n);
        vf c = vf_load_n(angles->cos + i, n), s = vf_load_n(angles->sin + i, n);
        vf_store_n(x + i, vf_add(vf_mul(a, c), vf_mul(vf_swap_pairs(a), s)), n);
    }
#else
    for (int i = 0; i < dims; i += 2) {
        float a = x[i], b = x[i + 1];
        x[i] = a * angles->cos[i] + b * angles->sin[i];
        x[i + 1] = b * angles->cos[i + 1] + a * angles->sin[i + 1];
    }
#endif
}

static void rope(float *x, const struct rope_angles *angles, enum rope_kind kind, int dims)
{
    if (kind == ROPE_NEOX)
        rope_neox(x, angles, dims / 2);
    else
        rope_adjacent(x, angles, dims);
}

static void kv_store(char *dst, const float *src, int n, enum dtype dtype)
{
    if (dtype == DT_F32) {
        memcpy(dst, src, (size_t)n * sizeof *src);
        return;
    }
    uint16_t *out = (uint16_t *)dst;
    int i = 0;
    for (; i + VEC_N <= n; i += VEC_N) {
        if (dtype == DT_F16)
            vf_store_f16(out + i, vf_load(src + i));
        else
            vf_store_bf16(out + i, vf_load(src + i));
    }
    for (; i < n; i++)
        out[i] = dtype == DT_F16 ? f32_to_f16(src[i]) : f32_to_bf16(src[i]);
}
