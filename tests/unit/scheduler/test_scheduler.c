/* What the scheduler promises: each request ends exactly once, with the tokens it would have had
 * alone, and owns nothing after; whatever the engine does.
 * Every turn ends with the full invariant check. */
#include "world.h"

#include <poll.h>
#include <stdio.h>

static struct ask ask[12];

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

static void check_nothing_is_owned(struct world *w)
{
    for (int i = 0; i < 4; i++)
        world_turn(w, STEP_MS);
    assert_int_equal(w->s->kv.n_free, w->s->kv.n_blocks);
    assert_int_equal(w->s->n_free_slots, w->s->n_slots);
    assert_int_equal(w->s->n_lent, 0);
}

static void check_end(const struct ask *a, enum finish f)
{
    assert_true(request_finished(&a->r));
    assert_int_equal(atomic_load(&a->r.finish), f);
    assert_null(a->r.seq);
}

static void a_request_gets_its_tokens_and_ends_at_its_length(void **state)
{
    struct world *w = *state;
    world_open(w);
    ask_init(&ask[0], 1, 20, 7);
    world_submit(w, &ask[0]);
    world_run(w, &ask[0]);
    check_end(&ask[0], FINISH_LENGTH);
    check_output(w, &ask[0], 7);
    assert_true(ask[0].r.scheduled_ns <= ask[0].r.first_token_ns);
    assert_true(ask[0].r.first_token_ns < ask[0].r.finished_ns);
    check_nothing_is_owned(w);
}

static void two_steps_are_under_way_while_a_stream_runs(void **state)
{
    struct world *w = *state;
    world_open(w);
    ask_init(&ask[0], 1, 4, 20);
    world_submit(w, &ask[0]);
    world_turn(w, 0);
    assert_int_equal(w->s->n_flights, ENGINE_DEPTH);
    world_turn(w, STEP_MS);
    assert_int_equal(w->s->n_flights, ENGINE_DEPTH);
    assert_int_equal(atomic_load(&ask[0].r.n_out), 1);
}

/* Turns in small steps of time, until all of n decode. */
static void let_all_decode(struct world *w, int n)
{
    for (int i = 0; i < n; i++)
        world_submit(w, &ask[i]);
    for (int turns = 0; turns < 100; turns++) {
        int n_decoding = 0;
        world_turn(w, 1);
        for (int i = 0; i < w->s->n_run; i++)
            n_decoding +=
                w->s->seq[w->s->run[i]].request->n_prompt <= w->s->seq[w->s->run[i]].n_done;
        if (n_decoding == n)
            return;
    }
    fail_msg("%d requests do not come to decode", n);
}

static void each_stage_has_a_step_of_other_sequences(void **state)
{
    struct world *w = *state;
    enum { STAGES = 3, N = 6 };
    w->fake.limits.n_stages = STAGES;
    w->fake.limits.seqs_max = N;
    world_open(w);
    for (int i = 0; i < N; i++)
        ask_init(&ask[i], 10 * i, 4, 60);
    let_all_decode(w, N);
    for (int turns = 0; turns < 60; turns++) {
        world_turn(w, 1);
        if (turns < 20) /* steps of one size are found once all have gone a round */
            continue;
        assert_int_equal(w->s->n_flights, STAGES);
        uint64_t seen = 0;
        for (int i = 0; i < STAGES; i++) {
            const struct flight *f = &w->s->flight[i];
            assert_int_equal(f->n_rows, N / STAGES);
            for (int k = 0; k < f->n_rows; k++) {
                assert_false(seen >> f->row[k].slot & 1);
                seen |= 1u << f->row[k].slot;
                assert_int_equal(f->row[k].flags, ROW_SAMPLE);
            }
        }
    }
    for (int i = 0; i < N; i++) {
        world_run(w, &ask[i]);
        check_output(w, &ask[i], 60);
    }
    check_nothing_is_owned(w);
}

static void one_sequence_alone_has_its_next_step_at_once(void **state)
{
    struct world *w = *state;
    w->fake.limits.n_stages = 4;
    world_open(w);
    ask_init(&ask[0], 1, 4, 20);
    world_submit(w, &ask[0]);
    for (int i = 0; i < 20; i++) {
        world_turn(w, i == 0 ? 0 : STEP_MS); /* a step's time over all stages */
        assert_int_equal(atomic_load(&ask[0].r.n_out), i);
        assert_int_equal(w->s->n_flights, 1);
    }
    world_run(w, &ask[0]);
    check_output(w, &ask[0], 20);
}

