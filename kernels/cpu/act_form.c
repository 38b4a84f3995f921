/* act_form.c - a row of activations in the form that a weight wants.
 *
 * Rules of a whole row find its largest magnitude first; the order of columns does not matter
 * to that.  As elsewhere magnitudes are compared as integers, which puts NaN above infinity
 * above every number.
 *
 * bitsandbytes decides about outliers by column over all rows of a batch; here each row decides for
 * itself, or its bits would depend on who runs beside it.  A row alone gives the same there. */
#include "kernels/cpu/act_form.h"

#include <math.h>
#include <string.h>

#include "kernels/half.h"

enum {
    NOT_FINITE = 0x7f800000,
    MAGNITUDE = 0x7fffffff,
    SPAN_BLOCKS =
        8, /* gathered before they are rounded: a load just behind its stores would wait */
    SPAN = SPAN_BLOCKS * QUANT_BLOCK,
};

static const float E4M3_MAX = 448;

static size_t blocks_of(int cols)
{
    return (size_t)(cols + QUANT_BLOCK - 1) / QUANT_BLOCK;
}

static size_t outliers_bytes(int cols)
{
    const struct act_outliers *none = NULL;
    return sizeof *none + blocks_of(cols) * sizeof none->at[0];
}

size_t act_form_bytes(const struct act_form *f, int cols)
{
    const size_t n_blocks = blocks_of(cols);
    if (f->kind == FORM_AS_IS)
        return 0;
    if (f->kind == FORM_BF16)
        return n_blocks * QUANT_BLOCK * sizeof(uint16_t);
    if (f->kind == FORM_FLOATS)
        return n_blocks * QUANT_BLOCK * sizeof(float);
    return (size_t)f->n_planes * n_blocks * sizeof(struct act_block) +
           (f->rule == ACTS_OUTLIERS ? outliers_bytes(cols) : 0);
}

size_t act_form_bytes_max(int cols)
{
    return blocks_of(cols) * QUANT_BLOCK * sizeof(float); /* more than two planes are */
}

/* ---- a row's scale ---- */

static int32_t magnitude_bits(float x)
{
    return (int32_t)(f32_to_bits(x) & MAGNITUDE);
}

/* Bits of the largest magnitude below `limit`. */
static int32_t largest_bits(const float *x, int cols, int32_t limit)
{
    int32_t top = 0;
    for (int c = 0; c < cols; c++) {
        const int32_t bits = magnitude_bits(x[c]);
        const int32_t counts = bits < limit ? bits : 0;
        top = counts > top ? counts : top;
    }
    return top;
}

/* What a rule makes of the values of a row. */
struct row_rule {
    int32_t limit;  /* values of these bits or more are outliers */
    float d, scale; /* the step, and what brings values to steps; if not finite, NaN and 0 */
};

static struct row_rule find_rule(const struct act_form *f, const float *x, int cols)
{
    struct row_rule r = {.limit = MAGNITUDE};
    if (f->rule == ACTS_WIDE)
        return r;
    if (f->rule == ACTS_OUTLIERS)
        r.limit = magnitude_bits(f->threshold);
    const int32_t top = largest_bits(x, cols, r.limit);
    const float max = f32_from_bits((uint32_t)top), steps = f->rule == ACTS_FP8 ? E4M3_MAX : 127;
    if (top >= NOT_FINITE)
        r.d = NAN;
    else if (max >= ACT_TINY) {
        r.d = max / steps;
        r.scale = steps / max;
    }
    return r;
}

/* ---- a span of blocks ---- */

/* A row under way. */
struct form_row {
    const struct act_form *f;
    const struct act_rounding *isa;
    struct row_rule rule;
    size_t n_blocks;
    struct act_outliers *outliers; /* NULL unless the rule is ACTS_OUTLIERS, in blocks */
};

/* What is left of x after rounding is at most half a step, and takes steps 1/254 as large. */
static void quantize_rest(const struct act_rounding *isa, const float *x,
                          const struct act_block *high, struct act_block *low)
{
    float rest[QUANT_BLOCK];
    for (int i = 0; i < QUANT_BLOCK; i++)
        rest[i] = x[i] - high->d * (float)high->q[i];
    isa->quantize(rest, QUANT_BLOCK, low);
}

