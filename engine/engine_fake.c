/* engine_fake.c - an engine without a model, as strict about the seam as a real one.
 *
 * It keeps, for each position of the KV cache, a hash of all tokens up to there: what the KV of
 * that position depends on in a real model.  A row reads its whole table, so a block that was
 * shared wrongly, written twice or never, is found by the next row that needs it.
 *
 * All answers are functions of the tokens alone (and the seed): one chain hash per slot, extended
 * by each token, so a token costs the same at any length.
 *
 * Thread: one. */
#include "engine/engine.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/hash.h"

enum { DEATHS_MAX = 5 };
static const uint64_t death_window_ns = 600 * NS_PER_S;
static const uint64_t health_ns = 60 * NS_PER_S;
static const uint64_t hang_ns = 10 * NS_PER_S;

struct fake_slot {
    bool is_set, has_sample;
    int32_t n_cache; /* tokens with KV */
    int32_t n_table;
    int32_t sample; /* the token after those, if has_sample */
    struct sample_params params;
    uint64_t *chain; /* [context_max + 1] chain[n] = hash of the first n tokens */
    int32_t *table;  /* [table_max] */
    uint64_t row_of; /* last step that had a row of it */
};

struct engine_fake {
    struct engine base;
    struct engine_fake_options options;
    const struct clock *clock;
    int timer_fd; /* real time only, else -1 */

    struct step *step[ENGINE_DEPTH_MAX]; /* submitted ones first, oldest first */
    uint64_t due_ns[ENGINE_DEPTH_MAX];   /* when it is done */
    uint64_t free_ns[ENGINE_RANKS_MAX];  /* when a stage has done all it was given */
    int n_steps;
    void *result;
    bool has_result; /* of step[0], not given back yet */
    uint64_t n_done_steps, n_submitted;

    struct fake_slot *slot; /* [seqs_max] */
    int32_t table_max;
    uint64_t *kv; /* [n_blocks * block_tokens] chain hash of the token that was written there */

    bool dying, hung;
    char cause[STATUS_MSG_BYTES];
    char broken[STATUS_MSG_BYTES]; /* "" <=> nothing broke the contract */
    uint64_t until_ns;             /* STARTING: ready then; DOWN: starting then */
    uint64_t ready_ns;             /* of this life */
    uint64_t death_ns[DEATHS_MAX];
    uint32_t n_backoff; /* deaths since the last minute of health */
};

/* --- the model ------------------------------------------------------------------------------ */

static const uint64_t chain_start = 0x6a09e667f3bcc908u;

static uint64_t extend(uint64_t chain, int32_t id)
{
    return hash64_mix(chain + 0x9e3779b97f4a7c15u * ((uint64_t)(uint32_t)id + 1));
}

static uint64_t draw(uint64_t chain, uint64_t seed, int32_t n)
{
    return hash64_mix(chain ^ hash64_mix(seed + (uint64_t)(uint32_t)n));
}

/* -1 <=> NaN */
static int32_t choose_token(const struct engine_fake_options *o, uint64_t chain, uint64_t seed,
                            int32_t n)
{
    const uint64_t h = draw(chain, seed, n);
    if (o->nan_every && (h >> 40) % o->nan_every == 0)
        return -1;
    if (o->end_id >= 0 && o->end_every && (h >> 20) % o->end_every == 0)
        return o->end_id;
    return (int32_t)(h % (uint64_t)o->limits.vocab);
}

static float choose_logprob(uint64_t chain, int32_t id)
{
    return -(float)(extend(chain, id) % 4096) / 512.0f;
}

static uint64_t chain_of(const int32_t *ids, int32_t n)
{
    uint64_t chain = chain_start;
    for (int32_t i = 0; i < n; i++)
        chain = extend(chain, ids[i]);
    return chain;
}

