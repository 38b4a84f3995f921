/* bench_all_reduce.cu - sums and rows between GPUs: every bit checked, and the time beside NCCL's.
 *
 *     bench_all_reduce check|bench [RANKS [variants]]
 *
 * nvcc -std=c++17 -O3 -I. -gencode=arch=compute_90a,code=sm_90a -o bench_all_reduce \
 *   tests/gpu/bench_all_reduce.cu kernels/cuda/{peers,nccl}.cu kernels/comm*.c
 * base/{status,clock,hash}.c -ldl
 *
 * `check`: each size alone and in place, with and without a residual, in a graph and outside of
 * one, from ranks that are delayed at random, through peer memory and through NCCL.  Values are a
 * function of (seed, rank, place): each rank knows what all have, and compares the result with the
 * f32 sum in order of rank, bit for bit, and with f64.  With fewer GPUs than ranks some share one.
 * `bench`: microseconds a call, in a graph of many; with `variants`, of other numbers of blocks
 * with 1, 2 and 4 chunks of a thread at a time.  Exit status 77 without a GPU. */
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>
#include <vector>

#include "kernels/cuda/all_reduce.cu"
#include "kernels/cuda/pass.cu"

static thread_local struct device *checking;

/* Other threads may be in the driver. */
static void end_all()
{
    fflush(stdout);
    _exit(1);
}

void cuda_check(struct device *d, cudaError_t e, const char *at)
{
    if (e == cudaSuccess)
        return;
    printf("FAIL device %d: %s: %s\n", d->index, at, cudaGetErrorString(e));
    end_all();
}

#define OK(e) cuda_check(checking, (e), #e)

