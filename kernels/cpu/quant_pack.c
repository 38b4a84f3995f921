/* quant_pack.c - weights from file layout to the order in which matmul reads them, and back. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/matmul_int.h"
#include "kernels/half.h"

enum { STEPS = QUANT_BLOCK / 4, PUT_PART_BYTES = 256 * 1024 };

size_t pack_tile_bytes(const struct tensor *w, int lanes)
{
    const enum dtype dtype = w->dtype;
    size_t n;
    if (w->scheme)
        return scheme_tile_bytes(w, lanes);
    if (quant_traits[dtype].bits == 0)
        n = (size_t)(w->cols + (dtype == DT_BF16 && w->cols % 2)) * (size_t)lanes *
            (size_t)dtype_traits[dtype].block_bytes;
    else
        n = (size_t)(w->cols / QUANT_BLOCK) *
                (pack_quants_bytes(dtype, lanes) + pack_scales_bytes(dtype, lanes)) +
            (size_t)(w->cols / 256) * pack_supers_bytes(dtype, lanes);
    return (n + 63) & ~(size_t)63;
}

size_t cpu_weight_bytes(const struct device *d, const struct tensor *w)
{
    int lanes = pack_lanes(d);
    size_t n = (size_t)((w->rows + lanes - 1) / lanes) * pack_tile_bytes(w, lanes);
    if (w->scheme && w->scheme->ordered)
        n += ((size_t)w->cols * sizeof(int32_t) + 63) & ~(size_t)63;
    return n;
}

void pack_quants(int bits, const uint32_t *w, uint32_t *out, int stride)
{
    if (bits == 8) {
        for (int s = 0; s < STEPS; s++)
            out[s * stride] = w[s];
        return;
    }
    int low = bits >= 4 ? 4 : 2;
    if (low == 4)
        for (int s = 0; s < 4; s++)
            out[s * stride] = (w[s] & 0x0f0f0f0f) | (w[s + 4] & 0x0f0f0f0f) << 4;
    uint32_t *next = low == 4 ? out + 4 * stride : out;
    if (low == 2 || bits == 6) {
        int shift = low == 2 ? 0 : 4;
        for (int v = 0; v < 2; v++, next += stride) {
            *next = 0;
            for (int s = 0; s < 4; s++)
                *next |= (w[4 * v + s] >> shift & 0x03030303) << 2 * s;
        }
    }
    if (bits == 5 || bits == 3) {
        *next = 0;
        for (int s = 0; s < STEPS; s++)
            *next |= (w[s] >> low & 0x01010101) << s;
    }
}

void unpack_quants(int bits, const uint32_t *in, int stride, uint32_t *w)
{
    if (bits == 8) {
        for (int s = 0; s < STEPS; s++)
            w[s] = in[s * stride];
        return;
    }
    int low = bits >= 4 ? 4 : 2;
    memset(w, 0, STEPS * sizeof *w);
    if (low == 4)
        for (int s = 0; s < STEPS; s++)
            w[s] = in[s % 4 * stride] >> (s / 4 * 4) & 0x0f0f0f0f;
    const uint32_t *next = low == 4 ? in + 4 * stride : in;
    if (low == 2 || bits == 6) {
        int shift = low == 2 ? 0 : 4;
        for (int s = 0; s < STEPS; s++)
            w[s] |= (next[s / 4 * stride] >> s % 4 * 2 & 0x03030303) << shift;
        next += 2 * stride;
    }
    if (bits == 5 || bits == 3)
        for (int s = 0; s < STEPS; s++)
            w[s] |= (*next >> s & 0x01010101) << low;
}

/* Where the numbers of lane r of 32-column block b lie in a tile. */
struct pack_place {
    uint32_t *quants;
    uint8_t *scales; /* of lane 0 */
    uint16_t *super; /* of lane r; NULL if there is none */
};

static struct pack_place find_place(uint8_t *tile, const struct tensor *w, int lanes, int64_t b,
                                    int r)
{
    size_t n_blocks = (size_t)(w->cols / QUANT_BLOCK), at = (size_t)b;
    size_t quants = pack_quants_bytes(w->dtype, lanes), scales = pack_scales_bytes(w->dtype, lanes);
    size_t supers = pack_supers_bytes(w->dtype, lanes);
    uint8_t *super = tile + n_blocks * (quants + scales) + at / 8 * supers;
    return (struct pack_place){
        .quants = (uint32_t *)(void *)(tile + at * quants) + r,
        .scales = tile + n_blocks * quants + at * scales,
        .super = supers ? (uint16_t *)(void *)super + r : NULL,
    };
}

static void pack_scales(const struct quant_traits *t, const struct quant_block *in, int lanes,
                        int r, struct pack_place at)
{
    if (!t->has_sc) {
        memcpy(at.scales + 2 * r, &in->d, 2);
        if (t->has_min)
            memcpy(at.scales + 2 * (lanes + r), &in->m, 2);
        return;
    }
    at.super[0] = in->d;
    if (t->has_min)
        at.super[lanes] = in->m;
    for (int g = 0; g < 2; g++) {
        uint8_t *to = at.scales + g * lanes + r;
        if (t->group == 16)
            *to = (uint8_t)((uint8_t)in->sc[g] | (t->has_min ? in->mn[g] << 4 : 0));
        else
            *to = g == 0 ? (uint8_t)in->sc[0] : in->mn[0];
    }
}

