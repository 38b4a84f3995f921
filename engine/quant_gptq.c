/* quant_gptq.c - GPTQ: X.qweight [cols / per, rows], X.qzeros [groups, rows / per], X.scales
 * [groups, rows] and X.g_idx [cols], where 32-bit words hold `per` codes, the lowest bits first.
 *
 * A word is eight or four columns of one row, and beside it lie those of the next rows.  So codes
 * are read a tile at a time, a cache line of words for 16 rows, and a line of codes is written for
 * each row: rows are often a power of two apart, where many lines that are half written push each
 * other out.
 *
 * Format: AutoGPTQ and GPTQModel, QuantLinear. */
#include <string.h>

#include <cjson/cJSON.h>

#include "engine/json_file.h"
#include "engine/quant_int.h"

enum { TILE_ROWS = 16, TILE_COLS = 64 };

static const uint8_t slots[8] = {0, 1, 2, 3, 4, 5, 6, 7};

/* Words [i, end) of rows [first, first + n) to a tile. */
static void read_tile_4(const struct quant_matrix *m, int64_t first, int64_t n, int64_t i,
                        int64_t end, uint8_t tile[TILE_ROWS][TILE_COLS])
{
    for (int64_t at = 0; i < end; i++, at += 8) {
        for (int64_t r = 0; r < n; r++) {
            const uint64_t codes =
                quant_spread(quant_word_at(&m->codes, i * m->codes.cols + first + r));
            memcpy(&tile[r][at], &codes, sizeof codes);
        }
    }
}

static void read_tile_8(const struct quant_matrix *m, int64_t first, int64_t n, int64_t i,
                        int64_t end, uint8_t tile[TILE_ROWS][TILE_COLS])
{
    for (int64_t at = 0; i < end; i++, at += 4) {
        for (int64_t r = 0; r < n; r++) {
            const uint32_t codes = quant_word_at(&m->codes, i * m->codes.cols + first + r);
            memcpy(&tile[r][at], &codes, sizeof codes);
        }
    }
}

static void write_tile(const struct quant_matrix *m, uint8_t tile[TILE_ROWS][TILE_COLS],
                       int64_t n_rows, int64_t first_col, int64_t n_cols, uint8_t *to)
{
    const int32_t *place = m->order ? m->order + m->weight.cols + first_col : NULL;
    for (int64_t r = 0; r < n_rows; r++, to += m->weight.cols) {
        if (!place)
            memcpy(to + first_col, tile[r], (size_t)n_cols);
        for (int64_t c = 0; place && c < n_cols; c++)
            to[place[c]] = tile[r][c];
    }
}

/* At most TILE_ROWS rows. */
static void read_rows(const struct quant_matrix *m, int64_t first, int64_t n, uint8_t *to)
{
    const int per = 32 / quant_code_bits(m);
    uint8_t tile[TILE_ROWS][TILE_COLS];
    for (int64_t i = 0, end; i < m->codes.rows; i = end) {
        end = i + TILE_COLS / per < m->codes.rows ? i + TILE_COLS / per : m->codes.rows;
        (per == 8 ? read_tile_4 : read_tile_8)(m, first, n, i, end, tile);
        write_tile(m, tile, n, i * per, (end - i) * per, to);
    }
}

static void rows(const void *ctx, int64_t first, int64_t n, const struct scheme_rows *to)
{
    const struct quant_matrix *m = ctx;
    for (int64_t r = 0; r < n; r += TILE_ROWS)
        read_rows(m, first + r, n - r < TILE_ROWS ? n - r : TILE_ROWS,
                  to->codes + r * m->weight.cols);
    quant_scales_across(m, first, n, to->scales);
    if (m->scheme.has_zero)
        quant_zeros_across(m, first, n, slots, to->zeros);
}

static bool configure(struct quant_rules *r, const struct cJSON *config, struct status *st)
{
    static const char *const layouts[] = {"gptq", "gptq_v2", NULL}, *const packs[] = {"int32",
                                                                                      NULL};
    const char *key = json_value(config, "checkpoint_format") ? "checkpoint_format" : "format";
    int layout, pack;
    *r = (struct quant_rules){.codes = ".qweight"};
    if (!quant_bits(config, "bits", &r->scheme.codes, st) ||
        !quant_group(config, &r->scheme.group, st) ||
        !json_flag(config, "desc_act", false, &r->need_order, st) ||
        !quant_word(config, key, layouts, 0, &layout, st) ||
        !quant_word(config, "pack_dtype", packs, 0, &pack, st) ||
        !quant_none(config, "dynamic", st) || !quant_none(config, "is_marlin_format", st))
        return false;
    if (layout == 0)
        r->zero_add = r->scheme.codes == DT_INT4 ? 0x11111111 : 0x01010101;
    return true;
}

static bool make(struct quant_folder *q, struct quant_matrix *m, struct status *st)
{
    const bool need_order = quant_rules_of(q)->need_order && m->scheme.group != 0;
    const int per = 32 / quant_code_bits(m);
    struct quant_part g_idx;
    m->weight.rows = m->codes.cols;
    m->weight.cols = m->codes.rows * per;
    m->weight.source.rows = rows;
    if (!quant_want_type(m, ".qweight", &m->codes, WANT_I32, st) || !quant_set_groups(m, st) ||
        !quant_take_across(q, m, per, st))
        return false;
    return quant_take(q, m, ".g_idx", WANT_I32, !need_order, &g_idx, st) &&
           (!g_idx.at || quant_make_order(m, ".g_idx", &g_idx, st));
}

const struct quant_format quant_gptq = {"gptq", configure, make};
