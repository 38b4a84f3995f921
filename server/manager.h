/* manager.h - what the service manager hands over and wants to hear: sockets, readiness, a pulse.
 *
 * The protocols of sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3), which are a datagram
 * and a few environment variables; no library is needed for them.
 *
 * Thread: main's, which becomes the loop thread. */
#ifndef SERVER_MANAGER_H
#define SERVER_MANAGER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* One datagram to $NOTIFY_SOCKET; nothing happens when there is none, or nobody listens. */
void manager_tell(const char *state);

/* Without a sign of life for so long, the manager ends us; 0 = it does not watch. */
uint64_t manager_watchdog_ns(void);

/* *fd: the one listening TCP socket that came with the process, close-on-exec; 0 = none came.
 * False when something else came: two sockets, a pipe, a Unix socket. */
bool manager_socket(int *fd, struct status *st) MUST_CHECK;

#endif
