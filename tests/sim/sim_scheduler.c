/* sim_scheduler.c - thousands of small, nasty worlds around the real scheduler.
 *
 * One seed fixes everything: the size of the pool, the limits, who asks for what and when,
 * who leaves, when the engine dies, hangs or slows down, and how time moves.  The engine is
 * the fake one, which finds any block with the wrong content; the clock is the simulation's.
 *
 * After each turn: every invariant of the books, and progress.  At the end of each request: its
 * tokens, log-probabilities and way of ending are those of an oracle that knows nothing of
 * scheduling.  At the end of a world: nothing is owned by anybody.
 *
 * Usage: sim_scheduler [--seeds N] [--seed S] [-v]
 * A seed that fails prints one line: replay: sim_scheduler --seed S */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "scheduler/scheduler_int.h"

enum {
    REQUESTS_MAX = 80,
    PREFIXES = 4,
    CONTEXT_MAX = 400,
    STOPS = 2,
    SEEDS_DEFAULT = 1000,
    TWICE_EVERY = 100, /* of so many seeds one is run again and must leave the same trace */
};

struct sim_request {
    struct request r;
    int32_t prompt[CONTEXT_MAX];
    int32_t stop_id[2];
    struct sample_bias bias[3];
    int32_t group_with; /* index of the request whose prompt and group it has, or -1 */
    uint64_t arrive_ns;
    uint64_t cancel_ns;    /* UINT64_MAX = never by time */
    int32_t cancel_at_out; /* cancelled when it has so many tokens; -1 = never */
    bool lent, done, refused;
    int32_t n_seen;   /* published tokens the loop has looked at */
    uint64_t n_order; /* order of submission */
    uint64_t lent_deaths;
};

struct sim {
    uint64_t seed, rng;
    struct clock_fake clock;
    struct engine_fake_options fake;
    struct scheduler_options options;
    struct engine *engine;
    struct scheduler *s;
    struct sim_request *q;
    int n_requests, n_done, n_live;
    uint64_t n_orders, n_turns;
    int32_t prefix[PREFIXES][CONTEXT_MAX];
    uint32_t die_every, hang_every, jump_every, slow_loop; /* 1 in so many turns; 0 = never */
    uint64_t trace;
    uint64_t n_finished[5];
    bool crowded; /* many short prompts with long answers in a small pool: preemptions */
    bool failed, verbose;
};

/* What many worlds added up to: a simulation that never preempts has tested nothing. */
static struct totals {
    uint64_t n_requests, n_tokens, n_steps, n_preempted, n_replayed, n_cached, n_deaths, n_busy,
        n_too_large, n_given_up, n_stage_steps, n_twice, n_nan, n_expired, n_pinned, n_dropped;
    uint64_t n_finished[5];
} totals;

static uint64_t draw(struct sim *m)
{
    return hash64_mix(m->rng += 0x9e3779b97f4a7c15u);
}

static int32_t between(struct sim *m, int32_t lo, int32_t hi) /* [lo, hi] */
{
    return hi <= lo ? lo : lo + (int32_t)(draw(m) % (uint64_t)(hi - lo + 1));
}

static bool chance(struct sim *m, int32_t percent)
{
    return (int32_t)(draw(m) % 100) < percent;
}

/* Mostly small, now and then large. */
static int32_t skewed(struct sim *m, int32_t lo, int32_t hi)
{
    return chance(m, 75) ? between(m, lo, lo + (hi - lo) / 8) : between(m, lo, hi);
}

__attribute__((format(printf, 2, 3))) static void fail(struct sim *m, const char *fmt, ...)
{
    if (m->failed)
        return;
    m->failed = true;
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "seed %" PRIu64 ", turn %" PRIu64 ": ", m->seed, m->n_turns);
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "\n");
    va_end(ap);
}

static void note(struct sim *m, uint64_t x)
{
    m->trace = hash64_mix(m->trace ^ x) + 1;
}

/* The text of a token: a few letters of a small alphabet, so that stop strings overlap. */
static const char *token_text(const void *ctx, int32_t id, size_t *n)
{
    static const char *const text[] = {"", "a", "b", "ab", "ba", "aab", "bba", "abab"};
    (void)ctx;
    const char *s = text[(uint32_t)id % 8];
    *n = strlen(s);
    return s;
}

