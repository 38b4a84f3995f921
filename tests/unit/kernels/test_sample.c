/* What sample promises: bias, penalties, temperature, top_k, top_p and min_p in this order, draws
 * that follow the resulting probabilities and depend on (seed, position) alone, and exact
 * log-probabilities of the raw logits. */
#include "cpu_test.h"

#include <math.h>

#include "kernels/philox.h"

static const struct sample_params plain = {
    .temperature = 1, .top_p = 1, .repetition = 1, .n_logprobs = -1};

/* Samples one row; logits are copied, since sample may overwrite them. */
static struct sample_out sample_one(struct device *d, const float *logits, int vocab,
                                    const struct sample_row *row)
{
    float *x = malloc((size_t)vocab * sizeof *x);
    memcpy(x, logits, (size_t)vocab * sizeof *x);
    struct sample_out out;
    memset(&out, 0xff, sizeof out);
    cpu_sample_rows(
        d, &(struct sample_rows){.logits = x, .n = 1, .vocab = vocab, .row = row, .out = &out});
    free(x);
    return out;
}

static struct device *open_sampler(int isa, int n_threads)
{
    struct device *d = open_cpu(isa_names[isa], n_threads);
    struct device_limits l = wide_limits();
    l.vocab = 300000;
    if (d)
        give_work(d, &l);
    return d;
}

/* ---- Random numbers ---- */

