/* safetensors.h - the weights of a Hugging Face folder: one file, or shards and their index.
 *
 * A file is 8 bytes of header length, a JSON header {name: {dtype, shape, data_offsets}} and
 * the data.  Files are mapped read-only and never copied.  Everything is checked at open, with
 * sizes through base/checked.h: what the format refuses (offsets out of the data, overlaps,
 * holes, bytes behind the last tensor), names that come twice, in one file or in two, types
 * other than those below, tensors of more than two dimensions, and an index that does not agree
 * with its files.  A failure names file and tensor, what was wanted and what was found.
 *
 * A plain weight is F32, F16 or BF16 and has one or two dimensions.  Any other tensor is a part
 * of a quantized matrix (quant_folder.h): its dtype is DT_ALL_N, and whoever has no use for it
 * refuses it with safetensors_check_plain.
 *
 * Limits: header 64 MiB, 65536 tensors, names below 128 bytes, 1024 shards.
 *
 * Thread: immutable after open; any thread. */
#ifndef ENGINE_SAFETENSORS_H
#define ENGINE_SAFETENSORS_H

#include "base/status.h"
#include "engine/weight.h"

struct safetensors;

/* What the values of a tensor are in the file. */
enum element {
    ELEMENT_F32, ELEMENT_F16, ELEMENT_BF16,
    ELEMENT_F8_E4M3, ELEMENT_I8, ELEMENT_U8, ELEMENT_I32, ELEMENT_I64, /* of parts */
    ELEMENT_N
};

struct element_traits {
    const char *name; /* in a header: "BF16" */
    int bytes;
    enum dtype dtype; /* of a plain weight; DT_ALL_N = none */
};

extern const struct element_traits element_traits[ELEMENT_N];

/* folder/model.safetensors, else the shards that folder/model.safetensors.index.json names. */
struct safetensors *safetensors_open(const char *folder, struct status *st) MUST_CHECK;
/* One file's bytes, which the caller keeps alive: for tests and fuzzing. */
struct safetensors *safetensors_open_memory(const void *bytes, size_t n,
                                            struct status *st) MUST_CHECK;
void safetensors_close(struct safetensors *s);
size_t safetensors_file_bytes(const struct safetensors *s); /* of all files */
void safetensors_release_pages(const struct safetensors *s); /* madvise: the weights were copied */

size_t safetensors_n(const struct safetensors *s);
const struct weight *safetensors_at(const struct safetensors *s, size_t i);
const struct weight *safetensors_find(const struct safetensors *s, const char *name); /* or NULL */

/* Of a tensor of s. */
enum element safetensors_element(const struct safetensors *s, const struct weight *w);
/* UNSUPPORTED, with its name, for a tensor that is no plain weight. */
bool safetensors_check_plain(const struct safetensors *s, const struct weight *w,
                             struct status *st) MUST_CHECK;

#endif