static const char *const stop_text[] = {"abba", "aaa", "bab", "babba", "b", "aabaab"};

/* --- the world of a seed -------------------------------------------------------------------- */

static void make_limits(struct sim *m)
{
    struct step_limits *l = &m->fake.limits;
    l->block_tokens = 1 << between(m, 0, 4);
    l->n_blocks = skewed(m, 2, 200);
    l->context_max = chance(m, 60) ? CONTEXT_MAX : between(m, 2, CONTEXT_MAX);
    l->seqs_max = skewed(m, 1, 24);
    l->step_tokens_max = skewed(m, 1, 128);
    l->vocab = chance(m, 50) ? between(m, 2, 12) : between(m, 13, 5000);
    l->history_max = chance(m, 80) ? l->context_max : between(m, 0, l->context_max);
    l->bias_max = between(m, 3, 12);
    l->n_stages = chance(m, 40)   ? between(m, 0, 1)
                  : chance(m, 85) ? between(m, 2, 4)
                                  : between(m, 5, 16);
    m->crowded = chance(m, 30);
    if (!m->crowded)
        return;
    l->block_tokens = between(m, 1, 3);
    l->n_blocks = between(m, 8, 40);
    l->seqs_max = between(m, 6, 24);
    l->context_max = CONTEXT_MAX;
}

static void make_options(struct sim *m)
{
    struct engine_fake_options *f = &m->fake;
    f->step_ns = chance(m, 30) ? 0 : (uint64_t)between(m, 1, 50) * NS_PER_MS;
    f->token_ns = chance(m, 50) ? 0 : (uint64_t)between(m, 1, 1000) * 1000;
    f->slow_every = chance(m, 30) ? 20 : 0;
    f->slow_ns = (uint64_t)between(m, 1, 9000) * NS_PER_MS;
    f->start_ns = (uint64_t)between(m, 0, 2000) * NS_PER_MS;
    f->end_id = chance(m, 70) ? between(m, 0, f->limits.vocab - 1) : -1;
    f->end_every = (uint32_t)(chance(m, 50) ? between(m, 2, 60) : between(m, 60, 1000));
    f->nan_every = chance(m, 20) ? 150 : 0;
    f->check_cache = true;
    m->options = (struct scheduler_options){
        .queue_max = chance(m, 70) ? REQUESTS_MAX : between(m, 0, REQUESTS_MAX / 4),
        .queue_wait_ms_max = chance(m, 70) ? 0 : (uint64_t)between(m, 1, 20000),
        .prefill_chunk_max = skewed(m, 1, 128),
        .mixed_tokens_max = skewed(m, 1, 128),
        .prefix_cache = chance(m, 85),
        .hash_key = {draw(m), draw(m)},
    };
    m->die_every = chance(m, 30) ? (uint32_t)between(m, 5, 300) : 0;
    m->hang_every = chance(m, 10) ? (uint32_t)between(m, 50, 300) : 0;
    m->jump_every = chance(m, 20) ? (uint32_t)between(m, 5, 100) : 0;
    m->slow_loop = chance(m, 30) ? (uint32_t)between(m, 2, 10) : 0;
}

/* Tokens of the longest request that fits. */
static int32_t count_room(const struct sim *m)
{
    const struct step_limits *l = &m->fake.limits;
    const int32_t n = l->n_blocks * l->block_tokens;
    return n < l->context_max ? n : l->context_max;
}

static void make_prompt(struct sim *m, struct sim_request *q)
{
    const struct step_limits *l = &m->fake.limits;
    const int32_t *prefix = m->prefix[between(m, 0, PREFIXES - 1)];
    const int32_t n_shared = chance(m, 60) ? between(m, 0, l->context_max) : 0;
    q->r.n_prompt = m->crowded && chance(m, 90) ? between(m, 1, 4)
                    : chance(m, 2)              ? between(m, 1, CONTEXT_MAX - 1)
                    : chance(m, 40)             ? between(m, 1, count_room(m) - 1)
                                                : skewed(m, 1, count_room(m) - 1);
    for (int32_t i = 0; i < q->r.n_prompt; i++)
        q->prompt[i] = i < n_shared ? prefix[i] : between(m, 0, l->vocab - 1);
}