static void philox_gives_the_published_numbers(void **state)
{
    (void)state;
    static const struct { /* the known answers that its authors publish */
        uint32_t counter[4], key[2], want[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int i = 0; i < 3; i++) {
        uint32_t got[4];
        philox4x32(got, cases[i].counter, cases[i].key);
        assert_memory_equal(got, cases[i].want, sizeof got);
    }
    assert_true(philox_uniform(1, 2) != philox_uniform(1, 3));
    assert_true(philox_uniform(1, 2) != philox_uniform(1ull << 32, 2));
}

/* ---- The definition, in double ---- */

struct token {
    int id;
    double logit, weight;
};

static int by_logit(const void *a, const void *b)
{
    const struct token *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->id - y->id;
}

/* Logits after bias and penalties; prob (unless NULL) gets the probability of each token. */
static void define_sampling(const float *logits, int vocab, const struct sample_row *row,
                            double *changed, double *prob)
{
    const struct sample_params *p = row->params;
    for (int id = 0; id < vocab; id++) {
        double x = (double)logits[id];
        for (int i = 0; i < row->n_bias; i++) {
            if (row->bias[i].id == id && row->n_history - row->n_prompt < row->bias[i].until)
                x += (double)row->bias[i].bias;
        }
        int n_all = 0, n_answer = 0;
        for (int i = 0; i < row->n_history; i++) {
            n_all += row->history[i] == id;
            n_answer += row->history[i] == id && i >= row->n_prompt;
        }
        if (n_all)
            x = x > 0 ? x / (double)p->repetition : x * (double)p->repetition;
        if (n_answer)
            x -= (double)p->presence + (double)p->frequency * n_answer;
        changed[id] = x;
    }
    if (!prob)
        return;
    struct token *t = malloc((size_t)vocab * sizeof *t);
    for (int id = 0; id < vocab; id++)
        t[id] = (struct token){id, changed[id], 0};
    qsort(t, (size_t)vocab, sizeof *t, by_logit);
    int n = p->top_k > 0 && p->top_k < vocab ? p->top_k : vocab;
    double sum = 0, kept = 0;
    for (int i = 0; i < n; i++)
        sum += t[i].weight = exp((t[i].logit - t[0].logit) / (double)p->temperature);
    for (int i = 0; i < n; i++) {
        if (p->top_p < 1 && i > 0 && kept >= (double)p->top_p * sum)
            n = i;
        else
            kept += t[i].weight;
    }
    while (n > 1 && t[n - 1].weight < (double)p->min_p)
        n--;
    kept = 0;
    memset(prob, 0, (size_t)vocab * sizeof *prob);
    for (int i = 0; i < n; i++)
        kept += t[i].weight;
    for (int i = 0; i < n; i++)
        prob[t[i].id] = t[i].weight / kept;
    free(t);
}

/* ---- Draws ---- */

struct draw_case {
    const char *name;
    int vocab;
    float temperature, top_p, min_p;
    int top_k;
    float spread;
};

static const struct draw_case draw_cases[] = {
    {"all of a small vocabulary", 17, 1, 1, 0, 0, 1.5f},
    {"all, more than one block", 200, 0.8f, 1, 0, 0, 2},
    {"hot", 40, 3, 1, 0, 0, 2},
    {"cold", 40, 0.2f, 1, 0, 0, 1},
    {"top_k", 150, 1, 1, 0, 7, 1},
    {"top_k of one", 150, 1, 1, 0, 1, 1},
    {"top_k above the number of blocks", 150, 1, 1, 0, 60, 1},
    {"top_p", 150, 1, 0.7f, 0, 0, 2},
    {"tiny top_p", 150, 1, 0.001f, 0, 0, 2},
    {"min_p", 150, 1, 1, 0.1f, 0, 2},
    {"top_k and top_p", 300, 0.9f, 0.8f, 0, 20, 1.5f},
    {"top_p and min_p", 300, 1.2f, 0.9f, 0.05f, 0, 1.5f},
    {"min_p inside top_p", 300, 1, 0.99f, 0.5f, 0, 1.5f},
    {"all three", 300, 1.1f, 0.9f, 0.02f, 50, 1.5f},
};
enum { DRAW_CASES = sizeof draw_cases / sizeof *draw_cases, DRAWS = 100000 };

/* Chi-square over the tokens that expect at least 5 draws, against a limit 5 sigma out. */
static void check_counts(const char *isa, const struct draw_case *c, const int *count,
                         const double *prob)
{
    double chi = 0, rest_want = 0, rest_got = 0;
    int n_cells = 0;
    for (int id = 0; id < c->vocab; id++) {
        if (prob[id] == 0 && count[id] > 0)
            fail_msg("%s, %s: token %d was cut and drawn", isa, c->name, id);
        double want = prob[id] * DRAWS;
        if (want < 5) {
            rest_want += want;
            rest_got += count[id];
            continue;
        }
        chi += (count[id] - want) * (count[id] - want) / want;
        n_cells++;
    }
    if (rest_want >= 5) {
        chi += (rest_got - rest_want) * (rest_got - rest_want) / rest_want;
        n_cells++;
    }
    double limit = n_cells - 1 + 5 * sqrt(2.0 * (n_cells - 1)) + 5;
    if (!(chi <= limit))
        fail_msg("%s, %s: chi-square %.1f over %d cells", isa, c->name, chi, n_cells);
}

static void draws_follow_the_probabilities(void **state)
{
    (void)state;
    enum { ROWS = 500 };
    for (int isa = 0; isa < ISAS; isa++) {
        struct device *d = open_sampler(isa, 2);
        if (!d)
            continue;
        for (int i = 0; i < DRAW_CASES; i++) {
            const struct draw_case *c = &draw_cases[i];
            struct random r = {500 + (uint64_t)i};
            float *base = new_normal(&r, (size_t)c->vocab, c->spread);
            float *x = new_floats((size_t)(ROWS * c->vocab));
            double *prob = malloc((size_t)c->vocab * sizeof *prob);
            double *changed = malloc((size_t)c->vocab * sizeof *changed);
            int *count = calloc((size_t)c->vocab, sizeof *count);
            struct sample_params p = plain;
            p.temperature = c->temperature, p.top_p = c->top_p, p.min_p = c->min_p;
            p.top_k = c->top_k, p.seed = 12345 + (uint64_t)i;
            struct sample_row rows[ROWS];
            struct sample_out out[ROWS];
            static const int32_t history[DRAWS];
            for (int k = 0; k < DRAWS; k++) {
                rows[k % ROWS] = (struct sample_row){
                    .params = &p, .history = history, .n_history = k, .n_prompt = k, .forced = -1};
                memcpy(x + (k % ROWS) * c->vocab, base, (size_t)c->vocab * sizeof *x);
                if (k % ROWS < ROWS - 1)
                    continue;
                cpu_sample_rows(
                    d, &(struct sample_rows){
                           .logits = x, .n = ROWS, .vocab = c->vocab, .row = rows, .out = out});
                for (int j = 0; j < ROWS; j++) {
                    assert_int_equal(out[j].fault, SAMPLE_OK);
                    assert_in_range(out[j].id, 0, c->vocab - 1);
                    count[out[j].id]++;
                }
            }
            define_sampling(base, c->vocab, &rows[0], changed, prob);
            check_counts(isa_names[isa], c, count, prob);
            free(base), free(x), free(prob), free(changed), free(count);
        }
        cpu_backend.ops->close(d);
    }
}

/* The set of tokens that can be drawn, on a vocabulary of real size: each draw must be in the
 * exact set, and the sets' borders, where an error would show, get many draws by a flat row. */
static void cuts_are_exact_on_a_large_vocabulary(void **state)
{
    (void)state;
    enum { VOCAB = 49152 };
    static const struct {
        const char *name;
        float temperature, top_p, min_p;
        int top_k;
        float spread;
        bool ties;
    } cases[] = {
        {"top_k", 1, 1, 0, 3, 0.01f, false},      {"top_k, large", 1, 1, 0, 20000, 0.01f, false},
        {"top_k with ties", 1, 1, 0, 5, 1, true}, {"top_p", 1, 0.0002f, 0, 0, 0.01f, false},
        {"top_p, half", 1, 0.5f, 0, 0, 1, false}, {"top_p with ties", 1, 0.3f, 0, 0, 1, true},
        {"min_p", 1, 1, 0.9f, 0, 0.05f, false},   {"top_p, hot", 5, 0.99f, 0, 0, 3, false},
    };
    double *prob = malloc(VOCAB * sizeof *prob), *changed = malloc(VOCAB * sizeof *changed);
    for (int isa = 1; isa < ISAS; isa++) {
        struct device *d = open_sampler(isa, 1);
        if (!d)
            continue;
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            struct random r = {900 + i};
            float *x = new_normal(&r, VOCAB, cases[i].spread);
            for (int id = 0; cases[i].ties && id < VOCAB; id++)
                x[id] = floorf(x[id]); /* few values, each thousands of times */
            struct sample_params p = plain;
            p.temperature = cases[i].temperature, p.top_p = cases[i].top_p;
            p.min_p = cases[i].min_p, p.top_k = cases[i].top_k, p.seed = 7;
            static const int32_t history[250];
            struct sample_row row = {.params = &p, .history = history, .forced = -1};
            define_sampling(x, VOCAB, &row, changed, prob);
            int n_border = 0;
            for (int k = 0; k < 250; k++) {
                row.n_history = row.n_prompt = k;
                struct sample_out out = sample_one(d, x, VOCAB, &row);
                /* Sums in another order may move the border of top_p by one token in thousands. */
                n_border += prob[out.id] == 0;
            }
            if (n_border > (cases[i].top_p < 1 ? 1 : 0))
                fail_msg("%s: %d draws outside of the set", cases[i].name, n_border);
            free(x);
        }
        cpu_backend.ops->close(d);
    }
    free(prob), free(changed);
}

