/* gguf.h - a GGUF file: metadata by key, tensors by name, all of it checked at open.
 *
 * The file is mapped read-only and never copied.  gguf_open() reads the whole header
 * once, with every size through base/checked.h, and refuses what the specification
 * (ggml docs/gguf.md, versions 2 and 3, little endian) or inferd's limits refuse:
 * duplicate keys and names, wrong types, arrays of arrays, tensors that overlap or
 * pass the end.  A failure is CORRUPT (or UNSUPPORTED, IO) with "offset N: want ...,
 * found ...".  Afterwards every accessor is safe on any file.
 *
 * Limits: 65536 keys, 65536 tensors, strings 16 MiB, arrays 4 Mi elements, names
 * below 64 bytes, alignment 8..4096.
 *
 * Thread: immutable after open; any thread. */
#ifndef ENGINE_GGUF_H
#define ENGINE_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"
#include "engine/weight.h"

struct gguf;

struct gguf *gguf_open(const char *path, struct status *st) MUST_CHECK;
/* The same over bytes the caller keeps alive: for tests and fuzzing. */
struct gguf *gguf_open_memory(const void *bytes, size_t n, struct status *st) MUST_CHECK;
void gguf_close(struct gguf *g);
size_t gguf_file_bytes(const struct gguf *g);
size_t gguf_trailing_bytes(const struct gguf *g); /* behind the last tensor: not part of the model */
void gguf_release_pages(const struct gguf *g); /* madvise: the weights were copied */

/* True and *out set when the key exists with a type that converts without loss.  A missing key is
 * false with st untouched; a key of another type is false with st CORRUPT naming key and types. */
bool gguf_u64(const struct gguf *g, const char *key, uint64_t *out, struct status *st);
bool gguf_f64(const struct gguf *g, const char *key, double *out, struct status *st);
bool gguf_bool(const struct gguf *g, const char *key, bool *out, struct status *st);
bool gguf_string(const struct gguf *g, const char *key, struct str *out, struct status *st);

enum gguf_elem { GGUF_STRINGS, GGUF_I32, GGUF_F32 }; /* I32 also reads U32 arrays below 2^31 */
struct gguf_array {
    enum gguf_elem elem;
    size_t n;
    const void *at; /* first element in the mapping; use the readers below */
};
bool gguf_array(const struct gguf *g, const char *key, enum gguf_elem want,
                struct gguf_array *out, struct status *st);
int32_t gguf_array_i32(const struct gguf_array *a, size_t i);
float gguf_array_f32(const struct gguf_array *a, size_t i);
/* Strings have no index; walk them: *cursor starts NULL, n calls give the n strings in order. */
struct str gguf_array_next(const struct gguf_array *a, const void **cursor);

size_t gguf_n_tensors(const struct gguf *g);
const struct weight *gguf_tensor_at(const struct gguf *g, size_t i);
const struct weight *gguf_tensor_find(const struct gguf *g, const char *name); /* or NULL */

#endif
