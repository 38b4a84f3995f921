/* attention_rows.h - one tile of query rows against one chunk of the cache.
 *
 * K is transposed as it is converted, so that scores are plain outer products: each (row, column)
 * is one chain of additions over head_dim.  Columns that a row does not see get the weight 0,
 * which changes no sum, and a row whose columns are all hidden keeps its state to the bit.  So a
 * row's result depends on its own position alone, not on the tile around it. */
#include "kernels/cpu/rows.h"
#include "kernels/cpu/vec.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { BLOCK_ROWS = 6, BLOCK_VECS = 2 }; /* 12 sums, 2 columns, 1 row value: 15 of 16 registers */

#if defined(__AVX2__)
ALWAYS_INLINE __m256 load8_as(enum dtype dtype, const char *p)
{
    if (dtype == DT_F32)
        return _mm256_loadu_ps((const float *)p);
    if (dtype == DT_INT8)
        return load8_i8(p);
    __m128i half = _mm_loadu_si128((const __m128i *)p);
    if (dtype == DT_F16)
        return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

ALWAYS_INLINE void put8(float *out, __m256 columns, __m256 scales, enum dtype dtype)
{
    _mm256_storeu_ps(out, kv_has_scales(dtype) ? _mm256_mul_ps(columns, scales) : columns);
}

/* 8 columns x 8 values at row[0..8) + at, times their scales, become 8 rows at out, ATTEND_CHUNK
 * apart. */
ALWAYS_INLINE void transpose8(float *out, const char *const *row, size_t at, const float *scale,
                              enum dtype dtype)
{
    const __m256 scales = _mm256_loadu_ps(scale);
    __m256 a[8], b[8];
    for (int i = 0; i < 8; i++)
        a[i] = load8_as(dtype, row[i] + at);
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
        a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        put8(out + i * ATTEND_CHUNK, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20), scales, dtype);
        put8(out + (i + 4) * ATTEND_CHUNK, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31), scales,
             dtype);
    }
}
#endif

ALWAYS_INLINE float load_scaled(enum dtype dtype, const char *p, float scale)
{
    return kv_has_scales(dtype) ? load_as(dtype, p) * (scale * code_unit(dtype))
                                : load_as(dtype, p);
}

ALWAYS_INLINE void load_keys(const struct attend_tile *t, const struct attend_source *from,
                             int n_cols, enum dtype dtype)
{
    const size_t bytes = value_bytes(dtype);
    int d = 0;
#if defined(__AVX2__)
    for (; d + 8 <= t->head_dim; d += 8) {
        for (int c = 0; c < n_cols; c += 8)
            transpose8(t->kt + d * ATTEND_CHUNK + c, from->k + c, (size_t)d * bytes,
                       from->k_scale + c, dtype);
    }
#endif
    for (; d < t->head_dim; d++) {
        for (int c = 0; c < n_cols; c++)
            t->kt[d * ATTEND_CHUNK + c] =
                load_scaled(dtype, from->k[c] + (size_t)d * bytes, from->k_scale[c]);
    }
}

ALWAYS_INLINE void load_values(const struct attend_tile *t, const struct attend_source *from,
                               int n_cols, enum dtype dtype)
{
    const size_t bytes = value_bytes(dtype);
    for (int c = 0; c < n_cols; c++) {
        float *v = t->v + c * t->stride;
        const vf scale = vf_set(from->v_scale[c] * code_unit(dtype));
        int d = 0;
        for (; d + VEC_N <= t->head_dim; d += VEC_N) {
            const vf codes = vf_load_as(dtype, from->v[c] + (size_t)d * bytes);
            vf_store(v + d, kv_has_scales(dtype) ? vf_mul(codes, scale) : codes);
        }
        for (; d < t->head_dim; d++)
            v[d] = load_scaled(dtype, from->v[c] + (size_t)d * bytes, from->v_scale[c]);
        for (; d < t->stride; d++)
            v[d] = 0;
    }
}

ALWAYS_INLINE void load_both(const struct attend_tile *t, const struct attend_source *from,
                             int n_cols, enum dtype dtype)
{
    load_keys(t, from, n_cols, kv_key_dtype(dtype));
    load_values(t, from, n_cols, dtype);
}

