/* free_port.h - ports of loopback for tests that run side by side.
 *
 * A port is free when it is chosen and shall be so when it is listened at: they lie below those
 * that the kernel gives to callers, and few processes share a run. */
#ifndef TESTS_FREE_PORT_H
#define TESTS_FREE_PORT_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

static inline bool is_port_free(int port)
{
    const struct sockaddr_in at = {.sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_ANY),
                                   .sin_port = htons((uint16_t)port)};
    const int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    const bool is_free = bind(fd, (const struct sockaddr *)&at, sizeof at) == 0;
    close(fd);
    return is_free;
}

static inline int free_port(void)
{
    enum { FIRST = 12000, N_RUNS = 200, RUN = 100 }; /* to 32 000 */
    static int n_given;
    for (int i = 0; i < RUN; i++) {
        const int port = FIRST + getpid() % N_RUNS * RUN + n_given++ % RUN;
        if (is_port_free(port))
            return port;
    }
    return 0; /* nobody listens there */
}

#endif