namespace
{

constexpr int CHECK_THREADS = 256, CHECK_BLOCKS = 264;
constexpr size_t BYTES_MAX = 72 << 20;

/* ---- values ---- */

__device__ __host__ inline uint32_t mix(uint32_t a, uint32_t b)
{
    uint32_t h = a * 0x9E3779B1u ^ (b + 0x7F4A7C15u) * 0x85EBCA77u;
    h ^= h >> 15;
    h *= 0x2C1B3C6Du;
    h ^= h >> 12;
    h *= 0x297A2D39u;
    return h ^ h >> 15;
}

/* About normal; rank 99 is the residual. */
__device__ inline float value(uint32_t seed, uint32_t rank, uint32_t i)
{
    const uint32_t h = mix(mix(seed, rank), i), g = mix(h, 77);
    return ((float)(h & 0xffff) + (float)(h >> 16) + (float)(g & 0xffff) - 98302.5f) / 32768.0f;
}

template <class T> __device__ inline T rounded(float v);
template <> __device__ inline __nv_bfloat16 rounded(float v)
{
    return __float2bfloat16_rn(v);
}
template <> __device__ inline __half rounded(float v)
{
    return __float2half_rn(v);
}
__device__ inline float f32(__nv_bfloat16 v)
{
    return __bfloat162float(v);
}
__device__ inline float f32(__half v)
{
    return __half2float(v);
}

template <class T> __global__ void fill_kernel(T *x, const uint32_t *seed, uint32_t rank, int n)
{
    for (int i = blockIdx.x * CHECK_THREADS + threadIdx.x; i < n; i += gridDim.x * CHECK_THREADS)
        x[i] = rounded<T>(value(*seed, rank, i));
}

template <class T> __global__ void poison_kernel(T *y, int n)
{
    for (int i = blockIdx.x * CHECK_THREADS + threadIdx.x; i < n; i += gridDim.x * CHECK_THREADS)
        y[i] = rounded<T>(1e30f);
}

__global__ void next_kernel(uint32_t *seed)
{
    ++*seed;
}

__global__ void back_kernel(uint32_t *seed, int by)
{
    *seed -= by;
}

/* Up to some 30 microseconds, by rank and seed. */
__global__ void delay_kernel(const uint32_t *seed, uint32_t rank)
{
    const uint64_t start = global_ns(), ns = mix(*seed, rank + 1000) % 30000;
    while (mix(*seed, rank) % 3 == 0 && global_ns() - start < ns) {
    }
}

struct found {
    unsigned long long wrong_bits, wrong_f64, n;
};

template <class T>
__global__ void check_kernel(const T *y, const uint32_t *seed, int n_ranks, bool adds, int n,
                             double unit, found *out)
{
    unsigned long long bits = 0, far = 0;
    for (int i = blockIdx.x * CHECK_THREADS + threadIdx.x; i < n; i += gridDim.x * CHECK_THREADS) {
        float sum = 0;
        double exact = 0, size = 0;
        for (int r = 0; r < n_ranks; r++) {
            const float x = f32(rounded<T>(value(*seed, r, i)));
            sum = r == 0 ? x : __fadd_rn(sum, x);
            exact += x;
            size += fabs((double)x);
        }
        if (adds) {
            const float add = f32(rounded<T>(value(*seed, 99, i)));
            sum = __fadd_rn(add, sum);
            exact += add;
            size += fabs((double)add);
        }
        const T want = rounded<T>(sum);
        bits += reinterpret_cast<const unsigned short &>(want) !=
                reinterpret_cast<const unsigned short &>(y[i]);
        far += !(fabs(f32(y[i]) - exact) <= unit * fabs(exact) + size * 1e-6);
    }
    if (bits)
        atomicAdd(&out->wrong_bits, bits);
    if (far)
        atomicAdd(&out->wrong_f64, far);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        out->n++;
}

__global__ void fill_rows_kernel(float *rows, const uint32_t *seed, int first, int end, int width,
                                 int n_rows)
{
    for (int i = blockIdx.x * CHECK_THREADS + threadIdx.x; i < n_rows * width;
         i += gridDim.x * CHECK_THREADS) {
        const int c = i % width;
        rows[i] = c >= first && c < end ? value(*seed, 5, i) : -1e30f;
    }
}

__global__ void check_rows_kernel(const float *rows, const uint32_t *seed, int n, found *out)
{
    unsigned long long bits = 0;
    for (int i = blockIdx.x * CHECK_THREADS + threadIdx.x; i < n; i += gridDim.x * CHECK_THREADS)
        bits += rows[i] != value(*seed, 5, i);
    if (bits)
        atomicAdd(&out->wrong_bits, bits);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        out->n++;
}

/* ---- one rank ---- */

struct job {
    void *memory;
    int n_ranks, n_gpus;
    bool bench, variants;
};

struct rank {
    const struct job *job;
    int index, n_failed;
    pthread_t thread;
    struct device d;
    struct comm *comm;
    char *x, *y, *add;
    uint32_t *seed;
    struct found *found; /* mapped */
};

void say(const rank *r, bool good, const char *what)
{
    if (r->index == 0 || !good)
        printf("%s rank %d: %s\n", good ? "ok  " : "FAIL", r->index, what);
    fflush(stdout);
}

/* What the device runs ends, or a rank is missed. */
void finish(rank *r)
{
    status st = {};
    cudaError_t e;
    while ((e = cudaStreamQuery(r->d.stream)) == cudaErrorNotReady)
        if (!peers_look(r->d.peers, &st))
            break;
    if (st.code == STATUS_OK)
        peers_look(r->d.peers, &st);
    if (st.code != STATUS_OK) {
        printf("FAIL rank %d: %s\n", r->index, st.msg);
        end_all();
    }
    OK(e);
}

template <class T> void queue_check(rank *r, int n, bool adds, bool in_place)
{
    const double unit = sizeof(T) == 2 && r->d.act == DT_F16 ? 0x1.01p-11 : 0x1.01p-8;
    T *x = (T *)r->x, *add = adds ? (T *)r->add : nullptr;
    T *y = in_place ? (adds ? add : x) : (T *)r->y;
    next_kernel<<<1, 1, 0, r->d.stream>>>(r->seed);
    fill_kernel<T><<<CHECK_BLOCKS, CHECK_THREADS, 0, r->d.stream>>>(x, r->seed, r->index, n);
    if (adds)
        fill_kernel<T><<<CHECK_BLOCKS, CHECK_THREADS, 0, r->d.stream>>>(add, r->seed, 99, n);
    if (!in_place)
        poison_kernel<T><<<CHECK_BLOCKS, CHECK_THREADS, 0, r->d.stream>>>(y, n);
    delay_kernel<<<1, 1, 0, r->d.stream>>>(r->seed, r->index);
    struct all_reduce_args a = {};
    a.y = y;
    a.x = x;
    a.add = add;
    a.rows = 1;
    a.width = n;
    cuda_all_reduce(&r->d, &a);
    check_kernel<T><<<CHECK_BLOCKS, CHECK_THREADS, 0, r->d.stream>>>(y, r->seed, r->job->n_ranks,
                                                                     adds, n, unit, r->found);
}

void queue_check_any(rank *r, int n, int kind)
{
    if (r->d.act == DT_F16)
        queue_check<__half>(r, n, kind & 1, kind & 2);
    else
        queue_check<__nv_bfloat16>(r, n, kind & 1, kind & 2);
}

void judge(rank *r, const char *what)
{
    char text[200];
    finish(r);
    const bool good = r->found->wrong_bits == 0 && r->found->wrong_f64 == 0 && r->found->n > 0;
    snprintf(text, sizeof text, "%s: %llu calls, %llu wrong bits, %llu far from f64", what,
             r->found->n, r->found->wrong_bits, r->found->wrong_f64);
    say(r, good, text);
    r->n_failed += !good;
    memset(r->found, 0, sizeof *r->found);
}

/* A graph of the calls that f queues, run n times. */
template <class F> void in_graph(rank *r, int n, F f)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    OK(cudaStreamBeginCapture(r->d.stream, cudaStreamCaptureModeThreadLocal));
    f();
    OK(cudaStreamEndCapture(r->d.stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < n; i++)
        OK(cudaGraphLaunch(exec, r->d.stream));
    finish(r);
    OK(cudaGraphExecDestroy(exec));
    OK(cudaGraphDestroy(graph));
}

const int small_sizes[] = {8,     64,    576,    4096,   4104,   8192,   16384,
                           32768, 65528, 131072, 131080, 262144, 524288, 1048584};
const int large_sizes[] = {1 << 22, (1 << 23) + 8, (16 << 20) + 24, 33 << 20};

void check_sums(rank *r, bool thorough)
{
    const int n_small = sizeof small_sizes / sizeof *small_sizes;
    for (int n : small_sizes)
        for (int kind = 0; kind < 4; kind++)
            queue_check_any(r, n, kind);
    judge(r, "sums, not in a graph");
    /* A call of several launches has two of them resident: with those of another rank on the same
     * GPU that is too many. */
    const bool shares = r->job->n_gpus < r->job->n_ranks;
    for (int n : large_sizes)
        for (int kind = 0; kind < (thorough ? 4 : 1); kind++)
            if (!shares || (size_t)n * 2 < PEER_HALF_BYTES / 2)
                queue_check_any(r, n, kind);
    judge(r, "large sums");
    in_graph(r, thorough ? 100 : 5, [&] {
        for (int i = 0; i < 100; i++)
            queue_check_any(r, small_sizes[i * 5 % n_small], i * 7 % 4);
    });
    judge(r, thorough ? "10 000 sums in a graph" : "sums in a graph");
}

void check_rows(rank *r, int vocab, const int32_t *cuts)
{
    int32_t split[COMM_RANKS_MAX + 1];
    const int n = r->job->n_ranks;
    for (int i = 0; i <= n; i++)
        split[i] = cuts ? cuts[i] : (int32_t)((int64_t)vocab * i / n);
    for (int n_rows : {1, 3, 64}) {
        for (int i = 0; i < 3; i++) {
            next_kernel<<<1, 1, 0, r->d.stream>>>(r->seed);
            fill_rows_kernel<<<CHECK_BLOCKS, CHECK_THREADS, 0, r->d.stream>>>(
                (float *)r->y, r->seed, split[r->index], split[r->index + 1], vocab, n_rows);
            delay_kernel<<<1, 1, 0, r->d.stream>>>(r->seed, r->index);
            cuda_gather_rows(&r->d, (float *)r->y, n_rows, split);
            check_rows_kernel<<<CHECK_BLOCKS, CHECK_THREADS, 0, r->d.stream>>>(
                (float *)r->y, r->seed, n_rows * vocab, r->found);
        }
    }
    judge(r, "rows");
}

__global__ void check_pass_kernel(const __nv_bfloat16 *y, const uint32_t *seed, int from, int n,
                                  found *out)
{
    unsigned long long bits = 0;
    for (int i = blockIdx.x * CHECK_THREADS + threadIdx.x; i < n; i += gridDim.x * CHECK_THREADS)
        bits += f32(y[i]) != f32(rounded<__nv_bfloat16>(value(*seed, from, i)));
    if (bits)
        atomicAdd(&out->wrong_bits, bits);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        out->n++;
}

/* Around the ring, each rank a stage: two passes are sent before the first is received. */
void queue_pass(rank *r, int n)
{
    const int from = (r->index + r->job->n_ranks - 1) % r->job->n_ranks;
    struct pass_args a = {};
    a.rows = 1;
    a.width = n;
    for (int step = 0; step < 3; step++) {
        if (step < 2) {
            next_kernel<<<1, 1, 0, r->d.stream>>>(r->seed);
            fill_kernel<<<CHECK_BLOCKS, CHECK_THREADS, 0, r->d.stream>>>((__nv_bfloat16 *)r->x,
                                                                         r->seed, r->index, n);
            delay_kernel<<<1, 1, 0, r->d.stream>>>(r->seed, r->index);
            a.x = r->x;
            cuda_send(&r->d, &a);
            poison_kernel<<<CHECK_BLOCKS, CHECK_THREADS, 0, r->d.stream>>>((__nv_bfloat16 *)r->x,
                                                                           n);
        }
        if (step == 0)
            continue;
        a.x = r->y;
        back_kernel<<<1, 1, 0, r->d.stream>>>(r->seed, step == 1 ? 1 : 0);
        cuda_recv(&r->d, &a);
        check_pass_kernel<<<CHECK_BLOCKS, CHECK_THREADS, 0, r->d.stream>>>(
            (const __nv_bfloat16 *)r->y, r->seed, from, n, r->found);
        back_kernel<<<1, 1, 0, r->d.stream>>>(r->seed, step == 1 ? -1 : 0);
    }
}

void check_passes(rank *r)
{
    r->d.grid = r->d.peers;
    r->d.grid->n_tensor = 1;
    for (int n : small_sizes)
        queue_pass(r, n);
    for (int i = 0; i < 100; i++)
        queue_pass(r, small_sizes[i % 9]);
    judge(r, "passes to the next stage");
    r->d.grid = NULL;
}

bool open_peers(rank *r, bool by_nccl)
{
    status st = {};
    r->d.peers = peers_open(&r->d, r->comm, 0, by_nccl, &st);
    if (!r->d.peers && r->index == 0)
        printf("%s rank %d: %s\n", by_nccl ? "left out" : "FAIL", r->index, st.msg);
    if (!r->d.peers && !by_nccl)
        r->n_failed++;
    return r->d.peers != NULL;
}

void check(rank *r)
{
    const bool shares = r->job->n_gpus < r->job->n_ranks;
    for (enum dtype act : {DT_BF16, DT_F16}) {
        r->d.act = act;
        if (!open_peers(r, false))
            return;
        if (r->index == 0)
            printf("-- %d ranks on %d GPUs, %s, %s\n", r->job->n_ranks, r->job->n_gpus,
                   act == DT_F16 ? "f16" : "bf16", r->d.peers->nccl ? "NCCL" : "peer memory");
        check_sums(r, act == DT_BF16);
        check_rows(r, 128256 / 4, nullptr);
        check_rows(r, 49155, nullptr);
        if (act == DT_BF16)
            check_passes(r);
        peers_close(r->d.peers);
    }
    r->d.act = DT_BF16;
    if (!shares && open_peers(r, true)) {
        if (r->index == 0)
            printf("-- %d ranks, NCCL\n", r->job->n_ranks);
        check_sums(r, false);
        check_rows(r, 49155, nullptr);
        peers_close(r->d.peers);
    }
}

/* ---- times ---- */

typedef struct ncclComm *nccl_comm;
struct nccl_id {
    char bytes[128];
};

struct peer_library { /* NCCL's own sum, to be measured beside ours */
    int (*get_id)(nccl_id *);
    int (*init)(nccl_comm *, int, nccl_id, int);
    int (*all_reduce)(const void *, void *, size_t, int type, int op, nccl_comm, cudaStream_t);
    int (*destroy)(nccl_comm);
    const char *(*error_string)(int);
};

bool load_peer_library(peer_library *p)
{
    setenv("NCCL_NVLS_ENABLE", "0", 1);
    void *l = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!l)
        return false;
    p->get_id = (int (*)(nccl_id *))dlsym(l, "ncclGetUniqueId");
    p->init = (int (*)(nccl_comm *, int, nccl_id, int))dlsym(l, "ncclCommInitRank");
    p->all_reduce = (int (*)(const void *, void *, size_t, int, int, nccl_comm, cudaStream_t))dlsym(
        l, "ncclAllReduce");
    p->destroy = (int (*)(nccl_comm))dlsym(l, "ncclCommDestroy");
    p->error_string = (const char *(*)(int))dlsym(l, "ncclGetErrorString");
    return p->error_string && p->get_id && p->init && p->all_reduce && p->destroy;
}

