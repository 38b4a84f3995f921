/* What ring promises: cells come out whole, once, in order, between two threads, and a reader that
 * sleeps is woken. */
#include "base/ring.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <cmocka.h>

enum { N_CELLS = 4, CELL_BYTES = 128, N_SENT = 200000 };

struct fixture {
    struct ring *ring;
    int event_fd;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->ring = aligned_alloc(64, ring_bytes(N_CELLS, CELL_BYTES));
    ring_init(f->ring, N_CELLS, CELL_BYTES);
    f->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    close(f->event_fd);
    free(f->ring);
    free(f);
    return 0;
}

static void *write_all(void *arg)
{
    struct fixture *f = arg;
    for (uint64_t i = 0; i < N_SENT;) {
        uint64_t *cell = ring_put_begin(f->ring);
        if (!cell)
            continue;
        for (size_t k = 0; k < CELL_BYTES / 8; k++)
            cell[k] = i * 31 + k;
        ring_put_end(f->ring);
        ring_wake(f->ring, f->event_fd);
        i++;
    }
    return NULL;
}

static void cells_cross_threads_whole_and_in_order(void **state)
{
    struct fixture *f = *state;
    pthread_t writer;
    pthread_create(&writer, NULL, write_all, f);
    for (uint64_t i = 0; i < N_SENT;) {
        const uint64_t *cell = ring_take_begin(f->ring);
        if (!cell) {
            if (ring_sleep_begin(f->ring)) {
                struct pollfd p = {.fd = f->event_fd, .events = POLLIN};
                assert_int_equal(poll(&p, 1, 10000), 1); /* a lost wake-up would time out */
                ring_sleep_end(f->ring, f->event_fd);
            }
            continue;
        }
        for (size_t k = 0; k < CELL_BYTES / 8; k++)
            assert_true(cell[k] == i * 31 + k);
        ring_take_end(f->ring);
        i++;
    }
    pthread_join(writer, NULL);
    assert_null(ring_take_begin(f->ring));
}

static void a_full_ring_takes_no_more_until_one_is_read(void **state)
{
    struct ring *r = ((struct fixture *)*state)->ring;
    for (int i = 0; i < N_CELLS; i++) {
        assert_non_null(ring_put_begin(r));
        ring_put_end(r);
    }
    assert_null(ring_put_begin(r));
    assert_non_null(ring_take_begin(r));
    ring_take_end(r);
    assert_non_null(ring_put_begin(r));
}

static void geometry_that_does_not_fit_is_refused(void **state)
{
    struct ring *r = ((struct fixture *)*state)->ring;
    assert_int_equal(ring_bytes(3, 64), 0);
    assert_int_equal(ring_bytes(4, 65), 0);
    assert_int_equal(ring_bytes(0, 64), 0);
    assert_true(ring_valid(r, ring_bytes(N_CELLS, CELL_BYTES)));
    assert_false(ring_valid(r, ring_bytes(N_CELLS, CELL_BYTES) - 1));
    assert_false(ring_valid(r, 8));
    r->n_cells = 1u << 31;
    assert_false(ring_valid(r, ring_bytes(N_CELLS, CELL_BYTES)));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(cells_cross_threads_whole_and_in_order),
        T(a_full_ring_takes_no_more_until_one_is_read),
        T(geometry_that_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests_name("ring", tests, NULL, NULL);
}
