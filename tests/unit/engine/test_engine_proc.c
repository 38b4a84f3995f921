/* What the seam promises: an engine in another process (or thread) answers steps in order; when it
 * dies it is noticed, explained and started again, and what cannot be mended is given up.
 *
 * This program is its own child: with the argument "engine" it serves a stand-in model whose next
 * token is the sum of the row's tokens, and whose path says how it should misbehave. */
#include "engine/engine_int.h"
#include "engine/link.h"
#include "base/ring.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <poll.h>
#include <cmocka.h>

enum { VOCAB = 1000 };

/* --- the stand-in --------------------------------------------------------------------------- */

struct stand_in {
    struct engine_facts facts;
    char path[64];
    uint64_t n_submitted, n_answered;
    struct {
        uint64_t id;
        int n_rows;
        int32_t slot[4], sum[4];
    } answer[ENGINE_DEPTH]; /* step n is in n % ENGINE_DEPTH */
};

static void *stand_in_open(const struct engine_options *o, const struct load_watch *watch,
                           struct status *st)
{
    static const struct engine_facts planned = {
        .n_ranks = 3, .device = "paper", .isa = "grey", .plan = "memory\n  all of it\n"};
    if (strcmp(o->model_path, "missing") == 0) {
        status_fail(st, STATUS_IO, "open %s: no such file", o->model_path);
        return NULL;
    }
    watch->planned(watch->ctx, &planned);
    if (strcmp(o->model_path, "fails-while-loading") == 0) {
        status_fail(st, STATUS_CORRUPT, "a weight is not a number");
        return NULL;
    }
    if (strcmp(o->model_path, "killed-while-loading") == 0)
        kill(getpid(), SIGKILL);
    watch->progress(watch->ctx, 7, 7);
    struct stand_in *s = calloc(1, sizeof *s);
    strncpy(s->path, o->model_path, sizeof s->path - 1);
    s->facts.limits =
        (struct step_limits){.vocab = VOCAB,
                             .seqs_max = 4,
                             .step_tokens_max = 64,
                             .context_max = 128,
                             .n_blocks = o->kv_blocks ? o->kv_blocks : 16 + getpid() % 997,
                             .block_tokens = 16,
                             .history_max = 64,
                             .bias_max = 16};
    strcpy(s->facts.arch, "stand-in");
    snprintf(s->facts.isa, sizeof s->facts.isa, "%s, %s, %s", o->quantize ? o->quantize : "none",
             o->quantize_head ? o->quantize_head : "none",
             o->quantize_skip ? o->quantize_skip : "none");
    return s;
}

static const struct engine_facts *stand_in_facts(void *runner)
{
    return &((struct stand_in *)runner)->facts;
}

static void misbehave(const struct stand_in *s)
{
    if (s->n_submitted != 2)
        return;
    if (strcmp(s->path, "crash-on-second-step") == 0)
        kill(getpid(), SIGKILL);
    if (strcmp(s->path, "hang-on-second-step") == 0)
        for (;;)
            pause();
}

/* Given its first cell, says that a ring has cells of 1 MiB, far beyond its mapping. */
static void stretch_ring(void *first_cell)
{
    struct ring *r = (struct ring *)((char *)first_cell - sizeof *r);
    r->cell_bytes = 1 << 20;
}

static bool stand_in_submit(void *runner, const struct step *step, struct status *st)
{
    struct stand_in *s = runner;
    const uint64_t n = s->n_submitted++ % ENGINE_DEPTH;
    (void)st;
    misbehave(s);
    s->answer[n].id = step->id;
    s->answer[n].n_rows = step->n_rows;
    for (int i = 0; i < step->n_rows; i++) {
        const struct step_row *row = &step_rows(step)[i];
        s->answer[n].slot[i] = row->slot;
        s->answer[n].sum[i] = 0;
        for (int t = 0; t < row->n_tokens; t++)
            s->answer[n].sum[i] += step_tokens(step)[row->first_token + t];
    }
    if (strcmp(s->path, "wild-steps") == 0)
        stretch_ring((void *)(uintptr_t)step);
    return true;
}

