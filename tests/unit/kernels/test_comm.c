/* What comm promises: sums in order of rank, to the bit, whatever the size and whoever is late; the
 * same between threads, between processes, and over TCP; and nobody waits for a rank that is gone:
 * all fail, soon, with its number in the reason. */
#include "kernels/comm.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "free_port.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { ROUNDS = 300, SIZE_MAX_FLOATS = 40000, LATENESS = 4 };
#else
enum { ROUNDS = 3000, SIZE_MAX_FLOATS = (1 << 18) + 3, LATENESS = 1 };
#endif

static const int group_sizes[] = {1, 2, 3, 4, 8};
enum { N_GROUPS = sizeof group_sizes / sizeof *group_sizes };

/* --- ranks as threads, ranks as processes --------------------------------------------------- */

typedef bool rank_fn(struct comm *c, void *ctx); /* false = the test fails */

struct ranks {
    rank_fn *fn;
    void *ctx;
    int n;
    void *memory; /* that they share; NULL = they meet at */
    struct comm_place place;
};

struct rank {
    const struct ranks *all;
    int index;
    bool ok;
};

static bool run_rank(const struct ranks *all, int index)
{
    struct status st = {0};
    struct comm *c = all->memory ? comm_open(all->memory, index, &st)
                                 : comm_connect(&all->place, index, all->n, 1, 10000, &st);
    const bool ok = c && all->fn(c, all->ctx);
    if (!c)
        fprintf(stderr, "rank %d: %s\n", index, st.msg);
    comm_close(c);
    return ok;
}

static void *thread_main(void *arg)
{
    struct rank *r = arg;
    r->ok = run_rank(r->all, r->index);
    return NULL;
}

static bool run_threads(const struct ranks *all, int n)
{
    struct rank rank[COMM_RANKS_MAX];
    pthread_t thread[COMM_RANKS_MAX];
    bool ok = true;
    for (int i = 0; i < n; i++) {
        rank[i] = (struct rank){all, i, false};
        assert_int_equal(pthread_create(&thread[i], NULL, thread_main, &rank[i]), 0);
    }
    for (int i = 0; i < n; i++) {
        pthread_join(thread[i], NULL);
        ok &= rank[i].ok;
    }
    return ok;
}

static void spawn_processes(const struct ranks *all, int n, pid_t *pid)
{
    fflush(NULL);
    for (int i = 0; i < n; i++) {
        pid[i] = fork();
        assert_true(pid[i] >= 0);
        if (pid[i] == 0)
            _exit(!run_rank(all, i));
    }
}

static bool run_processes(const struct ranks *all, int n)
{
    pid_t pid[COMM_RANKS_MAX];
    bool ok = true;
    spawn_processes(all, n, pid);
    for (int i = 0; i < n; i++) {
        int how;
        assert_int_equal(waitpid(pid[i], &how, 0), pid[i]);
        ok &= WIFEXITED(how) && WEXITSTATUS(how) == 0;
    }
    return ok;
}

static void *take_memory(int n)
{
    struct status st = {0};
    void *memory = comm_memory_take(n, 1, &st);
    if (!memory)
        fail_msg("%s", st.msg);
    return memory;
}

static struct comm_place place_on(const char *host)
{
    return (struct comm_place){
        .group = "test", .host = host, .port = free_port(), .secret = {1, 2}};
}

/* As threads and as processes in shared memory, and as threads over TCP, which the test may know.
 */
static bool over_tcp;

static void run_all(rank_fn *fn, void *ctx, int n)
{
    struct ranks all = {fn, ctx, n, take_memory(n), {0}};
    assert_true(run_threads(&all, n));
    comm_memory_drop(all.memory);
    all.memory = take_memory(n);
    assert_true(run_processes(&all, n));
    comm_memory_drop(all.memory);
    all.memory = NULL;
    all.place = place_on(n % 2 ? "::1" : "127.0.0.1");
    over_tcp = true;
    const bool ok = run_threads(&all, n);
    over_tcp = false;
    assert_true(ok);
}

/* --- numbers -------------------------------------------------------------------------------- */

static uint64_t fresh_seed(void)
{
    uint64_t seed;
    assert_int_equal(getrandom(&seed, sizeof seed, 0), sizeof seed);
    return seed;
}

