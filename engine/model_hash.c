/* model_hash.c - two numbers that tell checkpoints apart. */
#include "engine/model_hash.h"

#include <stddef.h>
#include <string.h>

#include "base/hash.h"
#include "engine/gguf.h"
#include "engine/safetensors.h"

enum { SAMPLE_BYTES = 2048 }; /* at each end of a tensor: a page of the file each, or two */

/* The fields before `tied` have 4 bytes each, so there is no gap between them. */
_Static_assert(_Alignof(struct model_config) == 4, "no field of a configuration is wider");

uint64_t model_hash_config(const struct model_file *f)
{
    const struct model_config *c = &f->cfg;
    const char *family = f->arch->gguf_name;
    uint64_t h = hash64(family, strlen(family), c->tied);
    h = hash64(c, offsetof(struct model_config, tied), h);
    return hash64(c->is_local, (size_t)c->n_layers * sizeof *c->is_local, h);
}

/* The files' own tensors: of a quantized folder the parts of each matrix. */
static size_t count_tensors(const struct model_file *f)
{
    return f->gguf     ? gguf_n_tensors(f->gguf)
           : f->folder ? safetensors_n(f->folder)
                       : model_file_n_weights(f);
}

static const struct weight *tensor_at(const struct model_file *f, size_t i)
{
    return f->gguf     ? gguf_tensor_at(f->gguf, i)
           : f->folder ? safetensors_at(f->folder, i)
                       : model_file_weight(f, i);
}

static uint64_t hash_tensor(const struct weight *w, uint64_t h)
{
    const int64_t shape[] = {w->dtype, w->rows, w->cols, (int64_t)w->n_bytes};
    const size_t n = w->n_bytes < SAMPLE_BYTES ? w->n_bytes : SAMPLE_BYTES;
    const char *at = w->source.at;
    h = hash64(w->name.at, w->name.n, h);
    h = hash64(shape, sizeof shape, h);
    h = hash64(at, n, h);
    return hash64(at + w->n_bytes - n, n, h);
}

uint64_t model_hash_weights(const struct model_file *f)
{
    uint64_t h = model_file_bytes(f);
    for (size_t i = 0; i < count_tensors(f); i++)
        h = hash_tensor(tensor_at(f, i), h);
    return h;
}
