/* bench_attention - how long attention and the other ops beside matmul take, at the shapes of a
 * small model (9 query heads and 3 KV heads of 64, hidden 576, FFN 1536, vocabulary 49152).
 *
 *   bench_attention [THREADS [ISA]]
 *
 * Each line is the shortest of some repeats by processor time of all threads, divided by their
 * number: on a machine that does other work too, the clock on the wall tells more of that work.
 * GFLOP/s counts the causal half alone; GB/s counts each byte of K and V once. */
#include "kernels/cpu/cpu_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    HEADS = 9,
    KV_HEADS = 3,
    HEAD_DIM = 64,
    BLOCK = 16,
    CONTEXT_MAX = 4200,
    SEQS_MAX = 8,
    HIDDEN = 576,
    FFN = 1536,
    VOCAB = 49152,
    ROWS_MAX = 2048,
    STRIDE = (HEADS + 2 * KV_HEADS) * HEAD_DIM /* of q, k and v together */
};

struct bench {
    struct device *d;
    int n_threads;
    struct kv_cache kv;
    float *q, *qkv, *out, *wide[2], *logits;
    int32_t table[SEQS_MAX][CONTEXT_MAX / BLOCK + 1];
    int32_t seq_start[SEQS_MAX + 1], kv_len[SEQS_MAX], token_seq[ROWS_MAX], positions[ROWS_MAX];
    int32_t ids[ROWS_MAX], slot[SEQS_MAX];

    float inv_freq[HEAD_DIM / 2];
    struct sample_params params;
};

static double now_s(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *take(struct device *d, size_t n_bytes)
{
    struct status st = {0};
    void *p = cpu_backend.ops->mem_take(d, n_bytes, &st);
    if (!p) {
        fprintf(stderr, "bench_attention: %s\n", st.msg);
        exit(1);
    }
    return p;
}

static float *take_floats(struct device *d, size_t n)
{
    float *x = take(d, n * sizeof *x);
    uint32_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525 + 1013904223;
        x[i] = (float)(state >> 8) * 0x1p-23f - 1;
    }
    return x;
}

static void open_bench(struct bench *b, int n_threads, const char *isa)
{
    struct status st = {0};
    b->d = cpu_backend.open(&(struct device_options){.n_threads = n_threads, .isa_max = isa}, &st);
    if (!b->d) {
        fprintf(stderr, "bench_attention: %s\n", st.msg);
        exit(1);
    }
    int per_seq = CONTEXT_MAX / BLOCK + 1;
    b->kv = (struct kv_cache){.dtype = DT_F16,
                              .n_layers = 1,
                              .n_blocks = SEQS_MAX * per_seq,
                              .block_tokens = BLOCK,
                              .n_kv_heads = KV_HEADS,
                              .head_dim = HEAD_DIM};
    size_t n = (size_t)b->kv.n_blocks * KV_HEADS * BLOCK * HEAD_DIM;
    b->kv.k = take(b->d, n * 2);
    b->kv.v = take(b->d, n * 2);
    for (size_t i = 0; i < n; i++)
        ((uint16_t *)b->kv.k)[i] = ((uint16_t *)b->kv.v)[i] = (uint16_t)(0x3000 + i * 37 % 2048);
    for (int s = 0; s < SEQS_MAX; s++) {
        for (int i = 0; i < per_seq; i++)
            b->table[s][i] = (int32_t)((s * per_seq + i) * 7 % b->kv.n_blocks);
    }
    b->q = take_floats(b->d, ROWS_MAX * HEADS * HEAD_DIM);
    b->qkv = take_floats(b->d, (size_t)ROWS_MAX * STRIDE);
    b->out = take_floats(b->d, ROWS_MAX * HEADS * HEAD_DIM);
    b->wide[0] = take_floats(b->d, ROWS_MAX * FFN);
    b->wide[1] = take_floats(b->d, ROWS_MAX * FFN);
    b->logits = take_floats(b->d, VOCAB);
    for (int i = 0; i < HEAD_DIM / 2; i++)
        b->inv_freq[i] = powf(10000, -(float)i / (HEAD_DIM / 2));
    const struct device_limits l = {.step_tokens_max = ROWS_MAX,
                                    .seqs_max = SEQS_MAX,
                                    .heads_max = 1,
                                    .step_heads_max = 1,
                                    .context_max = CONTEXT_MAX,
                                    .block_tokens = BLOCK,
                                    .table_stride = CONTEXT_MAX / BLOCK + 1,
                                    .vocab = VOCAB,
                                    .ffn = FFN,
                                    .in_max = FFN};
    cpu_backend.ops->work_set(b->d, &l, take(b->d, cpu_backend.ops->work_bytes(b->d, &l)),
                              &(struct status){0});
}

static void set_batch(struct bench *b, int n_seqs, int kv_len, int n_new)
{
    b->seq_start[0] = 0;
    for (int s = 0; s < n_seqs; s++) {
        b->kv_len[s] = kv_len;
        b->slot[s] = s;
        b->seq_start[s + 1] = b->seq_start[s] + n_new;
        for (int i = 0; i < n_new; i++) {
            b->token_seq[s * n_new + i] = s;
            b->positions[s * n_new + i] = kv_len - n_new + i;
        }
    }
    cpu_backend.ops->step_begin(b->d,
                                &(struct batch){.n_tokens = n_seqs * n_new,
                                                .n_seqs = n_seqs,
                                                .token_ids = b->ids,
                                                .positions = b->positions,
                                                .token_seq = b->token_seq,
                                                .seq_start = b->seq_start,
                                                .kv_len = b->kv_len,
                                                .n_prompt = b->kv_len,
                                                .slot = b->slot,
                                                .block_table = &b->table[0][0]},
                                0);
    cpu_backend.ops->step_end(b->d);
    cpu_backend.ops->step_wait(b->d, NULL, &(struct status){0});
}

