/* rows.h - the inner loops of the CPU ops, one table of them for each vector width.
 *
 * A kernel here works on one row or tile in one thread; the ops (norm.c, act.c, ...) cut the work
 * into parts and call them.  The code of each is in NAME_rows.h, written once over vec.h. */
#ifndef KERNELS_CPU_ROWS_H
#define KERNELS_CPU_ROWS_H

#include "kernels/cpu/cpu_int.h"

enum {
    ATTEND_ROWS = 48,  /* query rows of a tile: (token, head) pairs of one kv head */
    ATTEND_CHUNK = 64, /* cached tokens converted and scored at a time */
    ATTEND_SPAN = 256, /* tokens summed alone before they join the total; whole chunks */
    ATTEND_LANES = 16, /* rows of scratch are padded to the widest vector */
    HEAD_DIM_MAX = 512,
    SAMPLE_BLOCK = 64, /* logits that share one maximum and one sum */
};

/* A softmax under way: each row's largest score, and sums of weights relative to it. */
struct attend_sum {
    float *acc;  /* [n_rows, stride] sum of exp(score - top) * v */
    float *top;  /* [n_rows]; -INFINITY before the first visible token */
    float *norm; /* [n_rows] sum of exp(score - top) */
};

/* One tile of query rows against one kv head.  Row r is at position
 * pos_first + (row_first + r) / group. */
struct attend_tile {
    int n_rows, row_first, pos_first, group;
    int head_dim, stride; /* stride: head_dim padded to ATTEND_LANES */
    int window;
    int prompt_len; /* of the sequence, as far as it is cached, when its rows see all of it; else 0 */
    float soft_cap;
    const float *slope; /* [group] ALiBi of the kv head's query heads, or NULL */
    float *q;     /* [n_rows, stride], scaled */
    float *kt;    /* [head_dim, ATTEND_CHUNK]: the chunk of K, transposed */
    float *v;     /* [ATTEND_CHUNK, stride] */
    float *s;     /* [n_rows, ATTEND_CHUNK] scores, then weights */
    float *decay; /* [n_rows] what the chunk's new maximum makes of older sums */
    struct attend_sum span, total;
};

/* Where the K and V of a chunk are: one pointer for each column. */
struct attend_source {
    const char *k[ATTEND_CHUNK], *v[ATTEND_CHUNK]; /* each [head_dim] of dtype */
    float k_scale[ATTEND_CHUNK], v_scale[ATTEND_CHUNK]; /* where the type has scales */
    enum dtype dtype;
};

struct rope_angles {                            /* of one position */
    float cos[HEAD_DIM_MAX], sin[HEAD_DIM_MAX]; /* NEOX: [dims / 2]; ADJACENT: as pairs lie, with
                                                   the sine of even places negative */
};

struct row_kernels {
    /* add: a row, or NULL */
    void (*norm_rms)(float *y, const float *x, const float *add, const float *w, int width,
                     float eps);
    void (*norm_layer)(float *y, const float *x, const float *add, const struct norm *norm,
                       int width);
    void (*act)(float *y, const float *gate, const float *up, int n, enum act_kind kind);
    void (*rope)(float *x, const struct rope_angles *angles, enum rope_kind kind, int dims);
    void (*kv_store)(char *dst, const float *src, int n, enum dtype dtype);
    void (*hadamard)(float *x, int n);
    float (*kv_quantize)(char *dst, const float *src, int n, enum dtype dtype); /* its scale */

    void (*attend_load)(const struct attend_tile *t, const struct attend_source *from, int n_cols);
    void (*attend_chunk)(const struct attend_tile *t, int first, int n_cols);
    void (*attend_merge)(const struct attend_tile *t);
    void (*attend_finish)(float *out, const struct attend_tile *t, int row);

    /* The maximum of each SAMPLE_BLOCK of x; false when there is NaN. */
    bool (*sample_tops)(float *tops, const float *x, int n);
    /* exp((x - top) * rate), stored to y unless NULL, and its sum over each SAMPLE_BLOCK. */
    void (*sample_weights)(float *y, double *sums, const float *x, int n, float top, float rate);
};

extern const struct row_kernels row_kernels_scalar, row_kernels_avx2, row_kernels_avx512;

static inline const struct row_kernels *cpu_rows(const struct device *d)
{
    if (d->isa >= ISA_AVX512)
        return &row_kernels_avx512;
    return d->isa == ISA_AVX2 ? &row_kernels_avx2 : &row_kernels_scalar;
}

/* Rows for one part, so that a part has some thousands of values to do. */
static inline int rows_per_part(int width)
{
    enum { VALUES_PER_PART = 8192 };
    return width >= VALUES_PER_PART ? 1 : VALUES_PER_PART / (width > 0 ? width : 1);
}

static inline int divide_up(int n, int by)
{
    return n / by + (n % by != 0);
}

static inline int smaller(int a, int b)
{
    return a < b ? a : b;
}

#endif
