/* A runner, alone or one of several ranks, gives each sequence what it would give it alone, bit for
 * bit, whatever else is in the step and however its prompt is cut; and it computes what a forward
 * in double computes. */
#include "engine/ranks.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/gguf.h"
#include "engine/model.h"
#include "tests/unit/engine/drive.h"
#include "tests/unit/engine/tiny_model.h"

enum { SEQS = 6, CONTEXT = 128, VOCAB = 160, TOP = 5 };

static int n_ranks = 1;

struct fixture {
    char path[64];
    struct make m;
};

static void write_model(struct fixture *x, const struct tiny *t)
{
    snprintf(x->path, sizeof x->path, "/tmp/inferd-runner-XXXXXX");
    close(mkstemp(x->path));
    struct tiny fit = *t;
    if (n_ranks == 4) { /* a block for each */
        fit.hidden = fit.ffn = 128;
        fit.head_dim = 32;
    }
    tiny_make(&x->m, &fit);
    make_write(&x->m, x->path);
}

static void drop_model(struct fixture *x)
{
    unlink(x->path);
    make_close(&x->m);
}

static struct engine_options options(const struct fixture *x, const char *precision, int n_threads)
{
    return (struct engine_options){
        .model_path = x->path,
        .cpu_precision = precision,
        .device = "cpu",
        .n_threads = n_threads * n_ranks,
        .tensor_parallel = n_ranks,
        .seqs_max = SEQS,
        .step_tokens_max = 256,
        .block_tokens = 16,
    };
}

static void random_ids(int32_t *ids, int n, uint64_t seed)
{
    seed = seed * 0x9e3779b97f4a7c15u + 1;
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)(make_random(&seed) % VOCAB);
}

/* The forward in double, one sequence, no cache. */

struct reference {
    struct model_file f;
    const struct model_config *cfg;
};

static double *weights(const struct reference *r, const char *fmt, int il, bool *found)
{
    char name[64];
    snprintf(name, sizeof name, fmt, il);
    const struct weight *t = gguf_tensor_find(r->f.gguf, name);
    if (found)
        *found = t != NULL;
    if (!t)
        return NULL;
    double *w = calloc((size_t)(t->rows * t->cols), sizeof *w);
    float *row = calloc((size_t)t->cols, sizeof *row);
    const size_t row_bytes = t->n_bytes / (size_t)t->rows;
    for (int64_t i = 0; i < t->rows; i++) {
        dequantize_row(t->dtype, (const char *)t->source.at + (size_t)i * row_bytes, row, t->cols);
        for (int64_t j = 0; j < t->cols; j++)
            w[i * t->cols + j] = row[j];
    }
    free(row);
    return w;
}

/* y[n][rows] (+)= x[n][cols] @ w^T + bias */
static void multiply(const struct reference *r, const char *fmt, const char *bias_fmt, int il,
                     const double *x, int n, int cols, double *y, int rows, bool add)
{
    double *w = weights(r, fmt, il, NULL);
    double *bias = bias_fmt ? weights(r, bias_fmt, il, NULL) : NULL;
    for (int t = 0; t < n; t++) {
        for (int i = 0; i < rows; i++) {
            double sum = bias ? bias[i] : 0;
            for (int j = 0; j < cols; j++)
                sum += w[(size_t)i * (size_t)cols + (size_t)j] * x[t * cols + j];
            y[t * rows + i] = add ? y[t * rows + i] + sum : sum;
        }
    }
    free(w);
    free(bias);
}

static void normalize(const struct reference *r, const char *fmt, int il, const double *x, int n,
                      double *y)
{
    const int width = r->cfg->hidden;
    double *w = weights(r, fmt, il, NULL);
    for (int t = 0; t < n; t++) {
        double sum = 0;
        for (int i = 0; i < width; i++)
            sum += x[t * width + i] * x[t * width + i];
        const double scale = 1 / sqrt(sum / width + (double)r->cfg->norm_eps);
        for (int i = 0; i < width; i++)
            y[t * width + i] = w[i] * x[t * width + i] * scale;
    }
    free(w);
}