int32_t engine_fake_token(const struct engine_fake_options *o, uint64_t seed, const int32_t *ids,
                          int32_t n)
{
    return choose_token(o, chain_of(ids, n), seed, n);
}

float engine_fake_logprob(const int32_t *ids, int32_t n, int32_t id)
{
    return choose_logprob(chain_of(ids, n), id);
}

static void fill_out(const struct engine_fake *f, struct sample_out *out, uint64_t chain,
                     int32_t id, const struct sample_params *p)
{
    *out = (struct sample_out){.id = id, .logprob = choose_logprob(chain, id)};
    const int32_t vocab = f->options.limits.vocab;
    out->n_top = p->n_logprobs < 0 ? 0 : p->n_logprobs < vocab ? p->n_logprobs : vocab;
    for (int32_t i = 0; i < out->n_top; i++) {
        out->top_id[i] = (id + i) % vocab;
        out->top_logprob[i] = out->logprob - (float)i;
    }
}

/* --- the contract --------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static bool breaks(struct engine_fake *f, const char *fmt,
                                                         ...)
{
    if (!f->broken[0]) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(f->broken, sizeof f->broken, fmt, ap);
        va_end(ap);
    }
    return false;
}

static bool set_slot(struct engine_fake *f, const struct step *step, const struct step_slot *set)
{
    struct fake_slot *s = &f->slot[set->slot];
    const int32_t *history = step_history(step) + set->first_history;
    s->is_set = true;
    s->has_sample = false;
    s->n_cache = set->n_history;
    s->n_table = 0;
    s->params = set->params;
    s->chain[0] = chain_start;
    for (int32_t i = 0; i < set->n_history; i++)
        s->chain[i + 1] = extend(s->chain[i], history[i]);
    if (set->n_prompt < 1)
        return breaks(f, "slot %d has a prompt of %d tokens", set->slot, set->n_prompt);
    return true;
}

static bool check_row(struct engine_fake *f, const struct step *step, const struct step_row *row)
{
    struct fake_slot *s = &f->slot[row->slot];
    const int32_t block_tokens = f->options.limits.block_tokens;
    const int32_t n_table = row->block_at + row->n_blocks;
    if (!s->is_set)
        return breaks(f, "row of slot %d, which is not set", row->slot);
    if (s->row_of == step->id)
        return breaks(f, "two rows of slot %d in step %llu", row->slot,
                      (unsigned long long)step->id);
    s->row_of = step->id;
    if (row->position != s->n_cache)
        return breaks(f, "slot %d: row at %d, cache has %d tokens", row->slot, row->position,
                      s->n_cache);
    if (row->block_at != s->n_table)
        return breaks(f, "slot %d: blocks at %d, table has %d", row->slot, row->block_at,
                      s->n_table);
    if (n_table != (row->position + row->n_tokens + block_tokens - 1) / block_tokens)
        return breaks(f, "slot %d: %d blocks for %d tokens", row->slot, n_table,
                      row->position + row->n_tokens);
    if ((row->flags & ROW_TOKEN_SAMPLED) && !s->has_sample)
        return breaks(f, "slot %d has no sample to go on from", row->slot);
    if (s->has_sample && !(row->flags & ROW_TOKEN_SAMPLED) &&
        step_tokens(step)[row->first_token] != s->sample)
        return breaks(f, "slot %d sampled %d, but is given %d", row->slot, s->sample,
                      step_tokens(step)[row->first_token]);
    return true;
}

static uint64_t *kv_at(const struct engine_fake *f, const struct fake_slot *s, int32_t position)
{
    const int32_t block_tokens = f->options.limits.block_tokens;
    const int32_t block = s->table[position / block_tokens];
    return &f->kv[(size_t)block * (size_t)block_tokens + (size_t)(position % block_tokens)];
}

/* What attention would read: the KV of every token before the row. */
static bool check_cache(struct engine_fake *f, const struct step_row *row)
{
    const struct fake_slot *s = &f->slot[row->slot];
    int32_t i = f->options.check_cache || s->n_cache == 0 ? 0 : s->n_cache - 1;
    for (; i < s->n_cache; i++)
        if (*kv_at(f, s, i) != s->chain[i + 1])
            return breaks(f, "slot %d: block %d does not hold token %d of its sequence", row->slot,
                          s->table[i / f->options.limits.block_tokens], i);
    return true;
}

