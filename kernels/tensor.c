/* tensor.c - what the bytes of every storage type mean. */
#include "kernels/tensor.h"

#include <string.h>

#include "base/checked.h"
#include "kernels/half.h"
#include "kernels/quant_block.h"

const struct dtype_traits dtype_traits[DT_ALL_N] = {
    [DT_F32] = {"f32", 1, 4, 0},        [DT_F16] = {"f16", 1, 2, 1},
    [DT_BF16] = {"bf16", 1, 2, 30},     [DT_Q4_0] = {"q4_0", 32, 18, 2},
    [DT_Q4_1] = {"q4_1", 32, 20, 3},    [DT_Q5_0] = {"q5_0", 32, 22, 6},
    [DT_Q5_1] = {"q5_1", 32, 24, 7},    [DT_Q8_0] = {"q8_0", 32, 34, 8},
    [DT_Q2_K] = {"q2_k", 256, 84, 10},  [DT_Q3_K] = {"q3_k", 256, 110, 11},
    [DT_Q4_K] = {"q4_k", 256, 144, 12}, [DT_Q5_K] = {"q5_k", 256, 176, 13},
    [DT_Q6_K] = {"q6_k", 256, 210, 14}, [DT_INT4] = {"int4", 2, 1, -1},
    [DT_INT8] = {"int8", 1, 1, -1},     [DT_NF4] = {"nf4", 2, 1, -1},
    [DT_FP4] = {"fp4", 2, 1, -1},       [DT_FP8] = {"fp8", 1, 1, -1},
};

enum dtype dtype_from_gguf(uint32_t id)
{
    for (int i = 0; i < DT_N; i++)
        if ((uint32_t)dtype_traits[i].gguf_id == id)
            return (enum dtype)i;
    return DT_N;
}

bool tensor_file_bytes(enum dtype dtype, int64_t rows, int64_t cols, size_t *n_bytes)
{
    const struct dtype_traits *t = &dtype_traits[dtype];
    size_t row_bytes;
    if (rows < 0 || cols < 0 || cols % t->block != 0)
        return false;
    return size_mul((size_t)(cols / t->block), (size_t)t->block_bytes, &row_bytes) &&
           size_mul(row_bytes, (size_t)rows, n_bytes);
}

static uint16_t read_u16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* 16 bytes: low nibbles are values 0..15, high nibbles 16..31. */
static void read_nibbles(const uint8_t *src, uint8_t *q)
{
    for (int i = 0; i < 16; i++) {
        q[i] = src[i] & 15;
        q[i + 16] = src[i] >> 4;
    }
}

/* 32 bits: the fifth bit of each value. */
static void read_fifth_bits(const uint8_t *src, uint8_t *q)
{
    for (int i = 0; i < 32; i++)
        q[i] = (uint8_t)(q[i] | (src[i / 8] >> (i % 8) & 1) << 4);
}

/* The 6-bit scale and minimum of group i of q4_k and q5_k: eight of each in 12 bytes.  The first
 * four lie whole in bytes 0..3 and 4..7, whose upper two bits complete the other four. */
static void read_scale_min(const uint8_t *src, int i, struct quant_block *out)
{
    uint8_t sc, mn;
    if (i < 4) {
        sc = src[i] & 63;
        mn = src[i + 4] & 63;
    } else {
        sc = (uint8_t)((src[i + 4] & 15) | src[i - 4] >> 6 << 4);
        mn = (uint8_t)(src[i + 4] >> 4 | src[i] >> 6 << 4);
    }
    out->sc[0] = out->sc[1] = (int8_t)sc;
    out->mn[0] = out->mn[1] = mn;
}

/* q2_k: scales and minima [16] nibbles, q [64], d, m */
static void read_q2_k(const uint8_t *src, int i, struct quant_block *out)
{
    const uint8_t *q = src + 16 + i / 4 * 32;
    int shift = i % 4 * 2;
    for (int j = 0; j < 32; j++)
        out->q[j] = q[j] >> shift & 3;
    for (int g = 0; g < 2; g++) {
        out->sc[g] = src[2 * i + g] & 15;
        out->mn[g] = src[2 * i + g] >> 4;
    }
    out->d = read_u16(src + 80);
    out->m = read_u16(src + 82);
}

/* q3_k: third bits [32], q [64], 6-bit scales [12], d */
static void read_q3_k(const uint8_t *src, int i, struct quant_block *out)
{
    const uint8_t *q = src + 32 + i / 4 * 32, *scales = src + 96;
    int shift = i % 4 * 2;
    for (int j = 0; j < 32; j++)
        out->q[j] = (uint8_t)((q[j] >> shift & 3) | (src[j] >> i & 1) << 2);
    for (int g = 2 * i; g < 2 * i + 2; g++) {
        int low = scales[g % 8] >> (g / 8 * 4) & 15, high = scales[8 + g % 4] >> (g / 4 * 2) & 3;
        out->sc[g % 2] = (int8_t)((low | high << 4) - 32);
    }
    out->d = read_u16(src + 108);
}