static void make_limits_of(struct sim *m, struct sim_request *q)
{
    const struct step_limits *l = &m->fake.limits;
    struct request *r = &q->r;
    const int32_t room = count_room(m) > r->n_prompt ? count_room(m) - r->n_prompt : 1;
    r->n_max = chance(m, 5)                  ? 0
               : chance(m, 2)                ? room + between(m, 1, 20)
               : m->crowded || chance(m, 60) ? between(m, 1, room)
                                             : skewed(m, 1, room);
    r->score_prompt = chance(m, r->n_max == 0 ? 80 : 8);
    r->sample.n_logprobs = chance(m, 20) ? between(m, 0, 5) : -1;
    r->n_min = chance(m, 20) ? between(m, 0, r->n_max) : 0;
    r->n_bias = chance(m, 10) ? between(m, 1, 3) : 0;
    for (int32_t i = 0; i < r->n_bias; i++)
        q->bias[i] = (struct sample_bias){.id = between(m, 0, l->vocab - 1), .bias = 1};
    if (chance(m, 70)) {
        q->stop_id[r->n_stop_ids++] = m->fake.end_id < 0 ? 0 : m->fake.end_id;
        if (chance(m, 10))
            q->stop_id[r->n_stop_ids++] = between(m, 0, l->vocab - 1);
    }
    for (int32_t n = chance(m, 15) ? between(m, 1, STOPS) : 0; r->n_stops < n; r->n_stops++) {
        const char *text = stop_text[between(m, 0, 5)];
        r->stop[r->n_stops] = (struct stop_string){text, (int32_t)strlen(text)};
    }
}

static void make_request(struct sim *m, int i, uint64_t *at_ns)
{
    struct sim_request *q = &m->q[i];
    struct request *r = &q->r;
    r->id = (uint64_t)i;
    q->group_with = i > 0 && chance(m, 15) ? i - 1 : -1;
    if (q->group_with >= 0) {
        struct sim_request *first = &m->q[i - 1];
        if (first->r.group == 0)
            first->r.group = (uint32_t)i;
        r->group = first->r.group;
        r->domain = first->r.domain;
        r->n_prompt = first->r.n_prompt;
        memcpy(q->prompt, first->prompt, sizeof q->prompt);
    } else {
        r->domain = (struct hash128){(uint64_t)between(m, 1, 3), 7};
        make_prompt(m, q);
        if (chance(m, m->crowded ? 5 : 60))
            *at_ns += (uint64_t)skewed(m, 0, 3000) * NS_PER_MS;
    }
    make_limits_of(m, q);
    r->prompt = q->prompt;
    r->bias = q->bias;
    r->stop_id = q->stop_id;
    r->sample.temperature = 1;
    r->sample.top_p = 1;
    r->sample.repetition = 1;
    r->sample.seed = draw(m);
    q->arrive_ns = r->arrived_ns = *at_ns;
    q->cancel_ns = chance(m, 12) ? *at_ns + (uint64_t)skewed(m, 0, 20000) * NS_PER_MS : UINT64_MAX;
    q->cancel_at_out = chance(m, 8) ? between(m, 0, r->n_max) : -1;
    const size_t n_top = r->sample.n_logprobs > 0 ? (size_t)r->sample.n_logprobs : 0;
    r->out = calloc((size_t)r->n_max + 1, sizeof *r->out);
    r->score = calloc((size_t)r->n_prompt, sizeof *r->score);
    r->top = n_top ? calloc(((size_t)r->n_max + 1) * n_top, sizeof *r->top) : NULL;
    r->score_top = n_top ? calloc((size_t)r->n_prompt * n_top, sizeof *r->score_top) : NULL;
}