static void write_tokens(struct engine_fake *f, struct fake_slot *s, const int32_t *ids, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        s->chain[s->n_cache + 1] = extend(s->chain[s->n_cache], ids[i]);
        *kv_at(f, s, s->n_cache) = s->chain[s->n_cache + 1];
        s->n_cache++;
    }
    s->has_sample = false;
}

static void score_row(struct engine_fake *f, struct result_builder *b,
                      struct step_result_row *answer, const struct step_row *row,
                      const int32_t *ids)
{
    const struct fake_slot *s = &f->slot[row->slot];
    const int32_t n = row->n_tokens - (row->next_token < 0);
    struct sample_out *out = step_result_add_scores(b, n);
    assert(out || n == 0);
    answer->first_score = b->result->n_scores - n;
    answer->n_scores = n;
    for (int32_t i = 0; i < n; i++) {
        const int32_t next = i + 1 < row->n_tokens ? ids[i + 1] : row->next_token;
        fill_out(f, &out[i], s->chain[row->position + i + 1], next, &s->params);
    }
}

static void sample_row(struct engine_fake *f, struct result_builder *b,
                       struct step_result_row *answer, struct fake_slot *s)
{
    const uint64_t chain = s->chain[s->n_cache];
    const int32_t id = choose_token(&f->options, chain, s->params.seed, s->n_cache);
    if (id < 0) {
        answer->status = ROW_FAILED_NAN;
        s->has_sample = true; /* the overshoot row may come; its result is dropped */
        s->sample = 0;
        return;
    }
    struct sample_out *out = step_result_add_tokens(b, 1);
    assert(out);
    answer->first_token = b->result->n_tokens - 1;
    answer->n_tokens = 1;
    fill_out(f, out, chain, id, &s->params);
    s->has_sample = true;
    s->sample = id;
}

static bool run_row(struct engine_fake *f, struct result_builder *b, const struct step *step,
                    const struct step_row *row)
{
    struct fake_slot *s = &f->slot[row->slot];
    if (!check_row(f, step, row))
        return false;
    memcpy(s->table + s->n_table, step_blocks(step) + row->first_block,
           (size_t)row->n_blocks * sizeof *s->table);
    s->n_table += row->n_blocks;
    if (!check_cache(f, row))
        return false;
    const int32_t sampled = s->sample;
    const int32_t *ids =
        row->flags & ROW_TOKEN_SAMPLED ? &sampled : step_tokens(step) + row->first_token;
    write_tokens(f, s, ids, row->n_tokens);
    struct step_result_row *answer = step_result_add_row(b);
    assert(answer);
    answer->slot = row->slot;
    if (row->flags & ROW_SCORE_NEXT)
        score_row(f, b, answer, row, ids);
    if (row->flags & ROW_SAMPLE)
        sample_row(f, b, answer, s);
    return true;
}

static bool run_step(struct engine_fake *f, const struct step *step)
{
    struct status st = {0};
    const struct step_limits *l = &f->options.limits;
    if (!step_check(step, step_bytes_max(l), l, &st))
        return breaks(f, "%s", st.msg);
    if (step->id != ++f->n_done_steps)
        return breaks(f, "step %llu where %llu was due", (unsigned long long)step->id,
                      (unsigned long long)f->n_done_steps);
    struct result_builder b;
    step_result_begin(&b, f->result, l, step->id);
    b.result->run_ns = f->options.step_ns + f->options.token_ns * (uint64_t)step->n_tokens;
    for (int32_t i = 0; i < step->n_slots; i++)
        if (!set_slot(f, step, &step_slots(step)[i]))
            return false;
    for (int32_t i = 0; i < step->n_rows; i++)
        if (!run_row(f, &b, step, &step_rows(step)[i]))
            return false;
    step_result_end(&b);
    return true;
}