static bool stand_in_ready(void *runner)
{
    struct stand_in *s = runner;
    return strcmp(s->path, "never-ready") != 0;
}

static bool stand_in_result(void *runner, void *result, struct status *st)
{
    struct stand_in *s = runner;
    const uint64_t n = s->n_answered++ % ENGINE_DEPTH;
    struct result_builder b;
    if (strcmp(s->path, "fail-on-second-step") == 0 && s->n_answered == 2)
        return status_fail(st, STATUS_DEVICE, "device fault 719");
    step_result_begin(&b, result, &s->facts.limits, s->answer[n].id);
    for (int i = 0; i < s->answer[n].n_rows; i++) {
        struct step_result_row *out = step_result_add_row(&b);
        out->slot = s->answer[n].slot[i];
        out->n_tokens = 1;
        out->first_token = b.result->n_tokens;
        *step_result_add_tokens(&b, 1) = (struct sample_out){.id = s->answer[n].sum[i] % VOCAB};
    }
    step_result_end(&b);
    if (strcmp(s->path, "wild") == 0)
        ((struct step_result *)result)->n_rows = 1 << 30;
    if (strcmp(s->path, "wild-results") == 0) {
        ((struct step_result *)result)->n_bytes = 1 << 20;
        stretch_ring(result);
    }
    if (strcmp(s->path, "cutting") == 0 && ftruncate(ENGINE_FD_SHM, 0) == 0)
        abort();
    return true;
}

static void stand_in_close(void *runner)
{
    free(runner);
}

static const struct worker_backend stand_in = {.open = stand_in_open,
                                               .facts = stand_in_facts,
                                               .submit = stand_in_submit,
                                               .ready = stand_in_ready,
                                               .result = stand_in_result,
                                               .close = stand_in_close};

/* --- the tests ------------------------------------------------------------------------------ */

typedef struct engine *open_fn(const char *path, int32_t deaths_max);

static struct engine *open_proc(const char *path, int32_t deaths_max)
{
    struct status st = {0};
    struct engine_options o = {.model_path = path, .deaths_max = deaths_max, .backoff_ms_max = 1};
    struct engine *e = engine_proc_open(&o, &clock_real, &st);
    assert_non_null(e);
    return e;
}

static struct engine *open_local(const char *path, int32_t deaths_max)
{
    (void)deaths_max;
    struct status st = {0};
    struct engine_options o = {.model_path = path};
    struct engine *e = engine_local_open_with(&stand_in, &o, &clock_real, &st);
    assert_non_null(e);
    return e;
}

static enum engine_state poll_now(struct engine *e)
{
    return e->vt->poll(e, clock_now(&clock_real));
}

static void sleep_on(struct engine *e)
{
    struct pollfd p = {.fd = e->vt->fd(e), .events = POLLIN};
    poll(&p, 1, 20);
}

static void await_state(struct engine *e, enum engine_state want, uint32_t epoch)
{
    const uint64_t end = clock_now(&clock_real) + 20 * NS_PER_S;
    while (!(poll_now(e) == want && e->epoch >= epoch)) {
        assert_true(clock_now(&clock_real) < end);
        sleep_on(e);
    }
}

static void submit(struct engine *e, uint64_t id, const int32_t *tokens, int n)
{
    struct step *room = e->vt->step_room(e);
    assert_non_null(room);
    struct step_builder b;
    step_begin(&b, room, &e->facts.limits, id);
    struct step_slot *slot = step_add_slot(&b);
    slot->params = (struct sample_params){.top_p = 1, .repetition = 1, .n_logprobs = -1};
    struct step_row *row = step_add_row(&b);
    row->flags = ROW_SAMPLE;
    row->n_tokens = n;
    row->first_token = step_add_tokens(&b, tokens, n);
    step_end(&b);
    e->vt->submit(e);
}