static void chunks_of_a_prompt_fill_the_stages(void **state)
{
    struct world *w = *state;
    w->fake.limits.n_stages = 3;
    world_open(w);
    const int32_t share = (w->fake.limits.step_tokens_max + 5) / 6;
    ask_init(&ask[0], 1, 9 * share, 3);
    world_submit(w, &ask[0]);
    world_turn(w, 0);
    assert_int_equal(w->s->n_flights, 4);
    for (int i = 0; i < 4; i++)
        assert_int_equal(w->s->flight[i].n_tokens, share);
    world_run(w, &ask[0]);
    check_output(w, &ask[0], 3);
}

static void a_stop_token_ends_it_and_is_not_output(void **state)
{
    struct world *w = *state;
    world_open(w);
    ask_init(&ask[0], 1, 4, 20);
    ask[0].stop_id[0] = world_token(w, &ask[0], 5);
    ask[0].r.n_stop_ids = 1;
    world_submit(w, &ask[0]);
    world_run(w, &ask[0]);
    check_end(&ask[0], FINISH_STOP);
    check_output(w, &ask[0], 5);
    assert_int_equal(ask[0].r.stop_token, ask[0].stop_id[0]);
    /* The step computed too many still writes its block. */
    assert_int_equal(w->s->n_ended, 1);
    assert_true(w->s->kv.n_free < w->s->kv.n_blocks);
    check_nothing_is_owned(w);
}

static void stop_tokens_before_n_min_are_output(void **state)
{
    struct world *w = *state;
    world_open(w);
    ask_init(&ask[0], 1, 4, 10);
    ask[0].stop_id[0] = world_token(w, &ask[0], 2);
    ask[0].stop_id[1] = world_token(w, &ask[0], 6);
    ask[0].r.n_stop_ids = 2;
    ask[0].r.n_min = 3;
    world_submit(w, &ask[0]);
    world_run(w, &ask[0]);
    check_end(&ask[0], FINISH_STOP);
    check_output(w, &ask[0], 6);
}

static const char *letters(const void *ctx, int32_t id, size_t *n) /* "<id>," */
{
    static char text[16];
    (void)ctx;
    *n = (size_t)snprintf(text, sizeof text, "%d,", id);
    return text;
}

static void a_stop_string_across_tokens_ends_it(void **state)
{
    struct world *w = *state;
    const struct token_text text = {.bytes = letters};
    w->text = &text;
    world_open(w);
    ask_init(&ask[0], 1, 4, 20);
    char stop[40];
    const int n = snprintf(stop, sizeof stop, ",%d,%d,", world_token(w, &ask[0], 3),
                           world_token(w, &ask[0], 4));
    ask[0].r.stop[0] = (struct stop_string){"no such text", 12};
    ask[0].r.stop[1] = (struct stop_string){stop, n};
    ask[0].r.n_stops = 2;
    world_submit(w, &ask[0]);
    world_run(w, &ask[0]);
    check_end(&ask[0], FINISH_STOP);
    check_output(w, &ask[0], 5);
    assert_int_equal(ask[0].r.stop_index, 1);
    assert_int_equal(ask[0].r.stop_token, -1);
}

static void a_prompt_alone_is_scored_without_sampling(void **state)
{
    struct world *w = *state;
    world_open(w);
    ask_init(&ask[0], 1, 40, 0);
    ask[0].r.score_prompt = true;
    ask[0].r.sample.n_logprobs = 2;
    ask[0].r.score_top = ask[0].score_top;
    world_submit(w, &ask[0]);
    world_run(w, &ask[0]);
    check_end(&ask[0], FINISH_LENGTH);
    check_output(w, &ask[0], 0);
    for (int32_t i = 1; i < 40; i++) {
        assert_int_equal(ask[0].score[i].id, ask[0].prompt[i]);
        assert_true(ask[0].score[i].logprob ==
                    engine_fake_logprob(ask[0].prompt, i, ask[0].prompt[i]));
        assert_int_equal(ask[0].score_top[2 * i].id, ask[0].prompt[i]);
    }
    assert_int_equal(ask[0].score[0].id, ask[0].prompt[0]);
}

