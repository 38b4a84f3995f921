#include "server/manager.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "server/config.h"

enum { FIRST_FD = 3 }; /* SD_LISTEN_FDS_START */

void manager_tell(const char *state)
{
    const char *path = config_environment("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t n = path ? strlen(path) : 0;
    if (n < 2 || n >= sizeof to.sun_path)
        return;
    memcpy(to.sun_path, path, n);
    if (path[0] == '@')
        to.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    /* A full queue must not hold up the loop; the next sign of life is soon. */
    ssize_t sent =
        sendto(fd, state, strlen(state), MSG_NOSIGNAL | MSG_DONTWAIT, (struct sockaddr *)&to, len);
    (void)sent; /* nobody to tell if the manager does not listen */
    close(fd);
}

/* A whole number without sign; -1 when the variable is unset or something else. */
static long long number_of(const char *name)
{
    const char *text = config_environment(name);
    char *end;
    if (!text || *text < '0' || *text > '9')
        return -1;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    return *end == '\0' && errno == 0 ? v : -1;
}

/* Variables that name a process are for that one: a child may have inherited them. */
static bool is_for_us(const char *pid_name)
{
    return number_of(pid_name) == (long long)getpid();
}

uint64_t manager_watchdog_ns(void)
{
    long long us = number_of("WATCHDOG_USEC");
    if (us <= 0 || us > INT64_MAX / 1000)
        return 0;
    if (config_environment("WATCHDOG_PID") && !is_for_us("WATCHDOG_PID"))
        return 0;
    return (uint64_t)us * 1000;
}

static int option_of(int fd, int name)
{
    int value = -1;
    socklen_t n = sizeof value;
    return getsockopt(fd, SOL_SOCKET, name, &value, &n) == 0 ? value : -1;
}

static bool is_listening_tcp(int fd)
{
    int domain = option_of(fd, SO_DOMAIN);
    return (domain == AF_INET || domain == AF_INET6) && option_of(fd, SO_TYPE) == SOCK_STREAM &&
           option_of(fd, SO_ACCEPTCONN) == 1;
}

bool manager_socket(int *fd, struct status *st)
{
    *fd = 0;
    const char *text = is_for_us("LISTEN_PID") ? config_environment("LISTEN_FDS") : NULL;
    long long n = text ? number_of("LISTEN_FDS") : 0;
    if (n == 0)
        return true;
    if (n < 0)
        return status_fail(st, STATUS_BAD_INPUT,
                           "LISTEN_FDS: want a number of sockets, found \"%.32s\"", text);
    if (n > 1)
        return status_fail(st, STATUS_BAD_INPUT,
                           "the service manager hands over %lld sockets; want one", n);
    if (!is_listening_tcp(FIRST_FD) || fcntl(FIRST_FD, F_SETFD, FD_CLOEXEC) != 0)
        return status_fail(st, STATUS_BAD_INPUT,
                           "what the service manager hands over is no listening TCP socket");
    *fd = FIRST_FD;
    return true;
}
