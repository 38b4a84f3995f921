/* vendor.cu - cuBLASLt, which benchmarks measure beside our products; nothing else loads it.
 *
 * It is looked for when it is asked for: the module is not linked with it.  Row-major y = x w^T is
 * the library's column-major y^T = w x^T.  Only its header knows its types, so a module that was
 * built without that has no such column. */
#include "kernels/cuda/cuda_host.h"

#if __has_include(<cublasLt.h>)

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace
{

const char *const LIBRARIES[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
const size_t WORK_BYTES = (size_t)64 << 20; /* more than its proposals want on Hopper, 32 MiB */

struct api {
    decltype(&cublasLtCreate) create;
    decltype(&cublasLtDestroy) destroy;
    decltype(&cublasLtMatmulDescCreate) desc_create;
    decltype(&cublasLtMatmulDescDestroy) desc_destroy;
    decltype(&cublasLtMatmulDescSetAttribute) desc_set;
    decltype(&cublasLtMatrixLayoutCreate) layout_create;
    decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
    decltype(&cublasLtMatmulPreferenceCreate) preference_create;
    decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
    decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
    decltype(&cublasLtMatmulAlgoGetHeuristic) propose;
    decltype(&cublasLtMatmul) multiply;
};

} // namespace

struct vendor {
    struct device *d;
    api lib;
    cublasLtHandle_t handle;
    void *work; /* WORK_BYTES */
    cublasLtMatmulDesc_t desc;
    cublasLtMatmulPreference_t preference;
    cublasLtMatrixLayout_t w, x, y; /* of the product chosen last; NULL <=> none was */
    cublasLtMatmulAlgo_t algo;
};

namespace
{

/* ---- the library ---- */

template <class F> bool find(void *library, const char *name, F *to, status *why)
{
    void *at = dlsym(library, name);
    memcpy(to, &at, sizeof at);
    return at || status_fail(why, STATUS_UNSUPPORTED, "the library has no %s", name);
}

/* It stays loaded. */
void *load(status *why)
{
    void *library = NULL;
    for (const char *name : LIBRARIES)
        if (!library)
            library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        status_fail(why, STATUS_UNSUPPORTED, "neither libcublasLt.so.13 nor %s", dlerror());
    return library;
}

bool find_all(api *a, status *why)
{
    void *l = load(why);
    return l && find(l, "cublasLtCreate", &a->create, why) &&
           find(l, "cublasLtDestroy", &a->destroy, why) &&
           find(l, "cublasLtMatmulDescCreate", &a->desc_create, why) &&
           find(l, "cublasLtMatmulDescDestroy", &a->desc_destroy, why) &&
           find(l, "cublasLtMatmulDescSetAttribute", &a->desc_set, why) &&
           find(l, "cublasLtMatrixLayoutCreate", &a->layout_create, why) &&
           find(l, "cublasLtMatrixLayoutDestroy", &a->layout_destroy, why) &&
           find(l, "cublasLtMatmulPreferenceCreate", &a->preference_create, why) &&
           find(l, "cublasLtMatmulPreferenceDestroy", &a->preference_destroy, why) &&
           find(l, "cublasLtMatmulPreferenceSetAttribute", &a->preference_set, why) &&
           find(l, "cublasLtMatmulAlgoGetHeuristic", &a->propose, why) &&
           find(l, "cublasLtMatmul", &a->multiply, why);
}

/* ---- one device's ---- */

void drop_layouts(vendor *v)
{
    for (cublasLtMatrixLayout_t *l : {&v->w, &v->x, &v->y}) {
        if (*l)
            v->lib.layout_destroy(*l);
        *l = NULL;
    }
}

void close_vendor(vendor *v)
{
    if (!v)
        return;
    drop_layouts(v);
    if (v->preference)
        v->lib.preference_destroy(v->preference);
    if (v->desc)
        v->lib.desc_destroy(v->desc);
    if (v->handle)
        v->lib.destroy(v->handle);
    cudaFree(v->work);
    free(v);
}

bool make(vendor *v, status *why)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    cublasStatus_t e = v->lib.create(&v->handle);
    if (e == CUBLAS_STATUS_SUCCESS)
        e = v->lib.desc_create(&v->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (e == CUBLAS_STATUS_SUCCESS)
        e = v->lib.desc_set(v->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
    if (e == CUBLAS_STATUS_SUCCESS)
        e = v->lib.preference_create(&v->preference);
    if (e == CUBLAS_STATUS_SUCCESS)
        e = v->lib.preference_set(v->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                  &WORK_BYTES, sizeof WORK_BYTES);
    if (e != CUBLAS_STATUS_SUCCESS)
        return status_fail(why, STATUS_UNSUPPORTED, "the library does not start: status %d",
                           (int)e);
    if (cudaMalloc(&v->work, WORK_BYTES) == cudaSuccess)
        return true;
    cudaGetLastError(); /* running out is not sticky */
    return status_fail(why, STATUS_TOO_LARGE, "no memory for the library");
}

vendor *open_vendor(device *d, status *why)
{
    vendor *v = static_cast<vendor *>(calloc(1, sizeof *v));
    if (!v) {
        status_fail(why, STATUS_BUSY, "no memory for the library");
        return NULL;
    }
    v->d = d;
    if (find_all(&v->lib, why) && make(v, why))
        return v;
    close_vendor(v);
    return NULL;
}

bool choose(vendor *v, const vendor_product *p)
{
    const cudaDataType_t act = v->d->act == DT_F16 ? CUDA_R_16F : CUDA_R_16BF;
    cublasLtMatmulHeuristicResult_t found = {};
    int n_found = 0;
    drop_layouts(v);
    const bool ok =
        v->lib.layout_create(&v->w, act, p->in, p->n, p->in) == CUBLAS_STATUS_SUCCESS &&
        v->lib.layout_create(&v->x, act, p->in, p->rows, p->in) == CUBLAS_STATUS_SUCCESS &&
        v->lib.layout_create(&v->y, p->y_f32 ? CUDA_R_32F : act, p->n, p->rows, p->n) ==
            CUBLAS_STATUS_SUCCESS &&
        v->lib.propose(v->handle, v->desc, v->w, v->x, v->y, v->y, v->preference, 1, &found,
                       &n_found) == CUBLAS_STATUS_SUCCESS &&
        n_found > 0 && found.state == CUBLAS_STATUS_SUCCESS;
    v->algo = found.algo;
    return ok;
}

void multiply(vendor *v, void *y, const void *x, const void *w)
{
    const float one = 1, zero = 0;
    char at[64];
    const cublasStatus_t e =
        v->lib.multiply(v->handle, v->desc, &one, w, v->w, x, v->x, &zero, y, v->y, y, v->y,
                        &v->algo, v->work, WORK_BYTES, v->d->stream);
    snprintf(at, sizeof at, "cuBLASLt, status %d", (int)e);
    cuda_check(v->d, e == CUBLAS_STATUS_SUCCESS ? cudaSuccess : cudaErrorUnknown, at);
}

} // namespace

#else

namespace
{

vendor *open_vendor(device *, status *why)
{
    status_fail(why, STATUS_UNSUPPORTED, "the module was built without cublasLt.h");
    return NULL;
}

bool choose(vendor *, const vendor_product *)
{
    return false;
}

void multiply(vendor *, void *, const void *, const void *)
{
}

void close_vendor(vendor *)
{
}

} // namespace

#endif

const struct vendor_ops cuda_vendor = {
    .name = "cuBLASLt",
    .open = open_vendor,
    .choose = choose,
    .multiply = multiply,
    .close = close_vendor,
};