static void rotate(const struct reference *r, double *x, int n, int n_heads)
{
    const int dim = r->cfg->head_dim;
    double *factor = weights(r, "rope_freqs.weight", 0, NULL);
    for (int t = 0; t < n; t++) {
        for (int h = 0; h < n_heads; h++) {
            for (int i = 0; i < dim / 2; i++) {
                double *pair = x + (t * n_heads + h) * dim + 2 * i;
                const double freq = pow(10000.0, -2.0 * i / dim) / (factor ? factor[i] : 1);
                const double c = cos(t * freq), s = sin(t * freq), a = pair[0], b = pair[1];
                pair[0] = a * c - b * s;
                pair[1] = a * s + b * c;
            }
        }
    }
    free(factor);
}

static void attend(const struct reference *r, const double *q, const double *k, const double *v,
                   int n, double *out)
{
    const struct model_config *c = r->cfg;
    const int dim = c->head_dim, group = c->n_heads / c->n_kv_heads;
    double p[CONTEXT];
    for (int t = 0; t < n; t++) {
        for (int h = 0; h < c->n_heads; h++) {
            double sum = 0;
            for (int u = 0; u <= t; u++) {
                double dot = 0;
                for (int i = 0; i < dim; i++)
                    dot += q[(t * c->n_heads + h) * dim + i] *
                           k[(u * c->n_kv_heads + h / group) * dim + i];
                sum += p[u] = exp(dot / sqrt(dim));
            }
            for (int i = 0; i < dim; i++) {
                double o = 0;
                for (int u = 0; u <= t; u++)
                    o += p[u] / sum * v[(u * c->n_kv_heads + h / group) * dim + i];
                out[(t * c->n_heads + h) * dim + i] = o;
            }
        }
    }
}

/* logits[n][vocab] */
static void forward(const struct reference *r, const int32_t *ids, int n, double *logits)
{
    const struct model_config *c = r->cfg;
    const int nq = c->n_heads * c->head_dim, nkv = c->n_kv_heads * c->head_dim;
    enum { WIDE = CONTEXT * 128 };
    static double x[WIDE], y[WIDE], q[WIDE], k[WIDE], v[WIDE], o[WIDE], g[WIDE], u[WIDE];
    double *embed = weights(r, "token_embd.weight", 0, NULL);
    bool untied;
    free(weights(r, "output.weight", 0, &untied));
    for (int t = 0; t < n; t++)
        memcpy(x + t * c->hidden, embed + ids[t] * c->hidden, (size_t)c->hidden * sizeof *x);
    free(embed);
    for (int il = 0; il < c->n_layers; il++) {
        normalize(r, "blk.%d.attn_norm.weight", il, x, n, y);
        multiply(r, "blk.%d.attn_q.weight", "blk.%d.attn_q.bias", il, y, n, c->hidden, q, nq,
                 false);
        multiply(r, "blk.%d.attn_k.weight", "blk.%d.attn_k.bias", il, y, n, c->hidden, k, nkv,
                 false);
        multiply(r, "blk.%d.attn_v.weight", "blk.%d.attn_v.bias", il, y, n, c->hidden, v, nkv,
                 false);
        rotate(r, q, n, c->n_heads);
        rotate(r, k, n, c->n_kv_heads);
        attend(r, q, k, v, n, o);
        multiply(r, "blk.%d.attn_output.weight", NULL, il, o, n, nq, x, c->hidden, true);
        normalize(r, "blk.%d.ffn_norm.weight", il, x, n, y);
        multiply(r, "blk.%d.ffn_gate.weight", NULL, il, y, n, c->hidden, g, c->ffn, false);
        multiply(r, "blk.%d.ffn_up.weight", NULL, il, y, n, c->hidden, u, c->ffn, false);
        for (int i = 0; i < n * c->ffn; i++)
            g[i] = g[i] / (1 + exp(-g[i])) * u[i];
        multiply(r, "blk.%d.ffn_down.weight", NULL, il, g, n, c->ffn, x, c->hidden, true);
    }
    normalize(r, "output_norm.weight", 0, x, n, y);
    multiply(r, untied ? "output.weight" : "token_embd.weight", NULL, 0, y, n, c->hidden, logits,
             c->vocab, false);
}

static double logprob(const double *logits, int vocab, int id)
{
    double sum = 0;
    for (int i = 0; i < vocab; i++)
        sum += exp(logits[i]);
    return logits[id] - log(sum);
}