static void a_draw_depends_on_seed_and_position_alone(void **state)
{
    (void)state;
    enum { VOCAB = 5000, N = 64 };
    struct random r = {1};
    float *x = new_normal(&r, VOCAB, 1), *batch = new_floats(N * VOCAB);
    static const int32_t history[N * 10];
    struct device *one = open_sampler(0, 1), *many = open_sampler(0, 4);
    struct sample_params params[N];
    struct sample_row rows[N];
    struct sample_out out[N];
    int n_same_next = 0, n_same_seed = 0;
    for (int i = 0; i < N; i++) {
        params[i] = plain;
        params[i].seed = (uint64_t)i * 0x100000001;
        params[i].top_p = i % 2 ? 0.9f : 1;
        rows[i] = (struct sample_row){.params = &params[i],
                                      .history = history,
                                      .n_history = i * 9,
                                      .n_prompt = i,
                                      .forced = -1};
        memcpy(batch + i * VOCAB, x, VOCAB * sizeof *x);
    }
    cpu_sample_rows(many, &(struct sample_rows){
                              .logits = batch, .n = N, .vocab = VOCAB, .row = rows, .out = out});
    for (int i = 0; i < N; i++) {
        struct sample_out alone = sample_one(one, x, VOCAB, &rows[i]);
        assert_int_equal(alone.id, out[i].id);
        rows[i].n_history++;
        n_same_next += sample_one(one, x, VOCAB, &rows[i]).id == out[i].id;
        rows[i].n_history--;
        params[i].seed++;
        n_same_seed += sample_one(one, x, VOCAB, &rows[i]).id == out[i].id;
    }
    assert_true(n_same_next < 4);
    assert_true(n_same_seed < 4);
    free(x), free(batch);
    cpu_backend.ops->close(one);
    cpu_backend.ops->close(many);
}

