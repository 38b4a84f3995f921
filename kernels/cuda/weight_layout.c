/* weight_layout.c - which way a weight goes; and the ways of units, in the loader's words. */
#include "kernels/cuda/weight_layout.h"

#include "kernels/cuda/archs.h"
#include "kernels/cuda/block_layout.h"
#include "kernels/cuda/scheme_layout.h"

const struct weight_layout *weight_layout_of(const struct tensor *w, int cc)
{
    if (arch_is_small(cc))
        return NULL;
    if (!w->scheme)
        return cc == 90 && block_has_units(w->dtype) ? &weight_layout_blocks : NULL;
    return weight_has_act8(w->scheme, cc) ? &weight_layout_act8 : &weight_layout_units;
}

/* ---- units ---- */

static size_t units_bytes(const struct tensor *w)
{
    return scheme_weight_bytes(w->scheme, w->rows, w->cols);
}

static size_t units_order_at(const struct tensor *w)
{
    return scheme_units_bytes(w->scheme, w->rows, w->cols);
}

static int units_pieces(const struct tensor *w, int64_t first, int64_t n,
                        struct weight_piece piece[WEIGHT_PIECES_MAX])
{
    piece[0] = (struct weight_piece){.at = scheme_units_bytes(w->scheme, first, w->cols),
                                     .n_bytes = scheme_units_bytes(w->scheme, n, w->cols)};
    return 1;
}

static void units_pack(const struct tensor *w, enum dtype act, const struct scheme_rows *from,
                       int64_t n, void *const to[WEIGHT_PIECES_MAX])
{
    scheme_pack(w->scheme, act, w->cols, from, n, to[0]);
}

const struct weight_layout weight_layout_units = {
    .rows_step = UNIT_ROWS,
    .bytes = units_bytes,
    .order_at = units_order_at,
    .pieces = units_pieces,
    .pack = units_pack,
};

/* ---- units of block formats ---- */

static size_t blocks_bytes(const struct tensor *w)
{
    return block_units_bytes(w->dtype, w->rows, w->cols);
}

static int blocks_pieces(const struct tensor *w, int64_t first, int64_t n,
                         struct weight_piece piece[WEIGHT_PIECES_MAX])
{
    piece[0] = (struct weight_piece){.at = block_units_bytes(w->dtype, first, w->cols),
                                     .n_bytes = block_units_bytes(w->dtype, n, w->cols)};
    return 1;
}

static void blocks_pack(const struct tensor *w, const void *rows, int64_t n,
                        void *const to[WEIGHT_PIECES_MAX])
{
    block_pack(w->dtype, w->cols, rows, n, to[0]);
}

const struct weight_layout weight_layout_blocks = {
    .rows_step = UNIT_ROWS,
    .bytes = blocks_bytes,
    .pieces = blocks_pieces,
    .pack_file = blocks_pack,
};
