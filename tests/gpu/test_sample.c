/* What sampling on CUDA promises: the tokens of the CPU for the same logits, history and seed, but
 * where the rounding of a sum of weights decides; and a row alone is the row in a batch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/gpu/device_pair.h"

enum { ROWS = 64, VOCAB = 49152, HISTORY = 200, BIAS = 8, TABLE = 32, BLOCK_TOKENS = 16 };
enum { VOCAB_SMALL = 6151 }; /* for compute-sanitizer */

static int vocab = VOCAB;

static struct device_limits limits = {.step_tokens_max = ROWS,
                                      .seqs_max = ROWS,
                                      .heads_max = ROWS,
                                      .step_heads_max = ROWS,
                                      .context_max = TABLE * BLOCK_TOKENS,
                                      .block_tokens = BLOCK_TOKENS,
                                      .table_stride = TABLE,
                                      .history_max = ROWS * HISTORY,
                                      .bias_max = ROWS * BIAS,
                                      .bias_slot_max = BIAS,
                                      .vocab = VOCAB,
                                      .hidden = 512,
                                      .ffn = 512,
                                      .n_heads = 8,
                                      .n_kv_heads = 2,
                                      .head_dim = 64,
                                      .in_max = 512};

/* A token for each of ROWS sequences that had HISTORY before. */
struct sample_batch {
    int32_t ids[ROWS], positions[ROWS], token_seq[ROWS], seq_start[ROWS + 1], kv_len[ROWS];
    int32_t slot[ROWS], n_prompt[ROWS], table[ROWS * TABLE], history[ROWS][HISTORY];
    struct sample_params params[ROWS];
    struct sample_bias bias[ROWS][BIAS];
    struct batch_slot set[ROWS];
    struct batch_head head[ROWS];
    struct batch batch;
};

static struct sample_batch steps;
static float logits[ROWS * VOCAB]; /* [ROWS, vocab] */

static float *logits_of(int row)
{
    return logits + (size_t)row * (size_t)vocab;
}

static void choose_params(struct sample_params *p, int i)
{
    static const float temperature[] = {0, 0.5f, 1, 1.7f}, top_p[] = {1, 0.95f, 0.6f},
                       min_p[] = {0, 0, 0.1f};
    static const int top_k[] = {0, 1, 40, 900}, n_logprobs[] = {-1, 0, 20};
    *p = (struct sample_params){.temperature = temperature[random_below(4)],
                                .top_p = top_p[random_below(3)],
                                .min_p = min_p[random_below(3)],
                                .top_k = top_k[random_below(4)],
                                .repetition = 1,
                                .seed = random_bits(),
                                .n_logprobs = n_logprobs[random_below(3)]};
    if (i % 2 == 0) {
        p->presence = 0.5f;
        p->frequency = 0.25f;
        p->repetition = 1.3f;
    }
}

static void make_row(struct sample_batch *b, int i)
{
    int32_t n_prompt = 20 + random_below(100);
    float *row = logits_of(i);
    choose_params(&b->params[i], i);
    for (int k = 0; k < HISTORY; k++)
        b->history[i][k] = random_below(500);
    for (int k = 0; k < BIAS; k++)
        b->bias[i][k] = (struct sample_bias){random_below(vocab), k ? random_normal() : -INFINITY,
                                             k % 2 ? 50 : 1 << 30};
    b->ids[i] = random_below(500);
    b->positions[i] = HISTORY;
    b->token_seq[i] = b->slot[i] = i;
    b->seq_start[i + 1] = i + 1;
    b->kv_len[i] = HISTORY + 1;
    b->n_prompt[i] = n_prompt;
    b->set[i] = (struct batch_slot){
        i, n_prompt, HISTORY, b->history[i], &b->params[i], b->bias[i], i % 3 == 0 ? BIAS : 0};
    b->head[i] = (struct batch_head){i, i, HISTORY + 1, i % 8 == 7 ? random_below(vocab) : -1};
    for (int k = 0; k < vocab; k++)
        row[k] = (i % 4 == 1 ? 8 : 2) * random_normal();
    for (int k = 0; i % 4 == 2 && k < vocab; k++)
        row[k] = rintf(row[k] * 8) / 8; /* many equal */
}

static void make_batch(struct sample_batch *b)
{
    for (int i = 0; i < ROWS; i++)
        make_row(b, i);
    logits_of(5)[777] = NAN;
    b->batch = (struct batch){.n_tokens = ROWS,
                              .n_seqs = ROWS,
                              .n_heads = ROWS,
                              .n_slots = ROWS,
                              .token_ids = b->ids,
                              .positions = b->positions,
                              .token_seq = b->token_seq,
                              .seq_start = b->seq_start,
                              .kv_len = b->kv_len,
                              .slot = b->slot,
                              .n_prompt = b->n_prompt,
                              .block_table = b->table,
                              .set = b->set,
                              .head = b->head};
}

