/* store_format.h - how a matrix of a scheme lies in a checkpoint that other programs read.
 *
 *     int4                compressed-tensors pack-quantized: weight_packed, 8 codes a 32-bit word
 *                         along the row; weight_scale, f16; weight_shape; asymmetric,
 *                         weight_zero_point, packed along the column
 *     w8a16               the same with 4 codes a word and a f32 scale a row
 *     int8:threshold=0,   compressed-tensors int-quantized and float-quantized: weight as int8 or
 *     fp8                 E4M3; weight_scale, f32; activations token by token
 *     int8                bitsandbytes 8-bit: weight as int8; SCB, the rows' largest magnitudes
 *     nf4, fp4            bitsandbytes 4-bit: weight, two codes a byte, and its quant_state
 *
 * config.json says which in quantization_config.
 *
 * Thread: pure; any. */
#ifndef ENGINE_STORE_FORMAT_H
#define ENGINE_STORE_FORMAT_H

#include "base/buf.h"
#include "engine/quant_source.h"
#include "engine/safetensors_write.h"

enum { STORE_PARTS_MAX = 6, STORE_ROWS_ALIGN = 8 };

struct store_part {
    const char *end; /* of the name, behind that of the module: ".weight_packed" */
    struct st_tensor tensor;
};

/* The tensors that a matrix becomes; returns how many. */
int store_parts(const struct scheme *s, int64_t rows, int64_t cols,
                struct store_part part[STORE_PARTS_MAX]);

/* Where the bytes of a part go. */
struct store_sink {
    bool (*put)(void *ctx, int part, uint64_t at, const void *bytes, size_t n);
    void *ctx;
};

/* Memory that a call with at most n rows works in. */
struct store_scratch {
    struct scheme_rows rows;
    uint8_t *nested;   /* [n, groups] codes of scales */
    float *magnitudes; /* [n] */
    float *row;        /* [cols] */
};
bool store_scratch_make(struct store_scratch *s, const struct quant_source *q, int64_t n);
void store_scratch_close(struct store_scratch *s); /* accepts a half-made one */

/* Makes rows [first, first + n) and puts what the parts hold of them; `first` is a multiple of
 * STORE_ROWS_ALIGN, and n too but at the end.  False when the sink was. */
bool store_rows(const struct quant_source *q, int64_t first, int64_t n, struct store_scratch *s,
                const struct store_sink *to);
/* What is not of rows: shapes and codebooks.  After quant_source_prepare. */
bool store_fixed(const struct quant_source *q, const struct store_sink *to);

/* The value of quantization_config.  `kept` are the linear modules that are not quantized, each
 * ending with a NUL, the last with two. */
void store_config(const struct scheme *s, const char *kept, struct buf *out);

#endif
