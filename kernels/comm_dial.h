/* comm_dial.h - TCP between ranks: listening, calling, and exact reads and writes with a deadline.
 *
 * Descriptors are non-blocking, closed on exec, and send at once (TCP_NODELAY).  Deadlines are of
 * clock_real.  IPv4 and IPv6.
 *
 * Thread: any. */
#ifndef KERNELS_COMM_DIAL_H
#define KERNELS_COMM_DIAL_H

#include <netdb.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/status.h"
#include "kernels/comm_wire.h"

/* The addresses of a name or a number; freeaddrinfo's.  NULL: DEVICE, it may be known later. */
struct addrinfo *dial_find(const char *host, int32_t port, struct status *st) MUST_CHECK;

/* Where rank 0 is said to be: that address when it is one of this machine's and was given as a
 * number or as localhost, else all addresses.  -1: IO. */
int dial_listen(const char *host, int32_t port, struct status *st) MUST_CHECK;
/* Any port of the address at which `fd` is connected; *port says which. */
int dial_listen_beside(int fd, uint16_t *port, struct status *st) MUST_CHECK;
/* Who called; -1 = nobody, or one that left again. */
int dial_accept(int listen_fd);
/* -1: DEVICE. */
int dial_call(const struct sockaddr *to, socklen_t n, uint64_t end_ns,
              struct status *st) MUST_CHECK;

/* False: closed, broken, or the deadline came. */
bool dial_read(int fd, void *to, size_t n, uint64_t end_ns) MUST_CHECK;
bool dial_write(int fd, const void *from, size_t n, uint64_t end_ns) MUST_CHECK;
bool dial_is_closed(int fd); /* by the other side, and nothing is left to read */
void dial_close(int *fd);    /* accepts -1, leaves -1 */

/* The other end's address, with a port of its own. */
bool dial_place(int fd, uint16_t port, struct wire_place *place) MUST_CHECK;
socklen_t dial_address(const struct wire_place *place, struct sockaddr_storage *to);

#endif
