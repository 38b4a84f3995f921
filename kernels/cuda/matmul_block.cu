/* matmul_block.cu - products with weights of a block format of GGUF: few rows, or many.
 *
 * The kernels of few rows: matmul_block_skinny.cuh; of more: matmul_block_sm90.cu. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/block_skinny.cuh"
#include "kernels/cuda/tensor_map.h"

namespace
{

struct block_shape shape_of(const struct device *d, const struct product *p,
                            const struct block_layout *l)
{
    struct block_shape s = {};
    s.rows = p->rows;
    s.in = p->in;
    s.n = p->n;
    s.has_norm = p->norm != nullptr;
    s.gated = p->w_up != nullptr;
    s.tile_bytes = l->tile_bytes;
    s.sm_count = d->sm_count;
    return s;
}

block_maps maps_of(struct device *d, block_args *a)
{
    const struct block_choice *c = &a->c;
    const int rows = (int)c->x_box / 128;
    block_maps m = {};
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

const void *skip_rows(const void *at, int rows, int stride)
{
    return at ? (const char *)at + (size_t)rows * (size_t)stride * 2 : nullptr;
}

void run_skinny(struct device *d, const struct product *p)
{
    block_args a = {};
    block_layout(&a.l, p->blocks, p->in);
    const struct block_shape s = shape_of(d, p, &a.l);
    block_choose(&a.c, &s);
    rows_take(&a, p, 2 * a.l.n_tiles);
    const block_maps maps = maps_of(d, &a);
    block_function *kernel = d->act == DT_F16
                                 ? block_kernel_f16(p->blocks, a.c.row_groups, p->w_up != nullptr)
                                 : block_kernel_bf16(p->blocks, a.c.row_groups, p->w_up != nullptr);
    cuda_check(
        d,
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, BLOCK_SHARED_MAX),
        "shared memory of the skinny product of a block format");
    launch(d, "run the skinny product of a block format",
           {dim3((unsigned)a.c.grid), dim3(BLOCK_THREADS), a.c.shared_bytes, 0}, kernel, maps, a);
}

} // namespace

/* ---- the product ---- */

bool matmul_block_fuses_norm(const struct device *d, const struct product *p)
{
    struct block_layout l;
    struct block_choice c;
    if (p->rows > BLOCK_NORM_ROWS_MAX)
        return false;
    block_layout(&l, p->blocks, p->in);
    const struct block_shape s = shape_of(d, p, &l);
    block_choose(&c, &s);
    return c.fuse_norm;
}

void matmul_block(struct device *d, const struct product *p)
{
    if (p->rows > BLOCK_ROWS_MAX && matmul_block_sm90_fits(d, p)) {
        matmul_block_sm90(d, p);
        return;
    }
    for (int first = 0; first < p->rows; first += BLOCK_ROWS_MAX) {
        struct product part = *p;
        part.rows = p->rows - first < BLOCK_ROWS_MAX ? p->rows - first : (int)BLOCK_ROWS_MAX;
        part.x = skip_rows(p->x, first, p->in);
        part.add = skip_rows(p->add, first, p->y_stride);
        part.y = (char *)p->y + (size_t)first * (size_t)p->y_stride * (p->y_f32 ? 4 : 2);
        run_skinny(d, &part);
    }
}
