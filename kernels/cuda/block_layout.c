/* block_layout.c - rows of block formats to units of fragments, and back; see block_layout.h. */
#include "kernels/cuda/block_layout.h"

#include <string.h>

#include "kernels/half.h"
#include "kernels/quant_block.h"

enum { LANES = 32, BLOCKS = TILE_COLS / QUANT_BLOCK };

/* ---- sizes ---- */

void block_layout(struct block_layout *l, enum dtype f, int64_t cols)
{
    *l = (struct block_layout){.format = f, .tile_bytes = block_tile_bytes(f)};
    l->n_tiles = (int)((cols + TILE_COLS - 1) / TILE_COLS);
    l->unit_bytes = (size_t)l->n_tiles * l->tile_bytes;
}

size_t block_units_bytes(enum dtype f, int64_t rows, int64_t cols)
{
    struct block_layout l;
    block_layout(&l, f, cols);
    return (size_t)scheme_units(rows) * l.unit_bytes;
}

/* ---- codes ---- */

/* Where value j of register i of a lane's fragment of a step lies among 16 rows of codes. */
static int value_at(int lane, int step, int i, int j)
{
    return (lane / 4 + i % 2 * 8) * TILE_COLS + step * 16 + lane % 4 * 2 + i / 2 * 8 + j;
}

/* Where word `word` of a lane lies, of so many bits a code. */
static int word_at(int bits, int lane, int word)
{
    const int words = bits == 1 ? 1 : bits / 2; /* that lie together */
    return (word / words * LANES * words + lane * words + word % words) * 4;
}

/* `bits` bits of each code, from bit `from` on. */
static void put_bits(const uint8_t *codes, int from, int bits, uint8_t *to)
{
    const int steps = 4 / bits, mask = (1 << bits) - 1;
    for (int lane = 0; lane < LANES; lane++)
        for (int word = 0; word < TILE_STEPS / steps; word++) {
            uint32_t w = 0;
            for (int n = 0; n < steps * 8; n++) {
                const int p = n / 8, i = n / 2 % 4, j = n % 2;
                const int code = codes[value_at(lane, word * steps + p, i, j)];
                w |= (uint32_t)(code >> from & mask) << block_bit_at(bits, p, i, j);
            }
            memcpy(to + word_at(bits, lane, word), &w, sizeof w);
        }
}

static void put_bytes(const uint8_t *codes, uint8_t *to)
{
    for (int lane = 0; lane < LANES; lane++)
        for (int word = 0; word < 2 * TILE_STEPS; word++)
            for (int b = 0; b < 4; b++)
                to[word_at(8, lane, word) + b] =
                    codes[value_at(lane, word / 2, word % 2 * 2 + b % 2, b / 2)];
}

static int get_bits(const uint8_t *from, int bits, int row, int col)
{
    const int lane = row % 8 * 4 + col % 8 / 2, i = row / 8 + col % 16 / 8 * 2, j = col % 2;
    const int step = col / 16, steps = 4 / bits;
    uint32_t w;
    if (bits == 8)
        return from[word_at(8, lane, 2 * step + i / 2) + i % 2 + 2 * j];
    memcpy(&w, from + word_at(bits, lane, step / steps), sizeof w);
    return (int)(w >> block_bit_at(bits, step % steps, i, j)) & ((1 << bits) - 1);
}

/* ---- groups ---- */

/* Where the group of row r of 16 in quarter q lies, and the row's super. */
static uint32_t group_at(enum dtype f, int r, int q)
{
    return block_groups_at(f) + (uint32_t)(8 * q + r % 8) * block_group_bytes(f);
}

static uint32_t super_at(enum dtype f, int r)
{
    return block_supers_at(f) + (uint32_t)(r % 8) * block_super_bytes(f);
}

static void put_bytes_of_group(enum dtype f, const struct quant_block *b, uint8_t *to)
{
    to[0] = (uint8_t)b->sc[0];
    to[2] = f == DT_Q3_K || f == DT_Q6_K ? (uint8_t)b->sc[1] : b->mn[0];
    if (f == DT_Q2_K)
        for (int i = 0; i < 2; i++)
            to[2 * i] = (uint8_t)(b->sc[i] | b->mn[i] << 4);
}

