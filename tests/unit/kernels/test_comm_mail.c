/* What comm promises of parts and mail: the calls of a part meet its ranks alone; bytes come to the
 * rank of the same place in the next part, all and in order, however they are cut; and a rank that
 * waits for mail from one that is gone fails, with its number. */
#include "kernels/comm.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/hash.h"
#include "free_port.h"

enum { LETTERS = 300, LETTER_MAX = 3 * COMM_MAIL_BYTES / 2, SUMS = 200 };

static uint64_t seed;

typedef bool rank_fn(struct comm *c, int each);

/* Each rank in a process of its own, in shared memory or over TCP; false when one of them says so.
 */
static bool run_by(rank_fn *fn, int n_ranks, int n_parts, bool tcp, pid_t pid[COMM_RANKS_MAX])
{
    struct status st = {0};
    const struct comm_place place = {.group = "g", .host = "127.0.0.1", .port = free_port()};
    void *memory = tcp ? NULL : comm_memory_take(n_ranks, n_parts, &st);
    bool ok = tcp || memory != NULL;
    fflush(NULL);
    for (int i = 0; i < n_ranks; i++) {
        pid[i] = fork();
        if (pid[i] == 0) {
            struct comm *c = tcp ? comm_connect(&place, i, n_ranks, n_parts, 10000, &st)
                                 : comm_open(memory, i, &st);
            ok = c && fn(c, n_ranks / n_parts);
            comm_close(c);
            _exit(!ok);
        }
    }
    for (int i = 0; i < n_ranks; i++) {
        int how;
        ok &= waitpid(pid[i], &how, 0) == pid[i] && WIFEXITED(how) && WEXITSTATUS(how) == 0;
    }
    comm_memory_drop(memory);
    return ok;
}

static bool run(rank_fn *fn, int n_ranks, int n_parts, pid_t pid[COMM_RANKS_MAX])
{
    return run_by(fn, n_ranks, n_parts, false, pid) && run_by(fn, n_ranks, n_parts, true, pid);
}

static uint64_t mix(uint64_t a, uint64_t b)
{
    return hash64_mix(seed ^ hash64_mix(a * 131071 + b));
}

static size_t letter_bytes(int from, uint64_t k)
{
    const uint64_t h = mix((uint64_t)from, k);
    return k % 50 == 49 ? h % LETTER_MAX : h % 3000;
}

static unsigned char letter_byte(int from, uint64_t k, size_t i)
{
    return (unsigned char)((uint64_t)from * 7 + k * 13 + i * 31 + (i >> 8));
}

static bool is_letter(const unsigned char *p, int from, uint64_t k, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != letter_byte(from, k, i))
            return false;
    return true;
}

/* The first part sends what it makes, the others what they got; the first gets it back.  Sends of
 * the last part never wait. */
static bool pass_letters(struct comm *c, int each)
{
    const int rank = comm_rank(c), n = comm_size(c), place = rank % each;
    unsigned char *p = malloc(LETTER_MAX + 1), *back = malloc(LETTER_MAX + 1);
    bool ok = true;
    for (uint64_t k = 0; ok && k < LETTERS; k++) {
        const size_t n_bytes = letter_bytes(place, k);
        size_t n_sent = 0;
        for (size_t i = 0; i < n_bytes; i++)
            p[i] = letter_byte(place, k, i);
        if (rank < each) {
            ok = comm_send(c, p, n_bytes) && comm_recv(c, back, n_bytes) &&
                 is_letter(back, place, k, n_bytes);
        } else {
            ok = comm_recv(c, back, n_bytes) && is_letter(back, place, k, n_bytes);
            while (ok && n_sent < n_bytes && rank >= n - each)
                n_sent += comm_send_some(c, back + n_sent, n_bytes - n_sent);
            if (rank < n - each)
                ok = ok && comm_send(c, back, n_bytes);
        }
    }
    free(p);
    free(back);
    return ok && comm_mail(c) == 0 && comm_barrier(c); /* who leaves early may be missed */
}

