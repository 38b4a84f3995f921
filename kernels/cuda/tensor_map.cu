/* tensor_map.cu - describes matrices to the copy engine, through the driver's encoder. */
#include "kernels/cuda/tensor_map.h"

typedef CUresult encode_fn(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                           const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                           const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                           CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* The driver is found at run time, so that nothing links to it. */
static encode_fn *find_encoder(device *d)
{
    static thread_local encode_fn *found = NULL;
    if (!found) {
        void *at = NULL;
        cudaDriverEntryPointQueryResult result;
        cuda_check(d, cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &at, 12000,
                                                       cudaEnableDefault, &result),
                   "find the tensor map encoder");
        found = reinterpret_cast<encode_fn *>(at);
    }
    return found;
}

void tensor_map_2d(device *d, CUtensorMap *map, const void *at, int columns, int rows, int stride,
                   int box_columns, int box_rows)
{
    const cuuint64_t size[2] = {(cuuint64_t)columns, (cuuint64_t)rows};
    const cuuint64_t pitch[1] = {(cuuint64_t)stride * 2};
    const cuuint32_t box[2] = {(cuuint32_t)box_columns, (cuuint32_t)box_rows};
    const cuuint32_t step[2] = {1, 1};
    encode_fn *encode = find_encoder(d);
    const CUresult r =
        !encode ? CUDA_ERROR_NOT_FOUND
                : encode(map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 2, const_cast<void *>(at), size, pitch,
                         box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                         CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (r != CUDA_SUCCESS)
        cuda_check(d, cudaErrorInvalidValue, "describe a matrix to the copy engine");
}