static void log_probabilities_are_those_of_a_forward_in_double(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum dtype dtype;
        bool tied, has_bias, has_factors;
    } rows[] = {
        {"tied", DT_F32, true, false, false},
        {"output of its own", DT_F32, false, false, false},
        {"biases", DT_F16, true, true, false},
        {"rotary factors", DT_Q8_0, false, true, true},
    };
    static double logits[CONTEXT * VOCAB];
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        enum { N = 61 };
        struct fixture x;
        struct reference r;
        struct drive d;
        struct status st = {0};
        struct tiny t = tiny_default;
        int32_t ids[N];
        double worst = 0;
        t.dtype = rows[i].dtype;
        t.tied = rows[i].tied;
        t.has_bias = rows[i].has_bias;
        t.has_factors = rows[i].has_factors;
        write_model(&x, &t);
        random_ids(ids, N, 7 + i);
        assert_true(model_file_open(&r.f, x.path, &st));
        r.cfg = &r.f.cfg;
        forward(&r, ids, N, logits);
        struct engine_options o = options(&x, "exact", 2);
        drive_open(&d, &o);
        drive_begin(&d);
        struct drive_seq seq = drive_set(&d, 2, drive_greedy(TOP), N);
        drive_row(&d, &seq, ROW_SCORE_NEXT | ROW_SAMPLE, ids, N);
        const struct step_result *result = drive_run(&d);
        assert_int_equal(result->n_scores, N - 1);
        for (int j = 0; j < N - 1; j++) {
            const double want = logprob(logits + j * VOCAB, VOCAB, ids[j + 1]);
            worst = fmax(worst, fabs(step_result_scores(result)[j].logprob - want));
        }
        const struct sample_out *out = step_result_tokens(result);
        const double *last = logits + (N - 1) * VOCAB;
        assert_int_equal(out->n_top, TOP);
        assert_int_equal(out->id, out->top_id[0]);
        for (int j = 0; j < TOP; j++)
            worst = fmax(worst, fabs(out->top_logprob[j] - logprob(last, VOCAB, out->top_id[j])));
        for (int j = 0; j < VOCAB; j++)
            assert_true(last[j] <= last[out->id]);
        print_message("%s: largest error %.2g\n", rows[i].name, worst);
        assert_true(worst < 2e-4);
        drive_close(&d);
        model_file_close(&r.f);
        drop_model(&x);
    }
}

/* A folder of bfloat16 whose layers but some see a window shorter than the prompts. */
static const char windowed_path[] = "tests/golden/hf/gemma3-bf16";

/* What one sequence was told: scores of its prompt, then its samples. */
struct answer {
    int n;
    struct sample_out out[CONTEXT * 2];
};

struct request {
    int32_t ids[CONTEXT];
    int n_prompt, n_new;
    struct sample_params params;
};

static void make_request(struct request *q, int i)
{
    static const int lengths[SEQS] = {1, 17, 64, 5, 33, 80};
    *q = (struct request){.n_prompt = lengths[i], .n_new = 12, .params = drive_greedy(TOP)};
    random_ids(q->ids, q->n_prompt, 100 + (uint64_t)i);
    if (i % 2) {
        q->params.temperature = 0.9f;
        q->params.top_p = 0.9f;
        q->params.top_k = 40;
        q->params.presence = 0.3f;
        q->params.repetition = 1.1f;
        q->params.seed = 1000 + (uint64_t)i;
    }
}

static void keep(struct answer *a, const struct sample_out *out, int n)
{
    for (int i = 0; i < n; i++)
        a->out[a->n++] = out[i];
}

/* Runs requests [first, end) together, chunks of the prompt as they come from `seed`. */
static void run_requests(struct drive *d, const struct request *q, int first, int end,
                         uint64_t seed, struct answer *answers)
{
    struct drive_seq seq[SEQS];
    int n_done[SEQS] = {0}, n_new[SEQS] = {0};
    bool begun[SEQS] = {0};
    for (int i = first; i < end; i++)
        answers[i].n = 0;
    for (bool more = true; more;) {
        int row_of[SEQS], n_rows = 0;
        more = false;
        drive_begin(d);
        for (int i = first; i < end; i++) {
            row_of[i] = -1;
            if (n_new[i] == q[i].n_new)
                continue;
            more = true;
            if (seed && make_random(&seed) % 3 == 0)
                continue; /* not in this step */
            if (!begun[i])
                seq[i] = drive_set(d, (i * 5 + 2) % SEQS, q[i].params, q[i].n_prompt);
            begun[i] = true;
            const int left = q[i].n_prompt - n_done[i];
            if (left == 0) {
                drive_row(d, &seq[i], ROW_SAMPLE, NULL, 1);
            } else {
                const int chunk = seed ? 1 + (int)(make_random(&seed) % 30) : left;
                const int n = chunk < left ? chunk : left;
                struct step_row *row =
                    drive_row(d, &seq[i], ROW_SCORE_NEXT | (n == left ? ROW_SAMPLE : 0),
                              q[i].ids + n_done[i], n);
                row->next_token = n == left ? -1 : q[i].ids[n_done[i] + n];
                n_done[i] += n;
            }
            row_of[i] = n_rows++;
        }
        if (!more || n_rows == 0)
            continue;
        const struct step_result *r = drive_run(d);
        for (int i = first; i < end; i++) {
            if (row_of[i] < 0)
                continue;
            const struct step_result_row *row = &step_result_rows(r)[row_of[i]];
            assert_int_equal(row->status, ROW_OK);
            keep(&answers[i], step_result_scores(r) + row->first_score, row->n_scores);
            keep(&answers[i], step_result_tokens(r) + row->first_token, row->n_tokens);
            n_new[i] += row->n_tokens;
        }
    }
}

