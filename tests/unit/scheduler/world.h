/* world.h - a scheduler over the fake engine and a fake clock, one step at a time; for tests. */
#ifndef TESTS_UNIT_SCHEDULER_WORLD_H
#define TESTS_UNIT_SCHEDULER_WORLD_H

#include "scheduler/scheduler_int.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { ASK_TOKENS = 128, STEP_MS = 10 };

struct ask {
    struct request r;
    int32_t prompt[ASK_TOKENS];
    struct sample_out_slim out[ASK_TOKENS], score[ASK_TOKENS];
    struct top_logprob score_top[ASK_TOKENS * 2];
    int32_t stop_id[4];
};

struct world {
    struct clock_fake clock;
    struct engine_fake_options fake;
    struct scheduler_options options;
    struct engine *engine;
    struct scheduler *s;
    struct step_plan plan; /* for tests that plan by themselves */
    const struct token_text *text;
};

static inline void world_defaults(struct world *w)
{
    *w = (struct world){0};
    w->fake = (struct engine_fake_options){
        .limits = {.vocab = 1000,
                   .seqs_max = 4,
                   .step_tokens_max = 32,
                   .context_max = 100,
                   .n_blocks = 32,
                   .block_tokens = 4,
                   .history_max = 100,
                   .bias_max = 8},
        .step_ns = STEP_MS * NS_PER_MS,
        .end_id = -1,
        .check_cache = true,
    };
    w->options = (struct scheduler_options){
        .queue_max = 8, .prefill_chunk_max = 16, .prefix_cache = true, .hash_key = {1, 2}};
}

static inline void world_open(struct world *w)
{
    struct status st = {0};
    clock_fake_init(&w->clock, NS_PER_S);
    w->engine = engine_fake_open(&w->fake, &w->clock.clock, &st);
    assert_non_null(w->engine);
    w->s = scheduler_open_text(&w->options, w->engine, w->text, &w->clock.clock, &st);
    assert_non_null(w->s);
    scheduler_turn(w->s);
    assert_int_equal(w->engine->state, ENGINE_READY);
    w->plan.row = calloc((size_t)w->s->n_slots, sizeof *w->plan.row);
    w->plan.tokens = calloc(ASK_TOKENS, sizeof *w->plan.tokens);
}

static inline void world_check(const struct world *w)
{
    struct status st = {0};
    if (!scheduler_valid(w->s, &st))
        fail_msg("%s", st.msg);
    if (engine_fake_broken(w->engine))
        fail_msg("%s", engine_fake_broken(w->engine));
}

static inline void world_close(struct world *w)
{
    world_check(w);
    scheduler_close(w->s);
    free(w->plan.row);
    free(w->plan.tokens);
}

/* A request of n_prompt tokens that nobody else has (or somebody who has the same `first`). */
static inline void ask_init(struct ask *a, int32_t first, int32_t n_prompt, int32_t n_max)
{
    *a = (struct ask){0};
    for (int32_t i = 0; i < n_prompt; i++)
        a->prompt[i] = (first * 37 + i) % 1000;
    a->r.prompt = a->prompt;
    a->r.n_prompt = n_prompt;
    a->r.n_max = n_max;
    a->r.sample = (struct sample_params){
        .temperature = 1, .top_p = 1, .repetition = 1, .seed = (uint64_t)first, .n_logprobs = -1};
    a->r.stop_id = a->stop_id;
    a->r.out = a->out;
    a->r.score = a->score;
    a->r.stop_index = a->r.stop_token = -1;
}

static inline void world_submit(struct world *w, struct ask *a)
{
    struct status st = {0};
    a->r.arrived_ns = w->clock.ns;
    if (!scheduler_submit(w->s, &a->r, &st))
        fail_msg("%s", st.msg);
}

static inline void world_turn(struct world *w, uint64_t ms)
{
    w->clock.ns += ms * NS_PER_MS;
    scheduler_turn(w->s);
    world_check(w);
    while (scheduler_news(w->s))
        ;
}

static inline void world_run(struct world *w, const struct ask *a) /* until it is finished */
{
    for (int i = 0; i < 1000 && !request_finished(&a->r); i++)
        world_turn(w, STEP_MS);
    assert_true(request_finished(&a->r));
}

/* The i-th token the fake engine gives to a. */
static inline int32_t world_token(const struct world *w, const struct ask *a, int32_t i)
{
    int32_t ids[2 * ASK_TOKENS];
    int32_t n = a->r.n_prompt;
    memcpy(ids, a->prompt, (size_t)n * sizeof *ids);
    for (;; n++) {
        ids[n] = engine_fake_token(&w->fake, a->r.sample.seed, ids, n);
        if (n - a->r.n_prompt == i)
            return ids[n];
    }
}

static inline void check_output(const struct world *w, const struct ask *a, int32_t n)
{
    assert_int_equal(atomic_load(&a->r.n_out), n);
    for (int32_t i = 0; i < n; i++)
        assert_int_equal(a->out[i].id, world_token(w, a, i));
}

#endif
