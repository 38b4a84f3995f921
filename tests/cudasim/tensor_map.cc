/* tensor_map.cc - encodes tensors, and copies boxes of them to and from shared memory. */
#include "tests/cudasim/tensor_map.h"

#include <string.h>

#include "tests/cudasim/async.h"
#include "tests/cudasim/cluster.h"

namespace sim
{

namespace
{

const uint64_t TAG = 0x70616d20736e6574;

uint32_t type_bytes(CUtensorMapDataType type)
{
    switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
        return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
        return 2;
    case CU_TENSOR_MAP_DATA_TYPE_INT32:
    case CU_TENSOR_MAP_DATA_TYPE_UINT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
        return 4;
    case CU_TENSOR_MAP_DATA_TYPE_INT64:
    case CU_TENSOR_MAP_DATA_TYPE_UINT64:
        return 8;
    default:
        return 0;
    }
}

/* What the driver's documentation asks for. */
bool is_valid(const tensor_map &m)
{
    const uint32_t row = m.box[0] * m.value_bytes;
    bool valid = m.value_bytes > 0 && reinterpret_cast<uintptr_t>(m.at) % 16 == 0 &&
                 row % 16 == 0 && (m.swizzle == 0 || row <= m.swizzle + 16);
    for (uint32_t i = 0; i < m.rank; i++) {
        valid = valid && m.box[i] >= 1 && m.box[i] <= 256;
        valid = valid && m.size[i] >= 1 && m.size[i] <= (uint64_t)1 << 32;
        valid = valid && (i == 0 || (m.pitch[i] % 16 == 0 && m.pitch[i] < (uint64_t)1 << 40));
    }
    return valid;
}

size_t box_bytes(const tensor_map &m)
{
    size_t n = m.value_bytes;
    for (uint32_t i = 0; i < m.rank; i++)
        n *= m.box[i];
    return n;
}

/* Each row of the box, innermost: where it is in the tensor, NULL if it is outside, and its offset
 * in the box.  f(row, offset) */
template <class F> void each_row(const tensor_map &m, const box_place &place, F f)
{
    const size_t row_bytes = (size_t)m.box[0] * m.value_bytes;
    uint32_t i[DIMS_MAX] = {};
    for (size_t offset = 0, n = box_bytes(m); offset < n; offset += row_bytes) {
        char *row = m.at;
        for (uint32_t d = 1; d < m.rank; d++) {
            const int64_t x = (int64_t)place.x[d] + i[d];
            row = row && x >= 0 && x < (int64_t)m.size[d] ? row + x * (int64_t)m.pitch[d] : NULL;
        }
        f(row, offset);
        for (uint32_t d = 1; d < m.rank && ++i[d] == m.box[d]; d++)
            i[d] = 0;
    }
}

/* The bits that a swizzle changes: of 128, 64 or 32 bytes. */
uint32_t swizzle_bits(CUtensorMapSwizzle swizzle)
{
    return swizzle == CU_TENSOR_MAP_SWIZZLE_128B  ? 0x70
           : swizzle == CU_TENSOR_MAP_SWIZZLE_64B ? 0x30
           : swizzle == CU_TENSOR_MAP_SWIZZLE_32B ? 0x10
                                                  : 0;
}

/* Where 16 bytes of an address are. */
uint32_t swizzled(const tensor_map &m, uint32_t address)
{
    return address ^ (address >> 3 & m.swizzle);
}

/* The values of a row that are in the tensor: [first, end) of the box. */
void row_range(const tensor_map &m, const box_place &place, uint32_t *first, uint32_t *end)
{
    const int64_t x = place.x[0], left = (int64_t)m.size[0] - x;
    *first = x < 0 ? (uint32_t)(-x < m.box[0] ? -x : m.box[0]) : 0;
    *end = left <= *first ? *first : left < m.box[0] ? (uint32_t)left : m.box[0];
}

void load_box(const block *b, uint32_t to, const tensor_map &m, const box_place &place)
{
    const uint32_t row_bytes = m.box[0] * m.value_bytes;
    char bytes[256 * 8];
    uint32_t first, end;
    row_range(m, place, &first, &end);
    b->shared.at(to, box_bytes(m));
    each_row(m, place, [&](const char *row, size_t offset) {
        memset(bytes, 0, row_bytes);
        if (row && end > first)
            memcpy(bytes + first * m.value_bytes,
                   row + ((int64_t)place.x[0] + first) * m.value_bytes,
                   (end - first) * m.value_bytes);
        for (uint32_t i = 0; i < row_bytes; i += 16)
            memcpy(b->shared.at(swizzled(m, to + (uint32_t)offset + i), 16), bytes + i, 16);
    });
}

void store_box(const block *b, uint32_t from, const tensor_map &m, const box_place &place)
{
    const uint32_t row_bytes = m.box[0] * m.value_bytes;
    char bytes[256 * 8];
    uint32_t first, end;
    row_range(m, place, &first, &end);
    each_row(m, place, [&](char *row, size_t offset) {
        for (uint32_t i = 0; i < row_bytes; i += 16)
            memcpy(bytes + i, b->shared.at(swizzled(m, from + (uint32_t)offset + i), 16), 16);
        if (row && end > first)
            memcpy(row + ((int64_t)place.x[0] + first) * m.value_bytes,
                   bytes + first * m.value_bytes, (end - first) * m.value_bytes);
    });
}

tensor_map read_map(const CUtensorMap *map, const box_place &place, uint32_t shared)
{
    tensor_map m;
    memcpy(&m, map, sizeof m);
    if (m.tag != TAG)
        fail("what a copy takes for a tensor map is none");
    if (m.rank != place.rank)
        fail("a tensor of %u dimensions, copied as one of %u", m.rank, place.rank);
    if (shared % 128 != 0)
        fail("a box at shared address %#x, which is no multiple of 128", shared);
    return m;
}

void under_way(block *b, std::function<void()> op)
{
    if (b->now())
        op();
    else
        b->under_way.push_back(std::move(op));
}

} // namespace