static bool same_out(const struct sample_out *a, const struct sample_out *b)
{
    return a->id == b->id && a->n_top == b->n_top &&
           memcmp(&a->logprob, &b->logprob, sizeof a->logprob) == 0 &&
           memcmp(a->top_id, b->top_id, (size_t)a->n_top * sizeof *a->top_id) == 0 &&
           memcmp(a->top_logprob, b->top_logprob, (size_t)a->n_top * sizeof *a->top_logprob) == 0;
}

static void a_sequence_gets_the_same_bits_alone_and_among_others(void **state)
{
    (void)state;
    static struct request q[SEQS];
    static struct answer alone[SEQS], mixed[SEQS];
    static const struct {
        const char *precision, *kv_dtype;
        enum dtype dtype;
        bool windowed;
    } kinds[] = {
        {"exact", "auto", DT_F32, false},  {"fast", "auto", DT_F32, false},
        {"exact", "auto", DT_Q8_0, false}, {"fast", "auto", DT_Q8_0, false},
        {"exact", "auto", DT_F32, true},   {"fast", "auto", DT_F32, true},
        {"exact", "int8", DT_F32, false},  {"fast", "int8", DT_Q8_0, false},
        {"exact", "fp8", DT_F32, true},    {"fast", "fp8", DT_Q8_0, false},
    };
    for (size_t p = 0; p < sizeof kinds / sizeof *kinds; p++) {
        struct fixture x;
        struct drive d;
        struct tiny t = tiny_default;
        t.dtype = kinds[p].dtype;
        write_model(&x, &t);
        struct engine_options o = options(&x, kinds[p].precision, 1);
        o.model_path = kinds[p].windowed ? windowed_path : o.model_path;
        o.kv_dtype = kinds[p].kv_dtype;
        drive_open(&d, &o);
        for (int i = 0; i < SEQS; i++)
            make_request(&q[i], i);
        for (int i = 0; i < SEQS; i++)
            run_requests(&d, q, i, i + 1, 0, alone);
        drive_close(&d);
        for (uint64_t seed = 1; seed <= 6; seed++) {
            o.n_threads = 1 + (int)(seed % 3);
            drive_open(&d, &o);
            run_requests(&d, q, 0, SEQS, seed * 77777, mixed);
            for (int i = 0; i < SEQS; i++) {
                assert_int_equal(mixed[i].n, q[i].n_prompt - 1 + q[i].n_new);
                for (int j = 0; j < mixed[i].n; j++)
                    if (!same_out(&alone[i].out[j], &mixed[i].out[j]))
                        fail_msg("%s, %s%s, kv %s, seed %llu: sequence %d, output %d: alone %d "
                                 "%.9g, mixed %d %.9g",
                                 kinds[p].precision, dtype_traits[t.dtype].name,
                                 kinds[p].windowed ? ", windows" : "", kinds[p].kv_dtype,
                                 (unsigned long long)seed, i, j, alone[i].out[j].id,
                                 alone[i].out[j].logprob, mixed[i].out[j].id,
                                 mixed[i].out[j].logprob);
            }
            drive_close(&d);
        }
        drop_model(&x);
    }
}

