/* probe_skinny_quant.cu - how fast 4- and 8-bit weights can meet few rows of 16-bit activations.
 *
 *     nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -I. tests/gpu/probe_skinny_quant.cu \
 *          kernels/cuda/tensor_map.cu
 *
 * A candidate for kernels/cuda, measured alone: its bits against f64, its time against the bytes it
 * reads and against a copy of this run.
 *
 * Weights are the m16 operand of mma.m16n8k16, eight rows of x the n8 one.  A unit is 16 weight
 * rows; it lies in memory group after group of 128 k, each group the codes as lanes take them (one
 * 16-byte load for 64 k of 4 bits) and then 16 scales.  One warp of a block brings whole runs of
 * groups by bulk copies; the others expand codes in registers: a code is made the low mantissa bits
 * of a 16-bit float whose unit in the last place is 1, and one subtraction leaves the integer.
 *
 * Order of summation, whatever the number of rows and warps: the 8 mma of a group are one chain that
 * begins at 0; then sum = sum + scale * chain, group after group.  Several groups' chains run
 * interleaved, in one warp or in several, which hides their latency. */
#include "tests/gpu/matmul_bench.cuh"

#include <vector>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/half.h"

namespace
{

enum {
    WARPS_MAX = 8,
    THREADS = (WARPS_MAX + 1) * 32,
    GROUP = 128,
    CHUNK = 64,
    UNIT = 16,
    STAGES_MAX = 32,
    SHARED_MAX = 110 * 1024,
};

/* ---- codes ---- */

enum kind { INT4, INT8, NF4, FP8, KINDS };
const char *const kind_names[KINDS] = {"int4", "int8", "nf4", "fp8"};

__host__ __device__ constexpr int kind_bits(int kind)
{
    return kind == INT4 || kind == NF4 ? 4 : 8;
}

__host__ __device__ constexpr int codes_bytes(int kind) /* of a group of a unit */
{
    return UNIT * GROUP * kind_bits(kind) / 8;
}

__host__ __device__ constexpr int tile_bytes(int kind)
{
    return codes_bytes(kind) + UNIT * 4;
}

__device__ __forceinline__ uint32_t sub_bf16x2(uint32_t a, uint32_t b)
{
    uint32_t d;
    asm("sub.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

__device__ __forceinline__ uint32_t mul_bf16x2(uint32_t a, uint32_t b)
{
    uint32_t d;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

/* (a & mask) | or_with in one instruction. */
__device__ __forceinline__ uint32_t and_or(uint32_t a, uint32_t mask, uint32_t or_with)
{
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "r"(mask), "r"(or_with));
    return d;
}

/* Four selectors' bytes of a table of 16 bytes; the nibbles of `low` have their top bits off, those
 * of `high` are all ones where the table's upper half is meant, by bytes. */
__device__ __forceinline__ uint32_t pick(const uint32_t table[4], uint32_t low, uint32_t high)
{
    uint32_t a = __byte_perm(table[0], table[1], low), b = __byte_perm(table[2], table[3], low), d;
    asm("lop3.b32 %0, %1, %2, %3, 0xca;" : "=r"(d) : "r"(high), "r"(b), "r"(a));
    return d;
}

struct codebook { /* bf16: upper and lower bytes of 16 values */
    uint32_t high[4], low[4];
};

/* The A fragment of one step: rows g and g + 8, k 2t, 2t + 1 and 8 further. */
template <int KIND> __device__ __forceinline__ void expand(uint32_t a[4], const uint32_t *w, int step,
                                                           const codebook &book)
{
    if constexpr (KIND == INT4) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[i] = sub_bf16x2(and_or(w[step] >> 4 * i, 0x000f000f, 0x43004300), 0x43084308);
    } else if constexpr (KIND == NF4) {
        /* Nibbles in the order of the fragment: 0, 1 of a[0]; 2, 3 of a[1]; ... */
        uint32_t low = w[step] & 0x77777777, flags = w[step] & 0x88888888;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            /* prmt takes the sign of a byte for all its bits when a selector has bit 3 */
            uint32_t f = half ? flags >> 16 : flags & 0xffff;
            uint32_t spread = (f & 0x8) << 4 | (f & 0x80) << 8 | (f & 0x800) << 12 |
                              (f & 0x8000) << 16;
            uint32_t upper = __byte_perm(spread, 0, 0xba98);
            uint32_t sel = half ? low >> 16 : low & 0xffff;
            uint32_t hi = pick(book.high, sel, upper), lo = pick(book.low, sel, upper);
            a[2 * half] = __byte_perm(lo, hi, 0x5140);
            a[2 * half + 1] = __byte_perm(lo, hi, 0x7362);
        }
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t v = w[2 * step + i / 2] >> 8 * (i % 2);
            if constexpr (KIND == INT8) /* low 7 bits - 128 * sign */
                a[i] = sub_bf16x2(and_or(v, 0x007f007f, 0x43004300),
                                  and_or(v, 0x00800080, 0x43004300));
            else /* E4M3: exponent and mantissa where bf16 has them, the exponent 120 too small */
                a[i] = mul_bf16x2(and_or(v << 8, 0x80008000, v << 4 & 0x07f007f0), 0x7b807b80);
        }
    }
}

