/* matmul_act8.cu - products of schemes that round activations to 8 bits: rows to codes, then the
 * kernel by their number.
 *
 * All that is made of rows lies where a norm's result would, which nobody wants meanwhile: two
 * planes of codes, a float a row and a list's columns may be more than its 16 bits a value, and are
 * then made of fewer rows at a time. */
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

/* Bytes of a row's codes and scale, and of what a list has of it; of what a list has of weights. */
size_t row_bytes(const struct product *p)
{
    const int planes = has_outliers(p) ? 2 : 1;
    return planes * act8_stride(p->in) + sizeof(float) + (planes > 1 ? ACT8_LIST_MAX : 0);
}

size_t listed_bytes(const struct product *p)
{
    const size_t rows = (size_t)(p->n + ACT8_GROUP - 1) / ACT8_GROUP * ACT8_GROUP;
    return has_outliers(p) ? (p->w_up ? 2 : 1) * rows * ACT8_LIST_MAX : 0;
}

enum { PADDING = 6 * 256 }; /* of all parts of the scratch */

/* Rows that fit, behind `fixed` bytes. */
int rows_max(const struct device *d, const struct product *p, size_t fixed)
{
    const size_t all = scratch_norm_bytes(&d->limits);
    return all <= fixed + PADDING ? 0 : (int)((all - fixed - PADDING) / row_bytes(p));
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

/* A list only where one is of use and fits. */
struct act8_rows take_rows(struct device *d, const struct product *p, struct act8_list *list)
{
    scratch s = {(uint8_t *)d->scratch_norm};
    struct act8_rows r = {};
    r.rows = p->rows;
    r.in = p->in;
    r.planes = has_outliers(p) ? 2 : 1;
    r.codes = s.take((size_t)r.planes * p->rows * act8_stride(p->in));
    r.scale = (float *)s.take(p->rows * sizeof(float));
    if (r.planes == 1 || p->rows <= ACT8_SKINNY_ROWS_MAX)
        return r;
    list->mask = d->act8_mask;
    list->n = (int32_t *)s.take(sizeof(int32_t));
    list->high = s.take((size_t)p->rows * ACT8_LIST_MAX);
    list->w = s.take(listed_bytes(p) / (p->w_up ? 2 : 1));
    list->w_up = s.take(listed_bytes(p) / (p->w_up ? 2 : 1));
    r.list = list;
    return r;
}

void run(struct device *d, const struct product *p)
{
    struct act8_list list;
    const struct act8_rows rows = take_rows(d, p, &list);
    struct act8_source s = {};
    s.x = p->x;
    s.norm = p->norm;
    s.gather = p->gather;
    s.rule = p->scheme->act;
    s.threshold = p->scheme->threshold;
    act8_quantize(d, &s, &rows);
    if (rows.list)
        act8_list_columns(d, p, &rows);
    if (p->rows <= ACT8_SKINNY_ROWS_MAX)
        matmul_act8_skinny(d, p, &rows, s.rule);
    else
        matmul_act8_sm90(d, p, &rows, s.rule);
}

} // namespace

/* Rows of y that the wide kernel cannot write come out of the skinny one, some at a time; so do all
 * where there is no room for a list. */
void matmul_act8(struct device *d, const struct product *p)
{
    const int fit = matmul_fits_sm90(p) ? rows_max(d, p, listed_bytes(p)) : 0;
    const int step = max(fit, (int)ACT8_SKINNY_ROWS_MAX);
    const int parts = (p->rows + step - 1) / step, each = (p->rows + parts - 1) / parts;
    for (int first = 0; first < p->rows; first += each) {
        const struct product s = slice(p, first, min(each, p->rows - first));
        run(d, &s);
    }
}
