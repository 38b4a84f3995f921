/* attention_decode.cuh - what the parts of attention_decode.cu share: its arguments, the sizes that
 * follow from a head's, what a block takes from the list, and which keys and heads that has. */
#ifndef KERNELS_CUDA_ATTENTION_DECODE_CUH
#define KERNELS_CUDA_ATTENTION_DECODE_CUH

#include <math.h>

#include "kernels/cuda/cache8.cuh"
#include "kernels/cuda/cuda_int.h"
#include "kernels/cuda/ptx.cuh"

namespace
{

enum {
    WARPS = 4,
    THREADS = WARPS * 32,
    WARP_KEYS = 16, /* the depth of a tensor core product */
    STAGE_KEYS = WARPS * WARP_KEYS,
    ROWS = 16,        /* of a tensor core tile */
    MERGE_ROWS = 8,   /* rows that the warps of a block join at a time */
    RING = 3,         /* tasks known: in hand, next, on its way */
    DRAW_STAGES = 6,  /* so long before a task's end the one behind the next is drawn */
    FETCH_STAGES = 2, /* and fetched */
    STAGES_MAX = 6,
    SM_BYTES = 228 * 1024, /* shared memory of a multiprocessor, 1 KB a block is the system's */
    SM_BYTES_SMALL = 100 * 1024, /* the least of those of arch_is_small */
};

/* Whether code is for devices of arch_is_small. */
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 900 || __CUDA_ARCH__ >= 1200)
constexpr bool SMALL_CODE = true;
#else
constexpr bool SMALL_CODE = false;
#endif

static_assert((int)ATTENTION_TASK_HEADS == (int)ROWS, "what the plan counts");
static_assert((int)ATTENTION_RUNS_HEADS == (int)MERGE_ROWS, "what HALF means");
static_assert(ATTENTION_SPLIT_MIN % STAGE_KEYS == 0, "splits begin where a stage does");
static_assert(ATTENTION_RUN / STAGE_KEYS <= 32, "a lane holds the page of each stage");

constexpr float LOG2_E = 1.44269504f;

struct decode_params {
    const void *q;     /* [n_tokens, n_heads, head_dim], rows q_stride apart */
    void *out;         /* [n_tokens, n_heads, head_dim] */
    const void *k, *v; /* of the layer: [n_blocks, n_kv_heads, block_tokens, head_dim] */
    const struct attention_wave *wave;
    const struct attention_item *item; /* [n_items] from the wave's first on */
    const int32_t *block_table;        /* [seqs_max, table_stride] */
    float *values;                     /* [partials, n_heads, head_dim] weighted sums of V */
    float2 *sums;                      /* [partials, n_heads] running maximum, sum of weights */
    int32_t *counters;                 /* next task, blocks done; then [merges, n_heads] */
    const float *alibi;
    float scale; /* of q.k, in powers of 2 when there is no cap, else to units of the cap */
    float cap;   /* in powers of 2; 0 = none */
    int n_heads, n_kv_heads, group;
    int tile_heads; /* ROWS, or 8 where registers are short: more heads of a group read K and V
                       again */
    int n_tiles;    /* of a group */
    int n_parts;    /* tasks of an item: kv heads x tiles of their group */
    int q_stride, table_stride, block_tokens, window;
    int last_item; /* of the list's room */
    const float *k_scale,
        *v_scale; /* of the layer, in 8 bits: [n_blocks, n_kv_heads, block_tokens] */
    bool values_e4m3;
};