static void make_world(struct sim *m, uint64_t seed)
{
    m->seed = seed;
    m->rng = hash64_mix(seed + 1);
    clock_fake_init(&m->clock, NS_PER_S);
    make_limits(m);
    make_options(m);
    for (int p = 0; p < PREFIXES; p++)
        for (int i = 0; i < CONTEXT_MAX; i++)
            m->prefix[p][i] =
                p > 0 && i < 20 ? m->prefix[p - 1][i] : between(m, 0, m->fake.limits.vocab - 1);
    m->n_requests = m->crowded ? between(m, 10, 50) : skewed(m, 1, REQUESTS_MAX);
    m->q = calloc((size_t)m->n_requests, sizeof *m->q);
    uint64_t at_ns = m->clock.ns;
    for (int i = 0; i < m->n_requests; i++)
        make_request(m, i, &at_ns);
    struct status st = {0};
    m->engine = engine_fake_open(&m->fake, &m->clock.clock, &st);
    const struct token_text text = {.bytes = token_text};
    m->s =
        m->engine ? scheduler_open_text(&m->options, m->engine, &text, &m->clock.clock, &st) : NULL;
    if (!m->s)
        fail(m, "open: %s", st.msg);
}

static void end_world(struct sim *m)
{
    totals.n_deaths += m->engine ? m->engine->n_deaths : 0;
    scheduler_close(m->s);
    for (int i = 0; i < m->n_requests; i++) {
        struct request *r = &m->q[i].r;
        free(r->out);
        free(r->score);
        free(r->top);
        free(r->score_top);
    }
    free(m->q);
}

/* --- the oracle ----------------------------------------------------------------------------- */

struct expected {
    enum finish finish;
    int32_t n_out, stop_token, stop_index;
    int32_t out[CONTEXT_MAX];
};

/* The first byte at which a stop string ends in text[0, n), by trying all; the longest wins. */
static int find_stop(const struct request *r, const char *text, size_t n)
{
    int best = -1;
    for (size_t end = 1; end <= n && best < 0; end++)
        for (int i = 0; i < r->n_stops; i++) {
            const size_t k = (size_t)r->stop[i].n;
            if (k <= end && memcmp(text + end - k, r->stop[i].at, k) == 0 &&
                (best < 0 || r->stop[i].n > r->stop[best].n))
                best = i;
        }
    return best;
}

static void expect(const struct sim *m, const struct sim_request *q, struct expected *x)
{
    const struct request *r = &q->r;
    int32_t ids[2 * CONTEXT_MAX];
    char text[4 * CONTEXT_MAX + 8];
    size_t n_text = 0;
    memcpy(ids, q->prompt, (size_t)r->n_prompt * sizeof *ids);
    *x = (struct expected){.finish = FINISH_LENGTH, .stop_token = -1, .stop_index = -1};
    while (x->n_out < r->n_max) {
        const int32_t n = r->n_prompt + x->n_out;
        const int32_t id = engine_fake_token(&m->fake, r->sample.seed, ids, n);
        if (id < 0) {
            x->finish = FINISH_ERROR;
            return;
        }
        const bool may_stop = x->n_out >= r->n_min;
        for (int32_t i = 0; may_stop && i < r->n_stop_ids; i++)
            if (r->stop_id[i] == id) {
                x->finish = FINISH_STOP;
                x->stop_token = id;
                return;
            }
        ids[n] = x->out[x->n_out++] = id;
        if (!may_stop)
            continue;
        size_t n_bytes;
        const char *bytes = token_text(NULL, id, &n_bytes);
        memcpy(text + n_text, bytes, n_bytes);
        n_text += n_bytes;
        if ((x->stop_index = find_stop(r, text, n_text)) >= 0) {
            x->finish = FINISH_STOP;
            return;
        }
    }
}

static void check_tokens(struct sim *m, const struct sim_request *q, const struct expected *x)
{
    const struct request *r = &q->r;
    int32_t ids[2 * CONTEXT_MAX];
    memcpy(ids, q->prompt, (size_t)r->n_prompt * sizeof *ids);
    const int32_t n_out = atomic_load(&r->n_out);
    if (n_out > x->n_out)
        fail(m, "request %d has %d tokens; the oracle %d", (int)r->id, n_out, x->n_out);
    for (int32_t i = 0; i < n_out && !m->failed; i++) {
        if (r->out[i].id != x->out[i])
            fail(m, "request %d: token %d is %d; the oracle says %d", (int)r->id, i, r->out[i].id,
                 x->out[i]);
        if (r->out[i].logprob != engine_fake_logprob(ids, r->n_prompt + i, x->out[i]))
            fail(m, "request %d: log-probability of token %d", (int)r->id, i);
        if (r->sample.n_logprobs > 0 &&
            r->top[(size_t)i * (size_t)r->sample.n_logprobs].id != x->out[i])
            fail(m, "request %d: top list of token %d", (int)r->id, i);
        ids[r->n_prompt + i] = x->out[i];
    }
}

