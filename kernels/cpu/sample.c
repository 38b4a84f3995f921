/* sample.c - from a row of logits to a token and its log-probabilities.
 *
 * Nothing sorts the vocabulary.  A first pass takes the maximum of every SAMPLE_BLOCK logits; the
 * k-th largest of those maxima is a lower bound of the k-th largest logit, so the k most likely
 * tokens are found in about k blocks.  For top_p, the tokens that each have less than
 * (1 - top_p) / vocab of the probability have less than 1 - top_p together, so the nucleus lies
 * among the others.  The exact border is then found by radix selection over the bits of the
 * logits: three passes, whatever their values.  Among equal logits at a border the lowest ids stay.
 *
 * Candidates stay in the order of their ids; the draw walks them in that order, with sums in
 * double.  Random numbers: kernels/philox.h. */
#include "kernels/half.h"
#include "kernels/cpu/rows.h"
#include "kernels/philox.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static const float GREEDY_BELOW = 1e-5f;

struct choices { /* candidates, ids rising */
    float *logit;
    int32_t *id;
    float *weight; /* exp((logit - top) / temperature) */
    int n;
};

/* One row at work, on one thread's scratch. */
struct draw {
    const struct row_kernels *kernels;
    const struct sample_row *row;
    float *x; /* [vocab] */
    int vocab, n_blocks;
    float top;      /* the largest logit */
    float *tops;    /* [n_blocks] */
    double *sums;   /* [n_blocks] */
    float *raw;     /* [vocab]; valid for the ids in history and bias: logits before their change */
    int32_t *count; /* [vocab]; valid for the ids in history; shares memory with choices.id */
    struct choices choices;
};

static int count_blocks(int vocab)
{
    return divide_up(vocab, SAMPLE_BLOCK);
}

/* Scratch of one thread, a multiple of 64 bytes. */
static size_t area_bytes(int vocab)
{
    size_t n_blocks = (size_t)count_blocks(vocab), n = n_blocks * SAMPLE_BLOCK;
    size_t bytes =
        n * (3 * sizeof(float) + sizeof(int32_t)) + n_blocks * (sizeof(float) + sizeof(double));
    return (bytes + 63) / 64 * 64;
}

size_t cpu_sample_scratch_bytes(const struct device *d, int vocab)
{
    return (size_t)d->n_threads * area_bytes(vocab);
}

static void lay_draw(struct draw *w, char *area, int vocab)
{
    size_t n_blocks = (size_t)count_blocks(vocab), n = n_blocks * SAMPLE_BLOCK;
    w->vocab = vocab;
    w->n_blocks = (int)n_blocks;
    w->sums = (double *)area;
    w->tops = (float *)(w->sums + n_blocks);
    w->raw = w->tops + n_blocks;
    w->choices.logit = w->raw + n;
    w->choices.weight = w->choices.logit + n;
    w->choices.id = (int32_t *)(w->choices.weight + n);
    w->count = w->choices.id;
}

/* Fills tops and top.  False on NaN, an infinite logit, or none that is finite. */
static bool find_tops(struct draw *w)
{
    if (!w->kernels->sample_tops(w->tops, w->x, w->vocab))
        return false;
    w->top = -INFINITY;
    for (int i = 0; i < w->n_blocks; i++)
        w->top = w->tops[i] > w->top ? w->tops[i] : w->top;
    return isfinite(w->top);
}

static int32_t find_largest(const struct draw *w)
{
    int block = 0;
    while (w->tops[block] != w->top)
        block++;
    int id = block * SAMPLE_BLOCK;
    while (w->x[id] != w->top)
        id++;
    return id;
}

static double sum_blocks(const struct draw *w)
{
    double sum = 0;
    for (int i = 0; i < w->n_blocks; i++)
        sum += w->sums[i];
    return sum;
}

/* Puts x into the n_max largest so far, largest first; a later equal value comes behind.  Returns
 * how many there are now. */
