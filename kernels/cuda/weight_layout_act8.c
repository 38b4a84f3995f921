/* weight_layout_act8.c - weights that meet 8-bit activations: the way of act8_layout.h. */
#include <string.h>

#include "kernels/cuda/act8_layout.h"
#include "kernels/cuda/weight_layout.h"

bool weight_has_act8(const struct scheme *s, int cc)
{
    const enum dtype codes = s->act == ACTS_FP8 ? DT_FP8 : DT_INT8;
    return act8_runs_on(cc) && s->act != ACTS_WIDE && s->codes == codes && s->group == 0 &&
           !s->has_zero && !s->ordered;
}

static size_t act8_weight_bytes(const struct tensor *w)
{
    return act8_bytes(w->rows, (int)w->cols);
}

static int act8_pieces(const struct tensor *w, int64_t first, int64_t n,
                       struct weight_piece piece[WEIGHT_PIECES_MAX])
{
    piece[0] = (struct weight_piece){.at = act8_bytes(first, (int)w->cols),
                                     .n_bytes = act8_bytes(n, (int)w->cols)};
    return 1;
}

/* 16 codes at a time, which stay together.  INT8's are 128 more than what they stand for. */
static void put_codes(const struct scheme *s, const uint8_t *from, int cols, int row,
                      uint8_t *group)
{
    const uint8_t flip = s->codes == DT_INT8 ? 0x80 : 0;
    for (int first = 0; first < cols; first += 16) {
        uint8_t *to = group + act8_code_at(row, first);
        const int n = cols - first < 16 ? cols - first : 16;
        for (int i = 0; i < n; i++)
            to[i] = from[first + i] ^ flip;
    }
}

static void act8_pack(const struct tensor *w, enum dtype act, const struct scheme_rows *from,
                      int64_t n, void *const to[WEIGHT_PIECES_MAX])
{
    const int cols = (int)w->cols;
    (void)act;
    memset(to[0], 0, act8_bytes(n, cols));
    for (int64_t r = 0; r < n; r++) {
        const int row = (int)(r % ACT8_GROUP);
        uint8_t *group = (uint8_t *)to[0] + act8_bytes(r - row, cols);
        put_codes(w->scheme, from->codes + r * cols, cols, row, group);
        memcpy(group + act8_codes_bytes(cols) + (size_t)row * sizeof *from->scales,
               from->scales + r, sizeof *from->scales);
    }
}

const struct weight_layout weight_layout_act8 = {
    .rows_step = ACT8_GROUP,
    .bytes = act8_weight_bytes,
    .pieces = act8_pieces,
    .pack = act8_pack,
};