static void attend_load(const struct attend_tile *t, const struct attend_source *from, int n_cols)
{
    switch (from->dtype) {
    case DT_F16:
        load_both(t, from, n_cols, DT_F16);
        return;
    case DT_BF16:
        load_both(t, from, n_cols, DT_BF16);
        return;
    case DT_INT8:
        load_both(t, from, n_cols, DT_INT8);
        return;
    case DT_FP8:
        load_both(t, from, n_cols, DT_FP8);
        return;
    default:
        load_both(t, from, n_cols, DT_F32);
        return;
    }
}

/* out[i][.] = decay[i] * out[i][.] + sum over k of a[i][k] * b[k][.], for `rows` rows and `vecs`
 * vectors of columns; without decay, out's old value does not count. */
struct product {
    float *out;
    const float *a, *b, *decay;
    int out_stride, a_stride, b_stride, depth;
};

ALWAYS_INLINE void multiply_block(const struct product *p, int row, int col, const int rows,
                                  const int vecs)
{
    const float *a = p->a + row * p->a_stride, *b = p->b + col;
    float *out = p->out + row * p->out_stride + col;
    vf sum[BLOCK_ROWS][BLOCK_VECS];
    for (int i = 0; i < rows; i++) {
        for (int j = 0; j < vecs; j++) {
            sum[i][j] = vf_set(0.0f);
            if (p->decay)
                sum[i][j] =
                    vf_mul(vf_load(out + i * p->out_stride + j * VEC_N), vf_set(p->decay[row + i]));
        }
    }
    for (int k = 0; k < p->depth; k++, b += p->b_stride) {
        vf column[BLOCK_VECS];
        for (int j = 0; j < vecs; j++)
            column[j] = vf_load(b + j * VEC_N);
        for (int i = 0; i < rows; i++) {
            vf value = vf_set(a[i * p->a_stride + k]);
            for (int j = 0; j < vecs; j++)
                sum[i][j] = vf_fma(value, column[j], sum[i][j]);
        }
    }
    for (int i = 0; i < rows; i++) {
        for (int j = 0; j < vecs; j++)
            vf_store(out + i * p->out_stride + j * VEC_N, sum[i][j]);
    }
}

ALWAYS_INLINE void multiply_rows(const struct product *p, int row, int n_cols, const int rows)
{
    int col = 0;
    for (; col + BLOCK_VECS * VEC_N <= n_cols; col += BLOCK_VECS * VEC_N)
        multiply_block(p, row, col, rows, BLOCK_VECS);
    for (; col < n_cols; col += VEC_N)
        multiply_block(p, row, col, rows, 1);
}

static void multiply(const struct product *p, int n_rows, int n_cols)
{
    int row = 0;
    for (; row + BLOCK_ROWS <= n_rows; row += BLOCK_ROWS)
        multiply_rows(p, row, n_cols, BLOCK_ROWS);
    switch (n_rows - row) {
    case 5:
        multiply_rows(p, row, n_cols, 5);
        break;
    case 4:
        multiply_rows(p, row, n_cols, 4);
        break;
    case 3:
        multiply_rows(p, row, n_cols, 3);
        break;
    case 2:
        multiply_rows(p, row, n_cols, 2);
        break;
    case 1:
        multiply_rows(p, row, n_cols, 1);
        break;
    default:
        break;
    }
}

/* s = cap * tanh(s / cap), tanh u = 1 - 2 / (exp(2u) + 1). */
static void cap_scores(float *s, int n_cols, float cap)
{
    vf one = vf_set(1.0f), two = vf_set(2.0f);
    for (int c = 0; c < n_cols; c += VEC_N) {
        vf e = vf_exp(vf_mul(vf_load(s + c), vf_set(2.0f / cap)));
        vf tanh_u = vf_sub(one, vf_div(two, vf_add(e, one)));
        vf_store(s + c, vf_mul(tanh_u, vf_set(cap)));
    }
}

static float decay_of(float older, float newer) /* both -INFINITY: nothing to keep */
{
    float x[VEC_N], base = newer == -INFINITY ? 0 : newer;
    vf_store(x, vf_exp(vf_set(older - base)));
    return x[0];
}

