/* act_rows.h - activation functions over a run of values. */
#include "kernels/cpu/rows.h"
#include "kernels/cpu/vec.h"

static inline vf act_silu(vf x)
{
    vf e = vf_exp(vf_sub(vf_set(0.0f), x));
    return vf_div(x, vf_add(vf_set(1.0f), e));
}

/* x/2 (1 + tanh u) = x / (1 + exp(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3). */
static inline vf act_gelu_tanh(vf x)
{
    vf x2 = vf_mul(x, x);
    vf u = vf_mul(x, vf_fma(x2, vf_set(0.044715f), vf_set(1.0f)));
    vf e = vf_exp(vf_mul(u, vf_set(-1.5957691f)));
    return vf_div(x, vf_add(vf_set(1.0f), e));
}

/* erfc(|x| / sqrt 2).  With z = |x| / sqrt 2 and t = 1 / (1 + z / 2), erfc(z) exp(z^2) = t Q(t),
 * where Q was fitted over z <= 14 to a relative error of 4.4e-8.  z^2 = x^2 / 2 is rounded; the
 * part lost is put back, because exp() multiplies it by its own size. */
static inline vf erfc_scaled(vf x)
{
    static const float q[] = {0.28208435f, 0.28241211f,  0.24283511f, 0.20375256f,  -0.029148636f,
                              0.28173345f, -0.49040654f, 0.28612405f, -0.059386484f};
    x = vf_max(x, vf_sub(vf_set(0.0f), x));
    x = vf_where_less(vf_set(20.0f), x, vf_set(20.0f), x); /* erfc is 0 long before */
    vf t = vf_div(vf_set(1.0f), vf_fma(x, vf_set(0.35355339f), vf_set(1.0f)));
    vf sum = vf_set(q[8]);
    for (int i = 7; i >= 0; i--)
        sum = vf_fma(sum, t, vf_set(q[i]));
    vf square = vf_mul(x, x);
    vf lost = vf_fma_exact(x, x, vf_sub(vf_set(0.0f), square));
    vf e = vf_exp(vf_mul(square, vf_set(-0.5f)));
    e = vf_fma(vf_mul(e, lost), vf_set(-0.5f), e);
    return vf_mul(vf_mul(sum, t), e);
}

static inline vf act_gelu(vf x) /* x Phi(x), Phi(-z) = erfc(z / sqrt 2) / 2 */
{
    vf tail = vf_mul(erfc_scaled(x), vf_set(0.5f));
    vf phi = vf_where_less(x, vf_set(0.0f), tail, vf_sub(vf_set(1.0f), tail));
    return vf_mul(x, phi);
}

static inline vf act_relu(vf x)
{
    return vf_where_less(x, vf_set(0.0f), vf_set(0.0f), x); /* NaN stays */
}

static inline vf act_one(vf x, enum act_kind kind)
{
    switch (kind) {
    case ACT_SILU:
        return act_silu(x);
    case ACT_GELU:
        return act_gelu(x);
    case ACT_GELU_TANH:
        return act_gelu_tanh(x);
    case ACT_RELU:
    case ACT_NONE:
        break;
    }
    return act_relu(x);
}

static void act(float *y, const float *gate, const float *up, int n, enum act_kind kind)
{
    for (int i = 0; i < n; i += VEC_N) {
        int k = smaller(n - i, VEC_N);
        vf v = act_one(vf_load_n(gate + i, k), kind);
        if (up)
            v = vf_mul(v, vf_load_n(up + i, k));
        vf_store_n(y + i, v, k);
    }
}
