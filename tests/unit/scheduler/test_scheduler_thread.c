/* What the scheduler promises between two threads: requests and news cross without loss, a request
 * may be freed as soon as it is finished, and an idle scheduler uses no processor.
 * Real time; meant for the thread sanitizer. */
#include "world.h"

#include <poll.h>
#include <time.h>

enum { N_ASKS = 400, N_MAX = 24 };

struct front {
    struct scheduler *s;
    struct engine_fake_options fake;
    int n_submitted, n_done, n_cancelled, n_busy;
    uint64_t n_tokens;
};

static void open_front(struct front *f, uint64_t step_ns)
{
    struct world w;
    struct status st = {0};
    world_defaults(&w);
    w.fake.step_ns = step_ns;
    w.fake.limits.seqs_max = 16;
    w.fake.limits.n_blocks = 60; /* some are preempted */
    w.fake.limits.step_tokens_max = 64;
    *f = (struct front){.fake = w.fake};
    struct engine *e = engine_fake_open(&w.fake, &clock_real, &st);
    assert_non_null(e);
    f->s = scheduler_open_text(&w.options, e, NULL, &clock_real, &st);
    assert_non_null(f->s);
    assert_true(scheduler_start(f->s, &st));
    struct scheduler_view v;
    do
        scheduler_view(f->s, &v);
    while (v.engine_state != ENGINE_READY);
}

static struct ask *submit_one(struct front *f)
{
    struct status st = {0};
    struct ask *a = malloc(sizeof *a);
    ask_init(a, f->n_submitted % 50, 1 + f->n_submitted % 30, N_MAX);
    a->r.arrived_ns = clock_now(&clock_real);
    if (scheduler_submit(f->s, &a->r, &st)) {
        if (++f->n_submitted % 11 == 0)
            scheduler_cancel(f->s, &a->r); /* while it waits, or has hardly begun */
        return a;
    }
    assert_int_equal(st.code, STATUS_BUSY);
    f->n_busy++;
    free(a);
    return NULL;
}

static void take_news(struct front *f)
{
    for (struct request *r; (r = scheduler_news(f->s));) {
        struct ask *a = (struct ask *)r;
        const int32_t n_out = atomic_load_explicit(&r->n_out, memory_order_acquire);
        for (int32_t i = 0; i < n_out; i++)
            f->n_tokens += (uint64_t)(a->out[i].id >= 0);
        if (!request_finished(r)) {
            if (n_out >= 5 && r->sample.seed % 7 == 0) /* a reader that is late sees more */
                scheduler_cancel(f->s, r);
            continue;
        }
        const enum finish how = (enum finish)atomic_load(&r->finish);
        f->n_cancelled += how == FINISH_CANCELLED;
        assert_true(how == FINISH_LENGTH || how == FINISH_CANCELLED);
        struct world w = {.fake = f->fake};
        if (how == FINISH_LENGTH)
            check_output(&w, a, N_MAX);
        f->n_done++;
        free(a); /* the scheduler must never look at it again */
    }
    scheduler_news_done(f->s);
}

static void run_front(struct front *f)
{
    struct pollfd p = {.fd = scheduler_news_fd(f->s), .events = POLLIN};
    while (f->n_done < N_ASKS) {
        while (f->n_submitted < N_ASKS && submit_one(f))
            ;
        assert_int_equal(poll(&p, 1, 20000), 1); /* or a wake-up was lost */
        take_news(f);
        struct scheduler_view v;
        scheduler_view(f->s, &v);
        assert_true(v.n_blocks_free <= v.n_blocks && v.n_running <= 16);
    }
}

static void requests_and_news_cross_between_threads(void **state)
{
    (void)state;
    static const uint64_t step_ns[] = {0, 20000, 1000000};
    for (int i = 0; i < 3; i++) {
        struct front f;
        open_front(&f, step_ns[i]);
        run_front(&f);
        assert_true(f.n_cancelled > 0 && f.n_tokens > 0);
        scheduler_stop(f.s);
        scheduler_close(f.s);
    }
}

static void a_stop_in_the_middle_finishes_everything(void **state)
{
    (void)state;
    struct front f;
    open_front(&f, 1000000);
    struct ask *a[10];
    for (int i = 0; i < 10; i++)
        assert_non_null(a[i] = submit_one(&f));
    struct pollfd p = {.fd = scheduler_news_fd(f.s), .events = POLLIN};
    assert_int_equal(poll(&p, 1, 20000), 1);
    scheduler_stop(f.s);
    scheduler_close(f.s);
    for (int i = 0; i < 10; i++) {
        assert_true(request_finished(&a[i]->r));
        free(a[i]);
    }
}

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void an_idle_scheduler_sleeps(void **state)
{
    (void)state;
    struct front f;
    open_front(&f, 0);
    struct ask *a = submit_one(&f);
    while (f.n_done == 0)
        take_news(&f);
    (void)a; /* freed */
    const uint64_t before_ns = cpu_ns();
    poll(NULL, 0, 300);
    assert_true(cpu_ns() - before_ns < 30 * NS_PER_MS);
    scheduler_stop(f.s);
    scheduler_close(f.s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_and_news_cross_between_threads),
        cmocka_unit_test(a_stop_in_the_middle_finishes_everything),
        cmocka_unit_test(an_idle_scheduler_sleeps),
    };
    return cmocka_run_group_tests_name("scheduler_thread", tests, NULL, NULL);
}