/* A prefix that is in the cache already: the slot is set with it as history. */
static void check_prefix_hit(const char *model_path, const char *kv_dtype)
{
    enum { N = 40, SHARED = 32 };
    struct fixture x;
    struct drive d;
    int32_t ids[N];
    write_model(&x, &tiny_default);
    random_ids(ids, N, 3);
    struct engine_options o = options(&x, "fast", 2);
    o.model_path = model_path ? model_path : o.model_path;
    o.kv_dtype = kv_dtype;
    drive_open(&d, &o);
    struct sample_params params = drive_greedy(TOP);
    params.repetition = 1.5f; /* so that history counts */
    drive_begin(&d);
    struct drive_seq seq = drive_set(&d, 0, params, N);
    drive_row(&d, &seq, ROW_SAMPLE, ids, N);
    const struct sample_out want = step_result_tokens(drive_run(&d))[0];

    drive_begin(&d);
    const int32_t first = step_add_history(&d.builder, ids, SHARED);
    struct step_slot *slot = step_add_slot(&d.builder);
    *slot = (struct step_slot){
        .slot = 3, .n_prompt = N, .first_history = first, .n_history = SHARED, .params = params};
    struct step_row *row = step_add_row(&d.builder);
    const int32_t blocks[] = {drive_block(&d, 0, 0), drive_block(&d, 0, 1), drive_block(&d, 3, 0)};
    *row = (struct step_row){.slot = 3,
                             .flags = ROW_SAMPLE,
                             .n_tokens = N - SHARED,
                             .position = SHARED,
                             .next_token = -1,
                             .n_blocks = 3};
    row->first_token = step_add_tokens(&d.builder, ids + SHARED, N - SHARED);
    row->first_block = step_add_blocks(&d.builder, blocks, 3);
    const struct sample_out found = step_result_tokens(drive_run(&d))[0];
    assert_true(same_out(&want, &found));
    drive_close(&d);
    drop_model(&x);
}

static const char *const kv_dtypes[] = {"auto", "int8", "fp8"};
enum { KV_DTYPES = sizeof kv_dtypes / sizeof *kv_dtypes };

static void a_prefix_hit_continues_as_if_it_had_run_here(void **state)
{
    (void)state;
    for (int i = 0; i < KV_DTYPES; i++) {
        check_prefix_hit(NULL, kv_dtypes[i]);
        check_prefix_hit(windowed_path, kv_dtypes[i]);
    }
}

/* What preemption and a new life of the engine do: the tokens so far, generated ones too, are
 * computed again in chunks, in another slot. */
static void check_again(const char *kv_dtype)
{
    enum { N = 30, NEW = 12, AGAIN = N + 7, CHUNK = 13 };
    struct fixture x;
    struct drive d;
    int32_t ids[N + NEW];
    struct sample_out want[NEW];
    write_model(&x, &tiny_default);
    random_ids(ids, N, 5);
    struct engine_options o = options(&x, "fast", 2);
    o.kv_dtype = kv_dtype;
    drive_open(&d, &o);
    drive_begin(&d);
    struct drive_seq seq = drive_set(&d, 0, drive_greedy(TOP), N);
    drive_row(&d, &seq, ROW_SAMPLE, ids, N);
    for (int i = 0; i < NEW; i++) {
        want[i] = step_result_tokens(drive_run(&d))[0];
        ids[N + i] = want[i].id;
        drive_begin(&d);
        drive_row(&d, &seq, ROW_SAMPLE, NULL, 1);
    }
    drive_run(&d);
    for (int first = 0; first < AGAIN; first += CHUNK) {
        const int n = first + CHUNK < AGAIN ? CHUNK : AGAIN - first;
        drive_begin(&d);
        if (first == 0)
            seq = drive_set(&d, 3, drive_greedy(TOP), N);
        drive_row(&d, &seq, first + n == AGAIN ? ROW_SAMPLE : 0, ids + first, n);
        if (first + n < AGAIN)
            drive_run(&d);
    }
    for (int i = AGAIN - N; i < NEW; i++) {
        const struct sample_out found = step_result_tokens(drive_run(&d))[0];
        if (!same_out(&want[i], &found))
            fail_msg("kv %s: token %d: want %d, found %d", kv_dtype, i, want[i].id, found.id);
        drive_begin(&d);
        drive_row(&d, &seq, ROW_SAMPLE, NULL, 1);
    }
    drive_close(&d);
    drop_model(&x);
}

static void a_sequence_computed_again_goes_on_with_the_same_bits(void **state)
{
    (void)state;
    for (int i = 0; i < KV_DTYPES; i++)
        check_again(kv_dtypes[i]);
}

