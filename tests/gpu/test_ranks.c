/* What several GPUs promise that divide a model: the log-probabilities of one, but for the rounding
 * of partial sums; the same bits for a sequence alone as among others, and for a prompt in one step
 * as in several; the same bits from ranks that are processes as from threads, and by NCCL as by
 * peer memory; a rank that is killed or stopped ends all, with a reason.
 *
 *     gpu_test_ranks [SHAPES]        each number of ranks, 2 to 4, that there are GPUs for
 *
 * A rank's process is this program again: gpu_test_ranks rank R N GROUP SHAPES. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "kernels/backend.h"
#include "tests/gpu/answers.h"

enum { RANKS_MAX = 4, DOWN_MS_MAX = 10000 };

static const double SPREAD_MIN = 0.05, ERROR_MAX = 0.05; /* as in test_engine.c */

static const char *shapes = "tests/gpu/shapes";
static int n_gpus;

static const struct divided {
    struct model model;
    int n_ranks;
} cases[] = {
    {{"small", "auto"}, 2},      {{"wide-heads", "auto"}, 2}, {{"small", "int8"}, 2},
    {{"nine-heads", "auto"}, 3}, {{"small", "auto"}, 4},      {{"wide-heads", "fp8"}, 4},
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

static int count_gpus(void)
{
    char path[32];
    int n = 0;
    do {
        snprintf(path, sizeof path, "/dev/nvidia%d", n);
    } while (access(path, F_OK) == 0 && ++n < 16);
    return n;
}

static void skip_without_devices(void)
{
    struct status st = {0};
    const struct backend *backend = backend_find("cuda", &st);
    n_gpus = count_gpus();
    if (backend && backend->probe(&st) && n_gpus >= 2)
        return;
    printf("skipped: %s\n", st.code ? st.msg : "one GPU");
    exit(77);
}

static void open_ranks(struct drive *d, const struct model *m, int n_ranks, bool no_peers)
{
    char path[512];
    struct engine_options o = answers_options("cuda", shapes, m, path);
    o.tensor_parallel = n_ranks;
    o.no_peer_memory = no_peers;
    drive_open(d, &o);
}

/* One case for each number of ranks, where what is compared does not depend on the model. */
static bool is_first_of_its_number(int i)
{
    for (int j = 0; j < i; j++)
        if (cases[j].n_ranks == cases[i].n_ranks)
            return false;
    return cases[i].n_ranks <= n_gpus;
}

static int count_same(const struct answer *a, const struct answer *b)
{
    int n = 0;
    while (n < DECODES && a->id[n] == b->id[n])
        n++;
    return n;
}

static void scores_are_those_of_one_rank(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        static struct answer want[1], got[1];
        struct drive d;
        double spread;
        if (cases[i].n_ranks > n_gpus)
            continue;
        open_ranks(&d, &cases[i].model, 1, false);
        answer(&d, 1, PROMPT, want);
        drive_close(&d);
        open_ranks(&d, &cases[i].model, cases[i].n_ranks, false);
        answer(&d, 1, PROMPT, got);
        drive_close(&d);
        const double error = answers_error(want, got, &spread);
        printf("%s, kv %s, %d ranks: spread %.4f, error %.5f of it, %d of %d tokens alike\n",
               cases[i].model.name, cases[i].model.kv_dtype, cases[i].n_ranks, spread, error,
               count_same(want, got), DECODES);
        assert_true(spread > SPREAD_MIN);
        assert_true(error < ERROR_MAX); /* NaN fails too */
    }
}

static void company_and_cuts_change_no_bit(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        static struct answer all[SEQS], alone[1], cut[1];
        struct drive d;
        if (cases[i].n_ranks > n_gpus)
            continue;
        open_ranks(&d, &cases[i].model, cases[i].n_ranks, false);
        answer(&d, SEQS, PROMPT, all);
        answer(&d, 1, PROMPT, alone);
        answer(&d, 1, 37, cut);
        drive_close(&d);
        assert_memory_equal(alone, &all[0], sizeof *alone);
        assert_memory_equal(cut, &all[0], sizeof *cut);
    }
}

static void nccl_gives_the_bits_of_peer_memory(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        static struct answer want[SEQS], got[SEQS];
        struct drive d;
        if (!is_first_of_its_number(i))
            continue;
        open_ranks(&d, &cases[i].model, cases[i].n_ranks, false);
        answer(&d, SEQS, PROMPT, want);
        drive_close(&d);
        open_ranks(&d, &cases[i].model, cases[i].n_ranks, true);
        answer(&d, SEQS, PROMPT, got);
        drive_close(&d);
        assert_memory_equal(got, want, sizeof want);
    }
}