/* All rows in calls of n. */
static void run_samples(const struct tested_device *t, int n, struct sample_out out[ROWS])
{
    float *at = take_values(t, logits, (size_t)ROWS * (size_t)vocab, DT_F32);
    memset(out, 0, ROWS * sizeof *out);
    t->ops->step_begin(t->d, &steps.batch, 0);
    for (int first = 0; first < ROWS; first += n)
        t->ops->sample(t->d, &(struct sample_args){.logits = at + (size_t)first * (size_t)vocab,
                                                   .first = first,
                                                   .n = n,
                                                   .vocab = vocab});
    end_step(t, out);
}

static void assert_scores(const struct sample_out *got, const struct sample_out *want, int row)
{
    assert_int_equal(got->fault, want->fault);
    assert_int_equal(got->n_top, want->n_top);
    for (int k = 0; k < got->n_top; k++) {
        if (got->top_id[k] != want->top_id[k])
            fail_msg("row %d: top %d is %d, want %d", row, k, got->top_id[k], want->top_id[k]);
        assert_true(fabsf(got->top_logprob[k] - want->top_logprob[k]) < 2e-5f);
    }
    if (got->id == want->id)
        assert_true(fabsf(got->logprob - want->logprob) < 2e-5f);
}

static void samples_agree_with_the_cpu(void **state)
{
    struct pair *p = *state;
    static struct sample_out out[2][ROWS];
    int n_other = 0;
    make_batch(&steps);
    run_samples(&p->dev[0], ROWS, out[0]);
    run_samples(&p->dev[1], ROWS, out[1]);
    for (int i = 0; i < ROWS; i++) {
        bool exact = steps.head[i].forced >= 0 || steps.params[i].temperature == 0;
        assert_scores(&out[1][i], &out[0][i], i);
        if (out[1][i].id == out[0][i].id)
            continue;
        if (exact)
            fail_msg("row %d: id %d, want %d", i, out[1][i].id, out[0][i].id);
        n_other++;
    }
    print_message("%d of %d draws decided by rounding\n", n_other, ROWS);
    assert_true(n_other <= ROWS / 16);
}

static void a_row_alone_is_the_row_in_a_batch(void **state)
{
    struct pair *p = *state;
    static struct sample_out all[ROWS], alone[ROWS];
    make_batch(&steps);
    run_samples(&p->dev[1], ROWS, all);
    run_samples(&p->dev[1], 1, alone);
    for (int i = 0; i < ROWS; i++) {
        assert_int_equal(all[i].id, alone[i].id);
        assert_memory_equal(&all[i].logprob, &alone[i].logprob, sizeof(float));
        assert_memory_equal(all[i].top_id, alone[i].top_id, (size_t)all[i].n_top * 4);
        assert_memory_equal(all[i].top_logprob, alone[i].top_logprob, (size_t)all[i].n_top * 4);
    }
}

static void a_sampled_token_is_what_the_next_step_reads(void **state)
{
    struct pair *p = *state;
    static struct sample_out first[2][ROWS], second[2][ROWS];
    make_batch(&steps);
    logits_of(5)[777] = 0;
    for (int i = 0; i < ROWS; i++) {
        steps.params[i].temperature = 0;
        steps.head[i].forced = -1;
        logits_of(i)[7] = 40 + (float)i; /* wins until it is seen often */
        logits_of(i)[8] = 39 + (float)i;
    }
    for (int i = 0; i < 2; i++) {
        run_samples(&p->dev[i], ROWS, first[i]);
        struct batch next = steps.batch;
        int32_t ids[ROWS], positions[ROWS], kv_len[ROWS];
        struct batch_head head[ROWS];
        for (int k = 0; k < ROWS; k++) {
            ids[k] = TOKEN_SAMPLED;
            positions[k] = HISTORY + 1;
            kv_len[k] = HISTORY + 2;
            head[k] = (struct batch_head){k, k, HISTORY + 2, -1};
        }
        next.n_slots = 0;
        next.token_ids = ids, next.positions = positions, next.kv_len = kv_len, next.head = head;
        struct batch keep = steps.batch;
        steps.batch = next;
        run_samples(&p->dev[i], ROWS, second[i]);
        steps.batch = keep;
    }
    for (int k = 0; k < ROWS; k++) {
        assert_int_equal(first[1][k].id, first[0][k].id);
        assert_int_equal(second[1][k].id, second[0][k].id);
    }
}

static int open_pair(void **state)
{
    static struct pair pair;
    *state = &pair;
    return pair_open(&pair, DT_BF16, &limits) ? 0 : -1;
}

static int close_pair(void **state)
{
    pair_close(*state);
    return 0;
}

/* With an argument: a small vocabulary. */
int main(int argc, char **argv)
{
    (void)argv;
    limits.vocab = vocab = argc > 1 ? VOCAB_SMALL : VOCAB;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(samples_agree_with_the_cpu),
        cmocka_unit_test(a_row_alone_is_the_row_in_a_batch),
        cmocka_unit_test(a_sampled_token_is_what_the_next_step_reads),
    };
    return cmocka_run_group_tests_name("sample", tests, open_pair, close_pair);
}
