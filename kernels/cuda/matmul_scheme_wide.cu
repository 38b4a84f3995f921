/* matmul_scheme_wide.cu - products of many rows with weights of a scheme: by matmul_scheme_sm90.cu where
 * it fits, else few rows at a time. */
#include "kernels/cuda/matmul_scheme_sm90.h"

namespace
{

const void *skip_rows(const void *at, int rows, int stride)
{
    return at ? (const char *)at + (size_t)rows * (size_t)stride * 2 : nullptr;
}

} // namespace

void matmul_scheme_wide(struct device *d, const struct product *p)
{
    if (matmul_scheme_sm90_fits(d, p)) {
        matmul_scheme_sm90(d, p);
        return;
    }
    for (int first = 0; first < p->rows; first += SCHEME_SKINNY_ROWS_MAX) {
        struct product part = *p;
        part.rows =
            p->rows - first < SCHEME_SKINNY_ROWS_MAX ? p->rows - first : SCHEME_SKINNY_ROWS_MAX;
        part.x = skip_rows(p->x, first, p->in);
        part.add = skip_rows(p->add, first, p->y_stride);
        part.y = (char *)p->y + (size_t)first * (size_t)p->y_stride * (p->y_f32 ? 4 : 2);
        matmul_scheme_skinny(d, &part);
    }
}