static void check_scores(struct sim *m, const struct sim_request *q)
{
    const struct request *r = &q->r;
    for (int32_t i = 0; i < r->n_prompt && r->score_prompt; i++) {
        const float want = i == 0 ? 0 : engine_fake_logprob(q->prompt, i, q->prompt[i]);
        if (r->score[i].id != q->prompt[i] || r->score[i].logprob != want)
            fail(m, "request %d: score %d is of %d, %g", (int)r->id, i, r->score[i].id,
                 (double)r->score[i].logprob);
    }
}

static void check_error(struct sim *m, const struct sim_request *q, const struct expected *x)
{
    const struct request *r = &q->r;
    switch (r->why.code) {
    case STATUS_CORRUPT:
        totals.n_nan++;
        if (x->finish != FINISH_ERROR || atomic_load(&r->n_out) != x->n_out)
            fail(m, "request %d: %s, but its numbers are sound", (int)r->id, r->why.msg);
        break;
    case STATUS_BUSY:
        totals.n_expired++;
        if (!m->options.queue_wait_ms_max || r->scheduled_ns ||
            r->finished_ns - r->arrived_ns < m->options.queue_wait_ms_max * NS_PER_MS)
            fail(m, "request %d was failed too early: %s", (int)r->id, r->why.msg);
        break;
    case STATUS_DEVICE:
        if (strstr(r->why.msg, "died twice")) {
            totals.n_twice++;
            if (m->engine->n_deaths < q->lent_deaths + 2)
                fail(m, "request %d has not seen two deaths", (int)r->id);
        } else if (m->engine->given_up) {
            totals.n_given_up++;
        } else {
            fail(m, "request %d: %s", (int)r->id, r->why.msg);
        }
        break;
    default:
        fail(m, "request %d failed with %s: %s", (int)r->id, status_name(r->why.code), r->why.msg);
    }
}

static void check_finished(struct sim *m, struct sim_request *q)
{
    struct request *r = &q->r;
    const enum finish f = (enum finish)atomic_load(&r->finish);
    struct expected x;
    expect(m, q, &x);
    check_tokens(m, q, &x);
    m->n_finished[f]++;
    totals.n_finished[f]++;
    totals.n_tokens += (uint64_t)atomic_load(&r->n_out);
    totals.n_preempted += (uint64_t)r->n_preempted;
    totals.n_replayed += (uint64_t)r->n_replayed;
    totals.n_cached += (uint64_t)r->n_cached;
    totals.n_pinned += r->n_preempted > SEQ_PREEMPTIONS_MAX;
    if (r->seq || r->finished_ns == 0)
        fail(m, "request %d is finished and still held", (int)r->id);
    if (f == FINISH_CANCELLED) {
        if (!atomic_load(&r->cancelled))
            fail(m, "request %d: nobody cancelled it", (int)r->id);
        return;
    }
    if (f == FINISH_ERROR) {
        check_error(m, q, &x);
        return;
    }
    check_scores(m, q);
    if (f != x.finish || atomic_load(&r->n_out) != x.n_out || r->stop_token != x.stop_token ||
        r->stop_index != x.stop_index)
        fail(m, "request %d: finish %d after %d tokens, stop %d %d; the oracle: %d, %d, %d %d",
             (int)r->id, f, atomic_load(&r->n_out), r->stop_token, r->stop_index, x.finish, x.n_out,
             x.stop_token, x.stop_index);
}

/* First come, first served: who was scheduled, was so after all who came before and are in no
 * group (a group's followers let others pass). */
static void check_order(struct sim *m)
{
    uint64_t latest_ns = 0;
    for (uint64_t order = 1; order <= m->n_orders; order++)
        for (int i = 0; i < m->n_requests; i++) {
            const struct sim_request *q = &m->q[i];
            if (q->n_order != order || q->r.group || !q->r.scheduled_ns)
                continue;
            if (q->r.scheduled_ns < latest_ns)
                fail(m, "request %d overtook one that came before", i);
            latest_ns = q->r.scheduled_ns;
        }
}