/* --- life and death ------------------------------------------------------------------------- */

static uint64_t backoff_ns(uint32_t n_deaths)
{
    static const uint64_t s[] = {0, 1, 2, 5, 10};
    const uint32_t last = sizeof s / sizeof s[0] - 1;
    return s[n_deaths - 1 < last ? n_deaths - 1 : last] * NS_PER_S;
}

static void arm_timer(struct engine_fake *f, uint64_t at_ns)
{
    if (f->timer_fd < 0)
        return;
    const uint64_t now_ns = clock_now(f->clock);
    const uint64_t left = at_ns > now_ns ? at_ns - now_ns : 1;
    const struct itimerspec t = {
        .it_value = {.tv_sec = (time_t)(left / NS_PER_S), .tv_nsec = (long)(left % NS_PER_S)}};
    timerfd_settime(f->timer_fd, 0, &t, NULL);
}

static void become_down(struct engine_fake *f, uint64_t now_ns)
{
    struct engine *e = &f->base;
    if (now_ns - f->ready_ns >= health_ns && e->state == ENGINE_READY)
        f->n_backoff = 0;
    memmove(&f->death_ns[1], &f->death_ns[0], (DEATHS_MAX - 1) * sizeof f->death_ns[0]);
    f->death_ns[0] = now_ns;
    e->n_deaths++;
    e->state = ENGINE_DOWN;
    e->pid = 0;
    e->why = (struct status){0};
    status_fail(&e->why, STATUS_DEVICE, "%s", f->cause);
    e->given_up = f->broken[0] || (e->n_deaths >= DEATHS_MAX &&
                                   now_ns - f->death_ns[DEATHS_MAX - 1] < death_window_ns);
    f->until_ns = now_ns + backoff_ns(++f->n_backoff);
    f->dying = f->hung = f->has_result = false;
    f->n_steps = 0;
    memset(f->free_ns, 0, sizeof f->free_ns);
}

static void become_ready(struct engine_fake *f, uint64_t now_ns)
{
    struct engine *e = &f->base;
    const struct step_limits *l = &f->options.limits;
    e->state = ENGINE_READY;
    e->epoch++;
    e->pid = getpid();
    e->last_step_ns = now_ns;
    e->progress.n_done = e->progress.n_total;
    f->ready_ns = now_ns;
    f->n_done_steps = f->n_submitted = 0;
    for (int32_t i = 0; i < l->seqs_max; i++) {
        f->slot[i].is_set = f->slot[i].has_sample = false;
        f->slot[i].row_of = 0;
    }
    if (e->epoch > 1) /* a new life finds garbage; the first one finds zeros */
        memset(f->kv, 0xa5, (size_t)l->n_blocks * (size_t)l->block_tokens * sizeof *f->kv);
}

static void die(struct engine_fake *f, const char *cause)
{
    if (f->base.state == ENGINE_DOWN)
        return; /* there is nobody to kill */
    snprintf(f->cause, sizeof f->cause, "%s", cause);
    f->dying = true;
}

static struct engine_fake *fake(struct engine *e)
{
    return (struct engine_fake *)e;
}

static void run_due(struct engine_fake *f, uint64_t now_ns)
{
    if (f->has_result || f->n_steps == 0 || f->hung || now_ns < f->due_ns[0])
        return;
    if (!run_step(f, f->step[0])) {
        die(f, f->broken);
        return;
    }
    f->has_result = true;
    f->base.last_step_ns = now_ns;
}

