/* What norm, embed and rope_kv promise on CUDA: what they do on the CPU, but for the rounding of
 * activations; and bits of a row that do not depend on the rows beside it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/gpu/device_pair.h"

enum { TOKENS_MAX = 300, SLOTS = 3, BLOCK_TOKENS = 16, CONTEXT = 4096, WIDTH_MAX = 5120 };

static const struct device_limits limits = {.step_tokens_max = TOKENS_MAX,
                                            .seqs_max = SLOTS,
                                            .heads_max = 4,
                                            .step_heads_max = 4,
                                            .context_max = CONTEXT,
                                            .block_tokens = BLOCK_TOKENS,
                                            .table_stride = CONTEXT / BLOCK_TOKENS,
                                            .history_max = SLOTS * CONTEXT, /* tables come whole with one step */
                                            .bias_max = 16,
                                            .bias_slot_max = 16,
                                            .vocab = 1000,
                                            .hidden = WIDTH_MAX,
                                            .ffn = WIDTH_MAX,
                                            .n_heads = 8,
                                            .n_kv_heads = 2,
                                            .head_dim = 256,
                                            .in_max = WIDTH_MAX};

/* One rounding to the activation type costs half of its last place; f32 before it a hundredth of
 * that, and where terms cancel, something of their size, which is about 1: where activations are
 * f32, some of its roundings. */
static void assert_close(const float *got, const float *want, size_t n, enum dtype act,
                         const char *what)
{
    const float unit = act == DT_F32 ? 1e-6f : 1.01f * (act == DT_F16 ? 0x1p-11f : 0x1p-8f);
    const float cancelled = act == DT_F32 ? 4e-6f : 2e-4f;
    for (size_t i = 0; i < n; i++) {
        if (!(fabsf(got[i] - want[i]) <= unit * fabsf(want[i]) + cancelled))
            fail_msg("%s: value %zu is %g, want %g", what, i, (double)got[i], (double)want[i]);
    }
}

/* One sequence of n tokens in slot 1 that ends at kv_len. */
struct one_sequence {
    int32_t ids[TOKENS_MAX], positions[TOKENS_MAX], token_seq[TOKENS_MAX];
    int32_t seq_start[2], kv_len[1], slot[1], n_prompt[1];
    int32_t table[SLOTS * (CONTEXT / BLOCK_TOKENS)];
    struct batch_block block[CONTEXT / BLOCK_TOKENS];
    struct sample_params params;
    struct batch_slot set[1];
    struct batch batch;
};

