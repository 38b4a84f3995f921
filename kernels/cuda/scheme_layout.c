/* scheme_layout.c - rows of codes to units of fragments, and back; see scheme_layout.h. */
#include "kernels/cuda/scheme_layout.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/half.h"

enum { SCALE_TOP = 15, SHIFT_MAX = 126 }; /* exponents: scale_shift */
enum { LANES = 32, LANE_WORDS = 4, PIECE_BYTES = LANES * LANE_WORDS * 4 };

/* ---- sizes ---- */

static enum scheme_kind kind_of(enum dtype codes)
{
    switch (codes) {
    case DT_INT4:
        return KIND_INT4;
    case DT_INT8:
        return KIND_INT8;
    case DT_FP8:
        return KIND_FP8;
    default:
        return KIND_CODEBOOK;
    }
}

static enum scheme_scale scale_of(const struct scheme *s)
{
    if (s->group == 0 || kind_of(s->codes) == KIND_CODEBOOK)
        return SCALE_ROW;
    return s->scale == DT_F16 ? SCALE_F16 : s->scale == DT_BF16 ? SCALE_BF16 : SCALE_WIDE;
}

void scheme_layout(struct scheme_layout *l, const struct scheme *s, int64_t cols)
{
    *l = (struct scheme_layout){.kind = kind_of(s->codes), .scale = scale_of(s)};
    l->bits = l->kind == KIND_INT4 || l->kind == KIND_CODEBOOK ? 4 : 8;
    l->part_k = s->group % 64 != 0                                ? 32
                : s->group % 128 != 0 || l->kind == KIND_CODEBOOK ? 64
                                                                  : 128;
    l->parts = TILE_COLS / l->part_k;
    l->chains = l->kind == KIND_CODEBOOK ? 1 : l->parts;
    if (l->kind == KIND_CODEBOOK)
        l->operand_bytes = 2;
    else if (l->kind == KIND_INT4)
        l->operand_bytes = s->has_zero ? 1 : 0;
    else if (l->kind == KIND_INT8)
        l->operand_bytes = s->has_zero || l->parts > 1 ? 2 : 0;
    l->n_tiles = (int)((cols + TILE_COLS - 1) / TILE_COLS);
    l->scales_at = (uint32_t)(UNIT_ROWS * TILE_COLS * l->bits / 8);
    l->operands_at =
        l->scales_at + (l->scale == SCALE_ROW ? 0u : (uint32_t)(l->parts * UNIT_ROWS * 2));
    l->tile_bytes = l->operands_at + (uint32_t)(l->parts * UNIT_ROWS * l->operand_bytes);
    l->row_scales_at = (size_t)l->n_tiles * l->tile_bytes;
    l->unit_bytes = l->row_scales_at + (l->scale == SCALE_ROW ? UNIT_ROWS * sizeof(float) : 0);
}

size_t scheme_units_bytes(const struct scheme *s, int64_t rows, int64_t cols)
{
    struct scheme_layout l;
    scheme_layout(&l, s, cols);
    return (size_t)scheme_units(rows) * l.unit_bytes;
}

size_t scheme_weight_bytes(const struct scheme *s, int64_t rows, int64_t cols)
{
    return scheme_units_bytes(s, rows, cols) + (s->ordered ? (size_t)cols * sizeof(int32_t) : 0);
}

bool scheme_same_units(const struct scheme *a, const struct scheme *b)
{
    return a->codes == b->codes && a->group == b->group && a->has_zero == b->has_zero &&
           scale_of(a) == scale_of(b);
}

const float *scheme_codebook(enum dtype codes)
{
    return codes == DT_FP4 ? scheme_fp4 : scheme_nf4;
}

/* ---- scales ---- */

uint16_t scale_wide_from_f32(float v)
{
    const uint32_t bits = f32_to_bits(v * 0x1p-82f), rest = bits & 0x7fffffff;
    const uint32_t rounded = (rest + 0x1fff + (rest >> 14 & 1)) >> 14;
    return (uint16_t)((bits >> 16 & 0x8000) | (rounded < 0x7fff ? rounded : 0x7fff));
}

float scale_wide_to_f32(uint16_t v)
{
    return f32_from_bits((uint32_t)(v & 0x8000) << 16 | (uint32_t)(v & 0x7fff) << 14) * 0x1p82f;
}

static uint16_t scale_to_16(enum scheme_scale scale, float v)
{
    return scale == SCALE_F16    ? f32_to_f16(v)
           : scale == SCALE_BF16 ? f32_to_bf16(v)
                                 : scale_wide_from_f32(v);
}

static float scale_from_16(enum scheme_scale scale, uint16_t v)
{
    return scale == SCALE_F16    ? f32_from_f16(v)
           : scale == SCALE_BF16 ? f32_from_bf16(v)
                                 : scale_wide_to_f32(v);
}

static uint16_t to_act(enum dtype act, float v)
{
    return act == DT_F16 ? f32_to_f16(v) : f32_to_bf16(v);
}

