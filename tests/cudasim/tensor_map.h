/* tensor_map.h - tensors as the copy engine knows them, and the boxes that it copies.
 *
 * What the driver would refuse is refused; what is undefined on a GPU (an unaligned place, a box
 * beyond the block's memory) fails with its reason.
 *
 * Thread: the block's. */
#ifndef TESTS_CUDASIM_TENSOR_MAP_H
#define TESTS_CUDASIM_TENSOR_MAP_H

#include <cuda.h>

#include "tests/cudasim/block.h"

namespace sim
{

enum { DIMS_MAX = 5 };

struct tensor_map { /* what lies in a CUtensorMap; the innermost dimension first */
    uint64_t tag;
    char *at;
    uint32_t rank, value_bytes;
    uint32_t swizzle; /* bits of an address that change with those 3 higher */
    uint32_t box[DIMS_MAX];
    uint64_t size[DIMS_MAX], pitch[DIMS_MAX]; /* pitch: bytes from one i to the next */
};
static_assert(sizeof(tensor_map) <= sizeof(CUtensorMap), "the driver's type has room for it");

struct box_place {
    uint32_t rank;
    int32_t x[DIMS_MAX];
};

/* cuTensorMapEncodeTiled */
CUresult tensor_map_encode(CUtensorMap *, CUtensorMapDataType, cuuint32_t rank, void *at,
                           const cuuint64_t *size, const cuuint64_t *pitch, const cuuint32_t *box,
                           const cuuint32_t *step, CUtensorMapInterleave, CUtensorMapSwizzle,
                           CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* The box at a place to address `to` of each block of the cluster in `mask` (0: this one), some
 * time from now; the mbarrier at `bar` of each counts the bytes. */
void tensor_load(uint32_t to, const CUtensorMap *, const box_place &, uint32_t bar, uint32_t mask);
/* And back, in a group of the thread. */
void tensor_store(const CUtensorMap *, const box_place &, uint32_t from);
/* n_bytes as they lie. */
void bulk_copy(uint32_t to, const void *from, uint32_t n_bytes, uint32_t bar);

} // namespace sim

#endif
