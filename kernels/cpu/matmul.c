/* matmul.c - activations times weights: brings the activations to their form, cuts the outputs into
 * parts.
 *
 * A part is some tiles of one weight with some rows of activations.  Its size follows from
 * the shapes alone: large enough that taking a part costs little, small enough that threads
 * end together, and so that the rows of a part stay in the second-level cache while its
 * tiles pass.  The arithmetic is in matmul_tile.h. */
#include "kernels/cpu/matmul_int.h"
#include "kernels/half.h"

enum {
    PART_BYTES = 48 * 1024,        /* of weights, with few rows: some 4 us of reading */
    PART_MULTIPLIES = 2 << 20,     /* with many rows: some 30 us */
    ROWS_CACHE_BYTES = 320 * 1024, /* of activations that many rows keep in the cache */
    FORM_PART_VALUES = 16384,      /* fewer than this are not worth waking a thread for */
};

/* The weights of a call that take x in one form; where a call has several forms, it is run form
 * by form. */
struct matmul {
    const float *x; /* [rows, cols] */
    int rows, cols, lanes;
    const struct matmul_out *out; /* [n_outs] */
    int n_outs;
    void (*tile)(const struct matmul_tile *t);
    const struct act_rounding *rounding;
    struct act_form form; /* of those that do not take x as it is */
    char *formed;         /* [rows, form_bytes] */
    size_t form_bytes;
    struct act_panel *panels; /* the same once more, if there are act_blocks of many rows for AMX */
    int rows_per_part, n_row_parts;
    int rows_per_form;
    bool exact, fine, has_bf16;
    struct matmul_slice {
        size_t tile_bytes;
        int n_tiles, tiles_per_part;
        int first_part; /* its parts follow: row parts within tile parts */
    } slice[MATMUL_OUTS_MAX];
};

static const struct {
    void (*tile)(const struct matmul_tile *t);
    const struct act_rounding *rounding;
} isa_functions[ISA_N] = {
    [ISA_SCALAR] = {matmul_tile_scalar, &act_rounding_scalar},
    [ISA_AVX2] = {matmul_tile_avx2, &act_rounding_avx2},
    [ISA_AVX512] = {matmul_tile_avx512, &act_rounding_avx2},
    [ISA_AVX512VNNI] = {matmul_tile_avx512vnni, &act_rounding_avx2},
    [ISA_AVX512BF16] = {matmul_tile_avx512bf16, &act_rounding_avx2},
    [ISA_AMX] = {matmul_tile_amx, &act_rounding_avx2},
};

static int ceil_div(int64_t a, int64_t b)
{
    return (int)((a + b - 1) / b);
}

static int align_rows(int n) /* to whole panels */
{
    return ceil_div(n, ACT_PANEL_ROWS) * ACT_PANEL_ROWS;
}

static int clamp(size_t n, int low, int high)
{
    return n < (size_t)low ? low : n > (size_t)high ? high : (int)n;
}

static size_t align_64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

/* Panels of n rows of act_blocks. */
static size_t panels_bytes(int n, int cols)
{
    return (size_t)ceil_div(n, ACT_PANEL_ROWS) * pack_blocks(cols) * sizeof(struct act_panel);
}

size_t cpu_matmul_scratch_bytes(const struct device *d, int rows_max, int in_max)
{
    const size_t n = align_64((size_t)rows_max * act_form_bytes_max(in_max));
    return d->isa == ISA_AMX ? n + panels_bytes(2 * rows_max, in_max) : n;
}

/* What a weight wants of x.  8-bit activations are for codes with even steps; `fine` is for
 * rounding of our own: what a scheme's rule rounds is what its values are. */
static struct act_form find_form(const struct matmul *m, const struct tensor *w)
{
    const struct scheme *s = w->scheme;
    struct act_form f = {.kind = FORM_AS_IS, .n_planes = 1};
    if (!s) {
        if (!m->exact && quant_traits[w->dtype].bits > 0)
            f.kind = FORM_BLOCKS;
        else if (m->has_bf16 && !m->exact && !m->fine && w->dtype == DT_BF16)
            f.kind = FORM_BF16;
    } else {
        const bool rounds =
            s->act == ACTS_INT8 || s->act == ACTS_OUTLIERS || (s->act == ACTS_WIDE && !m->exact);
        f.order = scheme_order(w, m->lanes);
        f.rule = s->act;
        f.threshold = s->act == ACTS_OUTLIERS ? s->threshold : 0;
        if (rounds && s->codes <= DT_INT8)
            f.kind = FORM_BLOCKS;
        else if (s->act != ACTS_WIDE || f.order)
            f.kind = FORM_FLOATS;
    }
    if (m->fine && f.kind == FORM_BLOCKS && f.rule == ACTS_WIDE)
        f.n_planes = 2;
    return f;
}

