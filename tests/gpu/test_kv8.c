/* What a cache of 8 bits promises on CUDA: the codes that the CPU would write, attention over them
 * as on the CPU but for the rounding of activations, and bits that depend on a token's own sequence
 * and position alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/gpu/device_pair.h"

enum { TOKENS_MAX = 300, SLOTS = 3, CONTEXT = 4096, LAYERS = 2, LAYER = 1, HEADS_MAX = 24 };

struct shape {
    int head_dim, rope_dims, n_heads, n_kv_heads;
    enum rope_kind rope;
    enum dtype dtype;
    bool norm;
    int window;
    float soft_cap;
    bool alibi;
};

static const struct shape shapes[] = {
    {64, 64, 9, 3, ROPE_NEOX, DT_INT8, false, 0, 0, false},
    {64, 64, 9, 3, ROPE_ADJACENT, DT_FP8, true, 0, 0, true},
    {80, 20, 8, 2, ROPE_NEOX, DT_INT8, true, 0, 0, false},
    {80, 80, 8, 2, ROPE_NEOX, DT_FP8, false, 200, 0, false},
    {96, 96, 6, 6, ROPE_NEOX, DT_INT8, false, 0, 20, true},
    {128, 128, 24, 2, ROPE_NEOX, DT_INT8, true, 0, 0, false},
    {128, 64, 8, 8, ROPE_ADJACENT, DT_FP8, false, 333, 0, true},
    {256, 256, 8, 2, ROPE_NEOX, DT_INT8, false, 0, 0, false},
    {256, 0, 20, 2, ROPE_NONE, DT_FP8, false, 0, 30, false},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* A sequence of two runs of splits, whose last 20 tokens were generated: with 8 heads enough for
 * items that are runs, as one of them alone is not.  One in its prompt, one of two tiles. */
static int32_t seq_kv_len[SLOTS] = {2500, 77, 600}, seq_n_new[SLOTS] = {20, 40, 130},
               seq_n_prompt[SLOTS] = {2480, 77, 600};
static int shape_step = 1; /* a small run takes every so manyth shape, in turn */

static struct device_limits limits_of(int block_tokens)
{
    return (struct device_limits){.step_tokens_max = TOKENS_MAX,
                                  .seqs_max = SLOTS,
                                  .heads_max = 4,
                                  .step_heads_max = 4,
                                  .context_max = CONTEXT,
                                  .block_tokens = block_tokens,
                                  .table_stride = CONTEXT / block_tokens,
                                  .history_max = SLOTS * CONTEXT,
                                  .bias_max = 16,
                                  .bias_slot_max = 16,
                                  .vocab = 1000,
                                  .hidden = 64,
                                  .ffn = 64,
                                  .n_heads = HEADS_MAX,
                                  .n_kv_heads = 8,
                                  .head_dim = 256,
                                  .in_max = 64};
}

/* What both devices get. */
struct world {
    const struct shape *s;
    int n_tokens, block_tokens, n_blocks, stride;
    int32_t ids[TOKENS_MAX], positions[TOKENS_MAX], token_seq[TOKENS_MAX];
    int32_t seq_start[SLOTS + 1], slot[SLOTS];
    int32_t *table;
    struct batch_block *block;
    int n_table_blocks;
    struct sample_params params;
    struct batch_slot set[SLOTS];
    float *qkv, *norm, *inv_freq, alibi[HEADS_MAX];
    uint8_t *codes[2];
    float *scales[2];
    struct batch batch;
};

static size_t n_rows(const struct world *w)
{
    return (size_t)LAYERS * (size_t)w->n_blocks * (size_t)w->s->n_kv_heads *
           (size_t)w->block_tokens;
}

