/* What matmul_rope_kv promises on CUDA: the bits of matmul and rope_kv one after the other, in q
 * and in every page, for every number of rows; and one kernel for it wherever few rows of 16-bit
 * weights meet a cache of their own type. */
#include "tests/gpu/cuda_device.h"

enum {
    ROWS_MAX = 33,
    IN_MAX = 2048,
    WIDTH_MAX = 48 * 64, /* of q, k and v together */
    BLOCK_TOKENS = 16,
    SEQS = 4,
    TABLE = 8, /* blocks of a sequence */
    BLOCKS = SEQS * TABLE,
    LAYERS = 2,
    LAYER = 1,
};

static const int some_rows[] = {1, 2, 8, 17, 32, 33, 3, 5, 7, 9, 15, 16, 24, 31};
static int n_rows = sizeof some_rows / sizeof some_rows[0];
enum { N_SMALL_ROWS = 6 };

/* Where a sequence's new tokens begin: within a page, at its last place, at its first, in a later
 * one. */
static const int seq_first[SEQS] = {13, 31, 0, 63};

enum { BIAS = 1, HEAD_NORM = 2, APART = 4 /* two kernels */ };

struct shape {
    const char *name;
    int in, head_dim, n_heads, n_kv_heads;
    enum rope_kind rope;
    int dims, is;
    enum dtype kv; /* DT_F32: the activations' type */
};

static const struct shape shapes[] = {
    {"1B's", 2048, 64, 32, 8, ROPE_NEOX, 64, 0, DT_F32},
    {"1B's, adjacent", 512, 64, 32, 8, ROPE_ADJACENT, 64, 0, DT_F32},
    {"128", 1024, 128, 16, 2, ROPE_NEOX, 128, 0, DT_F32},
    {"128, adjacent, bias", 320, 128, 6, 2, ROPE_ADJACENT, 128, BIAS, DT_F32},
    {"128, one head each, bias", 320, 128, 1, 1, ROPE_NEOX, 128, BIAS, DT_F32},
    {"64, group of 7", 448, 64, 14, 2, ROPE_NEOX, 64, 0, DT_F32},
    {"80", 576, 80, 5, 1, ROPE_NEOX, 80, 0, DT_F32},
    {"256", 256, 256, 4, 1, ROPE_NEOX, 256, 0, DT_F32},
    {"norms of heads", 256, 64, 8, 2, ROPE_NEOX, 64, HEAD_NORM | APART, DT_F32},
    {"half a head turns", 256, 64, 8, 2, ROPE_NEOX, 32, APART, DT_F32},
    {"none turns", 256, 64, 8, 2, ROPE_NONE, 0, APART, DT_F32},
    {"no whole chunks", 200, 64, 8, 2, ROPE_NEOX, 64, APART, DT_F32},
    {"int8", 256, 64, 8, 2, ROPE_NEOX, 64, APART, DT_INT8},
    {"fp8", 256, 64, 8, 2, ROPE_ADJACENT, 64, APART, DT_FP8},
};

static int failures;

/* What a step has of `rows` tokens, dealt to the sequences in runs. */
struct step {
    int32_t ids[ROWS_MAX], positions[ROWS_MAX], token_seq[ROWS_MAX];
    int32_t seq_start[SEQS + 1], kv_len[SEQS], slot[SEQS];
    int32_t table[SEQS * TABLE];
    struct batch_block block[BLOCKS];
    struct sample_params params;
    struct batch_slot set[SEQS];
    struct batch batch;
};

static void make_step(struct step *s, int rows)
{
    *s = (struct step){.params = {.top_p = 1, .repetition = 1, .n_logprobs = -1}};
    int n = 0;
    for (int i = 0; i < SEQS; i++) {
        s->slot[i] = SEQS - 1 - i;
        s->set[i] = (struct batch_slot){.slot = i, .n_prompt = 1, .params = &s->params};
        s->seq_start[i] = n;
        for (int t = 0; t < rows / SEQS + (i < rows % SEQS); t++, n++) {
            s->token_seq[n] = i;
            s->positions[n] = seq_first[i] + t;
        }
        s->kv_len[i] = seq_first[i] + n - s->seq_start[i];
    }
    s->seq_start[SEQS] = n;
    for (int i = 0; i < BLOCKS; i++) {
        s->table[i] = i * 7 % BLOCKS;
        s->block[i] = (struct batch_block){i / TABLE, i % TABLE, s->table[i]};
    }
    s->batch = (struct batch){.n_tokens = rows,
                              .n_seqs = rows < SEQS ? rows : SEQS,
                              .n_slots = SEQS,
                              .n_blocks = BLOCKS,
                              .token_ids = s->ids,
                              .positions = s->positions,
                              .token_seq = s->token_seq,
                              .seq_start = s->seq_start,
                              .kv_len = s->kv_len,
                              .slot = s->slot,
                              .n_prompt = s->kv_len,
                              .block_table = s->table,
                              .block = s->block,
                              .set = s->set};
}

