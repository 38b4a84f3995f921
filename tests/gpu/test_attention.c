/* What attention over a cache of 16 bits promises on CUDA: softmax over the keys that a token sees,
 * as float64 has it but for the rounding of what is 16 bits wide; all of the output, and no more;
 * and bits that depend on a token's own sequence and position alone, whichever kernel had it.
 *
 *     gpu_test_attention [small | sim]      for sanitizers, and where a GPU is simulated */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/parallel.h"
#include "tests/gpu/paged_seqs.h"

enum {
    LAYERS = 2,
    LAYER = 1,
    GUARD = 2,        /* rows behind the output */
    POISON = 0xffff,  /* a NaN in both types */
    RUNS_TASKS = 160, /* a step of so many has the kernel that sums runs: attention_plan.c */
    TASK_HEADS = 16,
};

/* Splits are 256 keys and more, runs 2048, tiles of a prompt 128 queries. */
static const struct seq mixed[] = {
    {4500, 24, 4476}, /* three runs; generated tokens computed again */
    {600, 130, 600},  /* behind keys of earlier steps, two tiles */
    {2049, 1, 2000},  {77, 77, 77},  {300, 40, 290}, /* a prompt's end, and what was generated */
    {2, 1, 1},        {1, 1, 1},     {256, 1, 200},
    {257, 1, 200},    {700, 1, 700}, /* a prompt's last token alone */
};
static const struct seq decode[] = {{4500, 1, 10}, {2048, 1, 2047}, {2047, 1, 9}, {512, 1, 500},
                                    {513, 1, 12},  {64, 1, 5},      {65, 1, 64},  {3, 1, 2},
                                    {1, 1, 0},     {1031, 1, 1030}, {33, 1, 2},   {3333, 1, 8}};
/* Of few kv heads: enough tokens that some items are runs. */
static const struct seq many[] = {{4500, 120, 4380}, {2300, 60, 2240}, {515, 3, 515},
                                  {300, 100, 200},   {150, 1, 1},      {90, 90, 90}};
static const struct seq prompts[] = {
    {300, 300, 300}, {77, 77, 77}, {1, 1, 1}, {2500, 1, 2400}, {200, 20, 190}};
static const struct seq few[] = {{2400, 1, 2050}, {300, 22, 280}, {150, 20, 150}, {70, 70, 70}};
static const struct seq two[] = {{600, 1, 580}, {90, 70, 88}};

static const struct shape all_shapes[] = {
    {64, 9, 3, 16, 0, 0, false, false, SEQS(mixed)},
    {64, 8, 8, 16, 33, 0, false, false, SEQS(mixed)},
    {64, 32, 8, 32, 0, 4, false, false, SEQS(mixed)},
    {64, 8, 1, 64, 0, 0, true, false, SEQS(many)},
    {64, 20, 1, 16, 1000, 0, false, false, SEQS(many)},
    {64, 8, 1, 8, 0, 6, true, false, SEQS(decode)},
    {80, 8, 8, 16, 200, 0, true, false, SEQS(mixed)},
    {80, 8, 2, 16, 0, 5, false, false, SEQS(many)},
    {80, 10, 2, 8, 0, 0, false, false, SEQS(mixed)},
    {80, 8, 1, 256, 1, 0, false, false, SEQS(decode)},
    {96, 6, 6, 16, 0, 0, false, false, SEQS(mixed)},
    {96, 24, 3, 32, 1000, 8, true, false, SEQS(mixed)},
    {96, 12, 1, 16, 1, 0, false, false, SEQS(many)},
    {96, 4, 4, 16, 0, 0, true, false, SEQS(decode)},
    {128, 32, 8, 16, 0, 0, false, false, SEQS(mixed)},
    {128, 24, 8, 64, 0, 5, false, false, SEQS(mixed)},
    {128, 7, 7, 8, 100, 5, true, false, SEQS(mixed)},
    {128, 8, 1, 128, 1000, 0, false, false, SEQS(many)},
    {128, 24, 2, 16, 0, 0, true, false, SEQS(many)},
    {128, 32, 8, 16, 333, 0, true, false, SEQS(decode)},
    {256, 8, 2, 16, 512, 7, false, false, SEQS(many)},
    {256, 4, 4, 16, 0, 0, true, false, SEQS(mixed)},
    {256, 8, 1, 64, 0, 0, false, false, SEQS(many)},
    {256, 10, 1, 16, 0, 0, false, false, SEQS(mixed)},
    {256, 20, 1, 16, 33, 6, true, false, SEQS(decode)},
    {64, 4, 1, 16, 0, 0, false, true, SEQS(prompts)},
    {80, 4, 4, 16, 33, 0, false, true, SEQS(prompts)},
    {96, 6, 2, 16, 0, 0, true, true, SEQS(prompts)},
    {128, 8, 2, 16, 150, 6, false, true, SEQS(prompts)},
    {256, 4, 2, 32, 0, 0, true, true, SEQS(prompts)},
};