bool meet(rank *r)
{
    finish(r);
    return comm_barrier(r->comm);
}

/* Microseconds a call of f in a graph of n: the median of some. */
template <class F> double time_graph(rank *r, int n, F f)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t start, end;
    std::vector<float> ms(9);
    OK(cudaEventCreate(&start));
    OK(cudaEventCreate(&end));
    OK(cudaStreamBeginCapture(r->d.stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < n; i++)
        f();
    OK(cudaStreamEndCapture(r->d.stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaGraphLaunch(exec, r->d.stream));
    for (float &t : ms) {
        if (!meet(r))
            end_all();
        OK(cudaEventRecord(start, r->d.stream));
        OK(cudaGraphLaunch(exec, r->d.stream));
        OK(cudaEventRecord(end, r->d.stream));
        finish(r);
        OK(cudaEventElapsedTime(&t, start, end));
    }
    OK(cudaGraphExecDestroy(exec));
    OK(cudaGraphDestroy(graph));
    std::sort(ms.begin(), ms.end());
    return 1000.0 * ms[ms.size() / 2] / n;
}

/* One trip or two, with so many blocks and chunks of a thread at a time. */
template <int N, int B> void variant(rank *r, int n, unsigned blocks, bool one)
{
    const launch_shape shape = {dim3(blocks), dim3(THREADS), 0, 0};
    launch(&r->d, "variant", shape,
           one ? one_trip_kernel<__nv_bfloat162, N, B> : two_trips_kernel<__nv_bfloat162, N, B>,
           r->d.peers->view, (uint4 *)r->y, (const uint4 *)r->x, (const uint4 *)r->add, n);
}

template <int N> void bench_variants(rank *r)
{
    for (size_t bytes : {32u << 10, 256u << 10, 512u << 10, 1u << 20, 4u << 20, 16u << 20}) {
        const int n = (int)(bytes / 16), full = (n + THREADS - 1) / THREADS;
        for (int one = 0; one < 2; one++) {
            if ((N == 2 && !one) || (one && N > 2 && bytes > 4u << 20))
                continue;
            if (r->index == 0)
                printf("  %zu KiB, %s:", bytes >> 10, one ? "one trip" : "two trips");
            for (unsigned blocks : {66u, 132u, 264u}) {
                if (blocks > 66 && (unsigned)full < blocks / 2)
                    continue;
                const unsigned b = std::min(blocks, (unsigned)full);
                const double t1 = time_graph(r, 20, [&] { variant<N, 1>(r, n, b, one); });
                const double t2 = time_graph(r, 20, [&] { variant<N, 2>(r, n, b, one); });
                const double t4 = time_graph(r, 20, [&] { variant<N, 4>(r, n, b, one); });
                if (r->index == 0)
                    printf("  %ux: %.2f %.2f %.2f", b, t1, t2, t4);
            }
            if (r->index == 0)
                printf("\n");
        }
    }
}

void bench(rank *r)
{
    static nccl_id id;
    peer_library lib = {};
    nccl_comm comm = nullptr;
    const bool has_nccl = load_peer_library(&lib);
    r->d.act = DT_BF16;
    if (!open_peers(r, false))
        return;
    if (has_nccl && r->index == 0)
        lib.get_id(&id);
    comm_barrier(r->comm);
    if (has_nccl && lib.init(&comm, r->job->n_ranks, id, r->index) != 0)
        end_all();
    auto sum_by_nccl = [&](size_t bytes) {
        const int error = lib.all_reduce(r->x, r->y, bytes / 2, 9, 0, comm, r->d.stream);
        if (error == 0)
            return;
        printf("FAIL rank %d: NCCL: %s\n", r->index, lib.error_string(error));
        end_all();
    };
    for (size_t bytes = 2 << 10; has_nccl && bytes <= 64 << 20; bytes *= 32)
        sum_by_nccl(bytes); /* it connects at its first calls */
    if (!meet(r)) {
        status st = {};
        comm_ok(r->comm, &st);
        printf("FAIL rank %d: %s\n", r->index, st.msg);
        end_all();
    }
    if (r->index == 0)
        printf("-- %d ranks, bf16, in a graph: ours adds a residual\n"
               "     bytes    ours us  NCCL us  NCCL / ours  ours GB/s  rows us\n",
               r->job->n_ranks);
    for (size_t bytes = 2 << 10; bytes <= 64 << 20; bytes *= 2) {
        const int n = bytes <= 1 << 20 ? 100 : 20;
        const double rows = bytes > 4 << 20 ? 0 : time_graph(r, n, [&] {
            int32_t split[COMM_RANKS_MAX + 1];
            for (int i = 0; i <= r->job->n_ranks; i++)
                split[i] = (int32_t)(bytes / 16 * i);
            cuda_gather_rows(&r->d, (float *)r->y, 1, split);
        });
        const double ours = time_graph(r, n, [&] {
            struct all_reduce_args a = {};
            a.y = r->y;
            a.x = r->x;
            a.add = r->add;
            a.rows = 1;
            a.width = (int)(bytes / 2);
            cuda_all_reduce(&r->d, &a);
        });
        const double theirs = !has_nccl ? 0 : time_graph(r, n, [&] { sum_by_nccl(bytes); });
        if (r->index == 0)
            printf("%10zu  %9.2f %8.2f  %11.2f  %9.1f  %7.2f\n", bytes, ours, theirs, theirs / ours,
                   (double)bytes * 2 * (r->job->n_ranks - 1) / r->job->n_ranks / ours / 1e3, rows);
        fflush(stdout);
    }
    if (r->job->variants && r->job->n_ranks == 2)
        bench_variants<2>(r);
    else if (r->job->variants && r->job->n_ranks == 4)
        bench_variants<4>(r);
    if (comm)
        lib.destroy(comm);
    peers_close(r->d.peers);
}

/* ---- all of them ---- */

/* On a shared GPU: these run beside kernels that wait, on multiprocessors whose memory is split so.
 */
template <class F> void split_alike(F *kernel)
{
    OK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                            cudaSharedmemCarveoutMaxShared));
}