static enum engine_state fake_poll(struct engine *e, uint64_t now_ns)
{
    struct engine_fake *f = fake(e);
    if (f->timer_fd >= 0) {
        uint64_t count;
        while (read(f->timer_fd, &count, sizeof count) < 0 && errno == EINTR)
            ;
    }
    if (e->state == ENGINE_READY && f->hung && f->n_steps > 0 && now_ns > f->due_ns[0] + hang_ns)
        die(f, "hang: a step took longer than its limit");
    if (f->dying && e->state != ENGINE_DOWN)
        become_down(f, now_ns);
    if (e->state == ENGINE_DOWN && !e->given_up && now_ns >= f->until_ns) {
        e->state = ENGINE_STARTING;
        e->progress.n_done = 0;
        f->until_ns = now_ns + f->options.start_ns;
    }
    if (e->state == ENGINE_STARTING && now_ns >= f->until_ns)
        become_ready(f, now_ns);
    if (e->state == ENGINE_READY && f->n_steps == 0)
        e->last_step_ns = now_ns;
    if (e->state == ENGINE_READY)
        run_due(f, now_ns);
    if (e->state != ENGINE_READY && !e->given_up)
        arm_timer(f, f->until_ns);
    return e->state;
}

static struct step *fake_step_room(struct engine *e)
{
    struct engine_fake *f = fake(e);
    return e->state == ENGINE_READY && f->n_steps < engine_depth(&f->options.limits)
               ? f->step[f->n_steps]
               : NULL;
}

/* When a step of so many nanoseconds has passed all stages, each busy with one at a time. */
static uint64_t pass_stages(struct engine_fake *f, uint64_t now_ns, uint64_t ns)
{
    const int n = f->options.limits.n_stages > 1 ? f->options.limits.n_stages : 1;
    uint64_t at_ns = now_ns;
    for (int i = 0; i < n; i++) {
        if (f->free_ns[i] > at_ns)
            at_ns = f->free_ns[i];
        f->free_ns[i] = at_ns += ns / (uint64_t)n;
    }
    return at_ns;
}

static void fake_submit(struct engine *e)
{
    struct engine_fake *f = fake(e);
    const struct engine_fake_options *o = &f->options;
    const uint64_t now_ns = clock_now(f->clock);
    const struct step *step = f->step[f->n_steps];
    uint64_t ns = o->step_ns + o->token_ns * (uint64_t)step->n_tokens;
    if (o->slow_every && hash64_mix(++f->n_submitted) % o->slow_every == 0)
        ns += o->slow_ns;
    f->due_ns[f->n_steps] = pass_stages(f, now_ns, ns);
    if (f->n_steps++ == 0)
        arm_timer(f, f->due_ns[0]);
}

static const struct step_result *fake_result(struct engine *e)
{
    struct engine_fake *f = fake(e);
    if (e->state != ENGINE_READY || f->dying)
        return NULL;
    run_due(f, clock_now(f->clock));
    return f->has_result ? f->result : NULL;
}

static void fake_result_done(struct engine *e)
{
    struct engine_fake *f = fake(e);
    assert(f->has_result);
    f->has_result = false;
    struct step *first = f->step[0];
    const int depth = engine_depth(&f->options.limits);
    for (int i = 1; i < depth; i++) {
        f->step[i - 1] = f->step[i];
        f->due_ns[i - 1] = f->due_ns[i];
    }
    f->step[depth - 1] = first;
    if (--f->n_steps > 0)
        arm_timer(f, f->due_ns[0]);
}

static int fake_fd(const struct engine *e)
{
    return ((const struct engine_fake *)e)->timer_fd;
}