static bool is_same_form(const struct act_form *a, const struct act_form *b)
{
    return a->kind == b->kind && a->n_planes == b->n_planes && a->rule == b->rule &&
           a->order == b->order && f32_to_bits(a->threshold) == f32_to_bits(b->threshold);
}

/* The panel in which the row `first` begins. */
static struct act_panel *panel_of(const struct matmul *m, int first)
{
    return m->panels + (size_t)(first * m->form.n_planes / ACT_PANEL_ROWS) * pack_blocks(m->cols);
}

static void make_panels(const struct matmul *m, int first, int end)
{
    const int n_planes = m->form.n_planes, step = ACT_PANEL_ROWS / n_planes;
    for (int row = first; row < end; row += step) {
        const int n = end - row < step ? end - row : step;
        act_panels_make((const void *)(m->formed + (size_t)row * m->form_bytes),
                        m->form_bytes / (size_t)n_planes, n * n_planes, m->cols, panel_of(m, row));
    }
}

static void form_part(void *ctx, int part, int thread)
{
    const struct matmul *m = ctx;
    (void)thread;
    const int first = part * m->rows_per_form, last = first + m->rows_per_form;
    const int end = last < m->rows ? last : m->rows;
    for (int row = first; row < end; row++) {
        const float *x = m->x + (size_t)row * (size_t)m->cols;
        char *to = m->formed + (size_t)row * m->form_bytes;
        if (m->form.kind == FORM_BF16)
            act_round_bf16(x, m->cols, (void *)to);
        else
            act_form_row(&m->form, m->rounding, x, m->cols, to);
    }
    if (m->panels)
        make_panels(m, first, end);
}

/* The rows of x from `first` on, in the form that w wants. */
static void set_x(const struct matmul *m, const struct tensor *w, int first, struct matmul_tile *t)
{
    const struct act_form f = find_form(m, w);
    const float *x = m->x + (size_t)first * (size_t)m->cols;
    t->is_float = f.kind == FORM_AS_IS || f.kind == FORM_FLOATS;
    t->is_bf16 = f.kind == FORM_BF16;
    t->n_planes = f.n_planes;
    t->n_rows = m->rows - first < m->rows_per_part ? m->rows - first : m->rows_per_part;
    t->n_rows *= f.n_planes;
    if (f.kind == FORM_AS_IS) {
        t->x = x;
        t->x_stride = (size_t)m->cols * sizeof *x;
        return;
    }
    t->x = m->formed + (size_t)first * m->form_bytes;
    t->x_stride = m->form_bytes / (size_t)f.n_planes;
    if (f.kind == FORM_BLOCKS && m->panels)
        t->panels = panel_of(m, first);
    if (f.kind == FORM_BLOCKS && f.rule == ACTS_OUTLIERS) {
        t->x_wide = x;
        t->order = f.order;
    }
}

static void multiply_part(void *ctx, int part, int thread)
{
    const struct matmul *m = ctx;
    int o = 0;
    (void)thread;
    while (o + 1 < m->n_outs && part >= m->slice[o + 1].first_part)
        o++;
    const struct matmul_slice *slice = &m->slice[o];
    const struct matmul_out *out = &m->out[o];
    part -= slice->first_part;
    int first_row = part % m->n_row_parts * m->rows_per_part;
    int tile = part / m->n_row_parts * slice->tiles_per_part, end = tile + slice->tiles_per_part;
    struct matmul_tile t = {.dtype = out->w->dtype,
                            .scheme = out->w->scheme,
                            .cols = m->cols,
                            .tile_bytes = slice->tile_bytes,
                            .y_stride = out->y_stride ? out->y_stride : out->w->rows};
    set_x(m, out->w, first_row, &t);
    end = end < slice->n_tiles ? end : slice->n_tiles;
    for (; tile < end; tile += t.n_tiles) {
        t.n_tiles = end - tile < MATMUL_TILES_MAX ? end - tile : MATMUL_TILES_MAX;
        int64_t lane = (int64_t)tile * m->lanes, at = first_row * t.y_stride + lane;
        t.w = (const uint8_t *)out->w->data + (size_t)tile * slice->tile_bytes;
        t.y = (float *)out->y + at;
        t.bias = out->bias ? out->bias + lane : NULL;
        t.add = out->add ? (const float *)out->add + at : NULL;
        t.n_lanes = clamp((size_t)(out->w->rows - lane), 1, t.n_tiles * m->lanes);
        m->tile(&t);
    }
}

