/* Every part is done once, whatever the number of threads. */
#include "base/parallel.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <cmocka.h>

enum { PARTS_MAX = 1000 };

static _Atomic int n_done[PARTS_MAX];

static void count(void *ctx, int64_t part)
{
    assert_ptr_equal(ctx, n_done);
    atomic_fetch_add(&n_done[part], 1);
}

static void every_part_is_done_once(void **state)
{
    (void)state;
    static const int threads[] = {0, 1, 2, 7, PARALLEL_THREADS_MAX, 1000};
    static const int parts[] = {0, 1, 2, 63, PARTS_MAX};
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++)
        for (size_t p = 0; p < sizeof parts / sizeof *parts; p++) {
            for (int i = 0; i < PARTS_MAX; i++)
                atomic_store(&n_done[i], 0);
            parallel_for(threads[t], parts[p], count, n_done);
            for (int i = 0; i < PARTS_MAX; i++)
                assert_int_equal(atomic_load(&n_done[i]), i < parts[p]);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_part_is_done_once)};
    return cmocka_run_group_tests_name("parallel", tests, NULL, NULL);
}
