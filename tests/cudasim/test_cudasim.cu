/* What the simulation promises of itself: right kernels come out right in every order, and kernels
 * with a fault that a GPU may forgive come out wrong, or end with its reason. */
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/cuda/ptx_cluster.cuh"

namespace
{

const int THREADS = 128;
int failures;

template <class... ARGS>
void launch(void (*kernel)(ARGS...), unsigned blocks, unsigned cluster, ARGS... args)
{
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {cluster, 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = 16 << 10;
    config.attrs = &attribute;
    config.numAttrs = 1;
    cudaLaunchKernelEx(&config, kernel, args...);
}

void check(const char *what, bool ok)
{
    printf("%s %s\n", ok ? "ok  " : "FAIL", what);
    failures += !ok;
}

/* Whether a child that does it says `why` and aborts. */
template <class F> bool aborts(const char *why, F f)
{
    int ends[2], status = 0;
    if (pipe(ends) != 0)
        return false;
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        f();
        _exit(0);
    }
    close(ends[1]);
    char text[4096];
    size_t n = 0;
    for (ssize_t got; (got = read(ends[0], text + n, sizeof text - 1 - n)) > 0;)
        n += (size_t)got;
    text[n] = '\0';
    close(ends[0]);
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) && strstr(text, why);
}

/* ---- barriers ---- */

template <bool SYNC> __global__ void reverse_kernel(int *out)
{
    __shared__ int v[THREADS];
    const int t = (int)threadIdx.x;
    v[t] = t;
    if (SYNC)
        __syncthreads();
    out[blockIdx.x * THREADS + t] = v[THREADS - 1 - t];
}

template <bool SYNC> bool reverses()
{
    int out[8 * THREADS];
    launch(reverse_kernel<SYNC>, 8, 1, +out);
    for (int i = 0; i < 8 * THREADS; i++)
        if (out[i] != THREADS - 1 - i % THREADS)
            return false;
    return true;
}

__global__ void unequal_kernel()
{
    if (threadIdx.x < 32)
        barrier_sync(1, THREADS);
}

/* ---- warps ---- */

__global__ void sum_kernel(int *out)
{
    int v = (int)threadIdx.x;
    for (int by = 16; by > 0; by /= 2)
        v += __shfl_xor_sync(~0u, v, by);
    out[threadIdx.x] = v;
}

bool sums()
{
    int out[THREADS];
    launch(sum_kernel, 1, 1, +out);
    for (int i = 0; i < THREADS; i++)
        if (out[i] != i / 32 * 32 * 32 + 31 * 16)
            return false;
    return true;
}

__global__ void apart_kernel()
{
    if (threadIdx.x % 2)
        __shfl_xor_sync(~0u, 1, 1);
    else
        __ballot_sync(~0u, 1);
}

/* ---- copies ---- */

template <bool WAIT> __global__ void copy_kernel(const int *from, int *out)
{
    DYNAMIC_SHARED(__align__(128) uint8_t, shared);
    __shared__ uint64_t bar;
    const int t = (int)threadIdx.x;
    if (t == 0) {
        mbarrier_init(shared_addr(&bar), 1);
        mbarrier_arrive_expect(shared_addr(&bar), THREADS * 4);
        sim::bulk_copy(shared_addr(shared), from, THREADS * 4, shared_addr(&bar));
    }
    __syncthreads();
    if (WAIT)
        mbarrier_wait(shared_addr(&bar), 0);
    out[blockIdx.x * THREADS + t] = reinterpret_cast<const int *>(shared)[t];
    __syncthreads();
    mbarrier_wait(shared_addr(&bar), 0); /* nobody leaves before */
}

template <bool WAIT> bool copies()
{
    alignas(16) int from[THREADS];
    int out[8 * THREADS];
    for (int i = 0; i < THREADS; i++)
        from[i] = 3 * i;
    launch(copy_kernel<WAIT>, 8, 1, (const int *)from, +out);
    for (int i = 0; i < 8 * THREADS; i++)
        if (out[i] != 3 * (i % THREADS))
            return false;
    return true;
}

template <bool WAIT> __global__ void async_kernel(const int *from, int *out)
{
    DYNAMIC_SHARED(__align__(128) uint8_t, shared);
    const int t = (int)threadIdx.x;
    if (t < THREADS / 4)
        cp_async_16(shared_addr(shared) + t * 16, from + t * 4, 16, 0);
    cp_async_commit();
    if (WAIT)
        cp_async_wait<0>();
    __syncthreads();
    out[blockIdx.x * THREADS + t] = reinterpret_cast<const int *>(shared)[t];
    cp_async_wait<0>();
}

