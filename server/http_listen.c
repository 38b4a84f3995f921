/* http_listen.c - the listening socket; what is set on it, every accepted socket inherits. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/http_int.h"

enum { BACKLOG = 4096 };

static void set_options(int fd, uint32_t stall_ms)
{
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    /* Unsent or unacknowledged for so long, a closed window included: the kernel drops it. */
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &stall_ms, sizeof stall_ms);
}

static int open_one(const struct addrinfo *a, uint32_t stall_ms)
{
    const int on = 1;
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    set_options(fd, stall_ms);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int err = errno;
    close(fd);
    errno = err;
    return -1;
}

static int32_t port_of(int fd)
{
    struct sockaddr_storage ss;
    socklen_t n = sizeof ss;
    if (getsockname(fd, (struct sockaddr *)&ss, &n) != 0)
        return 0;
    return ss.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&ss)->sin6_port)
                                    : ntohs(((struct sockaddr_in *)&ss)->sin_port);
}

bool http_is_loopback(int fd)
{
    struct sockaddr_storage ss = {0};
    socklen_t n = sizeof ss;
    if (getsockname(fd, (struct sockaddr *)&ss, &n) != 0)
        return false;
    if (ss.ss_family == AF_INET)
        return ntohl(((struct sockaddr_in *)&ss)->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
    const struct in6_addr *a = &((struct sockaddr_in6 *)&ss)->sin6_addr;
    return ss.ss_family == AF_INET6 &&
           (IN6_IS_ADDR_LOOPBACK(a) ||
            (IN6_IS_ADDR_V4MAPPED(a) && a->s6_addr[12] == IN_LOOPBACKNET));
}

/* A socket that somebody else opened: what ours has by then, and the library wants. */
static int adopt(int fd, uint32_t stall_ms, struct status *st)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) {
        status_fail(st, STATUS_IO, "take over the listening socket: %s", strerror(errno));
        return -1;
    }
    set_options(fd, stall_ms);
    return fd;
}

static int open_named(const struct http_options *o, struct status *st)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *all = NULL;
    char service[16];
    int fd = -1;
    snprintf(service, sizeof service, "%d", (int)o->port);
    int rc = getaddrinfo(o->host, service, &hints, &all);
    if (rc != 0) {
        status_fail(st, STATUS_BAD_INPUT, "listen on \"%s\": %s", o->host, gai_strerror(rc));
        return -1;
    }
    for (const struct addrinfo *a = all; a && fd < 0; a = a->ai_next)
        fd = open_one(a, o->stall_ms);
    if (fd < 0) {
        st->sys = errno;
        status_fail(st, STATUS_IO, "listen on %s:%s: %s", o->host, service, strerror(errno));
    }
    freeaddrinfo(all);
    return fd;
}

int listen_open(const struct http_options *o, int32_t *port, struct status *st)
{
    int fd = o->listen_fd ? adopt(o->listen_fd, o->stall_ms, st) : open_named(o, st);
    if (fd >= 0)
        *port = port_of(fd);
    return fd;
}