static int64_t fake_wait_ms(const struct engine *e, uint64_t now_ns)
{
    const struct engine_fake *f = (const struct engine_fake *)e;
    uint64_t at_ns = UINT64_MAX;
    if (f->dying || f->has_result)
        return 0;
    if (e->state != ENGINE_READY)
        at_ns = e->given_up ? UINT64_MAX : f->until_ns;
    else if (f->n_steps > 0)
        at_ns = f->due_ns[0] + (f->hung ? hang_ns + 1 : 0);
    if (at_ns == UINT64_MAX)
        return -1;
    return at_ns <= now_ns ? 0 : (int64_t)((at_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS);
}

static void fake_kill(struct engine *e, const char *why)
{
    die(fake(e), why);
}

static void fake_close(struct engine *e)
{
    struct engine_fake *f = fake(e);
    for (int i = 0; i < ENGINE_DEPTH_MAX; i++)
        free(f->step[i]);
    free(f->result);
    free(f->kv);
    for (int32_t i = 0; f->slot && i < f->options.limits.seqs_max; i++) {
        free(f->slot[i].chain);
        free(f->slot[i].table);
    }
    free(f->slot);
    if (f->timer_fd >= 0)
        close(f->timer_fd);
    free(f);
}

static const struct engine_vtable fake_vtable = {
    .name = "fake",
    .poll = fake_poll,
    .step_room = fake_step_room,
    .submit = fake_submit,
    .result = fake_result,
    .result_done = fake_result_done,
    .fd = fake_fd,
    .wait_ms = fake_wait_ms,
    .kill = fake_kill,
    .close = fake_close,
};

static bool take_memory(struct engine_fake *f)
{
    const struct step_limits *l = &f->options.limits;
    for (int i = 0; i < engine_depth(l); i++)
        if (!(f->step[i] = calloc(1, step_bytes_max(l))))
            return false;
    f->result = calloc(1, step_result_bytes_max(l));
    f->kv = calloc((size_t)l->n_blocks * (size_t)l->block_tokens, sizeof *f->kv);
    f->slot = calloc((size_t)l->seqs_max, sizeof *f->slot);
    if (!f->result || !f->kv || !f->slot)
        return false;
    f->table_max = (l->context_max + l->block_tokens - 1) / l->block_tokens;
    for (int32_t i = 0; i < l->seqs_max; i++) {
        struct fake_slot *s = &f->slot[i];
        s->chain = calloc((size_t)l->context_max + 2, sizeof *s->chain);
        s->table = calloc((size_t)f->table_max, sizeof *s->table);
        if (!s->chain || !s->table)
            return false;
    }
    return true;
}

struct engine *engine_fake_open(const struct engine_fake_options *o, const struct clock *clock,
                                struct status *st)
{
    struct engine_fake *f = calloc(1, sizeof *f);
    if (!f) {
        status_fail(st, STATUS_TOO_LARGE, "no memory for the fake engine");
        return NULL;
    }
    *f = (struct engine_fake){.options = *o, .clock = clock, .timer_fd = -1};
    struct engine *e = &f->base;
    e->vt = &fake_vtable;
    e->state = ENGINE_STARTING;
    e->facts = (struct engine_facts){.limits = o->limits,
                                     .arch = "fake",
                                     .isa = "none",
                                     .activations = "none",
                                     .kv_dtype = "none"};
    f->until_ns = clock_now(clock) + o->start_ns;
    if (!take_memory(f)) {
        status_fail(st, STATUS_TOO_LARGE, "no memory for the fake engine");
        goto fail;
    }
    if (clock == &clock_real) {
        f->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        if (f->timer_fd < 0) {
            status_fail(st, STATUS_IO, "timerfd: %s", strerror(errno));
            goto fail;
        }
    }
    return e;

fail:
    fake_close(e);
    return NULL;
}

void engine_fake_die(struct engine *e)
{
    die(fake(e), "killed");
}

void engine_fake_hang(struct engine *e)
{
    fake(e)->hung = e->state == ENGINE_READY;
}

const char *engine_fake_broken(const struct engine *e)
{
    const struct engine_fake *f = (const struct engine_fake *)e;
    return f->broken[0] ? f->broken : NULL;
}