template <bool WAIT> bool copies_async()
{
    alignas(16) int from[THREADS];
    int out[8 * THREADS];
    for (int i = 0; i < THREADS; i++)
        from[i] = 5 * i;
    launch(async_kernel<WAIT>, 8, 1, (const int *)from, +out);
    for (int i = 0; i < 8 * THREADS; i++)
        if (out[i] != 5 * (i % THREADS))
            return false;
    return true;
}

/* ---- fragments ---- */

/* d[16, 8] = a[16, 32] b[32, 8], each in order of rows, by places that the PTX manual gives. */
__global__ void product_kernel(const int8_t *a, const int8_t *b, int32_t *d)
{
    const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int32_t sums[4] = {};
    uint32_t left[4] = {}, right[2] = {};
    for (int i = 0; i < 16; i++) { /* value i of a: row g, or g + 8 for 4..7 and 12..15 */
        const int row = g + i / 4 % 2 * 8, column = t * 4 + i % 4 + i / 8 * 16;
        left[i / 4] |= (uint32_t)(uint8_t)a[row * 32 + column] << i % 4 * 8;
    }
    for (int i = 0; i < 8; i++)
        right[i / 4] |= (uint32_t)(uint8_t)b[(t * 4 + i % 4 + i / 4 * 16) * 8 + g] << i % 4 * 8;
    mma_16832_s8(sums, left, right);
    for (int i = 0; i < 4; i++)
        d[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = sums[i];
}

bool multiplies_bytes()
{
    int8_t a[16 * 32], b[32 * 8];
    int32_t d[16 * 8];
    for (int i = 0; i < 16 * 32; i++)
        a[i] = (int8_t)(i * 37 % 251 - 125);
    for (int i = 0; i < 32 * 8; i++)
        b[i] = (int8_t)(i * 61 % 241 - 120);
    launch(product_kernel, 1, 1, (const int8_t *)a, (const int8_t *)b, +d);
    for (int i = 0; i < 16 * 8; i++) {
        int32_t sum = 0;
        for (int k = 0; k < 32; k++)
            sum += a[i / 8 * 32 + k] * b[k * 8 + i % 8];
        if (d[i] != sum)
            return false;
    }
    return true;
}

__global__ void turn_kernel(const uint32_t *from, uint32_t *to)
{
    to[threadIdx.x] = transpose_8x8(from[threadIdx.x % 32]);
}

bool transposes()
{
    uint16_t from[8][8], to[THREADS / 32][8][8];
    for (int i = 0; i < 64; i++)
        from[i / 8][i % 8] = (uint16_t)(i * 1031);
    launch(turn_kernel, 1, 1, (const uint32_t *)from, (uint32_t *)to);
    for (int i = 0; i < THREADS / 32 * 64; i++)
        if (to[i / 64][i / 8 % 8][i % 8] != from[i % 8][i / 8 % 8])
            return false;
    return true;
}

__global__ void forever_kernel()
{
    __shared__ uint64_t bar;
    if (threadIdx.x == 0)
        mbarrier_init(shared_addr(&bar), 2);
    __syncthreads();
    if (threadIdx.x == 0)
        mbarrier_arrive(shared_addr(&bar));
    mbarrier_wait(shared_addr(&bar), 0);
}

/* ---- clusters ---- */

__global__ void neighbour_kernel(int *out)
{
    __shared__ uint64_t bar;
    if (threadIdx.x == 0)
        mbarrier_init(shared_addr(&bar), THREADS);
    cluster_sync();
    mbarrier_arrive_at(shared_addr(&bar), cluster_rank() ^ 1);
    mbarrier_wait(shared_addr(&bar), 0);
    out[blockIdx.x * THREADS + threadIdx.x] = (int)cluster_rank();
    cluster_sync();
}

/* All arrive; half end, one waits for the other block, the rest for what it then does. */
__global__ void few_wait_kernel(int *out)
{
    __shared__ uint64_t bar;
    if (threadIdx.x == 0)
        mbarrier_init(shared_addr(&bar), 1);
    __syncthreads();
    cluster_arrive();
    if (threadIdx.x >= THREADS / 2)
        return;
    if (threadIdx.x == 0) {
        cluster_wait();
        mbarrier_arrive_at(shared_addr(&bar), cluster_rank() ^ 1);
        out[blockIdx.x] = (int)cluster_rank() + 1;
    }
    mbarrier_wait(shared_addr(&bar), 0);
}

bool meets_without_those_that_ended()
{
    int out[8] = {};
    launch(few_wait_kernel, 8, 2, +out);
    for (int i = 0; i < 8; i++)
        if (out[i] != i % 2 + 1)
            return false;
    return true;
}

bool meets_neighbours()
{
    int out[8 * THREADS];
    launch(neighbour_kernel, 8, 2, +out);
    for (int i = 0; i < 8 * THREADS; i++)
        if (out[i] != i / THREADS % 2)
            return false;
    return true;
}

/* ---- graphs ---- */

__global__ void count_kernel(int *out, int by)
{
    if (threadIdx.x == 0)
        atomicAdd(out, by);
}

/* Two kernels are recorded, and the first is changed, or not, before it runs once more. */
template <bool CHANGE> bool replays()
{
    int first = 0, second = 0, more = 5;
    int *out = &first;
    void *args[] = {&out, &more};
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaGraphNode_t node;
    size_t n = 1;
    cudaKernelNodeParams params = {};
    params.func = reinterpret_cast<void *>(count_kernel);
    params.gridDim = dim3(2);
    params.blockDim = dim3(THREADS);
    params.kernelParams = args;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(3);
    config.blockDim = dim3(THREADS);
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    config.stream = stream;
    cudaGraphCreate(&graph, 0);
    cudaStreamBeginCaptureToGraph(stream, graph, NULL, NULL, 0, cudaStreamCaptureModeThreadLocal);
    cudaLaunchKernelEx(&config, count_kernel, &first, 1);
    cudaGraphGetRootNodes(graph, &node, &n);
    cudaLaunchKernelEx(&config, count_kernel, &second, 1);
    cudaStreamEndCapture(stream, &graph);
    cudaGraphInstantiate(&exec, graph, 0);
    const bool waited = first == 0 && second == 0;
    cudaGraphLaunch(exec, stream);
    if (CHANGE && cudaGraphExecKernelNodeSetParams(exec, node, &params) != cudaSuccess)
        return false;
    cudaGraphLaunch(exec, stream);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
    return waited && n == 1 && first == 3 + 2 * 5 && second == 6;
}

/* ---- places ---- */

__global__ void beyond_kernel()
{
    DYNAMIC_SHARED(__align__(128) uint8_t, shared);
    store_shared(shared_addr(shared) + (32 << 10), 1.0f);
}

__global__ void odd_kernel()
{
    DYNAMIC_SHARED(__align__(128) uint8_t, shared);
    store_shared(shared_addr(shared) + 2, 1.0f);
}

} // namespace

