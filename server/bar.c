/* bar.c - see bar.h. */
#include "server/bar.h"

#include <stdio.h>
#include <string.h>

enum { WIDTH = 40 };

int bar_text(char text[BAR_BYTES], uint64_t n_done, uint64_t n_total)
{
    const int percent = (int)(n_done >= n_total ? 100 : n_done * 100 / n_total);
    char bar[WIDTH + 1];
    memset(bar, '.', WIDTH);
    memset(bar, '#', (size_t)(percent * WIDTH / 100));
    bar[WIDTH] = '\0';
    snprintf(text, BAR_BYTES, "[%s] %3d%%  %.0f of %.0f MiB", bar, percent,
             (double)n_done / (1 << 20), (double)n_total / (1 << 20));
    return percent;
}
