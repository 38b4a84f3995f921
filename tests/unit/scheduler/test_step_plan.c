/* What step_plan_make promises: the policy, rule by rule, and that it changes nothing.
 * Here the tests plan, apply, submit and land each step by themselves. */
#include "world.h"

static struct ask ask[6];

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    world_defaults(w);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    world_close(w);
    free(w);
    return 0;
}

/* Into the queue without a turn, so that nothing is planned yet. */
static int32_t enqueue(struct world *w, int i, int32_t n_prompt, int32_t n_max)
{
    ask_init(&ask[i], i, n_prompt, n_max);
    return scheduler_seq_take(w->s, &ask[i].r);
}

static void plan(struct world *w)
{
    step_plan_make(w->s, &w->plan);
}

static void submit(struct world *w)
{
    plan(w);
    struct engine *e = w->engine;
    struct step *at = e->vt->step_room(e);
    assert_non_null(at);
    step_plan_apply(w->s, &w->plan, at);
    if (w->plan.n_rows > 0)
        e->vt->submit(e);
    world_check(w);
}

static void land(struct world *w)
{
    struct engine *e = w->engine;
    struct status st = {0};
    w->clock.ns += NS_PER_S;
    const struct step_result *r = e->vt->result(e);
    assert_non_null(r);
    assert_true(scheduler_take_result(w->s, r, &st));
    e->vt->result_done(e);
    world_check(w);
}

static void check_row(const struct world *w, int i, int32_t seq, int32_t n_tokens, uint32_t flags)
{
    assert_in_range(i, 0, w->plan.n_rows - 1);
    assert_int_equal(w->plan.row[i].seq, seq);
    assert_int_equal(w->plan.row[i].n_tokens, n_tokens);
    assert_int_equal(w->plan.row[i].flags, flags);
}

static void decodes_come_before_prompts_in_one_step(void **state)
{
    struct world *w = *state;
    world_open(w);
    const int32_t a = enqueue(w, 0, 3, 10);
    submit(w);
    land(w);
    const int32_t b = enqueue(w, 1, 8, 10);
    plan(w);
    assert_int_equal(w->plan.n_rows, 2);
    check_row(w, 0, a, 1, ROW_SAMPLE | ROW_TOKEN_SAMPLED);
    check_row(w, 1, b, 8, ROW_SAMPLE);
    assert_true(w->plan.row[1].is_new);
}

static void a_prompt_is_cut_at_the_chunk_and_sampled_at_its_end(void **state)
{
    struct world *w = *state;
    world_open(w);
    const int32_t a = enqueue(w, 0, 40, 4); /* chunks of 16 */
    plan(w);
    check_row(w, 0, a, 16, 0);
    submit(w);
    plan(w);
    check_row(w, 0, a, 16, 0);
    submit(w);
    plan(w);
    check_row(w, 0, a, 8, ROW_SAMPLE);
}

static void a_step_never_has_more_tokens_than_its_limit(void **state)
{
    struct world *w = *state;
    w->fake.limits.step_tokens_max = 20;
    world_open(w);
    const int32_t a = enqueue(w, 0, 3, 10);
    submit(w);
    land(w);
    const int32_t b = enqueue(w, 1, 16, 4), c = enqueue(w, 2, 16, 4);
    plan(w);
    assert_int_equal(w->plan.n_tokens, 20);
    check_row(w, 0, a, 1, ROW_SAMPLE | ROW_TOKEN_SAMPLED);
    check_row(w, 1, b, 16, ROW_SAMPLE);
    check_row(w, 2, c, 3, 0);
}

static void a_step_with_answers_has_fewer_tokens(void **state)
{
    struct world *w = *state;
    w->options.mixed_tokens_max = 8;
    world_open(w);
    const int32_t a = enqueue(w, 0, 16, 10);
    plan(w);
    check_row(w, 0, a, 16, ROW_SAMPLE);
    submit(w);
    land(w);
    const int32_t b = enqueue(w, 1, 9, 4);
    plan(w);
    assert_int_equal(w->plan.n_tokens, 8);
    check_row(w, 0, a, 1, ROW_SAMPLE | ROW_TOKEN_SAMPLED);
    check_row(w, 1, b, 7, 0);
}

