/* What head promises on CUDA: logits within rounding of f64, of the rows that the batch names, and
 * of the same bits however many heads are made at once. */
#include "tests/gpu/cuda_device.h"

enum { TOKENS = 300, HEADS_MAX = 200, SAMPLES = 400, BLOCK_TOKENS = 16, STRIDE = 32 };

static const int some_heads[] = {1, 2, 3, 4, 5, 8, 9, 16, 17, 33, 64, 65, 100, HEADS_MAX};
static const int shapes[][2] = {/* hidden, vocab */
                                {64, 1003},
                                {576, 6152},
                                {576, 49152},
                                {2048, 128256},
                                {4096, 32000}};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0], N_SMALL = 2 };

struct operands {
    int hidden, vocab;
    uint16_t *x, *w;
    float *norm_w;
    void *x_dev;
    float *logits_dev;
    struct tensor w_dev;
    struct norm norm;
};

static int failures;

static void fail_case(const struct operands *o, const char *what, int heads, int at)
{
    if (failures++ < 20)
        printf("FAIL hidden %d vocab %d: %s, %d heads, at %d\n", o->hidden, o->vocab, what, heads,
               at);
}

static struct operands make(const struct tested *t, int hidden, int vocab, enum norm_kind kind)
{
    struct operands o = {.hidden = hidden, .vocab = vocab};
    size_t n_x = (size_t)TOKENS * (size_t)hidden, n_w = (size_t)vocab * (size_t)hidden;
    o.x = random_acts(t, n_x, 1);
    o.w = random_acts(t, n_w, 1 / sqrtf((float)hidden));
    o.norm_w = random_floats((size_t)hidden, 1);
    o.x_dev = put(t, o.x, n_x * 2);
    o.w_dev = put_weight(t, take_device(t, n_w * 2), o.w, vocab, hidden);
    o.logits_dev = take_device(t, (size_t)HEADS_MAX * (size_t)vocab * sizeof(float));
    o.norm = (struct norm){
        .kind = kind, .w = put(t, o.norm_w, (size_t)hidden * sizeof(float)), .eps = 1e-5f};
    return o;
}

/* A step of one sequence whose heads are the rows given; its logits [n, vocab], and one row of what
 * lies behind them, if there is room for it. */
static float *run(const struct tested *t, const struct operands *o, const int32_t *rows, int first,
                  int n)
{
    static int32_t ids[TOKENS], positions[TOKENS], token_seq[TOKENS], table[4 * STRIDE];
    static struct batch_head head[HEADS_MAX];
    const int32_t seq_start[2] = {0, TOKENS}, kv_len = TOKENS, slot = 0, n_prompt = TOKENS;
    struct batch_block block[STRIDE];
    const struct sample_params params = {.top_p = 1, .repetition = 1, .n_logprobs = -1};
    const struct batch_slot set = {.n_prompt = TOKENS, .params = &params};
    for (int i = 0; i < TOKENS; i++)
        positions[i] = i;
    for (int i = 0; i < STRIDE; i++) {
        table[i] = i;
        block[i] = (struct batch_block){.at = i, .block = i};
    }
    for (int i = 0; i < HEADS_MAX; i++)
        head[i] = (struct batch_head){.row = rows[i], .n_history = rows[i] + 1, .forced = 0};
    const struct batch b = {.n_tokens = TOKENS,
                            .n_seqs = 1,
                            .n_heads = HEADS_MAX,
                            .n_slots = 1,
                            .n_blocks = (TOKENS + BLOCK_TOKENS - 1) / BLOCK_TOKENS,
                            .token_ids = ids,
                            .positions = positions,
                            .token_seq = token_seq,
                            .seq_start = seq_start,
                            .kv_len = &kv_len,
                            .slot = &slot,
                            .n_prompt = &n_prompt,
                            .block_table = table,
                            .block = block,
                            .set = &set,
                            .head = head};
    const size_t n_rows = (size_t)(n < HEADS_MAX ? n + 1 : n);
    const size_t n_bytes = n_rows * (size_t)o->vocab * sizeof(float);
    float *logits = take_host(n_bytes);
    struct sample_out out[HEADS_MAX];
    struct status st = {0};
    memset(logits, 0xff, n_bytes);
    t->ops->copy_in(t->d, o->logits_dev, logits, n_bytes);
    t->ops->step_begin(t->d, &b, 0);
    t->ops->head(t->d, &(struct head_args){.logits = o->logits_dev,
                                           .x = o->x_dev,
                                           .first = first,
                                           .n = n,
                                           .norm = &o->norm,
                                           .w = &o->w_dev});
    t->ops->step_end(t->d);
    if (!t->ops->step_wait(t->d, out, &st))
        die("step_wait", &st);
    t->ops->copy_out(t->d, logits, o->logits_dev, n_bytes);
    return logits;
}

