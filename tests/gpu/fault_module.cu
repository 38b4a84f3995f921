/* fault_module.cu - the CUDA module with a fault to order, for tests/gpu/fault.py and ranks.py.
 *
 * When a file `fault` lies in its folder it takes the file away and makes the device fault in the
 * step that begins: "trap" or "address", as the file says; or "slow": the host sleeps. */
#include <unistd.h>

#include "tests/gpu/wrap_module.cuh"

namespace
{

const int SLOW_S = 8; /* longer than ranks wait for each other */
char fault_path[512];

__global__ void trap_kernel()
{
    __trap();
}

__global__ void address_kernel(int *nowhere)
{
    *nowhere = 1;
}

/* In a stream of its own: it is not recorded with the step. */
void fault_if_told()
{
    char word[16] = "", taken[sizeof fault_path + 16];
    /* Renamed first: of the ranks that share a folder one alone has the fault. */
    snprintf(taken, sizeof taken, "%s.%d", fault_path, (int)getpid());
    if (rename(fault_path, taken) != 0)
        return;
    FILE *f = fopen(taken, "r");
    if (!f)
        return;
    const bool has_word = fscanf(f, "%15s", word) == 1;
    fclose(f);
    unlink(taken);
    if (has_word && strcmp(word, "slow") == 0)
        sleep(SLOW_S);
    else if (has_word && strcmp(word, "trap") == 0)
        trap_kernel<<<1, 1>>>();
    else
        address_kernel<<<1, 1>>>(reinterpret_cast<int *>(0x10));
}

bool step_begin(device *d, const batch *b, uint64_t shape)
{
    fault_if_told(); /* before a recorded step is on its way, which other ranks then do not wait for */
    return real->ops->step_begin(d, b, shape);
}

void change(ops *table, const char *folder)
{
    snprintf(fault_path, sizeof fault_path, "%s/fault", folder);
    table->step_begin = step_begin;
}

} // namespace