/* --- processes ------------------------------------------------------------------------------ */

static void make_group(char group[32])
{
    static int n;
    snprintf(group, 32, "gpu-test-%d-%d", (int)getpid(), n++);
}

static struct engine_options process_options(const struct divided *c, const char *group, int rank,
                                             char path[512])
{
    struct engine_options o = answers_options("cuda", shapes, &c->model, path);
    o.tensor_parallel = c->n_ranks;
    o.rank_group = group;
    o.rank = rank;
    return o;
}

/* gpu_test_ranks rank R CASE GROUP SHAPES */
static int be_rank(char **argv)
{
    char path[512];
    struct status st = {0};
    shapes = argv[5];
    const struct engine_options o =
        process_options(&cases[atoi(argv[3])], argv[4], atoi(argv[2]), path);
    struct ranks *r = ranks_open(&o, NULL, NULL, &st);
    while (r && ranks_healthy(r, &st))
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    if (st.code != STATUS_CANCELLED)
        printf("  rank %s: %s\n", argv[2], st.msg);
    fflush(stdout);
    ranks_close(r);
    return 0;
}

static pid_t start_rank(int i, const char *group, int rank)
{
    char number[16], which[16];
    snprintf(number, sizeof number, "%d", rank);
    snprintf(which, sizeof which, "%d", i);
    fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        execl("/proc/self/exe", "gpu_test_ranks", "rank", number, which, group, shapes, NULL);
        _exit(9);
    }
    return pid;
}

static void processes_give_the_bits_of_threads(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        static struct answer want[SEQS], got[SEQS];
        char group[32], path[512];
        pid_t pid[RANKS_MAX];
        struct drive d;
        if (!is_first_of_its_number(i))
            continue;
        open_ranks(&d, &cases[i].model, cases[i].n_ranks, false);
        answer(&d, SEQS, PROMPT, want);
        drive_close(&d);
        make_group(group);
        for (int r = 1; r < cases[i].n_ranks; r++)
            pid[r] = start_rank(i, group, r);
        const struct engine_options o = process_options(&cases[i], group, 0, path);
        drive_open(&d, &o);
        answer(&d, SEQS, PROMPT, got);
        drive_close(&d);
        for (int r = 1; r < cases[i].n_ranks; r++)
            assert_int_equal(waitpid(pid[r], NULL, 0), pid[r]);
        assert_memory_equal(got, want, sizeof want);
    }
}

/* Steps until one fails; how long that took. */
static uint64_t fail_steps(struct drive *d, struct status *why)
{
    int32_t ids[PROMPT];
    const uint64_t start = clock_now(&clock_real);
    make_prompt(ids, 1);
    drive_begin(d);
    struct drive_seq seq = drive_set(d, 0, drive_greedy(0), PROMPT);
    drive_row(d, &seq, ROW_SAMPLE, ids, PROMPT);
    for (int i = 0; i < DECODES; i++) {
        if (!drive_try(d, why))
            break;
        drive_begin(d);
        drive_row(d, &seq, ROW_SAMPLE, NULL, 1);
    }
    return (clock_now(&clock_real) - start) / NS_PER_MS;
}

static void a_rank_that_is_lost_ends_all_and_is_named(void **state)
{
    static const int signals[] = {SIGKILL, SIGSTOP};
    (void)state;
    for (int i = 0; i < 2; i++) {
        char group[32], path[512];
        struct status why = {0};
        struct drive d;
        int ended;
        make_group(group);
        const pid_t pid = start_rank(0, group, 1);
        const struct engine_options o = process_options(&cases[0], group, 0, path);
        drive_open(&d, &o);
        kill(pid, signals[i]);
        const uint64_t ms = fail_steps(&d, &why);
        printf("signal %d to rank 1: rank 0 ends after %llu ms: %s\n", signals[i],
               (unsigned long long)ms, why.msg);
        assert_int_equal(why.code, STATUS_DEVICE);
        assert_non_null(strstr(why.msg, "rank 1"));
        assert_true(ms < DOWN_MS_MAX);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, &ended, 0), pid);
        drive_close(&d);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_are_those_of_one_rank),
        cmocka_unit_test(company_and_cuts_change_no_bit),
        cmocka_unit_test(processes_give_the_bits_of_threads),
        cmocka_unit_test(a_rank_that_is_lost_ends_all_and_is_named),
        cmocka_unit_test(nccl_gives_the_bits_of_peer_memory),
    };
    if (argc == 6 && strcmp(argv[1], "rank") == 0)
        return be_rank(argv);
    shapes = argc > 1 ? argv[1] : shapes;
    skip_without_devices();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