/* ---- Greedy, bias, penalties ---- */

static void greedy_takes_the_largest_and_among_equals_the_lowest_id(void **state)
{
    (void)state;
    static const int vocabs[] = {1, 2, 7, 63, 64, 65, 1000, 49152};
    for (int isa = 0; isa < ISAS; isa++) {
        struct device *d = open_sampler(isa, 1);
        if (!d)
            continue;
        struct sample_params p = plain;
        p.temperature = 0;
        p.top_k = 3; /* no matter */
        struct sample_row row = {.params = &p, .forced = -1};
        for (size_t i = 0; i < sizeof vocabs / sizeof *vocabs; i++) {
            struct random r = {i};
            int vocab = vocabs[i];
            float *x = new_normal(&r, (size_t)vocab, 1);
            for (int k = 0; k < 40; k++) {
                int a = random_below(&r, vocab), b = random_below(&r, vocab);
                float old_a = x[a], old_b = x[b];
                x[a] = x[b] = 50;
                struct sample_out out = sample_one(d, x, vocab, &row);
                assert_int_equal(out.id, a < b ? a : b);
                assert_int_equal(out.fault, SAMPLE_OK);
                assert_int_equal(out.n_top, 0);
                x[a] = old_a, x[b] = old_b;
            }
            free(x);
        }
        float zeros[] = {-1, -0.0f, 0.0f};
        assert_int_equal(sample_one(d, zeros, 3, &row).id, 1);
        p.temperature = 0.9e-5f;
        assert_int_equal(sample_one(d, zeros, 3, &row).id, 1);
        cpu_backend.ops->close(d);
    }
}

/* With temperature 1 and all tokens, the draw's probabilities show the changed logits; here they
 * are read off more directly: greedy after lifting one token by a bias finds where it overtakes. */
