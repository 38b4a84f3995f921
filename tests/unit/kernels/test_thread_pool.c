/* What thread_pool promises: every part of every job runs exactly once, all writes of a job are
 * seen by the caller when it returns, and an idle pool sleeps. */
#include "kernels/cpu/cpu_int.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <cmocka.h>

enum { PARTS_MAX = 300 };

struct tally {
    int n_runs[PARTS_MAX]; /* plain: a part is written by the one thread that took it */
    int thread[PARTS_MAX];
    int job;
};

static void count_part(void *ctx, int part, int thread)
{
    struct tally *t = ctx;
    t->n_runs[part] += 1 + t->job;
    t->thread[part] = thread;
}

static struct thread_pool *open_pool(int n_threads)
{
    struct status st = {0};
    struct thread_pool *p = thread_pool_open(n_threads, &st);
    if (!p)
        fail_msg("%s", st.msg);
    return p;
}

static double now_s(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void sleep_ms(long ms)
{
    struct timespec t = {.tv_nsec = ms * 1000000};
    nanosleep(&t, NULL);
}

static void every_part_runs_once_and_is_seen(void **state)
{
    (void)state;
    static const int threads[] = {1, 2, 3, 8};
    static const int parts[] = {0, 1, 2, 3, 7, 64, PARTS_MAX};
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
        struct thread_pool *p = open_pool(threads[i]);
        for (int job = 0; job < 700; job++) {
            int n_parts = parts[job % 7];
            struct tally t = {.job = job};
            thread_pool_run(p, count_part, &t, n_parts);
            for (int k = 0; k < PARTS_MAX; k++) {
                assert_int_equal(t.n_runs[k], k < n_parts ? 1 + job : 0);
                assert_in_range(t.thread[k], 0, threads[i] - 1);
            }
        }
        thread_pool_close(p);
    }
}

/* Jobs of changing size with pauses around the spin time, so that workers are met spinning,
 * falling asleep and asleep. */
static void jobs_survive_workers_that_fall_asleep(void **state)
{
    (void)state;
    struct thread_pool *p = open_pool(3);
    for (int job = 0; job < 400; job++) {
        struct tally t = {.job = job};
        int n_parts = 2 + job * 37 % (PARTS_MAX - 2);
        thread_pool_run(p, count_part, &t, n_parts);
        for (int k = 0; k < PARTS_MAX; k++)
            assert_int_equal(t.n_runs[k], k < n_parts ? 1 + job : 0);
        double end = now_s(CLOCK_MONOTONIC) + (job % 9) * 12e-6;
        while (now_s(CLOCK_MONOTONIC) < end)
            ;
    }
    thread_pool_close(p);
}

static void hold_thread(void *ctx, int part, int thread)
{
    (void)part;
    sleep_ms(5);
    ((int *)ctx)[thread] = 1;
}

static void all_threads_share_the_parts(void **state)
{
    (void)state;
    struct thread_pool *p = open_pool(4);
    int used[4] = {0};
    for (int tries = 0; tries < 20 && !(used[1] && used[2] && used[3]); tries++)
        thread_pool_run(p, hold_thread, used, 16);
    for (int i = 0; i < 4; i++)
        assert_int_equal(used[i], 1);
    thread_pool_close(p);
}

static void one_part_runs_in_the_caller(void **state)
{
    (void)state;
    struct thread_pool *p = open_pool(4);
    for (int i = 0; i < 200; i++) {
        struct tally t = {.thread = {-1}};
        thread_pool_run(p, count_part, &t, 1);
        assert_int_equal(t.thread[0], 0);
    }
    thread_pool_close(p);
}

static void an_idle_pool_burns_no_time(void **state)
{
    (void)state;
    struct thread_pool *p = open_pool(4);
    struct tally t = {0};
    thread_pool_run(p, count_part, &t, PARTS_MAX);
    sleep_ms(20);
    double before = now_s(CLOCK_PROCESS_CPUTIME_ID);
    sleep_ms(300);
    double used = now_s(CLOCK_PROCESS_CPUTIME_ID) - before;
    print_message("           idle for 300 ms used %.3f ms of CPU\n", used * 1e3);
    assert_true(used < 0.010);
    thread_pool_close(p);
}

static void a_region_is_cheap_while_workers_spin(void **state)
{
    (void)state;
    struct thread_pool *p = open_pool(2);
    double best = 1;
    for (int round = 0; round < 50; round++) {
        struct tally t = {0};
        double begin = now_s(CLOCK_MONOTONIC);
        for (int i = 0; i < 100; i++)
            thread_pool_run(p, count_part, &t, 2);
        double each = (now_s(CLOCK_MONOTONIC) - begin) / 100;
        best = each < best ? each : best;
    }
    print_message("           a region of 2 parts on 2 threads: %.2f us\n", best * 1e6);
    thread_pool_close(p);
}

static void closing_at_once_and_closing_null_are_fine(void **state)
{
    (void)state;
    for (int i = 0; i < 50; i++)
        thread_pool_close(open_pool(1 + i % 5));
    thread_pool_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_part_runs_once_and_is_seen),
        cmocka_unit_test(jobs_survive_workers_that_fall_asleep),
        cmocka_unit_test(all_threads_share_the_parts),
        cmocka_unit_test(one_part_runs_in_the_caller),
        cmocka_unit_test(an_idle_pool_burns_no_time),
        cmocka_unit_test(a_region_is_cheap_while_workers_spin),
        cmocka_unit_test(closing_at_once_and_closing_null_are_fine),
    };
    return cmocka_run_group_tests_name("thread_pool", tests, NULL, NULL);
}