static void make_batch(struct world *w)
{
    w->params = (struct sample_params){.top_p = 1, .repetition = 1, .n_logprobs = -1};
    for (int i = 0; i < SLOTS; i++) {
        w->slot[i] = i;
        w->set[i] =
            (struct batch_slot){.slot = i, .n_prompt = seq_n_prompt[i], .params = &w->params};
        w->seq_start[i] = w->n_tokens;
        for (int t = 0; t < seq_n_new[i]; t++) {
            w->token_seq[w->n_tokens] = i;
            w->positions[w->n_tokens++] = seq_kv_len[i] - seq_n_new[i] + t;
        }
    }
    w->seq_start[SLOTS] = w->n_tokens;
    w->batch = (struct batch){.n_tokens = w->n_tokens,
                              .n_seqs = SLOTS,
                              .n_slots = SLOTS,
                              .n_blocks = w->n_table_blocks,
                              .token_ids = w->ids,
                              .positions = w->positions,
                              .token_seq = w->token_seq,
                              .seq_start = w->seq_start,
                              .kv_len = seq_kv_len,
                              .slot = w->slot,
                              .n_prompt = seq_n_prompt,
                              .block_table = w->table,
                              .block = w->block,
                              .set = w->set};
}

static void make_table(struct world *w)
{
    const int stride = CONTEXT / w->block_tokens;
    w->n_blocks = SLOTS * stride;
    w->table = calloc((size_t)w->n_blocks, sizeof *w->table);
    w->block = calloc((size_t)w->n_blocks, sizeof *w->block);
    for (int i = 0; i < SLOTS; i++) {
        for (int at = 0; at * w->block_tokens < seq_kv_len[i]; at++) {
            const int32_t id = (i * stride + at) * 7 % w->n_blocks;
            w->table[i * stride + at] = id;
            w->block[w->n_table_blocks++] = (struct batch_block){i, at, id};
        }
    }
}

/* Codes of all kinds but E4M3's NaN, scales so that values are about 1. */
static void make_cache(struct world *w)
{
    const size_t n = n_rows(w) * (size_t)w->s->head_dim;
    for (int i = 0; i < 2; i++) {
        const bool is_e4m3 = i == 1 && w->s->dtype == DT_FP8;
        w->codes[i] = malloc(n);
        w->scales[i] = malloc(n_rows(w) * sizeof(float));
        for (size_t k = 0; k < n; k++)
            w->codes[i][k] = is_e4m3 ? (uint8_t)(random_below(127) + 128 * random_below(2))
                                     : (uint8_t)(random_below(255) - 127);
        for (size_t k = 0; k < n_rows(w); k++)
            w->scales[i][k] = (1 + fabsf(random_normal())) / (is_e4m3 ? 400 : 200);
    }
}

static void make_world(struct world *w, const struct shape *s, int block_tokens, enum dtype act)
{
    *w = (struct world){.s = s, .block_tokens = block_tokens};
    make_table(w);
    make_batch(w);
    make_cache(w);
    w->stride = (s->n_heads + 2 * s->n_kv_heads) * s->head_dim;
    w->qkv = random_acts((size_t)(w->n_tokens * w->stride), 1, act);
    w->norm = random_acts((size_t)s->head_dim, 1, DT_F32);
    w->inv_freq = malloc(256 * sizeof(float));
    for (int i = 0; i < s->rope_dims / 2; i++)
        w->inv_freq[i] = (float)pow(10000, -2.0 * i / s->rope_dims);
    for (int h = 0; h < s->n_heads; h++)
        w->alibi[h] = exp2f(-8.0f * (float)(h + 1) / (float)s->n_heads);
}

static void free_world(struct world *w)
{
    free(w->table), free(w->block), free(w->qkv), free(w->norm), free(w->inv_freq);
    for (int i = 0; i < 2; i++)
        free(w->codes[i]), free(w->scales[i]);
}

/* The same on a device. */
struct placed {
    struct kv_cache kv;
    char *qkv;
    float *norm, *inv_freq, *alibi, *out;
};