/* Two micro-batches are in flight: the step of prompts alone behind them holds both up. */
static void over_stages_no_step_beside_answers_is_larger(void **state)
{
    struct world *w = *state;
    w->fake.limits.n_stages = 2;
    w->fake.limits.step_tokens_max = 64;
    w->options.mixed_tokens_max = 4;
    w->options.prefill_chunk_max = 64;
    world_open(w);
    enqueue(w, 0, 3, 10);
    enqueue(w, 1, 3, 10);
    submit(w);
    land(w);
    enqueue(w, 2, 60, 4);
    for (int i = 0; i < 3; i++) {
        plan(w);
        assert_in_range(w->plan.n_tokens, 1, 4);
        submit(w);
    }
}

static void as_many_prompt_tokens_as_answers_go_on(void **state)
{
    struct world *w = *state;
    w->options.mixed_tokens_max = 1;
    world_open(w);
    enqueue(w, 0, 3, 10);
    enqueue(w, 1, 3, 10);
    submit(w);
    land(w);
    const int32_t c = enqueue(w, 2, 16, 4);
    plan(w);
    assert_int_equal(w->plan.n_tokens, 4);
    check_row(w, 2, c, 2, 0);
}

static void the_queue_is_served_in_order_of_arrival(void **state)
{
    struct world *w = *state;
    w->fake.limits.seqs_max = 2;
    world_open(w);
    const int32_t a = enqueue(w, 0, 3, 3), b = enqueue(w, 1, 3, 3);
    enqueue(w, 2, 3, 3);
    plan(w);
    assert_int_equal(w->plan.n_rows, 2);
    check_row(w, 0, a, 3, ROW_SAMPLE);
    check_row(w, 1, b, 3, ROW_SAMPLE);
}

static void a_large_head_is_not_overtaken_by_a_small_one(void **state)
{
    struct world *w = *state;
    w->fake.limits.n_blocks = 12;
    world_open(w);
    enqueue(w, 0, 15, 10);
    submit(w);            /* holds 4 of 12 blocks, so 7 are left, less one to grow */
    enqueue(w, 1, 31, 8); /* needs 8 */
    enqueue(w, 2, 2, 2);
    plan(w);
    assert_int_equal(w->plan.n_rows, 1);
    assert_false(w->plan.row[0].is_new);
}

static void an_unknown_input_token_is_the_last_sample(void **state)
{
    struct world *w = *state;
    world_open(w);
    const int32_t a = enqueue(w, 0, 3, 10);
    submit(w);
    plan(w); /* the first step is not answered */
    check_row(w, 0, a, 1, ROW_SAMPLE | ROW_TOKEN_SAMPLED);
}

static void a_limit_that_submitted_steps_will_reach_ends_the_planning(void **state)
{
    struct world *w = *state;
    world_open(w);
    enqueue(w, 0, 3, 2);
    submit(w);
    submit(w);
    plan(w);
    assert_int_equal(w->plan.n_rows, 0);
}

/* Two sequences of 4-token blocks in a pool of 5: each has two full blocks, one block is free. */
static void fill_pool(struct world *w, int32_t *a, int32_t *b)
{
    w->fake.limits.n_blocks = 5;
    w->options.prefix_cache = false;
    world_open(w);
    *a = enqueue(w, 0, 6, 14);
    *b = enqueue(w, 1, 6, 14);
    submit(w);
    land(w);
    for (int i = 0; i < 2; i++) {
        submit(w);
        land(w);
    }
    assert_int_equal(w->s->kv.n_free, 1);
}

static void the_youngest_gives_its_blocks_to_a_decode_row(void **state)
{
    struct world *w = *state;
    int32_t a, b;
    fill_pool(w, &a, &b);
    for (int i = 0; i < 4; i++) { /* a takes the last block; b waits and keeps its own */
        submit(w);
        assert_int_equal(w->plan.n_rows, 1);
        assert_int_equal(w->plan.n_preempt, 0);
        land(w);
    }
    submit(w); /* a needs its fourth */
    assert_int_equal(w->plan.n_preempt, 1);
    check_row(w, 0, a, 1, ROW_SAMPLE | ROW_TOKEN_SAMPLED);
    assert_int_equal(w->s->queue.head, b);
    assert_int_equal(ask[1].r.n_preempted, 1);
    land(w);
}