/* --- turning -------------------------------------------------------------------------------- */

static bool fits(const struct sim *m, const struct request *r)
{
    const struct step_limits *l = &m->fake.limits;
    const int32_t n = r->n_prompt + r->n_max;
    return n <= l->context_max && (n + l->block_tokens - 1) / l->block_tokens <= l->n_blocks;
}

static void submit(struct sim *m, struct sim_request *q)
{
    struct status st = {0};
    if (scheduler_submit(m->s, &q->r, &st)) {
        if (!fits(m, &q->r))
            fail(m, "request %d can never fit, and was taken", (int)q->r.id);
        q->lent = true;
        q->n_order = ++m->n_orders;
        q->lent_deaths = m->engine->n_deaths;
        m->n_live++;
        return;
    }
    if (st.code == STATUS_TOO_LARGE && fits(m, &q->r))
        fail(m, "request %d fits, but: %s", (int)q->r.id, st.msg);
    if (st.code != STATUS_TOO_LARGE && st.code != STATUS_BUSY)
        fail(m, "submit: %s: %s", status_name(st.code), st.msg);
    totals.n_too_large += st.code == STATUS_TOO_LARGE;
    totals.n_busy += st.code == STATUS_BUSY;
    q->refused = true;
    m->n_done++;
}

static void act_front(struct sim *m)
{
    for (int i = 0; i < m->n_requests && !m->failed; i++) {
        struct sim_request *q = &m->q[i];
        if (q->done || q->refused)
            continue;
        if (!q->lent && q->arrive_ns <= m->clock.ns && m->s->has_tables)
            submit(m, q);
        if (q->lent && (q->cancel_ns <= m->clock.ns ||
                        (q->cancel_at_out >= 0 && atomic_load(&q->r.n_out) >= q->cancel_at_out)))
            scheduler_cancel(m->s, &q->r);
    }
}

/* Not before its first life has begun: five deaths would leave nothing to simulate. */
static void act_engine(struct sim *m)
{
    if (!m->s->has_tables)
        return;
    if (m->die_every && draw(m) % m->die_every == 0)
        engine_fake_die(m->engine);
    if (m->hang_every && draw(m) % m->hang_every == 0)
        engine_fake_hang(m->engine);
}

static void take_news(struct sim *m)
{
    if (m->slow_loop && draw(m) % m->slow_loop)
        return;
    for (struct request *r; (r = scheduler_news(m->s)) && !m->failed;) {
        struct sim_request *q = &m->q[r->id];
        const int32_t n_out = atomic_load(&r->n_out);
        if (q->done || n_out < q->n_seen)
            fail(m, "news of request %d, which is done or went back", (int)r->id);
        q->n_seen = n_out;
        note(m, r->id << 32 | (uint32_t)n_out << 4 | (uint32_t)atomic_load(&r->finish));
        if (!request_finished(r))
            continue;
        q->done = true;
        m->n_done++;
        m->n_live--;
        check_finished(m, q);
    }
    scheduler_news_done(m->s);
}

/* Over stages: a sequence goes on from a sample in one step at a time, steps share those who do,
 * and no stage waits while somebody could go on. */
static void check_stages(struct sim *m)
{
    const struct scheduler *s = m->s;
    const int32_t n_stages = s->limits.n_stages;
    int32_t n_idle = 0, n_steps = 0;
    if (n_stages <= 1 || !s->epoch)
        return;
    for (int32_t i = 0; i < s->n_flights; i++) {
        n_steps += s->flight[i].n_decodes > 0;
        if (s->flight[i].n_decodes > (s->n_slots + n_stages - 1) / n_stages)
            fail(m, "a step has %d rows of all that decode", s->flight[i].n_decodes);
    }
    for (int32_t i = 0; i < s->n_run; i++) {
        const struct seq *q = &s->seq[s->run[i]];
        n_idle += q->decoding && q->n_future == 0 && seq_is_runnable(q);
        if (q->n_future > 1)
            fail(m, "a sequence goes on from a sample that is on its way");
    }
    totals.n_stage_steps += (uint64_t)n_steps;
    if (n_steps < n_stages && s->n_flights < s->depth && n_idle > 0 && s->kv.n_free >= n_idle)
        fail(m, "%d of %d steps are in flight, and %d sequences wait", n_steps, n_stages, n_idle);
}

