/* Ranks that are processes, in shared memory and over TCP, give the bits of ranks that are threads;
 * when one is killed or stopped, in a step or between two, all end within seconds and say which;
 * those who were started differently are refused; and a group can be formed again under its name.
 */
#include "engine/ranks.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <cmocka.h>

#include "base/clock.h"
#include "kernels/comm.h"
#include "tests/unit/engine/drive.h"
#include "tests/unit/engine/tiny_model.h"

enum { PROMPT = 23, N_NEW = 6, TOP = 5, RANKS = 4, ALL_DOWN_MS = 10000 };

enum other { OTHER_VOCAB, OTHER_ROPE, OTHER_WEIGHTS, OTHERS };

static char path[64], other_path[OTHERS][64], group[32];
static int port; /* 0 = the ranks share memory */
static int n_stages = 1; /* of the ranks */

struct end { /* how a rank's process ended, seen by the test */
    struct status why;
};
static struct end *ends; /* [RANKS] shared */

static uint64_t now_ms(void)
{
    return clock_now(&clock_real) / NS_PER_MS;
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static struct engine_options options(int n_ranks, const char *rank_group, int rank)
{
    return (struct engine_options){.model_path = path,
                                   .cpu_precision = "fast",
                                   .device = "cpu",
                                   .tensor_parallel = n_ranks / n_stages,
                                   .layer_split = n_stages,
                                   .rank_group = rank_group,
                                   .rank = rank,
                                   .rank_host = port && rank_group ? "127.0.0.1" : NULL,
                                   .rank_port = port,
                                   .n_threads = 1,
                                   .seqs_max = 2,
                                   .step_tokens_max = 64,
                                   .block_tokens = 16,
                                   .kv_blocks = 16};
}

/* A rank's process: opens, and waits until its group is over. */
static void be_rank(const struct engine_options *o)
{
    struct status st = {0};
    struct ranks *r = ranks_open(o, NULL, &st);
    while (r && ranks_healthy(r, &st))
        sleep_ms(20);
    ends[o->rank].why = st;
    ranks_close(r);
    _exit(0);
}

static pid_t fork_rank(const struct engine_options *o)
{
    fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        be_rank(o);
    return pid;
}

static void fork_others(pid_t pid[RANKS], int n_ranks)
{
    for (int i = 1; i < n_ranks; i++) {
        const struct engine_options o = options(n_ranks, group, i);
        pid[i] = fork_rank(&o);
    }
}

/* Milliseconds until all but `spared` are gone. */
static uint64_t await_others(const pid_t pid[RANKS], int n_ranks, int spared)
{
    const uint64_t start = now_ms();
    for (int i = 1; i < n_ranks; i++)
        if (i != spared)
            assert_int_equal(waitpid(pid[i], NULL, 0), pid[i]);
    return now_ms() - start;
}

static struct drive_seq begin(struct drive *d)
{
    int32_t ids[PROMPT];
    for (int i = 0; i < PROMPT; i++)
        ids[i] = (i * i * 7 + 3) % 160;
    drive_begin(d);
    struct drive_seq seq = drive_set(d, 1, drive_greedy(TOP), PROMPT);
    drive_row(d, &seq, ROW_SAMPLE, ids, PROMPT);
    return seq;
}

static void run(const struct engine_options *o, struct sample_out out[N_NEW])
{
    struct drive d;
    drive_open(&d, o);
    struct drive_seq seq = begin(&d);
    for (int i = 0; i < N_NEW; i++) {
        out[i] = step_result_tokens(drive_run(&d))[0];
        drive_begin(&d);
        drive_row(&d, &seq, ROW_SAMPLE, n_stages > 1 ? &out[i].id : NULL, 1);
    }
    drive_close(&d);
}

static void processes_give_the_bits_of_threads(void **state)
{
    (void)state;
    for (int n = 2; n <= RANKS; n += 2) {
        struct sample_out threads[N_NEW], processes[N_NEW];
        pid_t pid[RANKS];
        struct engine_options o = options(n, NULL, 0);
        fork_others(pid, n); /* before this process has threads */
        run(&o, threads);
        o = options(n, group, 0);
        run(&o, processes);
        for (int i = 0; i < N_NEW; i++) {
            assert_int_equal(threads[i].id, processes[i].id);
            assert_memory_equal(&threads[i].logprob, &processes[i].logprob, sizeof(float));
            assert_memory_equal(threads[i].top_logprob, processes[i].top_logprob,
                                sizeof(float) * TOP);
        }
        assert_true(await_others(pid, n, 0) < 3000);
        for (int i = 1; i < n; i++)
            assert_int_equal(ends[i].why.code, STATUS_CANCELLED);
    }
}

/* Steps until it fails: rank 1 was struck. */
static void step_until_failure(struct drive *d, struct status *st)
{
    struct drive_seq seq = begin(d);
    while (drive_try(d, st)) {
        if (seq.position > 120)
            seq = begin(d);
        else {
            const int32_t id = 7;
            drive_begin(d);
            drive_row(d, &seq, ROW_SAMPLE, n_stages > 1 ? &id : NULL, 1);
        }
    }
}

static void strike(int sig, bool idle)
{
    enum { N = 4 };
    struct status st = {0};
    struct drive d;
    pid_t pid[RANKS];
    const struct engine_options o = options(N, group, 0);
    fork_others(pid, N);
    drive_open(&d, &o);
    drive_begin(&d);
    kill(pid[1], sig);
    const uint64_t start = now_ms();
    if (idle)
        while (ranks_healthy(d.ranks, &st))
            sleep_ms(100);
    else
        step_until_failure(&d, &st);
    const uint64_t ms = now_ms() - start;
    if (!strstr(st.msg, "rank 1"))
        fail_msg("%s", st.msg);
    drive_close(&d);
    const uint64_t down_ms = ms + await_others(pid, N, 1);
    print_message("           signal %2d %s: rank 0 fails after %llu ms, all after %llu: %s\n", sig,
                  idle ? "between steps" : "in a step", (unsigned long long)ms,
                  (unsigned long long)down_ms, st.msg);
    assert_true(down_ms < ALL_DOWN_MS);
    kill(pid[1], SIGKILL);
    waitpid(pid[1], NULL, 0);
}

static void a_rank_that_is_killed_or_stopped_ends_all(void **state)
{
    (void)state;
    for (n_stages = 1; n_stages <= RANKS; n_stages *= 2) {
        print_message("           %d stages of %d ranks\n", n_stages, RANKS / n_stages);
        strike(SIGKILL, false);
        strike(SIGSTOP, true);
        if (n_stages > 1)
            continue;
        strike(SIGSTOP, false);
        strike(SIGKILL, true);
    }
    n_stages = 1;
}

static void a_first_rank_that_is_gone_ends_the_others(void **state)
{
    (void)state;
    static const int signals[] = {SIGKILL, SIGSTOP};
    for (int i = 0; i < 4; i++) {
        pid_t pid[RANKS];
        n_stages = i < 2 ? 1 : 2;
        const struct engine_options o = options(RANKS, group, 0);
        fork_others(pid, RANKS);
        pid[0] = fork_rank(&o);
        sleep_ms(700);
        kill(pid[0], signals[i % 2]);
        assert_true(await_others(pid, RANKS, 0) < ALL_DOWN_MS);
        if (!strstr(ends[1].why.msg, "the process of rank 0"))
            fail_msg("%s", ends[1].why.msg);
        kill(pid[0], SIGKILL);
        waitpid(pid[0], NULL, 0);
    }
    n_stages = 1;
}

static void check_refused(struct engine_options *other, const char *text)
{
    struct status st = {0};
    const struct engine_options o = options(2, group, 0);
    const pid_t pid = fork_rank(other);
    assert_null(ranks_open(&o, NULL, &st));
    waitpid(pid, NULL, 0);
    if (!strstr(st.msg, text) || !strstr(ends[1].why.msg, text))
        fail_msg("rank 0: %s; rank 1: %s", st.msg, ends[1].why.msg);
}

static void ranks_that_differ_are_refused(void **state)
{
    (void)state;
    static const char *const what[OTHERS] = {
        [OTHER_VOCAB] = "differ in the model's configuration",
        [OTHER_ROPE] = "differ in the model's configuration",
        [OTHER_WEIGHTS] = "differ in the model's weights",
    };
    struct engine_options o;
    for (int i = 0; i < OTHERS; i++) {
        o = options(2, group, 1);
        o.model_path = other_path[i];
        check_refused(&o, what[i]);
    }
    o = options(2, group, 1);
    o.block_tokens = 32;
    check_refused(&o, "differ in the limits of a step");
    o = options(2, group, 1);
    o.kv_dtype = "f32";
    check_refused(&o, "differ in the options");
    o = options(2, group, 1);
    o.cpu_isa = "scalar";
    check_refused(&o, "differ in the kind of device");
    o = options(2, group, 1);
    o.model_path = "/nowhere.gguf";
    check_refused(&o, "/nowhere.gguf: No such file");
}

static void a_group_of_another_size_is_refused(void **state)
{
    (void)state;
    struct status st = {0};
    struct comm *first = comm_join(group, 0, 3, 1, 1000, &st);
    assert_non_null(first);
    assert_null(comm_join(group, 1, 2, 1, 1000, &st));
    assert_string_equal(st.msg, "rank 0 wants 3 ranks, this one 2");
    st = (struct status){0};
    assert_null(comm_join("a/b", 1, 2, 1, 1000, &st));
    assert_int_equal(st.code, STATUS_BAD_INPUT);
    st = (struct status){0};
    comm_retire(group, 1, getpid(), false); /* it is not in it */
    assert_true(comm_ok(first, &st));
    struct comm *again = comm_join(group, 0, 2, 1, 1000, &st);
    assert_null(again);
    assert_non_null(strstr(st.msg, "another process is rank 0 of group"));
    st = (struct status){0};
    comm_retire(group, 0, getpid() + 1, false); /* another process was not it */
    assert_true(comm_ok(first, &st));
    comm_retire(group, 0, getpid(), false); /* the first life is over */
    again = comm_join(group, 0, 2, 1, 1000, &st);
    assert_non_null(again);
    assert_false(comm_ok(first, &st));
    assert_string_equal(st.msg, "rank 0 starts again");
    comm_close(first);
    comm_retire(group, 0, getpid(), true);
    st = (struct status){0};
    assert_false(comm_ok(again, &st));
    assert_int_equal(st.code, STATUS_CANCELLED);
    comm_close(again);
    st = (struct status){0};
    again = comm_join(group, 0, 2, 1, 1000, &st);
    struct comm *other = comm_join(group, 1, 2, 1, 1000, &st);
    assert_true(again && other);
    comm_retire(group, 1, getpid(), true);
    assert_false(comm_ok(again, &st));
    assert_string_equal(st.msg, "the process of rank 1 is gone");
    comm_close(other);
    comm_close(again);
    st = (struct status){0};
    comm_retire(group, 0, getpid(), true);
    assert_null(comm_join(group, 1, 2, 1, 200, &st));
    assert_non_null(strstr(st.msg, "rank 0 did not make group"));
}

static int over_memory(void **state)
{
    (void)state;
    port = 0;
    return 0;
}

static int over_tcp(void **state)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof at;
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    (void)state;
    if (bind(fd, (struct sockaddr *)&at, n) != 0 || getsockname(fd, (struct sockaddr *)&at, &n))
        return 1;
    close(fd);
    port = ntohs(at.sin_port);
    return 0;
}