static float from_act(enum dtype act, uint16_t v)
{
    return act == DT_F16 ? f32_from_f16(v) : f32_from_bf16(v);
}

/* A codebook's row scale is 2^-shift: in f16 the largest scale times 2^shift is less than
 * 2^SCALE_TOP. */
static int scale_shift(const float *scales, int64_t n)
{
    float most = 0;
    int exponent = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(scales[i]));
    if (most > 0 && isfinite(most))
        frexpf(most, &exponent);
    return SCALE_TOP - exponent < SHIFT_MAX ? SCALE_TOP - exponent : SHIFT_MAX;
}

static int scale_place(int row)
{
    return 2 * (row % 8) + row / 8;
}

/* ---- packing ---- */

struct packing {
    const struct scheme *s;
    struct scheme_layout l;
    enum dtype act;
    int64_t cols, n_groups, width; /* of a group */
    const struct scheme_rows *from;
    int64_t n;
    int64_t first; /* row of the unit in hand */
    int n_rows;    /* that it has */
    int shift[UNIT_ROWS]; /* of its rows, of a codebook in f16; else 0 */
};

/* Where value j of register i of a lane's fragment lies from its first one's. */
static int value_at(int i, int j)
{
    return i % 2 * 8 * TILE_COLS + i / 2 * 8 + j;
}

static uint32_t word_int4(const uint8_t *c)
{
    uint32_t w = 0;
    for (int i = 0; i < 4; i++)
        w |= (uint32_t)c[value_at(i, 0)] << 4 * i | (uint32_t)c[value_at(i, 1)] << (4 * i + 16);
    return w;
}

static uint32_t word_codebook(const uint8_t *c)
{
    uint32_t w = 0;
    for (int n = 0; n < 8; n++)
        w |= (uint32_t)c[value_at(n / 2, n % 2)] << 4 * n;
    return w;
}

static uint32_t word_8_bits(const uint8_t *c, int half)
{
    uint32_t w = 0;
    for (int b = 0; b < 4; b++)
        w |= (uint32_t)c[value_at(2 * half + b % 2, b / 2)] << 8 * b;
    return w;
}

static void pack_codes(const struct packing *p, const uint8_t *tile, uint8_t *to)
{
    const int per_step = p->l.bits / 4, steps = LANE_WORDS / per_step; /* of a piece */
    for (int piece = 0; piece < TILE_STEPS / steps; piece++)
        for (int lane = 0; lane < LANES; lane++) {
            const uint8_t *c = tile + lane / 4 * TILE_COLS + piece * steps * 16 + lane % 4 * 2;
            uint32_t w[LANE_WORDS];
            for (int i = 0; i < LANE_WORDS; i++) {
                const uint8_t *at = c + i / per_step * 16;
                w[i] = p->l.kind == KIND_INT4       ? word_int4(at)
                       : p->l.kind == KIND_CODEBOOK ? word_codebook(at)
                                                    : word_8_bits(at, i % 2);
            }
            memcpy(to + piece * PIECE_BYTES + lane * (int)sizeof w, w, sizeof w);
        }
}

/* The tile's codes, zeros where the matrix has none. */
static void take_tile(const struct packing *p, int64_t tile, uint8_t *codes)
{
    const int64_t col = tile * TILE_COLS, left = p->cols - col;
    memset(codes, 0, UNIT_ROWS * TILE_COLS);
    for (int r = 0; r < p->n_rows; r++)
        memcpy(codes + r * TILE_COLS, p->from->codes + (p->first + r) * p->cols + col,
               (size_t)(left < TILE_COLS ? left : TILE_COLS));
}

/* Of a group of row r of the unit. */
static void put_operand(const struct packing *p, int r, int64_t group, int place, uint8_t *to)
{
    const int zero = p->from->zeros ? p->from->zeros[group] : 128;
    const float v = p->l.kind == KIND_CODEBOOK ? ldexpf(p->from->scales[group], p->shift[r])
                                               : -(float)zero / scheme_ones(&p->l, p->act);
    const uint16_t as_act = to_act(p->act, v);
    if (p->l.operand_bytes == 1)
        to[place] = (uint8_t)zero;
    else
        memcpy(to + 2 * place, &as_act, 2);
}

/* Scales and operands of the tile, for all its parts that begin inside the matrix. */
static void pack_scales(const struct packing *p, int64_t tile, uint8_t *to)
{
    for (int part = 0; part < p->l.parts; part++)
        for (int r = 0; r < p->n_rows; r++) {
            const int64_t col = tile * TILE_COLS + part * p->l.part_k;
            const int64_t at = (p->first + r) * p->n_groups + col / p->width;
            const int place = part * UNIT_ROWS + scale_place(r);
            if (col >= p->cols)
                continue;
            if (p->l.scale != SCALE_ROW) {
                const uint16_t v = scale_to_16(p->l.scale, p->from->scales[at]);
                memcpy(to + p->l.scales_at + 2 * place, &v, 2);
            }
            if (p->l.operand_bytes)
                put_operand(p, r, at, place, to + p->l.operands_at);
        }
}