static int keep_largest(float *value, int32_t *id, int n, int n_max, float x, int32_t x_id)
{
    int at = n < n_max ? n : n_max - 1;
    if (n == n_max && !(x > value[at]))
        return n;
    for (; at > 0 && x > value[at - 1]; at--) {
        value[at] = value[at - 1];
        id[at] = id[at - 1];
    }
    value[at] = x;
    id[at] = x_id;
    return n < n_max ? n + 1 : n;
}

static void list_top(const struct draw *w, struct sample_out *out, double log_sum)
{
    int n_max = smaller(w->row->params->n_logprobs, w->vocab);
    float bound[TOP_LOGPROBS_MAX];
    int32_t unused[TOP_LOGPROBS_MAX];
    int n = 0;
    for (int i = 0; i < w->n_blocks; i++)
        n = keep_largest(bound, unused, n, n_max, w->tops[i], i);
    float least = n == n_max ? bound[n - 1] : -INFINITY;
    for (int block = 0; block < w->n_blocks; block++) {
        if (w->tops[block] < least)
            continue;
        int end = smaller((block + 1) * SAMPLE_BLOCK, w->vocab);
        for (int id = block * SAMPLE_BLOCK; id < end; id++) {
            if (w->x[id] >= least)
                out->n_top =
                    keep_largest(out->top_logprob, out->top_id, out->n_top, n_max, w->x[id], id);
        }
    }
    for (int i = 0; i < out->n_top; i++)
        out->top_logprob[i] = (float)((double)out->top_logprob[i] - log_sum);
}

static float penalize(const struct sample_params *p, float logit, int n_seen)
{
    if (p->repetition != 1.0f)
        logit = logit > 0 ? logit / p->repetition : logit * p->repetition;
    if (n_seen > 0)
        logit -= p->presence + p->frequency * (float)n_seen;
    return logit;
}

/* Three walks over the history rather than a table to clear: zero the counts of the ids that
 * occur, count the generated ones, change each id once. */
static void apply_penalties(struct draw *w)
{
    const struct sample_row *row = w->row;
    for (int i = 0; i < row->n_history; i++)
        w->count[row->history[i]] = 0;
    for (int i = row->n_prompt; i < row->n_history; i++)
        w->count[row->history[i]]++;
    for (int i = 0; i < row->n_history; i++) {
        int32_t id = row->history[i];
        if (w->count[id] < 0)
            continue;
        w->x[id] = penalize(row->params, w->x[id], w->count[id]);
        w->count[id] = -1;
    }
}

static bool has_penalties(const struct sample_params *p)
{
    return p->presence != 0 || p->frequency != 0 || p->repetition != 1.0f;
}

/* Bias, then penalties; what they change is kept in raw first.  True when anything may have
 * changed. */
static bool change_logits(struct draw *w)
{
    const struct sample_row *row = w->row;
    bool penalties = has_penalties(row->params) && row->n_history > 0;
    for (int i = 0; i < row->n_bias; i++) {
        assert(row->bias[i].id >= 0 && row->bias[i].id < w->vocab);
        w->raw[row->bias[i].id] = w->x[row->bias[i].id];
    }
    for (int i = 0; penalties && i < row->n_history; i++) {
        assert(row->history[i] >= 0 && row->history[i] < w->vocab);
        w->raw[row->history[i]] = w->x[row->history[i]];
    }
    for (int i = 0; i < row->n_bias; i++) {
        if (row->n_history - row->n_prompt < row->bias[i].until)
            w->x[row->bias[i].id] += row->bias[i].bias;
    }
    if (penalties)
        apply_penalties(w);
    return penalties || row->n_bias > 0;
}

