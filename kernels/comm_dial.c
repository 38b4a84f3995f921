/* comm_dial.c - sockets, addresses and deadlines. */
#include "kernels/comm_dial.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

enum { BACKLOG = 64 };

void dial_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* --- names and addresses -------------------------------------------------------------------- */

struct addrinfo *dial_find(const char *host, int32_t port, struct status *st)
{
    char service[16];
    struct addrinfo *found = NULL;
    const struct addrinfo want = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    snprintf(service, sizeof service, "%d", (int)port);
    const int error = getaddrinfo(host, service, &want, &found);
    if (error == 0)
        return found;
    status_fail(st, STATUS_DEVICE, "look up %.60s: %s", host,
                error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error));
    return NULL;
}

static bool is_one_of_ours(const char *host)
{
    struct addrinfo *found = NULL;
    const struct addrinfo number = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST};
    if (strcmp(host, "localhost") == 0)
        return true;
    if (getaddrinfo(host, NULL, &number, &found) != 0)
        return false;
    freeaddrinfo(found);
    return true;
}

bool dial_place(int fd, uint16_t port, struct wire_place *place)
{
    struct sockaddr_storage at = {0};
    socklen_t n = sizeof at;
    if (getpeername(fd, (struct sockaddr *)&at, &n) != 0)
        return false;
    *place = (struct wire_place){.port = port};
    if (at.ss_family == AF_INET) {
        place->family = 4;
        memcpy(place->address, &((struct sockaddr_in *)&at)->sin_addr, 4);
        return true;
    }
    const struct in6_addr *a = &((struct sockaddr_in6 *)&at)->sin6_addr;
    const bool is_mapped = IN6_IS_ADDR_V4MAPPED(a); /* an IPv4 caller of a socket for both */
    place->family = is_mapped ? 4 : 6;
    memcpy(place->address, (const char *)a + (is_mapped ? 12 : 0), is_mapped ? 4 : 16);
    return at.ss_family == AF_INET6;
}

socklen_t dial_address(const struct wire_place *place, struct sockaddr_storage *to)
{
    memset(to, 0, sizeof *to);
    if (place->family == 4) {
        struct sockaddr_in *in = (struct sockaddr_in *)to;
        in->sin_family = AF_INET;
        in->sin_port = htons(place->port);
        memcpy(&in->sin_addr, place->address, 4);
        return sizeof *in;
    }
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)to;
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(place->port);
    memcpy(&in6->sin6_addr, place->address, 16);
    return sizeof *in6;
}

/* --- listening ------------------------------------------------------------------------------ */

/* -1 with errno. */
static int listen_at(const struct sockaddr *at, socklen_t n)
{
    const int on = 1, off = 0;
    int fd = socket(at->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (at->sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(fd, at, n) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    const int error = errno;
    dial_close(&fd);
    errno = error;
    return -1;
}

static int listen_everywhere(int32_t port)
{
    const struct sockaddr_in6 all6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    const struct sockaddr_in all4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    const int fd = listen_at((const struct sockaddr *)&all6, sizeof all6);
    return fd >= 0 || errno == EADDRINUSE ? fd
                                          : listen_at((const struct sockaddr *)&all4, sizeof all4);
}

static int listen_here(const char *host, int32_t port, struct status *st)
{
    int fd = -1;
    struct addrinfo *found = dial_find(host, port, st);
    if (!found)
        return -1;
    for (const struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
        fd = listen_at(a->ai_addr, a->ai_addrlen);
        if (fd < 0 && errno == EADDRINUSE)
            break;
    }
    const int error = errno;
    freeaddrinfo(found);
    errno = error;
    return fd;
}

int dial_listen(const char *host, int32_t port, struct status *st)
{
    int fd = -1;
    const bool is_here = is_one_of_ours(host);
    if (is_here)
        fd = listen_here(host, port, st);
    if (fd < 0 && st->code == STATUS_OK && (!is_here || errno != EADDRINUSE))
        fd = listen_everywhere(port);
    if (fd < 0 && st->code == STATUS_OK)
        status_fail(st, STATUS_IO, "listen for ranks at %.60s, port %d: %s", host, (int)port,
                    strerror(errno));
    return fd;
}

int dial_listen_beside(int fd, uint16_t *port, struct status *st)
{
    struct sockaddr_storage at = {0};
    socklen_t n = sizeof at;
    int listen_fd = -1;
    /* Both families have the port at the same place. */
    struct sockaddr_in *in = (struct sockaddr_in *)&at;
    if (getsockname(fd, (struct sockaddr *)&at, &n) == 0) {
        in->sin_port = 0;
        listen_fd = listen_at((struct sockaddr *)&at, n);
    }
    n = sizeof at;
    if (listen_fd < 0 || getsockname(listen_fd, (struct sockaddr *)&at, &n) != 0) {
        status_fail(st, STATUS_IO, "listen for other ranks: %s", strerror(errno));
        dial_close(&listen_fd);
        return -1;
    }
    *port = ntohs(in->sin_port);
    return listen_fd;
}

static void send_at_once(int fd)
{
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

int dial_accept(int listen_fd)
{
    const int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0)
        send_at_once(fd);
    return fd;
}

/* --- with a deadline ------------------------------------------------------------------------ */

static bool await_fd(int fd, short events, uint64_t end_ns)
{
    for (;;) {
        const uint64_t now = clock_now(&clock_real);
        if (now >= end_ns)
            return false;
        struct pollfd p = {.fd = fd, .events = events};
        const uint64_t ms = (end_ns - now) / NS_PER_MS + 1;
        const int n = poll(&p, 1, ms < 1000 ? (int)ms : 1000);
        if (n > 0)
            return true;
        if (n < 0 && errno != EINTR)
            return false;
    }
}

int dial_call(const struct sockaddr *to, socklen_t n, uint64_t end_ns, struct status *st)
{
    int error = 0;
    socklen_t n_error = sizeof error;
    int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || (connect(fd, to, n) != 0 && errno != EINPROGRESS))
        error = errno;
    else if (!await_fd(fd, POLLOUT, end_ns))
        error = ETIMEDOUT;
    else
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n_error);
    if (error) {
        dial_close(&fd);
        status_fail(st, STATUS_DEVICE, "connect: %s", strerror(error));
        return -1;
    }
    send_at_once(fd);
    return fd;
}

static bool may_retry(ssize_t n)
{
    return n < 0 && (errno == EAGAIN || errno == EINTR);
}

bool dial_read(int fd, void *to, size_t n, uint64_t end_ns)
{
    for (size_t done = 0; done < n;) {
        const ssize_t got = recv(fd, (char *)to + done, n - done, 0);
        if (got > 0)
            done += (size_t)got;
        else if (!may_retry(got) || !await_fd(fd, POLLIN, end_ns))
            return false;
    }
    return true;
}

bool dial_write(int fd, const void *from, size_t n, uint64_t end_ns)
{
    for (size_t done = 0; done < n;) {
        const ssize_t put = send(fd, (const char *)from + done, n - done, MSG_NOSIGNAL);
        if (put > 0)
            done += (size_t)put;
        else if (!may_retry(put) || !await_fd(fd, POLLOUT, end_ns))
            return false;
    }
    return true;
}

bool dial_is_closed(int fd)
{
    char byte;
    const ssize_t n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n < 0 && !may_retry(n));
}
