/* quant_source.h - one matrix of a file as rows of a scheme, made when they are asked for.
 *
 * Rows of a file, of any type that has a file layout, become floats and then codes.  That is a
 * function of the row alone, but for nested scales: those need the matrix's offset and
 * magnitudes first, which quant_source_prepare() finds.
 *
 * Making rows cannot fail where it is called, on a device's threads; so what goes wrong is kept and
 * told by quant_source_check().
 *
 * Thread: init, prepare, check and close: one; rows: any, several at once. */
#ifndef ENGINE_QUANT_SOURCE_H
#define ENGINE_QUANT_SOURCE_H

#include <stdatomic.h>

#include "base/status.h"
#include "engine/weight.h"
#include "kernels/quantize.h"

struct quant_source {
    const struct weight *from;
    const struct scheme *scheme;
    int32_t paired;       /* 0, or a head's rows, which lie as pairs (2i, 2i + 1) and are wanted as
                             (i, i + paired / 2): q and k of GGUF files */
    struct nested nested; /* absmax: NULL until prepared, and where the scheme has none */
    _Atomic int *fault;   /* where rows() leaves what went wrong; the owner's */
};

/* UNSUPPORTED, by name, where the columns do not fit the scheme or the weight has codes already. */
bool quant_source_init(struct quant_source *q, const struct weight *from,
                       const struct scheme *scheme, _Atomic int *fault,
                       struct status *st) MUST_CHECK;
void quant_source_close(struct quant_source *q);

/* Must come before rows of a nested scheme; n_threads as in parallel.h. */
bool quant_source_prepare(struct quant_source *q, int n_threads, struct status *st) MUST_CHECK;

/* weight_source.rows, with a struct quant_source as its context. */
void quant_source_rows(const void *ctx, int64_t first, int64_t n, const struct scheme_rows *to);
/* The same with the codes of nested scales, [n, groups], or NULL. */
void quant_source_rows_nested(const struct quant_source *q, int64_t first, int64_t n,
                              const struct scheme_rows *to, uint8_t *nested_codes);

/* CORRUPT, by name, when a value of the rows made so far is NaN or infinite. */
bool quant_source_check(const struct quant_source *q, struct status *st) MUST_CHECK;

/* Row `row` of the wanted matrix as floats. */
void quant_source_floats(const struct quant_source *q, int64_t row, float *dst);

#endif