static void *take_copy(const struct tested_device *t, const void *from, size_t n_bytes)
{
    void *at = pair_take(t, n_bytes);
    t->ops->copy_in(t->d, at, from, n_bytes);
    return at;
}

static struct placed place(const struct tested_device *t, const struct world *w)
{
    const struct shape *s = w->s;
    const size_t n = n_rows(w) * (size_t)s->head_dim, n_scales = n_rows(w) * sizeof(float);
    assert_true(t->ops->kv_fits(t->d, s->dtype));
    return (struct placed){
        .kv = {.k = take_copy(t, w->codes[0], n),
               .v = take_copy(t, w->codes[1], n),
               .dtype = s->dtype,
               .n_layers = LAYERS,
               .n_blocks = w->n_blocks,
               .block_tokens = w->block_tokens,
               .n_kv_heads = s->n_kv_heads,
               .head_dim = s->head_dim,
               .k_scale = take_copy(t, w->scales[0], n_scales),
               .v_scale = take_copy(t, w->scales[1], n_scales)},
        .qkv = take_values(t, w->qkv, (size_t)(w->n_tokens * w->stride), t->act),
        .norm = take_values(t, w->norm, (size_t)s->head_dim, DT_F32),
        .inv_freq = take_values(t, w->inv_freq, (size_t)s->rope_dims / 2 + 1, DT_F32),
        .alibi = take_values(t, w->alibi, HEADS_MAX, DT_F32),
        .out = pair_take(t, (size_t)(w->n_tokens * s->n_heads * s->head_dim) * sizeof(float))};
}

static void run_rope(const struct tested_device *t, const struct world *w, const struct placed *p)
{
    const struct shape *s = w->s;
    const size_t value = t->act == DT_F32 ? 4 : 2, k_at = (size_t)(s->n_heads * s->head_dim);
    const size_t v_at = k_at + (size_t)(s->n_kv_heads * s->head_dim);
    t->ops->step_begin(t->d, &w->batch, 0);
    t->ops->rope_kv(t->d, &(struct rope_kv_args){.q = p->qkv,
                                                 .k = p->qkv + k_at * value,
                                                 .v = p->qkv + v_at * value,
                                                 .stride = w->stride,
                                                 .q_norm = s->norm ? p->norm : NULL,
                                                 .k_norm = s->norm ? p->norm : NULL,
                                                 .norm_eps = 1e-6f,
                                                 .kv = &p->kv,
                                                 .layer = LAYER,
                                                 .n_heads = s->n_heads,
                                                 .rope = s->rope,
                                                 .rope_dims = s->rope_dims,
                                                 .inv_freq = p->inv_freq,
                                                 .rope_scale = 1});
    end_step(t, NULL);
}

static void run_attention(const struct tested_device *t, const struct batch *b,
                          const struct world *w, const struct placed *p, size_t first_token,
                          float *out)
{
    const struct shape *s = w->s;
    t->ops->step_begin(t->d, b, 0);
    t->ops->attention(t->d, &(struct attention_args){.out = p->out,
                                                     .q = p->qkv + first_token * (size_t)w->stride *
                                                                       (t->act == DT_F32 ? 4 : 2),
                                                     .q_stride = w->stride,
                                                     .kv = &p->kv,
                                                     .layer = LAYER,
                                                     .n_heads = s->n_heads,
                                                     .scale = 1 / sqrtf((float)s->head_dim),
                                                     .soft_cap = s->soft_cap,
                                                     .window = s->window,
                                                     .alibi = s->alibi ? p->alibi : NULL});
    end_step(t, NULL);
    get_values(t, out, p->out, (size_t)(b->n_tokens * s->n_heads * s->head_dim), t->act);
}

/* Order of E4M3 codes is that of their values, but for the sign. */
static int code_order(uint8_t code, bool is_e4m3)
{
    if (!is_e4m3)
        return (int8_t)code;
    return code & 0x80 ? -(code & 0x7f) : code;
}