static void changed_logits_follow_the_formulas(void **state)
{
    (void)state;
    enum { VOCAB = 50, HISTORY = 30 };
    static const struct {
        const char *name;
        float presence, frequency, repetition;
        bool bias;
    } cases[] = {
        {"none", 0, 0, 1, false},
        {"presence", 0.7f, 0, 1, false},
        {"negative presence", -0.7f, 0, 1, false},
        {"frequency", 0, 0.3f, 1, false},
        {"repetition", 0, 0, 1.4f, false},
        {"repetition below 1", 0, 0, 0.6f, false},
        {"bias", 0, 0, 1, true},
        {"all", 0.4f, 0.2f, 1.2f, true},
    };
    struct device *d = open_sampler(0, 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int round = 0; round < 50; round++) {
            struct random r = {i * 100 + (uint64_t)round};
            float x[VOCAB];
            double changed[VOCAB];
            int32_t history[HISTORY];
            struct sample_bias bias[4];
            fill_normal(&r, x, VOCAB, 2);
            for (int k = 0; k < HISTORY; k++)
                history[k] = random_below(&r, 12);
            for (int k = 0; k < 4; k++) /* two of them still hold after 18 tokens; ids may repeat */
                bias[k] = (struct sample_bias){random_below(&r, 6), random_normal(&r),
                                               k == 0   ? INT32_MAX
                                               : k == 1 ? 19
                                               : k == 2 ? 18
                                                        : 0};
            struct sample_params p = plain;
            p.presence = cases[i].presence, p.frequency = cases[i].frequency;
            p.repetition = cases[i].repetition, p.temperature = 0, p.n_logprobs = 0;
            struct sample_row row = {.params = &p,
                                     .history = history,
                                     .n_history = HISTORY,
                                     .n_prompt = 12,
                                     .bias = bias,
                                     .n_bias = cases[i].bias ? 4 : 0,
                                     .forced = -1};
            define_sampling(x, VOCAB, &row, changed, NULL);
            int best = 0;
            double sum = 0;
            for (int id = 0; id < VOCAB; id++) {
                best = changed[id] > changed[best] ? id : best;
                sum += exp((double)x[id]);
            }
            struct sample_out out = sample_one(d, x, VOCAB, &row);
            if (out.id != best && changed[best] - changed[out.id] > 1e-5)
                fail_msg("%s, round %d: got %d, want %d", cases[i].name, round, out.id, best);
            /* Raw, whatever was changed. */
            assert_true(fabs((double)out.logprob - ((double)x[out.id] - log(sum))) < 1e-5);

            /* Each token's changed logit to 1e-3: it wins by this much and no less. */
            int id = random_below(&r, 14);
            double gap = changed[best] - changed[id];
            struct sample_bias lift[5];
            memcpy(lift, bias, sizeof bias);
            row.bias = lift;
            if (id == best || p.repetition != 1)
                continue; /* repetition is no sum: a lift would be divided with the rest */
            lift[row.n_bias++] = (struct sample_bias){id, (float)(gap + 1e-3), INT32_MAX};
            assert_int_equal(sample_one(d, x, VOCAB, &row).id, id);
            lift[row.n_bias - 1].bias = (float)(gap - 1e-3);
            assert_int_equal(sample_one(d, x, VOCAB, &row).id, best);
        }
    }
    cpu_backend.ops->close(d);
}

static void repetition_divides_positive_and_multiplies_negative_logits(void **state)
{
    (void)state;
    struct device *d = open_sampler(0, 1);
    static const int32_t history[] = {0, 0, 2}; /* 0 in prompt and answer: once all the same */
    struct sample_params p = plain;
    p.temperature = 0;
    p.repetition = 2;
    struct sample_row row = {
        .params = &p, .history = history, .n_history = 3, .n_prompt = 1, .forced = -1};
    assert_int_equal(sample_one(d, (float[]){4, 2.1f, -9}, 3, &row).id, 1); /* 4 / 2 */
    assert_int_equal(sample_one(d, (float[]){4, 1.9f, -9}, 3, &row).id, 0);
    assert_int_equal(sample_one(d, (float[]){-9, -3.9f, -2}, 3, &row).id, 1); /* -2 * 2 */
    assert_int_equal(sample_one(d, (float[]){-9, -4.1f, -2}, 3, &row).id, 2);
    cpu_backend.ops->close(d);
}

static void a_ban_holds_while_it_lasts(void **state)
{
    (void)state;
    struct device *d = open_sampler(0, 1);
    struct sample_params p = plain;
    p.temperature = 0;
    static const int32_t history[10];
    struct sample_bias ban = {1, -INFINITY, 4};
    struct sample_row row = {
        .params = &p, .history = history, .n_prompt = 3, .bias = &ban, .n_bias = 1, .forced = -1};
    for (int n = 3; n < 10; n++) {
        row.n_history = n;
        assert_int_equal(sample_one(d, (float[]){1, 5, 2}, 3, &row).id, n - 3 < 4 ? 2 : 1);
    }
    cpu_backend.ops->close(d);
}