/* ---- the kernel ---- */

struct quant_args {
    const uint8_t *w; /* [n_units, groups, tile] */
    __nv_bfloat16 *y; /* [rows, n] */
    int rows, n, groups, n_units;
    int units;        /* of a pass */
    int ways_k, ways_rows; /* warps of a unit */
    int span;         /* groups of a stage: KG * ways_k */
    int stages, stage_bytes, x_bytes, sums_bytes;
    codebook book;
};

__device__ __forceinline__ void bulk_copy(uint32_t to, const void *from, uint32_t n, uint32_t bar,
                                          uint64_t policy)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1], %2, [%3], %4;" ::"r"(to),
                 "l"(from), "r"(n), "r"(bar), "l"(policy)
                 : "memory");
}

struct share {
    uint32_t full, empty, sums, ring;
    int first_unit, end_unit, passes, steps;
};

template <int KIND> struct feeder {
    const CUtensorMap &x;
    const quant_args &a;
    const share &s;
    uint64_t once, often;
    int lane;

    __device__ void fill(int step, int stage)
    {
        const int per_pass = (a.groups + a.span - 1) / a.span;
        const int pass = step / per_pass, group = step % per_pass * a.span;
        const int unit = s.first_unit + pass * a.units, n_units = min(a.units, s.end_unit - unit);
        const int n = min(a.span, a.groups - group);
        const uint32_t bar = s.full + 8 * stage, to = s.ring + (uint32_t)(stage * a.stage_bytes);
        if (lane == 0)
            mbarrier_arrive_expect(bar, (uint32_t)(n * (n_units * tile_bytes(KIND) + a.rows * 256)));
        __syncwarp();
        if (lane < n_units)
            bulk_copy(to + (uint32_t)(lane * a.span * tile_bytes(KIND)),
                      a.w + ((size_t)(unit + lane) * a.groups + group) * tile_bytes(KIND),
                      (uint32_t)(n * tile_bytes(KIND)), bar, once);
    }

    __device__ void rows(int step, int stage)
    {
        const int per_pass = (a.groups + a.span - 1) / a.span;
        const int group = step % per_pass * a.span, n = min(a.span, a.groups - group);
        /* x lies before the weights would be unaligned: at the stage's end, 1 KiB aligned */
        const uint32_t to = s.ring + (uint32_t)((stage + 1) * a.stage_bytes - a.span * a.x_bytes);
        if (lane < 2 * n)
            tensor_load_2d(to + (uint32_t)(lane * a.x_bytes / 2), &x, group * GROUP + lane * CHUNK, 0,
                           s.full + 8 * stage, often);
    }

    __device__ void run()
    {
        const int ahead = min(s.steps, a.stages);
        for (int i = 0; i < ahead; i++)
            fill(i, i);
        depend_wait();
        for (int i = 0; i < ahead; i++)
            rows(i, i);
        uint32_t parity = 0;
        for (int i = ahead, stage = 0; i < s.steps; i++) {
            mbarrier_wait_inside(s.empty + 8 * stage, parity);
            fill(i, stage);
            rows(i, stage);
            if (++stage == a.stages) {
                stage = 0;
                parity ^= 1;
            }
        }
    }
};

__device__ __forceinline__ uint32_t swizzled(uint32_t tile, int row, int piece)
{
    return tile + (uint32_t)(row * 128 + ((piece ^ (row & 7)) << 4));
}

__device__ __forceinline__ uint4 load_16(uint32_t at)
{
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(at));
    return v;
}

__device__ __forceinline__ float load_f32(uint32_t at)
{
    float v;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(at));
    return v;
}