static void compare_caches(const struct pair *p, const struct world *w, const struct placed at[2])
{
    const size_t n = n_rows(w) * (size_t)w->s->head_dim;
    uint8_t *codes[2];
    float *scales[2];
    for (int kind = 0; kind < 2; kind++) { /* K, V */
        const bool is_e4m3 = kind == 1 && w->s->dtype == DT_FP8;
        size_t n_moved = 0;
        for (int i = 0; i < 2; i++) {
            const struct tested_device *t = &p->dev[i];
            const struct kv_cache *kv = &at[i].kv;
            codes[i] = malloc(n);
            scales[i] = malloc(n_rows(w) * sizeof(float));
            t->ops->copy_out(t->d, codes[i], kind ? kv->v : kv->k, n);
            t->ops->copy_out(t->d, scales[i], kind ? kv->v_scale : kv->k_scale,
                             n_rows(w) * sizeof(float));
        }
        for (size_t k = 0; k < n_rows(w); k++)
            if (!(fabsf(scales[1][k] - scales[0][k]) <= (kind ? 0 : 1e-4f) * scales[0][k]))
                fail_msg("row %zu: scale %.9g, want %.9g", k, (double)scales[1][k],
                         (double)scales[0][k]);
        for (size_t k = 0; k < n; k++) {
            const int apart =
                abs(code_order(codes[1][k], is_e4m3) - code_order(codes[0][k], is_e4m3));
            n_moved += apart > 0;
            if (apart > (kind ? 0 : 1)) /* V is rounded as it is, K behind sines of either device */
                fail_msg("%s code %zu: %d, want %d", kind ? "V" : "K", k, codes[1][k], codes[0][k]);
        }
        assert_true(n_moved <= n / 1000);
        for (int i = 0; i < 2; i++)
            free(codes[i]), free(scales[i]);
    }
}

static void rope_kv_writes_the_codes_of_the_cpu(void **state)
{
    const struct pair *p = *state;
    for (int i = 0; i < SHAPES; i++) {
        struct world w;
        struct placed at[2];
        make_world(&w, &shapes[i], 16, p->dev[1].act);
        const size_t n = (size_t)(w.n_tokens * w.stride);
        float *after[2];
        for (int k = 0; k < 2; k++) {
            at[k] = place(&p->dev[k], &w);
            run_rope(&p->dev[k], &w, &at[k]);
            after[k] = malloc(n * sizeof(float));
            get_values(&p->dev[k], after[k], at[k].qkv, n, p->dev[k].act);
        }
        compare_caches(p, &w, at);
        const float unit = 1.01f * (p->dev[1].act == DT_F16 ? 0x1p-11f : 0x1p-8f);
        for (size_t k = 0; k < n; k++)
            if ((int)(k % (size_t)w.stride) < w.s->n_heads * w.s->head_dim &&
                !(fabsf(after[1][k] - after[0][k]) <= unit * fabsf(after[0][k]) + 2e-4f))
                fail_msg("shape %d, q value %zu: %g, want %g", i, k, (double)after[1][k],
                         (double)after[0][k]);
        free(after[0]), free(after[1]);
        free_world(&w);
    }
}

/* Token t of the batch by itself. */
static struct batch batch_of_one(const struct world *w, int t, int32_t start[2], int32_t *kv_len,
                                 int32_t *zero)
{
    const int32_t seq = w->token_seq[t];
    start[0] = *zero = 0;
    start[1] = 1;
    *kv_len = w->positions[t] + 1;
    return (struct batch){.n_tokens = 1,
                          .n_seqs = 1,
                          .token_ids = zero,
                          .positions = &w->positions[t],
                          .token_seq = zero,
                          .seq_start = start,
                          .kv_len = kv_len,
                          .slot = &w->slot[seq],
                          .n_prompt = &seq_n_prompt[seq],
                          .block_table = w->table};
}

