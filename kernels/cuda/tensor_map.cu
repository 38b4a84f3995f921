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

/* A box of a tensor of RANK dimensions, the innermost first; pitch[i] bytes from one i + 1 to the next. */
struct boxes {
    cuuint32_t rank;
    cuuint64_t size[4], pitch[3];
    cuuint32_t box[4];
};

static void describe(device *d, CUtensorMap *map, const void *at, CUtensorMapDataType type,
                     CUtensorMapSwizzle swizzle, const boxes *b)
{
    const cuuint32_t step[4] = {1, 1, 1, 1};
    encode_fn *encode = find_encoder(d);
    const CUresult r = !encode
                           ? CUDA_ERROR_NOT_FOUND
                           : encode(map, type, b->rank, const_cast<void *>(at), b->size, b->pitch,
                                    b->box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                                    CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                    CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (r != CUDA_SUCCESS)
        cuda_check(d, cudaErrorInvalidValue, "describe a matrix to the copy engine");
}

void tensor_map_2d(device *d, CUtensorMap *map, const void *at, int columns, int rows, int stride,
                   int box_columns, int box_rows)
{
    const boxes b = {2,
                     {(cuuint64_t)columns, (cuuint64_t)rows},
                     {(cuuint64_t)stride * 2},
                     {(cuuint32_t)box_columns, (cuuint32_t)box_rows}};
    const CUtensorMapSwizzle swizzle = box_columns == 64   ? CU_TENSOR_MAP_SWIZZLE_128B
                                       : box_columns == 32 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                           : CU_TENSOR_MAP_SWIZZLE_32B;
    describe(d, map, at, CU_TENSOR_MAP_DATA_TYPE_UINT16, swizzle, &b);
}

void tensor_map_chunks(device *d, CUtensorMap *map, const void *at, int columns, int rows,
                       int box_chunks, int box_rows)
{
    const boxes b = {3,
                     {64, (cuuint64_t)rows, (cuuint64_t)columns / 64},
                     {(cuuint64_t)columns * 2, 128},
                     {64, (cuuint32_t)box_rows, (cuuint32_t)box_chunks}};
    describe(d, map, at, CU_TENSOR_MAP_DATA_TYPE_UINT16, CU_TENSOR_MAP_SWIZZLE_128B, &b);
}

void tensor_map_heads(device *d, CUtensorMap *map, const head_rows *h)
{
    const cuuint64_t row = (cuuint64_t)h->columns * 2;
    const boxes b = {4,
                     {64, (cuuint64_t)h->apart, (cuuint64_t)(h->rows / h->apart),
                      (cuuint64_t)h->columns / 64},
                     {row, row * (cuuint64_t)h->apart, 128},
                     {64, (cuuint32_t)h->box_run, (cuuint32_t)h->box_runs, (cuuint32_t)h->box_chunks}};
    describe(d, map, h->at, CU_TENSOR_MAP_DATA_TYPE_UINT16, CU_TENSOR_MAP_SWIZZLE_128B, &b);
}

void tensor_map_units(device *d, CUtensorMap *map, const void *at, uint32_t tile_bytes, int n_tiles,
                      size_t unit_bytes, int units, int box_tiles, int box_units)
{
    const cuuint32_t parts = tile_bytes > 256 * 8 ? 2 : 1; /* no side of a box has more than 256 */
    const cuuint32_t part = tile_bytes / parts;
    const boxes b = {4,
                     {part / 8, parts, (cuuint64_t)n_tiles, (cuuint64_t)units},
                     {part, tile_bytes, (cuuint64_t)unit_bytes},
                     {part / 8, parts, (cuuint32_t)box_tiles, (cuuint32_t)box_units}};
    describe(d, map, at, CU_TENSOR_MAP_DATA_TYPE_INT64, CU_TENSOR_MAP_SWIZZLE_NONE, &b);
}

void tensor_map_bytes(device *d, CUtensorMap *map, const void *at, int columns, int rows, int stride,
                      int box_rows)
{
    const boxes b = {2,
                     {(cuuint64_t)columns, (cuuint64_t)rows},
                     {(cuuint64_t)stride},
                     {128, (cuuint32_t)box_rows}};
    describe(d, map, at, CU_TENSOR_MAP_DATA_TYPE_UINT8, CU_TENSOR_MAP_SWIZZLE_128B, &b);
}

void tensor_map_columns(device *d, CUtensorMap *map, const void *at, int columns, int stride,
                        int box_rows)
{
    const boxes b = {2,
                     {(cuuint64_t)stride, (cuuint64_t)columns},
                     {(cuuint64_t)stride},
                     {(cuuint32_t)box_rows, 128}};
    describe(d, map, at, CU_TENSOR_MAP_DATA_TYPE_UINT8, CU_TENSOR_MAP_SWIZZLE_NONE, &b);
}

void tensor_map_groups(device *d, CUtensorMap *map, const byte_groups *g)
{
    const cuuint32_t words = g->unit_bytes / 8; /* no side of a box has more than 256 */
    const boxes b = {4,
                     {words, (cuuint64_t)g->units, (cuuint64_t)g->tiles, (cuuint64_t)g->groups},
                     {g->unit_bytes, (cuuint64_t)g->unit_bytes * g->units, g->group_bytes},
                     {words, (cuuint32_t)g->box_units, 1, (cuuint32_t)g->box_groups}};
    describe(d, map, g->at, CU_TENSOR_MAP_DATA_TYPE_INT64, CU_TENSOR_MAP_SWIZZLE_NONE, &b);
}
