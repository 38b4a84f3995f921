/* event.c - an eventfd that wakes whoever polls it; it counts nothing that matters. */
#include "base/event.h"

#include <errno.h>
#include <stdint.h>
#include <unistd.h>

void event_wake(int fd)
{
    const uint64_t one = 1;
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

void event_drain(int fd)
{
    uint64_t count;
    while (read(fd, &count, sizeof count) < 0 && errno == EINTR)
        ;
}
