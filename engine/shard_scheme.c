/* shard_scheme.c - makes whole rows one at a time, and copies the part of each. */
#include "engine/shard_scheme.h"

#include <string.h>

enum {
    COLS_MAX = 65536, /* of the whole: a row of codes is on the stack */
    GROUP_MIN = 32    /* scheme_check allows no smaller ones */
};

/* Groups before a column. */
static int64_t groups_before(const struct scheme *s, int64_t col)
{
    return s->group == 0 ? 0 : col / s->group;
}

static void part_rows(const void *ctx, int64_t first, int64_t n, const struct scheme_rows *to)
{
    const struct scheme_part *p = ctx;
    const struct scheme *s = p->whole.scheme;
    const int64_t groups = scheme_groups(s, p->cols), skip = groups_before(s, p->first_col);
    uint8_t codes[COLS_MAX];
    float scales[COLS_MAX / GROUP_MIN];
    int16_t zeros[COLS_MAX / GROUP_MIN];
    const struct scheme_rows row = {codes, scales, s->has_zero ? zeros : NULL};
    for (int64_t r = 0; r < n; r++) {
        p->whole.source.rows(p->whole.source.ctx, p->first_row + first + r, 1, &row);
        memcpy(to->codes + r * p->cols, codes + p->first_col, (size_t)p->cols);
        memcpy(to->scales + r * groups, scales + skip, (size_t)groups * sizeof *scales);
        if (to->zeros)
            memcpy(to->zeros + r * groups, zeros + skip, (size_t)groups * sizeof *zeros);
    }
}

static bool check_columns(const struct weight *w, int64_t col, int64_t col_end, struct status *st)
{
    const struct scheme *s = w->scheme;
    if (w->cols > COLS_MAX)
        return status_fail(st, STATUS_UNSUPPORTED, "want at most %d columns to divide, found %lld",
                           COLS_MAX, (long long)w->cols);
    if (col == 0 && col_end == w->cols)
        return true;
    if (s->ordered)
        return status_fail(st, STATUS_UNSUPPORTED,
                           "ranks cannot divide columns that are in another order (act-order)");
    if (s->group > 0 && (col % s->group != 0 || col_end % s->group != 0))
        return status_fail(st, STATUS_UNSUPPORTED, "columns [%lld, %lld) are no whole groups of %d",
                           (long long)col, (long long)col_end, s->group);
    return scheme_check(s, col_end - col, st);
}

bool shard_scheme(struct weight *w, struct scheme_part *part, int64_t row, int64_t row_end,
                  int64_t col, int64_t col_end, struct status *st)
{
    if (!check_columns(w, col, col_end, st))
        return false;
    *part = (struct scheme_part){
        .whole = *w, .first_row = row, .first_col = col, .cols = col_end - col};
    w->rows = row_end - row;
    w->cols = col_end - col;
    w->n_bytes = scheme_bytes(w->scheme, w->rows, w->cols);
    w->source.rows = part_rows;
    w->source.ctx = part;
    return true;
}
