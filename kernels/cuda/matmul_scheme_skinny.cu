/* matmul_scheme_skinny.cu - products of few rows with weights of a scheme: how they are launched.
 *
 * The kernels: matmul_scheme_skinny.cuh. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scheme_book.cuh"
#include "kernels/cuda/scheme_skinny.cuh"
#include "kernels/cuda/tensor_map.h"

namespace {

/* Formats that many models have: a gate and its up are one product there. */
bool has_pairs(const struct scheme_layout *l)
{
    switch (expand_of(l)) {
    case EXPAND_INT4:
    case EXPAND_INT4_ZERO:
        return l->parts <= 2;
    case EXPAND_CODEBOOK:
        return l->parts == 2;
    default:
        return expand_of(l) == EXPAND_INT8;
    }
}

struct scheme_shape shape_of(const struct device *d, const struct product *p,
                             const struct scheme_layout *l)
{
    struct scheme_shape s = {};
    s.rows = p->rows;
    s.in = p->in;
    s.n = p->n;
    s.has_norm = p->norm != nullptr;
    s.gated = p->w_up != nullptr;
    s.bits = l->bits;
    s.chains = l->chains;
    s.tile_bytes = l->tile_bytes;
    s.has_book = l->kind == KIND_CODEBOOK;
    s.is_rare = !has_pairs(l);
    s.sm_count = d->sm_count;
    return s;
}

scheme_maps maps_of(struct device *d, scheme_args *a)
{
    const struct scheme_choice *c = &a->c;
    const int rows = (int)c->x_box / 128;
    scheme_maps m = {};
    tensor_map_units(d, &m.w[0], a->p.w, a->l.tile_bytes, a->l.n_tiles, a->l.unit_bytes, c->n_units,
                     c->span, c->units);
    if (a->p.w_up)
        tensor_map_units(d, &m.w[1], a->p.w_up, a->l.tile_bytes, a->l.n_tiles, a->l.unit_bytes,
                         c->n_units, c->span, c->units);
    if (c->resident)
        return m;
    a->x_copies = a->p.in % 64 == 0 ? 1 : 2 * c->span;
    if (a->x_copies == 1)
        tensor_map_chunks(d, &m.x, a->p.x, a->p.in, a->p.rows, 2 * c->span, rows);
    else
        tensor_map_2d(d, &m.x, a->p.x, a->p.in, a->p.rows, a->p.in, 64, rows);
    return m;
}

} // namespace

/* ---- the launchers ---- */

bool matmul_scheme_pairs(const struct scheme *s, int in)
{
    struct scheme_layout l;
    scheme_layout(&l, s, in);
    return has_pairs(&l);
}

bool matmul_scheme_fuses_norm(const struct device *d, const struct product *p)
{
    struct scheme_layout l;
    struct scheme_choice c;
    if (p->rows > SCHEME_NORM_ROWS_MAX)
        return false;
    scheme_layout(&l, p->scheme, p->in);
    const struct scheme_shape s = shape_of(d, p, &l);
    scheme_choose(&c, &s);
    return c.fuse_norm;
}

void matmul_scheme_skinny(struct device *d, const struct product *p)
{
    scheme_args a = {};
    scheme_layout(&a.l, p->scheme, p->in);
    const struct scheme_shape s = shape_of(d, p, &a.l);
    scheme_choose(&a.c, &s);
    rows_take(&a, p, 2 * ((a.l.n_tiles + a.c.span - 1) / a.c.span * a.c.span));
    a.book = scheme_book(d->act, p->scheme);
    const scheme_maps maps = maps_of(d, &a);
    scheme_function *kernel = d->act == DT_F16 ? scheme_kernel_f16(&a.l, &a.c, p->w_up != nullptr)
                                               : scheme_kernel_bf16(&a.l, &a.c, p->w_up != nullptr);
    cuda_check(d,
               cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    SCHEME_SHARED_MAX + SCHEME_BOOK_BYTES),
               "shared memory of the skinny product of a scheme");
    launch(d, "run the skinny product of a scheme",
           {dim3((unsigned)a.c.grid), dim3((unsigned)(a.c.warps + 1) * 32), a.c.shared_bytes, 0},
           kernel, maps, a);
}