int main()
{
    setlinebuf(stdout);
    /* Children first: a fork has none of the threads that run kernels. */
    check("a barrier that some never reach is named",
          aborts("barrier 1", [] { launch(unequal_kernel, 1, 1); }));
    check("an mbarrier without its arrivals is named",
          aborts("waits for an mbarrier", [] { launch(forever_kernel, 1, 1); }));
    check("lanes that do different things are named",
          aborts("meet for", [] { launch(apart_kernel, 1, 1); }));
    check("a place beyond shared memory is refused",
          aborts("not in the block's shared memory", [] { launch(beyond_kernel, 1, 1); }));
    check("an odd place is refused", aborts("no multiple", [] { launch(odd_kernel, 1, 1); }));
    check("a barrier orders what is before it", reverses<true>());
    check("a missing barrier shows", !reverses<false>());
    check("lanes add up", sums());
    check("a copy has come when its barrier says so", copies<true>());
    check("a copy that is not waited for shows", !copies<false>());
    check("small copies have come when they are waited for", copies_async<true>());
    check("small copies that nobody waits for show", !copies_async<false>());
    check("bytes are multiplied", multiplies_bytes());
    check("8 x 8 halves are turned", transposes());
    check("blocks of a cluster meet", meets_neighbours());
    check("and when threads end that have arrived", meets_without_those_that_ended());
    check("a graph's kernel is changed before it runs again", replays<true>());
    check("a kernel that is not changed shows", !replays<false>());
    return failures != 0;
}
