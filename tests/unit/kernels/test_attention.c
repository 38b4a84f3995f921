/* What attention promises: for each query row the softmax over the tokens it may see, and bits
 * that depend on the row's own sequence and position alone. */
#include "cpu_test.h"

#include <math.h>

#include "kernels/half.h"
#include "kernels/cpu/kv_page.h"
#include "kernels/cpu/rows.h"
#include "kernels/scheme.h"

enum { SEQS_MAX = 6, SLOTS = 8, STRIDE = 256 };

struct shape {
    const char *name;
    int n_heads, n_kv_heads, head_dim, block_tokens;
    enum dtype dtype;
    float soft_cap;
    int window;
    int n_seqs, kv_len[SEQS_MAX], n_new[SEQS_MAX];
    struct {
        bool alibi, bidirectional;
        int q_gap;       /* values between the queries of two tokens */
        int n_generated; /* of each sequence, at its end */
    } more;
};

static const struct shape shapes[] = {
    {"one token", 1, 1, 16, 16, DT_F32, 0, 0, 1, {1}, {1}, {0}},
    {"decode, small model", 9, 3, 64, 16, DT_F16, 0, 0, 3, {1, 70, 300}, {1, 1, 1}, {0}},
    {"prefill, small model", 9, 3, 64, 32, DT_F16, 0, 0, 1, {150}, {150}, {0}},
    {"chunk behind a prefix", 8, 2, 64, 16, DT_F16, 0, 0, 2, {613, 97}, {40, 33}, {0}},
    {"mixed batch", 4, 4, 32, 16, DT_F32, 0, 0, 4, {64, 65, 256, 257}, {64, 1, 3, 257}, {0}},
    {"bf16, group of 8", 8, 1, 128, 16, DT_BF16, 0, 0, 2, {130, 40}, {70, 40}, {0}},
    {"odd head and block", 6, 2, 20, 5, DT_F16, 0, 0, 2, {77, 23}, {77, 1}, {0}},
    {"tiny head", 2, 1, 4, 3, DT_F32, 0, 0, 1, {50}, {50}, {0}},
    {"one kv head for 71", 71, 1, 64, 16, DT_F16, 0, 0, 2, {35, 90}, {5, 1}, {0}},
    {"head of 256, capped", 4, 2, 256, 16, DT_F16, 30, 0, 2, {90, 300}, {20, 1}, {0}},
    {"window", 4, 2, 64, 16, DT_F16, 0, 33, 3, {400, 20, 900}, {100, 20, 1}, {0}},
    {"window of one", 4, 2, 32, 16, DT_F32, 0, 1, 2, {300, 9}, {70, 9}, {0}},
    {"window and cap", 4, 1, 80, 16, DT_BF16, 20, 300, 2, {700, 513}, {90, 1}, {0}},
    {"long decode", 9, 3, 64, 32, DT_F16, 0, 0, 1, {2100}, {1}, {0}},
    {"int8, decode", 9, 3, 64, 16, DT_INT8, 0, 0, 3, {1, 70, 1300}, {1, 1, 1}, {0}},
    {"int8, mixed batch", 8, 2, 128, 16, DT_INT8, 0, 0, 3, {613, 97, 40}, {40, 33, 1}, {0}},
    {"int8, odd head and block", 6, 2, 20, 5, DT_INT8, 0, 0, 2, {77, 23}, {77, 1}, {0}},
    {"int8, window and cap", 4, 1, 80, 16, DT_INT8, 20, 300, 2, {700, 513}, {90, 1}, {0}},
    {"fp8, decode", 9, 3, 64, 16, DT_FP8, 0, 0, 3, {1, 70, 1300}, {1, 1, 1}, {0}},
    {"fp8, mixed batch", 8, 2, 128, 16, DT_FP8, 0, 0, 3, {613, 97, 40}, {40, 33, 1}, {0}},
    {"fp8, odd head and block", 6, 2, 20, 5, DT_FP8, 0, 0, 2, {77, 23}, {77, 1}, {0}},
    {"fp8, window and cap", 4, 1, 80, 16, DT_FP8, 20, 300, 2, {700, 513}, {90, 1}, {0}},
    {"queries apart", 4, 2, 64, 16, DT_F16, 0, 0, 2, {40, 300}, {40, 2}, {.q_gap = 333}},
    {"alibi", 6, 2, 64, 16, DT_F16, 0, 0, 3, {400, 20, 900}, {100, 20, 1}, {.alibi = true}},
    {"alibi, cap and window",
     4,
     1,
     80,
     16,
     DT_BF16,
     20,
     90,
     2,
     {300, 51},
     {90, 1},
     {.alibi = true}},
    {"both ways", 4, 2, 32, 16, DT_F32, 0, 0, 2, {300, 70}, {300, 70}, {.bidirectional = true}},
    {"both, prefix, alibi", 4, 2, 64, 16, DT_F16, 0, 0, 1, {613}, {40}, {true, true, 1, 0}},
    {"both, window", 4, 2, 32, 8, DT_F32, 0, 33, 2, {700, 9}, {100, 9}, {.bidirectional = true}},
    {"both, and generated",
     4,
     2,
     32,
     16,
     DT_F16,
     0,
     0,
     3,
     {300, 70, 600},
     {300, 9, 1},
     {.bidirectional = true, .n_generated = 7}},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* Everything one call needs.  Blocks are scattered over the cache. */
struct world {
    struct kv_cache kv;
    struct batch batch;
    int32_t *table, seq_start[SEQS_MAX + 1], kv_len[SEQS_MAX], n_prompt[SEQS_MAX], slot[SEQS_MAX];
    int32_t *token_seq, *positions, *ids;
    float *q, *out, alibi[128];
    int q_stride;
    size_t n_values; /* of out */
};

static int32_t *new_ints(size_t n)
{
    int32_t *x = malloc((n + 1) * sizeof *x);
    assert_non_null(x);
    return x;
}

static int random_code(struct random *r, enum dtype dtype)
{
    if (dtype == DT_INT8)
        return random_below(r, 255) - 127;
    return random_below(r, 127) + 128 * random_below(r, 2); /* not the NaNs, 0x7f and 0xff */
}

static void fill_cache(struct random *r, const struct kv_cache *kv, enum dtype dtype, void *data,
                       float *scales)
{
    const float unit = dtype == DT_INT8 ? 100 : 200; /* of codes, so that values are about 1 */
    size_t n = kv_bytes(kv) / kv_value_bytes(kv->dtype);
    for (size_t i = 0; i < n; i++) {
        float x = random_normal(r);
        if (kv->dtype == DT_F32)
            ((float *)data)[i] = x;
        else if (kv_has_scales(kv->dtype))
            ((uint8_t *)data)[i] = (uint8_t)random_code(r, dtype);
        else
            ((uint16_t *)data)[i] = kv->dtype == DT_F16 ? f32_to_f16(x) : f32_to_bf16(x);
    }
    for (size_t i = 0; i < kv_scale_bytes(kv) / sizeof *scales; i++)
        scales[i] = fabsf(random_normal(r)) / unit;
}

/* NaN in each type; in int8 it is the scale's. */
static void spoil_rows(const struct kv_cache *kv, void *data, float *scales, size_t first, size_t n)
{
    memset((char *)data + first * kv_row_bytes(kv), 0xff, n * kv_row_bytes(kv));
    if (kv_has_scales(kv->dtype))
        memset(scales + first, 0xff, n * sizeof *scales);
}

static void spoil_unused(const struct kv_cache *kv, void *data, float *scales, const bool *used)
{
    size_t page = (size_t)(kv->n_kv_heads * kv->block_tokens);
    for (int i = 0; i < kv->n_layers * kv->n_blocks; i++) {
        if (!used[i])
            spoil_rows(kv, data, scales, (size_t)i * page, page);
    }
}

static void build_world(struct world *w, const struct shape *s, uint64_t seed)
{
    struct random r = {seed};
    int n_blocks = 2, n_tokens = 0;
    for (int i = 0; i < s->n_seqs; i++) {
        int n = (s->kv_len[i] + s->block_tokens - 1) / s->block_tokens;
        assert_true(n <= STRIDE);
        w->slot[i] = (i * 5 + 2) % SLOTS;
        n_blocks += n;
        w->seq_start[i] = n_tokens;
        w->kv_len[i] = s->kv_len[i];
        w->n_prompt[i] = s->kv_len[i] - s->more.n_generated;
        n_tokens += s->n_new[i];
    }
    w->seq_start[s->n_seqs] = n_tokens;
    w->kv = (struct kv_cache){.dtype = s->dtype,
                              .n_layers = 2,
                              .n_blocks = n_blocks,
                              .block_tokens = s->block_tokens,
                              .n_kv_heads = s->n_kv_heads,
                              .head_dim = s->head_dim};
    w->kv.k = malloc(kv_bytes(&w->kv));
    w->kv.v = malloc(kv_bytes(&w->kv));
    w->kv.k_scale = malloc(kv_scale_bytes(&w->kv));
    w->kv.v_scale = malloc(kv_scale_bytes(&w->kv));
    fill_cache(&r, &w->kv, kv_key_dtype(s->dtype), w->kv.k, w->kv.k_scale);
    fill_cache(&r, &w->kv, s->dtype, w->kv.v, w->kv.v_scale);

    int32_t *order = new_ints((size_t)n_blocks);
    bool *used = calloc((size_t)n_blocks * 2, sizeof *used);
    for (int i = 0; i < n_blocks; i++) {
        int j = random_below(&r, i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    w->table = new_ints(SLOTS * STRIDE);
    memset(w->table, 0x7f, SLOTS * STRIDE * sizeof *w->table);
    int next = 0;
    for (int i = 0; i < s->n_seqs; i++) {
        for (int k = 0; k * s->block_tokens < s->kv_len[i]; k++) {
            used[n_blocks + order[next]] = true;
            w->table[w->slot[i] * STRIDE + k] = order[next++];
        }
    }
    spoil_unused(&w->kv, w->kv.k, w->kv.k_scale, used);
    spoil_unused(&w->kv, w->kv.v, w->kv.v_scale, used);
    /* The rest of each last block too. */
    for (int i = 0; i < s->n_seqs; i++) {
        for (int p = s->kv_len[i]; p % s->block_tokens; p++) {
            for (int h = 0; h < s->n_kv_heads; h++) {
                size_t row = kv_row(&w->kv, 1, w->table + w->slot[i] * STRIDE, h, p);
                spoil_rows(&w->kv, w->kv.k, w->kv.k_scale, row, 1);
                spoil_rows(&w->kv, w->kv.v, w->kv.v_scale, row, 1);
            }
        }
    }
    free(order);
    free(used);

    w->token_seq = new_ints((size_t)n_tokens);
    w->positions = new_ints((size_t)n_tokens);
    w->ids = calloc((size_t)n_tokens, sizeof *w->ids);
    for (int i = 0; i < s->n_seqs; i++) {
        for (int t = w->seq_start[i]; t < w->seq_start[i + 1]; t++) {
            w->token_seq[t] = i;
            w->positions[t] = s->kv_len[i] - (w->seq_start[i + 1] - t);
        }
    }
    w->batch = (struct batch){.n_tokens = n_tokens,
                              .n_seqs = s->n_seqs,
                              .token_ids = w->ids,
                              .positions = w->positions,
                              .token_seq = w->token_seq,
                              .seq_start = w->seq_start,
                              .kv_len = w->kv_len,
                              .slot = w->slot,
                              .n_prompt = w->n_prompt,
                              .block_table = w->table};
    w->n_values = (size_t)n_tokens * (size_t)(s->n_heads * s->head_dim);
    w->q_stride = s->n_heads * s->head_dim + s->more.q_gap;
    w->q = new_normal(&r, (size_t)n_tokens * (size_t)w->q_stride, 2);
    for (int h = 0; h < s->n_heads; h++)
        w->alibi[h] = exp2f(-8.0f * (float)(h + 1) / (float)s->n_heads);
    w->out = new_floats(w->n_values);
}

static void free_world(struct world *w)
{
    free(w->kv.k);
    free(w->kv.v);
    free(w->kv.k_scale);
    free(w->kv.v_scale);
    free(w->table);
    free(w->token_seq);
    free(w->positions);
    free(w->ids);
    free(w->q);
    free(w->out);
}

static struct attention_args args_of(const struct world *w, const struct shape *s)
{
    return (struct attention_args){.out = w->out,
                                   .q = w->q,
                                   .q_stride = w->q_stride,
                                   .kv = &w->kv,
                                   .layer = 1,
                                   .n_heads = s->n_heads,
                                   .scale = 1 / sqrtf((float)s->head_dim),
                                   .soft_cap = s->soft_cap,
                                   .window = s->window,
                                   .alibi = s->more.alibi ? w->alibi : NULL,
                                   .bidirectional = s->more.bidirectional};
}

/* The cache means scale * code in float (ops.h). */
static double value_at(enum dtype dtype, const void *data, size_t i, const float *scale)
{
    if (dtype == DT_F32)
        return ((const float *)data)[i];
    if (dtype == DT_INT8)
        return *scale * (float)((const int8_t *)data)[i];
    if (dtype == DT_FP8)
        return *scale * scheme_e4m3(((const uint8_t *)data)[i]);
    uint16_t h = ((const uint16_t *)data)[i];
    return dtype == DT_F16 ? f32_from_f16(h) : f32_from_bf16(h);
}

static double key_at(const struct kv_cache *kv, size_t row, int d)
{
    return value_at(kv_key_dtype(kv->dtype), kv->k, row * (size_t)kv->head_dim + (size_t)d,
                    kv->k_scale + row);
}

/* The definition, in double. */
static void attend_exactly(const struct world *w, const struct attention_args *a, int t, int head,
                           double *out)
{
    const struct kv_cache *kv = a->kv;
    int seq = w->token_seq[t], p = w->positions[t];
    int last = a->bidirectional && p < w->n_prompt[seq] ? w->n_prompt[seq] - 1 : p;
    int kv_head = head / (a->n_heads / kv->n_kv_heads), hd = kv->head_dim;
    const int32_t *table = w->table + w->slot[seq] * STRIDE;
    const float *q = w->q + (size_t)t * (size_t)w->q_stride + (size_t)(head * hd);
    int first = a->window > 0 && p + 1 > a->window ? p + 1 - a->window : 0;
    double *score = malloc((size_t)(last + 1) * sizeof *score), top = -INFINITY, sum = 0;
    for (int c = first; c <= last; c++) {
        size_t row = kv_row(kv, a->layer, table, kv_head, c);
        double dot = 0;
        for (int d = 0; d < hd; d++)
            dot += (double)q[d] * key_at(kv, row, d);
        score[c] = dot * (double)a->scale;
        if (a->soft_cap > 0)
            score[c] = (double)a->soft_cap * tanh(score[c] / (double)a->soft_cap);
        if (a->alibi)
            score[c] += (double)a->alibi[head] * (c - p);
        top = score[c] > top ? score[c] : top;
    }
    for (int d = 0; d < hd; d++)
        out[d] = 0;
    for (int c = first; c <= last; c++) {
        size_t row = kv_row(kv, a->layer, table, kv_head, c);
        double weight = exp(score[c] - top);
        sum += weight;
        for (int d = 0; d < hd; d++)
            out[d] += weight *
                      value_at(kv->dtype, kv->v, row * (size_t)hd + (size_t)d, kv->v_scale + row);
    }
    for (int d = 0; d < hd; d++)
        out[d] /= sum;
    free(score);
}

static void begin_world(struct device *d, const struct world *w, const struct shape *s)
{
    struct device_limits l = wide_limits();
    l.block_tokens = s->block_tokens;
    give_work(d, &l);
    take_batch(d, &w->batch);
}

static void every_row_is_its_softmax(void **state)
{
    (void)state;
    for (int isa = 0; isa < ISAS; isa++) {
        struct device *d = open_cpu(isa_names[isa], 2);
        if (!d)
            continue;
        double worst = 0;
        for (int i = 0; i < SHAPES; i++) {
            const struct shape *s = &shapes[i];
            struct world w = {0};
            build_world(&w, s, 100 + (uint64_t)i);
            struct attention_args a = args_of(&w, s);
            begin_world(d, &w, s);
            cpu_backend.ops->attention(d, &a);
            double want[512];
            for (int t = 0; t < w.batch.n_tokens; t++) {
                for (int h = 0; h < s->n_heads; h++) {
                    attend_exactly(&w, &a, t, h, want);
                    for (int k = 0; k < s->head_dim; k++) {
                        double got = (double)w.out[(t * s->n_heads + h) * s->head_dim + k];
                        double error = fabs(got - want[k]);
                        if (!(error < 5e-6))
                            fail_msg("%s, %s: token %d head %d value %d: got %.9g, want %.9g",
                                     isa_names[isa], s->name, t, h, k, got, want[k]);
                        worst = error > worst ? error : worst;
                    }
                }
            }
            free_world(&w);
        }
        print_message("           %s: largest error %.2g\n", isa_names[isa], worst);
        cpu_backend.ops->close(d);
    }
}

/* The same cache in another type, of 8 bits. */
static struct kv_cache quantize(const struct device *d, const struct kv_cache *from,
                                enum dtype dtype)
{
    struct kv_cache to = *from;
    to.dtype = dtype;
    const size_t n_rows = kv_scale_bytes(&to) / sizeof(float), n = (size_t)to.head_dim;
    to.k = malloc(kv_bytes(&to));
    to.v = malloc(kv_bytes(&to));
    to.k_scale = new_floats(n_rows);
    to.v_scale = new_floats(n_rows);
    for (size_t row = 0; row < n_rows; row++) {
        to.k_scale[row] = cpu_rows(d)->kv_quantize(
            (char *)to.k + row * n, (const float *)from->k + row * n, (int)n, kv_key_dtype(dtype));
        to.v_scale[row] = cpu_rows(d)->kv_quantize((char *)to.v + row * n,
                                                   (const float *)from->v + row * n, (int)n, dtype);
    }
    return to;
}

/* By how much rounding to the type may move value d of a row. */
static double rounding(const struct kv_cache *wide, const float *x, int d, enum dtype dtype)
{
    double top = 0;
    for (int i = 0; i < wide->head_dim; i++)
        top = fmax(top, fabs((double)x[i]));
    if (dtype == DT_INT8)
        return 1.001 * top / 254;
    return 1.001 * fmax(fabs((double)x[d]) / 16, top / 448 * 0x1p-10);
}

/* A score moves by at most e, so a weight by a factor within exp(-2e) and exp(2e), and the result
 * by (exp(2e) - 1) of the largest value besides that value's own rounding. */
static double result_bound(const struct world *w, const struct attention_args *a, int t, int head,
                           enum dtype dtype)
{
    const struct kv_cache *kv = a->kv;
    const int kv_head = head / (a->n_heads / kv->n_kv_heads), hd = kv->head_dim;
    const int32_t *table = w->table + w->slot[w->token_seq[t]] * STRIDE;
    const float *q = w->q + (size_t)t * (size_t)w->q_stride + (size_t)(head * hd);
    double score = 0, top = 0, value = 0;
    for (int c = 0; c <= w->positions[t]; c++) {
        const size_t row = kv_row(kv, a->layer, table, kv_head, c) * (size_t)hd;
        const float *k = (const float *)kv->k + row, *v = (const float *)kv->v + row;
        double e = 0;
        for (int d = 0; d < hd; d++) {
            e += fabs((double)q[d]) * rounding(kv, k, d, kv_key_dtype(dtype));
            value = fmax(value, rounding(kv, v, d, dtype));
            top = fmax(top, fabs((double)v[d]));
        }
        score = fmax(score, e * (double)a->scale);
    }
    return value + top * expm1(2 * score);
}

static void eight_bits_move_a_result_no_more_than_their_rounding(void **state)
{
    (void)state;
    static const struct shape s = {"wide", 6, 2, 64,           16,         DT_F32,
                                   0,      0, 3, {40, 300, 1}, {40, 2, 1}, {0}};
    static const enum dtype types[] = {DT_INT8, DT_FP8};
    for (int i = 0; i < 2 * ISAS; i++) {
        const enum dtype dtype = types[i % 2];
        struct device *d = open_cpu(isa_names[i / 2], 2);
        if (!d)
            continue;
        struct world w = {0};
        build_world(&w, &s, 500);
        for (size_t k = 0; k < (size_t)w.batch.n_tokens * (size_t)w.q_stride; k++)
            w.q[k] *= 0.05f; /* scores of any size would make the bound say nothing */
        struct attention_args a = args_of(&w, &s);
        float *narrow = new_floats(w.n_values);
        double most = 0;
        begin_world(d, &w, &s);
        cpu_backend.ops->attention(d, &a);
        struct attention_args of_narrow = a;
        struct kv_cache kv = quantize(d, &w.kv, dtype);
        of_narrow.kv = &kv;
        of_narrow.out = narrow;
        cpu_backend.ops->attention(d, &of_narrow);
        for (int row = 0; row < w.batch.n_tokens * s.n_heads; row++) {
            const double bound = result_bound(&w, &a, row / s.n_heads, row % s.n_heads, dtype);
            for (int k = 0; k < s.head_dim; k++) {
                const int at = row * s.head_dim + k;
                const double moved = fabs((double)narrow[at] - (double)w.out[at]);
                if (!(moved <= bound))
                    fail_msg("%s, %s: row %d value %d moved by %.3g, more than %.3g",
                             isa_names[i / 2], dtype_traits[dtype].name, row, k, moved, bound);
                most = fmax(most, moved / bound);
            }
        }
        print_message("           %s, %s: at most %.2f of the bound\n", isa_names[i / 2],
                      dtype_traits[dtype].name, most);
        assert_true(most > 0.05); /* or it says nothing */
        free(narrow), free(kv.k), free(kv.v), free(kv.k_scale), free(kv.v_scale);
        free_world(&w);
        cpu_backend.ops->close(d);
    }
}

/* The same rows, computed one token at a time: other tiles, other parts, maybe other cuts. */
static void attend_singly(struct device *d, const struct world *w, const struct shape *s,
                          float *out)
{
    size_t width = (size_t)(s->n_heads * s->head_dim);
    for (int t = 0; t < w->batch.n_tokens; t++) {
        int seq = w->token_seq[t];
        int32_t start[2] = {0, 1}, kv_len = w->positions[t] + 1, zero = 0;
        if (s->more.bidirectional && kv_len < w->n_prompt[seq])
            continue; /* what comes after it would be missing */
        struct batch one = {.n_tokens = 1,
                            .n_seqs = 1,
                            .token_ids = &zero,
                            .positions = &w->positions[t],
                            .token_seq = &zero,
                            .seq_start = start,
                            .kv_len = &kv_len,
                            .slot = &w->slot[seq],
                            .n_prompt = &w->n_prompt[seq],
                            .block_table = w->table};
        struct attention_args a = args_of(w, s);
        take_batch(d, &one);
        a.q = w->q + (size_t)t * (size_t)w->q_stride;
        a.out = out + (size_t)t * width;
        cpu_backend.ops->attention(d, &a);
    }
}

static void bits_do_not_depend_on_batch_threads_or_chunks(void **state)
{
    (void)state;
    for (int isa = 0; isa < ISAS; isa++) {
        struct device *one = open_cpu(isa_names[isa], 1);
        if (!one)
            continue;
        struct device *many = open_cpu(isa_names[isa], 5);
        for (int i = 0; i < SHAPES; i++) {
            const struct shape *s = &shapes[i];
            struct world w = {0};
            build_world(&w, s, 200 + (uint64_t)i);
            struct attention_args a = args_of(&w, s);
            float *threaded = new_floats(w.n_values), *singly = new_floats(w.n_values);
            begin_world(one, &w, s);
            begin_world(many, &w, s);
            cpu_backend.ops->attention(one, &a);
            a.out = threaded;
            cpu_backend.ops->attention(many, &a);
            memcpy(singly, w.out, s->more.bidirectional ? w.n_values * sizeof(float) : 0);
            attend_singly(many, &w, s, singly);
            if (memcmp(w.out, threaded, w.n_values * sizeof(float)) != 0)
                fail_msg("%s, %s: 5 threads changed bits", isa_names[isa], s->name);
            if (memcmp(w.out, singly, w.n_values * sizeof(float)) != 0)
                fail_msg("%s, %s: a token alone has other bits", isa_names[isa], s->name);
            free(threaded);
            free(singly);
            free_world(&w);
        }
        cpu_backend.ops->close(one);
        cpu_backend.ops->close(many);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_its_softmax),
        cmocka_unit_test(eight_bits_move_a_result_no_more_than_their_rounding),
        cmocka_unit_test(bits_do_not_depend_on_batch_threads_or_chunks),
    };
    return cmocka_run_group_tests_name("attention", tests, NULL, NULL);
}
