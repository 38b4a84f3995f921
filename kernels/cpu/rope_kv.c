/* rope_kv.c - the step between projections and attention: norms the heads of q and k where the
 * family does, rotates them by their position, and writes k and v to their pages, in 8 bits behind
 * a Hadamard turn.
 *
 * The angle position * inv_freq is rounded to float before its sine is taken, as the models were
 * trained (rotary embedding in float32); the sine itself is the C library's. */
#include "kernels/cpu/kv_page.h"
#include "kernels/cpu/rows.h"

#include <assert.h>
#include <math.h>

struct rope_job {
    const struct rope_kv_args *args;
    const struct batch *batch;
    int table_stride;
    const struct row_kernels *kernels;
};

enum { TOKENS_PER_PART = 8 };

static void find_angles(struct rope_angles *angles, const struct rope_kv_args *a, int position)
{
    for (int i = 0; i < a->rope_dims / 2; i++) {
        float angle = (float)position * a->inv_freq[i];
        float c = cosf(angle) * a->rope_scale, s = sinf(angle) * a->rope_scale;
        if (a->rope == ROPE_NEOX) {
            angles->cos[i] = c;
            angles->sin[i] = s;
        } else {
            angles->cos[2 * i] = angles->cos[2 * i + 1] = c;
            angles->sin[2 * i] = -s;
            angles->sin[2 * i + 1] = s;
        }
    }
}

/* Norms and turns n_heads heads at x. */
static void turn_heads(const struct rope_job *job, float *x, const float *norm, int n_heads,
                       const struct rope_angles *angles)
{
    const struct rope_kv_args *a = job->args;
    for (int h = 0; h < n_heads; h++, x += a->kv->head_dim) {
        if (norm)
            job->kernels->norm_rms(x, x, NULL, norm, a->kv->head_dim, a->norm_eps);
        if (a->rope != ROPE_NONE)
            job->kernels->rope(x, angles, a->rope, a->rope_dims);
        if (kv_has_scales(a->kv->dtype))
            job->kernels->hadamard(x, a->kv->head_dim);
    }
}

/* Row of K or V, which are `cache`, `scales` and `dtype`. */
static void store_row(const struct rope_job *job, void *cache, float *scales, enum dtype dtype,
                      size_t row, const float *from)
{
    const struct kv_cache *kv = job->args->kv;
    char *to = (char *)cache + row * kv_row_bytes(kv);
    if (kv_has_scales(dtype))
        scales[row] = job->kernels->kv_quantize(to, from, kv->head_dim, dtype);
    else
        job->kernels->kv_store(to, from, kv->head_dim, dtype);
}

static void store_token(const struct rope_job *job, int t, const float *k, const float *v)
{
    const struct rope_kv_args *a = job->args;
    const struct kv_cache *kv = a->kv;
    int position = batch_kv_position(job->batch, t);
    const int32_t *table = batch_table(job->batch, job->table_stride, job->batch->token_seq[t]);
    for (int h = 0; h < kv->n_kv_heads; h++) {
        size_t row = kv_row(kv, a->layer, table, h, position);
        int from = h * kv->head_dim;
        store_row(job, kv->k, kv->k_scale, kv_key_dtype(kv->dtype), row, k + from);
        store_row(job, kv->v, kv->v_scale, kv->dtype, row, v + from);
    }
}

static void rope_part(void *ctx, int part, int thread)
{
    (void)thread;
    const struct rope_job *job = ctx;
    const struct rope_kv_args *a = job->args;
    int end = smaller((part + 1) * TOKENS_PER_PART, job->batch->n_tokens);
    for (int t = part * TOKENS_PER_PART; t < end; t++) {
        struct rope_angles angles;
        size_t at = (size_t)t * (size_t)a->stride;
        if (a->rope != ROPE_NONE)
            find_angles(&angles, a, job->batch->positions[t]);
        float *k = (float *)a->k + at;
        turn_heads(job, (float *)a->q + at, a->q_norm, a->n_heads, &angles);
        turn_heads(job, k, a->k_norm, a->kv->n_kv_heads, &angles);
        store_token(job, t, k, (const float *)a->v + at);
    }
}

void cpu_rope_kv(struct device *d, const struct rope_kv_args *a)
{
    assert(a->kv->head_dim <= HEAD_DIM_MAX);
    assert(a->rope == ROPE_NONE || (a->rope_dims % 2 == 0 && a->rope_dims <= a->kv->head_dim));
    assert(cpu_backend.ops->kv_fits(d, a->kv->dtype));
    struct rope_job job = {a, &d->batch, d->limits.table_stride, cpu_rows(d)};
    cpu_parallel(d, rope_part, &job, divide_up(d->batch.n_tokens, TOKENS_PER_PART));
}