static void nothing_asked_for_ends_at_once(void **state)
{
    struct world *w = *state;
    world_open(w);
    ask_init(&ask[0], 1, 4, 0);
    world_submit(w, &ask[0]);
    world_turn(w, 0);
    check_end(&ask[0], FINISH_LENGTH);
    assert_int_equal(w->s->n_flights, 0);
}

static void sizes_are_refused_with_their_numbers(void **state)
{
    struct world *w = *state;
    w->fake.limits.n_blocks = 10; /* 40 tokens */
    world_open(w);
    static const struct {
        const char *name;
        int32_t n_prompt, n_max;
        const char *msg;
    } row[] = {
        {"fills the cache", 30, 10, NULL},
        {"one more than the cache", 30, 11,
         "30 prompt tokens and 11 to generate need 11 blocks of KV cache; there are 10"},
        {"over the context", 90, 11,
         "90 prompt tokens and 11 to generate are 101; the context is 100"},
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        struct status st = {0};
        ask_init(&ask[i], (int32_t)i, row[i].n_prompt, row[i].n_max);
        const bool ok = scheduler_submit(w->s, &ask[i].r, &st);
        if (ok != !row[i].msg)
            fail_msg("%s: %s", row[i].name, st.msg);
        if (ok)
            continue;
        assert_int_equal(st.code, STATUS_TOO_LARGE);
        assert_string_equal(st.msg, row[i].msg);
    }
    world_run(w, &ask[0]);
    check_end(&ask[0], FINISH_LENGTH);
}

static void a_token_outside_the_vocabulary_is_refused(void **state)
{
    struct world *w = *state;
    world_open(w);
    struct status st = {0};
    ask_init(&ask[0], 1, 4, 1);
    ask[0].prompt[2] = 1000;
    assert_false(scheduler_submit(w->s, &ask[0].r, &st));
    assert_int_equal(st.code, STATUS_BAD_INPUT);
}

static void a_full_queue_is_busy_and_says_when_to_come_back(void **state)
{
    struct world *w = *state;
    w->options.queue_max = 3;
    w->fake.limits.seqs_max = 2;
    world_open(w);
    for (int i = 0; i < 5; i++) {
        ask_init(&ask[i], i, 4, 8);
        world_submit(w, &ask[i]);
    }
    struct status st = {0};
    ask_init(&ask[5], 5, 4, 8);
    assert_false(scheduler_submit(w->s, &ask[5].r, &st));
    assert_int_equal(st.code, STATUS_BUSY);
    world_turn(w, 0);
    struct scheduler_view v;
    scheduler_view(w->s, &v);
    assert_int_equal(v.n_waiting, 3);
    assert_int_equal(v.n_running, 2);
    assert_in_range(v.retry_after_s, 1, 60);
    world_run(w, &ask[0]);
    world_submit(w, &ask[5]);
    world_run(w, &ask[5]);
}

static void before_the_model_is_loaded_it_is_busy(void **state)
{
    struct world *w = *state;
    world_open(w);
    struct engine_fake_options slow = w->fake;
    slow.start_ns = NS_PER_S;
    struct status st = {0};
    struct engine *e = engine_fake_open(&slow, &w->clock.clock, &st);
    struct scheduler *s = scheduler_open_text(&w->options, e, NULL, &w->clock.clock, &st);
    scheduler_turn(s);
    ask_init(&ask[0], 1, 4, 1);
    assert_false(scheduler_submit(s, &ask[0].r, &st));
    assert_int_equal(st.code, STATUS_BUSY);
    assert_null(scheduler_news(s));
    scheduler_news_done(s);
    assert_int_equal(scheduler_idle_ms(s), 1000);
    scheduler_close(s);
}

static void who_waits_too_long_is_told(void **state)
{
    struct world *w = *state;
    w->options.queue_wait_ms_max = 50;
    w->fake.limits.seqs_max = 1;
    world_open(w);
    ask_init(&ask[0], 0, 4, 90);
    ask_init(&ask[1], 1, 4, 4);
    world_submit(w, &ask[0]);
    world_submit(w, &ask[1]);
    world_turn(w, 0);
    assert_int_equal(scheduler_idle_ms(w->s), STEP_MS);
    for (int i = 0; i < 5; i++) {
        assert_false(request_finished(&ask[1].r));
        world_turn(w, STEP_MS);
    }
    check_end(&ask[1], FINISH_ERROR);
    assert_int_equal(ask[1].r.why.code, STATUS_BUSY);
    assert_string_equal(ask[1].r.why.msg, "waited 50 ms in the queue; the limit is 50 ms");
    world_run(w, &ask[0]);
    check_end(&ask[0], FINISH_LENGTH);
}