static void check_turn(struct sim *m)
{
    struct status st = {0};
    struct scheduler *s = m->s;
    if (engine_fake_broken(m->engine))
        fail(m, "the engine: %s", engine_fake_broken(m->engine));
    if (!scheduler_valid(s, &st))
        fail(m, "%s", st.msg);
    if (s->stat.n_invariant_faults)
        fail(m, "the scheduler saw a fault of its own");
    if (!s->has_tables)
        return;
    if (s->epoch && s->n_flights == 0 && s->n_run + s->n_leaving + s->queue.n > 0)
        fail(m, "work waits, but no step was submitted");
    check_stages(m);
    for (int i = 0; i < m->n_requests; i++)
        if (m->q[i].lent && !m->q[i].done && atomic_load(&m->q[i].r.cancelled) && m->q[i].r.seq)
            fail(m, "request %d outlived its cancellation", i);
    struct scheduler_view v;
    scheduler_view(s, &v);
    if (v.n_blocks_free + 0 != s->kv.n_free || v.n_waiting != s->queue.n ||
        v.n_running != s->n_run + s->n_leaving)
        fail(m, "the view is not the truth");
}

static uint64_t next_event_ns(const struct sim *m)
{
    uint64_t ns = UINT64_MAX;
    for (int i = 0; i < m->n_requests; i++) {
        const struct sim_request *q = &m->q[i];
        if (q->done || q->refused)
            continue;
        if (!q->lent && m->s->has_tables && q->arrive_ns < ns)
            ns = q->arrive_ns;
        if (q->lent && !atomic_load(&q->r.cancelled) && q->cancel_ns < ns)
            ns = q->cancel_ns;
    }
    return ns;
}

static void move_clock(struct sim *m)
{
    const int64_t idle_ms = scheduler_idle_ms(m->s);
    const uint64_t event_ns = next_event_ns(m);
    uint64_t to_ns = idle_ms < 0 ? UINT64_MAX : m->clock.ns + (uint64_t)idle_ms * NS_PER_MS;
    if (event_ns < to_ns)
        to_ns = event_ns;
    if (to_ns == UINT64_MAX) {
        if (m->n_live > 0 && !m->slow_loop)
            fail(m, "the scheduler would sleep for ever with %d requests", m->n_live);
        return;
    }
    if (to_ns > m->clock.ns) /* now and then woken early, by something else */
        m->clock.ns += chance(m, 20) ? draw(m) % (to_ns - m->clock.ns) : to_ns - m->clock.ns;
    m->clock.ns += draw(m) % 1000;
    if (m->jump_every && draw(m) % m->jump_every == 0)
        m->clock.ns += (uint64_t)between(m, 1, 60) * NS_PER_S;
}

/* Turns that any world can need: each token once for each time its sequence may be computed. */
static uint64_t count_turns_max(const struct sim *m)
{
    uint64_t n = 2000;
    for (int i = 0; i < m->n_requests; i++)
        n += (uint64_t)(m->q[i].r.n_prompt + m->q[i].r.n_max + 4) * 40;
    return n;
}

static void check_end(struct sim *m)
{
    struct scheduler *s = m->s;
    for (int i = 0; i < 100 && s->n_flights > 0; i++) {
        m->clock.ns += 20 * NS_PER_S;
        scheduler_turn(s);
    }
    struct status st = {0};
    if (!scheduler_valid(s, &st))
        fail(m, "at the end: %s", st.msg);
    if (s->has_tables && (s->kv.n_free != s->kv.n_blocks || s->n_free_slots != s->n_slots ||
                          s->n_lent != 0 || s->n_ended != 0))
        fail(m, "at the end %d of %d blocks and %d of %d slots are free, %d requests lent",
             s->kv.n_free, s->kv.n_blocks, s->n_free_slots, s->n_slots, s->n_lent);
    for (int f = 0; f < 5; f++)
        if (s->stat.n_finished[f] != m->n_finished[f])
            fail(m, "counted %" PRIu64 " ends of kind %d, saw %" PRIu64, s->stat.n_finished[f], f,
                 m->n_finished[f]);
    check_order(m);
}