/* The logit of id before change_logits. */
static float raw_logit(const struct draw *w, int32_t id, float now)
{
    const struct sample_row *row = w->row;
    for (int i = 0; i < row->n_bias; i++) {
        if (row->bias[i].id == id)
            return w->raw[id];
    }
    for (int i = 0; has_penalties(row->params) && i < row->n_history; i++) {
        if (row->history[i] == id)
            return w->raw[id];
    }
    return now;
}

/* An unsigned number that orders as the float does; -0 and 0 are one. */
static uint32_t order_key(float x)
{
    uint32_t u = f32_to_bits(x + 0.0f);
    return u >> 31 ? ~u : u | 0x80000000;
}

/* A border in the order of logits: all above `key` are in, and of those at it the first n_equal. */
struct border {
    uint32_t key;
    int n_equal;
};

/* One digit of radix selection: among the choices whose bits above shift + bits equal prefix, the
 * largest digit at which the mass from the top reaches `want`.  The mass above it joins *above. */
static uint32_t select_digit(const struct choices *c, uint32_t prefix, int shift, int bits,
                             double want, double *above)
{
    enum { DIGITS_MAX = 1 << 11 };
    double mass[DIGITS_MAX];
    bool used[DIGITS_MAX];
    int n_digits = 1 << bits;
    memset(mass, 0, (size_t)n_digits * sizeof *mass);
    memset(used, 0, (size_t)n_digits * sizeof *used);
    for (int i = 0; i < c->n; i++) {
        uint32_t key = order_key(c->logit[i]);
        if ((uint64_t)key >> (shift + bits) != prefix)
            continue;
        uint32_t digit = key >> shift & (uint32_t)(n_digits - 1);
        mass[digit] += c->weight ? (double)c->weight[i] : 1.0;
        used[digit] = true;
    }
    int digit = n_digits - 1, last = digit;
    for (;; digit--) {
        if (used[digit]) {
            last = digit;
            if (*above + mass[digit] >= want)
                return (uint32_t)digit;
            *above += mass[digit];
        }
        if (digit == 0)
            break;
    }
    *above -= mass[last]; /* all together do not reach it: take all */
    return (uint32_t)last;
}

/* The border of the fewest choices, largest first, whose mass reaches `want`.  Mass is weight, or
 * the number of choices when weight is NULL. */
static struct border find_border(const struct choices *c, double want)
{
    double above = 0;
    uint32_t key = select_digit(c, 0, 21, 11, want, &above);
    key = key << 11 | select_digit(c, key, 10, 11, want, &above);
    key = key << 10 | select_digit(c, key, 0, 10, want, &above);
    struct border b = {.key = key};
    for (int i = 0; i < c->n; i++) {
        if (order_key(c->logit[i]) != key)
            continue;
        b.n_equal++;
        above += c->weight ? (double)c->weight[i] : 1.0;
        if (above >= want)
            break;
    }
    return b;
}

static void keep_choice(struct choices *c, int *n, int from, bool weighted)
{
    c->logit[*n] = c->logit[from];
    c->id[*n] = c->id[from];
    if (weighted)
        c->weight[*n] = c->weight[from];
    (*n)++;
}

static void cut_at(struct choices *c, struct border b, bool weighted)
{
    int n = 0;
    for (int i = 0; i < c->n; i++) {
        uint32_t key = order_key(c->logit[i]);
        if (key > b.key || (key == b.key && b.n_equal-- > 0))
            keep_choice(c, &n, i, weighted);
    }
    c->n = n;
}

static void gather_choices(struct draw *w, float least)
{
    struct choices *c = &w->choices;
    c->n = 0;
    for (int block = 0; block < w->n_blocks; block++) {
        if (w->tops[block] < least)
            continue;
        int end = smaller((block + 1) * SAMPLE_BLOCK, w->vocab);
        for (int id = block * SAMPLE_BLOCK; id < end; id++) {
            c->logit[c->n] = w->x[id];
            c->id[c->n] = id;
            c->n += w->x[id] >= least;
        }
    }
}

