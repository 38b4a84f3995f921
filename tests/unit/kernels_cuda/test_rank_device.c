/* A rank's GPU is the one that its launcher's local rank says, else the next one of its machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "kernels/cuda/rank_device.h"

static void the_local_rank_chooses_where_it_is_known(void **state)
{
    static const struct {
        const char *name;
        struct rank_place place;
        int device;
    } rows[] = {
        {"not told, the first", {0, 8, 0, false, 0}, 0},
        {"not told, the third of its machine", {0, 8, 2, false, 0}, 2},
        {"not told, from device-index on", {4, 8, 2, false, 0}, 6},
        {"told, as it is counted", {0, 8, 2, true, 2}, 2},
        {"told, in another order than ranks", {0, 8, 0, true, 7}, 7},
        {"told, from device-index on", {4, 8, 0, true, 3}, 7},
        {"each process sees its own", {0, 1, 3, true, 3}, 0},
        {"too far", {0, 2, 0, true, 5}, 5},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rank_device(&rows[i].place) != rows[i].device)
            fail_msg("%s: %d", rows[i].name, rank_device(&rows[i].place));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_local_rank_chooses_where_it_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