/* d and m of row r of 16 to where two rows have theirs. */
static void put_scales(enum dtype f, const struct quant_block *b, int r, uint8_t *to)
{
    memcpy(to + 2 * (r / 8), &b->d, 2);
    if (block_has_min(f))
        memcpy(to + 4 + 2 * (r / 8), &b->m, 2);
}

static void put_group(enum dtype f, const struct quant_block *b, int r, int q, uint8_t *tile)
{
    if (block_has_super(f)) {
        put_bytes_of_group(f, b, tile + group_at(f, r, q) + r / 8);
        put_scales(f, b, r, tile + super_at(f, r));
    } else {
        put_scales(f, b, r, tile + group_at(f, r, q));
    }
}

/* The same as the quant_block that it came from, but for the codes. */
static struct quant_block get_group(enum dtype f, const uint8_t *tile, int r, int q)
{
    const uint8_t *group = tile + group_at(f, r, q), *bytes = group + r / 8;
    const uint8_t *scales = block_has_super(f) ? tile + super_at(f, r) : group;
    struct quant_block b = {.sc = {1, 1}};
    memcpy(&b.d, scales + 2 * (r / 8), 2);
    if (block_has_min(f))
        memcpy(&b.m, scales + 4 + 2 * (r / 8), 2);
    for (int i = 0; block_has_super(f) && i < 2; i++) {
        const int at = block_has_16(f) ? 2 * i : 0;
        b.sc[i] = (int8_t)(f == DT_Q2_K ? bytes[at] & 15 : bytes[at]);
        b.mn[i] = f == DT_Q2_K ? bytes[at] >> 4 : bytes[2];
    }
    return b;
}

/* ---- tiles ---- */

static void pack_tile(enum dtype f, int64_t cols, const uint8_t *rows, size_t row_bytes, int n,
                      int64_t tile, uint8_t *to)
{
    uint8_t codes[UNIT_ROWS * TILE_COLS] = {0};
    struct quant_block q;
    memset(to, 0, block_tile_bytes(f));
    for (int r = 0; r < n; r++)
        for (int b = 0; b < BLOCKS && tile * TILE_COLS + b * QUANT_BLOCK < cols; b++) {
            quant_block_read(f, rows + (size_t)r * row_bytes, tile * BLOCKS + b, &q);
            memcpy(codes + r * TILE_COLS + b * QUANT_BLOCK, q.q, QUANT_BLOCK);
            put_group(f, &q, r, b, to);
        }
    if (block_low_bits(f) == 8)
        put_bytes(codes, to);
    else
        put_bits(codes, 0, block_low_bits(f), to);
    if (block_high_bits(f))
        put_bits(codes, block_low_bits(f), block_high_bits(f), to + block_high_at(f));
}

void block_pack(enum dtype f, int64_t cols, const void *rows, int64_t n, void *to)
{
    const struct dtype_traits *t = &dtype_traits[f];
    const size_t row_bytes = (size_t)(cols / t->block) * (size_t)t->block_bytes;
    struct block_layout l;
    block_layout(&l, f, cols);
    for (int64_t u = 0; u < scheme_units(n); u++)
        for (int64_t tile = 0; tile < l.n_tiles; tile++) {
            const int64_t first = u * UNIT_ROWS;
            pack_tile(f, cols, (const uint8_t *)rows + (size_t)first * row_bytes, row_bytes,
                      (int)(n - first < UNIT_ROWS ? n - first : UNIT_ROWS), tile,
                      (uint8_t *)to + (size_t)u * l.unit_bytes + (size_t)tile * l.tile_bytes);
        }
}

float block_unpack(enum dtype f, int64_t cols, const void *units, int64_t row, int64_t col)
{
    struct block_layout l;
    block_layout(&l, f, cols);
    const uint8_t *tile = (const uint8_t *)units + (size_t)(row / UNIT_ROWS) * l.unit_bytes +
                          (size_t)(col / TILE_COLS) * l.tile_bytes;
    const int r = (int)(row % UNIT_ROWS), c = (int)(col % TILE_COLS), low = block_low_bits(f);
    struct quant_block b = get_group(f, tile, r, c / QUANT_BLOCK);
    float values[QUANT_BLOCK];
    int code = get_bits(tile, low, r, c);
    if (block_high_bits(f))
        code |= get_bits(tile + block_high_at(f), block_high_bits(f), r, c) << low;
    b.q[c % QUANT_BLOCK] = (uint8_t)code;
    quant_block_dequantize(f, &b, values);
    return values[c % QUANT_BLOCK];
}
