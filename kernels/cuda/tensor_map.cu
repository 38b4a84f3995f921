/* tensor_map.cu - asks the driver to encode a descriptor; see tensor_map.h.
 *
 * The driver's function is found through the runtime, so that nothing links libcuda. */
#include "kernels/cuda/tensor_map.h"

#include <cudaTypedefs.h>

static PFN_cuTensorMapEncodeTiled_v12000 encoder(void)
{
    void *f = nullptr;
    cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault,
                                         &found) != cudaSuccess ||
        found != cudaDriverEntryPointSuccess)
        return nullptr;
    return (PFN_cuTensorMapEncodeTiled_v12000)f;
}

cudaError_t tensor_map_2d(CUtensorMap *map, enum dtype dtype, const void *at, int rows, int cols,
                          int box_rows, int box_cols)
{
    static const PFN_cuTensorMapEncodeTiled_v12000 encode = encoder();
    if (!encode)
        return cudaErrorNotSupported;
    cuuint64_t size[2] = {(cuuint64_t)cols, (cuuint64_t)rows};
    cuuint64_t stride[1] = {(cuuint64_t)cols * 2};
    cuuint32_t box[2] = {(cuuint32_t)box_cols, (cuuint32_t)box_rows}, each[2] = {1, 1};
    CUresult r = encode(
        map, dtype == DT_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        2, const_cast<void *>(at), size, stride, box, each, CU_TENSOR_MAP_INTERLEAVE_NONE,
        CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return r == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}
