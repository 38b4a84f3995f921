/* scheme_pack.c - weights of a scheme into tiles, and rows out of them.
 *
 * A part makes the rows of one tile in scratch of its thread, a code a byte, and packs them.  The
 * layout is in matmul_int.h. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/cpu/matmul_int.h"
#include "kernels/half.h"

enum { STEPS = QUANT_BLOCK / 4, ALIGN = 64 };

static size_t align_up(size_t n)
{
    return (n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
}

size_t scheme_tile_bytes(const struct tensor *w, int lanes)
{
    const struct scheme *s = w->scheme;
    const size_t group = pack_group_scale_bytes(s, lanes) + pack_group_zero_bytes(s, lanes);
    return align_up(pack_blocks(w->cols) * pack_quants_bytes(w->dtype, lanes) +
                    (size_t)scheme_groups(s, w->cols) * group);
}

const int32_t *scheme_order(const struct tensor *w, int lanes)
{
    const size_t n_tiles = (size_t)((w->rows + lanes - 1) / lanes);
    return w->scheme && w->scheme->ordered
               ? (const void *)((const char *)w->data + n_tiles * scheme_tile_bytes(w, lanes))
               : NULL;
}

/* ---- one row of one tile ---- */

/* Where the numbers of lane r are. */
struct place {
    const struct scheme *s;
    int lanes, r;
    uint8_t *quants, *scales, *zeros; /* of the tile */
};

static struct place find_place(const struct tensor *w, uint8_t *tile, int lanes, int r)
{
    const struct scheme *s = w->scheme;
    struct place p = {.s = s, .lanes = lanes, .r = r, .quants = tile};
    p.scales = tile + pack_blocks(w->cols) * pack_quants_bytes(s->codes, lanes);
    p.zeros = p.scales + (size_t)scheme_groups(s, w->cols) * pack_group_scale_bytes(s, lanes);
    return p;
}

static uint32_t *block_words(const struct place *p, size_t b)
{
    return (uint32_t *)(void *)(p->quants + b * pack_quants_bytes(p->s->codes, p->lanes));
}

/* FP8: two columns a vector of 16-bit words. */
static void put_pairs(const struct place *p, const uint8_t *codes, size_t b)
{
    uint8_t *to = (uint8_t *)block_words(p, b) + 2 * p->r;
    for (int i = 0; i < QUANT_BLOCK; i += 2, to += 2 * p->lanes)
        memcpy(to, codes + i, 2);
}

static void get_pairs(const struct place *p, uint8_t *codes, size_t b)
{
    const uint8_t *from = (uint8_t *)block_words(p, b) + 2 * p->r;
    for (int i = 0; i < QUANT_BLOCK; i += 2, from += 2 * p->lanes)
        memcpy(codes + i, from, 2);
}

static void put_block(const struct place *p, const uint8_t *codes, size_t b)
{
    const int bits = quant_traits[p->s->codes].bits;
    uint32_t words[STEPS];
    if (p->s->codes == DT_FP8) {
        put_pairs(p, codes, b);
        return;
    }
    memcpy(words, codes, sizeof words);
    if (p->s->codes == DT_INT8)
        for (int i = 0; i < STEPS; i++)
            words[i] ^= 0x80808080; /* code - 128, as signed bytes */
    pack_quants(bits, words, block_words(p, b) + p->r, p->lanes);
}

static void get_block(const struct place *p, uint8_t *codes, size_t b)
{
    const int bits = quant_traits[p->s->codes].bits;
    uint32_t words[STEPS];
    if (p->s->codes == DT_FP8) {
        get_pairs(p, codes, b);
        return;
    }
    unpack_quants(bits, block_words(p, b) + p->r, p->lanes, words);
    if (p->s->codes == DT_INT8)
        for (int i = 0; i < STEPS; i++)
            words[i] ^= 0x80808080;
    memcpy(codes, words, sizeof words);
}

static void put_scale(const struct place *p, int64_t g, float scale)
{
    const enum dtype dtype = p->s->nested ? DT_F32 : p->s->scale;
    uint8_t *row = p->scales + (size_t)g * pack_group_scale_bytes(p->s, p->lanes);
    const uint16_t half = dtype == DT_F16 ? f32_to_f16(scale) : f32_to_bf16(scale);
    if (dtype == DT_F32)
        memcpy(row + 4 * p->r, &scale, 4);
    else
        memcpy(row + 2 * p->r, &half, 2);
}

static float get_scale(const struct place *p, int64_t g)
{
    const enum dtype dtype = p->s->nested ? DT_F32 : p->s->scale;
    const uint8_t *row = p->scales + (size_t)g * pack_group_scale_bytes(p->s, p->lanes);
    float scale;
    dequantize_row(dtype, row + (size_t)p->r * (dtype == DT_F32 ? 4 : 2), &scale, 1);
    return scale;
}

static void put_zero(const struct place *p, int64_t g, int16_t zero)
{
    uint8_t *row = p->zeros + (size_t)g * pack_group_zero_bytes(p->s, p->lanes);
    const uint16_t half = f32_to_bf16((float)(zero - 128)); /* exact to 256 */
    if (p->s->codes == DT_INT8)
        memcpy(row + 2 * p->r, &half, 2);
    else
        row[p->r] = (uint8_t)zero;
}

static int16_t get_zero(const struct place *p, int64_t g)
{
    const uint8_t *row = p->zeros + (size_t)g * pack_group_zero_bytes(p->s, p->lanes);
    uint16_t half;
    if (p->s->codes == DT_INT4)
        return row[p->r];
    memcpy(&half, row + 2 * p->r, 2);
    return (int16_t)(f32_from_bf16(half) + 128);
}

