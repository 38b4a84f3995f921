/* matmul_scheme_sm90.cu - products of many rows with the weights of a scheme on Hopper: which tile,
 * and what its kernel is told.
 *
 * The kernels: matmul_scheme_sm90.cuh. */
#include "kernels/cuda/matmul_scheme_sm90.h"

#include "kernels/cuda/choose_int.h"
#include "kernels/cuda/scheme_book.cuh"
#include "kernels/cuda/scheme_wide_args.cuh"

namespace
{

enum { LARGE_ROWS = 128 }; /* the largest tile alone is the slower way for so many */

wide_args args_of(const struct device *d, const struct product *p, const struct scheme_layout *l)
{
    wide_args a = {};
    a.p = *p;
    a.codes.tile_bytes = l->tile_bytes;
    a.codes.scales_at = l->scales_at;
    a.codes.operands_at = l->operands_at;
    /* A codebook's in bf16 is 1. */
    a.codes.row_scale = l->scale == SCALE_ROW && !(l->kind == KIND_CODEBOOK && d->act == DT_BF16);
    a.codes.scale_shift = scale_bits_shift(l->scale);
    a.codes.scale_factor = scheme_ones(l, d->act);
    if (l->scale != SCALE_ROW)
        a.codes.scale_factor *= scale_bits_factor(l->scale);
    a.codes.book = scheme_book(d->act, p->scheme);
    a.unit_bytes = l->unit_bytes;
    a.row_scales_at = l->row_scales_at;
    a.n_units = divide_up(p->n, UNIT_ROWS);
    a.n_k = l->n_tiles;
    a.shared_sums = d->partials;
    a.shared_given = d->tiles_given;
    return a;
}

bool is_aligned(const void *at)
{
    return (uintptr_t)at % 16 == 0;
}

} // namespace

/* What is written and read is 8 values at a time; f32, for logits, one by one. */
bool matmul_scheme_sm90_fits(const struct device *d, const struct product *p)
{
    struct scheme_layout l;
    scheme_layout(&l, p->scheme, p->in);
    return d->cc == 90 && (wide_is_common(expand_of(&l), wide_parts(&l)) || p->rows > LARGE_ROWS) &&
           is_aligned(p->x) && p->in % 8 == 0 &&
           (p->y_f32
                ? !p->add && !p->gate_in_y && !p->w_up
                : is_aligned(p->y) && is_aligned(p->add) && p->n % 8 == 0 && p->y_stride % 8 == 0);
}

struct scheme_wide_shape matmul_scheme_sm90_shape(const struct device *d, const struct product *p)
{
    struct scheme_layout l;
    scheme_layout(&l, p->scheme, p->in);
    return {p->rows,
            p->n,
            p->in,
            p->w_up != nullptr,
            l.kind == KIND_CODEBOOK ? SCHEME_WIDE_BOOK
            : l.bits == 8           ? SCHEME_WIDE_8_BITS
                                    : SCHEME_WIDE_4_BITS,
            d->sm_count};
}

struct scheme_wide_cut matmul_scheme_sm90_chosen(const struct device *d, const struct product *p)
{
    const scheme_wide_shape s = matmul_scheme_sm90_shape(d, p);
    return scheme_wide_choose(&s);
}

void matmul_scheme_sm90_cut(struct device *d, const struct product *p, struct scheme_wide_cut cut)
{
    struct scheme_layout l;
    scheme_layout(&l, p->scheme, p->in);
    const scheme_wide_shape s = matmul_scheme_sm90_shape(d, p);
    wide_args a = args_of(d, p, &l);
    a.plan = scheme_wide_plan_of(cut, &s);
    (d->act == DT_F16 ? wide_launch_f16 : wide_launch_bf16)(d, &a, expand_of(&l), wide_parts(&l),
                                                            cut.tile);
}

void matmul_scheme_sm90(struct device *d, const struct product *p)
{
    matmul_scheme_sm90_cut(d, p, matmul_scheme_sm90_chosen(d, p));
}

bool matmul_scheme_sm90_fits_few(const struct device *d, const struct product *p)
{
    return matmul_scheme_sm90_fits(d, p) && wide_ending_of(p) == ENDING_ADD;
}
