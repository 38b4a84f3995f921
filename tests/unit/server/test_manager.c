/* What manager promises: a datagram where one is wanted, a pulse for this process alone, and of
 * what comes with the process only one listening TCP socket is taken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/http_daemon.h"
#include "server/manager.h"

static void set_pid(const char *name, long pid)
{
    char text[24];
    snprintf(text, sizeof text, "%ld", pid);
    setenv(name, text, 1);
}

static int forget(void **state)
{
    static const char *const names[] = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID",
                                        "LISTEN_FDS", "LISTEN_PID"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unsetenv(names[i]);
    return 0;
}

static void whoever_listens_hears_it(void **state)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    char name[40], got[64] = "";
    (void)state;
    snprintf(name, sizeof name, "@inferd-test-%ld", (long)getpid());
    memcpy(at.sun_path, name, strlen(name));
    at.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    socklen_t n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
    assert_int_equal(bind(fd, (struct sockaddr *)&at, n), 0);
    manager_tell("READY=1"); /* no name: nothing is sent */
    assert_int_equal(recv(fd, got, sizeof got - 1, MSG_DONTWAIT), -1);
    setenv("NOTIFY_SOCKET", name, 1);
    manager_tell("READY=1");
    assert_int_equal(recv(fd, got, sizeof got - 1, MSG_DONTWAIT), 7);
    assert_string_equal(got, "READY=1");
    close(fd);
    manager_tell("READY=1"); /* nobody there: no harm */
}

static void the_pulse_is_wanted_of_this_process_alone(void **state)
{
    static const struct {
        const char *usec;
        int pid; /* 0: unset; 1: ours; 2: another's */
        uint64_t ns;
    } table[] = {
        {"10000000", 0, 10000000000ull},
        {"10000000", 1, 10000000000ull},
        {"10000000", 2, 0},
        {NULL, 1, 0},
        {"0", 1, 0},
        {"-5", 1, 0},
        {"10s", 1, 0},
        {"", 1, 0},
        {"99999999999999999999", 1, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        forget(NULL);
        if (table[i].usec)
            setenv("WATCHDOG_USEC", table[i].usec, 1);
        if (table[i].pid)
            set_pid("WATCHDOG_PID", (long)getpid() + table[i].pid - 1);
        if (manager_watchdog_ns() != table[i].ns)
            fail_msg("row %zu: %llu ns", i, (unsigned long long)manager_watchdog_ns());
    }
}

/* A socket at descriptor 3, where the protocol wants it; what was there is kept in *kept. */
static void place(int family, int type, const char *address, bool listens, int *kept)
{
    struct sockaddr_storage ss = {.ss_family = (sa_family_t)family};
    int fd = socket(family, type, 0);
    assert_true(fd >= 0);
    if (family == AF_INET) {
        inet_pton(AF_INET, address, &((struct sockaddr_in *)&ss)->sin_addr);
        assert_int_equal(bind(fd, (struct sockaddr *)&ss, sizeof(struct sockaddr_in)), 0);
    } else if (family == AF_INET6) {
        inet_pton(AF_INET6, address, &((struct sockaddr_in6 *)&ss)->sin6_addr);
        assert_int_equal(bind(fd, (struct sockaddr *)&ss, sizeof(struct sockaddr_in6)), 0);
    } else {
        assert_int_equal(bind(fd, (struct sockaddr *)&ss, sizeof(sa_family_t)), 0);
    }
    if (listens)
        assert_int_equal(listen(fd, 8), 0);
    *kept = fcntl(3, F_DUPFD_CLOEXEC, 64);
    if (fd != 3) {
        assert_int_equal(dup2(fd, 3), 3);
        close(fd);
    }
}

static void take_away(int kept)
{
    close(3);
    if (kept >= 0) {
        dup2(kept, 3);
        close(kept);
    }
}

static void one_listening_tcp_socket_is_taken(void **state)
{
    static const struct {
        const char *name, *fds, *address;
        int pid, family, type; /* pid as above */
        bool listens, works;
        int fd;
    } table[] = {
        {"one", "1", "127.0.0.1", 1, AF_INET, SOCK_STREAM, true, true, 3},
        {"none", "0", "127.0.0.1", 1, AF_INET, SOCK_STREAM, true, true, 0},
        {"another's", "1", "127.0.0.1", 2, AF_INET, SOCK_STREAM, true, true, 0},
        {"nobody's", "1", "127.0.0.1", 0, AF_INET, SOCK_STREAM, true, true, 0},
        {"no number", "x", "127.0.0.1", 1, AF_INET, SOCK_STREAM, true, false, 0},
        {"two", "2", "127.0.0.1", 1, AF_INET, SOCK_STREAM, true, false, 0},
        {"deaf", "1", "127.0.0.1", 1, AF_INET, SOCK_STREAM, false, false, 0},
        {"UDP", "1", "127.0.0.1", 1, AF_INET, SOCK_DGRAM, false, false, 0},
        {"Unix", "1", "", 1, AF_UNIX, SOCK_STREAM, true, false, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct status st = {0};
        int fd = -1, kept;
        forget(NULL);
        place(table[i].family, table[i].type, table[i].address, table[i].listens, &kept);
        setenv("LISTEN_FDS", table[i].fds, 1);
        if (table[i].pid)
            set_pid("LISTEN_PID", (long)getpid() + table[i].pid - 1);
        bool ok = manager_socket(&fd, &st);
        int flags = fcntl(3, F_GETFD);
        take_away(kept);
        if (ok != table[i].works || fd != table[i].fd)
            fail_msg("%s: %d, descriptor %d: %s", table[i].name, ok, fd, st.msg);
        assert_true(fd != 3 || (flags & FD_CLOEXEC)); /* the engine must not inherit it */
    }
}

static void a_socket_is_loopback_by_its_address(void **state)
{
    static const struct {
        int family;
        const char *address;
        bool is_loopback;
    } table[] = {
        {AF_INET, "127.0.0.1", true},         {AF_INET, "127.9.9.9", true},
        {AF_INET, "0.0.0.0", false},          {AF_INET6, "::1", true},
        {AF_INET6, "::ffff:127.0.0.1", true}, {AF_INET6, "::", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        int kept;
        place(table[i].family, SOCK_STREAM, table[i].address, true, &kept);
        bool is_loopback = http_is_loopback(3);
        take_away(kept);
        if (is_loopback != table[i].is_loopback)
            fail_msg("%s: %d", table[i].address, is_loopback);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(whoever_listens_hears_it, forget),
        cmocka_unit_test_setup(the_pulse_is_wanted_of_this_process_alone, forget),
        cmocka_unit_test_setup(one_listening_tcp_socket_is_taken, forget),
        cmocka_unit_test(a_socket_is_loopback_by_its_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
