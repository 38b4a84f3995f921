/* quant_awq.c - AWQ, version gemm: X.qweight [cols, rows / 8], X.qzeros [groups, rows / 8] and
 * X.scales [groups, rows].
 *
 * A 32-bit word is one column of eight rows, which lie in it in the order 0, 2, 4, 6, 1, 3, 5, 7.
 *
 * Format: AutoAWQ, WQLinear_GEMM. */
#include <string.h>

#include <cjson/cJSON.h>

#include "engine/json_file.h"
#include "engine/quant_int.h"

enum { PER = 8, TILE = 64 /* columns: a line of codes for each row */ };

static const uint8_t slots[PER] = {0, 4, 1, 5, 2, 6, 3, 7};

/* Byte j of word i becomes byte i of word j. */
static void transpose(uint64_t x[PER])
{
    static const uint64_t masks[] = {0x00ff00ff00ff00ff, 0x0000ffff0000ffff, 0x00000000ffffffff};
    for (int step = 4, k = 2; k >= 0; step /= 2, k--) {
        for (int i = 0; i < PER; i++) {
            if (i & step)
                continue;
            const uint64_t swap = (x[i] >> 8 * step ^ x[i + step]) & masks[k];
            x[i + step] ^= swap;
            x[i] ^= swap << 8 * step;
        }
    }
}

/* Rows [first, end) of one word's eight, at most eight columns from c. */
static void read_block(const struct quant_matrix *m, int64_t first, int64_t end, int64_t c,
                       int64_t n_cols, uint8_t *to)
{
    uint64_t x[PER] = {0};
    for (int64_t i = 0; i < n_cols; i++)
        x[i] = quant_spread(quant_word_at(&m->codes, (c + i) * m->codes.cols + first / PER));
    transpose(x);
    for (int64_t r = first; r < end; r++, to += m->weight.cols)
        memcpy(to + c, &x[slots[r % PER]], (size_t)n_cols);
}

/* The same of columns [c, c_end). */
static void read_tile(const struct quant_matrix *m, int64_t first, int64_t end, int64_t c,
                      int64_t c_end, uint8_t *to)
{
    for (; c + PER <= c_end; c += PER)
        read_block(m, first, end, c, PER, to);
    if (c < c_end)
        read_block(m, first, end, c, c_end - c, to);
}

static void read_codes(const struct quant_matrix *m, int64_t first, int64_t n, uint8_t *to)
{
    const int64_t cols = m->weight.cols, end = first + n;
    for (int64_t c = 0; c < cols; c += TILE) {
        const int64_t c_end = c + TILE < cols ? c + TILE : cols;
        for (int64_t r = first, next; r < end; r = next) {
            next = r / PER * PER + PER < end ? r / PER * PER + PER : end;
            read_tile(m, r, next, c, c_end, to + (r - first) * cols);
        }
    }
}

static void rows(const void *ctx, int64_t first, int64_t n, const struct scheme_rows *to)
{
    const struct quant_matrix *m = ctx;
    read_codes(m, first, n, to->codes);
    quant_scales_across(m, first, n, to->scales);
    if (m->scheme.has_zero)
        quant_zeros_across(m, first, n, slots, to->zeros);
}

static bool configure(struct quant_rules *r, const struct cJSON *config, struct status *st)
{
    static const char *const versions[] = {"gemm", NULL};
    static const char *const keys[] = {"version", "checkpoint_format", "format"};
    int version;
    *r = (struct quant_rules){.codes = ".qweight",
                              .skip = json_value(config, "modules_to_not_convert")};
    for (int i = 0; i < 3; i++)
        if (!quant_word(config, keys[i], versions, 0, &version, st))
            return false;
    if (!quant_bits(config, "bits", &r->scheme.codes, st) ||
        !quant_group(config, &r->scheme.group, st) ||
        !json_flag(config, "zero_point", true, &r->scheme.has_zero, st) ||
        !quant_none(config, "dynamic", st))
        return false;
    return r->scheme.codes == DT_INT4 ||
           status_fail(st, STATUS_UNSUPPORTED, "key bits: want 4, found 8");
}

/* Without zero_point the file has zero points all the same, and all are the default. */
static bool make(struct quant_folder *q, struct quant_matrix *m, struct status *st)
{
    m->weight.rows = m->codes.cols * PER;
    m->weight.cols = m->codes.rows;
    m->weight.source.rows = rows;
    if (!quant_want_type(m, ".qweight", &m->codes, WANT_I32, st) || !quant_set_groups(m, st) ||
        !quant_take_across(q, m, PER, st))
        return false;
    return !m->scheme.has_zero || quant_rules_of(q)->scheme.has_zero ||
           status_fail(st, STATUS_CORRUPT, "tensor %s.qzeros: want 8, as key zero_point is false",
                       str_show(m->base).text);
}

const struct quant_format quant_awq = {"awq", configure, make};