template <class T> void split_kernels_of()
{
    split_alike(fill_kernel<T>);
    split_alike(poison_kernel<T>);
    split_alike(check_kernel<T>);
}

void split_kernels()
{
    split_kernels_of<__nv_bfloat16>();
    split_kernels_of<__half>();
    split_alike(check_pass_kernel);
    split_alike(back_kernel);
    split_alike(next_kernel);
    split_alike(delay_kernel);
    split_alike(fill_rows_kernel);
    split_alike(check_rows_kernel);
}

void *run(void *arg)
{
    rank *r = static_cast<rank *>(arg);
    status st = {};
    cudaDeviceProp prop;
    r->d.index = r->index % r->job->n_gpus;
    checking = &r->d;
    OK(cudaSetDevice(r->d.index));
    OK(cudaGetDeviceProperties(&prop, r->d.index));
    split_kernels();
    r->d.sm_count =
        prop.multiProcessorCount / ((r->job->n_ranks + r->job->n_gpus - 1) / r->job->n_gpus);
    r->d.cc = prop.major * 10 + prop.minor;
    r->comm = comm_open(r->job->memory, r->index, &st);
    OK(cudaStreamCreateWithFlags(&r->d.stream, cudaStreamNonBlocking));
    OK(cudaMalloc(&r->x, BYTES_MAX));
    OK(cudaMalloc(&r->y, BYTES_MAX));
    OK(cudaMalloc(&r->add, BYTES_MAX));
    OK(cudaMalloc(&r->seed, sizeof *r->seed));
    OK(cudaMemset(r->seed, 0, sizeof *r->seed));
    fill_kernel<__nv_bfloat16>
        <<<CHECK_BLOCKS, CHECK_THREADS>>>((__nv_bfloat16 *)r->x, r->seed, r->index, BYTES_MAX / 2);
    fill_kernel<__nv_bfloat16>
        <<<CHECK_BLOCKS, CHECK_THREADS>>>((__nv_bfloat16 *)r->add, r->seed, 99, BYTES_MAX / 2);
    OK(cudaHostAlloc((void **)&r->found, sizeof *r->found, cudaHostAllocMapped));
    memset(r->found, 0, sizeof *r->found);
    OK(cudaDeviceSynchronize());
    if (r->job->bench)
        bench(r);
    else
        check(r);
    return NULL;
}

} // namespace

