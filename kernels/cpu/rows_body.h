/* rows_body.h - the body of rows_scalar.c, rows_avx2.c and rows_avx512.c: the compiler's flags for
 * the file choose the vector, ROW_KERNELS names the table. */
#include "kernels/cpu/act_rows.h"
#include "kernels/cpu/attention_rows.h"
#include "kernels/cpu/norm_rows.h"
#include "kernels/cpu/rope_kv_rows.h"
#include "kernels/cpu/sample_rows.h"

const struct row_kernels ROW_KERNELS = {
    .norm_rms = norm_rms,
    .norm_layer = norm_layer,
    .act = act,
    .rope = rope,
    .kv_store = kv_store,
    .hadamard = hadamard,
    .kv_quantize = kv_quantize,
    .attend_load = attend_load,
    .attend_chunk = attend_chunk,
    .attend_merge = attend_merge,
    .attend_finish = attend_finish,
    .sample_tops = sample_tops,
    .sample_weights = sample_weights,
};