static void a_victim_in_flight_gives_its_blocks_when_its_step_is_answered(void **state)
{
    struct world *w = *state;
    w->fake.limits.n_blocks = 4;
    w->options.prefix_cache = false;
    world_open(w);
    const int32_t a = enqueue(w, 0, 4, 12);
    submit(w);
    land(w);
    const int32_t b = enqueue(w, 1, 1, 10);
    submit(w); /* a at 5 tokens in 2 blocks, b at 1 in 1 */
    land(w);
    for (int i = 0; i < 3; i++) {
        submit(w);
        land(w);
    }
    assert_int_equal(w->s->kv.n_free, 1); /* a at 8, b at 4: both need one next */
    submit(w);
    assert_int_equal(w->s->kv.n_free, 0); /* a got it */
    land(w);
    for (int i = 0; i < 3; i++) {
        submit(w);
        land(w);
    }
    /* a is at 12 of its 16 tokens and needs the block that b holds. */
    w->s->seq[b].n_flight = 1; /* as if b had a row on its way */
    plan(w);
    assert_int_equal(w->plan.n_preempt, 1);
    assert_int_equal(w->plan.n_rows, 0); /* a waits for b's blocks */
    w->s->seq[b].n_flight = 0;
    submit(w);
    assert_int_equal(w->plan.n_preempt, 1);
    check_row(w, 0, a, 1, ROW_SAMPLE | ROW_TOKEN_SAMPLED);
    land(w);
}

static void a_pinned_sequence_is_not_preempted_while_others_are_there(void **state)
{
    struct world *w = *state;
    w->fake.limits.n_blocks = 5;
    w->options.prefix_cache = false;
    world_open(w);
    const int32_t a = enqueue(w, 0, 6, 14), b = enqueue(w, 1, 6, 14);
    ask[1].r.n_preempted = SEQ_PREEMPTIONS_MAX + 1;
    for (int i = 0; i < 7; i++) {
        submit(w);
        land(w);
    }
    submit(w); /* b, though younger, takes a's blocks */
    check_row(w, 0, b, 1, ROW_SAMPLE | ROW_TOKEN_SAMPLED);
    assert_int_equal(w->plan.n_preempt, 1);
    assert_int_equal(w->s->queue.head, a);
    land(w);
}

static void nobody_new_gets_in_while_blocks_are_short(void **state)
{
    struct world *w = *state;
    int32_t a, b;
    fill_pool(w, &a, &b);
    for (int i = 0; i < 4; i++) {
        submit(w);
        land(w);
    }
    enqueue(w, 2, 1, 1);
    plan(w);
    assert_int_equal(w->plan.n_preempt, 1);
    for (int i = 0; i < w->plan.n_rows; i++)
        assert_false(w->plan.row[i].is_new);
}

static void a_prefix_hit_leaves_one_token_to_compute(void **state)
{
    struct world *w = *state;
    world_open(w);
    enqueue(w, 0, 16, 1);
    submit(w);
    land(w);
    const int32_t b = enqueue(w, 0, 16, 1); /* the same prompt: 4 full blocks, 3 may be shared */
    plan(w);
    check_row(w, 0, b, 4, ROW_SAMPLE);
    assert_int_equal(w->plan.row[0].n_hit, 3);
    submit(w);
    assert_int_equal(ask[0].r.n_cached, 12);
}

static void a_hit_is_no_longer_than_the_history_a_step_can_carry(void **state)
{
    struct world *w = *state;
    w->fake.limits.history_max = 9;
    world_open(w);
    enqueue(w, 0, 16, 1);
    submit(w);
    land(w);
    enqueue(w, 0, 16, 1);
    plan(w);
    assert_int_equal(w->plan.row[0].n_hit, 2);
}

static void another_domain_shares_nothing(void **state)
{
    struct world *w = *state;
    world_open(w);
    enqueue(w, 0, 16, 1);
    submit(w);
    land(w);
    enqueue(w, 0, 16, 1);
    ask[0].r.domain.lo = 1;
    plan(w);
    assert_int_equal(w->plan.row[0].n_hit, 0);
}