static uint64_t mix(uint64_t z) /* splitmix64 */
{
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Value i of rank r: of very different sizes, so that another order gives other bits. */
static float value_of(uint64_t seed, int r, size_t i)
{
    const uint64_t bits = mix(seed ^ mix((uint64_t)r << 40 ^ i));
    return ldexpf((float)(int32_t)bits, -31 + (int)(bits >> 60));
}

static bool same_bits(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

/* A pause of a random length, so that another rank is the last one each time. */
static void dawdle(uint64_t seed, const struct comm *c)
{
    const uint64_t bits = mix(seed + (uint64_t)comm_rank(c));
    if (bits % 16 == 0)
        nanosleep(&(struct timespec){.tv_nsec = (long)(bits >> 8) % 200000}, NULL);
}

/* --- sums ----------------------------------------------------------------------------------- */

struct sum {
    uint64_t seed;
    size_t n;
    bool has_add, in_place;
};

static float expected_sum(const struct sum *s, int n_ranks, size_t i)
{
    float sum = value_of(s->seed, 0, i);
    for (int r = 1; r < n_ranks; r++)
        sum += value_of(s->seed, r, i);
    return s->has_add ? value_of(s->seed, 99, i) + sum : sum;
}

static bool reduce_once(struct comm *c, void *ctx)
{
    const struct sum *s = ctx;
    float *x = calloc(s->n + 1, sizeof *x), *add = calloc(s->n + 1, sizeof *add);
    float *y = s->in_place ? (s->has_add ? add : x) : calloc(s->n + 1, sizeof *y);
    for (size_t i = 0; i < s->n; i++) {
        x[i] = value_of(s->seed, comm_rank(c), i);
        add[i] = value_of(s->seed, 99, i);
    }
    y[s->n] = 7;
    bool ok = comm_all_reduce(c, y, x, s->has_add ? add : NULL, s->n) && y[s->n] == 7;
    for (size_t i = 0; ok && i < s->n; i++)
        ok = same_bits(y[i], expected_sum(s, comm_size(c), i));
    if (!ok)
        fprintf(stderr, "rank %d of %d: n %zu, seed %llu\n", comm_rank(c), comm_size(c), s->n,
                (unsigned long long)s->seed);
    if (!s->in_place)
        free(y);
    free(x);
    free(add);
    return ok;
}

static void sums_are_taken_in_order_of_rank(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 3, 64, 4095, 4096, 4097, 5003, SIZE_MAX_FLOATS};
    for (int g = 0; g < N_GROUPS; g++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            run_all(
                reduce_once,
                &(struct sum){
                    .seed = fresh_seed(), .n = sizes[i], .has_add = i % 2, .in_place = i / 2 % 2},
                group_sizes[g]);
}

/* --- all calls, many times ------------------------------------------------------------------ */

static bool gather_once(struct comm *c, uint64_t seed)
{
    enum { ROWS_MAX = 5, PART_MAX = 40 };
    unsigned char rows[ROWS_MAX * COMM_RANKS_MAX * PART_MAX];
    size_t split[COMM_RANKS_MAX + 1] = {0};
    const size_t n_rows = mix(seed) % ROWS_MAX + 1;
    for (int r = 0; r < comm_size(c); r++) /* some have none */
        split[r + 1] = split[r] + mix(seed + 1 + (uint64_t)r) % PART_MAX;
    const size_t width = split[comm_size(c)];
    memset(rows, 0xee, sizeof rows);
    for (size_t i = 0; i < n_rows; i++)
        for (size_t j = split[comm_rank(c)]; j < split[comm_rank(c) + 1]; j++)
            rows[i * width + j] = (unsigned char)mix(seed ^ (i << 20 | j));
    if (!comm_all_gather(c, rows, n_rows, width, split))
        return false;
    for (size_t i = 0; i < n_rows; i++)
        for (size_t j = 0; j < width; j++)
            if (rows[i * width + j] != (unsigned char)mix(seed ^ (i << 20 | j)))
                return false;
    return rows[n_rows * width] == 0xee;
}

static bool broadcast_once(struct comm *c, uint64_t seed)
{
    uint64_t word[9];
    const int root = (int)(mix(seed) % (uint64_t)comm_size(c));
    for (int i = 0; i < 9; i++)
        word[i] = comm_rank(c) == root ? mix(seed + (uint64_t)i) : 0;
    if (!comm_broadcast(c, word, 8 * sizeof *word, root))
        return false;
    for (int i = 0; i < 8; i++)
        if (word[i] != mix(seed + (uint64_t)i))
            return false;
    return comm_rank(c) == root || word[8] == 0;
}

static bool call_all(struct comm *c, void *ctx)
{
    const uint64_t seed = *(const uint64_t *)ctx;
    for (uint64_t i = 0; i < (over_tcp ? ROUNDS / 10 : ROUNDS); i++) {
        const uint64_t s = mix(seed + i);
        struct sum sum = {.seed = s, .n = s % 100 + 1, .has_add = s & 128, .in_place = s & 256};
        bool ok = true;
        dawdle(s, c);
        switch (s >> 60 & 3) {
        case 0:
            ok = gather_once(c, s);
            break;
        case 1:
            ok = broadcast_once(c, s);
            break;
        case 2:
            ok = comm_barrier(c) && comm_agree(c, "a number", s);
            break;
        default:
            ok = reduce_once(c, &sum);
        }
        if (!ok) {
            fprintf(stderr, "rank %d: call %llu, seed %llu\n", comm_rank(c), (unsigned long long)i,
                    (unsigned long long)seed);
            return false;
        }
    }
    return true;
}

static void any_calls_in_any_rhythm_give_what_they_should(void **state)
{
    (void)state;
    for (int g = 0; g < N_GROUPS; g++) {
        uint64_t seed = fresh_seed();
        run_all(call_all, &seed, group_sizes[g]);
    }
}

static bool gather_large(struct comm *c, void *ctx)
{
    const uint64_t seed = *(const uint64_t *)ctx;
    const size_t n_rows = 3, n = comm_size(c);
    size_t split[COMM_RANKS_MAX + 1] = {0};
    for (size_t r = 0; r < n; r++) /* far more than a piece, and uneven */
        split[r + 1] = split[r] + 150001 * (1 + r % 3);
    const size_t width = split[n];
    unsigned char *rows = calloc(n_rows, width);
    bool ok = true;
    for (size_t i = 0; i < n_rows; i++)
        for (size_t j = split[comm_rank(c)]; j < split[comm_rank(c) + 1]; j++)
            rows[i * width + j] = (unsigned char)mix(seed ^ (i << 32 | j));
    ok = comm_all_gather(c, rows, n_rows, width, split);
    for (size_t i = 0; ok && i < n_rows; i++)
        for (size_t j = 0; ok && j < width; j++)
            ok = rows[i * width + j] == (unsigned char)mix(seed ^ (i << 32 | j));
    free(rows);
    return ok;
}

static void parts_of_any_size_are_gathered(void **state)
{
    (void)state;
    uint64_t seed = fresh_seed();
    run_all(gather_large, &seed, 3);
}

/* --- failures ------------------------------------------------------------------------------- */

enum { WAIT_MS = 400, SOON_MS = LATENESS * 2500 };

static uint64_t now_ms(void)
{
    return clock_now(&clock_real) / NS_PER_MS;
}

/* Calls until the group fails; false unless that was soon and the reason has `text`. */
static bool fails_with(struct comm *c, const char *text)
{
    const uint64_t start = now_ms();
    struct status st = {0};
    float x = 1;
    while (comm_all_reduce(c, &x, &x, NULL, 1))
        x = 1;
    const uint64_t ms = now_ms() - start;
    const bool named =
        !comm_ok(c, &st) &&
        (strstr(st.msg, text) || (over_tcp && (strstr(st.msg, "the process of rank 1 is gone") ||
                                               strstr(st.msg, "rank 1 has left"))));
    if (!named || ms > SOON_MS)
        fprintf(stderr, "rank %d: after %llu ms: %s\n", comm_rank(c), (unsigned long long)ms,
                st.msg);
    const uint64_t again = now_ms();
    return named && ms <= SOON_MS && !comm_barrier(c) && now_ms() - again < 100;
}

static bool rank_1_leaves(struct comm *c, void *ctx)
{
    (void)ctx;
    comm_wait_set(c, WAIT_MS);
    for (int i = 0; i < 20; i++)
        if (!comm_barrier(c))
            return false;
    return comm_rank(c) == 1 || fails_with(c, "rank 1 did not come to all_reduce");
}

static void a_rank_that_leaves_is_named_to_all(void **state)
{
    (void)state;
    run_all(rank_1_leaves, NULL, 2);
    run_all(rank_1_leaves, NULL, 4);
}

/* What it said in a call that others may still be in is not lost with it. */
static bool rank_1_leaves_after(struct comm *c, void *ctx)
{
    struct status st = {0};
    struct sum sum = *(const struct sum *)ctx;
    comm_wait_set(c, WAIT_MS);
    if (!reduce_once(c, &sum))
        return false;
    if (comm_rank(c) == 1)
        return true;
    nanosleep(&(struct timespec){.tv_nsec = 500000000}, NULL); /* till all are through */
    if (!comm_ok(c, &st) && strstr(st.msg, "is gone")) {       /* another may be in the next call */
        fprintf(stderr, "rank %d: %s\n", comm_rank(c), st.msg);
        return false;
    }
    return fails_with(c, "rank 1 did not come to all_reduce");
}

static void a_rank_that_leaves_fails_no_earlier_call(void **state)
{
    (void)state;
    struct sum sum = {.seed = fresh_seed(), .n = 20000};
    run_all(rank_1_leaves_after, &sum, 2);
    run_all(rank_1_leaves_after, &sum, 4);
}

static bool rank_2_aborts(struct comm *c, void *ctx)
{
    struct status why = {0};
    (void)ctx;
    comm_wait_set(c, 0); /* only the abort ends it */
    if (!comm_barrier(c))
        return false;
    if (comm_rank(c) == 2) {
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        status_fail(&why, STATUS_IO, "no such file");
        comm_abort(c, &why);
    }
    struct status st = {0};
    const bool ok = fails_with(c, "rank 2: no such file");
    return ok && !comm_ok(c, &st) && st.code == STATUS_IO;
}

static void an_abort_reaches_those_who_wait_without_limit(void **state)
{
    (void)state;
    run_all(rank_2_aborts, NULL, 3);
    run_all(rank_2_aborts, NULL, 4);
}

static bool ranks_differ(struct comm *c, void *ctx)
{
    struct status st = {0};
    (void)ctx;
    comm_wait_set(c, WAIT_MS);
    if (comm_agree(c, "the model", comm_rank(c) == 1 ? 8 : 9) || comm_ok(c, &st))
        return false;
    return strstr(st.msg, "differ in the model") != NULL;
}

static void ranks_that_differ_are_found(void **state)
{
    (void)state;
    run_all(ranks_differ, NULL, 2);
    run_all(ranks_differ, NULL, 4);
}

static bool ranks_in_other_calls(struct comm *c, void *ctx)
{
    struct status st = {0};
    float x[2] = {0};
    (void)ctx;
    comm_wait_set(c, WAIT_MS);
    if (comm_rank(c) == 1 ? comm_barrier(c) : comm_all_reduce(c, x, x, NULL, 2))
        return false;
    return !comm_ok(c, &st) && (strstr(st.msg, "in all_reduce of 8 bytes, where rank 1 is in "
                                               "barrier of 0") ||
                                strstr(st.msg, "in barrier of 0 bytes, where rank 0 is in "
                                               "all_reduce of 8"));
}

static void ranks_in_different_calls_are_found(void **state)
{
    (void)state;
    run_all(ranks_in_other_calls, NULL, 2);
}

static bool call_for_ever(struct comm *c, void *ctx)
{
    (void)ctx;
    comm_wait_set(c, WAIT_MS);
    return fails_with(c, "rank 1 did not come to all_reduce");
}

/* Signals rank 1 of three processes in the middle of their calls. */
static void strike(int sig, bool tcp)
{
    enum { N = 3 };
    struct ranks all = {call_for_ever, NULL, N, tcp ? NULL : take_memory(N), {0}};
    pid_t pid[N];
    int how;
    over_tcp = tcp;
    if (tcp)
        all.place = place_on("localhost");
    spawn_processes(&all, N, pid);
    over_tcp = false;
    nanosleep(&(struct timespec){.tv_nsec = tcp ? 500000000 : 50000000}, NULL);
    kill(pid[1], sig);
    const uint64_t start = now_ms();
    for (int i = 0; i < N; i++) {
        if (i == 1)
            continue;
        assert_int_equal(waitpid(pid[i], &how, 0), pid[i]);
        assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
    }
    assert_true(now_ms() - start < SOON_MS);
    kill(pid[1], SIGKILL);
    waitpid(pid[1], &how, 0);
    comm_memory_drop(all.memory);
}

static void a_killed_or_stopped_process_is_named(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++) {
        strike(SIGKILL, i % 2);
        strike(SIGSTOP, i % 2);
    }
}

static void an_impossible_rank_is_refused(void **state)
{
    (void)state;
    struct status st = {0};
    void *memory = take_memory(2);
    assert_null(comm_open(memory, 2, &st));
    assert_string_equal(st.msg, "rank 2 is not one of a group of 2, or there twice");
    comm_memory_drop(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_taken_in_order_of_rank),
        cmocka_unit_test(any_calls_in_any_rhythm_give_what_they_should),
        cmocka_unit_test(parts_of_any_size_are_gathered),
        cmocka_unit_test(a_rank_that_leaves_is_named_to_all),
        cmocka_unit_test(a_rank_that_leaves_fails_no_earlier_call),
        cmocka_unit_test(an_abort_reaches_those_who_wait_without_limit),
        cmocka_unit_test(ranks_that_differ_are_found),
        cmocka_unit_test(ranks_in_different_calls_are_found),
        cmocka_unit_test(a_killed_or_stopped_process_is_named),
        cmocka_unit_test(an_impossible_rank_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