static void make_sequence(struct one_sequence *s, int n, int kv_len)
{
    int n_blocks = (kv_len + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    *s = (struct one_sequence){
        .seq_start = {0, n}, .kv_len = {kv_len}, .slot = {1}, .n_prompt = {kv_len}};
    s->params = (struct sample_params){.top_p = 1, .repetition = 1, .n_logprobs = -1};
    s->set[0] = (struct batch_slot){.slot = 1, .n_prompt = kv_len, .params = &s->params};
    for (int t = 0; t < n; t++) {
        s->ids[t] = random_below(1000);
        s->positions[t] = kv_len - n + t;
    }
    for (int i = 0; i < n_blocks; i++) {
        int32_t id = (i * 7 + 3) % (CONTEXT / BLOCK_TOKENS);
        s->table[CONTEXT / BLOCK_TOKENS + i] = id;
        s->block[i] = (struct batch_block){1, i, id};
    }
    s->batch = (struct batch){.n_tokens = n,
                              .n_seqs = 1,
                              .n_slots = 1,
                              .n_blocks = n_blocks,
                              .token_ids = s->ids,
                              .positions = s->positions,
                              .token_seq = s->token_seq,
                              .seq_start = s->seq_start,
                              .kv_len = s->kv_len,
                              .slot = s->slot,
                              .n_prompt = s->n_prompt,
                              .block_table = s->table,
                              .block = s->block,
                              .set = s->set};
}

static struct one_sequence sequence;

/* `adds`: onto the residual, which is where y is. */
static void compare_norm(struct pair *p, int rows, int width, enum norm_kind kind, bool adds)
{
    size_t n = (size_t)rows * (size_t)width;
    enum dtype act = p->dev[1].act;
    float *x = random_acts(n, 2, act), *w = random_acts((size_t)width, 1, DT_F32);
    float *residual = random_acts(n, 1, act);
    float *y[2] = {malloc(n * sizeof(float)), malloc(n * sizeof(float))};
    float *alone = malloc((size_t)width * sizeof *alone);
    int row = rows / 2;
    for (int i = 0; i < 2; i++) {
        const struct tested_device *t = &p->dev[i];
        float *dw = take_values(t, w, (size_t)width, DT_F32);
        char *dx = take_values(t, x, n, t->act), *dy = take_values(t, residual, n, t->act);
        char *da = take_values(t, residual, n, t->act);
        size_t at = (size_t)row * (size_t)width * (t->act == DT_F32 ? 4 : 2);
        struct norm_args a = {.y = dy,
                              .x = dx,
                              .rows = rows,
                              .width = width,
                              .norm = {kind, dw, kind == NORM_LAYER ? dw : NULL, 1e-5f},
                              .add = adds ? dy : NULL};
        make_sequence(&sequence, 1, 1);
        t->ops->step_begin(t->d, &sequence.batch, 0);
        t->ops->norm(t->d, &a);
        end_step(t, NULL);
        get_values(t, y[i], dy, n, t->act);
        a.x = dx + at;
        a.add = adds ? da + at : NULL;
        a.rows = 1;
        t->ops->step_begin(t->d, &sequence.batch, 0);
        t->ops->norm(t->d, &a);
        end_step(t, NULL);
        get_values(t, alone, dy, (size_t)width, t->act);
        assert_memory_equal(alone, y[i] + (size_t)row * (size_t)width, (size_t)width * 4);
    }
    assert_close(y[1], y[0], n, act, "norm");
    free(x), free(w), free(residual), free(y[0]), free(y[1]), free(alone);
}

static void norm_agrees_with_the_cpu(void **state)
{
    static const int widths[] = {576, 2048, 4096, 5120}, rows[] = {1, 3, 257};
    for (int w = 0; w < 4; w++) {
        for (int r = 0; r < 3; r++) {
            for (int adds = 0; adds < 2; adds++) {
                compare_norm(*state, rows[r], widths[w], NORM_RMS, adds);
                compare_norm(*state, rows[r], widths[w], NORM_LAYER, adds);
            }
        }
    }
}

static void embed_agrees_with_the_cpu(void **state)
{
    enum { VOCAB = 1000, HIDDEN = 576, N = 257 };
    struct pair *p = *state;
    float *table = random_acts((size_t)VOCAB * HIDDEN, 1, p->dev[1].act), *y[2];
    make_sequence(&sequence, N, N);
    for (int i = 0; i < 2; i++) {
        const struct tested_device *t = &p->dev[i];
        struct tensor w = {.data = take_values(t, table, (size_t)VOCAB * HIDDEN, t->act),
                           .dtype = t->act,
                           .layout = LAYOUT_PLAIN,
                           .rows = VOCAB,
                           .cols = HIDDEN};
        void *out = pair_take(t, (size_t)N * HIDDEN * 4);
        t->ops->step_begin(t->d, &sequence.batch, 0);
        t->ops->embed(t->d, &(struct embed_args){.out = out, .table = &w, .scale = 2.5f});
        end_step(t, NULL);
        y[i] = malloc((size_t)N * HIDDEN * 4);
        get_values(t, y[i], out, (size_t)N * HIDDEN, t->act);
    }
    assert_close(y[1], y[0], (size_t)N * HIDDEN, p->dev[1].act, "embed");
    free(table), free(y[0]), free(y[1]);
}

/* ---- a quantized table ---- */

enum { TABLE_ROWS = 1000, TABLE_COLS = 576 };

struct quant_table {
    struct scheme scheme;
    struct scheme_rows made;
};

static struct quant_table make_table(struct scheme s)
{
    const size_t groups = (size_t)scheme_groups(&s, TABLE_COLS), n_scales = TABLE_ROWS * groups;
    struct quant_table q = {.scheme = s};
    q.made.codes = malloc((size_t)TABLE_ROWS * TABLE_COLS);
    q.made.scales = malloc(n_scales * sizeof(float));
    q.made.zeros = malloc(n_scales * sizeof(int16_t));
    for (size_t i = 0; i < (size_t)TABLE_ROWS * TABLE_COLS; i++)
        q.made.codes[i] = (uint8_t)(rand() >> 7 & (s.codes == DT_INT8 ? 255 : s.codes == DT_FP8 ? 0xf7 : 15));
    for (size_t i = 0; i < n_scales; i++) {
        q.made.scales[i] = f32_from_bf16(f32_to_bf16((float)(rand() % 1000 + 1) * 1e-4f));
        q.made.zeros[i] = (int16_t)(rand() % 17);
    }
    return q;
}

static void give_rows(const void *ctx, int64_t first, int64_t n, const struct scheme_rows *to)
{
    const struct quant_table *q = ctx;
    const int64_t groups = scheme_groups(&q->scheme, TABLE_COLS);
    memcpy(to->codes, q->made.codes + first * TABLE_COLS, (size_t)(n * TABLE_COLS));
    memcpy(to->scales, q->made.scales + first * groups, (size_t)(n * groups) * sizeof(float));
    if (q->scheme.has_zero)
        memcpy(to->zeros, q->made.zeros + first * groups, (size_t)(n * groups) * sizeof(int16_t));
}

static float *embed_table(const struct tested_device *t, const struct quant_table *q)
{
    const size_t n = (size_t)sequence.batch.n_tokens * TABLE_COLS;
    struct tensor w = {
        .dtype = q->scheme.codes, .rows = TABLE_ROWS, .cols = TABLE_COLS, .scheme = &q->scheme};
    const struct weight_source src = {.fd = -1, .rows = give_rows, .ctx = q};
    struct status st = {0};
    float *y = malloc(n * sizeof *y);
    void *out = pair_take(t, n * 4);
    w.data = pair_take(t, t->ops->weight_bytes(t->d, &w));
    t->ops->weight_put(t->d, &w, &src);
    if (!t->ops->weights_done(t->d, &st))
        pair_die("weights_done", &st);
    t->ops->step_begin(t->d, &sequence.batch, 0);
    t->ops->embed(t->d, &(struct embed_args){.out = out, .table = &w, .scale = 2.5f});
    end_step(t, NULL);
    get_values(t, y, out, n, t->act);
    return y;
}

static void embed_reads_quantized_tables(void **state)
{
    static const struct scheme schemes[] = {
        {.codes = DT_INT8},
        {.codes = DT_INT4, .group = 64, .scale = DT_BF16},
        {.codes = DT_INT4, .group = 32, .scale = DT_BF16, .has_zero = true},
        {.codes = DT_INT8, .group = 96, .scale = DT_BF16, .has_zero = true},
        {.codes = DT_NF4, .group = 64},
        {.codes = DT_FP8},
        {.codes = DT_INT8, .act = ACTS_INT8},
        {.codes = DT_FP8, .act = ACTS_FP8},
    };
    struct pair *p = *state;
    make_sequence(&sequence, TOKENS_MAX, TOKENS_MAX);
    for (size_t k = 0; k < sizeof schemes / sizeof schemes[0]; k++) {
        struct quant_table q = make_table(schemes[k]);
        float *want = embed_table(&p->dev[0], &q), *got = embed_table(&p->dev[1], &q);
        /* The value is rounded, a codebook before, and so are its scales. */
        const float unit = p->dev[1].act == DT_F32
                               ? 0x1p-23f
                               : (q.scheme.codes == DT_NF4 ? 3.0f : 1.01f) *
                                     (p->dev[1].act == DT_F16 ? 0x1p-10f : 0x1p-8f);
        for (size_t i = 0; i < (size_t)TOKENS_MAX * TABLE_COLS; i++)
            if (!(fabsf(got[i] - want[i]) <= unit * fabsf(want[i]) + 1e-6f))
                fail_msg("scheme %zu: value %zu is %g, want %g", k, i, (double)got[i],
                         (double)want[i]);
        free(want), free(got);
        free(q.made.codes), free(q.made.scales), free(q.made.zeros);
    }
}

struct rope_case {
    int head_dim, dims, tokens;
    enum rope_kind rope;
    bool norm;
};

enum { HEADS = 6, KV_HEADS = 2, LAYERS = 2 };

static void run_rope(const struct tested_device *t, const struct rope_case *c, const float *x,
                     const float *norm, const float *inv_freq, float *q, float *cache)
{
    int stride = (HEADS + 2 * KV_HEADS) * c->head_dim;
    size_t n = (size_t)c->tokens * (size_t)stride, value = t->act == DT_F32 ? 4 : 2;
    size_t n_cache =
        (size_t)LAYERS * (CONTEXT / BLOCK_TOKENS) * KV_HEADS * BLOCK_TOKENS * (size_t)c->head_dim;
    char *dx = take_values(t, x, n, t->act);
    float *dnorm = take_values(t, norm, (size_t)c->head_dim, DT_F32);
    struct kv_cache kv = {.k = pair_take(t, n_cache * 4),
                          .v = pair_take(t, n_cache * 4),
                          .dtype = t->act,
                          .n_layers = LAYERS,
                          .n_blocks = CONTEXT / BLOCK_TOKENS,
                          .block_tokens = BLOCK_TOKENS,
                          .n_kv_heads = KV_HEADS,
                          .head_dim = c->head_dim};
    size_t k_at = HEADS * (size_t)c->head_dim, v_at = k_at + KV_HEADS * (size_t)c->head_dim;
    struct rope_kv_args a = {.q = dx,
                             .k = dx + k_at * value,
                             .v = dx + v_at * value,
                             .stride = stride,
                             .norm_eps = 1e-6f,
                             .kv = &kv,
                             .layer = 1,
                             .n_heads = HEADS,
                             .rope = c->rope,
                             .rope_dims = c->dims,
                             .inv_freq = take_values(t, inv_freq, (size_t)c->dims / 2, DT_F32),
                             .rope_scale = 1.1f};
    a.q_norm = a.k_norm = c->norm ? dnorm : NULL;
    t->ops->step_begin(t->d, &sequence.batch, 0);
    t->ops->rope_kv(t->d, &a);
    end_step(t, NULL);
    float *all = malloc(n * sizeof *all);
    get_values(t, all, dx, n, t->act);
    for (int i = 0; i < c->tokens; i++)
        memcpy(q + (size_t)i * k_at, all + (size_t)i * (size_t)stride, k_at * sizeof *q);
    free(all);
    get_values(t, cache, kv.k, n_cache, t->act);
    get_values(t, cache + n_cache, kv.v, n_cache, t->act);
}

static void compare_rope(struct pair *p, const struct rope_case *c)
{
    size_t n = (size_t)c->tokens * (HEADS + 2 * KV_HEADS) * (size_t)c->head_dim;
    size_t n_q = (size_t)c->tokens * HEADS * (size_t)c->head_dim;
    size_t n_cache = 2 * (size_t)LAYERS * (CONTEXT / BLOCK_TOKENS) * KV_HEADS * BLOCK_TOKENS *
                     (size_t)c->head_dim;
    float inv_freq[128], *q[2], *cache[2];
    float *x = random_acts(n, 1, p->dev[1].act);
    float *norm = random_acts((size_t)c->head_dim, 1, DT_F32);
    for (int i = 0; i < c->dims / 2; i++)
        inv_freq[i] = (float)pow(10000, -2.0 * i / c->dims);
    make_sequence(&sequence, c->tokens, CONTEXT - 5);
    for (int i = 0; i < 2; i++) {
        q[i] = malloc(n_q * sizeof(float));
        cache[i] = malloc(n_cache * sizeof(float));
        run_rope(&p->dev[i], c, x, norm, inv_freq, q[i], cache[i]);
    }
    assert_close(q[1], q[0], n_q, p->dev[1].act, "q");
    assert_close(cache[1], cache[0], n_cache, p->dev[1].act, "cache");
    for (int i = 0; i < 2; i++)
        free(q[i]), free(cache[i]);
    free(x), free(norm);
}

static void rope_kv_agrees_with_the_cpu(void **state)
{
    static const struct rope_case cases[] = {
        {64, 64, 1, ROPE_NEOX, false},      {64, 64, 257, ROPE_ADJACENT, true},
        {80, 32, 3, ROPE_NEOX, false},      {80, 20, 257, ROPE_NEOX, true},
        {96, 96, 3, ROPE_NEOX, true},       {128, 128, 257, ROPE_NEOX, true},
        {128, 64, 3, ROPE_ADJACENT, false}, {256, 256, 3, ROPE_NEOX, false},
        {256, 64, 3, ROPE_ADJACENT, true},  {128, 0, 3, ROPE_NONE, true},
        {20, 20, 3, ROPE_NEOX, true},       {20, 10, 3, ROPE_ADJACENT, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        compare_rope(*state, &cases[i]);
}

static int open_bf16(void **state)
{
    static struct pair pair;
    *state = &pair;
    return pair_open(&pair, DT_BF16, &limits) ? 0 : -1;
}

static int open_f16(void **state)
{
    static struct pair pair;
    *state = &pair;
    return pair_open(&pair, DT_F16, &limits) ? 0 : -1;
}

static int open_f32(void **state)
{
    static struct pair pair;
    *state = &pair;
    return pair_open(&pair, DT_F32, &limits) ? 0 : -1;
}

static int close_pair(void **state)
{
    pair_close(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_agrees_with_the_cpu),
        cmocka_unit_test(embed_agrees_with_the_cpu),
        cmocka_unit_test(embed_reads_quantized_tables),
        cmocka_unit_test(rope_kv_agrees_with_the_cpu),
    };
    int n_failed = cmocka_run_group_tests_name("small ops, bf16", tests, open_bf16, close_pair);
    n_failed += cmocka_run_group_tests_name("small ops, f16", tests, open_f16, close_pair);
    return n_failed + cmocka_run_group_tests_name("small ops, f32", tests, open_f32, close_pair);
}
