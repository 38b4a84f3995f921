/* scheme_test.h - random weights of any scheme, as a checkpoint's reader would hand them over. */
#ifndef TESTS_UNIT_KERNELS_SCHEME_TEST_H
#define TESTS_UNIT_KERNELS_SCHEME_TEST_H

#include "cpu_test.h"
#include "kernels/half.h"

#include <math.h>

struct scheme_weight {
    struct scheme scheme;
    int64_t rows, cols;
    struct scheme_rows all; /* [rows, ...] */
    int32_t *order;         /* [cols] or NULL */
    struct tensor w;        /* PACKED, once put */
};

static inline void make_scheme_rows(const void *ctx, int64_t first, int64_t n,
                                    const struct scheme_rows *to)
{
    const struct scheme_weight *s = ctx;
    const size_t cols = (size_t)s->cols, groups = (size_t)scheme_groups(&s->scheme, s->cols);
    const size_t at = (size_t)first, count = (size_t)n;
    assert_true(first >= 0 && n > 0 && first + n <= s->rows);
    assert_true(!to->zeros == !s->scheme.has_zero);
    memcpy(to->codes, s->all.codes + at * cols, count * cols);
    memcpy(to->scales, s->all.scales + at * groups, count * groups * sizeof(float));
    if (to->zeros)
        memcpy(to->zeros, s->all.zeros + at * groups, count * groups * sizeof(int16_t));
}

static inline uint8_t random_code(struct random *r, enum dtype codes)
{
    const uint8_t code = (uint8_t)random_below(r, dtype_traits[codes].block == 2 ? 16 : 256);
    return codes == DT_FP8 && (code & 0x7f) == 0x7f ? 0x7e : code;
}

static inline float random_scale(struct random *r, enum dtype scale)
{
    const float v = random_normal(r) * 0.05f;
    return scale == DT_F16    ? f32_from_f16(f32_to_f16(v))
           : scale == DT_BF16 ? f32_from_bf16(f32_to_bf16(v))
                              : v;
}

static inline int32_t *random_order(struct random *r, int64_t n)
{
    int32_t *order = malloc((size_t)n * sizeof *order);
    for (int32_t i = 0; i < n; i++) {
        const int at = random_below(r, i + 1);
        order[i] = order[at];
        order[at] = i;
    }
    return order;
}

static inline struct scheme_weight *new_scheme_weight(struct random *r, const struct scheme *s,
                                                      int64_t rows, int64_t cols)
{
    struct status st = {0};
    struct scheme_weight *n = malloc(sizeof *n);
    const size_t n_codes = (size_t)(rows * cols), groups = (size_t)scheme_groups(s, cols);
    const size_t n_scales = (size_t)rows * groups;
    if (!scheme_check(s, cols, &st))
        fail_msg("%s", st.msg);
    *n = (struct scheme_weight){.scheme = *s, .rows = rows, .cols = cols};
    n->all.codes = malloc(n_codes);
    for (size_t i = 0; i < n_codes; i++)
        n->all.codes[i] = random_code(r, s->codes);
    n->all.scales = malloc(n_scales * sizeof(float));
    for (size_t i = 0; i < n_scales; i++)
        n->all.scales[i] = random_scale(r, s->scale);
    if (s->has_zero) {
        n->all.zeros = malloc(n_scales * sizeof(int16_t));
        for (size_t i = 0; i < n_scales; i++)
            n->all.zeros[i] = (int16_t)random_below(r, s->codes == DT_INT4 ? 17 : 257);
    }
    if (s->ordered)
        n->order = random_order(r, cols);
    return n;
}

/* weight_bytes of memory and no byte more; garbage before. */
static inline void put_scheme_weight(struct device *d, struct scheme_weight *n)
{
    struct status st = {0};
    free(n->w.data);
    n->w = (struct tensor){
        .dtype = n->scheme.codes, .rows = n->rows, .cols = n->cols, .scheme = &n->scheme};
    const size_t n_bytes = cpu_backend.ops->weight_bytes(d, &n->w);
    assert_int_equal(n_bytes % 64, 0);
    n->w.data = aligned_alloc(64, n_bytes);
    memset(n->w.data, 0xff, n_bytes);
    cpu_backend.ops->weight_put(
        d, &n->w,
        &(struct weight_source){.fd = -1, .rows = make_scheme_rows, .ctx = n, .order = n->order});
    assert_true(cpu_backend.ops->weights_done(d, &st));
    assert_int_equal(n->w.layout, LAYOUT_PACKED);
}

static inline void free_scheme_weight(struct scheme_weight *n)
{
    free(n->all.codes);
    free(n->all.scales);
    free(n->all.zeros);
    free(n->order);
    free(n->w.data);
    free(n);
}

static inline struct scheme_rows row_of_scheme(const struct scheme_weight *n, int64_t row)
{
    const int64_t groups = scheme_groups(&n->scheme, n->cols);
    return (struct scheme_rows){n->all.codes + row * n->cols, n->all.scales + row * groups,
                                n->all.zeros ? n->all.zeros + row * groups : NULL};
}

/* Row `row`, columns where x has them. */
static inline void dequantize_scheme(const struct scheme_weight *n, int64_t row, float *dst)
{
    const struct scheme_rows at = row_of_scheme(n, row);
    float *values = malloc((size_t)n->cols * sizeof *values);
    scheme_dequantize_row(&n->scheme, &at, n->cols, values);
    for (int64_t i = 0; i < n->cols; i++)
        dst[n->order ? n->order[i] : i] = values[i];
    free(values);
}

#endif