/* The kernels' E4M3 has no NaN.  One in a group makes its scale NaN: a product is NaN either way.
 */
static bool has_nan(const uint8_t *codes, int64_t n)
{
    bool found = false;
    for (int64_t i = 0; i < n; i++)
        found |= (codes[i] & 0x7f) == 0x7f;
    return found;
}

static void put_row(const struct place *p, const struct scheme_rows *row, int64_t cols)
{
    const int64_t n_groups = scheme_groups(p->s, cols), width = cols / n_groups;
    const int64_t whole = cols / QUANT_BLOCK;
    uint8_t rest[QUANT_BLOCK] = {0};
    for (int64_t b = 0; b < whole; b++)
        put_block(p, row->codes + b * QUANT_BLOCK, (size_t)b);
    if (cols % QUANT_BLOCK) {
        memcpy(rest, row->codes + whole * QUANT_BLOCK, (size_t)(cols % QUANT_BLOCK));
        put_block(p, rest, (size_t)whole);
    }
    for (int64_t g = 0; g < n_groups; g++) {
        const bool is_nan = p->s->codes == DT_FP8 && has_nan(row->codes + g * width, width);
        put_scale(p, g, is_nan ? f32_from_bits(0x7fc00000) : row->scales[g]);
        if (pack_group_zero_bytes(p->s, p->lanes))
            put_zero(p, g, row->zeros[g]);
    }
}

void scheme_row_read(const struct tensor *w, int lanes, int64_t row, float *dst)
{
    uint8_t *tile = (uint8_t *)w->data + (size_t)(row / lanes) * scheme_tile_bytes(w, lanes);
    const struct place p = find_place(w, tile, lanes, (int)(row % lanes));
    const int32_t *order = scheme_order(w, lanes);
    const int64_t width = w->cols / scheme_groups(w->scheme, w->cols);
    struct scheme block = *w->scheme; /* a row of it is 32 values of one group */
    block.group = 0;
    for (int64_t first = 0; first < w->cols; first += QUANT_BLOCK) {
        const int64_t n = w->cols - first < QUANT_BLOCK ? w->cols - first : QUANT_BLOCK;
        uint8_t codes[QUANT_BLOCK];
        float scale = get_scale(&p, first / width), values[QUANT_BLOCK];
        int16_t zero = pack_group_zero_bytes(w->scheme, lanes) ? get_zero(&p, first / width) : 0;
        get_block(&p, codes, (size_t)(first / QUANT_BLOCK));
        scheme_dequantize_row(&block, &(struct scheme_rows){codes, &scale, &zero}, n, values);
        for (int64_t i = 0; i < n; i++)
            dst[order ? order[first + i] : first + i] = values[i];
    }
}

/* ---- a weight ---- */

struct put {
    const struct tensor *w;
    const struct weight_source *src;
    size_t tile_bytes;
    int lanes;
    uint8_t *scratch; /* [n_threads, scratch_bytes] */
    size_t scratch_bytes;
};

/* The arrays of one tile's rows in the scratch of a thread; returns their bytes. */
static size_t lay_rows(const struct put *p, uint8_t *at, struct scheme_rows *rows)
{
    const size_t n = (size_t)p->lanes, cols = (size_t)p->w->cols;
    const size_t n_scales = n * (size_t)scheme_groups(p->w->scheme, p->w->cols);
    const size_t scales = align_up(n * cols), zeros = scales + align_up(n_scales * sizeof(float));
    if (rows)
        *rows = (struct scheme_rows){
            .codes = at,
            .scales = (void *)(at + scales),
            .zeros = p->w->scheme->has_zero ? (void *)(at + zeros) : NULL,
        };
    return zeros + align_up(n_scales * sizeof(int16_t));
}

static void put_part(void *ctx, int part, int thread)
{
    const struct put *p = ctx;
    const struct tensor *w = p->w;
    const int64_t first = (int64_t)part * p->lanes, n_groups = scheme_groups(w->scheme, w->cols);
    const int64_t n = w->rows - first < p->lanes ? w->rows - first : p->lanes;
    uint8_t *tile = (uint8_t *)w->data + (size_t)part * p->tile_bytes;
    struct scheme_rows rows;
    lay_rows(p, p->scratch + (size_t)thread * p->scratch_bytes, &rows);
    p->src->rows(p->src->ctx, first, n, &rows);
    if (n < p->lanes) /* lanes without a row multiply zeros */
        memset(tile, 0, p->tile_bytes);
    for (int r = 0; r < n; r++) {
        const struct place place = find_place(w, tile, p->lanes, r);
        const struct scheme_rows row = {.codes = rows.codes + r * w->cols,
                                        .scales = rows.scales + r * n_groups,
                                        .zeros = rows.zeros ? rows.zeros + r * n_groups : NULL};
        put_row(&place, &row, w->cols);
    }
}

bool scheme_put(struct device *d, struct tensor *w, const struct weight_source *src)
{
    struct put p = {.w = w, .src = src, .lanes = pack_lanes(d)};
    size_t n_bytes;
    p.tile_bytes = scheme_tile_bytes(w, p.lanes);
    p.scratch_bytes = lay_rows(&p, NULL, NULL);
    if (!size_mul(p.scratch_bytes, (size_t)d->n_threads, &n_bytes) ||
        !(p.scratch = aligned_alloc(ALIGN, n_bytes)))
        return false;
    cpu_parallel(d, put_part, &p, (int)((w->rows + p.lanes - 1) / p.lanes));
    if (w->scheme->ordered)
        memcpy((void *)(uintptr_t)scheme_order(w, p.lanes), src->order,
               (size_t)w->cols * sizeof *src->order);
    free(p.scratch);
    return true;
}
