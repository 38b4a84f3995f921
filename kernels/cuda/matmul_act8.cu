/* matmul_act8.cu - products of schemes that round activations to 8 bits: rows to codes, then the
 * kernel by their number.
 *
 * Codes and scales lie where a norm's result would, which nobody wants meanwhile; high bytes by
 * column in memory of their own. */
#include <assert.h>

#include "kernels/cuda/act8.h"
#include "kernels/cuda/choose_act8.h"
#include "kernels/cuda/matmul_int.h"

namespace
{

/* Rows [first, first + n) of a product. */
struct product slice(const struct product *p, int first, int n)
{
    struct product s = *p;
    const size_t act = 2, at = (size_t)first * p->y_stride;
    s.rows = n;
    if (p->gather)
        s.gather += first;
    else
        s.x = (const char *)p->x + (size_t)first * p->in * act;
    s.y = (char *)p->y + at * (p->y_f32 ? sizeof(float) : act);
    if (p->add)
        s.add = (const char *)p->add + at * act;
    return s;
}

bool has_outliers(const struct product *p)
{
    return p->scheme->act == ACTS_OUTLIERS;
}

size_t align_up(size_t n)
{
    return (n + 255) / 256 * 256;
}

struct scratch {
    uint8_t *next;

    uint8_t *take(size_t n)
    {
        uint8_t *at = next;
        next += align_up(n);
        return at;
    }
};

struct act8_rows take_rows(struct device *d, const struct product *p)
{
    scratch s = {(uint8_t *)d->scratch_norm};
    const bool few = p->rows <= ACT8_SKINNY_ROWS_MAX;
    struct act8_rows r = {};
    r.rows = p->rows;
    r.in = p->in;
    r.planes = has_outliers(p) && few ? 2 : 1;
    r.codes = s.take((size_t)r.planes * p->rows * act8_stride(p->in));
    r.scale = (float *)s.take(p->rows * sizeof(float));
    if (!has_outliers(p) || few)
        return r;
    assert(p->in <= d->limits.in_outliers_max &&
           act8_high_stride(p->rows) <= act8_high_stride(d->limits.step_tokens_max));
    r.high = d->act8_high;
    r.mask = d->act8_mask;
    r.readers = d->act8_readers;
    return r;
}

void run(struct device *d, const struct product *p)
{
    const struct act8_rows rows = take_rows(d, p);
    struct act8_source s = {};
    s.x = p->x;
    s.norm = p->norm;
    s.gather = p->gather;
    s.rule = p->scheme->act;
    s.threshold = p->scheme->threshold;
    act8_quantize(d, &s, &rows);
    if (p->rows <= ACT8_SKINNY_ROWS_MAX)
        matmul_act8_skinny(d, p, &rows, s.rule);
    else
        matmul_act8_sm90(d, p, &rows, s.rule);
}

} // namespace

/* Rows of y that the wide kernel cannot write come out of the skinny one, some at a time. */
void matmul_act8(struct device *d, const struct product *p)
{
    const int step = matmul_fits_sm90(p) ? p->rows : (int)ACT8_SKINNY_ROWS_MAX;
    const int parts = (p->rows + step - 1) / step, each = (p->rows + parts - 1) / parts;
    for (int first = 0; first < p->rows; first += each) {
        const struct product s = slice(p, first, min(each, p->rows - first));
        run(d, &s);
    }
}