/* q4_k: d, m, scales and minima [12], q [128]: 32 bytes hold two groups, low nibbles first */
static void read_q4_k(const uint8_t *src, int i, struct quant_block *out)
{
    const uint8_t *q = src + 16 + i / 2 * 32;
    int shift = i % 2 * 4;
    for (int j = 0; j < 32; j++)
        out->q[j] = q[j] >> shift & 15;
    read_scale_min(src + 4, i, out);
    out->d = read_u16(src);
    out->m = read_u16(src + 2);
}

/* q5_k: as q4_k, with the fifth bits [32] before q: bit i of byte j */
static void read_q5_k(const uint8_t *src, int i, struct quant_block *out)
{
    const uint8_t *fifth = src + 16, *q = src + 48 + i / 2 * 32;
    int shift = i % 2 * 4;
    for (int j = 0; j < 32; j++)
        out->q[j] = (uint8_t)((q[j] >> shift & 15) | (fifth[j] >> i & 1) << 4);
    read_scale_min(src + 4, i, out);
    out->d = read_u16(src);
    out->m = read_u16(src + 2);
}

/* q6_k: low nibbles [128], upper two bits [64], scales [16], d */
static void read_q6_k(const uint8_t *src, int i, struct quant_block *out)
{
    int half = i / 4, run = i % 4;
    const uint8_t *low = src + half * 64 + run % 2 * 32, *high = src + 128 + half * 32;
    int low_shift = run / 2 * 4, high_shift = run * 2;
    for (int j = 0; j < 32; j++)
        out->q[j] = (uint8_t)((low[j] >> low_shift & 15) | (high[j] >> high_shift & 3) << 4);
    memcpy(out->sc, src + 192 + 2 * i, 2);
    out->d = read_u16(src + 208);
}

void quant_block_read(enum dtype dtype, const void *row, int64_t b, struct quant_block *out)
{
    const struct dtype_traits *t = &dtype_traits[dtype];
    int per = t->block / QUANT_BLOCK, i = (int)(b % per);
    const uint8_t *src = (const uint8_t *)row + b / per * t->block_bytes;
    out->d = read_u16(src);
    out->sc[0] = out->sc[1] = 1;
    switch (dtype) {
    case DT_Q4_0:
        read_nibbles(src + 2, out->q);
        break;
    case DT_Q4_1:
        out->m = read_u16(src + 2);
        read_nibbles(src + 4, out->q);
        break;
    case DT_Q5_0:
        read_nibbles(src + 6, out->q);
        read_fifth_bits(src + 2, out->q);
        break;
    case DT_Q5_1:
        out->m = read_u16(src + 2);
        read_nibbles(src + 8, out->q);
        read_fifth_bits(src + 4, out->q);
        break;
    case DT_Q8_0:
        memcpy(out->q, src + 2, 32);
        break;
    case DT_Q2_K:
        read_q2_k(src, i, out);
        break;
    case DT_Q3_K:
        read_q3_k(src, i, out);
        break;
    case DT_Q4_K:
        read_q4_k(src, i, out);
        break;
    case DT_Q5_K:
        read_q5_k(src, i, out);
        break;
    case DT_Q6_K:
        read_q6_k(src, i, out);
        break;
    default:
        break;
    }
}

void quant_block_dequantize(enum dtype dtype, const struct quant_block *b, float *dst)
{
    const struct quant_traits *t = &quant_traits[dtype];
    float d = f32_from_f16(b->d), m = t->has_min ? f32_from_f16(b->m) : 0;
    for (int i = 0; i < QUANT_BLOCK; i++) {
        float scale = d * (float)b->sc[i / 16];
        int q = t->bits == 8 ? (int8_t)b->q[i] : b->q[i] - t->offset;
        float v = scale * (float)q;
        if (t->has_min && t->has_sc)
            v -= m * (float)b->mn[i / 16];
        else if (t->has_min)
            v += m;
        dst[i] = v;
    }
}

static void widen_row(enum dtype dtype, const uint8_t *src, float *dst, int64_t cols)
{
    if (dtype == DT_F32) {
        memcpy(dst, src, (size_t)cols * 4);
        return;
    }
    for (int64_t i = 0; i < cols; i++) {
        uint16_t h = read_u16(src + 2 * i);
        dst[i] = dtype == DT_F16 ? f32_from_f16(h) : f32_from_bf16(h);
    }
}

void dequantize_row(enum dtype dtype, const void *src, float *dst, int64_t cols)
{
    if (quant_traits[dtype].bits == 0) {
        widen_row(dtype, src, dst, cols);
        return;
    }
    for (int64_t b = 0; b < cols / QUANT_BLOCK; b++) {
        struct quant_block block;
        quant_block_read(dtype, src, b, &block);
        quant_block_dequantize(dtype, &block, dst + b * QUANT_BLOCK);
    }
}
