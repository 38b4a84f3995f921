/* What several GPUs promise that divide a model: the log-probabilities of one, but for the rounding
 * of partial sums, and of stages its very bits; the same bits for a sequence alone as among others,
 * for a prompt in one step as in several, and with as many steps in flight as stages can work at;
 * the same bits from ranks that are processes as from threads, and by NCCL as by peer memory; a
 * rank that is killed or stopped ends all, with a reason.
 *
 *     gpu_test_ranks [SHAPES [TEST]]     each number of ranks, 2 to 4, that there are GPUs for
 *
 * A rank's process is this program again: gpu_test_ranks rank R CASE GROUP SHAPES. */
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
    int n_tensor, n_stages;
} cases[] = {
    {{"small", "auto"}, 2, 1},      {{"wide-heads", "auto"}, 2, 1}, {{"small", "int8"}, 2, 1},
    {{"nine-heads", "auto"}, 3, 1}, {{"small", "auto"}, 4, 1},      {{"wide-heads", "fp8"}, 4, 1},
    {{"small", "auto"}, 1, 2},      {{"wide-heads", "int8"}, 1, 2}, {{"nine-heads", "auto"}, 1, 3},
    {{"small", "auto"}, 2, 2},      {{"wide-heads", "auto"}, 2, 2},
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

static int count_ranks(const struct divided *c)
{
    return c->n_tensor * c->n_stages;
}

static void skip_without_devices(void)
{
    struct status st = {0};
    uint64_t free_bytes[RANKS_MAX];
    const struct backend *backend = backend_find("cuda", &st);
    if (backend && backend->probe(NULL, &st))
        n_gpus = backend->memory(&(struct device_options){0}, free_bytes, RANKS_MAX);
    if (n_gpus >= 2)
        return;
    printf("skipped: %s\n", st.code ? st.msg : "one GPU");
    exit(77);
}

static void open_ranks(struct drive *d, const struct model *m, int n_tensor, int n_stages,
                       bool no_peers)
{
    char path[512];
    struct engine_options o = answers_options("cuda", shapes, m, path);
    o.tensor_parallel = n_tensor;
    o.layer_split = n_stages;
    o.no_peer_memory = no_peers;
    drive_open(d, &o);
}

static void open_case(struct drive *d, const struct divided *c, bool no_peers)
{
    open_ranks(d, &c->model, c->n_tensor, c->n_stages, no_peers);
}

static bool has_gpus(const struct divided *c)
{
    return count_ranks(c) <= n_gpus;
}

/* One case for each way to divide, where what is compared does not depend on the model. */
static bool is_first_of_its_way(int i)
{
    for (int j = 0; j < i; j++)
        if (cases[j].n_tensor == cases[i].n_tensor && cases[j].n_stages == cases[i].n_stages)
            return false;
    return has_gpus(&cases[i]);
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
        if (!has_gpus(&cases[i]))
            continue;
        open_ranks(&d, &cases[i].model, 1, 1, false);
        answer(&d, 1, PROMPT, want);
        drive_close(&d);
        open_case(&d, &cases[i], false);
        answer(&d, 1, PROMPT, got);
        drive_close(&d);
        const double error = answers_error(want, got, &spread);
        printf("%s, kv %s, %d stages of %d: spread %.4f, error %.5f of it, %d of %d tokens alike\n",
               cases[i].model.name, cases[i].model.kv_dtype, cases[i].n_stages, cases[i].n_tensor,
               spread, error, count_same(want, got), DECODES);
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
        if (!has_gpus(&cases[i]))
            continue;
        open_case(&d, &cases[i], false);
        answer(&d, SEQS, PROMPT, all);
        answer(&d, 1, PROMPT, alone);
        answer(&d, 1, 37, cut);
        drive_close(&d);
        assert_memory_equal(alone, &all[0], sizeof *alone);
        assert_memory_equal(cut, &all[0], sizeof *cut);
    }
}

/* The decode rows of each half of the sequences in steps of their own, all in flight that may be. */
static void answer_in_turns(struct drive *d, struct answer a[SEQS])
{
    int32_t ids[SEQS][PROMPT];
    struct drive_seq seq[SEQS];
    int n_known[2] = {0, 0};
    for (int turn = 0; turn < 2 * (DECODES + 1); turn++) {
        const int first = turn % 2 * (SEQS / 2), end = first + SEQS / 2;
        struct status st = {0};
        if (turn >= 2) {
            drive_must(ranks_result(d->ranks, d->result, &st), "result", &st);
            const struct step_result *r = d->result;
            for (int i = first; i < end; i++) {
                const struct step_result_row *row = &step_result_rows(r)[i - first];
                if (n_known[turn % 2] == 0)
                    take_scores(r, row, a[i].score);
                take_token(r, row, &a[i], n_known[turn % 2]);
            }
            n_known[turn % 2]++;
        }
        if (n_known[turn % 2] == DECODES)
            continue;
        drive_begin(d);
        for (int i = first; turn < 2 && i < end; i++) {
            make_prompt(ids[i], (uint32_t)i + 1);
            seq[i] = drive_set(d, i, drive_greedy(0), PROMPT);
        }
        for (int i = first; i < end; i++) {
            const int n = n_known[turn % 2];
            if (n > 0)
                drive_row(d, &seq[i], ROW_SAMPLE, &a[i].id[n - 1], 1);
            else
                drive_row(d, &seq[i], ROW_SCORE_NEXT | ROW_SAMPLE, ids[i], PROMPT)->next_token = -1;
        }
        step_end(&d->builder);
        drive_must(ranks_submit(d->ranks, d->step, &st), "submit", &st);
    }
}