/* ---- Log-probabilities ---- */

static void the_top_list_is_ordered_and_exact(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int vocab, n_logprobs;
        bool ties;
    } cases[] = {
        {"twenty", 49152, 20, false}, {"twenty with ties", 49152, 20, true},
        {"one", 1000, 1, false},      {"all of a small vocabulary", 6, 20, true},
        {"none", 300, 0, false},      {"five in one block", 64, 5, true},
    };
    for (int isa = 0; isa < ISAS; isa++) {
        struct device *d = open_sampler(isa, 2);
        if (!d)
            continue;
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            struct random r = {70 + i};
            int vocab = cases[i].vocab;
            float *x = new_normal(&r, (size_t)vocab, 3);
            struct token *t = malloc((size_t)vocab * sizeof *t);
            double sum = 0;
            for (int id = 0; id < vocab; id++) {
                x[id] = cases[i].ties ? floorf(x[id]) : x[id];
                t[id] = (struct token){id, (double)x[id], 0};
                sum += exp((double)x[id]);
            }
            qsort(t, (size_t)vocab, sizeof *t, by_logit);
            struct sample_params p = plain;
            p.n_logprobs = cases[i].n_logprobs;
            p.temperature = 0.5f;
            int32_t history[] = {t[0].id, t[1].id, t[0].id};
            p.presence = 1;
            struct sample_bias bias = {t[0].id, -3, 100};
            struct sample_row row = {.params = &p,
                                     .history = history,
                                     .n_history = 3,
                                     .n_prompt = 1,
                                     .bias = &bias,
                                     .n_bias = 1,
                                     .forced = -1};
            for (int k = 0; k < 20; k++) {
                p.seed = (uint64_t)k;
                struct sample_out out = sample_one(d, x, vocab, &row);
                int n = cases[i].n_logprobs < vocab ? cases[i].n_logprobs : vocab;
                assert_int_equal(out.n_top, n);
                assert_true(fabs((double)out.logprob - ((double)x[out.id] - log(sum))) < 2e-6);
                for (int j = 0; j < n; j++) {
                    if (out.top_id[j] != t[j].id)
                        fail_msg("%s, %s: place %d is %d, want %d", isa_names[isa], cases[i].name,
                                 j, out.top_id[j], t[j].id);
                    assert_true(fabs((double)out.top_logprob[j] - (t[j].logit - log(sum))) < 2e-6);
                    if (out.top_id[j] == out.id)
                        assert_true(out.top_logprob[j] == out.logprob);
                }
            }
            free(x), free(t);
        }
        cpu_backend.ops->close(d);
    }
}

static void a_forced_token_is_scored_and_not_drawn(void **state)
{
    (void)state;
    enum { VOCAB = 777 };
    struct random r = {3};
    float *x = new_normal(&r, VOCAB, 2);
    double sum = 0;
    for (int id = 0; id < VOCAB; id++)
        sum += exp((double)x[id]);
    struct device *d = open_sampler(0, 1);
    static const int32_t history[] = {5, 6};
    static const struct sample_bias ban = {5, -INFINITY, 100};
    for (int n_logprobs = -1; n_logprobs <= 2; n_logprobs++) {
        struct sample_params p = plain;
        p.n_logprobs = n_logprobs;
        p.presence = 2;
        struct sample_row row = {
            .params = &p, .history = history, .n_history = 2, .bias = &ban, .n_bias = 1};
        for (row.forced = 0; row.forced < VOCAB; row.forced += 5) {
            struct sample_out out = sample_one(d, x, VOCAB, &row);
            assert_int_equal(out.id, row.forced);
            assert_int_equal(out.n_top, n_logprobs > 0 ? n_logprobs : 0);
            assert_true(fabs((double)out.logprob - ((double)x[row.forced] - log(sum))) < 2e-6);
        }
    }
    free(x);
    cpu_backend.ops->close(d);
}