/* Sets rows and tiles per part; returns the number of parts. */
static int cut_parts(struct matmul *m)
{
    int n_parts = 0;
    const int n_planes = m->form.n_planes;
    size_t row_bytes = (size_t)(m->cols * n_planes) * 3 / 2; /* of act_blocks */
    m->rows_per_part =
        clamp(ROWS_CACHE_BYTES / row_bytes / 16 * 16, 16, MATMUL_ROWS_MAX / n_planes);
    m->n_row_parts = ceil_div(m->rows, m->rows_per_part);
    for (int o = 0; o < m->n_outs; o++) {
        const struct tensor *w = m->out[o].w;
        struct matmul_slice *slice = &m->slice[o];
        int part_rows = m->rows < m->rows_per_part ? m->rows : m->rows_per_part;
        size_t tile_work = (size_t)(part_rows * n_planes) * (size_t)m->cols * (size_t)m->lanes;
        slice->tile_bytes = pack_tile_bytes(w, m->lanes);
        slice->n_tiles = ceil_div(w->rows, m->lanes);
        size_t by_bytes = PART_BYTES / slice->tile_bytes, by_work = PART_MULTIPLIES / tile_work;
        slice->tiles_per_part = clamp(by_bytes < by_work ? by_bytes : by_work, 2, 1 << 20);
        slice->first_part = n_parts;
        n_parts += ceil_div(slice->n_tiles, slice->tiles_per_part) * m->n_row_parts;
    }
    return n_parts;
}

/* Takes weights from out[0] on for as long as they want x in one form, or as it is. */
static void take_outs(struct matmul *m, int n_outs)
{
    m->form = (struct act_form){.kind = FORM_AS_IS, .n_planes = 1};
    for (m->n_outs = 0; m->n_outs < n_outs; m->n_outs++) {
        const struct act_form f = find_form(m, m->out[m->n_outs].w);
        if (f.kind == FORM_AS_IS || is_same_form(&f, &m->form))
            continue;
        if (m->form.kind != FORM_AS_IS)
            return;
        m->form = f;
    }
}

static bool has_panels(const struct device *d, const struct matmul *m)
{
    return d->isa == ISA_AMX && m->form.kind == FORM_BLOCKS &&
           m->rows * m->form.n_planes > MATMUL_DIRECT_MAX;
}

void cpu_matmul(struct device *d, const struct matmul_args *a)
{
    struct matmul m = {.x = a->x,
                       .rows = a->rows,
                       .cols = (int)a->out[0].w->cols,
                       .lanes = pack_lanes(d),
                       .tile = isa_functions[d->isa].tile,
                       .rounding = isa_functions[d->isa].rounding,
                       .formed = d->scratch,
                       .exact = d->precision == PRECISION_EXACT,
                       .fine = a->fine,
                       .has_bf16 = d->isa == ISA_AVX512BF16};
    m.rows_per_form = align_rows(ceil_div(FORM_PART_VALUES, m.cols));
    for (int first = 0; first < a->n_outs; first += m.n_outs) {
        m.out = a->out + first;
        take_outs(&m, a->n_outs - first);
        m.form_bytes = act_form_bytes(&m.form, m.cols);
        m.panels =
            has_panels(d, &m) ? (void *)(m.formed + align_64((size_t)m.rows * m.form_bytes)) : NULL;
        if (m.form_bytes > 0)
            cpu_parallel(d, form_part, &m, ceil_div(m.rows, m.rows_per_form));
        cpu_parallel(d, multiply_part, &m, cut_parts(&m));
    }
}