static void stages_change_no_bit(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        static struct answer want[SEQS], got[SEQS];
        struct drive d;
        if (cases[i].n_stages == 1 || !has_gpus(&cases[i]))
            continue;
        open_ranks(&d, &cases[i].model, cases[i].n_tensor, 1, false);
        answer(&d, SEQS, PROMPT, want);
        drive_close(&d);
        open_case(&d, &cases[i], false);
        answer(&d, SEQS, PROMPT, got);
        assert_memory_equal(got, want, sizeof want);
        memset(got, 0, sizeof got);
        answer_in_turns(&d, got);
        assert_memory_equal(got, want, sizeof want);
        drive_close(&d);
        printf("%s, kv %s, %d stages of %d: the bits of one stage\n", cases[i].model.name,
               cases[i].model.kv_dtype, cases[i].n_stages, cases[i].n_tensor);
    }
}

static void nccl_gives_the_bits_of_peer_memory(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        static struct answer want[SEQS], got[SEQS];
        struct drive d;
        if (!is_first_of_its_way(i))
            continue;
        open_case(&d, &cases[i], false);
        answer(&d, SEQS, PROMPT, want);
        drive_close(&d);
        open_case(&d, &cases[i], true);
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
    o.tensor_parallel = c->n_tensor;
    o.layer_split = c->n_stages;
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
    struct ranks *r = ranks_open(&o, NULL, &st);
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
        if (!is_first_of_its_way(i))
            continue;
        open_case(&d, &cases[i], false);
        answer(&d, SEQS, PROMPT, want);
        drive_close(&d);
        make_group(group);
        for (int r = 1; r < count_ranks(&cases[i]); r++)
            pid[r] = start_rank(i, group, r);
        const struct engine_options o = process_options(&cases[i], group, 0, path);
        drive_open(&d, &o);
        answer(&d, SEQS, PROMPT, got);
        drive_close(&d);
        for (int r = 1; r < count_ranks(&cases[i]); r++)
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
        const struct step_result *r = drive_try(d, why);
        if (!r)
            break;
        drive_begin(d);
        drive_row(d, &seq, ROW_SAMPLE, drive_last(d, &step_result_tokens(r)[0].id), 1);
    }
    return (clock_now(&clock_real) - start) / NS_PER_MS;
}

/* The last rank is lost: of stages one of the last. */
static void lose_rank(int i, int sig)
{
    const int n = count_ranks(&cases[i]), lost = n - 1;
    char group[32], path[512], name[32];
    struct status why = {0};
    struct drive d;
    pid_t pid[RANKS_MAX];
    make_group(group);
    for (int r = 1; r < n; r++)
        pid[r] = start_rank(i, group, r);
    const struct engine_options o = process_options(&cases[i], group, 0, path);
    drive_open(&d, &o);
    kill(pid[lost], sig);
    const uint64_t ms = fail_steps(&d, &why);
    printf("%d stages of %d, signal %d to rank %d: rank 0 ends after %llu ms: %s\n",
           cases[i].n_stages, cases[i].n_tensor, sig, lost, (unsigned long long)ms, why.msg);
    snprintf(name, sizeof name, "rank %d", lost);
    assert_int_equal(why.code, STATUS_DEVICE);
    assert_non_null(strstr(why.msg, name));
    assert_true(ms < DOWN_MS_MAX);
    kill(pid[lost], SIGKILL);
    drive_close(&d);
    for (int r = 1; r < n; r++)
        assert_int_equal(waitpid(pid[r], NULL, 0), pid[r]);
}

static void a_rank_that_is_lost_ends_all_and_is_named(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        const bool is_pair = count_ranks(&cases[i]) == 2, is_grid = cases[i].n_tensor == 2;
        if (!is_first_of_its_way(i) || !(is_pair || is_grid))
            continue;
        lose_rank(i, SIGKILL);
        lose_rank(i, SIGSTOP);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_are_those_of_one_rank),
        cmocka_unit_test(company_and_cuts_change_no_bit),
        cmocka_unit_test(stages_change_no_bit),
        cmocka_unit_test(processes_give_the_bits_of_threads),
        cmocka_unit_test(a_rank_that_is_lost_ends_all_and_is_named),
        cmocka_unit_test(nccl_gives_the_bits_of_peer_memory),
    };
    if (argc == 6 && strcmp(argv[1], "rank") == 0)
        return be_rank(argv);
    shapes = argc > 1 ? argv[1] : shapes;
    cmocka_set_test_filter(argc > 2 ? argv[2] : NULL);
    skip_without_devices();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