/* Each kernel, each of what changes scores; and more, which a sanitizer has no time for. */
static const struct shape small_shapes[] = {
    {64, 16, 8, 16, 33, 0, false, false, SEQS(few)},
    {80, 4, 2, 16, 0, 4, true, false, SEQS(two)},
    {128, 6, 2, 16, 50, 5, true, false, SEQS(two)},
    {256, 3, 1, 16, 0, 5, false, false, SEQS(two)},
    {96, 2, 2, 8, 40, 0, true, true, SEQS(two)},
    {64, 9, 3, 8, 0, 0, true, false, SEQS(few)},
    {64, 20, 1, 16, 1, 0, false, false, SEQS(two)},
    {64, 4, 4, 16, 0, 0, false, true, SEQS(two)},
    {80, 8, 8, 32, 300, 0, false, false, SEQS(few)},
    {96, 12, 1, 16, 0, 6, true, false, SEQS(few)},
    {128, 32, 8, 64, 0, 0, true, false, SEQS(few)},
    {128, 16, 2, 8, 1000, 4, false, false, SEQS(few)},
    {128, 10, 2, 256, 0, 0, false, true, SEQS(two)},
    {256, 8, 8, 16, 200, 0, true, false, SEQS(few)},
    {256, 10, 1, 32, 0, 0, false, false, SEQS(few)},
    {256, 20, 1, 16, 0, 7, true, false, SEQS(two)},
};
enum { N_SMALL_SHAPES = 5, N_SIM_SHAPES = sizeof small_shapes / sizeof *small_shapes };

static const struct shape *shapes = all_shapes;
static int n_shapes = sizeof all_shapes / sizeof *all_shapes;
static bool is_small;

struct world {
    const struct shape *s;
    struct tested t;
    int stride; /* values between queries of two tokens */
    struct pages pages;
    struct sample_params params;
    struct batch_slot set[SEQS_MAX];
    struct step all;
    float *q, *k, *v; /* as the device has them: [n_tokens, n_heads, head_dim], rows of LAYER */
    float alibi[32];
    struct kv_cache kv; /* in device memory, as: */
    char *device_q, *device_out;
    float *device_alibi;
    uint16_t *out;        /* [n_tokens, n_heads, head_dim] of the step of all */
    double *want, *bound; /* likewise; how far a value may be from it */
};

/* How often each decode kernel ran, as the plan chooses it. */
static int n_steps_of_splits, n_steps_of_runs;

static struct device_limits limits_of(const struct shape *s)
{
    return (struct device_limits){.step_tokens_max = TOKENS_MAX,
                                  .seqs_max = SEQS_MAX,
                                  .heads_max = 4,
                                  .step_heads_max = 4,
                                  .context_max = CONTEXT,
                                  .block_tokens = s->block_tokens,
                                  .table_stride = CONTEXT / s->block_tokens,
                                  .history_max = SEQS_MAX * CONTEXT,
                                  .bias_max = 16,
                                  .bias_slot_max = 16,
                                  .vocab = 1000,
                                  .hidden = 64,
                                  .ffn = 64,
                                  .n_heads = s->n_heads,
                                  .n_kv_heads = s->n_kv_heads,
                                  .head_dim = s->head_dim,
                                  .in_max = 64};
}

