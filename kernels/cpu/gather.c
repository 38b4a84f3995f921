/* gather.c - copies chosen rows to the front of a dense matrix. */
#include "kernels/cpu/cpu_int.h"

#include <string.h>

void cpu_gather(struct device *d, const struct gather_args *a)
{
    (void)d; /* one row per sequence: too little to share */
    size_t width = (size_t)a->width;
    for (int i = 0; i < a->n; i++)
        memmove(a->y + (size_t)i * width, a->x + (size_t)a->rows[i] * width, width * sizeof *a->y);
}