static int32_t await_answer(struct engine *e, uint64_t id)
{
    const uint64_t end = clock_now(&clock_real) + 20 * NS_PER_S;
    const struct step_result *r;
    while (!(r = e->vt->result(e))) {
        assert_int_equal(poll_now(e), ENGINE_READY);
        assert_true(clock_now(&clock_real) < end);
        sleep_on(e);
    }
    assert_int_equal(r->id, id);
    const int32_t token = step_result_tokens(r)[0].id;
    e->vt->result_done(e);
    return token;
}

static void answers_come_in_order(open_fn *open)
{
    struct engine *e = open("good", 0);
    await_state(e, ENGINE_READY, 1);
    assert_string_equal(e->facts.arch, "stand-in");
    for (uint64_t id = 1; id < 200; id += 2) {
        const int32_t a[] = {(int32_t)id, 20, 30}, b[] = {5};
        submit(e, id, a, 3);
        submit(e, id + 1, b, 1);
        assert_null(e->vt->step_room(e)); /* ENGINE_DEPTH are unanswered */
        assert_int_equal(await_answer(e, id), (int)id + 50);
        assert_int_equal(await_answer(e, id + 1), 5);
    }
    e->vt->close(e);
}

static void a_child_answers_steps_in_order(void **state)
{
    (void)state;
    answers_come_in_order(open_proc);
}

static void a_thread_answers_steps_in_order(void **state)
{
    (void)state;
    answers_come_in_order(open_local);
}

/* A device that is never done until it is waited for: the worker must have taken the next step by
 * then, and must not wait before. */
static void a_step_is_taken_while_one_runs(void **state)
{
    (void)state;
    open_fn *const opens[] = {open_proc, open_local};
    for (int i = 0; i < 2; i++) {
        struct engine *e = opens[i]("never-ready", 0);
        await_state(e, ENGINE_READY, 1);
        const int32_t a[] = {1, 2, 3}, sums[] = {1, 3, 6};
        submit(e, 1, a, 1);
        for (uint64_t id = 1; id < 20; id++) {
            usleep(2000);
            poll_now(e);
            assert_null(e->vt->result(e));
            submit(e, id + 1, a, 1 + (int)id % 3);
            assert_int_equal(await_answer(e, id), sums[id == 1 ? 0 : (id - 1) % 3]);
        }
        e->vt->close(e);
    }
}

static void a_killed_child_is_started_again_with_a_new_epoch(void **state)
{
    (void)state;
    struct engine *e = open_proc("good", -1);
    for (uint32_t life = 1; life <= 20; life++) {
        await_state(e, ENGINE_READY, life);
        assert_int_equal(e->epoch, life);
        const int32_t a[] = {1, 2};
        submit(e, life, a, 2);
        if (life % 2)
            assert_int_equal(await_answer(e, life), 3);
        assert_true(e->pid > 0);
        kill((pid_t)e->pid, SIGKILL);
        const uint64_t killed = clock_now(&clock_real);
        await_state(e, ENGINE_DOWN, life);
        assert_true(clock_now(&clock_real) - killed < NS_PER_S);
        if (!strstr(e->why.msg, "signal 9"))
            fail_msg("life %u: %s", life, e->why.msg);
        assert_null(e->vt->step_room(e));
        assert_null(e->vt->result(e)); /* nothing of an earlier life is delivered */
    }
    assert_int_equal(e->n_deaths, 20);
    assert_false(e->given_up);
    e->vt->close(e);
}

static void deaths_beyond_the_budget_give_up(void **state)
{
    (void)state;
    struct engine *e = open_proc("good", 3);
    for (uint32_t life = 1; life <= 3; life++) {
        await_state(e, ENGINE_READY, life);
        kill((pid_t)e->pid, SIGKILL);
        await_state(e, ENGINE_DOWN, life);
    }
    assert_true(e->given_up);
    assert_int_equal(e->vt->wait_ms(e, clock_now(&clock_real)), -1);
    usleep(20000);
    assert_int_equal(poll_now(e), ENGINE_DOWN);
    e->vt->close(e);
}