static size_t row_width(const struct world *w)
{
    return (size_t)(w->s->n_heads * w->s->head_dim);
}

/* ---- Steps. ---- */

static void count_kernel(const struct world *w, const struct batch *b)
{
    const int group = w->s->n_heads / w->s->n_kv_heads;
    const int tasks = w->s->n_kv_heads * ((group + TASK_HEADS - 1) / TASK_HEADS);
    const bool allowed = w->s->head_dim <= 128 || group <= 8;
    bool decodes = false;
    for (int t = 0; t < b->n_tokens; t++)
        decodes |= b->positions[t] >= b->n_prompt[b->token_seq[t]];
    n_steps_of_runs += decodes && allowed && b->n_tokens * tasks >= RUNS_TASKS;
    n_steps_of_splits += decodes && !(allowed && b->n_tokens * tasks >= RUNS_TASKS);
}

/* A step whose queries begin at token `first` of all.  What stands behind the last row must stay as
 * it was. */
static void run(const struct world *w, const struct step *st, int first, uint16_t *out)
{
    const struct tested *t = &w->t;
    const struct shape *s = w->s;
    const size_t width = row_width(w), n = (size_t)st->batch.n_tokens * width;
    uint16_t guard[GUARD * 20 * 256]; /* no row is wider than these */
    struct status failed = {0};
    memset(out, 0xff, n * sizeof *out);
    memset(guard, 0xff, sizeof guard);
    t->ops->copy_in(t->d, w->device_out, out, n * sizeof *out);
    t->ops->copy_in(t->d, w->device_out + n * sizeof *out, guard, GUARD * width * sizeof *out);
    t->ops->step_begin(t->d, &st->batch, 0);
    t->ops->attention(
        t->d, &(struct attention_args){.out = w->device_out,
                                       .q = w->device_q + (size_t)first * (size_t)w->stride * 2,
                                       .q_stride = w->stride,
                                       .kv = &w->kv,
                                       .layer = LAYER,
                                       .n_heads = s->n_heads,
                                       .scale = 1 / sqrtf((float)s->head_dim),
                                       .soft_cap = s->soft_cap,
                                       .window = s->window,
                                       .alibi = s->alibi ? w->device_alibi : NULL,
                                       .bidirectional = s->bidirectional});
    t->ops->step_end(t->d);
    if (!t->ops->step_wait(t->d, NULL, &failed))
        die("step_wait", &failed);
    t->ops->copy_out(t->d, out, w->device_out, n * sizeof *out);
    t->ops->copy_out(t->d, guard, w->device_out + n * sizeof *out, GUARD * width * sizeof *out);
    for (size_t i = 0; i < GUARD * width; i++)
        assert_int_equal(guard[i], POISON);
    count_kernel(w, &st->batch);
}

/* ---- The world. ---- */

/* Keys or values: NaN wherever no token of a sequence is.  `host` gets LAYER's as floats. */
static void *make_rows(struct world *w, float **host)
{
    const struct shape *s = w->s;
    const size_t dim = (size_t)s->head_dim;
    const size_t n = pages_rows(&w->pages) * dim;
    uint16_t *rows = take_host(LAYERS * n * sizeof *rows), *at = rows + LAYER * n;
    *host = take_host(n * sizeof **host);
    memset(rows, 0xff, LAYERS * n * sizeof *rows);
    for (int i = 0; i < s->n_seqs; i++) {
        uint16_t *from = random_acts(&w->t, (size_t)(s->seq[i].kv_len * s->n_kv_heads) * dim, 1),
                 *next = from;
        for (int key = 0; key < s->seq[i].kv_len; key++) {
            for (int h = 0; h < s->n_kv_heads; h++, next += dim)
                memcpy(at + pages_row(&w->pages, slot_of(i), h, key) * dim, next,
                       dim * sizeof *next);
        }
        free(from);
    }
    for (size_t i = 0; i < n; i++)
        (*host)[i] = act_to_f32(&w->t, at[i]);
    void *device = put(&w->t, rows, LAYERS * n * sizeof *rows);
    free(rows);
    return device;
}

