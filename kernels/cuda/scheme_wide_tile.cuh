/* scheme_wide_tile.cuh - what a tile of a wide product of quantized weights is made of, and the
 * rings of shared memory between those who fetch, multiply and carry. */
#ifndef KERNELS_CUDA_SCHEME_WIDE_TILE_CUH
#define KERNELS_CUDA_SCHEME_WIDE_TILE_CUH

#include "kernels/cuda/ptx_wgmma.cuh"
#include "kernels/cuda/scheme_expand.cuh"

struct wide_ring { /* stages: x's 128 columns in two boxes, then a tile of each unit */
    uint32_t stages, full, empty;
    uint32_t stage_bytes;
    int n, stage, parity;

    __device__ __forceinline__ void next()
    {
        if (++stage == n) {
            stage = 0;
            parity ^= 1;
        }
    }
    __device__ __forceinline__ uint32_t at() const
    {
        return stages + stage * stage_bytes;
    }
};

/* A tile of y: GROUPS warpgroups side by side along the weights' rows, each with BLOCKS times 64 of
 * them by N rows of x. */
template <int ROWS, int OF_GROUPS, int OF_BLOCKS> struct wide_tile {
    static const int N = ROWS, GROUPS = OF_GROUPS, BLOCKS = OF_BLOCKS;
    static const int WARPS = GROUPS * 4, UNITS = WARPS * BLOCKS;
    static const int MATHS = WARPS * 32; /* threads that multiply */
    static const int THREADS = MATHS + 128;
    /* Of a thread that multiplies, and of the last warpgroup's: together no more than a block
     * begins with, or the former wait for ever.  One that multiplies alone has enough from the
     * start. */
    static const int REGISTERS = GROUPS == 2 ? 240 : 160;
    static const int REGISTERS_LEFT = GROUPS == 2 ? 24 : 32;
    /* Over 128 columns, of half the rows each, where registers do not hold a chain of all: in one
     * pass 128 by 160 takes 2 to 14 % less time with integers. */
    static const int PASSES = GROUPS == 2 && N > 176 ? 2 : 1;
    static const int PASS_ROWS = N / PASSES;
};

struct wide_codes { /* how a tile of a unit lies */
    uint32_t tile_bytes, scales_at, operands_at;
    uint32_t up_pad;      /* before the first unit of `up`, whose copy wants 128 bytes' alignment */
    bool row_scale;       /* rows are scaled at the end */
    uint32_t scale_shift; /* scale_from_bits */
    float scale_factor;   /* scheme_ones in it; of a row's scale that alone */
    struct expand_book book;

    /* Of chain c of the tile at `tile`, of this lane's two rows. */
    __device__ __forceinline__ float2 scales(uint32_t tile, int c, int lane) const
    {
        const uint32_t v = load_shared_4(tile + scales_at + c * 32 + lane / 4 * 4);
        return {scale_from_bits(v << 16, scale_shift, scale_factor),
                scale_from_bits(v, scale_shift, scale_factor)};
    }

    /* Of a part of the tile at `tile`, of this lane's two rows. */
    template <class T, int EXPAND>
    __device__ __forceinline__ void operands(uint32_t (&to)[2], uint32_t tile, int part,
                                             int lane) const
    {
        const uint32_t row_pair = part * 8 + lane / 4;
        uint32_t stored = 0;
        if (expand_operand_bytes(EXPAND) == 2)
            stored = load_shared_4(tile + operands_at + row_pair * 4);
        else if (expand_operand_bytes(EXPAND) == 1)
            stored = load_shared_2(tile + operands_at + row_pair * 2);
        expand_operands<T, EXPAND>(to, stored);
    }
};

/* PARTS of a wide kernel: of a tile; 0 where it is one, and has no scales as its rows have. */
inline int wide_parts(const struct scheme_layout *l)
{
    return l->scale == SCALE_ROW && l->kind != KIND_CODEBOOK ? 0 : l->parts;
}

/* What PARTS says of a tile. */
template <int EXPAND, int PARTS> struct wide_chains {
    static const int CHAINS = expand_chains(EXPAND, PARTS > 1 ? PARTS : 1);
    static const bool HAS_SCALE = EXPAND != EXPAND_CODEBOOK && PARTS > 0; /* has a chain one? */
    static const int OPERANDS = PARTS > 1 ? PARTS : 1;                    /* of a row */
    static const int TILE_BYTES = /* of a unit; scheme_layout's */
        UNIT_ROWS * (TILE_COLS * expand_bits(EXPAND) / 8 + (HAS_SCALE ? 2 * PARTS : 0) +
                     OPERANDS * expand_operand_bytes(EXPAND));
};

/* Are codes looked up in shared memory?  Two warps of a quarter of an SM wait longer for it than
 * permutations take, where rows are few. */
template <class TILE> __host__ __device__ constexpr bool wide_has_table(int expand)
{
    return expand == EXPAND_CODEBOOK && (TILE::PASS_ROWS >= 48 || TILE::GROUPS == 1);
}

/* From a pair of the table to the next: wide where three stages are left. */
template <class TILE> __host__ __device__ constexpr int wide_table_row()
{
    const bool is_full = TILE::BLOCKS > 1 || (TILE::GROUPS == 2 && TILE::PASS_ROWS > 144);
    return is_full ? TABLE_ROW : TABLE_ROW_WIDE;
}

/* The fragment of one step of a tile's products, from the lane's words of it. */
template <class T, int EXPAND, class TILE>
__device__ __forceinline__ void wide_fragment(uint32_t (&to)[4], const uint32_t *w,
                                              const uint32_t (&operand)[2], uint32_t table,
                                              int lane, const expand_book &book)
{
    if constexpr (wide_has_table<TILE>(EXPAND))
        table_step<T, wide_table_row<TILE>()>(to, w[0], operand, table, lane * 4);
    else
        expand_step<T, EXPAND>(to, w, operand, book);
}

#endif
