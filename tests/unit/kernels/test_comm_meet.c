/* How ranks meet over TCP: who is not one of them is refused by name, on both sides where it cannot
 * mend; strangers, the silent and the dead hold nobody up; and a group can be formed again at once.
 * A record is taken whole or not at all. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "free_port.h"
#include "kernels/comm.h"
#include "kernels/comm_wire.h"
#include "kernels/ops.h"

enum { WAIT_MS = 5000 };

static int port;

static uint64_t now_ms(void)
{
    return clock_now(&clock_real) / NS_PER_MS;
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static struct sockaddr_in loopback(int at_port)
{
    return (struct sockaddr_in){.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)at_port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static int choose_port(void **state)
{
    (void)state;
    port = free_port();
    return 0;
}

/* --- a rank in a thread --------------------------------------------------------------------- */

struct rank {
    struct comm_place place;
    int rank, n_ranks;
    int64_t wait_ms;
    struct comm *comm;
    struct status st;
    pthread_t thread;
};

static struct rank rank_of(int rank, int n_ranks)
{
    return (struct rank){.place = {.group = "g", .host = "127.0.0.1", .port = port},
                         .rank = rank,
                         .n_ranks = n_ranks,
                         .wait_ms = WAIT_MS};
}

static void *meet(void *arg)
{
    struct rank *r = arg;
    r->comm = comm_connect(&r->place, r->rank, r->n_ranks, 1, r->wait_ms, &r->st);
    return NULL;
}

static void start(struct rank *r)
{
    assert_int_equal(pthread_create(&r->thread, NULL, meet, r), 0);
}

static void join(struct rank *r)
{
    assert_int_equal(pthread_join(r->thread, NULL), 0);
}

static void is_refused(const struct rank *r, enum status_code code, const char *text)
{
    if (r->comm || r->st.code != code || !strstr(r->st.msg, text))
        fail_msg("rank %d: %s: %s; want %s", r->rank, status_name(r->st.code), r->st.msg, text);
}

static void is_in(const struct rank *r)
{
    if (!r->comm)
        fail_msg("rank %d: %s", r->rank, r->st.msg);
}

/* --- a caller that is no inferd ------------------------------------------------------------- */

static int call(void)
{
    const struct sockaddr_in to = loopback(port);
    for (int i = 0; i < 100; i++) {
        const int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (const struct sockaddr *)&to, sizeof to) == 0)
            return fd;
        close(fd);
        sleep_ms(20);
    }
    fail_msg("nobody listens");
    return -1;
}

static struct hash128 read_challenge(int fd)
{
    unsigned char bytes[WIRE_HEAD_BYTES + WIRE_CHALLENGE_BYTES];
    struct wire_head head;
    struct status st = {0};
    assert_int_equal(recv(fd, bytes, sizeof bytes, MSG_WAITALL), sizeof bytes);
    assert_true(wire_get_head(bytes, &head, &st));
    assert_int_equal(head.kind, WIRE_CHALLENGE);
    return wire_get_nonce(bytes + WIRE_HEAD_BYTES);
}

static struct wire_hello hello_of(int rank, int n_ranks)
{
    struct wire_hello h = {.protocol = WIRE_PROTOCOL,
                           .abi = OPS_ABI,
                           .rank = (uint32_t)rank,
                           .n_ranks = (uint32_t)n_ranks,
                           .n_parts = 1,
                           .port = 9,
                           .group = "g"};
    snprintf(h.version, sizeof h.version, "%s", INFERD_VERSION);
    return h;
}

static void say_hello(int fd, struct wire_hello h)
{
    unsigned char bytes[WIRE_HEAD_BYTES + WIRE_HELLO_BYTES];
    h.proof = wire_hello_proof(&(struct hash_key){0}, &h, read_challenge(fd));
    wire_put_head(bytes, &(struct wire_head){.kind = WIRE_HELLO, .n_bytes = WIRE_HELLO_BYTES});
    wire_put_hello(bytes + WIRE_HEAD_BYTES, &h);
    assert_int_equal(send(fd, bytes, sizeof bytes, MSG_NOSIGNAL), sizeof bytes);
}