/* Steps that contradict the slots: each begins with slot 1 holding 5 tokens and a sample. */
static void two_rows(struct drive *d, struct drive_seq *seq)
{
    drive_row(d, seq, ROW_SAMPLE, NULL, 1);
    drive_row(d, seq, ROW_SAMPLE, (int32_t[]){3}, 1);
}
static void wrong_position(struct drive *d, struct drive_seq *seq)
{
    drive_row(d, seq, ROW_SAMPLE, NULL, 1)->position = 6;
}
static void earlier_position(struct drive *d, struct drive_seq *seq)
{
    drive_row(d, seq, ROW_SAMPLE, NULL, 1)->position = 4;
}
static void unset_slot(struct drive *d, struct drive_seq *seq)
{
    drive_row(d, seq, ROW_SAMPLE, (int32_t[]){3}, 1)->slot = 2;
}
static void wrong_table(struct drive *d, struct drive_seq *seq)
{
    drive_row(d, seq, ROW_SAMPLE, NULL, 1)->block_at = 0;
}
static void no_room(struct drive *d, struct drive_seq *seq)
{
    struct step_row *row = drive_row(d, seq, 0, (int32_t[12]){0}, 12);
    row->n_blocks = 0;
}
static void too_much_room(struct drive *d, struct drive_seq *seq)
{
    struct step_row *row = drive_row(d, seq, 0, (int32_t[12]){0}, 12);
    row->n_tokens = 2;
}
static void no_sample(struct drive *d, struct drive_seq *seq)
{
    drive_row(d, seq, 0, (int32_t[]){3}, 1);
    drive_run(d);
    drive_begin(d);
    drive_row(d, seq, ROW_SAMPLE, NULL, 1);
}

static void a_step_that_contradicts_the_slots_is_corrupt(void **state)
{
    (void)state;
    static const struct {
        void (*build)(struct drive *d, struct drive_seq *seq);
        const char *message;
    } rows[] = {
        {two_rows, "row 1: slot 1 has two rows"},
        {wrong_position, "row 0: slot 1: want position 5, found 6"},
        {earlier_position, "row 0: slot 1: want position 5, found 4"},
        {unset_slot, "row 0: slot 2 was never set"},
        {wrong_table, "row 0: slot 1: want a table of 1 blocks, found 0"},
        {no_room, "row 0: slot 1: 17 tokens do not fit its 1 blocks"},
        {too_much_room, "row 0: slot 1: 7 tokens do not need its 2 blocks"},
        {no_sample, "row 0: slot 1: there is no sample to go on from"},
    };
    struct fixture x;
    write_model(&x, &tiny_default);
    struct engine_options o = options(&x, "fast", 1);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct drive d;
        struct status st = {0};
        drive_open(&d, &o);
        drive_begin(&d);
        struct drive_seq seq = drive_set(&d, 1, drive_greedy(-1), 5);
        drive_row(&d, &seq, ROW_SAMPLE, (int32_t[]){1, 2, 3, 4, 5}, 5);
        drive_run(&d);
        drive_begin(&d);
        rows[i].build(&d, &seq);
        if (drive_try(&d, &st) || st.code != STATUS_CORRUPT || !strstr(st.msg, rows[i].message))
            fail_msg("want \"%s\", found %s: %s", rows[i].message, status_name(st.code), st.msg);
        drive_close(&d);
    }
    drop_model(&x);
}