static void check_value(const struct tested *t, const struct operands *o, int row, int id,
                        float got)
{
    const uint16_t *x = o->x + (size_t)row * (size_t)o->hidden,
                   *w = o->w + (size_t)id * (size_t)o->hidden;
    double mean = 0, squares = 0, sum = 0, all = 0;
    for (int i = 0; i < o->hidden; i++)
        mean += (double)act_to_f32(t, x[i]) / o->hidden;
    mean = o->norm.kind == NORM_LAYER ? mean : 0;
    for (int i = 0; i < o->hidden; i++)
        squares += pow((double)act_to_f32(t, x[i]) - mean, 2);
    double scale = 1 / sqrt(squares / o->hidden + (double)o->norm.eps);
    for (int i = 0; i < o->hidden; i++) {
        double v = ((double)act_to_f32(t, x[i]) - mean) * scale * (double)o->norm_w[i];
        double term = (double)act_rounded(t, (float)v) * (double)act_to_f32(t, w[i]);
        sum += term;
        all += fabs(term);
    }
    double slack = 1e-5 * all + act_unit(t) * all / sqrt(o->hidden) + 1e-6;
    if (!(fabs((double)got - sum) <= slack)) {
        fail_case(o, "far from f64", row, id);
        printf("     %g, want %g +- %g\n", (double)got, sum, slack);
    }
}

static void check_heads(const struct tested *t, const struct operands *o)
{
    int32_t rows[HEADS_MAX];
    for (int i = 0; i < HEADS_MAX; i++)
        rows[i] = random_below(TOKENS);
    float *all = run(t, o, rows, 0, HEADS_MAX);
    for (int i = 0; i < SAMPLES; i++) {
        int head = random_below(HEADS_MAX), id = i < 8 ? o->vocab - 1 - i : random_below(o->vocab);
        check_value(t, o, rows[head], id, all[(size_t)head * (size_t)o->vocab + (size_t)id]);
    }
    for (size_t i = 0; i < sizeof some_heads / sizeof some_heads[0]; i++) {
        int n = some_heads[i], first = (HEADS_MAX - n) / 2;
        size_t each = (size_t)o->vocab * sizeof(float);
        float *some = run(t, o, rows, first, n);
        if (memcmp(some, all + (size_t)first * (size_t)o->vocab, (size_t)n * each) != 0)
            fail_case(o, "bits differ", n, first);
        if (n < HEADS_MAX && !isnan(some[(size_t)n * (size_t)o->vocab]))
            fail_case(o, "written past the heads", n, first);
        free(some);
    }
    free(all);
}

static void check_type(enum dtype act, int n_shapes)
{
    const struct device_limits limits = {.step_tokens_max = TOKENS,
                                         .seqs_max = 4,
                                         .heads_max = HEADS_MAX,
                                         .step_heads_max = HEADS_MAX,
                                         .context_max = STRIDE * BLOCK_TOKENS,
                                         .block_tokens = BLOCK_TOKENS,
                                         .table_stride = STRIDE,
                                         .history_max = 16,
                                         .bias_max = 16,
                                         .bias_slot_max = 16,
                                         .vocab = 128256,
                                         .hidden = 4096,
                                         .ffn = 4096,
                                         .n_heads = 32,
                                         .n_kv_heads = 8,
                                         .head_dim = 128,
                                         .in_max = 4096};
    struct tested t;
    device_open(&t, act, &limits);
    for (int s = 0; s < n_shapes; s++)
        for (int kind = NORM_RMS; kind <= NORM_LAYER; kind++) {
            struct operands o = make(&t, shapes[s][0], shapes[s][1], (enum norm_kind)kind);
            int before = failures;
            check_heads(&t, &o);
            printf("%s %s hidden %d vocab %d norm %d\n", failures == before ? "ok  " : "FAIL",
                   act == DT_F16 ? "f16 " : "bf16", o.hidden, o.vocab, kind);
            free(o.x);
            free(o.w);
            free(o.norm_w);
            fflush(stdout);
        }
    t.ops->close(t.d);
}

/* With an argument: the small shapes alone, for compute-sanitizer. */
int main(int argc, char **argv)
{
    (void)argv;
    const int n_shapes = argc > 1 ? N_SMALL : N_SHAPES;
    check_type(DT_BF16, n_shapes);
    check_type(DT_F16, n_shapes);
    return failures != 0;
}