static void unpack_scales(const struct quant_traits *t, struct pack_place at, int lanes, int r,
                          struct quant_block *out)
{
    out->sc[0] = out->sc[1] = 1;
    if (!t->has_sc) {
        memcpy(&out->d, at.scales + 2 * r, 2);
        if (t->has_min)
            memcpy(&out->m, at.scales + 2 * (lanes + r), 2);
        return;
    }
    out->d = at.super[0];
    if (t->has_min)
        out->m = at.super[lanes];
    for (int g = 0; g < 2; g++) {
        uint8_t byte = at.scales[g * lanes + r];
        if (t->group == 32) {
            out->sc[g] = (int8_t)at.scales[r];
            out->mn[g] = at.scales[lanes + r];
        } else {
            out->sc[g] = (int8_t)(t->has_min ? byte & 15 : byte);
            out->mn[g] = byte >> 4;
        }
    }
}

struct put {
    struct tensor *w;
    const uint8_t *src;
    size_t row_bytes; /* of src */
    size_t tile_bytes;
    int lanes;
    int64_t n_tiles;
    int tiles_per_part;
};

static void put_plain_tile(const struct put *p, uint8_t *tile, int64_t first)
{
    const enum dtype dtype = p->w->dtype;
    const size_t size = (size_t)dtype_traits[dtype].block_bytes;
    for (int r = 0; r < p->lanes && first + r < p->w->rows; r++) {
        const uint8_t *src = p->src + (size_t)(first + r) * p->row_bytes;
        for (int64_t c = 0; c < p->w->cols; c++, src += size)
            memcpy(tile + pack_plain_at(dtype, p->lanes, c, r) * size, src, size == 4 ? 4 : 2);
        if (dtype == DT_BF16 && p->w->cols % 2)
            memset(tile + pack_plain_at(dtype, p->lanes, p->w->cols, r) * size, 0, 2);
    }
}

static void put_quant_tile(const struct put *p, uint8_t *tile, int64_t first)
{
    const struct quant_traits *t = &quant_traits[p->w->dtype];
    for (int r = 0; r < p->lanes && first + r < p->w->rows; r++) {
        const uint8_t *src = p->src + (size_t)(first + r) * p->row_bytes;
        for (int64_t b = 0; b < p->w->cols / QUANT_BLOCK; b++) {
            struct quant_block block;
            uint32_t words[STEPS];
            struct pack_place at = find_place(tile, p->w, p->lanes, b, r);
            quant_block_read(p->w->dtype, src, b, &block);
            memcpy(words, block.q, sizeof words);
            pack_quants(t->bits, words, at.quants, p->lanes);
            pack_scales(t, &block, p->lanes, r, at);
        }
    }
}

static void put_part(void *ctx, int part, int thread)
{
    const struct put *p = ctx;
    (void)thread;
    int64_t tile = (int64_t)part * p->tiles_per_part, end = tile + p->tiles_per_part;
    for (; tile < end && tile < p->n_tiles; tile++) {
        uint8_t *to = (uint8_t *)p->w->data + (size_t)tile * p->tile_bytes;
        if ((tile + 1) * p->lanes > p->w->rows) /* lanes without a row multiply zeros */
            memset(to, 0, p->tile_bytes);
        if (quant_traits[p->w->dtype].bits == 0)
            put_plain_tile(p, to, tile * p->lanes);
        else
            put_quant_tile(p, to, tile * p->lanes);
    }
}

void cpu_weight_put(struct device *d, struct tensor *w, const struct weight_source *src)
{
    const struct dtype_traits *t = &dtype_traits[w->dtype];
    struct put p = {.w = w, .src = src->at, .lanes = pack_lanes(d)};
    w->layout = LAYOUT_PACKED;
    if (w->scheme) {
        d->put_failed |= !scheme_put(d, w, src);
        return;
    }
    p.row_bytes =
        src->row_bytes ? src->row_bytes : (size_t)(w->cols / t->block) * (size_t)t->block_bytes;
    p.tile_bytes = pack_tile_bytes(w, p.lanes);
    p.n_tiles = (w->rows + p.lanes - 1) / p.lanes;
    size_t per = PUT_PART_BYTES / (p.tile_bytes + 1) + 1;
    p.tiles_per_part = (int)per;
    cpu_parallel(d, put_part, &p, (int)((p.n_tiles + (int64_t)per - 1) / (int64_t)per));
}

static void read_plain(const struct tensor *w, int lanes, const uint8_t *tile, int r, float *dst)
{
    size_t size = (size_t)dtype_traits[w->dtype].block_bytes;
    for (int64_t c = 0; c < w->cols; c++)
        dequantize_row(w->dtype, tile + pack_plain_at(w->dtype, lanes, c, r) * size, dst + c, 1);
}

void pack_row_read(const struct tensor *w, int lanes, int64_t row, float *dst)
{
    const struct quant_traits *t = &quant_traits[w->dtype];
    uint8_t *tile = (uint8_t *)w->data + (size_t)(row / lanes) * pack_tile_bytes(w, lanes);
    int r = (int)(row % lanes);
    if (w->scheme) {
        scheme_row_read(w, lanes, row, dst);
        return;
    }
    if (t->bits == 0) {
        read_plain(w, lanes, tile, r, dst);
        return;
    }
    for (int64_t b = 0; b < w->cols / QUANT_BLOCK; b++) {
        struct quant_block block;
        uint32_t words[STEPS];
        struct pack_place at = find_place(tile, w, lanes, b, r);
        unpack_quants(t->bits, at.quants, lanes, words);
        memcpy(block.q, words, sizeof words);
        unpack_scales(t, at, lanes, r, &block);
        quant_block_dequantize(w->dtype, &block, dst + b * QUANT_BLOCK);
    }
}