static void run_to_down(struct engine *e, const char *why)
{
    await_state(e, ENGINE_READY, 1);
    const int32_t a[] = {1};
    submit(e, 1, a, 1);
    assert_int_equal(await_answer(e, 1), 1);
    submit(e, 2, a, 1);
    await_state(e, ENGINE_DOWN, 1);
    if (!strstr(e->why.msg, why))
        fail_msg("want \"%s\" in \"%s\"", why, e->why.msg);
    e->vt->close(e);
}

static void a_crash_in_a_step_names_the_signal(void **state)
{
    (void)state;
    run_to_down(open_proc("crash-on-second-step", 1), "killed by signal 9");
}

static void a_failed_step_gives_its_reason(void **state)
{
    (void)state;
    run_to_down(open_proc("fail-on-second-step", 1), "step 2: device fault 719");
    run_to_down(open_local("fail-on-second-step", 1), "step 2: device fault 719");
}

static void a_step_that_hangs_is_killed_after_two_late_looks(void **state)
{
    (void)state;
    struct engine *e = open_proc("hang-on-second-step", 1);
    await_state(e, ENGINE_READY, 1);
    const int32_t a[] = {1};
    submit(e, 1, a, 1);
    await_answer(e, 1);
    submit(e, 2, a, 1);
    const uint64_t now = clock_now(&clock_real);
    assert_int_equal(e->vt->poll(e, now + 11 * NS_PER_S), ENGINE_READY);
    assert_int_equal(e->vt->poll(e, now + 12 * NS_PER_S), ENGINE_DOWN);
    assert_non_null(strstr(e->why.msg, "did not end in its time"));
    e->vt->close(e);
}

static void a_stopped_child_is_reported_as_stalled(void **state)
{
    (void)state;
    struct engine *e = open_proc("good", 1);
    await_state(e, ENGINE_READY, 1);
    assert_false(e->stalled);
    kill((pid_t)e->pid, SIGSTOP);
    usleep(1800 * 1000);
    assert_int_equal(poll_now(e), ENGINE_READY);
    assert_true(e->stalled);
    kill((pid_t)e->pid, SIGCONT);
    usleep(600 * 1000);
    poll_now(e);
    assert_false(e->stalled);
    e->vt->close(e);
}

static void a_model_that_cannot_load_is_given_up_with_its_reason(void **state)
{
    (void)state;
    open_fn *const opens[] = {open_proc, open_local};
    for (int i = 0; i < 2; i++) {
        struct engine *e = opens[i]("missing", 0);
        await_state(e, ENGINE_DOWN, 0);
        assert_true(e->given_up);
        assert_int_equal(e->epoch, 0);
        assert_string_equal(e->why.msg, "open missing: no such file");
        e->vt->close(e);
    }
}