CUresult tensor_map_encode(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *at,
                           const cuuint64_t *size, const cuuint64_t *pitch, const cuuint32_t *box,
                           const cuuint32_t *step, CUtensorMapInterleave interleave,
                           CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                           CUtensorMapFloatOOBfill fill)
{
    tensor_map m = {};
    if (rank < 1 || rank > DIMS_MAX || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE ||
        fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE ||
        (swizzle != CU_TENSOR_MAP_SWIZZLE_NONE && swizzle_bits(swizzle) == 0))
        return CUDA_ERROR_INVALID_VALUE;
    m.tag = TAG;
    m.at = static_cast<char *>(at);
    m.rank = rank;
    m.value_bytes = type_bytes(type);
    m.swizzle = swizzle_bits(swizzle);
    for (cuuint32_t i = 0; i < rank; i++) {
        m.box[i] = box[i];
        m.size[i] = size[i];
        m.pitch[i] = i == 0 ? m.value_bytes : pitch[i - 1];
        if (step[i] != 1)
            return CUDA_ERROR_INVALID_VALUE;
    }
    if (!is_valid(m))
        return CUDA_ERROR_INVALID_VALUE;
    *map = {};
    memcpy(map, &m, sizeof m);
    return CUDA_SUCCESS;
}

void tensor_load(uint32_t to, const CUtensorMap *map, const box_place &place, uint32_t bar,
                 uint32_t mask)
{
    const tensor_map m = read_map(map, place, to);
    const cluster *c = self->block->cluster;
    const uint32_t blocks = mask ? mask : 1u << self->block->rank;
    if (blocks >> c->block.size())
        fail("a copy to blocks %#x of a cluster of %zu", blocks, c->block.size());
    for (size_t rank = 0; rank < c->block.size(); rank++) {
        block *const b = c->block[rank];
        if (blocks >> rank & 1)
            under_way(b, [=] {
                load_box(b, to, m, place);
                mbarrier_bytes(b, bar, -(int64_t)box_bytes(m));
            });
    }
}

void tensor_store(const CUtensorMap *map, const box_place &place, uint32_t from)
{
    const tensor_map m = read_map(map, place, from);
    const block *const b = self->block;
    defer(&self->stores, [=] { store_box(b, from, m, place); });
}

void bulk_copy(uint32_t to, const void *from, uint32_t n_bytes, uint32_t bar)
{
    block *const b = self->block;
    if (to % 16 != 0 || n_bytes % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0)
        fail("a copy of %u bytes from %p to %#x: want multiples of 16", n_bytes, from, to);
    under_way(b, [=] {
        memcpy(b->shared.at(to, n_bytes), from, n_bytes);
        mbarrier_bytes(b, bar, -(int64_t)n_bytes);
    });
}

} // namespace sim
