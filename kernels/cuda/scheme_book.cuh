/* scheme_book.cuh - a scheme's codebook as expand_step reads it, made on the host. */
#ifndef KERNELS_CUDA_SCHEME_BOOK_CUH
#define KERNELS_CUDA_SCHEME_BOOK_CUH

#include "kernels/cuda/scheme_expand.cuh"
#include "kernels/half.h"

inline expand_book scheme_book(enum dtype act, const struct scheme *s)
{
    expand_book b = {};
    for (int i = 0; i < 16; i++) {
        const float v = scheme_codebook(s->codes)[i];
        const uint32_t bits = act == DT_F16 ? f32_to_f16(v) : f32_to_bf16(v);
        b.high[i / 4] |= (bits >> 8) << 8 * (i % 4);
        b.low[i / 4] |= (bits & 255) << 8 * (i % 4);
    }
    return b;
}

#endif