int main(int argc, char **argv)
{
    static rank ranks[COMM_RANKS_MAX];
    status st = {};
    job j = {};
    int n_failed = 0;
    /* Loading a kernel waits for those that run, which on a shared GPU wait for it. */
    setenv("CUDA_MODULE_LOADING", "EAGER", 1);
    j.bench = argc > 1 && strcmp(argv[1], "bench") == 0;
    if (cudaGetDeviceCount(&j.n_gpus) != cudaSuccess || j.n_gpus == 0) {
        printf("skipped: no GPU\n");
        return 77;
    }
    j.variants = argc > 3;
    j.n_ranks = argc > 2 ? atoi(argv[2]) : j.n_gpus;
    if (j.n_ranks < 2 || j.n_ranks > COMM_RANKS_MAX || (j.bench && j.n_ranks > j.n_gpus)) {
        printf("skipped: %d GPUs\n", j.n_gpus);
        return 77;
    }
    j.memory = comm_memory_take(j.n_ranks, 1, &st);
    for (int i = 0; i < j.n_ranks; i++) {
        ranks[i].job = &j;
        ranks[i].index = i;
        pthread_create(&ranks[i].thread, NULL, run, &ranks[i]);
    }
    for (int i = 0; i < j.n_ranks; i++) {
        pthread_join(ranks[i].thread, NULL);
        n_failed += ranks[i].n_failed;
    }
    printf("%d failed\n", n_failed);
    return n_failed != 0;
}