static void pack_row_scale(const struct packing *p, int r, uint8_t *to)
{
    const float scale =
        p->l.kind == KIND_CODEBOOK ? ldexpf(1, -p->shift[r]) : p->from->scales[p->first + r];
    memcpy(to + sizeof scale * (size_t)scale_place(r), &scale, sizeof scale);
}

static void pack_unit(struct packing *p, uint8_t *to)
{
    uint8_t codes[UNIT_ROWS * TILE_COLS];
    memset(to, 0, p->l.unit_bytes);
    for (int r = 0; p->l.kind == KIND_CODEBOOK && p->act == DT_F16 && r < p->n_rows; r++)
        p->shift[r] = scale_shift(p->from->scales + (p->first + r) * p->n_groups, p->n_groups);
    for (int64_t tile = 0; tile < p->l.n_tiles; tile++) {
        take_tile(p, tile, codes);
        pack_codes(p, codes, to + (size_t)tile * p->l.tile_bytes);
        pack_scales(p, tile, to + (size_t)tile * p->l.tile_bytes);
    }
    for (int r = 0; p->l.scale == SCALE_ROW && r < p->n_rows; r++)
        pack_row_scale(p, r, to + p->l.row_scales_at);
}

void scheme_pack(const struct scheme *s, enum dtype act, int64_t cols,
                 const struct scheme_rows *from, int64_t n, void *to)
{
    struct packing p = {.s = s, .act = act, .cols = cols, .from = from, .n = n};
    scheme_layout(&p.l, s, cols);
    p.n_groups = scheme_groups(s, cols);
    p.width = cols / p.n_groups;
    for (int64_t u = 0; u < scheme_units(n); u++) {
        p.first = u * UNIT_ROWS;
        p.n_rows = (int)(n - p.first < UNIT_ROWS ? n - p.first : UNIT_ROWS);
        pack_unit(&p, (uint8_t *)to + (size_t)u * p.l.unit_bytes);
    }
}

/* ---- unpacking ---- */

/* The code of one value: the inverse of pack_codes, bit by bit. */
static int code_at(const struct scheme_layout *l, const uint8_t *tile, int row, int col)
{
    const int lane = row % 8 * 4 + col % 8 / 2, i = row / 8 + col % 16 / 8 * 2, j = col % 2;
    const int per_step = l->bits / 4, steps = LANE_WORDS / per_step, step = col / 16;
    const uint8_t *at = tile + step / steps * PIECE_BYTES + lane * LANE_WORDS * 4;
    uint32_t w;
    if (l->bits == 8)
        return at[(step % steps * 2 + i / 2) * 4 + i % 2 + 2 * j];
    memcpy(&w, at + step % steps * 4, sizeof w);
    return (int)(w >> (l->kind == KIND_INT4 ? 4 * i + 16 * j : 8 * i + 4 * j) & 15);
}

static int zero_at(const struct scheme_layout *l, enum dtype act, const uint8_t *tile, int place)
{
    uint16_t v;
    if (l->operand_bytes == 0)
        return l->kind == KIND_INT4 ? 8 : 128;
    if (l->operand_bytes == 1)
        return tile[l->operands_at + (uint32_t)place];
    memcpy(&v, tile + l->operands_at + 2 * place, 2);
    return (int)(-from_act(act, v) * scheme_ones(l, act));
}

float scheme_unpack(const struct scheme *s, enum dtype act, int64_t cols, const void *units,
                    int64_t row, int64_t col, float *scale)
{
    struct scheme_layout l;
    scheme_layout(&l, s, cols);
    const uint8_t *unit = (const uint8_t *)units + (size_t)(row / UNIT_ROWS) * l.unit_bytes;
    const uint8_t *tile = unit + (size_t)(col / TILE_COLS) * l.tile_bytes;
    const int r = (int)(row % UNIT_ROWS), c = (int)(col % TILE_COLS);
    const int place = c / l.part_k * UNIT_ROWS + scale_place(r), code = code_at(&l, tile, r, c);
    if (l.scale == SCALE_ROW) {
        memcpy(scale, unit + l.row_scales_at + sizeof(float) * (size_t)scale_place(r),
               sizeof *scale);
    } else {
        uint16_t v;
        memcpy(&v, tile + l.scales_at + 2 * place, 2);
        *scale = scale_from_16(l.scale, v);
    }
    if (l.kind == KIND_FP8)
        return scheme_e4m3((uint8_t)code);
    if (l.kind == KIND_CODEBOOK) {
        uint16_t by;
        memcpy(&by, tile + l.operands_at + 2 * place, 2);
        const float v = from_act(act, to_act(act, scheme_codebook(s->codes)[code]));
        return from_act(act, to_act(act, v * from_act(act, by)));
    }
    return (float)(code - zero_at(&l, act, tile, place));
}