static void a_load_that_fails_has_told_its_plan(void **state)
{
    (void)state;
    static const struct {
        open_fn *open;
        const char *path, *why;
    } rows[] = {
        {open_proc, "fails-while-loading", "a weight is not a number"},
        {open_proc, "killed-while-loading", "killed by signal 9"},
        {open_local, "fails-while-loading", "a weight is not a number"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct engine *e = rows[i].open(rows[i].path, 1);
        await_state(e, ENGINE_DOWN, 0);
        assert_non_null(strstr(e->why.msg, rows[i].why));
        assert_string_equal(e->facts.plan, "memory\n  all of it\n");
        assert_string_equal(e->facts.device, "paper");
        assert_string_equal(e->facts.isa, "grey");
        assert_int_equal(e->facts.n_ranks, 3);
        e->vt->close(e);
    }
}

static void a_result_that_leads_outside_its_record_ends_the_life(void **state)
{
    (void)state;
    struct engine *e = open_proc("wild", 1);
    await_state(e, ENGINE_READY, 1);
    const int32_t a[] = {1};
    submit(e, 1, a, 1);
    while (e->state == ENGINE_READY) {
        assert_null(e->vt->result(e));
        sleep_on(e);
    }
    assert_int_equal(e->why.code, STATUS_CORRUPT);
    e->vt->close(e);
}

static void await_corrupt(struct engine *e)
{
    const uint64_t end = clock_now(&clock_real) + 20 * NS_PER_S;
    while (poll_now(e) == ENGINE_READY) {
        assert_true(clock_now(&clock_real) < end);
        if (e->vt->result(e))
            e->vt->result_done(e);
        sleep_on(e);
    }
    assert_int_equal(e->why.code, STATUS_CORRUPT);
}

static void a_worker_that_stretches_a_ring_ends_its_life_and_not_the_front(void **state)
{
    (void)state;
    const int32_t a[] = {1};
    struct engine *e = open_proc("wild-results", 1);
    await_state(e, ENGINE_READY, 1);
    submit(e, 1, a, 1); /* its answer says that it fills the cell: 1 MiB */
    await_corrupt(e);
    e->vt->close(e);

    e = open_proc("wild-steps", 1);
    await_state(e, ENGINE_READY, 1);
    submit(e, 1, a, 1);
    assert_int_equal(await_answer(e, 1), 1);
    submit(e, 2, a, 1); /* the second cell would lie 1 MiB on */
    await_corrupt(e);
    assert_string_equal(e->why.msg, "engine broke the rings it shares");
    e->vt->close(e);
}

static void a_worker_cannot_cut_the_memory_under_the_front(void **state)
{
    (void)state;
    struct engine *e = open_proc("cutting", 1);
    await_state(e, ENGINE_READY, 1);
    const int32_t a[] = {1};
    submit(e, 1, a, 1);
    assert_int_equal(await_answer(e, 1), 1);
    e->vt->close(e);
}

static void a_child_has_the_options_of_quantization(void **state)
{
    (void)state;
    struct status st = {0};
    char texts[3][16] = {"int4:group=64", "int8", "q_proj"};
    const struct engine_options o = {.model_path = "good",
                                     .quantize = texts[0],
                                     .quantize_head = texts[1],
                                     .quantize_skip = texts[2]};
    struct engine *e = engine_proc_open(&o, &clock_real, &st);
    assert_non_null(e);
    memset(texts, 'x', sizeof texts); /* the caller's strings may go */
    await_state(e, ENGINE_READY, 1);
    assert_string_equal(e->facts.isa, "int4:group=64, int8, q_proj");
    e->vt->close(e);
}

static void limits_beyond_all_memory_are_refused_not_wrapped(void **state)
{
    (void)state;
    /* 16384 tables of 2^20 blocks: 2^34, which as 32 bits would be 0. */
    const struct step_limits l = {.vocab = 1000,
                                  .seqs_max = 1 << 14,
                                  .step_tokens_max = 64,
                                  .context_max = 1 << 24,
                                  .n_blocks = 1 << 20,
                                  .block_tokens = 16};
    assert_true(step_bytes_max(&l) > (size_t)1 << 32);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "engine") == 0)
        return engine_worker_run(&stand_in);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_child_answers_steps_in_order),
        cmocka_unit_test(a_thread_answers_steps_in_order),
        cmocka_unit_test(a_step_is_taken_while_one_runs),
        cmocka_unit_test(a_killed_child_is_started_again_with_a_new_epoch),
        cmocka_unit_test(deaths_beyond_the_budget_give_up),
        cmocka_unit_test(a_crash_in_a_step_names_the_signal),
        cmocka_unit_test(a_failed_step_gives_its_reason),
        cmocka_unit_test(a_step_that_hangs_is_killed_after_two_late_looks),
        cmocka_unit_test(a_stopped_child_is_reported_as_stalled),
        cmocka_unit_test(a_model_that_cannot_load_is_given_up_with_its_reason),
        cmocka_unit_test(a_load_that_fails_has_told_its_plan),
        cmocka_unit_test(a_result_that_leads_outside_its_record_ends_the_life),
        cmocka_unit_test(a_worker_that_stretches_a_ring_ends_its_life_and_not_the_front),
        cmocka_unit_test(a_worker_cannot_cut_the_memory_under_the_front),
        cmocka_unit_test(a_child_has_the_options_of_quantization),
        cmocka_unit_test(limits_beyond_all_memory_are_refused_not_wrapped),
    };
    return cmocka_run_group_tests_name("engine_proc", tests, NULL, NULL);
}
