/* matmul.cu - the product op: which weights run as one, the norm before, the kernel by shape.
 *
 * Weights that lie together in memory and whose results do, too (q, k and v), are one product, as
 * are gate and up.  A norm runs once, in front, unless the kernel makes it in passing. */
#include "kernels/cuda/matmul_int.h"
#include "kernels/cuda/matmul_sm90.h"

namespace {

typedef struct matmul_args::matmul_out matmul_out; /* C++ nests it, C does not */

struct matmul_shape shape_of(const struct device *d, const struct product *p)
{
    struct matmul_shape s = {};
    s.rows = p->rows;
    s.in = p->in;
    s.n = p->n;
    s.has_norm = p->norm != nullptr;
    s.gated = p->w_up != nullptr;
    s.sm_count = d->sm_count;
    s.cc = d->cc;
    return s;
}

struct product product_of(const struct matmul_args *a, const matmul_out *o)
{
    struct product p = {};
    p.x = a->x;
    p.rows = a->rows;
    p.in = (int)o->w->cols;
    p.n = (int)o->w->rows;
    p.w = o->w->data;
    p.y = o->y;
    p.y_stride = o->y_stride ? o->y_stride : p.n;
    p.bias = o->bias;
    p.add = o->add;
    p.norm = a->norm;
    p.act = a->n_outs == 1 ? a->act : ACT_NONE;
    return p;
}

bool follows(const void *a, size_t n_bytes, const void *b)
{
    return (const char *)a + n_bytes == (const char *)b;
}

/* Both absent, or b right behind a. */
bool follows_too(const void *a, size_t n_bytes, const void *b)
{
    return a && b ? follows(a, n_bytes, b) : !a && !b;
}

bool runs_as_one(const struct product *p, const struct product *next)
{
    size_t n = (size_t)p->n;
    return p->in == next->in && follows(p->w, n * (size_t)p->in * 2, next->w) &&
           p->y_stride == next->y_stride && follows(p->y, n * 2, next->y) &&
           follows_too(p->add, n * 2, next->add) &&
           follows_too(p->bias, n * sizeof(float), next->bias);
}

void run_outs(struct device *d, const struct matmul_args *a, const struct norm *norm)
{
    for (int i = 0; i < a->n_outs;) {
        struct product p = product_of(a, &a->out[i++]);
        for (; i < a->n_outs; i++) {
            struct product next = product_of(a, &a->out[i]);
            if (!runs_as_one(&p, &next))
                break;
            p.n += next.n;
        }
        p.norm = norm;
        matmul_product(d, &p);
    }
}

void run_gated(struct device *d, const struct matmul_args *a, const struct norm *norm)
{
    struct product p = product_of(a, &a->out[0]);
    p.w_up = a->out[1].w->data;
    p.bias_up = a->out[1].bias;
    p.act = a->act;
    p.norm = norm;
    matmul_product(d, &p);
}

/* What the copy engine writes is aligned, and f32 is for logits. */
bool fits_sm90(const struct product *p)
{
    return p->y_f32 ? !p->add && p->act == ACT_NONE
                    : p->y_stride % 8 == 0 && (uintptr_t)p->y % 16 == 0;
}

void run_sm90(struct device *d, const struct product *p)
{
    struct wide_matmul m = {};
    m.x = p->x;
    m.rows = p->rows;
    m.in = p->in;
    m.n = p->n;
    m.w[0] = p->w;
    m.w[1] = p->w_up;
    m.bias[0] = p->bias;
    m.bias[1] = p->bias_up;
    m.act = p->act;
    m.y = p->y;
    m.y_stride = p->y_stride;
    m.y_f32 = p->y_f32;
    m.add = p->add;
    matmul_sm90(d, &m);
}

} // namespace

/* ---- the ops ---- */

bool matmul_fuses_norm(const struct device *d, const struct product *p)
{
    struct matmul_shape s = shape_of(d, p);
    struct matmul_choice c;
    matmul_choose(&c, &s);
    return c.fuse_norm;
}

void matmul_product(struct device *d, const struct product *p)
{
    struct matmul_shape s = shape_of(d, p);
    struct matmul_choice c;
    matmul_choose(&c, &s);
    if (c.variant == MATMUL_SKINNY)
        matmul_skinny(d, p, &c);
    else if (c.variant == MATMUL_WIDE && fits_sm90(p))
        run_sm90(d, p);
    else
        matmul_tiles(d, p);
}

void cuda_matmul(struct device *d, const struct matmul_args *args)
{
    struct matmul_args a = *args;
    struct product first = product_of(&a, &a.out[0]);
    const struct norm *norm = a.norm;
    if (norm && !matmul_fuses_norm(d, &first)) {
        struct norm_args n = {};
        n.y = d->scratch_norm;
        n.x = a.x;
        n.rows = a.rows;
        n.width = first.in;
        n.norm = *norm;
        cuda_norm(d, &n);
        a.x = d->scratch_norm;
        norm = nullptr;
    }
    if (a.act != ACT_NONE && a.n_outs == 2)
        run_gated(d, &a, norm);
    else
        run_outs(d, &a, norm);
}
