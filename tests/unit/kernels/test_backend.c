/* What backend promises: the CPU is always there, and what is not there is refused with a reason.
 */
#include "kernels/backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static void the_cpu_is_linked_in(void **state)
{
    (void)state;
    struct status st = {0};
    const struct backend *b = backend_find("cpu", &st);
    assert_ptr_equal(b, &cpu_backend);
    assert_int_equal(b->abi, OPS_ABI);
}

static void another_name_is_refused(void **state)
{
    (void)state;
    struct status st = {0};
    assert_null(backend_find("vulkan", &st));
    assert_int_equal(st.code, STATUS_BAD_INPUT);
    assert_string_equal(st.msg, "device: want auto, cpu or cuda, found vulkan");
}

/* This program is not where the module is put. */
static void a_missing_module_is_named_and_auto_goes_on_without_it(void **state)
{
    (void)state;
    struct status st = {0}, against_cuda;
    const struct device_options opts = {.n_threads = 1};
    const struct backend *found = NULL;
    assert_null(backend_open("cuda", &opts, &found, &against_cuda, &st));
    assert_int_equal(st.code, STATUS_UNSUPPORTED);
    assert_non_null(strstr(st.msg, "libinferd_cuda.so is neither in /"));
    st = (struct status){0};
    struct device *d = backend_open("auto", &opts, &found, &against_cuda, &st);
    assert_non_null(d);
    assert_ptr_equal(found, &cpu_backend);
    assert_int_equal(st.code, STATUS_OK);
    assert_non_null(strstr(against_cuda.msg, "libinferd_cuda.so"));
    found->ops->close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cpu_is_linked_in),
        cmocka_unit_test(another_name_is_refused),
        cmocka_unit_test(a_missing_module_is_named_and_auto_goes_on_without_it),
    };
    return cmocka_run_group_tests_name("backend", tests, NULL, NULL);
}