/* On the device; taken once, for the largest shape. */
struct places {
    char *x, *w, *y;
    float *bias, *x_norm, *q_norm, *k_norm, *inv_freq, *k_scale, *v_scale;
    char *k, *v;
    size_t cache_bytes, scale_bytes;
};

static struct places take_places(const struct tested *t)
{
    const size_t rows = (size_t)LAYERS * BLOCKS * BLOCK_TOKENS * 8;
    struct places p = {.cache_bytes = rows * 128 * 2, .scale_bytes = rows * sizeof(float)};
    float *inv_freq = random_floats(128, 1);
    for (int i = 0; i < 128; i++)
        inv_freq[i] = fabsf(inv_freq[i]);
    p.x = put(t, random_acts(t, ROWS_MAX * IN_MAX, 1), ROWS_MAX * IN_MAX * 2);
    p.w = take_device(t, (size_t)WIDTH_MAX * IN_MAX * 2);
    p.y = take_device(t, (ROWS_MAX + 1) * WIDTH_MAX * 2);
    p.bias = put(t, random_floats(WIDTH_MAX, 1), WIDTH_MAX * sizeof(float));
    p.x_norm = put(t, random_floats(IN_MAX, 1), IN_MAX * sizeof(float));
    p.q_norm = put(t, random_floats(256, 1), 256 * sizeof(float));
    p.k_norm = put(t, random_floats(256, 1), 256 * sizeof(float));
    p.inv_freq = put(t, inv_freq, 128 * sizeof(float));
    p.k = take_device(t, p.cache_bytes);
    p.v = take_device(t, p.cache_bytes);
    p.k_scale = take_device(t, p.scale_bytes);
    p.v_scale = take_device(t, p.scale_bytes);
    return p;
}

/* All that the two ops write, and what lies around it. */
struct found {
    uint16_t y[(ROWS_MAX + 1) * WIDTH_MAX];
    uint8_t *part[4]; /* K, V and their scales */
};

static void run(const struct tested *t, const struct places *p, const struct shape *s,
                const struct tensor w[3], struct step *step, bool as_one, struct found *f)
{
    const int q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim, stride = q + 2 * kv;
    const struct kv_cache cache = {.k = p->k,
                                   .v = p->v,
                                   .dtype = s->kv == DT_F32 ? t->act : s->kv,
                                   .n_layers = LAYERS,
                                   .n_blocks = BLOCKS,
                                   .block_tokens = BLOCK_TOKENS,
                                   .n_kv_heads = s->n_kv_heads,
                                   .head_dim = s->head_dim,
                                   .k_scale = s->kv == DT_F32 ? NULL : p->k_scale,
                                   .v_scale = s->kv == DT_F32 ? NULL : p->v_scale};
    const struct norm norm = {.kind = NORM_RMS, .w = p->x_norm, .eps = 1e-5f};
    char *y[3] = {p->y, p->y + q * 2, p->y + (q + kv) * 2};
    struct matmul_args m = {.x = p->x, .rows = step->batch.n_tokens, .norm = &norm, .n_outs = 3};
    for (int i = 0; i < 3; i++)
        m.out[i] = (struct matmul_out){.y = y[i],
                                       .y_stride = stride,
                                       .w = &w[i],
                                       .bias = s->is & BIAS ? p->bias + (y[i] - y[0]) / 2 : NULL};
    const struct rope_kv_args r = {.q = y[0],
                                   .k = y[1],
                                   .v = y[2],
                                   .stride = stride,
                                   .q_norm = s->is & HEAD_NORM ? p->q_norm : NULL,
                                   .k_norm = s->is & HEAD_NORM ? p->k_norm : NULL,
                                   .norm_eps = 1e-6f,
                                   .kv = &cache,
                                   .layer = LAYER,
                                   .n_heads = s->n_heads,
                                   .rope = s->rope,
                                   .rope_dims = s->dims,
                                   .inv_freq = p->inv_freq,
                                   .rope_scale = 1.1f};
    char *part[4] = {p->k, p->v, (char *)p->k_scale, (char *)p->v_scale};
    struct status st = {0};
    memset(f->y, 0xff, sizeof f->y); /* NaN */
    t->ops->copy_in(t->d, p->y, f->y, sizeof f->y);
    for (int i = 0; i < 4; i++) {
        const size_t n = i < 2 ? p->cache_bytes : p->scale_bytes;
        f->part[i] = f->part[i] ? f->part[i] : take_host(n);
        for (size_t k = 0; k < n; k++)
            f->part[i][k] = (uint8_t)(k * 37 + (size_t)i);
        t->ops->copy_in(t->d, part[i], f->part[i], n);
    }
    t->ops->step_begin(t->d, &step->batch, 0);
    if (as_one) {
        t->ops->matmul_rope_kv(t->d, &m, &r);
    } else {
        t->ops->matmul(t->d, &m);
        t->ops->rope_kv(t->d, &r);
    }
    t->ops->step_end(t->d);
    struct sample_out none[1];
    if (!t->ops->step_wait(t->d, none, &st))
        die("step_wait", &st);
    t->ops->copy_out(t->d, f->y, p->y, sizeof f->y);
    for (int i = 0; i < 4; i++)
        t->ops->copy_out(t->d, f->part[i], part[i], i < 2 ? p->cache_bytes : p->scale_bytes);
}