static void cancelling_ends_it_within_a_turn_in_every_state(void **state)
{
    struct world *w = *state;
    w->fake.limits.seqs_max = 2;
    world_open(w);
    for (int i = 0; i < 4; i++) {
        ask_init(&ask[i], i, 30, 20);
        world_submit(w, &ask[i]);
    }
    scheduler_cancel(w->s, &ask[3].r); /* in the inbox still */
    world_turn(w, 0);
    check_end(&ask[3], FINISH_CANCELLED);
    scheduler_cancel(w->s, &ask[2].r); /* waiting */
    scheduler_cancel(w->s, &ask[1].r); /* in its prompt, in flight */
    world_turn(w, 0);
    check_end(&ask[2], FINISH_CANCELLED);
    check_end(&ask[1], FINISH_CANCELLED);
    while (atomic_load(&ask[0].r.n_out) < 3)
        world_turn(w, STEP_MS);
    scheduler_cancel(w->s, &ask[0].r); /* decoding */
    scheduler_cancel(w->s, &ask[0].r); /* twice is once */
    world_turn(w, 0);
    check_end(&ask[0], FINISH_CANCELLED);
    check_output(w, &ask[0], 3);
    check_nothing_is_owned(w);
    struct scheduler_view v;
    scheduler_view(w->s, &v);
    assert_int_equal(v.n_finished[FINISH_CANCELLED], 4);
}

static void n_choices_compute_their_prompt_once(void **state)
{
    struct world *w = *state;
    world_open(w);
    for (int i = 0; i < 4; i++) {
        ask_init(&ask[i], 0, 30, 6);
        ask[i].r.group = 5;
        ask[i].r.sample.seed = (uint64_t)i;
        world_submit(w, &ask[i]);
    }
    for (int i = 0; i < 4; i++)
        world_run(w, &ask[i]);
    for (int i = 0; i < 4; i++) {
        check_end(&ask[i], FINISH_LENGTH);
        check_output(w, &ask[i], 6);
        assert_int_equal(ask[i].r.n_cached, i == 0 ? 0 : 28);
    }
}

static void a_group_goes_on_without_its_first(void **state)
{
    struct world *w = *state;
    world_open(w);
    for (int i = 0; i < 3; i++) {
        ask_init(&ask[i], 0, 60, 6);
        ask[i].r.group = 5;
        world_submit(w, &ask[i]);
    }
    world_turn(w, 0);
    assert_int_equal(w->s->n_run, 1);
    scheduler_cancel(w->s, &ask[0].r);
    world_run(w, &ask[1]);
    world_run(w, &ask[2]);
    check_end(&ask[1], FINISH_LENGTH);
    check_end(&ask[2], FINISH_LENGTH);
}

static void a_death_is_a_pause_and_the_tokens_go_on(void **state)
{
    struct world *w = *state;
    world_open(w);
    for (int i = 0; i < 3; i++) {
        ask_init(&ask[i], i, 10, 12);
        world_submit(w, &ask[i]);
    }
    while (atomic_load(&ask[0].r.n_out) < 5)
        world_turn(w, STEP_MS);
    engine_fake_die(w->engine);
    world_turn(w, 0);
    assert_int_equal(w->s->n_run, 3); /* started again at once, and set again in order */
    assert_int_equal(w->engine->epoch, 2);
    for (int i = 0; i < 3; i++)
        world_run(w, &ask[i]);
    for (int i = 0; i < 3; i++) {
        check_end(&ask[i], FINISH_LENGTH);
        check_output(w, &ask[i], 12);
        assert_int_equal(ask[i].r.n_replayed, 1);
    }
    check_nothing_is_owned(w);
}

static void a_hang_is_a_death(void **state)
{
    struct world *w = *state;
    world_open(w);
    ask_init(&ask[0], 0, 10, 12);
    world_submit(w, &ask[0]);
    world_turn(w, STEP_MS);
    engine_fake_hang(w->engine);
    world_turn(w, 20000);
    assert_int_equal(w->engine->n_deaths, 1);
    world_run(w, &ask[0]);
    check_output(w, &ask[0], 12);
}

