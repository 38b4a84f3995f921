/* shard_scheme.h - some rows, or some columns, of a matrix of a scheme.
 *
 * A matrix of a scheme has no bytes to cut where they lie: its source makes rows.  A part asks that
 * source for whole rows and keeps what it wants of each: codes, scales, zero points.  Columns are
 * cut between groups; where a row has one scale, each part has it.
 *
 * Thread: a part is immutable; its rows may be made by several threads at once. */
#ifndef ENGINE_SHARD_SCHEME_H
#define ENGINE_SHARD_SCHEME_H

#include "base/status.h"
#include "engine/weight.h"

struct scheme_part {
    struct weight whole;
    int64_t first_row, first_col, cols;
};

/* w becomes the rows [row, row_end) and columns [col, col_end) of what it was; `part` must live as
 * long. UNSUPPORTED when that would cut a group, or columns that the scheme has in another order.
 */
bool shard_scheme(struct weight *w, struct scheme_part *part, int64_t row, int64_t row_end,
                  int64_t col, int64_t col_end, struct status *st) MUST_CHECK;

#endif