static uint64_t run_seed(uint64_t seed, bool verbose, bool *ok)
{
    struct sim *m = calloc(1, sizeof *m);
    m->verbose = verbose;
    make_world(m, seed);
    const uint64_t n_turns_max = count_turns_max(m);
    while (!m->failed && m->n_done < m->n_requests) {
        if (++m->n_turns > n_turns_max)
            fail(m, "%d of %d requests are done after so many turns", m->n_done, m->n_requests);
        act_front(m);
        act_engine(m);
        scheduler_turn(m->s);
        check_turn(m);
        take_news(m);
        move_clock(m);
        note(m, m->clock.ns ^ (uint64_t)m->s->kv.n_free << 48);
        if (verbose)
            fprintf(stderr,
                    "turn %" PRIu64 " at %" PRIu64 " us: run %d wait %d leave %d end %d free %d "
                    "flights %d rows %d tokens %d\n",
                    m->n_turns, m->clock.ns / 1000, m->s->n_run, m->s->queue.n, m->s->n_leaving,
                    m->s->n_ended, m->s->kv.n_free, m->s->n_flights, m->s->plan.n_rows,
                    m->s->plan.n_tokens);
    }
    if (!m->failed)
        check_end(m);
    totals.n_requests += (uint64_t)m->n_requests;
    totals.n_steps += m->s ? m->s->stat.n_steps : 0;
    *ok = !m->failed;
    const uint64_t trace = m->trace;
    end_world(m);
    free(m);
    return trace;
}

static bool run_checked(uint64_t seed, bool verbose)
{
    bool ok, again_ok;
    const uint64_t trace = run_seed(seed, verbose, &ok);
    if (ok && seed % TWICE_EVERY == 0 && run_seed(seed, false, &again_ok) != trace) {
        fprintf(stderr, "seed %" PRIu64 ": two runs differ\n", seed);
        ok = false;
    }
    if (!ok)
        printf("replay: sim_scheduler --seed %" PRIu64 "\n", seed);
    return ok;
}

static void print_totals(uint64_t n_seeds)
{
    const struct totals *t = &totals;
    printf("%" PRIu64 " seeds: %" PRIu64 " requests, %" PRIu64 " steps, %" PRIu64
           " tokens, %" PRIu64 " cached, %" PRIu64 " micro-batches seen in flight\n",
           n_seeds, t->n_requests, t->n_steps, t->n_tokens, t->n_cached, t->n_stage_steps);
    printf("stop %" PRIu64 ", length %" PRIu64 ", cancelled %" PRIu64 ", error %" PRIu64
           " (nan %" PRIu64 ", expired %" PRIu64 ", died twice %" PRIu64 ", given up %" PRIu64
           "); busy %" PRIu64 ", too large %" PRIu64 "\n",
           t->n_finished[FINISH_STOP], t->n_finished[FINISH_LENGTH],
           t->n_finished[FINISH_CANCELLED], t->n_finished[FINISH_ERROR], t->n_nan, t->n_expired,
           t->n_twice, t->n_given_up, t->n_busy, t->n_too_large);
    printf("%" PRIu64 " preemptions (%" PRIu64 " pinned), %" PRIu64 " deaths, %" PRIu64
           " replays\n",
           t->n_preempted, t->n_pinned, t->n_deaths, t->n_replayed);
}

int main(int argc, char **argv)
{
    uint64_t n_seeds = SEEDS_DEFAULT, first = 1;
    bool verbose = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-v") == 0) {
            verbose = true;
        } else if (strcmp(argv[i], "--seeds") == 0 && i + 1 < argc) {
            n_seeds = strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            first = strtoull(argv[++i], NULL, 10);
            n_seeds = 1;
        } else {
            fprintf(stderr, "usage: sim_scheduler [--seeds N] [--seed S] [-v]\n");
            return 2;
        }
    }
    for (uint64_t seed = first; seed < first + n_seeds; seed++)
        if (!run_checked(seed, verbose))
            return 1;
    print_totals(n_seeds);
    return 0;
}