static void who_was_running_in_two_deaths_in_a_row_is_failed(void **state)
{
    struct world *w = *state;
    w->fake.limits.seqs_max = 1;
    world_open(w);
    ask_init(&ask[0], 0, 10, 12); /* runs in both */
    ask_init(&ask[1], 1, 10, 12); /* waits */
    world_submit(w, &ask[0]);
    world_submit(w, &ask[1]);
    world_turn(w, 0);
    engine_fake_die(w->engine);
    world_turn(w, 0); /* up again, and it runs again */
    assert_int_equal(w->s->n_flights, ENGINE_DEPTH);
    engine_fake_die(w->engine);
    world_turn(w, 0);
    check_end(&ask[0], FINISH_ERROR);
    assert_int_equal(ask[0].r.why.code, STATUS_DEVICE);
    assert_string_equal(ask[0].r.why.msg, "request was running when the engine died twice");
    world_turn(w, 2000);
    world_run(w, &ask[1]);
    check_end(&ask[1], FINISH_LENGTH);
    check_output(w, &ask[1], 12);
}

static void a_step_of_its_own_between_two_deaths_clears_it(void **state)
{
    struct world *w = *state;
    world_open(w);
    ask_init(&ask[0], 0, 10, 12);
    world_submit(w, &ask[0]);
    world_turn(w, 0);
    engine_fake_die(w->engine);
    world_turn(w, 0);
    world_turn(w, STEP_MS); /* one step is answered */
    assert_int_equal(atomic_load(&ask[0].r.n_out), 1);
    engine_fake_die(w->engine);
    world_turn(w, 0);
    assert_false(request_finished(&ask[0].r));
    world_turn(w, 2000);
    world_run(w, &ask[0]);
    check_end(&ask[0], FINISH_LENGTH);
    check_output(w, &ask[0], 12);
    assert_int_equal(ask[0].r.n_replayed, 2);
}

static void why_the_engine_died_is_still_known_when_it_is_back(void **state)
{
    struct world *w = *state;
    struct scheduler_view v;
    world_open(w);
    scheduler_view(w->s, &v);
    assert_string_equal(v.engine_why, "");
    engine_fake_die(w->engine);
    world_turn(w, 0);
    world_turn(w, 2000);
    scheduler_view(w->s, &v);
    assert_int_equal(v.engine_state, ENGINE_READY);
    assert_int_equal(v.engine_deaths, 1);
    assert_string_equal(v.engine_why, "killed"); /* who looks now and then logs it */
}

static void when_the_engine_is_given_up_all_are_told_why(void **state)
{
    struct world *w = *state;
    w->fake.limits.seqs_max = 1;
    world_open(w);
    for (int i = 0; i < 7; i++) {
        ask_init(&ask[i], i, 10, 12);
        world_submit(w, &ask[i]);
    }
    for (int i = 0; i < 5; i++) {
        engine_fake_die(w->engine);
        world_turn(w, 0);
        if (!w->engine->given_up)
            world_turn(w, 10000); /* any back-off is over */
    }
    assert_true(w->engine->given_up);
    for (int i = 4; i < 7; i++) {
        check_end(&ask[i], FINISH_ERROR);
        assert_int_equal(ask[i].r.why.code, STATUS_DEVICE);
        assert_string_equal(ask[i].r.why.msg, "the engine is down: killed");
    }
    ask_init(&ask[8], 8, 10, 12);
    world_submit(w, &ask[8]);
    world_turn(w, 0);
    check_end(&ask[8], FINISH_ERROR);
    struct scheduler_view v;
    scheduler_view(w->s, &v);
    assert_int_equal(v.engine_state, ENGINE_DOWN);
    assert_true(v.engine_given_up);
    assert_string_equal(v.engine_why, "killed");
}

static void an_engine_that_does_not_run_shows(void **state)
{
    struct world *w = *state;
    world_open(w);
    struct scheduler_view v;
    w->engine->stalled = true;
    world_turn(w, 0);
    scheduler_view(w->s, &v);
    assert_true(v.engine_stalled);
    w->engine->stalled = false;
    world_turn(w, 0);
    scheduler_view(w->s, &v);
    assert_false(v.engine_stalled);
}