/* The chains of KG groups that lie side by side: weights at w, x at x. */
template <int KIND, int ROWG, int KG>
__device__ __forceinline__ void chains(float p[KG][ROWG][4], const quant_args &a, uint32_t w,
                                       uint32_t x, int first_row_group, int n, int lane)
{
    enum { WORDS = kind_bits(KIND) / 4 * 4 }; /* a lane's of 64 k */
#pragma unroll
    for (int chunk = 0; chunk < 2; chunk++) {
        uint32_t words[KG][WORDS];
#pragma unroll
        for (int kg = 0; kg < KG; kg++)
#pragma unroll
            for (int q = 0; q < WORDS / 4; q++) {
                uint32_t at = w + (uint32_t)(min(kg, n - 1) * tile_bytes(KIND) +
                                             (chunk * WORDS / 4 + q) * 512 + lane * 16);
                *(uint4 *)(words[kg] + 4 * q) = load_16(at);
            }
#pragma unroll
        for (int pair = 0; pair < 2; pair++) /* of steps */
#pragma unroll
            for (int kg = 0; kg < KG; kg++) {
                uint32_t xs[ROWG][4];
#pragma unroll
                for (int r = 0; r < ROWG; r++) {
                    int row = 8 * (first_row_group + r) + lane % 8;
                    row = min(row, a.rows - 1);
                    ldmatrix_x4(xs[r], swizzled(x + (uint32_t)((2 * min(kg, n - 1) + chunk) *
                                                               (a.x_bytes / 2)),
                                                row, 4 * pair + lane / 8));
                }
#pragma unroll
                for (int step = 0; step < 2; step++) {
                    uint32_t f[4];
                    expand<KIND>(f, words[kg], 2 * pair + step, a.book);
#pragma unroll
                    for (int r = 0; r < ROWG; r++)
                        mma_16816(p[kg][r], f, xs[r] + 2 * step, __nv_bfloat16());
                }
            }
    }
}

template <int ROWG>
__device__ __forceinline__ void store(const quant_args &a, int unit, int first_row_group,
                                      const float sum[ROWG][4], int lane)
{
#pragma unroll
    for (int r = 0; r < ROWG; r++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int row = 8 * (first_row_group + r) + lane % 4 * 2 + i % 2;
            int col = unit * UNIT + lane / 4 + i / 2 * 8;
            if (row < a.rows && col < a.n)
                a.y[(size_t)row * a.n + col] = __float2bfloat16_rn(sum[r][i]);
        }
}

template <int KIND, int ROWG, int KG>
__device__ void work(const quant_args &a, const share &s, int warp, int lane)
{
    const int per_unit = a.ways_k * a.ways_rows;
    const int mine = warp / per_unit, way = warp % per_unit % a.ways_k;
    const int row_group = warp % per_unit / a.ways_k * ROWG;
    uint32_t parity = 0;
    int stage = 0;
    for (int pass = 0; pass < s.passes; pass++) {
        const int unit = s.first_unit + pass * a.units + mine;
        float sum[ROWG][4] = {};
        for (int first = 0; first < a.groups; first += a.span) {
            const int at = first + way * KG, n = min(KG, a.groups - at);
            mbarrier_wait_inside(s.full + 8 * stage, parity);
            if (n > 0 && unit < s.end_unit) {
                const uint32_t base = s.ring + (uint32_t)(stage * a.stage_bytes);
                const uint32_t w = base + (uint32_t)((mine * a.span + way * KG) * tile_bytes(KIND));
                const uint32_t x = base + (uint32_t)(a.stage_bytes - a.span * a.x_bytes +
                                                     way * KG * a.x_bytes);
                float p[KG][ROWG][4] = {};
                chains<KIND, ROWG, KG>(p, a, w, x, row_group, n, lane);
#pragma unroll
                for (int kg = 0; kg < KG; kg++) {
                    if (kg >= n)
                        break;
                    const uint32_t scales = w + (uint32_t)(kg * tile_bytes(KIND) + codes_bytes(KIND));
                    const float up = load_f32(scales + lane / 4 * 4);
                    const float down = load_f32(scales + (lane / 4 + 8) * 4);
#pragma unroll
                    for (int r = 0; r < ROWG; r++) {
                        float4 v = {__fmul_rn(up, p[kg][r][0]), __fmul_rn(up, p[kg][r][1]),
                                    __fmul_rn(down, p[kg][r][2]), __fmul_rn(down, p[kg][r][3])};
                        if (a.ways_k == 1) {
                            sum[r][0] = __fadd_rn(sum[r][0], v.x);
                            sum[r][1] = __fadd_rn(sum[r][1], v.y);
                            sum[r][2] = __fadd_rn(sum[r][2], v.z);
                            sum[r][3] = __fadd_rn(sum[r][3], v.w);
                        } else { /* one row group: choose sees to it */
                            uint32_t to = s.sums + (uint32_t)((mine * a.groups + at + kg) * 512 +
                                                              lane * 16);
                            asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to),
                                         "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
                                         : "memory");
                        }
                    }
                }
            }
            __syncwarp();
            if (lane == 0)
                mbarrier_arrive(s.empty + 8 * stage);
            if (++stage == a.stages) {
                stage = 0;
                parity ^= 1;
            }
        }
        if (a.ways_k > 1) {
            barrier_sync(1 + mine, 32 * a.ways_k);
            if (way == 0 && unit < s.end_unit) {
#pragma unroll 8
                for (int g = 0; g < a.groups; g++) {
                    uint4 v = load_16(s.sums + (uint32_t)((mine * a.groups + g) * 512 + lane * 16));
                    sum[0][0] = __fadd_rn(sum[0][0], __uint_as_float(v.x));
                    sum[0][1] = __fadd_rn(sum[0][1], __uint_as_float(v.y));
                    sum[0][2] = __fadd_rn(sum[0][2], __uint_as_float(v.z));
                    sum[0][3] = __fadd_rn(sum[0][3], __uint_as_float(v.w));
                }
            }
            if (pass + 1 < s.passes)
                barrier_sync(1 + mine, 32 * a.ways_k);
        }
        if (way == 0 && unit < s.end_unit)
            store<ROWG>(a, unit, row_group, sum, lane);
    }
}

