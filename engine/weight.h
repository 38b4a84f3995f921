/* weight.h - one weight of a checkpoint, whatever kind of file it lies in.
 *
 * Thread: immutable after open; any thread. */
#ifndef ENGINE_WEIGHT_H
#define ENGINE_WEIGHT_H

#include "base/str.h"
#include "kernels/ops.h"

struct weight {
    struct str name; /* lives as long as the file, as the source does */
    enum dtype dtype;
    int64_t rows, cols; /* a vector has rows = 1 */
    size_t n_bytes; /* in its files */
    const struct scheme *scheme; /* of a dtype from DT_INT4 on; lives as long as the name */
    struct weight_source source; /* at may be unaligned for its type */
};

#endif