/* Leaves exactly k choices. */
static void keep_top_k(struct draw *w, int k)
{
    float least = -INFINITY;
    if (k < w->n_blocks) {
        struct choices blocks = {.logit = w->tops, .n = w->n_blocks};
        uint32_t key = find_border(&blocks, k).key;
        for (int i = 0; i < w->n_blocks; i++) {
            if (order_key(w->tops[i]) == key)
                least = w->tops[i];
        }
    }
    gather_choices(w, least);
    struct choices plain = w->choices;
    plain.weight = NULL;
    cut_at(&w->choices, find_border(&plain, k), false);
}

/* Gathers all tokens that top_p and min_p can keep; returns the sum of all weights. */
static double gather_likely(struct draw *w, float rate)
{
    const struct sample_params *p = w->row->params;
    w->kernels->sample_weights(NULL, w->sums, w->x, w->vocab, w->top, rate);
    double sum = sum_blocks(w);
    double least = (double)p->min_p;
    double outside = (1.0 - (double)p->top_p) * sum / w->vocab;
    if (p->top_p < 1 && outside > least)
        least = outside;
    /* Rounding may make a weight look smaller than it is; the exact cuts come later. */
    double bound = (double)w->top + log(least * 0.999) / (double)rate;
    bound -= fabs(bound) * 1e-6;
    gather_choices(w, least > 0 ? (float)bound : -INFINITY);
    return sum;
}

static double sum_weights(const struct choices *c)
{
    double sum = 0;
    for (int i = 0; i < c->n; i++)
        sum += (double)c->weight[i];
    return sum;
}

static void keep_min_p(struct choices *c, float min_p)
{
    int n = 0;
    for (int i = 0; i < c->n; i++) {
        if (c->weight[i] >= min_p) /* the largest weight is 1 */
            keep_choice(c, &n, i, true);
    }
    c->n = n;
}

static int32_t draw_choice(const struct choices *c, double u)
{
    double target = u * sum_weights(c), sum = 0;
    int32_t id = c->id[0];
    for (int i = 0; i < c->n; i++) {
        if (c->weight[i] > 0)
            id = c->id[i];
        sum += (double)c->weight[i];
        if (sum > target)
            break;
    }
    return id;
}

/* Draws from the whole vocabulary: finds the block, then the token in it. */
static int32_t draw_any(struct draw *w, double u, float rate)
{
    const float *weight = w->choices.weight;
    w->kernels->sample_weights(w->choices.weight, w->sums, w->x, w->vocab, w->top, rate);
    double target = u * sum_blocks(w), sum = 0;
    int block = 0, last = 0;
    for (; block < w->n_blocks; block++) {
        if (w->sums[block] > 0)
            last = block;
        if (sum + w->sums[block] > target)
            break;
        sum += w->sums[block];
    }
    int first = last * SAMPLE_BLOCK, end = smaller(first + SAMPLE_BLOCK, w->vocab);
    int32_t id = first;
    for (int i = first; i < end; i++) {
        if (weight[i] > 0)
            id = i;
        sum += (double)weight[i];
        if (block < w->n_blocks && sum > target)
            break;
    }
    return id;
}

static int32_t draw_token(struct draw *w)
{
    const struct sample_params *p = w->row->params;
    struct choices *c = &w->choices;
    float rate = 1.0f / p->temperature;
    double u = philox_uniform(p->seed, (uint64_t)w->row->n_history);
    bool top_k = p->top_k > 0 && p->top_k < w->vocab;
    if (!top_k && p->top_p >= 1 && p->min_p <= 0)
        return draw_any(w, u, rate);

    double sum = 0;
    if (top_k)
        keep_top_k(w, p->top_k);
    else
        sum = gather_likely(w, rate);
    w->kernels->sample_weights(c->weight, w->sums, c->logit, c->n, w->top, rate);
    if (top_k)
        sum = sum_weights(c);
    if (p->top_p < 1)
        cut_at(c, find_border(c, (double)p->top_p * sum), true);
    if (p->min_p > 0)
        keep_min_p(c, p->min_p);
    return draw_choice(c, u);
}

