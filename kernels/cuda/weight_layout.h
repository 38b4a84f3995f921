/* weight_layout.h - what the device makes of a weight, by what the checkpoint has: one table a way.
 *
 * The loader (weights.cu) asks the way for sizes and places, lets the source make rows, and hands them
 * to the way's pack: so how a matrix lies on the device is written in one file for each way, and the
 * loader knows none of them.  A weight without a way is kept row after row in the activation type; where
 * that is f32, each is.
 *
 * Thread: any; pure. */
#ifndef KERNELS_CUDA_WEIGHT_LAYOUT_H
#define KERNELS_CUDA_WEIGHT_LAYOUT_H

#include "kernels/scheme.h"
#include "kernels/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { WEIGHT_PIECES_MAX = 3 };

struct weight_piece { /* of the weight's device memory */
    size_t at, n_bytes;
};

struct weight_layout {
    int rows_step; /* rows are packed from multiples of it on, and in multiples, but for the last */
    size_t (*bytes)(const struct tensor *w); /* all of it */
    /* Where the order of the columns lies, where the scheme is ordered: int32 [cols]. */
    size_t (*order_at)(const struct tensor *w);
    /* Where the rows [first, first + n) lie: some pieces, of which pack writes each to to[i]. */
    int (*pieces)(const struct tensor *w, int64_t first, int64_t n,
                  struct weight_piece piece[WEIGHT_PIECES_MAX]);
    /* Of a weight of a scheme; `act`: the activation type. */
    void (*pack)(const struct tensor *w, enum dtype act, const struct scheme_rows *from, int64_t n,
                 void *const to[WEIGHT_PIECES_MAX]);
    /* Of one without: its rows in file layout. */
    void (*pack_file)(const struct tensor *w, const void *rows, int64_t n,
                      void *const to[WEIGHT_PIECES_MAX]);
};

extern const struct weight_layout weight_layout_units;  /* scheme_layout.h */
extern const struct weight_layout weight_layout_act8;   /* act8_layout.h */
extern const struct weight_layout weight_layout_blocks; /* block_layout.h */

/* Of weights that meet 16-bit activations; NULL <=> 16 bits.  `cc`: the device's compute
 * capability; kernels of schemes want what 9.0 and 10.x have (archs.h), those of blocks wgmma. */
const struct weight_layout *weight_layout_of(const struct tensor *w, int cc);

/* Whether the product of this scheme rounds activations to 8 bits, and so has a layout and kernels of
 * its own: on devices of compute capability 9.0. */
bool weight_has_act8(const struct scheme *s, int cc);

#ifdef __cplusplus
}
#endif

#endif
