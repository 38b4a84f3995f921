/* scheme_matrix.h - random matrices of a scheme or of a block format, on the host and as the loader brings them to the
 * device.
 *
 * Device memory is given back only on closing, so tests take it once for their largest case. */
#ifndef TESTS_GPU_SCHEME_MATRIX_H
#define TESTS_GPU_SCHEME_MATRIX_H

#include "tests/gpu/cuda_device.h"
#include "tests/unit/kernels_cuda/random_blocks.h"

/* A matrix of codes: what its source gives, and what tests compare with. */
struct matrix {
    const struct scheme *scheme; /* codes of a block format, which has a layout in files: only that */
    int rows, cols;
    struct scheme_rows made; /* of a scheme */
    uint8_t *file;           /* of a block format */
    int32_t *order;
    struct tensor w;
};

struct pool {
    char *at, *next;
};

static inline void *pool_put(const struct tested *t, struct pool *p, const void *from,
                             size_t n_bytes)
{
    void *at = p->next;
    p->next += (n_bytes + 255) / 256 * 256;
    if (from)
        t->ops->copy_in(t->d, at, from, n_bytes);
    return at;
}

static inline uint8_t random_code(enum dtype codes)
{
    const uint8_t c = (uint8_t)(random_bits() >> 33);
    if (codes == DT_INT8 || (codes == DT_FP8 && (c & 0x7f) != 0x7f))
        return c;
    return codes == DT_FP8 ? 0x38 : c & 15;
}

/* One of the numbers that the scheme's type of scales holds. */
static inline float random_scale(const struct scheme *s, int cols)
{
    const float unit = s->codes == DT_INT8   ? 64
                       : s->codes == DT_FP8  ? 128
                       : s->codes == DT_INT4 ? 5
                                             : 0.5f;
    const float v = (0.2f + (float)random_below(1000) / 1000) / unit / sqrtf((float)cols);
    return s->scale == DT_F16    ? f32_from_f16(f32_to_f16(v))
           : s->scale == DT_BF16 ? f32_from_bf16(f32_to_bf16(v))
                                 : v;
}

static inline bool is_block_format(const struct scheme *s)
{
    return s->codes < DT_N;
}

static inline uint8_t *make_blocks(enum dtype f, int rows, int cols)
{
    size_t n_bytes;
    if (!tensor_file_bytes(f, rows, cols, &n_bytes))
        abort();
    return random_blocks(f, n_bytes, random_blocks_scale(f, cols));
}

static inline struct matrix make_matrix(const struct scheme *s, int rows, int cols)
{
    const size_t n = (size_t)rows * (size_t)cols;
    const size_t n_scales = (size_t)rows * (size_t)scheme_groups(s, cols);
    struct matrix m = {.scheme = s, .rows = rows, .cols = cols};
    m.order = take_host((size_t)cols * sizeof(int32_t));
    for (int i = 0; i < cols; i++)
        m.order[i] = i;
    if (is_block_format(s)) {
        m.file = make_blocks(s->codes, rows, cols);
        return m;
    }
    m.made.codes = take_host(n);
    m.made.scales = take_host(n_scales * sizeof(float));
    m.made.zeros = s->has_zero ? take_host(n_scales * sizeof(int16_t)) : NULL;
    for (size_t i = 0; i < n; i++)
        m.made.codes[i] = random_code(s->codes);
    for (size_t i = 0; i < n_scales; i++) {
        m.made.scales[i] = random_scale(s, cols);
        if (s->has_zero)
            m.made.zeros[i] = (int16_t)random_below(s->codes == DT_INT4 ? 17 : 257);
    }
    for (int i = cols - 1; s->ordered && i > 0; i--) {
        const int j = random_below(i + 1), keep = m.order[i];
        m.order[i] = m.order[j];
        m.order[j] = keep;
    }
    return m;
}

static inline void free_matrix(struct matrix *m)
{
    free(m->made.codes);
    free(m->made.scales);
    free(m->made.zeros);
    free(m->file);
    free(m->order);
}

static inline void give_rows(const void *ctx, int64_t first, int64_t n,
                             const struct scheme_rows *to)
{
    const struct matrix *m = ctx;
    const size_t groups = (size_t)scheme_groups(m->scheme, m->cols);
    memcpy(to->codes, m->made.codes + first * m->cols, (size_t)(n * m->cols));
    memcpy(to->scales, m->made.scales + (size_t)first * groups, (size_t)n * groups * sizeof(float));
    if (m->made.zeros)
        memcpy(to->zeros, m->made.zeros + (size_t)first * groups,
               (size_t)n * groups * sizeof(int16_t));
}

static inline void put_matrix(const struct tested *t, struct pool *pool, struct matrix *m,
                              bool apart)
{
    struct status st = {0};
    m->w = (struct tensor){.data = pool->next,
                           .dtype = m->scheme->codes,
                           .rows = m->rows,
                           .cols = m->cols,
                           .scheme = is_block_format(m->scheme) ? NULL : m->scheme};
    const struct weight_source of_file = {.at = m->file, .fd = -1};
    const struct weight_source of_rows = {
        .fd = -1, .rows = give_rows, .ctx = m, .order = m->order};
    const struct weight_source src = m->file ? of_file : of_rows;
    const size_t n_bytes = t->ops->weight_bytes(t->d, &m->w);
    pool->next += (n_bytes + 63) / 64 * 64 + (apart ? 256 : 0);
    t->ops->weight_put(t->d, &m->w, &src);
    if (!t->ops->weights_done(t->d, &st))
        die("weights_done", &st);
}

static inline bool has_codebook(const struct scheme *s)
{
    return s->codes == DT_NF4 || s->codes == DT_FP4;
}

/* A codebook's values as fragments hold them (scheme_layout.h): UP keeps f16 above its subnormals,
 * as the row's scale does. */
static inline void codebook_values(const struct tested *t, const struct scheme *s,
                                   const struct scheme_rows *row, int cols, float *w)
{
    const float *book = s->codes == DT_NF4 ? scheme_nf4 : scheme_fp4, up = 0x1p16f;
    const int width = cols / (int)scheme_groups(s, cols);
    for (int i = 0; i < cols; i++) {
        const float scale = act_rounded(t, row->scales[i / width] * up);
        w[i] = act_rounded(t, act_rounded(t, book[row->codes[i]]) * scale) / up;
    }
}

/* A row of a matrix in float, of a block format or a codebook as fragments hold it; free() it. */
static inline float *row_values(const struct tested *t, const struct matrix *m, int row)
{
    float *w = take_host((size_t)m->cols * sizeof *w);
    if (m->file) {
        const struct dtype_traits *f = &dtype_traits[m->scheme->codes];
        const size_t row_bytes = (size_t)(m->cols / f->block * f->block_bytes);
        random_blocks_values(m->scheme->codes, t->act == DT_BF16, m->file + (size_t)row * row_bytes,
                             m->cols, w);
        return w;
    }
    const int64_t groups = scheme_groups(m->scheme, m->cols);
    const struct scheme_rows one = {m->made.codes + (size_t)row * (size_t)m->cols,
                                    m->made.scales + (size_t)(row * groups),
                                    m->made.zeros ? m->made.zeros + (size_t)(row * groups) : NULL};
    if (has_codebook(m->scheme))
        codebook_values(t, m->scheme, &one, m->cols, w);
    else
        scheme_dequantize_row(m->scheme, &one, m->cols, w);
    return w;
}

#endif