static void compare_attention(const struct pair *p, const struct shape *s, int block_tokens,
                              int index)
{
    struct world w;
    make_world(&w, s, block_tokens, p->dev[1].act);
    const size_t width = (size_t)(s->n_heads * s->head_dim), n = (size_t)w.n_tokens * width;
    const float limit = p->dev[1].act == DT_F16 ? 0.005f : 0.04f;
    float *out[2], *alone = malloc(width * sizeof *alone);
    struct placed at[2];
    for (int k = 0; k < 2; k++) {
        out[k] = malloc(n * sizeof(float));
        at[k] = place(&p->dev[k], &w);
        run_attention(&p->dev[k], &w.batch, &w, &at[k], 0, out[k]);
    }
    float worst = 0;
    for (size_t k = 0; k < n; k++) {
        const float error = fabsf(out[1][k] - out[0][k]);
        worst = error > worst ? error : worst;
        if (!(error <= limit))
            fail_msg("shape %d, token %zu, value %zu: %g, want %g", index, k / width, k % width,
                     (double)out[1][k], (double)out[0][k]);
    }
    for (int t = 0; t < w.n_tokens; t += t < seq_n_new[0] ? 1 : 17) {
        int32_t start[2], kv_len, zero;
        const struct batch one = batch_of_one(&w, t, start, &kv_len, &zero);
        run_attention(&p->dev[1], &one, &w, &at[1], (size_t)t, alone);
        if (memcmp(alone, out[1] + (size_t)t * width, width * sizeof *alone) != 0)
            fail_msg("shape %d: token %d alone has other bits", index, t);
    }
    print_message("           %d heads of %d over %d, %s%s: largest error %.2g\n", s->n_heads,
                  s->head_dim, s->n_kv_heads, dtype_traits[s->dtype].name,
                  s->alibi ? ", ALiBi" : "", (double)worst);
    free(out[0]), free(out[1]), free(alone);
    free_world(&w);
}

static int next_shape(void)
{
    static int turn;
    return turn++ % shape_step;
}

static void attention_agrees_with_the_cpu(void **state)
{
    for (int i = next_shape(); i < SHAPES; i += shape_step)
        compare_attention(*state, &shapes[i], 16, i);
}

static void attention_over_pages_of_8_tokens_agrees_with_the_cpu(void **state)
{
    for (int i = next_shape(); i < SHAPES; i += shape_step)
        compare_attention(*state, &shapes[i], 8, i);
}

static int open_pair(void **state, enum dtype act, int block_tokens)
{
    static struct pair pair;
    const struct device_limits limits = limits_of(block_tokens);
    *state = &pair;
    return pair_open(&pair, act, &limits) ? 0 : -1;
}

static int open_bf16(void **state)
{
    return open_pair(state, DT_BF16, 16);
}

static int open_f16(void **state)
{
    return open_pair(state, DT_F16, 16);
}

static int open_small_pages(void **state)
{
    return open_pair(state, DT_BF16, 8);
}

static int close_pair(void **state)
{
    pair_close(*state);
    return 0;
}

/* With an argument: a shorter prompt, and fewer shapes; "few" has one for each group of tests. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rope_kv_writes_the_codes_of_the_cpu),
        cmocka_unit_test(attention_agrees_with_the_cpu),
    };
    const struct CMUnitTest pages[] = {
        cmocka_unit_test(attention_over_pages_of_8_tokens_agrees_with_the_cpu),
    };
    if (argc > 1) {
        shape_step = strcmp(argv[1], "few") == 0 ? SHAPES : 3;
        seq_kv_len[2] = seq_n_prompt[2] = 230;
    }
    int n_failed = cmocka_run_group_tests_name("kv of 8 bits, bf16", tests, open_bf16, close_pair);
    n_failed += cmocka_run_group_tests_name("kv of 8 bits, f16", tests, open_f16, close_pair);
    return n_failed + cmocka_run_group_tests_name("kv of 8 bits, small pages", pages,
                                                  open_small_pages, close_pair);
}
