/* gguf_make.h - builds GGUF files in memory, right or wrong, for tests. */
#ifndef TESTS_GGUF_MAKE_H
#define TESTS_GGUF_MAKE_H

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/tensor.h"

enum { MAKE_BYTES = 16 << 20, MAKE_AT_TENSORS = 8, MAKE_AT_KEYS = 16 };
enum {
    G_U8,
    G_I8,
    G_U16,
    G_I16,
    G_U32,
    G_I32,
    G_F32,
    G_BOOL,
    G_STRING,
    G_ARRAY,
    G_U64,
    G_I64,
    G_F64
};

struct make {
    uint8_t *at;
    size_t n;
    uint64_t n_tensors, n_keys;
    size_t n_data; /* of the tensors named so far, padded */
    size_t align;
    uint64_t random;
};

static inline uint64_t make_random(uint64_t *state) /* xorshift64* */
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 2685821657736338717u;
}

static inline void make_put(struct make *m, const void *bytes, size_t n)
{
    assert(m->n + n <= MAKE_BYTES);
    memcpy(m->at + m->n, bytes, n);
    m->n += n;
}

static inline void make_u32(struct make *m, uint32_t v)
{
    make_put(m, &v, sizeof v);
}

static inline void make_u64(struct make *m, uint64_t v)
{
    make_put(m, &v, sizeof v);
}

static inline void make_str(struct make *m, const char *s)
{
    make_u64(m, strlen(s));
    make_put(m, s, strlen(s));
}

static inline void make_begin(struct make *m)
{
    *m = (struct make){.at = malloc(MAKE_BYTES), .align = 32, .random = 88172645463325252u};
    assert(m->at);
    make_put(m, "GGUF", 4);
    make_u32(m, 3);
    make_u64(m, 0);
    make_u64(m, 0);
}

static inline void make_close(struct make *m)
{
    free(m->at);
    *m = (struct make){0};
}

/* A key and its type; the value follows by make_put. */
static inline void make_key(struct make *m, const char *key, uint32_t type)
{
    make_str(m, key);
    make_u32(m, type);
    m->n_keys++;
    memcpy(m->at + MAKE_AT_KEYS, &m->n_keys, 8);
}

static inline void make_key_u32(struct make *m, const char *key, uint32_t v)
{
    make_key(m, key, G_U32);
    make_u32(m, v);
}

static inline void make_key_f32(struct make *m, const char *key, float v)
{
    make_key(m, key, G_F32);
    make_put(m, &v, sizeof v);
}

static inline void make_key_str(struct make *m, const char *key, const char *v)
{
    make_key(m, key, G_STRING);
    make_str(m, v);
}

static inline void make_key_array(struct make *m, const char *key, uint32_t elem, uint64_t n)
{
    make_key(m, key, G_ARRAY);
    make_u32(m, elem);
    make_u64(m, n);
}

static inline void make_count_tensor(struct make *m)
{
    m->n_tensors++;
    memcpy(m->at + MAKE_AT_TENSORS, &m->n_tensors, 8);
}

/* A tensor's record with its offset as it must be; n_dims 1 or 2, cols first as in the file. */
static inline void make_tensor(struct make *m, const char *name, enum dtype dtype, int64_t rows,
                               int64_t cols)
{
    size_t n;
    bool fits = tensor_file_bytes(dtype, rows, cols, &n);
    assert(fits);
    (void)fits;
    make_str(m, name);
    make_u32(m, rows == 1 ? 1 : 2);
    make_u64(m, (uint64_t)cols);
    if (rows != 1)
        make_u64(m, (uint64_t)rows);
    make_u32(m, (uint32_t)dtype_traits[dtype].gguf_id);
    make_u64(m, m->n_data);
    m->n_data = (m->n_data + n + m->align - 1) / m->align * m->align;
    make_count_tensor(m);
}

static inline void make_pad(struct make *m)
{
    while (m->n % m->align)
        make_put(m, "", 1);
}

/* The data section: whatever bytes. */
static inline void make_data(struct make *m)
{
    make_pad(m);
    for (size_t i = 0; i < m->n_data; i++) {
        const uint8_t byte = (uint8_t)(make_random(&m->random) >> 56);
        make_put(m, &byte, 1);
    }
}

/* Bytes [0, n) of m right before an unreadable page, `skew` bytes earlier. */
struct guarded {
    uint8_t *map, *at;
    size_t n_map;
};

static inline struct guarded guard(const uint8_t *bytes, size_t n)
{
    struct guarded g;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t span = (n + page) / page * page;
    g.n_map = span + page;
    g.map = mmap(NULL, g.n_map, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert(g.map != MAP_FAILED);
    if (mprotect(g.map + span, page, PROT_NONE) != 0)
        abort();
    g.at = g.map + span - n;
    memcpy(g.at, bytes, n);
    return g;
}

static inline void unguard(struct guarded *g)
{
    munmap(g->map, g->n_map);
}

static inline void make_write(const struct make *m, const char *path)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(m->at, 1, m->n, f) != m->n || fclose(f) != 0)
        abort();
}

#endif