/* Queries of a deviation of 3, so that weights are neither equal nor one: with the rest of their
 * rows NaN. */
static void make_queries(struct world *w)
{
    const size_t width = row_width(w), n = (size_t)w->all.batch.n_tokens;
    uint16_t *random = random_acts(&w->t, n * width, 3);
    uint16_t *rows = take_host(n * (size_t)w->stride * sizeof *rows);
    memset(rows, 0xff, n * (size_t)w->stride * sizeof *rows);
    w->q = take_host(n * width * sizeof *w->q);
    for (size_t t = 0; t < n; t++)
        memcpy(rows + t * (size_t)w->stride, random + t * width, width * sizeof *rows);
    for (size_t i = 0; i < n * width; i++)
        w->q[i] = act_to_f32(&w->t, random[i]);
    w->device_q = put(&w->t, rows, n * (size_t)w->stride * sizeof *rows);
    free(random), free(rows);
}

static void make_world(struct world *w, const struct shape *s, enum dtype act)
{
    const struct device_limits limits = limits_of(s);
    *w = (struct world){.s = s, .stride = (s->n_heads + 2 * s->n_kv_heads) * s->head_dim};
    device_open(&w->t, act, &limits);
    w->pages = pages_of(s);
    step_open(&w->all, w->pages.table);
    w->params = (struct sample_params){.top_p = 1, .repetition = 1, .n_logprobs = -1};
    for (int i = 0; i < s->n_seqs; i++) {
        step_add(&w->all, &s->seq[i], slot_of(i), 0, s->seq[i].n_new);
        w->set[i] = (struct batch_slot){
            .slot = slot_of(i), .n_prompt = s->seq[i].n_prompt, .params = &w->params};
    }
    w->all.batch.set = w->set;
    w->all.batch.n_slots = s->n_seqs;
    w->all.batch.block = w->pages.block;
    w->all.batch.n_blocks = w->pages.n_table_blocks;
    const size_t n = (size_t)w->all.batch.n_tokens * row_width(w);
    for (int h = 0; h < s->n_heads; h++)
        w->alibi[h] = exp2f(-8.0f * (float)(h + 1) / (float)s->n_heads);
    w->kv = (struct kv_cache){.dtype = act,
                              .n_layers = LAYERS,
                              .n_blocks = w->pages.n_blocks,
                              .block_tokens = s->block_tokens,
                              .n_kv_heads = s->n_kv_heads,
                              .head_dim = s->head_dim};
    assert_true(w->t.ops->kv_fits(w->t.d, act));
    w->kv.k = make_rows(w, &w->k);
    w->kv.v = make_rows(w, &w->v);
    make_queries(w);
    w->device_alibi = put(&w->t, w->alibi, sizeof w->alibi);
    w->device_out = take_device(&w->t, (n + GUARD * row_width(w)) * sizeof *w->out);
    w->out = take_host(n * sizeof *w->out);
    w->want = take_host(n * sizeof *w->want);
    w->bound = take_host(n * sizeof *w->bound);
}

static void free_world(struct world *w)
{
    w->t.ops->close(w->t.d);
    pages_free(&w->pages), free(w->q), free(w->k), free(w->v);
    free(w->out), free(w->want), free(w->bound);
}

/* ---- float64. ---- */