static void run_attention(struct bench *b)
{
    cpu_backend.ops->attention(b->d, &(struct attention_args){.out = b->out,
                                                              .q = b->q,
                                                              .q_stride = HEADS * HEAD_DIM,
                                                              .kv = &b->kv,
                                                              .n_heads = HEADS,
                                                              .scale = 0.125f});
}

static void run_rope(struct bench *b)
{
    cpu_backend.ops->rope_kv(b->d,
                             &(struct rope_kv_args){.q = b->qkv,
                                                    .k = b->qkv + HEADS * HEAD_DIM,
                                                    .v = b->qkv + (HEADS + KV_HEADS) * HEAD_DIM,
                                                    .stride = STRIDE,
                                                    .kv = &b->kv,
                                                    .n_heads = HEADS,
                                                    .rope = ROPE_ADJACENT,
                                                    .rope_dims = HEAD_DIM,
                                                    .inv_freq = b->inv_freq,
                                                    .rope_scale = 1});
}

static void run_norm(struct bench *b)
{
    cpu_backend.ops->norm(b->d, &(struct norm_args){.y = b->wide[0],
                                                    .x = b->wide[1],
                                                    .rows = b->d->batch.n_tokens,
                                                    .width = HIDDEN,
                                                    .norm = {.w = b->wide[1], .eps = 1e-5f}});
}

static void run_act(struct bench *b)
{
    cpu_act(b->d, &(struct act_args){.y = b->wide[0],
                                     .gate = b->wide[1],
                                     .up = b->wide[1],
                                     .rows = b->d->batch.n_tokens,
                                     .width = FFN,
                                     .y_stride = FFN,
                                     .kind = ACT_SILU});
}

static void run_sample(struct bench *b)
{
    struct sample_row row = {.params = &b->params, .forced = -1};
    struct sample_out out;
    cpu_sample_rows(b->d,
                    &(struct sample_rows){
                        .logits = b->logits, .n = 1, .vocab = VOCAB, .row = &row, .out = &out});
}

static double time_best(struct bench *b, void (*run)(struct bench *), double seconds)
{
    double best = 1e9, end = now_s(CLOCK_MONOTONIC) + seconds;
    run(b);
    do {
        double begin = now_s(CLOCK_PROCESS_CPUTIME_ID);
        run(b);
        double took = (now_s(CLOCK_PROCESS_CPUTIME_ID) - begin) / b->n_threads;
        best = took < best ? took : best;
    } while (now_s(CLOCK_MONOTONIC) < end);
    return best;
}

static void report_attention(struct bench *b, const char *name, int n_seqs, int kv_len, int n_new)
{
    set_batch(b, n_seqs, kv_len, n_new);
    double best = time_best(b, run_attention, 0.5);
    double pairs = 0;
    for (int i = 0; i < n_new; i++)
        pairs += kv_len - n_new + i + 1;
    double flop = 4.0 * pairs * HEADS * HEAD_DIM * n_seqs;
    double bytes = 2.0 * 2 * kv_len * KV_HEADS * HEAD_DIM * n_seqs;
    printf("attention  %-34s %9.1f us %7.1f GFLOP/s %6.2f GB/s\n", name, best * 1e6,
           flop / best * 1e-9, bytes / best * 1e-9);
}

static void report(struct bench *b, const char *name, void (*run)(struct bench *), int n_tokens)
{
    set_batch(b, 1, n_tokens, n_tokens);
    printf("%-10s %4d rows %34s %.1f us\n", name, n_tokens, "", time_best(b, run, 0.2) * 1e6);
}

static void report_samples(struct bench *b)
{
    static const struct {
        const char *name;
        struct sample_params params;
    } cases[] = {
        {"greedy", {.top_p = 1, .repetition = 1, .n_logprobs = -1}},
        {"greedy, 20 logprobs", {.top_p = 1, .repetition = 1, .n_logprobs = 20}},
        {"temperature", {.temperature = 0.1f, .top_p = 1, .repetition = 1, .n_logprobs = -1}},
        {"top_p", {.temperature = 0.1f, .top_p = 0.9f, .repetition = 1, .n_logprobs = -1}},
        {"top_k 50",
         {.temperature = 1, .top_k = 50, .top_p = 1, .repetition = 1, .n_logprobs = -1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        b->params = cases[i].params;
        printf("sample     %-44s %.1f us\n", cases[i].name, time_best(b, run_sample, 0.2) * 1e6);
    }
}

int main(int argc, char **argv)
{
    static struct bench b;
    b.n_threads = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 1;
    open_bench(&b, b.n_threads, argc > 2 ? argv[2] : NULL);
    printf("%s, %d threads\n", cpu_backend.variant(b.d), b.n_threads);
    report_attention(&b, "prefill 512", 1, 512, 512);
    report_attention(&b, "prefill 2048", 1, 2048, 2048);
    report_attention(&b, "decode at 512", 1, 512, 1);
    report_attention(&b, "decode at 4096", 1, 4096, 1);
    report_attention(&b, "decode at 512, 8 sequences", 8, 512, 1);
    report_attention(&b, "decode at 4096, 8 sequences", 8, 4096, 1);
    report(&b, "norm", run_norm, 1);
    report(&b, "norm", run_norm, 512);
    report(&b, "rope_kv", run_rope, 1);
    report(&b, "rope_kv", run_rope, 512);
    report(&b, "act", run_act, 1);
    report(&b, "act", run_act, 512);
    report_samples(&b);
    cpu_backend.ops->close(b.d);
    return 0;
}
