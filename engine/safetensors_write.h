/* safetensors_write.h - a checkpoint's safetensors files, laid out before a byte of them is there.
 *
 * All tensors are named with their shapes first; then each has its place in a file, and may be
 * written in any order, by any thread, in pieces.  So the same tensors give the same files however
 * many threads write them.  A file holds tensors of wide elements before those of narrow ones,
 * which keeps all aligned without the holes that the format forbids.  Up to `shard_bytes` there
 * is one model.safetensors, else model-00001-of-0000N.safetensors and their index.
 *
 * Thread: put: any; all else one. */
#ifndef ENGINE_SAFETENSORS_WRITE_H
#define ENGINE_SAFETENSORS_WRITE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/safetensors.h"

struct safetensors_out;

struct st_tensor {
    enum element type;
    int n_dims; /* 0 = a single value */
    int64_t dim[2];
};

size_t st_tensor_bytes(const struct st_tensor *t);

/* NULL when there is no memory.  `shard_bytes` is the most that one file's tensors take. */
struct safetensors_out *safetensors_out_make(uint64_t shard_bytes);
/* The tensor's number, from 0, or -1 without memory.  It stays in the file of the one before when
 * `follows`, whatever the limit. */
int64_t safetensors_out_add(struct safetensors_out *o, const char *name, const struct st_tensor *t,
                            bool follows);
/* After the last add: creates the files with their headers, and takes their space on disk. */
bool safetensors_out_open(struct safetensors_out *o, int folder_fd, struct status *st) MUST_CHECK;
/* Bytes [at, at + n) of a tensor. */
bool safetensors_out_put(const struct safetensors_out *o, int64_t tensor, uint64_t at,
                         const void *bytes, size_t n, struct status *st) MUST_CHECK;
/* Writes the index, and everything to the disk. */
bool safetensors_out_finish(struct safetensors_out *o, int folder_fd, struct status *st) MUST_CHECK;
uint64_t safetensors_out_bytes(const struct safetensors_out *o); /* of all tensors */
void safetensors_out_close(struct safetensors_out *o);           /* accepts NULL */

/* A whole file in the folder, on disk when it returns. */
bool file_put(int folder_fd, const char *name, const void *bytes, size_t n,
              struct status *st) MUST_CHECK;

#endif