static void a_scored_prompt_is_computed_whole(void **state)
{
    struct world *w = *state;
    world_open(w);
    enqueue(w, 0, 16, 1);
    submit(w);
    land(w);
    ask_init(&ask[0], 0, 16, 1);
    ask[0].r.score_prompt = true;
    const int32_t b = scheduler_seq_take(w->s, &ask[0].r);
    plan(w);
    check_row(w, 0, b, 16, ROW_SAMPLE | ROW_SCORE_NEXT);
    assert_int_equal(w->plan.row[0].n_hit, 0);
}

static void a_group_waits_for_its_prompt_and_lets_others_pass(void **state)
{
    struct world *w = *state;
    world_open(w);
    int32_t id[4];
    for (int i = 0; i < 3; i++) {
        id[i] = enqueue(w, i, 30, 2);
        memcpy(ask[i].prompt, ask[0].prompt, sizeof ask[0].prompt);
        ask[i].r.group = 7;
    }
    id[3] = enqueue(w, 3, 2, 2);
    submit(w);
    assert_int_equal(w->plan.n_rows, 2);
    check_row(w, 0, id[0], 16, 0);
    check_row(w, 1, id[3], 2, ROW_SAMPLE);
    land(w);
    submit(w);
    check_row(w, 1, id[0], 14, ROW_SAMPLE);
    assert_int_equal(w->plan.n_rows, 2);
    land(w);
    plan(w); /* the prompt's 7 full blocks are sealed */
    check_row(w, 1, id[1], 2, ROW_SAMPLE);
    check_row(w, 2, id[2], 2, ROW_SAMPLE);
    assert_int_equal(w->plan.row[1].n_hit, 7);
    submit(w);
    land(w);
}

static void biases_beyond_a_steps_room_wait_for_the_next(void **state)
{
    struct world *w = *state;
    static const struct sample_bias bias[5] = {
        {1, 1, 0}, {2, 1, 0}, {3, 1, 0}, {4, 1, 0}, {5, 1, 0}};
    world_open(w);
    for (int i = 0; i < 2; i++) {
        enqueue(w, i, 3, 2);
        ask[i].r.bias = bias;
        ask[i].r.n_bias = 5; /* of 8 */
    }
    submit(w);
    assert_int_equal(w->plan.n_rows, 1);
    submit(w);
    assert_int_equal(w->plan.n_rows, 2);
    land(w);
    land(w);
}

static void making_a_plan_changes_nothing_and_gives_the_same_again(void **state)
{
    struct world *w = *state;
    int32_t a, b;
    fill_pool(w, &a, &b);
    enqueue(w, 2, 4, 4);
    struct scheduler before = *w->s;
    plan(w);
    struct plan_row row[4];
    const struct step_plan once = w->plan;
    memcpy(row, w->plan.row, sizeof row);
    plan(w);
    assert_memory_equal(&before, w->s, sizeof before);
    assert_memory_equal(&once, &w->plan, sizeof once);
    assert_memory_equal(row, w->plan.row, (size_t)once.n_rows * sizeof *row);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(decodes_come_before_prompts_in_one_step),
        T(a_prompt_is_cut_at_the_chunk_and_sampled_at_its_end),
        T(a_step_never_has_more_tokens_than_its_limit),
        T(a_step_with_answers_has_fewer_tokens),
        T(over_stages_no_step_beside_answers_is_larger),
        T(as_many_prompt_tokens_as_answers_go_on),
        T(the_queue_is_served_in_order_of_arrival),
        T(a_large_head_is_not_overtaken_by_a_small_one),
        T(an_unknown_input_token_is_the_last_sample),
        T(a_limit_that_submitted_steps_will_reach_ends_the_planning),
        T(the_youngest_gives_its_blocks_to_a_decode_row),
        T(a_victim_in_flight_gives_its_blocks_when_its_step_is_answered),
        T(a_pinned_sequence_is_not_preempted_while_others_are_there),
        T(nobody_new_gets_in_while_blocks_are_short),
        T(a_prefix_hit_leaves_one_token_to_compute),
        T(a_hit_is_no_longer_than_the_history_a_step_can_carry),
        T(another_domain_shares_nothing),
        T(a_scored_prompt_is_computed_whole),
        T(a_group_waits_for_its_prompt_and_lets_others_pass),
        T(biases_beyond_a_steps_room_wait_for_the_next),
        T(making_a_plan_changes_nothing_and_gives_the_same_again),
    };
    return cmocka_run_group_tests_name("step_plan", tests, NULL, NULL);
}