static void round_by_block(const struct form_row *r, const float *x, size_t n,
                           struct act_block *high)
{
    r->isa->quantize(x, (int)n * QUANT_BLOCK, high);
    for (size_t i = 0; r->f->n_planes == 2 && i < n; i++)
        quantize_rest(r->isa, x + i * QUANT_BLOCK, high + i, high + r->n_blocks + i);
}

static void round_by_row(const struct form_row *r, const float *x, size_t first, size_t n,
                         struct act_block *out)
{
    struct act_outliers *outliers = r->outliers;
    for (size_t i = 0; i < n; i++, x += QUANT_BLOCK) {
        float rest[QUANT_BLOCK];
        const uint32_t mask = outliers ? r->isa->split(x, r->rule.limit, rest) : 0;
        if (mask) {
            outliers->at[outliers->n].block = (int32_t)(first + i);
            outliers->at[outliers->n++].mask = mask;
        }
        if (isnan(r->rule.d))
            out[i] = (struct act_block){.d = NAN, .sum = NAN, .half = {NAN, NAN}};
        else
            r->isa->round(mask ? rest : x, r->rule.scale, r->rule.d, out + i);
    }
}

static float round_8(float x)
{
    return x + 0x1.8p23f - 0x1.8p23f;
}

static void round_floats(const struct form_row *r, const float *x, size_t n, float *out)
{
    const float scale = r->rule.scale, d = r->rule.d;
    for (size_t i = 0; i < n; i++, x += QUANT_BLOCK, out += QUANT_BLOCK) {
        if (r->f->rule == ACTS_WIDE)
            memcpy(out, x, QUANT_BLOCK * sizeof *x);
        else if (r->f->rule == ACTS_FP8)
            r->isa->e4m3(x, scale, d, out);
        else
            for (int k = 0; k < QUANT_BLOCK; k++)
                out[k] = magnitude_bits(x[k]) < r->rule.limit ? round_8(x[k] * scale) * d : x[k];
    }
}

/* ---- a row ---- */

/* The n blocks from b on, in `local` where they do not lie in a row. */
static const float *gather(const struct act_form *f, const float *x, int cols, size_t b, size_t n,
                           float *local)
{
    const int first = (int)b * QUANT_BLOCK, padded = (int)n * QUANT_BLOCK;
    const int count = cols - first < padded ? cols - first : padded;
    if (!f->order && count == padded)
        return x + first;
    for (int i = 0; f->order && i < count; i++)
        local[i] = x[f->order[first + i]];
    if (!f->order)
        memcpy(local, x + first, (size_t)count * sizeof *x);
    memset(local + count, 0, (size_t)(padded - count) * sizeof *x);
    return local;
}

void act_form_row(const struct act_form *f, const struct act_rounding *isa, const float *x,
                  int cols, void *out)
{
    struct form_row r = {
        .f = f, .isa = isa, .rule = find_rule(f, x, cols), .n_blocks = blocks_of(cols)};
    struct act_block *blocks = out;
    if (f->kind == FORM_BLOCKS && f->rule == ACTS_OUTLIERS) {
        r.outliers = (void *)(blocks + r.n_blocks);
        r.outliers->n = 0;
    }
    for (size_t b = 0, n; b < r.n_blocks; b += n) {
        float local[SPAN];
        n = r.n_blocks - b < SPAN_BLOCKS ? r.n_blocks - b : SPAN_BLOCKS;
        const float *from = gather(f, x, cols, b, n, local);
        if (f->kind == FORM_FLOATS)
            round_floats(&r, from, n, (float *)out + b * QUANT_BLOCK);
        else if (f->rule == ACTS_WIDE)
            round_by_block(&r, from, n, blocks + b);
        else
            round_by_row(&r, from, b, n, blocks + b);
    }
}

void act_panels_make(const struct act_block *rows, size_t stride, int n, int cols,
                     struct act_panel *to)
{
    const int n_blocks = (cols + QUANT_BLOCK - 1) / QUANT_BLOCK;
    if (n < ACT_PANEL_ROWS)
        memset(to, 0, (size_t)n_blocks * sizeof *to);
    for (int i = 0; i < n; i++) {
        const struct act_block *row = (const void *)((const char *)rows + (size_t)i * stride);
        for (int b = 0; b < n_blocks; b++) {
            memcpy(to[b].q[i], row[b].q, QUANT_BLOCK);
            to[b].d[i] = row[b].d;
            to[b].sum[i] = row[b].sum;
            to[b].half[0][i] = row[b].half[0];
            to[b].half[1][i] = row[b].half[1];
        }
    }
}