static void letters_come_whole_and_in_order(void **state)
{
    (void)state;
    pid_t pid[COMM_RANKS_MAX];
    assert_true(run(pass_letters, 2, 2, pid));
    assert_true(run(pass_letters, 4, 4, pid));
    assert_true(run(pass_letters, 6, 3, pid));
}

/* Each part as often as it likes, beside calls of the whole before. */
static bool sum_in_parts(struct comm *c, int each)
{
    struct status st = {0};
    struct comm *part = comm_part(c, &st);
    const int rank = comm_rank(c), number = rank / each;
    bool ok = part && comm_size(part) == each && comm_rank(part) == rank % each && comm_barrier(c);
    for (int k = 0; ok && k < SUMS * (number + 1); k++) {
        float x = (float)rank;
        ok = comm_all_reduce(part, &x, &x, NULL, 1);
        float want = 0;
        for (int r = number * each; r < (number + 1) * each; r++)
            want += (float)r;
        ok = ok && x == want;
    }
    ok = ok && comm_agree(c, "a number", 5);
    comm_close(part);
    return ok;
}

static void the_calls_of_a_part_meet_its_ranks_alone(void **state)
{
    (void)state;
    pid_t pid[COMM_RANKS_MAX];
    assert_true(run(sum_in_parts, 4, 2, pid));
    assert_true(run(sum_in_parts, 12, 4, pid));
    assert_true(run(sum_in_parts, 3, 3, pid));
}

/* A call of rank 3's part fails for want of it; mail from rank 1 never comes: all say rank 3. */
static bool wait_for_nothing(struct comm *c, int each)
{
    (void)each;
    struct status st = {0};
    struct comm *part = comm_part(c, &st);
    float x = 0;
    if (!part || !comm_barrier(c)) /* all have met */
        return false;
    if (comm_rank(c) == 3)
        return true;
    comm_wait_set(part, 300);
    const bool ok =
        !(comm_rank(c) == 2 ? comm_all_reduce(part, &x, &x, NULL, 1) : comm_recv(c, &x, sizeof x));
    return ok && !comm_ok(part, &st) &&
           (strstr(st.msg, "rank 2: rank 3 did not come") ||
            strstr(st.msg, "rank 3 has left")); /* over TCP */
}

static void a_failure_in_a_part_is_one_of_all(void **state)
{
    (void)state;
    pid_t pid[COMM_RANKS_MAX];
    assert_true(run(wait_for_nothing, 4, 2, pid));
}

/* Processes that meet by name have hearts. */
static void mail_from_a_process_that_stops_is_given_up(void **state)
{
    (void)state;
    char name[32];
    struct status st = {0};
    snprintf(name, sizeof name, "mail-%d", (int)getpid());
    fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0) {
        struct comm *c = comm_join(name, 1, 2, 2, 5000, &st);
        _exit(c && comm_barrier(c) ? pause() : 1);
    }
    struct comm *c = comm_join(name, 0, 2, 2, 5000, &st);
    int32_t x;
    assert_true(c && comm_barrier(c));
    kill(pid, SIGSTOP);
    const time_t start = time(NULL);
    assert_false(comm_recv(c, &x, sizeof x));
    assert_true(time(NULL) - start < 8);
    assert_false(comm_ok(c, &st));
    assert_non_null(strstr(st.msg, "process of rank 1 has not run"));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    comm_close(c);
    comm_retire(name, 0, getpid(), true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(letters_come_whole_and_in_order),
        cmocka_unit_test(the_calls_of_a_part_meet_its_ranks_alone),
        cmocka_unit_test(a_failure_in_a_part_is_one_of_all),
        cmocka_unit_test(mail_from_a_process_that_stops_is_given_up),
    };
    if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
        return 1;
    print_message("seed %llu\n", (unsigned long long)seed);
    return cmocka_run_group_tests_name("comm mail", tests, NULL, NULL);
}