static void write_tiny(char to[64], const struct tiny *change)
{
    struct make m;
    struct tiny t = *change;
    t.n_layers = RANKS;
    strcpy(to, "/tmp/inferd-ranks-XXXXXX");
    close(mkstemp(to));
    tiny_make(&m, &t);
    make_write(&m, to);
    make_close(&m);
}

static void write_all(void)
{
    struct tiny other[OTHERS] = {tiny_default, tiny_default, tiny_default};
    other[OTHER_VOCAB].vocab = 192;
    other[OTHER_ROPE].rope_base = 500000;
    other[OTHER_WEIGHTS].more_random = 1;
    write_tiny(path, &tiny_default);
    for (int i = 0; i < OTHERS; i++)
        write_tiny(other_path[i], &other[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(processes_give_the_bits_of_threads, over_memory),
        cmocka_unit_test_setup(a_rank_that_is_killed_or_stopped_ends_all, over_memory),
        cmocka_unit_test_setup(a_first_rank_that_is_gone_ends_the_others, over_memory),
        cmocka_unit_test_setup(ranks_that_differ_are_refused, over_memory),
        cmocka_unit_test_setup(processes_give_the_bits_of_threads, over_tcp),
        cmocka_unit_test_setup(a_rank_that_is_killed_or_stopped_ends_all, over_tcp),
        cmocka_unit_test_setup(a_first_rank_that_is_gone_ends_the_others, over_tcp),
        cmocka_unit_test_setup(ranks_that_differ_are_refused, over_tcp),
        cmocka_unit_test_setup(a_group_of_another_size_is_refused, over_memory),
    };
    ends =
        mmap(NULL, RANKS * sizeof *ends, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    snprintf(group, sizeof group, "test-%d", (int)getpid());
    write_all();
    const int n_failed = cmocka_run_group_tests_name("rank processes", tests, NULL, NULL);
    unlink(path);
    for (int i = 0; i < OTHERS; i++)
        unlink(other_path[i]);
    return n_failed;
}
