/* What a module promises on a device that it has no code for: "auto" is the CPU, and says why;
 * "cuda" is refused with the same reason. The simulated GPU is of the compute capability that
 * CUDASIM_CC says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/backend.h"

static const struct device_options options = {.n_threads = 1, .memory_share = 1};

static int of_another_device(void **state)
{
    (void)state;
    return setenv("CUDASIM_CC", "70", 1);
}

static int of_its_device(void **state)
{
    (void)state;
    return unsetenv("CUDASIM_CC");
}

static void expect_the_cpu(const char *why)
{
    struct status st = {0}, against_cuda;
    const struct backend *found = NULL;
    struct device *d = backend_open("auto", &options, &found, &against_cuda, &st);
    assert_non_null(d);
    assert_ptr_equal(found, &cpu_backend);
    assert_int_equal(against_cuda.code, STATUS_UNSUPPORTED);
    assert_non_null(strstr(against_cuda.msg, why));
    found->ops->close(d);
    assert_null(backend_open("cuda", &options, &found, &against_cuda, &st));
    assert_int_equal(st.code, STATUS_UNSUPPORTED);
    assert_non_null(strstr(st.msg, why));
}

static void a_device_that_is_too_old_is_named(void **state)
{
    (void)state;
    expect_the_cpu("CUDA device 0: want compute capability 8.0 or later, found 7.0");
}

static void a_device_that_the_module_has_no_code_for_is_named(void **state)
{
    (void)state;
    assert_int_equal(setenv("CUDASIM_CC", "110", 1), 0);
    expect_the_cpu("CUDA device 0: the module has no code for sm_110: it was built with "
                   "INFERD_CUDA_ARCHS=\"");
}

static void its_own_device_is_taken(void **state)
{
    (void)state;
    struct status st = {0}, against_cuda;
    const struct backend *found = NULL;
    struct device *d = backend_open("auto", &options, &found, &against_cuda, &st);
    assert_non_null(d);
    assert_int_equal(against_cuda.code, STATUS_OK);
    assert_string_equal(found->ops->name, "cuda");
    found->ops->close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_device_that_is_too_old_is_named, of_another_device,
                                        of_its_device),
        cmocka_unit_test_setup_teardown(a_device_that_the_module_has_no_code_for_is_named,
                                        of_another_device, of_its_device),
        cmocka_unit_test(its_own_device_is_taken),
    };
    return cmocka_run_group_tests_name("archs", tests, NULL, NULL);
}
