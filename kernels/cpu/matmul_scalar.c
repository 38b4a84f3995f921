/* matmul_scalar.c - the tile multiply in plain C: 8 lanes, for any processor.
 *
 * Sums of bytes are 32 bits wide; products and sums of floats round separately. */
#include <string.h>

#include "kernels/cpu/matmul_int.h"
#include "kernels/half.h"

#define LANES          8
#define MATMUL_TILE    matmul_tile_scalar
#define VI             union lanes_i
#define VF             struct lanes_f
#define DOT_SPAN(bits) 8
#define FOR_LANES      for (int r = 0; r < LANES; r++)

union lanes_i {
    uint8_t u8[4 * LANES];
    int8_t s8[4 * LANES];
    uint16_t u16[2 * LANES];
    uint64_t u64[LANES / 2];
    int32_t s32[LANES];
};

struct lanes_f {
    float v[LANES];
};

static inline VI vi_load(const void *p)
{
    VI v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline VI vi_set1(char c)
{
    VI v;
    memset(&v, c, sizeof v);
    return v;
}

static inline VI vi_bcast4(const int8_t *p)
{
    VI v;
    FOR_LANES memcpy(v.s8 + 4 * r, p, 4);
    return v;
}

static inline VI vi_and(VI a, VI b)
{
    for (int i = 0; i < LANES / 2; i++)
        a.u64[i] &= b.u64[i];
    return a;
}

static inline VI vi_or(VI a, VI b)
{
    for (int i = 0; i < LANES / 2; i++)
        a.u64[i] |= b.u64[i];
    return a;
}

static inline VI vi_add32(VI a, VI b)
{
    FOR_LANES a.s32[r] += b.s32[r];
    return a;
}

static inline VI vi_shr16(VI a, int n) /* left if n < 0 */
{
    for (int i = 0; i < 2 * LANES; i++)
        a.u16[i] = (uint16_t)(n >= 0 ? a.u16[i] >> n : a.u16[i] << -n);
    return a;
}

static inline VI dot_u(VI sum, VI w, VI x)
{
    FOR_LANES for (int i = 4 * r; i < 4 * r + 4; i++) sum.s32[r] += w.u8[i] * x.s8[i];
    return sum;
}

static inline VI dot_widen(VI sum)
{
    return sum;
}

static inline VI dot_s_weights(VI w)
{
    return w;
}

static inline VI dot_s_start(int32_t x_sum)
{
    (void)x_sum;
    return vi_set1(0);
}

static inline VI dot_s(VI sum, VI w, VI x)
{
    FOR_LANES for (int i = 4 * r; i < 4 * r + 4; i++) sum.s32[r] += w.s8[i] * x.s8[i];
    return sum;
}

static inline VF vf_load(const void *p)
{
    VF v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void vf_store(float *p, VF v)
{
    memcpy(p, &v, sizeof v);
}

static inline VF vf_set1(float f)
{
    VF v;
    FOR_LANES v.v[r] = f;
    return v;
}

static inline VF vf_add(VF a, VF b)
{
    FOR_LANES a.v[r] += b.v[r];
    return a;
}

static inline VF vf_mul(VF a, VF b)
{
    FOR_LANES a.v[r] *= b.v[r];
    return a;
}

static inline VF vf_fma(VF a, VF b, VF c)
{
    return vf_add(vf_mul(a, b), c);
}

static inline VF vf_from_i32(VI v)
{
    VF f;
    FOR_LANES f.v[r] = (float)v.s32[r];
    return f;
}

static inline VF vf_from_f16(const uint8_t *p)
{
    uint16_t h[LANES];
    VF f;
    memcpy(h, p, sizeof h);
    FOR_LANES f.v[r] = f32_from_f16(h[r]);
    return f;
}

static inline VF vf_from_bf16(const uint8_t *p)
{
    uint16_t h[LANES];
    VF f;
    memcpy(h, p, sizeof h);
    FOR_LANES f.v[r] = f32_from_bf16(h[r]);
    return f;
}

static inline VF vf_from_bf16_of(VI v, int i)
{
    VF f;
    FOR_LANES f.v[r] = f32_from_bf16(v.u16[2 * r + i]);
    return f;
}

static inline VF vf_from_u8(const uint8_t *p)
{
    VF f;
    FOR_LANES f.v[r] = (float)p[r];
    return f;
}

static inline VF vf_from_i8(const uint8_t *p)
{
    VF f;
    FOR_LANES f.v[r] = (float)(int8_t)p[r];
    return f;
}

static inline VF vf_from_u4(const uint8_t *p, int shift)
{
    VF f;
    FOR_LANES f.v[r] = (float)(p[r] >> shift & 15);
    return f;
}

static inline VF vf_from_u8_of(VI v, int i) /* byte i of each lane */
{
    VF f;
    FOR_LANES f.v[r] = (float)v.u8[4 * r + i];
    return f;
}

static inline VF vf_from_s8_of(VI v, int i)
{
    VF f;
    FOR_LANES f.v[r] = (float)v.s8[4 * r + i];
    return f;
}

struct book {
    const float *values;
};

static inline struct book book_open(const float *values)
{
    return (struct book){values};
}

static inline void book_read(const struct book *b, VI v, int high, VF *to)
{
    for (int i = 0; i < 4; i++)
        FOR_LANES to[i].v[r] = b->values[v.u8[4 * r + i] >> 4 * high & 15];
}

static inline VF vf_from_nibble(VI v, int shift)
{
    VF f;
    FOR_LANES f.v[r] = (float)(v.s32[r] >> shift & 15);
    return f;
}

#define E4M3_UNIT 1.0f

static inline VF vf_from_e4m3(const uint8_t *p, int i)
{
    VF f;
    FOR_LANES f.v[r] = scheme_e4m3(p[2 * r + i]);
    return f;
}

#define MATMUL_GENERIC
#include "kernels/cpu/matmul_tile.h"