static void read_refusal(int fd, struct status *st)
{
    unsigned char bytes[WIRE_HEAD_BYTES + WIRE_TEXT_MAX];
    struct wire_head head;
    struct status bad = {0};
    assert_int_equal(recv(fd, bytes, WIRE_HEAD_BYTES, MSG_WAITALL), WIRE_HEAD_BYTES);
    assert_true(wire_get_head(bytes, &head, &bad));
    assert_int_equal(head.kind, WIRE_REFUSE);
    assert_int_equal(recv(fd, bytes + WIRE_HEAD_BYTES, head.n_bytes, MSG_WAITALL), head.n_bytes);
    wire_get_text(&head, bytes + WIRE_HEAD_BYTES, st);
}

/* --- refusals ------------------------------------------------------------------------------- */

static void another_version_is_refused_on_both_sides(void **state)
{
    struct rank first = rank_of(0, 2);
    struct wire_hello h = hello_of(1, 2);
    struct status st = {0};
    (void)state;
    strcpy(h.version, "9.8.7");
    start(&first);
    const int fd = call();
    say_hello(fd, h);
    read_refusal(fd, &st);
    join(&first);
    is_refused(&first, STATUS_UNSUPPORTED, "rank 1 is of inferd 9.8.7");
    assert_int_equal(st.code, STATUS_UNSUPPORTED);
    assert_string_equal(st.msg, first.st.msg);
    close(fd);
}

static void kernels_of_another_build_are_refused(void **state)
{
    struct rank first = rank_of(0, 2);
    struct wire_hello h = hello_of(1, 2);
    (void)state;
    h.abi = OPS_ABI + 1;
    start(&first);
    const int fd = call();
    say_hello(fd, h);
    join(&first);
    is_refused(&first, STATUS_UNSUPPORTED, "(kernels ");
    close(fd);
}

static void a_group_of_another_size_is_refused_on_both_sides(void **state)
{
    struct rank first = rank_of(0, 3), other = rank_of(1, 2);
    (void)state;
    start(&first);
    start(&other);
    join(&first);
    join(&other);
    is_refused(&first, STATUS_BAD_INPUT, "rank 0 wants 3 ranks, rank 1 2");
    is_refused(&other, STATUS_BAD_INPUT, "rank 0 wants 3 ranks, rank 1 2");
}

static void who_has_not_the_secret_is_refused_and_the_others_meet(void **state)
{
    struct rank first = rank_of(0, 2), other = rank_of(1, 2), stranger = rank_of(1, 2);
    (void)state;
    first.place.secret = other.place.secret = (struct hash_key){3, 4};
    stranger.place.secret = (struct hash_key){3, 5};
    start(&first);
    start(&stranger);
    join(&stranger);
    start(&other);
    join(&other);
    join(&first);
    is_refused(&stranger, STATUS_BAD_INPUT, "ranks 0 and 1 have different secrets");
    is_in(&first);
    is_in(&other);
    comm_close(other.comm);
    comm_close(first.comm);
}

static void another_group_is_refused(void **state)
{
    struct rank first = rank_of(0, 2), other = rank_of(1, 2);
    (void)state;
    other.place.group = "h";
    first.wait_ms = 1000;
    start(&first);
    start(&other);
    join(&other);
    join(&first);
    is_refused(&other, STATUS_BAD_INPUT, "rank 1 is of group h, rank 0 of g");
    is_refused(&first, STATUS_DEVICE, "rank 1 did not come to rank 0; rank 1 is of group h");
}

static void a_second_process_of_a_rank_waits_and_is_told(void **state)
{
    struct rank first = rank_of(0, 3), one = rank_of(1, 3), again = rank_of(1, 3);
    (void)state;
    first.wait_ms = 2500;
    again.wait_ms = 500;
    start(&first);
    start(&one);
    sleep_ms(700);
    start(&again);
    join(&again);
    join(&first);
    join(&one);
    is_refused(&again, STATUS_DEVICE, "a process of rank 1 is here already");
    is_refused(&first, STATUS_DEVICE, "rank 2 did not come to rank 0");
}