static void a_row_that_is_not_a_number_fails_alone(void **state)
{
    struct world *w = *state;
    w->fake.nan_every = 10;
    world_open(w);
    int n_failed = 0, n_fine = 0;
    for (int i = 0; i < 10; i++) {
        ask_init(&ask[i], i, 10, 8);
        world_submit(w, &ask[i]);
    }
    for (int i = 0; i < 10; i++) {
        world_run(w, &ask[i]);
        int32_t n = 0;
        while (n < 8 && world_token(w, &ask[i], n) >= 0)
            n++;
        check_output(w, &ask[i], n);
        check_end(&ask[i], n == 8 ? FINISH_LENGTH : FINISH_ERROR);
        if (n < 8)
            assert_non_null(strstr(ask[i].r.why.msg, "numeric error"));
        n_failed += n < 8;
        n_fine += n == 8;
    }
    assert_true(n_failed > 0 && n_fine > 0);
}

static bool is_readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void news_wake_the_loop_once_and_wait_for_a_slow_one(void **state)
{
    struct world *w = *state;
    world_open(w);
    ask_init(&ask[0], 0, 10, 12);
    world_submit(w, &ask[0]);
    scheduler_turn(w->s);
    const int fd = scheduler_news_fd(w->s);
    assert_false(is_readable(fd));
    for (int i = 0; i < 20; i++) { /* nobody looks, and nothing is lost */
        w->clock.ns += STEP_MS * NS_PER_MS;
        scheduler_turn(w->s);
    }
    assert_true(is_readable(fd));
    assert_false(request_finished(&ask[0].r)); /* until the loop has taken it */
    assert_ptr_equal(scheduler_news(w->s), &ask[0].r);
    assert_ptr_equal(scheduler_news(w->s), &ask[0].r);
    assert_null(scheduler_news(w->s));
    scheduler_news_done(w->s);
    assert_false(is_readable(fd));
    check_end(&ask[0], FINISH_LENGTH);
    check_output(w, &ask[0], 12);
}

static void closing_finishes_what_is_left(void **state)
{
    struct world *w = *state;
    world_open(w);
    struct status st = {0};
    struct engine *e = engine_fake_open(&w->fake, &w->clock.clock, &st);
    struct scheduler *s = scheduler_open_text(&w->options, e, NULL, &w->clock.clock, &st);
    scheduler_turn(s);
    for (int i = 0; i < 6; i++) {
        ask_init(&ask[i], i, 10, 12);
        assert_true(scheduler_submit(s, &ask[i].r, &st));
        if (i == 3)
            scheduler_turn(s);
    }
    scheduler_close(s);
    for (int i = 0; i < 6; i++)
        check_end(&ask[i], FINISH_ERROR);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_request_gets_its_tokens_and_ends_at_its_length),
        T(two_steps_are_under_way_while_a_stream_runs),
        T(each_stage_has_a_step_of_other_sequences),
        T(one_sequence_alone_has_its_next_step_at_once),
        T(chunks_of_a_prompt_fill_the_stages),
        T(a_stop_token_ends_it_and_is_not_output),
        T(stop_tokens_before_n_min_are_output),
        T(a_stop_string_across_tokens_ends_it),
        T(a_prompt_alone_is_scored_without_sampling),
        T(nothing_asked_for_ends_at_once),
        T(sizes_are_refused_with_their_numbers),
        T(a_token_outside_the_vocabulary_is_refused),
        T(a_full_queue_is_busy_and_says_when_to_come_back),
        T(before_the_model_is_loaded_it_is_busy),
        T(who_waits_too_long_is_told),
        T(cancelling_ends_it_within_a_turn_in_every_state),
        T(n_choices_compute_their_prompt_once),
        T(a_group_goes_on_without_its_first),
        T(a_death_is_a_pause_and_the_tokens_go_on),
        T(a_hang_is_a_death),
        T(who_was_running_in_two_deaths_in_a_row_is_failed),
        T(a_step_of_its_own_between_two_deaths_clears_it),
        T(why_the_engine_died_is_still_known_when_it_is_back),
        T(when_the_engine_is_given_up_all_are_told_why),
        T(an_engine_that_does_not_run_shows),
        T(a_row_that_is_not_a_number_fails_alone),
        T(news_wake_the_loop_once_and_wait_for_a_slow_one),
        T(closing_finishes_what_is_left),
    };
    return cmocka_run_group_tests_name("scheduler", tests, NULL, NULL);
}
