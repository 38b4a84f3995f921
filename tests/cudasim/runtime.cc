/* runtime.cc - the runtime's functions for devices, memory and launches: a GPU of a few SMs.
 *
 * It is of the compute capability that kernels are compiled for (device.h), or that CUDASIM_CC
 * says: "86".
 *
 * Device memory is the host's.  A fresh piece is full of NaNs, so that who reads what nobody wrote
 * notices. */
#include <stdlib.h>
#include <string.h>

#include <map>
#include <mutex>

#include <cuda_runtime_api.h>

#include "tests/cudasim/grid.h"
#include "tests/cudasim/runtime.h"
#include "tests/cudasim/stream.h"
#include "tests/cudasim/tensor_map.h"

namespace
{

const int SMS = 4, WORKERS = 2;
const size_t MEMORY_BYTES = (size_t)4 << 30, SHARED_PLAIN = 48 << 10;

sim::grid_runner *runner()
{
    static sim::grid_runner r(WORKERS);
    return &r;
}

struct allowed { /* dynamic shared memory, by kernel */
    std::mutex lock;
    std::map<const void *, size_t> bytes;
};

allowed *shared_allowed()
{
    static allowed a;
    return &a;
}

int compute_capability()
{
    const char *said = getenv("CUDASIM_CC");
    return said ? atoi(said) : CUDASIM_ARCH / 10;
}

/* That a block may ask for (CUDA programming guide, "compute capabilities"). */
size_t shared_max()
{
    const int cc = compute_capability();
    const bool small = cc == 86 || cc == 89 || cc >= 120;
    return small ? 99 << 10 : cc < 90 ? 163 << 10 : sim::SHARED_MAX;
}

cudaError_t take(void **at, size_t n_bytes)
{
    *at = aligned_alloc(256, (n_bytes + 255) / 256 * 256);
    if (!*at)
        return cudaErrorMemoryAllocation;
    memset(*at, 0xff, n_bytes);
    return cudaSuccess;
}

unsigned cluster_size(const cudaLaunchConfig_t *c)
{
    for (unsigned i = 0; i < c->numAttrs; i++)
        if (c->attrs[i].id == cudaLaunchAttributeClusterDimension)
            return c->attrs[i].val.clusterDim.x;
    return 1;
}

bool may_have(const void *kernel, size_t shared_bytes)
{
    allowed *const a = shared_allowed();
    std::lock_guard<std::mutex> hold(a->lock);
    const auto found = a->bytes.find(kernel);
    return shared_bytes <= (found == a->bytes.end() ? SHARED_PLAIN : found->second);
}

} // namespace

namespace sim
{

cudaError_t runtime_launch(const cudaLaunchConfig_t *c, const void *code, const kernel_binder &bind,
                           void **args)
{
    const unsigned cluster = cluster_size(c);
    const auto make = [=](const cudaKernelNodeParams &p) -> std::function<void()> {
        const dim3 g = p.gridDim, b = p.blockDim;
        if (p.func != code || !may_have(code, p.sharedMemBytes) || g.x * g.y * g.z == 0 ||
            b.x * b.y * b.z > 1024)
            return nullptr;
        launch l = {g, b, cluster, p.sharedMemBytes, code, bind(p.kernelParams), 0};
        return [l = std::move(l)] { runner()->run(l); };
    };
    cudaKernelNodeParams params = {};
    params.func = const_cast<void *>(code);
    params.gridDim = c->gridDim;
    params.blockDim = c->blockDim;
    params.sharedMemBytes = (unsigned)c->dynamicSmemBytes;
    params.kernelParams = args;
    std::function<void()> run = make(params);
    return run ? stream_do(c->stream, std::move(run), make) : cudaErrorInvalidValue;
}

cudaError_t runtime_allow_shared(const void *kernel, cudaFuncAttribute attribute, int n_bytes)
{
    allowed *const a = shared_allowed();
    std::lock_guard<std::mutex> hold(a->lock);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || n_bytes > (int)shared_max())
        return cudaErrorInvalidValue;
    a->bytes[kernel] = (size_t)n_bytes;
    return cudaSuccess;
}

} // namespace sim

extern "C" {

/* ---- devices ---- */

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *index)
{
    *index = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int index)
{
    return index == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int)
{
    *p = {};
    strcpy(p->name, "simulated GPU");
    p->major = compute_capability() / 10;
    p->minor = compute_capability() % 10;
    p->multiProcessorCount = SMS;
    p->totalGlobalMem = MEMORY_BYTES;
    p->sharedMemPerBlockOptin = shared_max();
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int)
{
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
        *value = compute_capability() / 10;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
        *value = compute_capability() % 10;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)shared_max();
        return cudaSuccess;
    default:
        return cudaErrorInvalidValue;
    }
}

cudaError_t cudaDeviceSynchronize(void)
{
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t e)
{
    return e == cudaSuccess                 ? "no error"
           : e == cudaErrorInvalidValue     ? "invalid argument"
           : e == cudaErrorMemoryAllocation ? "out of memory"
                                            : "not simulated";
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **at, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult *result)
{
    const bool known = strcmp(name, "cuTensorMapEncodeTiled") == 0;
    *at = known ? reinterpret_cast<void *>(sim::tensor_map_encode) : NULL;
    *result = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

/* Peers are not simulated. */

cudaError_t cudaDeviceCanAccessPeer(int *can, int, int)
{
    *can = 0;
    return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int, unsigned)
{
    return cudaErrorNotSupported;
}

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *, void *)
{
    return cudaErrorNotSupported;
}

cudaError_t cudaIpcOpenMemHandle(void **, cudaIpcMemHandle_t, unsigned)
{
    return cudaErrorNotSupported;
}

cudaError_t cudaIpcCloseMemHandle(void *)
{
    return cudaErrorNotSupported;
}

/* ---- memory ---- */

/* CUDASIM_FREE: bytes that are said to be free, of a device that others fill.  Tests look how often
 * it was asked. */
long cudasim_n_asked;

cudaError_t cudaMemGetInfo(size_t *n_free, size_t *n_total)
{
    const char *given = getenv("CUDASIM_FREE");
    cudasim_n_asked++;
    *n_total = MEMORY_BYTES;
    *n_free = given ? strtoull(given, NULL, 10) : MEMORY_BYTES;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **at, size_t n_bytes)
{
    return take(at, n_bytes);
}

cudaError_t cudaFree(void *at)
{
    free(at);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **at, size_t n_bytes, unsigned)
{
    return take(at, n_bytes);
}

cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned)
{
    *device = host;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *at)
{
    free(at);
    return cudaSuccess;
}

cudaError_t cudaMemset(void *at, int value, size_t n_bytes)
{
    memset(at, value, n_bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t n_bytes, cudaMemcpyKind)
{
    memcpy(to, from, n_bytes);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *at, int value, size_t n_bytes, cudaStream_t stream)
{
    return sim::stream_do(stream, [=] { memset(at, value, n_bytes); });
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n_bytes, cudaMemcpyKind,
                            cudaStream_t stream)
{
    return sim::stream_do(stream, [=] { memcpy(to, from, n_bytes); });
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind, cudaStream_t stream)
{
    return sim::stream_do(stream, [=] {
        for (size_t i = 0; i < height; i++)
            memcpy(static_cast<char *>(to) + i * to_pitch,
                   static_cast<const char *>(from) + i * from_pitch, width);
    });
}

} // extern "C"
