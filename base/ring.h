/* ring.h - a queue between exactly two threads or processes, in memory they share.
 *
 * One side puts, the other takes; neither ever waits for a lock.  A ring holds
 * fixed-size cells, a power of two of them, and lives in memory the caller gives:
 * an arena for two threads, a memfd mapping for two processes.  It holds no
 * pointer, so both sides may map it at different addresses.
 *
 * Waking: after a put, the writer calls ring_wake(), which writes the eventfd only
 * if the reader said that it is about to sleep (ring_sleep_begin), so a busy
 * reader costs the writer no system call.
 *
 * Order: cells come out in the order they went in.  A put is visible before the
 * cell it filled can be taken (release/acquire on `tail`), and the other way round
 * for `head`.  head and tail count cells since the start and never wrap in practice
 * (64 bits); tail - head <= n_cells always.
 *
 * Thread: ring_put* by the one writer, ring_take* by the one reader. */
#ifndef BASE_RING_H
#define BASE_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ring {
    uint32_t n_cells;                     /* power of two */
    uint32_t cell_bytes;                  /* multiple of 64 */
    _Alignas(64) _Atomic uint64_t tail;   /* cells put since start; written by the writer */
    _Alignas(64) _Atomic uint64_t head;   /* cells taken since start; written by the reader */
    _Alignas(64) _Atomic uint32_t asleep; /* 1 <=> the reader must be woken by eventfd */
    /* cells follow, 64-byte aligned */
};

size_t ring_bytes(uint32_t n_cells, uint32_t cell_bytes);        /* 0 when it overflows */
void ring_init(void *at, uint32_t n_cells, uint32_t cell_bytes); /* `at` is 64-byte aligned */
bool ring_valid(const void *at, size_t n_bytes); /* geometry fits the mapping: for a peer's ring */

void *ring_put_begin(struct ring *r); /* the cell to fill, or NULL when the ring is full */
void ring_put_end(struct ring *r);    /* publishes it */
void ring_wake(struct ring *r, int event_fd);

const void *ring_take_begin(struct ring *r); /* the oldest cell, or NULL when the ring is empty */
void ring_take_end(struct ring *r);          /* gives it back */

/* Announce sleep; false when something arrived meanwhile and the reader must not sleep.
 * After waking: ring_sleep_end drains the eventfd and clears the announcement. */
bool ring_sleep_begin(struct ring *r);
void ring_sleep_end(struct ring *r, int event_fd);

#endif
