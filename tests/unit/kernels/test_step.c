/* What a device's slots promise: however the tokens of a sequence came - as history, as prompt in
 * pieces, as samples that only the device knows - it samples as from one array of them, with
 * DEVICE_DEPTH steps in flight and others beside it. */
#include "cpu_test.h"

enum { VOCAB = 60, SLOTS = 5, STEPS = 40, CONTEXT = 400, TOKENS = 64 };

struct model { /* a sequence as one array */
    int32_t ids[CONTEXT];
    int32_t n, n_prompt;
    struct sample_params params;
    struct sample_bias bias[3];
    bool begun;
};

struct step { /* the arrays of one step */
    struct batch batch;
    int32_t ids[TOKENS], positions[TOKENS], seq[TOKENS];
    int32_t start[SLOTS + 1], kv_len[SLOTS], slot[SLOTS], n_prompt[SLOTS], table[SLOTS * 256];
    struct batch_slot set[SLOTS];
    struct batch_head head[2 * SLOTS];
    struct sample_out want[2 * SLOTS];
};

static void begin_model(struct model *m, struct random *r, int slot, struct step *s)
{
    *m = (struct model){.begun = true, .n = random_below(r, 20), .n_prompt = 25};
    for (int i = 0; i < m->n; i++)
        m->ids[i] = random_below(r, VOCAB);
    m->params = (struct sample_params){.temperature = random_below(r, 2) ? 0.8f : 0,
                                       .top_p = 0.9f,
                                       .presence = 0.7f,
                                       .frequency = 0.4f,
                                       .repetition = 1.2f,
                                       .seed = random_bits(r),
                                       .n_logprobs = 3};
    for (int i = 0; i < 3; i++)
        m->bias[i] = (struct sample_bias){.id = 7 * i + slot, .bias = 1, .until = 3 * i};
    s->set[s->batch.n_slots++] = (struct batch_slot){.slot = slot,
                                                     .n_prompt = m->n_prompt,
                                                     .n_history = m->n,
                                                     .history = m->ids,
                                                     .params = &m->params,
                                                     .bias = m->bias,
                                                     .n_bias = 3};
}

static void add_head(struct step *s, const struct model *m, int slot, int row, int32_t forced)
{
    s->head[s->batch.n_heads++] =
        (struct batch_head){.row = row, .slot = slot, .n_history = m->n, .forced = forced};
}

/* Prompt tokens while there are some, then the last sample. */
static void add_row(struct step *s, struct model *m, struct random *r, int slot)
{
    const int seq = s->batch.n_seqs++, first = s->batch.n_tokens;
    const int left = m->n_prompt - m->n, n = left > 0 ? 1 + random_below(r, left) : 1;
    for (int i = 0; i < n; i++) {
        const int t = s->batch.n_tokens++;
        s->ids[t] = left > 0 ? random_below(r, VOCAB) : TOKEN_SAMPLED;
        if (left > 0)
            m->ids[m->n] = s->ids[t]; /* else the sample is there */
        s->positions[t] = m->n++;
        s->seq[t] = seq;
    }
    s->start[seq + 1] = s->batch.n_tokens;
    s->kv_len[seq] = m->n;
    s->slot[seq] = slot;
    s->n_prompt[seq] = m->n_prompt;
    if (random_below(r, 2))
        add_head(s, m, slot, first, random_below(r, VOCAB));
    if (n >= left)
        add_head(s, m, slot, first + n - 1, -1);
}

static void build_step(struct step *s, struct model *models, struct random *r)
{
    memset(s, 0, sizeof *s);
    s->batch = (struct batch){.token_ids = s->ids,
                              .positions = s->positions,
                              .token_seq = s->seq,
                              .seq_start = s->start,
                              .kv_len = s->kv_len,
                              .slot = s->slot,
                              .n_prompt = s->n_prompt,
                              .block_table = s->table,
                              .set = s->set,
                              .head = s->head};
    const int turn = random_below(r, SLOTS);
    for (int i = 0; i < SLOTS; i++) {
        const int slot = (i + turn) % SLOTS;
        struct model *m = &models[slot];
        if (s->batch.n_tokens > TOKENS - 30 || random_below(r, 3) == 0)
            continue;
        if (!m->begun || m->n > CONTEXT - 30 || random_below(r, 15) == 0)
            begin_model(m, r, slot, s);
        add_row(s, m, r, slot);
    }
}

/* What each head must say, from the one array; a sample is appended to it. */
static void predict(struct device *d, struct step *s, struct model *models, const float *logits)
{
    float x[VOCAB];
    for (int i = 0; i < s->batch.n_heads; i++) {
        const struct batch_head *h = &s->head[i];
        struct model *m = &models[h->slot];
        const struct sample_row row = {.params = &m->params,
                                       .history = m->ids,
                                       .n_history = h->n_history,
                                       .n_prompt = m->n_prompt,
                                       .bias = m->bias,
                                       .n_bias = 3,
                                       .forced = h->forced};
        memcpy(x, logits + i * VOCAB, sizeof x);
        cpu_sample_rows(d,
                        &(struct sample_rows){
                            .logits = x, .n = 1, .vocab = VOCAB, .row = &row, .out = &s->want[i]});
        if (h->forced < 0)
            m->ids[m->n] = s->want[i].id;
    }
}

static void check_oldest(struct device *d, const struct step *s)
{
    struct sample_out out[2 * SLOTS];
    struct status st = {0};
    assert_true(cpu_backend.ops->step_wait(d, out, &st));
    for (int i = 0; i < s->batch.n_heads; i++) {
        assert_int_equal(out[i].id, s->want[i].id);
        assert_int_equal(out[i].n_top, s->want[i].n_top);
        assert_memory_equal(&out[i].logprob, &s->want[i].logprob, sizeof out[i].logprob);
    }
}

static void slots_sample_as_one_array_of_tokens_does(void **state)
{
    (void)state;
    static struct step step[DEVICE_DEPTH];
    static struct model models[SLOTS];
    float logits[2 * SLOTS * VOCAB];
    struct random r = {2024};
    struct device *d = open_cpu(NULL, 2), *other = open_cpu(NULL, 1);
    struct device_limits l = wide_limits();
    l.seqs_max = SLOTS;
    l.context_max = CONTEXT;
    l.step_tokens_max = TOKENS;
    l.vocab = VOCAB;
    give_work(d, &l);
    give_work(other, &l);
    for (int n = 0; n < STEPS; n++) {
        struct step *s = &step[n % DEVICE_DEPTH];
        if (n >= DEVICE_DEPTH)
            check_oldest(d, s);
        build_step(s, models, &r);
        fill_normal(&r, logits, sizeof logits / sizeof *logits, 2);
        cpu_backend.ops->step_begin(d, &s->batch, 0);
        predict(other, s, models, logits);
        const int half = s->batch.n_heads / 2;
        for (int first = 0; first < s->batch.n_heads; first += half + 1) {
            const int left = s->batch.n_heads - first;
            cpu_backend.ops->sample(d, &(struct sample_args){.logits = logits + first * VOCAB,
                                                             .first = first,
                                                             .n = left < half + 1 ? left : half + 1,
                                                             .vocab = VOCAB});
        }
        cpu_backend.ops->step_end(d);
    }
    cpu_backend.ops->close(d);
    cpu_backend.ops->close(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots_sample_as_one_array_of_tokens_does),
    };
    return cmocka_run_group_tests_name("step", tests, NULL, NULL);
}