static double dot(const float *a, const float *b, int n)
{
    double sum[8] = {0}; /* side by side */
    for (int i = 0; i < n; i += 8)
        for (int j = 0; j < 8; j++)
            sum[j] += (double)a[i + j] * (double)b[i + j];
    return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

struct keys {
    int first, end;
};

/* Of the prompt all of it; of what was generated, what there was. */
static struct keys keys_of(const struct world *w, int token)
{
    const int seq = w->all.token_seq[token], position = w->all.positions[token];
    const struct seq *s = &w->s->seq[seq];
    const int prompt = s->kv_len < s->n_prompt ? s->kv_len : s->n_prompt;
    struct keys k = {0, position + 1};
    if (w->s->window > 0 && position + 1 > w->s->window)
        k.first = position + 1 - w->s->window;
    if (w->s->bidirectional && k.end < prompt)
        k.end = prompt;
    return k;
}

static void make_weights(const struct world *w, int token, int head, struct keys k, double *weight)
{
    const struct shape *s = w->s;
    const int dim = s->head_dim, kv_head = head / (s->n_heads / s->n_kv_heads);
    const float *q = w->q + (size_t)token * row_width(w) + head * dim;
    double top = -INFINITY;
    for (int key = k.first; key < k.end; key++) {
        const size_t row = pages_row(&w->pages, w->all.slot[w->all.token_seq[token]], kv_head, key);
        double score = dot(q, w->k + row * (size_t)dim, dim) / sqrt(dim);
        if (s->soft_cap > 0)
            score = s->soft_cap * tanh(score / s->soft_cap);
        if (s->alibi)
            score += (double)w->alibi[head] * (key - w->all.positions[token]);
        weight[key - k.first] = score;
        top = score > top ? score : top;
    }
    for (int i = 0; i < k.end - k.first; i++)
        weight[i] = exp(weight[i] - top);
}

/* How far a value may be from float64, with u half of a last place of 16 bits:
 *
 *     sum of weight * |v| * u        weights are rounded for the tensor cores, but not in their
 * sum; in f16 to 2^-25 of the largest where they are below its normal numbers u * |value| as the
 * output is sum of weight * |v| * FLOATS   all else is f32: products of 256 pairs, some 14 large in
 * all of their terms, by tensor cores that may drop what is below 2^-22 of a term, 16 at a time:
 * 2^-14; cap, slope and powers of 2 some 2^-18; sums of 4500 values in 290 such steps 2^-14 at most
 */
static void make_want(const struct world *w, int token, int head, double *weight)
{
    static const double FLOATS = 0x1p-13;
    const struct shape *s = w->s;
    const int dim = s->head_dim, kv_head = head / (s->n_heads / s->n_kv_heads);
    const struct keys k = keys_of(w, token);
    const double unit = act_unit(&w->t), tiny = w->t.act == DT_F16 ? 0x1p-25 : 0;
    double sum = 0, want[256] = {0}, bound[256] = {0};
    make_weights(w, token, head, k, weight);
    for (int i = 0; i < k.end - k.first; i++)
        sum += weight[i];
    for (int key = k.first; key < k.end; key++) {
        const size_t row = pages_row(&w->pages, w->all.slot[w->all.token_seq[token]], kv_head, key);
        const float *v = w->v + row * (size_t)dim;
        const double x = weight[key - k.first] / sum;
        const double off = FLOATS * x + (unit * x > tiny / sum ? unit * x : tiny / sum);
        for (int d = 0; d < dim; d++) {
            want[d] += x * (double)v[d];
            bound[d] += off * fabs((double)v[d]);
        }
    }
    const size_t at = (size_t)token * row_width(w) + (size_t)(head * dim);
    for (int d = 0; d < dim; d++) {
        w->want[at + (size_t)d] = want[d];
        w->bound[at + (size_t)d] = bound[d] + unit * fabs(want[d]);
    }
}

static void want_token(void *ctx, int64_t token)
{
    const struct world *w = ctx;
    double *weight = take_host(CONTEXT * sizeof *weight);
    for (int head = 0; head < w->s->n_heads; head++)
        make_want(w, (int)token, head, weight);
    free(weight);
}

/* The largest error, in units of what it may be. */
static double check_values(const struct world *w)
{
    const size_t width = row_width(w);
    double worst = 0;
    for (size_t i = 0; i < (size_t)w->all.batch.n_tokens * width; i++) {
        const double got = act_to_f32(&w->t, w->out[i]), error = fabs(got - w->want[i]);
        if (!(error <= w->bound[i])) /* NaN fails too */
            fail_msg("token %zu at %d, value %zu: %g, want %g within %.2g", i / width,
                     w->all.positions[i / width], i % width, got, w->want[i], w->bound[i]);
        worst = error > worst * w->bound[i] ? error / w->bound[i] : worst;
    }
    return worst;
}

/* ---- Bits. ---- */

static void check_step(const struct world *w, int seq, int first, int end)
{
    static struct step st;
    const size_t width = row_width(w);
    const int first_token = w->all.seq_start[seq] + first;
    step_open(&st, w->pages.table);
    step_add(&st, &w->s->seq[seq], slot_of(seq), first, end);
    uint16_t *out = take_host((size_t)(end - first) * width * sizeof *out);
    run(w, &st, first_token, out);
    if (memcmp(out, w->out + (size_t)first_token * width,
               (size_t)(end - first) * width * sizeof *out) != 0)
        fail_msg("sequence %d: tokens %d to %d have other bits in a step of their own", seq, first,
                 end);
    free(out);
}

/* A sequence by itself, its prompt cut, and single tokens.  A token that sees later ones cannot
 * come before them. */
static void check_bits(const struct world *w, int seq)
{
    static const int cuts[] = {0, 1, 64, 65, 129, TOKENS_MAX};
    const struct seq *s = &w->s->seq[seq];
    const int n = s->n_new, left = n - (s->kv_len - s->n_prompt);
    const int n_prompt = left < 0 ? 0 : left < n ? left : n;
    const int apart = is_small ? 7 : n > 50 ? 5 : 1;
    if (w->s->n_seqs > 1)
        check_step(w, seq, 0, n);
    for (int i = 0; !w->s->bidirectional && cuts[i] < n_prompt; i++)
        check_step(w, seq, cuts[i], cuts[i + 1] < n_prompt ? cuts[i + 1] : n_prompt);
    for (int i = n_prompt; i < n; i += apart)
        check_step(w, seq, i, i + 1);
}

static void check_shape(const struct shape *s, enum dtype act)
{
    static struct world w;
    make_world(&w, s, act);
    run(&w, &w.all, 0, w.out);
    parallel_for(0, w.all.batch.n_tokens, want_token, &w);
    const double worst = check_values(&w);
    for (int i = 0; i < s->n_seqs; i++)
        check_bits(&w, i);
    print_message(
        "           %d heads of %d over %d, pages of %d%s%s%s%s: %d tokens, largest error "
        "%.2f of its bound\n",
        s->n_heads, s->head_dim, s->n_kv_heads, s->block_tokens, s->window ? ", window" : "",
        s->soft_cap > 0 ? ", cap" : "", s->alibi ? ", ALiBi" : "",
        s->bidirectional ? ", both ways" : "", w.all.batch.n_tokens, worst);
    free_world(&w);
}

static void attention_in_bf16_is_that_of_float64(void **state)
{
    (void)state;
    for (int i = 0; i < n_shapes; i++)
        check_shape(&shapes[i], DT_BF16);
}

static void attention_in_f16_is_that_of_float64(void **state)
{
    (void)state;
    for (int i = 0; i < n_shapes; i += is_small ? 2 : 1)
        check_shape(&shapes[i], DT_F16);
}

static void both_decode_kernels_had_steps(void **state)
{
    (void)state;
    print_message("           steps of single splits %d, of runs %d\n", n_steps_of_splits,
                  n_steps_of_runs);
    assert_true(n_steps_of_splits > 0 && n_steps_of_runs > 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_in_bf16_is_that_of_float64),
        cmocka_unit_test(attention_in_f16_is_that_of_float64),
        cmocka_unit_test(both_decode_kernels_had_steps),
    };
    if (argc > 1) {
        is_small = true;
        shapes = small_shapes;
        n_shapes = strcmp(argv[1], "sim") == 0 ? N_SIM_SHAPES : N_SMALL_SHAPES;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