static void a_port_in_use_is_named(void **state)
{
    struct rank first = rank_of(0, 2);
    const struct sockaddr_in at = loopback(port);
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    (void)state;
    assert_int_equal(bind(fd, (const struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fd, 1), 0);
    start(&first);
    join(&first);
    is_refused(&first, STATUS_IO, "Address already in use");
    close(fd);
}

static void nobody_at_the_address_is_named(void **state)
{
    struct rank other = rank_of(1, 2);
    (void)state;
    other.wait_ms = 300;
    start(&other);
    join(&other);
    is_refused(&other, STATUS_DEVICE, "no group of ranks at 127.0.0.1, port");
}

/* --- strangers and the dead ----------------------------------------------------------------- */

static void strangers_and_the_silent_hold_nobody_up(void **state)
{
    enum { N = 60 };
    struct rank first = rank_of(0, 3), one = rank_of(1, 3), two = rank_of(2, 3);
    unsigned char noise[400];
    int fd[N];
    (void)state;
    start(&first);
    for (int i = 0; i < N; i++) {
        fd[i] = call();
        assert_int_equal(getrandom(noise, sizeof noise, 0), sizeof noise);
        if (i % 3 > 0)
            send(fd[i], noise, i % 3 == 1 ? 5 : sizeof noise, MSG_NOSIGNAL);
    }
    start(&two);
    start(&one);
    join(&first);
    join(&one);
    join(&two);
    is_in(&first);
    is_in(&one);
    is_in(&two);
    for (int i = 0; i < N; i++)
        close(fd[i]);
    comm_close(two.comm);
    comm_close(one.comm);
    comm_close(first.comm);
}

static void a_rank_that_leaves_before_all_are_there_may_come_again(void **state)
{
    struct rank first = rank_of(0, 3), one = rank_of(1, 3), two = rank_of(2, 3);
    (void)state;
    start(&first);
    const int fd = call(); /* a rank 1 that dies */
    say_hello(fd, hello_of(1, 3));
    sleep_ms(300);
    close(fd);
    start(&one);
    sleep_ms(300);
    start(&two);
    join(&first);
    join(&one);
    join(&two);
    is_in(&first);
    is_in(&one);
    is_in(&two);
    comm_close(first.comm);
    comm_close(one.comm);
    comm_close(two.comm);
}

static void a_group_can_be_formed_again_at_once(void **state)
{
    (void)state;
    for (int i = 0; i < 10; i++) {
        struct rank rank[4];
        struct status st = {0};
        const uint64_t begin = now_ms();
        for (int r = 0; r < 4; r++) {
            rank[r] = rank_of(r, 4);
            start(&rank[r]);
        }
        for (int r = 0; r < 4; r++)
            join(&rank[r]);
        for (int r = 0; r < 4; r++)
            is_in(&rank[r]);
        assert_true(now_ms() - begin < 2000);
        if (i % 2)
            comm_end(rank[0].comm);
        comm_close(rank[0].comm);
        while (comm_look(rank[3].comm, &st))
            sleep_ms(5);
        assert_int_equal(st.code, i % 2 ? STATUS_CANCELLED : STATUS_DEVICE);
        for (int r = 1; r < 4; r++)
            comm_close(rank[r].comm);
    }
}

/* --- records -------------------------------------------------------------------------------- */

static void records_say_what_was_put_in(void **state)
{
    unsigned char bytes[WIRE_BODY_MAX];
    struct wire_hello in = hello_of(3, 5), out;
    struct wire_place place[COMM_RANKS_MAX] = {[1] = {4, 80, {1, 2, 3, 4}}, [2] = {6, 9, {7}}};
    struct wire_place read[COMM_RANKS_MAX];
    struct status st = {0};
    (void)state;
    in.epoch = 0x0123456789abcdefu;
    in.nonce = (struct hash128){5, 6};
    wire_put_hello(bytes, &in);
    assert_int_equal(bytes[0], WIRE_PROTOCOL); /* little-endian, whatever the machine */
    assert_true(wire_get_hello(bytes, &out, &st));
    unsigned char again[WIRE_HELLO_BYTES];
    wire_put_hello(again, &out);
    assert_memory_equal(bytes, again, sizeof again);
    assert_int_equal(out.rank, 3);
    assert_string_equal(out.group, "g");
    wire_put_roster(bytes, place);
    assert_true(wire_get_roster(bytes, 3, read, &st));
    assert_memory_equal(place, read, sizeof place);
    assert_false(wire_get_roster(bytes, 2, read, &st));
    st = (struct status){0};
    assert_false(wire_get_roster(bytes, 4, read, &st));
}

/* A hello with one field changed. */
static void check_hello(struct wire_hello h, bool ok)
{
    unsigned char bytes[WIRE_HELLO_BYTES];
    struct wire_hello out;
    struct status st = {0};
    wire_put_hello(bytes, &h);
    assert_int_equal(wire_get_hello(bytes, &out, &st), ok);
}

static void numbers_and_texts_out_of_range_are_no_hello(void **state)
{
    struct wire_hello h;
    (void)state;
    check_hello(hello_of(1, 2), true);
    check_hello(hello_of(2, 2), false);
    check_hello(hello_of(1, COMM_RANKS_MAX + 1), false);
    h = hello_of(1, 2);
    h.channel = WIRE_CHANNELS;
    check_hello(h, false);
    h = hello_of(1, 2);
    h.port = UINT16_MAX + 1;
    check_hello(h, false);
    h = hello_of(1, 2);
    h.group[0] = '\n';
    check_hello(h, false);
}

static void lengths_that_a_kind_may_not_have_are_refused(void **state)
{
    static const struct {
        enum wire_kind kind;
        uint32_t n_bytes;
        bool ok;
    } rows[] = {
        {WIRE_HELLO, WIRE_HELLO_BYTES, true},
        {WIRE_HELLO, WIRE_HELLO_BYTES + 1, false},
        {WIRE_BEAT, 0, true},
        {WIRE_BEAT, 1, false},
        {WIRE_LEAVE, 0, true},
        {WIRE_LEAVE, 1, false},
        {WIRE_ROUND, 256 * 1024, true},
        {WIRE_ROUND, 256 * 1024 + 1, false},
        {WIRE_FAREWELL, WIRE_TEXT_MAX, true},
        {WIRE_FAREWELL, UINT32_MAX, false},
        {WIRE_N, 0, false},
        {0, 0, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        unsigned char bytes[WIRE_HEAD_BYTES];
        struct wire_head head;
        struct status st = {0};
        wire_put_head(bytes, &(struct wire_head){rows[i].kind, rows[i].n_bytes, 0});
        assert_int_equal(wire_get_head(bytes, &head, &st), rows[i].ok);
        bytes[1] ^= 1;
        st = (struct status){0};
        assert_false(wire_get_head(bytes, &head, &st));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(another_version_is_refused_on_both_sides, choose_port),
        cmocka_unit_test_setup(kernels_of_another_build_are_refused, choose_port),
        cmocka_unit_test_setup(a_group_of_another_size_is_refused_on_both_sides, choose_port),
        cmocka_unit_test_setup(who_has_not_the_secret_is_refused_and_the_others_meet, choose_port),
        cmocka_unit_test_setup(another_group_is_refused, choose_port),
        cmocka_unit_test_setup(a_second_process_of_a_rank_waits_and_is_told, choose_port),
        cmocka_unit_test_setup(a_port_in_use_is_named, choose_port),
        cmocka_unit_test_setup(nobody_at_the_address_is_named, choose_port),
        cmocka_unit_test_setup(strangers_and_the_silent_hold_nobody_up, choose_port),
        cmocka_unit_test_setup(a_rank_that_leaves_before_all_are_there_may_come_again, choose_port),
        cmocka_unit_test_setup(a_group_can_be_formed_again_at_once, choose_port),
        cmocka_unit_test(records_say_what_was_put_in),
        cmocka_unit_test(numbers_and_texts_out_of_range_are_no_hello),
        cmocka_unit_test(lengths_that_a_kind_may_not_have_are_refused),
    };
    return cmocka_run_group_tests_name("meeting of ranks", tests, NULL, NULL);
}