/* log of the sum of exp over the logits. */
static double find_log_sum(struct draw *w)
{
    w->kernels->sample_weights(NULL, w->sums, w->x, w->vocab, w->top, 1.0f);
    return (double)w->top + log(sum_blocks(w));
}

static void sample_row(struct draw *w, struct sample_out *out)
{
    const struct sample_params *p = w->row->params;
    bool scored = p->n_logprobs >= 0 || w->row->forced >= 0;
    double log_sum = 0;
    *out = (struct sample_out){.fault = SAMPLE_NAN};
    if (scored) {
        if (!find_tops(w))
            return;
        log_sum = find_log_sum(w);
        if (p->n_logprobs > 0)
            list_top(w, out, log_sum);
    }
    if (w->row->forced >= 0) {
        assert(w->row->forced < w->vocab);
        out->id = w->row->forced;
        out->logprob = (float)((double)w->x[out->id] - log_sum);
        out->fault = SAMPLE_OK;
        return;
    }
    if ((change_logits(w) || !scored) && !find_tops(w)) {
        *out = (struct sample_out){.fault = SAMPLE_NAN};
        return;
    }
    out->fault = SAMPLE_OK;
    out->id = p->temperature < GREEDY_BELOW ? find_largest(w) : draw_token(w);
    if (scored)
        out->logprob = (float)((double)raw_logit(w, out->id, w->x[out->id]) - log_sum);
}

struct sample_job {
    const struct sample_rows *args;
    const struct row_kernels *kernels;
    char *scratch;
};

static void sample_part(void *ctx, int part, int thread)
{
    const struct sample_job *job = ctx;
    const struct sample_rows *a = job->args;
    struct draw w = {.kernels = job->kernels,
                     .row = &a->row[part],
                     .x = a->logits + (size_t)part * (size_t)a->vocab};
    lay_draw(&w, job->scratch + (size_t)thread * area_bytes(a->vocab), a->vocab);
    sample_row(&w, &a->out[part]);
}

void cpu_sample_rows(struct device *d, const struct sample_rows *a)
{
    assert(d->scratch_bytes >= cpu_sample_scratch_bytes(d, a->vocab));
    struct sample_job job = {a, cpu_rows(d), d->scratch};
    cpu_parallel(d, sample_part, &job, a->n);
}

/* So many rows at a time, so that what describes them is on the stack. */
enum { ROWS_AT_ONCE = 64 };

static struct sample_row row_of(const struct device *d, const struct batch_head *head)
{
    const struct cpu_slot *slot = &d->slot[head->slot];
    return (struct sample_row){
        .params = &slot->params,
        .history = slot->history,
        .n_history = head->n_history,
        .n_prompt = slot->n_prompt,
        .bias = slot->bias,
        .n_bias = slot->n_bias,
        .forced = head->forced,
    };
}

void cpu_sample(struct device *d, const struct sample_args *a)
{
    struct sample_row row[ROWS_AT_ONCE];
    for (int done = 0; done < a->n; done += ROWS_AT_ONCE) {
        const int first = a->first + done, n = smaller(a->n - done, ROWS_AT_ONCE);
        const struct batch_head *head = d->batch.head + first;
        struct sample_out *out = cpu_step_out(d) + first;
        for (int i = 0; i < n; i++)
            row[i] = row_of(d, &head[i]);
        float *logits = a->logits + (size_t)done * (size_t)a->vocab;
        cpu_sample_rows(d,
                        &(struct sample_rows){
                            .logits = logits, .n = n, .vocab = a->vocab, .row = row, .out = out});
        for (int i = 0; i < n; i++)
            if (head[i].forced < 0)
                d->slot[head[i].slot].sampled = out[i].id;
    }
}
