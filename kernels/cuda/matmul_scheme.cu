/* matmul_scheme.cu - products with weights of a scheme: few rows by matmul_scheme_skinny.cu, many
 * by matmul_scheme_sm90.cu where it fits, else few at a time. */
#include "kernels/cuda/matmul_scheme_sm90.h"
#include "kernels/cuda/scheme_choose.h"

namespace
{

/* From here on the wide product is faster, not gated sooner: at 32 rows of 4096 x 14336 it takes 27
 * us for 43 (H200, INT4), but gated of 28672 x 4096 34 for 33 (NF4 39 for 35), and 36 at 64. */
constexpr int WIDE_ROWS_MIN = 33;

bool is_wide(const struct device *d, const struct product *p)
{
    return p->rows >= WIDE_ROWS_MIN ||
           (p->rows > SCHEME_FEW_ROWS && matmul_scheme_sm90_fits_few(d, p));
}

const void *skip_rows(const void *at, int rows, int stride)
{
    return at ? (const char *)at + (size_t)rows * (size_t)stride * 2 : nullptr;
}

} // namespace

void matmul_scheme(struct device *d, const struct product *p)
{
    if (!is_wide(d, p)) {
        matmul_scheme_skinny(d, p);
        return;
    }
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
