#include "server/probe.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "server/config.h"

enum { WAIT_S = 5, ANSWER_BYTES_MAX = 8192 };

/* Where a daemon that listens everywhere can be found from here. */
static const char *reachable(const char *host)
{
    if (strcmp(host, "0.0.0.0") == 0)
        return "127.0.0.1";
    return strcmp(host, "::") == 0 ? "::1" : host;
}

static int connect_one(const struct addrinfo *a)
{
    const struct timeval wait = {.tv_sec = WAIT_S};
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait); /* connect's too */
    if (connect(fd, a->ai_addr, a->ai_addrlen) == 0)
        return fd;
    int err = errno;
    close(fd);
    errno = err;
    return -1;
}

static int connect_to(const char *host, int port, struct status *st)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *all = NULL;
    char service[16];
    int fd = -1;
    snprintf(service, sizeof service, "%d", port);
    int rc = getaddrinfo(host, service, &hints, &all);
    for (const struct addrinfo *a = all; rc == 0 && a && fd < 0; a = a->ai_next)
        fd = connect_one(a);
    if (fd < 0)
        status_fail(st, STATUS_IO, "connect to %.255s port %s: %s", host, service,
                    rc ? gai_strerror(rc) : strerror(errno));
    if (all)
        freeaddrinfo(all);
    return fd;
}

/* What comes until the connection ends, or as much as there is room for; NUL-terminated. */
static size_t read_answer(int fd, char answer[ANSWER_BYTES_MAX])
{
    size_t n = 0;
    ssize_t got;
    while (n < ANSWER_BYTES_MAX - 1 &&
           (got = recv(fd, answer + n, ANSWER_BYTES_MAX - 1 - n, 0)) > 0)
        n += (size_t)got;
    answer[n] = '\0';
    return n;
}

/* True when /readyz says 200; prints what it said. */
static bool ask(int fd, struct status *st)
{
    static const char request[] =
        "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    char answer[ANSWER_BYTES_MAX];
    if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) != (ssize_t)sizeof request - 1)
        return status_fail(st, STATUS_IO, "send: %s", strerror(errno));
    size_t n = read_answer(fd, answer);
    const char *body = strstr(answer, "\r\n\r\n");
    if (n < 12 || strncmp(answer, "HTTP/1.1 ", 9) != 0 || !body)
        return status_fail(st, STATUS_IO, "no answer within %d s, or none that is HTTP", WAIT_S);
    fputs(body + 4, stdout);
    if (strncmp(answer + 9, "200", 3) != 0)
        return status_fail(st, STATUS_BUSY, "not ready: HTTP status %.3s", answer + 9);
    return true;
}

int probe_main(int argc, char **argv)
{
    struct config c = {0};
    struct status st = {0};
    int fd = -1, code = 2;
    if (config_read(&c, argc, argv, &st)) {
        fd = connect_to(reachable(c.host), (int)c.port, &st);
        code = fd >= 0 && ask(fd, &st) ? 0 : 1;
    }
    if (code)
        fprintf(stderr, "inferd: %s\n", st.msg);
    if (fd >= 0)
        close(fd);
    config_close(&c);
    return code;
}