/* ---- Broken rows ---- */

static void a_broken_row_is_a_fault_and_not_a_token(void **state)
{
    (void)state;
    enum { VOCAB = 1000 };
    static const struct {
        const char *name;
        float value;
        bool all;
        int fault;
    } cases[] = {
        {"a NaN", NAN, false, SAMPLE_NAN},
        {"all NaN", NAN, true, SAMPLE_NAN},
        {"none finite", -INFINITY, true, SAMPLE_NAN},
        {"an infinite one", INFINITY, false, SAMPLE_NAN},
        {"one banned", -INFINITY, false, SAMPLE_OK},
    };
    static const struct sample_params params[] = {
        {.temperature = 0, .top_p = 1, .repetition = 1, .n_logprobs = -1},
        {.temperature = 1, .top_p = 1, .repetition = 1, .n_logprobs = -1},
        {.temperature = 1, .top_p = 0.5f, .repetition = 1, .n_logprobs = 3},
        {.temperature = 1, .top_p = 1, .top_k = 9, .repetition = 1.1f, .n_logprobs = 0},
    };
    for (int isa = 0; isa < ISAS; isa++) {
        struct device *d = open_sampler(isa, 1);
        if (!d)
            continue;
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            for (size_t k = 0; k < 4 * VOCAB / 41 * 41; k += 41) {
                struct random r = {i + k};
                float x[VOCAB];
                fill_normal(&r, x, VOCAB, 1);
                for (int id = 0; id < VOCAB; id++)
                    x[id] = cases[i].all || id == (int)(k / 4) ? cases[i].value : x[id];
                struct sample_row row = {.params = &params[k % 4], .forced = -1};
                struct sample_out out = sample_one(d, x, VOCAB, &row);
                if (out.fault != cases[i].fault)
                    fail_msg("%s, %s at %d: fault %d", isa_names[isa], cases[i].name, (int)(k / 4),
                             out.fault);
                if (out.fault != SAMPLE_OK)
                    assert_true(out.id == 0 && out.n_top == 0);
                else
                    assert_int_not_equal(out.id, (int)(k / 4));
            }
        }
        cpu_backend.ops->close(d);
    }
}

static void banning_every_token_is_a_fault(void **state)
{
    (void)state;
    struct device *d = open_sampler(0, 1);
    static const struct sample_bias ban[] = {{0, -INFINITY, 9}, {1, -INFINITY, 9}};
    struct sample_params p = plain;
    struct sample_row row = {.params = &p, .bias = ban, .n_bias = 2, .forced = -1};
    for (p.n_logprobs = -1; p.n_logprobs < 2; p.n_logprobs++) {
        struct sample_out out = sample_one(d, (float[]){1, 2}, 2, &row);
        assert_int_equal(out.fault, SAMPLE_NAN);
        assert_int_equal(out.id, 0);
    }
    cpu_backend.ops->close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_numbers),
        cmocka_unit_test(draws_follow_the_probabilities),
        cmocka_unit_test(cuts_are_exact_on_a_large_vocabulary),
        cmocka_unit_test(a_draw_depends_on_seed_and_position_alone),
        cmocka_unit_test(greedy_takes_the_largest_and_among_equals_the_lowest_id),
        cmocka_unit_test(changed_logits_follow_the_formulas),
        cmocka_unit_test(repetition_divides_positive_and_multiplies_negative_logits),
        cmocka_unit_test(a_ban_holds_while_it_lasts),
        cmocka_unit_test(the_top_list_is_ordered_and_exact),
        cmocka_unit_test(a_forced_token_is_scored_and_not_drawn),
        cmocka_unit_test(a_broken_row_is_a_fault_and_not_a_token),
        cmocka_unit_test(banning_every_token_is_a_fault),
    };
    return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}