/* Scores of one row become weights; its maximum and norm move on. */
static void weigh_row(const struct attend_tile *t, int row, int n_cols)
{
    float *s = t->s + row * ATTEND_CHUNK;
    vf top = vf_load(s);
    for (int c = VEC_N; c < n_cols; c += VEC_N)
        top = vf_max(top, vf_load(s + c));
    float before = t->span.top[row], now = vf_top(top);
    now = now > before ? now : before;
    vf base = vf_set(now == -INFINITY ? 0 : now), sum = vf_set(0.0f);
    for (int c = 0; c < n_cols; c += VEC_N) {
        vf weight = vf_exp(vf_sub(vf_load(s + c), base));
        vf_store(s + c, weight);
        sum = vf_add(sum, weight);
    }
    t->decay[row] = decay_of(before, now);
    t->span.norm[row] = t->span.norm[row] * t->decay[row] + vf_sum(sum);
    t->span.top[row] = now;
}

/* s += slope * (key position - query position). */
static void lean_scores(const struct attend_tile *t, int row, int first, int n_cols)
{
    float *s = t->s + row * ATTEND_CHUNK, slope = t->slope[(t->row_first + row) % t->group];
    int position = t->pos_first + (t->row_first + row) / t->group;
    for (int c = 0; c < n_cols; c++)
        s[c] += slope * (float)(first + c - position);
}

/* Gives -INFINITY to the columns that the row does not see. */
static void hide_columns(const struct attend_tile *t, int row, int first, int n_cols)
{
    float *s = t->s + row * ATTEND_CHUNK;
    int position = t->pos_first + (t->row_first + row) / t->group;
    int end = (t->prompt_len > position ? t->prompt_len : position + 1) - first;
    int begin = t->window > 0 ? position + 1 - t->window - first : 0;
    for (int c = 0; c < begin && c < n_cols; c++)
        s[c] = -INFINITY;
    for (int c = end > 0 ? end : 0; c < n_cols; c++)
        s[c] = -INFINITY;
}

static void attend_chunk(const struct attend_tile *t, int first, int n_cols)
{
    struct product scores = {.out = t->s,
                             .out_stride = ATTEND_CHUNK,
                             .a = t->q,
                             .a_stride = t->stride,
                             .b = t->kt,
                             .b_stride = ATTEND_CHUNK,
                             .depth = t->head_dim};
    multiply(&scores, t->n_rows, n_cols);
    for (int row = 0; row < t->n_rows; row++) {
        if (t->soft_cap > 0)
            cap_scores(t->s + row * ATTEND_CHUNK, n_cols, t->soft_cap);
        if (t->slope)
            lean_scores(t, row, first, n_cols);
        hide_columns(t, row, first, n_cols);
        weigh_row(t, row, n_cols);
    }
    struct product values = {.out = t->span.acc,
                             .out_stride = t->stride,
                             .decay = t->decay,
                             .a = t->s,
                             .a_stride = ATTEND_CHUNK,
                             .b = t->v,
                             .b_stride = t->stride,
                             .depth = n_cols};
    multiply(&values, t->n_rows, t->stride);
}

/* Adds the span's sums to the total. */
static void attend_merge(const struct attend_tile *t)
{
    for (int row = 0; row < t->n_rows; row++) {
        float before = t->total.top[row], span = t->span.top[row];
        float now = span > before ? span : before;
        float keep = decay_of(before, now), add = decay_of(span, now);
        float *total = t->total.acc + row * t->stride;
        const float *acc = t->span.acc + row * t->stride;
        for (int d = 0; d < t->stride; d += VEC_N)
            vf_store(total + d, vf_fma(vf_load(acc + d), vf_set(add),
                                       vf_mul(vf_load(total + d), vf_set(keep))));
        t->total.norm[row] = t->total.norm[row] * keep + t->span.norm[row] * add;
        t->total.top[row] = now;
    }
}

/* Adding 0 turns a -0 into 0: the sign of a zero is the one thing that hidden columns can change.
 */
static void attend_finish(float *out, const struct attend_tile *t, int row)
{
    const float *acc = t->total.acc + row * t->stride;
    vf scale = vf_set(1.0f / t->total.norm[row]);
    for (int d = 0; d < t->head_dim; d += VEC_N) {
        int n = smaller(t->head_dim - d, VEC_N);
        vf_store_n(out + d, vf_add(vf_mul(vf_load(acc + d), scale), vf_set(0.0f)), n);
    }
}