/* The embedding of one token is NaN: who uses it fails, and nobody else sees a difference. */
static void check_nan(const char *kv_dtype)
{
    enum { N = 20, SICK = 77 };
    struct fixture x;
    struct drive d;
    struct sample_out want[2];
    int32_t ids[2][N];
    struct tiny t = tiny_default;
    t.tied = false; /* so that the NaN stays in the embedding */
    write_model(&x, &t);
    struct gguf *g = gguf_open_memory(x.m.at, x.m.n, &(struct status){0});
    const struct weight *w = gguf_tensor_find(g, "token_embd.weight");
    const size_t embed = (size_t)((const uint8_t *)w->source.at - x.m.at), width = w->cols;
    gguf_close(g);
    const float nan = NAN;
    memcpy(x.m.at + embed + (SICK * width + 9) * sizeof nan, &nan, sizeof nan);
    make_write(&x.m, x.path);
    random_ids(ids[0], N, 1);
    random_ids(ids[1], N, 2);
    for (int i = 0; i < 2 * N; i++)
        if (ids[i / N][i % N] == SICK)
            ids[i / N][i % N] = 0;
    struct engine_options o = options(&x, "fast", 2);
    o.kv_dtype = kv_dtype;
    drive_open(&d, &o);
    for (int with = 0; with < 2; with++) {
        int32_t sick[N];
        memcpy(sick, ids[0], sizeof sick);
        sick[N - 3] = SICK;
        struct drive_seq seq[3];
        drive_begin(&d);
        for (int i = 0; i < 3; i++)
            if (i != 1 || with) {
                seq[i] = drive_set(&d, i, drive_greedy(TOP), N);
                drive_row(&d, &seq[i], ROW_SAMPLE, i == 1 ? sick : ids[i / 2], N);
            }
        const struct step_result *r = drive_run(&d);
        for (int i = 0; i < r->n_rows; i++) {
            const struct step_result_row *row = &step_result_rows(r)[i];
            const struct sample_out *out = &step_result_tokens(r)[row->first_token];
            assert_int_equal(row->status, row->slot == 1 ? ROW_FAILED_NAN : ROW_OK);
            if (row->slot == 1)
                continue;
            if (!with)
                want[row->slot / 2] = *out;
            else
                assert_true(same_out(out, &want[row->slot / 2]));
        }
    }
    drive_close(&d);
    drop_model(&x);
}

static void a_row_with_a_nan_fails_alone(void **state)
{
    (void)state;
    for (int i = 0; i < KV_DTYPES; i++)
        check_nan(kv_dtypes[i]);
}

/* Step n + 1 is submitted before the result of n is taken, as the scheduler does. */
static void two_steps_in_flight_give_what_one_after_another_gives(void **state)
{
    (void)state;
    enum { NEW = 20 };
    struct fixture x;
    struct drive d;
    struct request q[2];
    struct sample_out want[2][NEW], found[2][NEW];
    write_model(&x, &tiny_default);
    struct engine_options o = options(&x, "fast", 2);
    make_request(&q[0], 1); /* with penalties: the history must have each sample in time */
    make_request(&q[1], 4);
    for (int depth = 1; depth <= ENGINE_DEPTH; depth++) {
        struct drive_seq seq[2];
        struct status st = {0};
        struct sample_out(*out)[NEW] = depth == 1 ? want : found;
        drive_open(&d, &o);
        for (int n = 0, taken = 0; taken < NEW;) {
            if (n < NEW) {
                drive_begin(&d);
                for (int i = 0; i < 2; i++) {
                    if (n == 0)
                        seq[i] = drive_set(&d, 3 - i, q[i].params, q[i].n_prompt);
                    drive_row(&d, &seq[i], ROW_SAMPLE, n ? NULL : q[i].ids, n ? 1 : q[i].n_prompt);
                }
                step_end(&d.builder);
                drive_must(ranks_submit(d.ranks, d.step, &st), "submit", &st);
                memset(d.step, 0xee, step_bytes_max(&d.limits)); /* it is the caller's again */
                n++;
            }
            if (n - taken < depth && n < NEW)
                continue;
            assert_true(ranks_ready(d.ranks));
            drive_must(ranks_result(d.ranks, d.result, &st), "result", &st);
            const struct step_result *r = d.result;
            assert_int_equal(r->id, taken + 1);
            for (int i = 0; i < 2; i++)
                out[i][taken] = step_result_tokens(r)[step_result_rows(r)[i].first_token];
            taken++;
        }
        drive_close(&d);
    }
    for (int i = 0; i < 2 * NEW; i++)
        assert_true(same_out(&want[i / NEW][i % NEW], &found[i / NEW][i % NEW]));
    drop_model(&x);
}

/* A slot used again shows nothing of the sequence before. */
static void a_slot_that_is_set_again_begins_anew(void **state)
{
    (void)state;
    struct fixture x;
    struct drive d;
    struct request q;
    static struct answer fresh[SEQS], again[SEQS];
    write_model(&x, &tiny_default);
    struct engine_options o = options(&x, "fast", 1);
    drive_open(&d, &o);
    make_request(&q, 5);
    run_requests(&d, &q, 0, 1, 0, fresh);
    make_request(&q, 1);
    run_requests(&d, &q, 0, 1, 0, again);
    make_request(&q, 5);
    run_requests(&d, &q, 0, 1, 0, again);
    assert_int_equal(fresh[0].n, again[0].n);
    for (int i = 0; i < fresh[0].n; i++)
        assert_true(same_out(&fresh[0].out[i], &again[0].out[i]));
    drive_close(&d);
    drop_model(&x);
}

