/* http_listen.c - the listening socket; what is set on it, every accepted socket inherits. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/http_int.h"

enum { BACKLOG = 4096 };

static int open_one(const struct addrinfo *a, uint32_t stall_ms)
{
    const int on = 1;
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    /* Unsent or unacknowledged for so long, a closed window included: the kernel drops it. */
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &stall_ms, sizeof stall_ms);
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

int listen_open(const struct http_options *o, int32_t *port, struct status *st)
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
    } else {
        *port = port_of(fd);
    }
    freeaddrinfo(all);
    return fd;
}
