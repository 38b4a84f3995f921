/* quant_folder.h - the weights of a Hugging Face folder whose matrices were quantized by another
 * tool: bitsandbytes, GPTQ, AWQ, compressed-tensors, fp8.
 *
 * Such a folder stores a matrix X.weight as several tensors, of names, types and packing that are the
 * tool's own.  Here they become one weight again, of a scheme (kernels/scheme.h), whose row reader
 * unpacks it; every other tensor must be a plain weight and is passed on as it is.  Which matrices
 * are quantized is what the files say; a module that config.json lists as skipped and that is
 * quantized all the same is refused.
 *
 * Read, by quant_method of config.json's quantization_config:
 *
 *     bitsandbytes        NF4 and FP4 with or without nested scales; LLM.int8()
 *     gptq                4 and 8 bits, zero points as gptq or gptq_v2 stores them, act-order
 *     awq                 4 bits, version gemm
 *     compressed-tensors  pack-quantized int4 and int8; int-quantized W8A8; float-quantized FP8
 *     fp8                 E4M3 with a scale a tensor or a row
 *
 * Everything is checked at open, scales for being finite among it, so that reading rows cannot
 * fail.  What would change the result and is not done here is refused by its key: activation scales
 * that are static, blocks of two dimensions, rules by module, transforms.
 *
 * The zero points that gptq stores less one are read as GPTQModel and transformers do: the one is added
 * to each field of a whole word, carries and all, which is how a zero point of 0 comes back.
 *
 * Thread: immutable after open; any thread. */
#ifndef ENGINE_QUANT_FOLDER_H
#define ENGINE_QUANT_FOLDER_H

#include "base/status.h"
#include "engine/weight.h"

struct cJSON;
struct quant_folder;
struct safetensors;

/* `config` is the object quantization_config and may go afterwards; `files` must stay. */
struct quant_folder *quant_folder_open(const struct safetensors *files, const struct cJSON *config,
                                       struct status *st) MUST_CHECK;
void quant_folder_close(struct quant_folder *q);

size_t quant_folder_n(const struct quant_folder *q);
const struct weight *quant_folder_at(const struct quant_folder *q, size_t i); /* by name */
const struct weight *quant_folder_find(const struct quant_folder *q, const char *name); /* or NULL */

#endif
