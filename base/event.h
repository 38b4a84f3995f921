/* event.h - an eventfd that wakes whoever polls it; it counts nothing that matters.
 *
 * Both are for non-blocking eventfds and cannot fail: a full counter is readable already, and an
 * empty one is what draining wants.
 *
 * Thread: any. */
#ifndef BASE_EVENT_H
#define BASE_EVENT_H

void event_wake(int fd);
void event_drain(int fd);

#endif