template <int KIND, int ROWG, int KG>
__global__ void __launch_bounds__(THREADS, 2)
    quant_kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ quant_args a)
{
    extern __shared__ uint8_t shared[];
    uint8_t *base = (uint8_t *)(((uintptr_t)shared + 1023) & ~(uintptr_t)1023);
    share s;
    s.full = shared_addr(base);
    s.empty = s.full + STAGES_MAX * 8;
    s.sums = s.full + 1024;
    s.ring = s.sums + (uint32_t)a.sums_bytes;
    s.first_unit = (int)((long long)blockIdx.x * a.n_units / gridDim.x);
    s.end_unit = (int)((long long)(blockIdx.x + 1) * a.n_units / gridDim.x);
    s.passes = (s.end_unit - s.first_unit + a.units - 1) / a.units;
    s.steps = s.passes * ((a.groups + a.span - 1) / a.span);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int workers = a.units * a.ways_k * a.ways_rows;
    depend_launch();
    if (threadIdx.x == WARPS_MAX * 32) {
        tensor_map_prefetch(&x);
        for (int i = 0; i < a.stages; i++) {
            mbarrier_init(s.full + 8 * i, 1);
            mbarrier_init(s.empty + 8 * i, (uint32_t)workers);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    if (warp == WARPS_MAX)
        feeder<KIND>{x, a, s, policy_evict_first(), policy_evict_last(), lane}.run();
    else if (warp < workers)
        work<KIND, ROWG, KG>(a, s, warp, lane);
}

/* ---- choice and launch ---- */

typedef void quant_function(const CUtensorMap, const quant_args);

struct plan {
    int row_groups, k_groups; /* template arguments */
    quant_args a;
    int grid;
    size_t shared_bytes;
};

int divide_up(int a, int b)
{
    return (a + b - 1) / b;
}

bool make_plan(plan *p, int kind, int rows, int n, int in, int sms, int k_groups, int span_max)
{
    quant_args *a = &p->a;
    const int row_groups = divide_up(rows, 8);
    *p = {};
    a->rows = rows;
    a->n = n;
    a->groups = in / GROUP;
    a->n_units = divide_up(n, UNIT);
    p->grid = a->n_units < sms ? a->n_units : sms;
    const int per_block = divide_up(a->n_units, p->grid);
    a->units = divide_up(per_block, divide_up(per_block, WARPS_MAX));
    const int ways = WARPS_MAX / a->units;
    a->ways_k = a->ways_rows = 1;
    if (row_groups == 1)
        a->ways_k = ways >= 4 ? 4 : ways >= 2 ? 2 : 1;
    else if (ways >= 2)
        a->ways_rows = 2;
    p->row_groups = divide_up(row_groups, a->ways_rows);
    p->row_groups = p->row_groups == 3 ? 4 : p->row_groups;
    if (p->row_groups > 4 || p->row_groups * k_groups > 8) /* registers */
        return false;
    p->k_groups = k_groups;
    a->span = k_groups * a->ways_k;
    if (a->span > span_max)
        return false;
    a->x_bytes = 2 * divide_up(rows * 128, 1024) * 1024; /* two boxes, each aligned */
    a->sums_bytes = a->ways_k > 1 ? a->units * a->groups * 512 : 0;
    a->stage_bytes = a->units * a->span * tile_bytes(kind);
    a->stage_bytes = divide_up(a->stage_bytes, 1024) * 1024 + a->span * a->x_bytes;
    a->stages = (SHARED_MAX - 2048 - a->sums_bytes) / a->stage_bytes;
    a->stages = a->stages < STAGES_MAX ? a->stages : STAGES_MAX;
    p->shared_bytes = 2048 + (size_t)a->sums_bytes + (size_t)a->stages * a->stage_bytes;
    return a->stages >= 2;
}

#define ROW(KIND, ROWG)                                                                            \
    {                                                                                              \
        quant_kernel<KIND, ROWG, 1>, quant_kernel<KIND, ROWG, 2>, quant_kernel<KIND, ROWG, 4>      \
    }
#define ALL(KIND)                                                                                  \
    {                                                                                              \
        ROW(KIND, 1), ROW(KIND, 2), ROW(KIND, 4)                                                   \
    }
quant_function *const functions[KINDS][3][3] = {ALL(INT4), ALL(INT8), ALL(NF4), ALL(FP8)};

int log2_of(int v)
{
    return v == 1 ? 0 : v == 2 ? 1 : 2;
}

void run(struct device *d, int kind, const plan *p, const __nv_bfloat16 *x, int in)
{
    CUtensorMap map;
    tensor_map_2d(d, &map, x, in, p->a.rows, in, CHUNK, p->a.rows);
    quant_function *f = functions[kind][log2_of(p->row_groups)][log2_of(p->k_groups)];
    OK(cudaFuncSetAttribute(f, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_MAX));
    launch(d, "run the probe", {dim3((unsigned)p->grid), dim3(THREADS), p->shared_bytes, 0}, f, map,
           p->a);
}

/* ---- packing, on the host ---- */

const float nf4[16] = {-1.0F,          -0.69619280F,  -0.52507305F,  -0.39491749F,
                       -0.28444138F,   -0.18477343F,  -0.09105004F,  0.0F,
                       0.07958030F,    0.16093020F,   0.24611230F,   0.33791524F,
                       0.44070983F,    0.56261700F,   0.72295684F,   1.0F};

float e4m3(int c)
{
    const int e = c >> 3 & 15, m = c & 7;
    const float v = e == 0 ? ldexpf((float)m, -9) : ldexpf((float)(8 + m), e - 10);
    return c & 0x80 ? -v : v;
}

float value_of(int kind, int code)
{
    switch (kind) {
    case INT4:
        return (float)(code - 8);
    case INT8:
        return (float)(int8_t)code;
    case NF4:
        return f32_from_bf16(f32_to_bf16(nf4[code]));
    default:
        return e4m3(code);
    }
}

codebook make_codebook()
{
    codebook b = {};
    for (int i = 0; i < 16; i++) {
        const uint16_t v = f32_to_bf16(nf4[i]);
        b.high[i / 4] |= (uint32_t)(v >> 8) << 8 * (i % 4);
        b.low[i / 4] |= (uint32_t)(v & 255) << 8 * (i % 4);
    }
    return b;
}

struct weights {
    std::vector<uint8_t> code;  /* [n, in] */
    std::vector<float> scale;   /* [n, groups] */
    std::vector<uint8_t> packed;
};

/* Value i of a lane's fragment of a step: row and k. */
void fragment_place(int lane, int i, int *row, int *k)
{
    *row = lane / 4 + i / 2 % 2 * 8;
    *k = lane % 4 * 2 + i % 2 + i / 4 * 8;
}

void pack_group(uint8_t *to, int kind, const weights &w, int unit, int group, int n, int in)
{
    for (int lane = 0; lane < 32; lane++)
        for (int step = 0; step < GROUP / 16; step++)
            for (int i = 0; i < 8; i++) {
                int row, k;
                fragment_place(lane, i, &row, &k);
                row += unit * UNIT;
                k += group * GROUP + step * 16;
                const uint8_t c = row < n ? w.code[(size_t)row * in + k] : kind == INT4 ? 8 : 0;
                const int chunk = step / 4, s = step % 4;
                if (kind_bits(kind) == 4) {
                    /* int4: nibble i / 2 and, for odd i, 4 further; nf4: nibble i */
                    const int nibble = kind == INT4 ? i / 2 + i % 2 * 4 : i;
                    uint32_t *word = (uint32_t *)(to + chunk * 512 + lane * 16) + s;
                    *word |= (uint32_t)c << 4 * nibble;
                } else {
                    /* words 2s and 2s + 1; pairs i / 2: bytes 0 and 2, or 1 and 3 */
                    const int word = 2 * s + i / 4, byte = i / 2 % 2 + i % 2 * 2;
                    uint8_t *at = to + (chunk * 2 + word / 4) * 512 + lane * 16 + word % 4 * 4;
                    at[byte] = c;
                }
            }
    float *scales = (float *)(to + codes_bytes(kind));
    for (int r = 0; r < UNIT; r++) {
        const int row = unit * UNIT + r;
        scales[r] = row < n ? w.scale[(size_t)row * (in / GROUP) + group] : 0;
    }
}

weights make_weights(int kind, int n, int in)
{
    weights w;
    uint64_t state = 12345 + (uint64_t)kind;
    auto next = [&] {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        return (uint32_t)(state >> 33);
    };
    const int groups = in / GROUP, units = divide_up(n, UNIT);
    w.code.resize((size_t)n * in);
    w.scale.resize((size_t)n * groups);
    for (auto &c : w.code) {
        c = (uint8_t)(next() >> 3 & (kind_bits(kind) == 4 ? 15 : 255));
        if (kind == FP8 && (c & 0x7f) == 0x7f)
            c ^= 1;
    }
    for (auto &s : w.scale)
        s = 0.001F * (float)(1 + next() % 1000) / (kind == INT8 ? 16 : kind == FP8 ? 64 : 1);
    w.packed.assign((size_t)units * groups * tile_bytes(kind), 0);
    for (int u = 0; u < units; u++)
        for (int g = 0; g < groups; g++)
            pack_group(w.packed.data() + ((size_t)u * groups + g) * tile_bytes(kind), kind, w, u, g,
                       n, in);
    return w;
}

/* ---- right ---- */

int check_shape(struct device *d, int kind, int n, int in)
{
    const int rows_max = 64;
    const weights w = make_weights(kind, n, in);
    uint8_t *packed = take<uint8_t>(w.packed.size());
    OK(cudaMemcpy(packed, w.packed.data(), w.packed.size(), cudaMemcpyHostToDevice));
    __nv_bfloat16 *x = random_matrix<__nv_bfloat16>((size_t)rows_max * in, 1.0F);
    __nv_bfloat16 *y = take<__nv_bfloat16>((size_t)rows_max * n);
    std::vector<uint16_t> hx((size_t)rows_max * in), hy((size_t)rows_max * n), first;
    OK(cudaMemcpy(hx.data(), x, hx.size() * 2, cudaMemcpyDeviceToHost));
    int bad = 0;
    for (int rows : {1, 2, 5, 8, 9, 16, 17, 32, 33, 64})
        for (int k_groups : {1, 2, 4}) {
            plan p;
            if (!make_plan(&p, kind, rows, n, in, d->sm_count, k_groups, 16))
                continue;
            p.a.w = packed;
            p.a.y = y;
            p.a.book = make_codebook();
            OK(cudaMemset(y, 0xff, hy.size() * 2));
            run(d, kind, &p, x, in);
            OK(cudaStreamSynchronize(d->stream));
            OK(cudaMemcpy(hy.data(), y, hy.size() * 2, cudaMemcpyDeviceToHost));
            int wrong = 0, other = 0;
            for (int r = 0; r < rows; r += rows > 8 ? 7 : 1)
                for (int c = 0; c < n; c++) {
                    double sum = 0, all = 0;
                    for (int g = 0; g < in / GROUP; g++) {
                        double part = 0;
                        for (int k = g * GROUP; k < (g + 1) * GROUP; k++) {
                            const double v = (double)value_of(kind, w.code[(size_t)c * in + k]) *
                                             (double)f32_from_bf16(hx[(size_t)r * in + k]);
                            part += v;
                            all += fabs(v) * (double)w.scale[(size_t)c * (in / GROUP) + g];
                        }
                        sum += part * (double)w.scale[(size_t)c * (in / GROUP) + g];
                    }
                    const double got = (double)f32_from_bf16(hy[(size_t)r * n + c]);
                    wrong += !(fabs(got - sum) <= fabs(sum) / 256 + all * 1e-6);
                }
            if (first.empty())
                first.assign(hy.begin(), hy.begin() + n); /* row 0 alone */
            for (int c = 0; c < n; c++)
                other += hy[c] != first[c];
            if (wrong || other) {
                printf("  %s %dx%d rows %d, %d groups at once: %d wrong, %d of row 0 other bits\n",
                       kind_names[kind], n, in, rows, k_groups, wrong, other);
                bad++;
            }
        }
    OK(cudaFree(packed));
    OK(cudaFree(x));
    OK(cudaFree(y));
    return bad;
}

/* ---- fast ---- */

double copy_bytes_s(struct device *d)
{
    const size_t n = (size_t)1 << 30;
    uint8_t *a = take<uint8_t>(n), *b = take<uint8_t>(n);
    OK(cudaMemset(a, 1, n));
    const double us = graph_us(d->stream, 4, [&](int) {
        OK(cudaMemcpyAsync(b, a, n, cudaMemcpyDeviceToDevice, d->stream));
    });
    OK(cudaFree(a));
    OK(cudaFree(b));
    return 2.0 * (double)n / us * 1e6;
}

void time_shape(struct device *d, int kind, int n, int in, double copy)
{
    const int rows_of[] = {1, 4, 8, 16, 32, 64};
    const size_t bytes = (size_t)divide_up(n, UNIT) * (in / GROUP) * tile_bytes(kind);
    const int copies = (int)((size_t)256e6 / bytes) + 2; /* past the L2 */
    uint8_t *w = take<uint8_t>(bytes * copies);
    fill_kernel<float><<<1024, 256>>>((float *)w, bytes * copies / 4, 1.0F, 7);
    OK(cudaDeviceSynchronize());
    __nv_bfloat16 *x = random_matrix<__nv_bfloat16>((size_t)64 * in, 1.0F);
    __nv_bfloat16 *y = take<__nv_bfloat16>((size_t)64 * n);
    printf("%-4s %6d x %5d ", kind_names[kind], n, in);
    for (int rows : rows_of) {
        double best = 1e30;
        int best_kg = 0;
        for (int k_groups : {1, 2, 4}) {
            plan p;
            if (!make_plan(&p, kind, rows, n, in, d->sm_count, k_groups, 16))
                continue;
            p.a.y = y;
            p.a.book = make_codebook();
            const double us = graph_us(d->stream, 4 * copies, [&](int i) {
                p.a.w = w + bytes * (size_t)(i % copies);
                run(d, kind, &p, x, in);
            });
            if (us < best) {
                best = us;
                best_kg = k_groups;
            }
        }
        printf(" | %2d: %6.2f us %3.0f%% k%d", rows, best, 100 * (double)bytes / best * 1e6 / copy,
               best_kg);
        fflush(stdout);
    }
    printf("\n");
    OK(cudaFree(w));
    OK(cudaFree(x));
    OK(cudaFree(y));
}

} // namespace

int main(int argc, char **argv)
{
    struct device d = device_bare(DT_BF16);
    int bad = 0;
    for (int kind = 0; kind < KINDS; kind++)
        for (const auto &s : {std::pair<int, int>{40, 256}, {528, 1152}, {4096, 896}})
            bad += check_shape(&d, kind, s.first, s.second);
    printf("right: %d bad\n", bad);
    if (argc > 1 && strcmp(argv[1], "check") == 0)
        return bad != 0;
    const double copy = copy_bytes_s(&d);
    printf("copy %.0f GB/s; time a product, %% of the copy for the bytes of its weights\n", copy / 1e9);
    for (int kind = 0; kind < KINDS; kind++)
        for (const auto &s : {std::pair<int, int>{6144, 4096}, {4096, 4096}, {28672, 4096},
                              {4096, 14336}, {8192, 8192}})
            time_shape(&d, kind, s.first, s.second, copy);
    return bad != 0;
}
