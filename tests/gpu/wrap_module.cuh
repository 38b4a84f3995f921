/* wrap_module.cuh - a module that stands in for libinferd_cuda.so and passes everything on to
 * libinferd_cuda_real.so in the same folder, but for what it changes in the table.
 *
 * That one may stand in for another, libinferd_cuda_real_real.so: a module adds _real to its own
 * name.
 *
 * Included once by a module, which defines change(). */
#ifndef TESTS_GPU_WRAP_MODULE_CUH
#define TESTS_GPU_WRAP_MODULE_CUH

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

extern "C" {
#include "kernels/ops.h"
}

extern "C" __attribute__((visibility("default"))) backend inferd_backend;
backend inferd_backend;

namespace
{

backend *real;

/* Replaces ops of the table; `folder` is where the module lies. */
void change(ops *table, const char *folder);

__attribute__((constructor)) void wrap()
{
    static ops table;
    Dl_info here;
    char folder[400], path[512];
    dladdr(reinterpret_cast<void *>(wrap), &here);
    snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(here.dli_fname, '/') - here.dli_fname),
             here.dli_fname);
    snprintf(path, sizeof path, "%.*s_real.so",
             (int)(strrchr(here.dli_fname, '.') - here.dli_fname), here.dli_fname);
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    real = module ? static_cast<backend *>(dlsym(module, "inferd_backend")) : NULL;
    if (!real) {
        fprintf(stderr, "wrapped module: %s\n", dlerror());
        return; /* the abi is then 0, which is refused */
    }
    table = *real->ops;
    change(&table, folder);
    inferd_backend = *real;
    inferd_backend.ops = &table;
}

} // namespace

#endif