static void a_bias_holds_until_its_count_of_tokens(void **state)
{
    (void)state;
    enum { N = 4 };
    struct fixture x;
    struct drive d;
    struct tiny t = tiny_default;
    t.tied = false; /* with a tied output a model likes to say again what it was told */
    write_model(&x, &t);
    struct engine_options o = options(&x, "fast", 1);
    drive_open(&d, &o);
    drive_begin(&d);
    const struct sample_bias bias = {.id = 42, .bias = 1000, .until = 3};
    const int32_t first = step_add_bias(&d.builder, &bias, 1);
    struct step_slot *slot = step_add_slot(&d.builder);
    *slot = (struct step_slot){
        .slot = 0, .n_prompt = N, .first_bias = first, .n_bias = 1, .params = drive_greedy(-1)};
    struct drive_seq seq = {.slot = 0};
    drive_row(&d, &seq, ROW_SAMPLE, (int32_t[N]){1, 2, 3, 4}, N);
    for (int i = 0; i < 5; i++) {
        const struct sample_out *out = step_result_tokens(drive_run(&d));
        assert_int_equal(out->id == 42, i < 3);
        drive_begin(&d);
        drive_row(&d, &seq, ROW_SAMPLE, NULL, 1);
    }
    drive_close(&d);
    drop_model(&x);
}

static void facts_say_what_was_loaded(void **state)
{
    (void)state;
    struct fixture x;
    struct drive d;
    struct status st = {0};
    write_model(&x, &tiny_default);
    struct engine_options o = options(&x, "exact", 1);
    o.cpu_isa = "scalar";
    drive_open(&d, &o);
    const struct engine_facts *facts = ranks_facts(d.ranks);
    assert_string_equal(facts->arch, "llama");
    assert_string_equal(facts->device, "cpu");
    assert_string_equal(facts->isa, "scalar");
    assert_string_equal(facts->activations, "f32");
    assert_string_equal(facts->kv_dtype, "f32");
    assert_int_equal(facts->limits.vocab, VOCAB);
    assert_true(facts->total_bytes > facts->weight_bytes + facts->kv_bytes);
    assert_int_equal(facts->n_ranks, n_ranks);
    if (n_ranks == 1) {
        assert_memory_equal(facts->plan, "device\n  cpu ", 13);
        assert_non_null(strstr(facts->plan, "\nmemory\n  weights"));
        assert_string_equal(strstr(facts->plan, "  step"), "  step         256 tokens\n");
    } else {
        assert_non_null(strstr(facts->plan, "\nmemory of rank 0\n  weights"));
        assert_non_null(strstr(facts->plan, "\nranks\n  rank 0"));
        assert_non_null(strstr(facts->plan, n_ranks == 2 ? "1 key heads, feed-forward 32, 80 tokens"
                                                         : "1 key heads, feed-forward 32, 40 "
                                                           "tokens"));
    }
    drive_close(&d);
    o.model_path = "/nowhere.gguf";
    assert_null(ranks_open(&o, NULL, &st));
    assert_string_equal(st.msg, "load model: /nowhere.gguf: No such file or directory");
    drop_model(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(log_probabilities_are_those_of_a_forward_in_double),
        cmocka_unit_test(a_sequence_gets_the_same_bits_alone_and_among_others),
        cmocka_unit_test(a_prefix_hit_continues_as_if_it_had_run_here),
        cmocka_unit_test(a_sequence_computed_again_goes_on_with_the_same_bits),
        cmocka_unit_test(a_step_that_contradicts_the_slots_is_corrupt),
        cmocka_unit_test(a_row_with_a_nan_fails_alone),
        cmocka_unit_test(two_steps_in_flight_give_what_one_after_another_gives),
        cmocka_unit_test(a_slot_that_is_set_again_begins_anew),
        cmocka_unit_test(a_bias_holds_until_its_count_of_tokens),
        cmocka_unit_test(facts_say_what_was_loaded),
    };
    int n_failed = cmocka_run_group_tests_name("runner", tests, NULL, NULL);
    n_ranks = 2;
    n_failed += cmocka_run_group_tests_name("two ranks", tests, NULL, NULL);
    n_ranks = 4; /* more than there are key heads */
    return n_failed + cmocka_run_group_tests_name("four ranks", tests, NULL, NULL);
}