static void fail_case(const struct tested *t, const struct shape *s, int rows, const char *what,
                      long at)
{
    if (failures++ < 20)
        printf("FAIL %s %s, %d rows: %s at %ld\n", t->act == DT_F16 ? "f16" : "bf16", s->name, rows,
               what, at);
}

static void compare(const struct tested *t, const struct places *p, const struct shape *s, int rows,
                    const struct found *want, const struct found *got)
{
    static const char *const names[] = {"K", "V", "K's scale", "V's scale"};
    const int q = s->n_heads * s->head_dim, stride = q + 2 * s->n_kv_heads * s->head_dim;
    const bool apart = (s->is & APART) || rows > 32;
    for (int i = 0; i < (ROWS_MAX + 1) * stride; i++) {
        const bool is_q = i < rows * stride && i % stride < q;
        if (is_q && got->y[i] != want->y[i])
            return fail_case(t, s, rows, "q differs", i);
        if (is_q == (got->y[i] == 0xffff) && (i >= rows * stride || is_q || !apart))
            return fail_case(t, s, rows, is_q ? "q is not written" : "y is written", i);
        if (apart && i < rows * stride && got->y[i] == 0xffff)
            return fail_case(t, s, rows, "k and v did not come by y", i);
    }
    for (int i = 0; i < 4; i++)
        for (size_t k = 0; k < (i < 2 ? p->cache_bytes : p->scale_bytes); k++)
            if (got->part[i][k] != want->part[i][k])
                return fail_case(t, s, rows, names[i], (long)k);
}

static void check_shape(const struct tested *t, const struct places *p, const struct shape *s)
{
    static struct found want, got;
    static struct step step;
    const int n[3] = {s->n_heads * s->head_dim, s->n_kv_heads * s->head_dim,
                      s->n_kv_heads * s->head_dim};
    struct tensor w[3];
    char *at = p->w;
    const int before = failures;
    for (int i = 0; i < 3; i++) {
        uint16_t *from = random_acts(t, (size_t)n[i] * (size_t)s->in, 1 / sqrtf((float)s->in));
        w[i] = put_weight(t, at, from, n[i], s->in);
        at += (size_t)n[i] * (size_t)s->in * 2;
        free(from);
    }
    for (int i = 0; i < n_rows; i++) {
        make_step(&step, some_rows[i]);
        run(t, p, s, w, &step, false, &want);
        run(t, p, s, w, &step, true, &got);
        compare(t, p, s, some_rows[i], &want, &got);
    }
    printf("%s %s %s\n", failures == before ? "ok  " : "FAIL", t->act == DT_F16 ? "f16 " : "bf16",
           s->name);
    fflush(stdout);
}

static void check_type(enum dtype act)
{
    const struct device_limits limits = {.step_tokens_max = ROWS_MAX,
                                         .seqs_max = SEQS,
                                         .heads_max = 4,
                                         .step_heads_max = 4,
                                         .context_max = TABLE * BLOCK_TOKENS,
                                         .block_tokens = BLOCK_TOKENS,
                                         .table_stride = TABLE,
                                         .history_max = SEQS * TABLE * BLOCK_TOKENS,
                                         .bias_max = 16,
                                         .bias_slot_max = 16,
                                         .vocab = 1000,
                                         .hidden = IN_MAX,
                                         .ffn = IN_MAX,
                                         .n_heads = 32,
                                         .n_kv_heads = 8,
                                         .head_dim = 256,
                                         .in_max = IN_MAX};
    struct tested t;
    device_open(&t, act, &limits);
    const struct places p = take_places(&t);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        check_shape(&t, &p, &shapes[i]);
    t.ops->close(t.d);
}

/* With an argument: the small part alone. */
int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1)
        n_rows = N_SMALL_ROWS;
    check_type(DT_BF16);
    check_type(DT_F16);
    return failures != 0;
}
