/* matmul_tiles.cu - products on devices before Hopper, and shapes that its kernels do not take.
 *
 * A block makes 64 rows by 64 rows of w (gated: 32 of each), chunk after chunk of 64 k through
 * three stages of cp.async.  Each sum is one chain of mma over k, as everywhere. */
#include "kernels/cuda/matmul_epilogue.cuh"
#include "kernels/cuda/launch.cuh"

namespace {

enum {
    TILE = 64, /* rows of x, and of w */
    CHUNK = 64,
    ROW_BYTES = CHUNK * 2,
    SIDE_BYTES = TILE * ROW_BYTES,
    STAGES = 3,
    STAGE_BYTES = 2 * SIDE_BYTES, /* x, then w */
    SHARED_BYTES = STAGES * STAGE_BYTES,
    THREADS = 128, /* a warp has 16 rows of x */
};
static_assert((int)SHARED_BYTES <= 48 * 1024, "no attribute is needed for so much");

/* The 16-byte piece j of row r lies at j ^ (r % 8): ldmatrix meets no bank twice. */
__device__ uint32_t piece_at(uint32_t side, int row, int piece)
{
    return side + (uint32_t)(row * ROW_BYTES + ((piece ^ (row & 7)) << 4));
}

struct tile_args {
    struct product p;
    bool aligned;
    int chunks;
};

/* Row `i` of the block's 64 rows of w, or NULL past the last. */
__device__ const uint16_t *w_row(const product &p, int i)
{
    int columns = p.w_up ? TILE / 2 : TILE;
    int col = blockIdx.x * columns + i % columns;
    const uint16_t *w = (const uint16_t *)(i < columns ? p.w : p.w_up);
    return col < p.n ? w + (size_t)col * p.in : nullptr;
}

__device__ const uint16_t *x_row(const product &p, int i)
{
    int row = blockIdx.y * TILE + i;
    return row < p.rows ? (const uint16_t *)p.x + (size_t)row * p.in : nullptr;
}

/* What lies outside x or w becomes zero. */
__device__ void side_load(uint32_t side, const product &p, bool is_w, int chunk)
{
    for (int i = threadIdx.x; i < TILE * 8; i += THREADS) {
        int row = i / 8, piece = i % 8, k = chunk * CHUNK + piece * 8;
        const uint16_t *from = is_w ? w_row(p, row) : x_row(p, row);
        bool inside = from && k < p.in;
        cp_async_16(piece_at(side, row, piece), inside ? from + k : (const uint16_t *)p.x,
                    inside ? 16 : 0);
    }
}

__device__ void stage_load(uint32_t ring, const tile_args &a, int chunk)
{
    uint32_t at = ring + (uint32_t)(chunk % STAGES * STAGE_BYTES);
    if (chunk < a.chunks) {
        side_load(at, a.p, false, chunk);
        side_load(at + SIDE_BYTES, a.p, true, chunk);
    }
    cp_async_commit();
}

template <class T> __device__ void chunk_mma(float sum[TILE / 8][4], uint32_t x, int warp, int lane)
{
    int row = lane % 8, matrix = lane / 8;
    uint32_t w = x + SIDE_BYTES;
#pragma unroll
    for (int step = 0; step < CHUNK / 16; step++) {
        uint32_t rows[4], tiles[4];
        ldmatrix_x4(rows, piece_at(x, 16 * warp + 8 * (matrix % 2) + row, 2 * step + matrix / 2));
#pragma unroll
        for (int tile = 0; tile < TILE / 8; tile += 2) {
            ldmatrix_x4(tiles, piece_at(w, 8 * (tile + matrix / 2) + row, 2 * step + matrix % 2));
            mma_16816(sum[tile], rows, tiles, T());
            mma_16816(sum[tile + 1], rows, tiles + 2, T());
        }
    }
}

template <class T, bool GATED>
__device__ void sums_store(const tile_args &a, float sum[TILE / 8][4], int warp, int lane)
{
    constexpr int GATES = GATED ? TILE / 16 : TILE / 8; /* tiles of 8 columns of y */
#pragma unroll
    for (int tile = 0; tile < GATES; tile++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = blockIdx.y * TILE + 16 * warp + 8 * half + lane / 4;
            int col = (blockIdx.x * GATES + tile) * 8 + lane % 4 * 2;
            epilogue_two<T>(a.p, row, col, sum[tile] + 2 * half,
                            GATED ? sum[(tile + GATES) % (TILE / 8)] + 2 * half : nullptr,
                            a.aligned);
        }
}

/* grid: (columns of y, rows), in tiles; block: THREADS */
template <class T, bool GATED>
__global__ void __launch_bounds__(THREADS) tiles_kernel(const tile_args a)
{
    DYNAMIC_SHARED(__align__(1024) uint8_t, shared);
    uint32_t ring = shared_addr(shared);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float sum[TILE / 8][4] = {};
    for (int chunk = 0; chunk < STAGES - 1; chunk++)
        stage_load(ring, a, chunk);
    for (int chunk = 0; chunk < a.chunks; chunk++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads(); /* the chunk is there, and everybody has left the one before */
        stage_load(ring, a, chunk + STAGES - 1);
        chunk_mma<T>(sum, ring + (uint32_t)(chunk % STAGES * STAGE_BYTES), warp, lane);
    }
    sums_store<T, GATED>(a, sum, warp, lane);
}

} // namespace

/* ---- the launcher ---- */

void matmul_tiles(struct device *d, const struct product *p)
{
    tile_args a = {*p, epilogue_aligned(p), (p->in + CHUNK - 1) / CHUNK};
    int columns = p->w_up ? TILE / 2 : TILE;
    dim3 grid((unsigned)((p->n + columns - 1) / columns), (unsigned)((p->rows + TILE - 1) / TILE));
    auto *kernel = d->act == DT_F16
                       ? p->w_up ? tiles_kernel<__half, true> : tiles_kernel<__half, false>
                   : p->w_up ? tiles_kernel<__nv_bfloat16, true>
                             : tiles_kernel<__nv_bfloat16, false>;
    launch_alone(d, "run the product by tiles", {grid, dim3(THREADS), SHARED_BYTES, 0}, kernel, a);
}
