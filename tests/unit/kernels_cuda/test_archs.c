/* What archs promises: code runs on its own compute capability and on later ones of the same major
 * number; with a letter on its own alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "kernels/cuda/archs.h"

static void code_runs_where_the_driver_would_take_it(void **state)
{
    static const char all[] = "80 90a 100 120";
    static const struct {
        const char *name, *list;
        int cc;
        bool runs;
    } rows[] = {
        {"its own", "90a", 90, true},
        {"an older device", "90a", 80, false},
        {"a letter is for one device", "100a", 103, false},
        {"later, same major", "80", 89, true},
        {"earlier, same major", "89", 86, false},
        {"another major", "80", 90, false},
        {"a shorter number is no prefix", "10 12", 100, false},
        {"nothing", "", 90, false},
        {"all: A100", all, 80, true},
        {"all: A10", all, 86, true},
        {"all: L4", all, 89, true},
        {"all: H100", all, 90, true},
        {"all: B200", all, 100, true},
        {"all: B300", all, 103, true},
        {"all: RTX 5090", all, 120, true},
        {"all: V100", all, 70, false},
        {"all: Thor", all, 110, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (archs_have(rows[i].list, rows[i].cc) != rows[i].runs)
            fail_msg("%s: \"%s\" on %d", rows[i].name, rows[i].list, rows[i].cc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(code_runs_where_the_driver_would_take_it)};
    return cmocka_run_group_tests_name("archs", tests, NULL, NULL);
}
