/* matmul.cu - the product op: which weights run as one, the norm before, the kernel by shape.
 *
 * Weights that lie together in memory and whose results do, too (q, k and v), are one product, as
 * are gate and up.  A norm runs once, in front, unless the kernel makes it in passing. */
#include "kernels/cuda/act8_layout.h"
#include "kernels/cuda/block_layout.h"
#include "kernels/cuda/matmul_epilogue.cuh"
#include "kernels/cuda/matmul_int.h"
#include "kernels/cuda/matmul_sm90.h"
#include "kernels/cuda/rope_kv.cuh"
#include "kernels/cuda/scheme_layout.h"
#include "kernels/cuda/weight_layout.h"

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

struct product product_of(const struct device *d, const struct matmul_args *a, const matmul_out *o)
{
    struct product p = {};
    p.x = a->x;
    p.rows = a->rows;
    matmul_take_weight(d, &p, o->w);
    p.y = o->y;
    p.y_stride = o->y_stride ? o->y_stride : p.n;
    p.bias = o->bias;
    p.add = o->add;
    p.norm = a->norm;
    p.act = a->n_outs == 1 ? a->act : ACT_NONE;
    return p;
}

size_t act_bytes(const struct device *d)
{
    return (size_t)dtype_traits[d->act].block_bytes;
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

/* Both meet the same codes of x. */
bool same_act8(const struct product *p, const struct product *next)
{
    return p->act8 && next->act8 && p->scheme->act == next->scheme->act &&
           p->scheme->threshold == next->scheme->threshold;
}

/* Whether weights of both may be mixed, where they lie together. */
bool same_weights(const struct product *p, const struct product *next)
{
    if (p->act8 || next->act8)
        return p->n % ACT8_GROUP == 0 && same_act8(p, next);
    if (p->blocks || next->blocks)
        return p->blocks == next->blocks && p->n % UNIT_ROWS == 0;
    if (!p->scheme || !next->scheme)
        return !p->scheme && !next->scheme;
    return !p->order && !next->order && p->n % UNIT_ROWS == 0 &&
           scheme_same_units(p->scheme, next->scheme);
}

bool runs_as_one(const struct product *p, const struct product *next, size_t act_bytes)
{
    size_t n = (size_t)p->n;
    return p->in == next->in && same_weights(p, next) && follows(p->w, p->w_bytes, next->w) &&
           p->y_stride == next->y_stride && follows(p->y, n * act_bytes, next->y) &&
           follows_too(p->add, n * act_bytes, next->add) &&
           follows_too(p->bias, n * sizeof(float), next->bias);
}

/* Whether gate and up may be one product. */
bool pairs(const struct device *d, const struct product *gate, const struct product *up)
{
    if (d->act == DT_F32)
        return false;
    if (gate->act8 || up->act8)
        return same_act8(gate, up);
    if (gate->blocks || up->blocks)
        return gate->blocks == up->blocks;
    if (!gate->scheme || !up->scheme)
        return !gate->scheme && !up->scheme;
    return !gate->order && !up->order && scheme_same_units(gate->scheme, up->scheme) &&
           matmul_scheme_pairs(gate->scheme, gate->in);
}

struct call {
    struct device *d;
    const struct matmul_args *a;
    bool has_normed; /* d->scratch_norm is norm(x) */
};

void norm_once(struct call *c, int width)
{
    struct norm_args n = {};
    if (c->has_normed)
        return;
    n.y = c->d->scratch_norm;
    n.x = c->a->x;
    n.rows = c->a->rows;
    n.width = width;
    n.norm = *c->a->norm;
    cuda_norm(c->d, &n);
    c->has_normed = true;
}

void run(struct call *c, struct product *p)
{
    if (p->order) {
        matmul_order(c->d, p);
        c->has_normed = false;
    } else if (p->norm && !matmul_fuses_norm(c->d, p)) {
        norm_once(c, p->in);
        p->x = c->d->scratch_norm;
        p->norm = nullptr;
    }
    matmul_product(c->d, p);
    c->has_normed = c->has_normed && !p->act8; /* codes lie there */
}

/* The out i, and those behind it that run with it; returns the next. */
int join_outs(const struct call *c, int i, struct product *p)
{
    const struct matmul_args *a = c->a;
    *p = product_of(c->d, a, &a->out[i++]);
    for (; i < a->n_outs; i++) {
        struct product next = product_of(c->d, a, &a->out[i]);
        if (!runs_as_one(p, &next, act_bytes(c->d)))
            break;
        p->n += next.n;
        p->w_bytes += next.w_bytes;
    }
    return i;
}

void run_outs(struct call *c)
{
    for (int i = 0; i < c->a->n_outs;) {
        struct product p;
        i = join_outs(c, i, &p);
        run(c, &p);
    }
}

bool heads_fit(const struct device *d, const struct product *p, const struct rope_job *j)
{
    const struct matmul_shape s = shape_of(d, p);
    struct heads_shape h = {};
    struct matmul_choice c;
    if (p->scheme || p->blocks || d->act == DT_F32)
        return false;
    matmul_choose(&c, &s);
    h.head_dim = j->head_dim;
    h.rope_dims = j->dims;
    h.has_norm = j->q_norm || j->k_norm;
    h.cache_is_act = j->cache_dtype == d->act;
    h.aligned = epilogue_aligned(p);
    return heads_choose(&c, &h);
}

void run_gated(struct call *c)
{
    const struct matmul_args *a = c->a;
    const struct device *d = c->d;
    struct product p = product_of(d, a, &a->out[0]), up = product_of(d, a, &a->out[1]);
    if (pairs(d, &p, &up)) {
        p.w_up = up.w;
        p.bias_up = up.bias;
        p.act = a->act;
        run(c, &p);
        return;
    }
    up.y = p.y;
    up.y_stride = p.y_stride;
    up.act = a->act;
    up.gate_in_y = true;
    run(c, &p);
    run(c, &up);
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

void run_16_bits(struct device *d, const struct product *p)
{
    struct matmul_shape s = shape_of(d, p);
    struct matmul_choice c;
    matmul_choose(&c, &s);
    if (c.variant == MATMUL_SKINNY)
        matmul_skinny(d, p, &c);
    else if (c.variant == MATMUL_WIDE && matmul_fits_sm90(p))
        run_sm90(d, p);
    else
        matmul_tiles(d, p);
}

} // namespace

/* ---- the ops ---- */

void matmul_take_weight(const struct device *d, struct product *p, const struct tensor *w)
{
    const struct weight_layout *way = weight_layout_of(w, d->cc);
    p->in = (int)w->cols;
    p->n = (int)w->rows;
    p->w = w->data;
    p->scheme = w->scheme;
    p->act8 = w->scheme && weight_has_act8(w->scheme, d->cc);
    p->blocks = way && !w->scheme ? w->dtype : DT_F32;
    p->w_bytes = way ? way->bytes(w) : (size_t)p->n * (size_t)p->in * act_bytes(d);
    if (way && w->scheme && w->scheme->ordered) {
        p->w_bytes = way->order_at(w);
        p->order = (const int32_t *)((const char *)w->data + p->w_bytes);
    }
}

bool matmul_fits_sm90(const struct product *p)
{
    if (p->gate_in_y)
        return false;
    return p->y_f32 ? !p->add && p->act == ACT_NONE
                    : p->y_stride % 8 == 0 && (uintptr_t)p->y % 16 == 0;
}

bool matmul_fuses_norm(const struct device *d, const struct product *p)
{
    struct matmul_shape s = shape_of(d, p);
    struct matmul_choice c;
    if (d->act == DT_F32)
        return false;
    if (p->blocks)
        return matmul_block_fuses_norm(d, p);
    if (p->scheme)
        return p->act8 || matmul_scheme_fuses_norm(d, p);
    matmul_choose(&c, &s);
    return c.fuse_norm;
}

void matmul_product(struct device *d, const struct product *p)
{
    if (d->act == DT_F32)
        matmul_f32(d, p);
    else if (p->blocks)
        matmul_block(d, p);
    else if (!p->scheme)
        run_16_bits(d, p);
    else if (p->act8)
        matmul_act8(d, p);
    else
        matmul_scheme(d, p);
}

bool matmul_heads(struct device *d, const struct matmul_args *a, const struct rope_job *j)
{
    struct call c = {d, a, false};
    struct product p;
    if (join_outs(&c, 0, &p) < a->n_outs || !heads_fit(d, &p, j))
        return false;
    p.heads = j;
    run(&c, &p);
    return true;
}

void cuda_matmul(struct device *d, const struct matmul_args *a)
{
    struct call c = {d, a, false};
    if (a->act != ACT_NONE && a->n_outs == 2)
        run_gated(&c);
    else
        run_outs(&c);
}
