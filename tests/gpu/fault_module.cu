/* fault_module.cu - the CUDA module with a fault to order, for tests/gpu/fault.py.
 *
 * It stands in for libinferd_cuda.so, and passes everything on to libinferd_cuda_real.so in the
 * same folder.  When a file `fault` lies there it takes the file away and makes the device fault in
 * the step that begins: "trap" or "address", as the file says. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

extern "C" {
#include "kernels/ops.h"
}

extern "C" __attribute__((visibility("default"))) backend inferd_backend;

namespace
{

backend *real;
ops table;
char fault_path[512];

__global__ void trap_kernel()
{
    __trap();
}

__global__ void address_kernel(int *nowhere)
{
    *nowhere = 1;
}

void step_begin(device *d, const batch *b)
{
    char word[16] = "";
    real->ops->step_begin(d, b);
    FILE *f = fopen(fault_path, "r");
    if (!f)
        return;
    if (fscanf(f, "%15s", word) == 1 && strcmp(word, "trap") == 0)
        trap_kernel<<<1, 1>>>();
    else
        address_kernel<<<1, 1>>>(reinterpret_cast<int *>(0x10));
    fclose(f);
    unlink(fault_path);
}

__attribute__((constructor)) void wrap()
{
    Dl_info here;
    char path[512];
    dladdr(reinterpret_cast<void *>(wrap), &here);
    const int n = (int)(strrchr(here.dli_fname, '/') - here.dli_fname);
    snprintf(path, sizeof path, "%.*s/libinferd_cuda_real.so", n, here.dli_fname);
    snprintf(fault_path, sizeof fault_path, "%.*s/fault", n, here.dli_fname);
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    real = module ? static_cast<backend *>(dlsym(module, "inferd_backend")) : NULL;
    if (!real) {
        fprintf(stderr, "fault module: %s\n", dlerror());
        return; /* its abi is then 0, which is refused */
    }
    inferd_backend = *real;
    table = *real->ops;
    table.step_begin = step_begin;
    inferd_backend.ops = &table;
}

} // namespace

backend inferd_backend;