/* Sizes that follow from the head's, from whether the cache is of 8 bits, and from the device's: */
template <int HEAD_DIM, bool NARROW = false, bool SMALL = SMALL_CODE> struct layout {
    static constexpr int PIECES = HEAD_DIM / 8; /* of 16 bytes, in a row */
    /* Rows that ldmatrix reads together lie in different banks: by exchange where a row is a
     * multiple of all banks, else by an odd number of pieces in a row. */
    static constexpr bool SWIZZLED = PIECES % 8 == 0;
    static constexpr int ROW_BYTES = HEAD_DIM * 2 + (SWIZZLED ? 0 : 16);
    static constexpr int TILE_BYTES = WARP_KEYS * ROW_BYTES; /* K or V of a warp's stage */
    /* The same in 8 bits: 4 bytes of each of 8 rows lie in different banks. */
    static constexpr int CODE_PIECES = HEAD_DIM / 16;
    static constexpr bool CODES_SWIZZLED = CODE_PIECES % 4 == 0;
    static constexpr int CODE_ROW_BYTES =
        HEAD_DIM + (CODE_PIECES % 2 == 0 && !CODES_SWIZZLED ? 16 : 0);
    static constexpr int CODE_BYTES = WARP_KEYS * CODE_ROW_BYTES;
    static constexpr int SCALES_AT = 2 * CODE_BYTES; /* of K, then of V */
    static constexpr int WARP_BYTES =
        NARROW ? SCALES_AT + 2 * WARP_KEYS * (int)sizeof(float) : 2 * TILE_BYTES;
    static constexpr int STAGE_BYTES = WARPS * WARP_BYTES;
    static constexpr int JOIN_STRIDE = (HEAD_DIM + 31) / 32 * 32; /* floats */
    static constexpr int JOIN_BYTES = WARPS * MERGE_ROWS * JOIN_STRIDE * 4;
    static constexpr bool WIDE = HEAD_DIM > 128;                      /* registers are short */
    static constexpr int BLOCKS = WIDE || SMALL ? 1 : NARROW ? 3 : 2; /* of a multiprocessor */
    static constexpr int ROOM =
        (SMALL ? SM_BYTES_SMALL : SM_BYTES) / BLOCKS - 2 * 1024 - JOIN_BYTES;
    static constexpr int STAGES = ROOM / STAGE_BYTES < STAGES_MAX ? ROOM / STAGE_BYTES : STAGES_MAX;
    static constexpr int BYTES = STAGES * STAGE_BYTES + JOIN_BYTES;

    static_assert(PIECES * WARP_KEYS % 32 == 0, "all lanes copy the same number of pieces");
    static_assert(HEAD_DIM % 16 == 0, "the depth of a tensor core product");
    static_assert(STAGES >= 3 || SMALL, "two stages on their way while one is computed");
    static_assert(STAGES >= 1, "small devices wait for each stage of wide heads");

    static __device__ __forceinline__ uint32_t at(int row, int piece)
    {
        return (uint32_t)(row * ROW_BYTES + (SWIZZLED ? piece ^ (row & 7) : piece) * 16);
    }

    /* Of codes, pieces of 16. */
    static __device__ __forceinline__ uint32_t code_at(int row, int piece)
    {
        const int turn = CODE_PIECES == 4 ? row / 2 & 3 : row & 7;
        return (uint32_t)(row * CODE_ROW_BYTES + (CODES_SWIZZLED ? piece ^ turn : piece) * 16);
    }
};

struct task { /* as it lies in shared memory, written by one warp */
    struct attention_item item;
    int32_t part; /* of n_parts; -1 <=> the list is at its end */
};

enum { ITEM_WORDS = sizeof(struct attention_item) / 4 };
static_assert(ITEM_WORDS < 32, "a lane copies a word of an item");
static_assert(sizeof(struct task) % 16 == 0, "read in fours: one more word would be four loads");

struct shared_state {
    struct task ring[RING];
    float2 sums[WARPS][MERGE_ROWS];
    int32_t is_last;
};
static_assert(sizeof(struct shared_state) <= 1024, "what ROOM leaves for it");

struct keys { /* of an item that are seen; all multiples of the stage but `end` and `seen` */
    int first, end, seen; /* keys from `seen` on are in the window */
    int n_stages;
};

__device__ __forceinline__ struct keys keys_of(const struct attention_item &it, int window)
{
    struct keys k;
    k.seen = window > 0 ? max(0, it.kv_len - window) : 0;
    k.first = max(it.first_key, k.seen / STAGE_KEYS * STAGE_KEYS);
    k.end = it.end_key;
    k.n_stages = k.end > k.seen ? (k.end - k.first + STAGE_KEYS - 1) / STAGE_KEYS : 0;
    return k;
}

/* The heads of a task: rows of the tile. */
struct heads {
    int kv, first, n;
};

__device__ __forceinline__ struct heads heads_of(const struct decode_params &p, int part)
{
    struct heads h;
    h.kv = p.n_tiles == 1 ? part : part / p.n_tiles;
    const int tile = part - h.kv * p.n_tiles;
    h.first = h.kv * p.group + tile * p.tile_heads;
    h.n = min(p.tile_heads, p.group - tile * p.tile_heads);
    return h;
}

/* True <=> the stage is the first of a split, but the item's first. */
__device__ __forceinline__ bool split_begins(const struct attention_item &it, const struct keys &k,
                                             int stage)
{
    return stage > 0 && ((k.first + stage * STAGE_KEYS) & (it.size - 1)) == 0;
}

/* Keys of the token's items, but for the last. */
__device__ __forceinline__ int keys_of_item(const struct attention_item &it)
{
    return it.n_items * it.size < it.kv_len ? (int)ATTENTION_RUN : it.size;
}

/* First key of this warp in a stage. */
__device__ __forceinline__ int stage_key(const struct keys &k, int stage)
{
    return k.first + stage * STAGE_KEYS + (int)threadIdx.x / 32 * WARP_KEYS;
}

} // namespace

#endif
