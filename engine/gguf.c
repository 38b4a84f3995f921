/* gguf.c - reads a GGUF header once, checks all of it, and answers by hash table.
 *
 * Nothing is allocated from a count in the file before the count was compared with the bytes
 * that are left to hold it.  Values lie at any alignment, so they are read with memcpy.
 *
 * Format: ggml docs/gguf.md, versions 2 and 3. */
#include "engine/gguf.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/hash.h"
#include "engine/file_map.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF values are read as they lie");

enum {
    KEYS_MAX = 65536,
    TENSORS_MAX = 65536,
    KEY_BYTES_MAX = 65535,
    NAME_BYTES_MAX = 63,
    DIMS_MAX = 4,
    ALIGN_MIN = 8,
    ALIGN_MAX = 4096,
    ALIGN_DEFAULT = 32,
    ELEMENTS_MAX = 4 << 20,
    STRING_BYTES_MAX = 16 << 20,
    KEY_RECORD_MIN = 8 + 1 + 4 + 1,        /* length, one byte, type, the smallest value */
    TENSOR_RECORD_MIN = 8 + 1 + 4 + 4 + 8, /* length, one byte, no dimension, type, offset */
};

enum value_type { /* gguf_metadata_value_type */
                  T_U8,
                  T_I8,
                  T_U16,
                  T_I16,
                  T_U32,
                  T_I32,
                  T_F32,
                  T_BOOL,
                  T_STRING,
                  T_ARRAY,
                  T_U64,
                  T_I64,
                  T_F64,
                  T_N
};

static const struct {
    const char *name;
    size_t n_bytes; /* 0 for types of no fixed size */
} types[T_N] = {
    [T_U8] = {"uint8", 1},    [T_I8] = {"int8", 1},    [T_U16] = {"uint16", 2},
    [T_I16] = {"int16", 2},   [T_U32] = {"uint32", 4}, [T_I32] = {"int32", 4},
    [T_F32] = {"float32", 4}, [T_BOOL] = {"bool", 1},  [T_STRING] = {"string", 0},
    [T_ARRAY] = {"array", 0}, [T_U64] = {"uint64", 8}, [T_I64] = {"int64", 8},
    [T_F64] = {"float64", 8},
};

struct pair { /* one key and where its value lies */
    struct str key;
    enum value_type type;
    enum value_type elem; /* T_ARRAY: of its elements */
    uint64_t n;           /* T_ARRAY: elements; T_STRING: bytes */
    size_t at;            /* offset of the value, behind any length */
};

struct table { /* open addressing; cell = index + 1, 0 <=> empty */
    uint32_t *cell;
    size_t mask;
};

struct gguf {
    const char *bytes;
    size_t n_bytes;
    struct file_map file; /* what is ours to close; none when opened over memory */
    uint64_t seed;
    size_t align;
    struct pair *pair;
    size_t n_pairs;
    struct weight *tensor;
    size_t n_tensors;
    size_t end; /* of the last tensor */
    struct table by_key, by_name;
};

struct reader { /* the header, front to back */
    const char *bytes;
    size_t at, end; /* at <= end */
    struct status *st;
};

/* Reading.  After a failure every further read fails too, silently: the first one is told. */

static bool refuse_short(struct reader *r, const char *what, uint64_t want)
{
    return status_fail(r->st, STATUS_CORRUPT,
                       "offset %zu: want %s of %llu bytes, found %zu before the end of the file",
                       r->at, what, (unsigned long long)want, r->end - r->at);
}

static bool read_bytes(struct reader *r, const char *what, void *out, size_t n)
{
    if (n > r->end - r->at) {
        refuse_short(r, what, n);
        return false; /* said plainly: compilers then see that *out is set on true */
    }
    memcpy(out, r->bytes + r->at, n);
    r->at += n;
    return true;
}

static bool read_u32(struct reader *r, const char *what, uint32_t *out)
{
    return read_bytes(r, what, out, sizeof *out);
}

static bool read_u64(struct reader *r, const char *what, uint64_t *out)
{
    return read_bytes(r, what, out, sizeof *out);
}

static bool read_str(struct reader *r, const char *what, size_t n_max, struct str *out)
{
    uint64_t n;
    if (!read_u64(r, what, &n))
        return false;
    if (n > r->end - r->at)
        return refuse_short(r, what, n);
    if (n > n_max)
        return status_fail(r->st, STATUS_CORRUPT,
                           "offset %zu: want %s of at most %zu bytes, found %llu", r->at - 8, what,
                           n_max, (unsigned long long)n);
    *out = (struct str){r->bytes + r->at, (size_t)n};
    r->at += (size_t)n;
    return true;
}

/* A key or a tensor name: a string that is neither empty nor holds a NUL, so that it can be
 * looked up by a C string. */
static bool read_name(struct reader *r, const char *what, size_t n_max, struct str *out)
{
    const size_t at = r->at;
    if (!read_str(r, what, n_max, out))
        return false;
    if (out->n == 0)
        return status_fail(r->st, STATUS_CORRUPT, "offset %zu: want %s, found an empty one", at,
                           what);
    if (memchr(out->at, 0, out->n))
        return status_fail(r->st, STATUS_CORRUPT,
                           "offset %zu: want %s without NUL, found one in \"%s\"", at, what,
                           str_show(*out).text);
    return true;
}

/* Hash tables. */

static bool open_table(struct table *t, size_t n)
{
    size_t n_cells = 4;
    while (n_cells < 2 * n)
        n_cells *= 2;
    t->cell = calloc(n_cells, sizeof *t->cell);
    t->mask = n_cells - 1;
    return t->cell != NULL;
}

static struct str key_of(const struct gguf *g, const struct table *t, size_t i)
{
    return t == &g->by_key ? g->pair[i].key : g->tensor[i].name;
}

/* The cell of `key`, or the empty one where it would go.  The table is at most half full. */
static uint32_t *find_cell(const struct gguf *g, const struct table *t, struct str key)
{
    size_t i = (size_t)hash64(key.at, key.n, g->seed) & t->mask;
    while (t->cell[i] && !str_equal(key_of(g, t, t->cell[i] - 1), key))
        i = (i + 1) & t->mask;
    return &t->cell[i];
}

static bool insert_unique(const struct gguf *g, const struct table *t, size_t index, size_t at,
                          const char *what, struct status *st)
{
    const struct str key = key_of(g, t, index);
    uint32_t *cell = find_cell(g, t, key);
    if (*cell)
        return status_fail(st, STATUS_CORRUPT, "offset %zu: want each %s once, found \"%s\" again",
                           at, what, str_show(key).text);
    *cell = (uint32_t)index + 1;
    return true;
}

/* Metadata. */

static bool check_bools(struct reader *r, const struct pair *p, uint64_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)r->bytes[p->at + i] > 1)
            return status_fail(r->st, STATUS_CORRUPT, "offset %zu: key %s: want 0 or 1, found %d",
                               p->at + i, str_show(p->key).text, (unsigned char)r->bytes[p->at + i]);
    return true;
}

static bool skip_fixed(struct reader *r, const struct pair *p, enum value_type type, uint64_t n)
{
    const size_t n_bytes = (size_t)n * types[type].n_bytes; /* n was compared with the file */
    if (n_bytes > r->end - r->at)
        return refuse_short(r, "a value", n_bytes);
    r->at += n_bytes;
    return type != T_BOOL || check_bools(r, p, n);
}

static bool read_type(struct reader *r, const struct pair *p, const char *what,
                      enum value_type *out)
{
    const size_t at = r->at;
    uint32_t type;
    if (!read_u32(r, what, &type))
        return false;
    if (type >= T_N)
        return status_fail(r->st, STATUS_CORRUPT, "offset %zu: key %s: want %s below %d, found %u",
                           at, str_show(p->key).text, what, T_N, type);
    *out = (enum value_type)type;
    return true;
}

static bool read_array(struct reader *r, struct pair *p)
{
    const size_t at = r->at;
    if (!read_type(r, p, "an element type", &p->elem) || !read_u64(r, "an array length", &p->n))
        return false;
    if (p->elem == T_ARRAY)
        return status_fail(r->st, STATUS_CORRUPT,
                           "offset %zu: key %s: want no array of arrays, found one", at,
                           str_show(p->key).text);
    const size_t elem_bytes = p->elem == T_STRING ? 8 : types[p->elem].n_bytes;
    if (p->n > (r->end - r->at) / elem_bytes)
        return status_fail(r->st, STATUS_CORRUPT,
                           "offset %zu: key %s: want an array of %llu elements, found %zu bytes "
                           "before the end of the file",
                           at + 4, str_show(p->key).text, (unsigned long long)p->n, r->end - r->at);
    if (p->n > ELEMENTS_MAX)
        return status_fail(r->st, STATUS_CORRUPT,
                           "offset %zu: key %s: want at most %d elements, found %llu", at + 4,
                           str_show(p->key).text, ELEMENTS_MAX, (unsigned long long)p->n);
    p->at = r->at;
    if (p->elem != T_STRING)
        return skip_fixed(r, p, p->elem, p->n);
    struct str s;
    for (uint64_t i = 0; i < p->n; i++)
        if (!read_str(r, "a string", STRING_BYTES_MAX, &s))
            return status_wrap(r->st, "key %s: element %llu", str_show(p->key).text,
                               (unsigned long long)i);
    return true;
}

static bool read_value(struct reader *r, struct pair *p)
{
    struct str s;
    if (!read_type(r, p, "a value type", &p->type))
        return false;
    p->at = r->at;
    switch (p->type) {
    case T_STRING:
        if (!read_str(r, "a string", STRING_BYTES_MAX, &s))
            return status_wrap(r->st, "key %s", str_show(p->key).text);
        p->n = s.n;
        p->at += 8;
        return true;
    case T_ARRAY:
        return read_array(r, p);
    default:
        return skip_fixed(r, p, p->type, 1);
    }
}

static bool read_pairs(struct gguf *g, struct reader *r)
{
    for (size_t i = 0; i < g->n_pairs; i++) {
        const size_t at = r->at;
        if (!read_name(r, "a key", KEY_BYTES_MAX, &g->pair[i].key) || !read_value(r, &g->pair[i]) ||
            !insert_unique(g, &g->by_key, i, at, "key", r->st))
            return false;
    }
    return true;
}

/* Tensors. */

static bool is_power_of_two(uint64_t n)
{
    return n && (n & (n - 1)) == 0;
}

static bool read_alignment(struct gguf *g, struct status *st)
{
    static const char key[] = "general.alignment";
    const uint32_t *cell = find_cell(g, &g->by_key, (struct str){key, sizeof key - 1});
    g->align = ALIGN_DEFAULT;
    if (!*cell)
        return true;
    const struct pair *p = &g->pair[*cell - 1];
    if (p->type != T_U32)
        return status_fail(st, STATUS_CORRUPT, "offset %zu: %s: want uint32, found %s", p->at, key,
                           types[p->type].name);
    uint32_t align;
    memcpy(&align, g->bytes + p->at, sizeof align);
    if (!is_power_of_two(align) || align < ALIGN_MIN || align > ALIGN_MAX)
        return status_fail(st, STATUS_CORRUPT,
                           "offset %zu: %s: want a power of two from %d to %d, found %u", p->at,
                           key, ALIGN_MIN, ALIGN_MAX, align);
    g->align = align;
    return true;
}

/* Dimensions come innermost first; those beyond the second are folded into the rows. */
static bool read_shape(struct reader *r, struct weight *t)
{
    const size_t at = r->at;
    uint32_t n_dims;
    size_t dim[2] = {1, 1};
    if (!read_u32(r, "a number of dimensions", &n_dims))
        return false;
    if (n_dims > DIMS_MAX)
        return status_fail(r->st, STATUS_CORRUPT,
                           "offset %zu: tensor %s: want at most %d dimensions, found %u", at,
                           str_show(t->name).text, DIMS_MAX, n_dims);
    for (uint32_t i = 0; i < n_dims; i++) {
        uint64_t n;
        if (!read_u64(r, "a dimension", &n))
            return false;
        if (n < 1 || n > INT64_MAX)
            return status_fail(r->st, STATUS_CORRUPT,
                               "offset %zu: tensor %s: want a dimension of at least 1, found %lld",
                               r->at - 8, str_show(t->name).text, (long long)n);
        if (!size_mul(dim[i > 0], (size_t)n, &dim[i > 0]))
            return status_fail(r->st, STATUS_CORRUPT,
                               "offset %zu: tensor %s: want a size below 2^63, found more", at,
                               str_show(t->name).text);
    }
    size_t n_values;
    if (!size_mul(dim[0], dim[1], &n_values) || n_values > INT64_MAX)
        return status_fail(r->st, STATUS_CORRUPT,
                           "offset %zu: tensor %s: want a size below 2^63, found more", at,
                           str_show(t->name).text);
    t->cols = (int64_t)dim[0];
    t->rows = (int64_t)dim[1];
    return true;
}

static bool read_size(struct reader *r, struct weight *t)
{
    const size_t at = r->at;
    uint32_t id;
    if (!read_u32(r, "a tensor type", &id))
        return false;
    t->dtype = dtype_from_gguf(id);
    if (t->dtype >= DT_N)
        return status_fail(r->st, STATUS_UNSUPPORTED,
                           "offset %zu: tensor %s: ggml type %u is not supported", at,
                           str_show(t->name).text, id);
    if (tensor_file_bytes(t->dtype, t->rows, t->cols, &t->n_bytes))
        return true;
    return status_fail(r->st, STATUS_CORRUPT,
                       "offset %zu: tensor %s: want rows of a multiple of %d values (%s) and a "
                       "size below 2^63, found [%lld, %lld]",
                       at, str_show(t->name).text, dtype_traits[t->dtype].block,
                       dtype_traits[t->dtype].name, (long long)t->rows, (long long)t->cols);
}

/* *next is the only offset the tensor may have: where the ones before it end, padded. */
static bool read_tensor(struct gguf *g, struct reader *r, size_t i, size_t *next)
{
    struct weight *t = &g->tensor[i];
    const size_t at = r->at;
    uint64_t offset;
    if (!read_name(r, "a tensor name", NAME_BYTES_MAX, &t->name) ||
        !insert_unique(g, &g->by_name, i, at, "tensor", r->st) || !read_shape(r, t) ||
        !read_size(r, t) || !read_u64(r, "a tensor offset", &offset))
        return false;
    if (offset != *next)
        return status_fail(
            r->st, STATUS_CORRUPT,
            "offset %zu: tensor %s: want its data at %zu (alignment %zu), found %llu", r->at - 8,
            str_show(t->name).text, *next, g->align, (unsigned long long)offset);
    if (!size_add(*next, t->n_bytes, next) || !size_align(*next, g->align, next))
        return status_fail(r->st, STATUS_CORRUPT,
                           "offset %zu: tensor %s: want an end below 2^64, found more", r->at - 8,
                           str_show(t->name).text);
    return true;
}

/* The data section begins at the next aligned offset after the header; offsets count from there. */
static bool place_tensors(struct gguf *g, size_t header_end, struct status *st)
{
    size_t first, at = 0;
    if (!size_align(header_end, g->align, &first))
        return status_fail(st, STATUS_CORRUPT, "offset %zu: the header is too long", header_end);
    for (size_t i = 0; i < g->n_tensors; i++) {
        struct weight *t = &g->tensor[i];
        size_t begin, end;
        if (!size_align(at, g->align, &at) || !size_add(first, at, &begin) ||
            !size_add(begin, t->n_bytes, &end) || end > g->n_bytes)
            return status_fail(
                st, STATUS_CORRUPT,
                "offset %zu: tensor %s: want %zu bytes of data at %zu, found the end "
                "of the file at %zu",
                header_end, str_show(t->name).text, t->n_bytes, first + at, g->n_bytes);
        t->source = (struct weight_source){.at = g->bytes + begin, .fd = -1, .offset = begin};
        at += t->n_bytes;
        g->end = end;
    }
    return true;
}

static bool read_tensors(struct gguf *g, struct reader *r)
{
    size_t next = 0;
    for (size_t i = 0; i < g->n_tensors; i++)
        if (!read_tensor(g, r, i, &next))
            return false;
    if (g->n_tensors == 0)
        g->end = r->at;
    return place_tensors(g, r->at, r->st);
}

/* The whole file. */

static bool check_version(struct reader *r)
{
    char magic[4];
    uint32_t version;
    if (!read_bytes(r, "the magic GGUF", magic, sizeof magic))
        return false;
    if (memcmp(magic, "GGUF", 4) != 0)
        return status_fail(r->st, STATUS_CORRUPT,
                           "offset 0: want the magic GGUF, found bytes %02x %02x %02x %02x",
                           (unsigned char)magic[0], (unsigned char)magic[1],
                           (unsigned char)magic[2], (unsigned char)magic[3]);
    if (!read_u32(r, "a version", &version))
        return false;
    if (version == 2 || version == 3)
        return true;
    if ((version & 0xffff) == 0 && version != 0)
        return status_fail(r->st, STATUS_UNSUPPORTED,
                           "offset 4: want a little-endian file, found version %u byte-swapped",
                           __builtin_bswap32(version));
    return status_fail(r->st, STATUS_UNSUPPORTED, "offset 4: want version 2 or 3, found %u",
                       version);
}

static bool read_count(struct reader *r, const char *what, size_t record_min, size_t n_max,
                       size_t *out)
{
    const size_t at = r->at;
    uint64_t n;
    if (!read_u64(r, what, &n))
        return false;
    if (n > n_max)
        return status_fail(r->st, STATUS_CORRUPT, "offset %zu: want at most %zu as %s, found %llu",
                           at, n_max, what, (unsigned long long)n);
    if (n > (r->end - r->at) / record_min)
        return status_fail(r->st, STATUS_CORRUPT,
                           "offset %zu: want room for %llu as %s, found %zu bytes before the end "
                           "of the file",
                           at, (unsigned long long)n, what, r->end - r->at);
    *out = (size_t)n;
    return true;
}

static bool take_tables(struct gguf *g, struct status *st)
{
    struct hash_key key;
    if (!hash_key_random(&key))
        return status_fail(st, STATUS_IO, "no random bytes from the system");
    g->seed = key.k0;
    g->pair = calloc(g->n_pairs + 1, sizeof *g->pair);
    g->tensor = calloc(g->n_tensors + 1, sizeof *g->tensor);
    if (g->pair && g->tensor && open_table(&g->by_key, g->n_pairs) &&
        open_table(&g->by_name, g->n_tensors))
        return true;
    return status_fail(st, STATUS_BUSY, "no memory for %zu keys and %zu tensors", g->n_pairs,
                       g->n_tensors);
}

static bool parse(struct gguf *g, struct status *st)
{
    struct reader r = {.bytes = g->bytes, .end = g->n_bytes, .st = st};
    return check_version(&r) &&
           read_count(&r, "the number of tensors", TENSOR_RECORD_MIN, TENSORS_MAX, &g->n_tensors) &&
           read_count(&r, "the number of keys", KEY_RECORD_MIN, KEYS_MAX, &g->n_pairs) &&
           take_tables(g, st) && read_pairs(g, &r) && read_alignment(g, st) && read_tensors(g, &r);
}

struct gguf *gguf_open_memory(const void *bytes, size_t n, struct status *st)
{
    struct gguf *g = calloc(1, sizeof *g);
    if (!g) {
        status_fail(st, STATUS_BUSY, "no memory to open a model file");
        return NULL;
    }
    g->file.fd = -1;
    g->bytes = bytes;
    g->n_bytes = n;
    if (parse(g, st))
        return g;
    gguf_close(g);
    return NULL;
}

struct gguf *gguf_open(const char *path, struct status *st)
{
    struct file_map file;
    struct gguf *g = NULL;
    if (file_map_open(&file, path, st))
        g = gguf_open_memory(file.bytes, file.n, st);
    if (!g) {
        file_map_close(&file);
        status_wrap(st, "%s", path);
        return NULL;
    }
    g->file = file;
    for (size_t i = 0; i < g->n_tensors; i++)
        g->tensor[i].source.fd = file.fd;
    return g;
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    file_map_close(&g->file);
    free(g->by_key.cell);
    free(g->by_name.cell);
    free(g->pair);
    free(g->tensor);
    free(g);
}

size_t gguf_file_bytes(const struct gguf *g)
{
    return g->n_bytes;
}

/* Writers may or may not pad the last tensor to the alignment. */
size_t gguf_trailing_bytes(const struct gguf *g)
{
    size_t padded;
    if (!size_align(g->end, g->align, &padded) || padded > g->n_bytes)
        padded = g->n_bytes;
    return g->n_bytes - padded;
}

void gguf_release_pages(const struct gguf *g)
{
    file_map_release(&g->file);
}

/* Metadata by key. */

static const struct pair *find_pair(const struct gguf *g, const char *key)
{
    const uint32_t *cell = find_cell(g, &g->by_key, (struct str){key, strlen(key)});
    return *cell ? &g->pair[*cell - 1] : NULL;
}

static bool refuse_type(const struct pair *p, const char *want, struct status *st)
{
    return status_fail(st, STATUS_CORRUPT, "offset %zu: key %s: want %s, found %s%s", p->at,
                       str_show(p->key).text, want, p->type == T_ARRAY ? "array of " : "",
                       types[p->type == T_ARRAY ? p->elem : p->type].name);
}

static bool is_integer(enum value_type type)
{
    return type != T_F32 && type != T_F64 && type != T_BOOL && types[type].n_bytes != 0;
}

/* An integer of any width as its low 64 bits; signed ones are sign-extended. */
static uint64_t load_integer(const char *at, enum value_type type)
{
    const size_t n = types[type].n_bytes;
    const bool has_sign = type == T_I8 || type == T_I16 || type == T_I32 || type == T_I64;
    uint64_t v = 0;
    memcpy(&v, at, n);
    if (has_sign && n < 8 && (v >> (8 * n - 1)) != 0)
        v |= ~(uint64_t)0 << (8 * n);
    return v;
}

static bool is_negative(enum value_type type, uint64_t v)
{
    return type != T_U64 && v > INT64_MAX;
}

bool gguf_u64(const struct gguf *g, const char *key, uint64_t *out, struct status *st)
{
    const struct pair *p = find_pair(g, key);
    if (!p)
        return false;
    if (!is_integer(p->type))
        return refuse_type(p, "an integer", st);
    const uint64_t v = load_integer(g->bytes + p->at, p->type);
    if (is_negative(p->type, v))
        return status_fail(st, STATUS_CORRUPT,
                           "offset %zu: key %s: want an integer of at least 0, found %lld", p->at,
                           str_show(p->key).text, (long long)v);
    *out = v;
    return true;
}

bool gguf_f64(const struct gguf *g, const char *key, double *out, struct status *st)
{
    const struct pair *p = find_pair(g, key);
    if (!p)
        return false;
    const char *at = g->bytes + p->at;
    if (p->type == T_F64) {
        memcpy(out, at, sizeof *out);
    } else if (p->type == T_F32) {
        float v;
        memcpy(&v, at, sizeof v);
        *out = (double)v;
    } else if (is_integer(p->type)) {
        const uint64_t v = load_integer(at, p->type);
        *out = is_negative(p->type, v) ? (double)(int64_t)v : (double)v;
        const uint64_t size = is_negative(p->type, v) ? -v : v;
        if (size > (uint64_t)1 << 53)
            return refuse_type(p, "a number that a float64 can hold", st);
    } else {
        return refuse_type(p, "a number", st);
    }
    return true;
}

bool gguf_bool(const struct gguf *g, const char *key, bool *out, struct status *st)
{
    const struct pair *p = find_pair(g, key);
    if (!p)
        return false;
    if (p->type != T_BOOL)
        return refuse_type(p, "a bool", st);
    *out = g->bytes[p->at] != 0;
    return true;
}

bool gguf_string(const struct gguf *g, const char *key, struct str *out, struct status *st)
{
    const struct pair *p = find_pair(g, key);
    if (!p)
        return false;
    if (p->type != T_STRING)
        return refuse_type(p, "a string", st);
    *out = (struct str){g->bytes + p->at, (size_t)p->n};
    return true;
}

static bool check_u32_elements(const struct gguf *g, const struct pair *p, struct status *st)
{
    for (size_t i = 0; i < p->n; i++) {
        uint32_t v;
        memcpy(&v, g->bytes + p->at + 4 * i, sizeof v);
        if (v > INT32_MAX)
            return status_fail(st, STATUS_CORRUPT,
                               "offset %zu: key %s: want elements below 2^31, found %u",
                               p->at + 4 * i, str_show(p->key).text, v);
    }
    return true;
}

bool gguf_array(const struct gguf *g, const char *key, enum gguf_elem want, struct gguf_array *out,
                struct status *st)
{
    static const struct {
        enum value_type elem;
        const char *name;
    } wanted[] = {
        [GGUF_STRINGS] = {T_STRING, "array of string"},
        [GGUF_I32] = {T_I32, "array of int32"},
        [GGUF_F32] = {T_F32, "array of float32"},
    };
    const struct pair *p = find_pair(g, key);
    if (!p)
        return false;
    const bool is_u32 = p->type == T_ARRAY && p->elem == T_U32 && want == GGUF_I32;
    if (p->type != T_ARRAY || (p->elem != wanted[want].elem && !is_u32))
        return refuse_type(p, wanted[want].name, st);
    if (is_u32 && !check_u32_elements(g, p, st))
        return false;
    *out = (struct gguf_array){.elem = want, .n = (size_t)p->n, .at = g->bytes + p->at};
    return true;
}

int32_t gguf_array_i32(const struct gguf_array *a, size_t i)
{
    assert(a->elem == GGUF_I32 && i < a->n);
    int32_t v;
    memcpy(&v, (const char *)a->at + 4 * i, sizeof v);
    return v;
}

float gguf_array_f32(const struct gguf_array *a, size_t i)
{
    assert(a->elem == GGUF_F32 && i < a->n);
    float v;
    memcpy(&v, (const char *)a->at + 4 * i, sizeof v);
    return v;
}

struct str gguf_array_next(const struct gguf_array *a, const void **cursor)
{
    assert(a->elem == GGUF_STRINGS);
    const char *at = *cursor ? *cursor : a->at;
    uint64_t n;
    memcpy(&n, at, sizeof n);
    *cursor = at + 8 + n;
    return (struct str){at + 8, (size_t)n};
}

/* Tensors by name. */

size_t gguf_n_tensors(const struct gguf *g)
{
    return g->n_tensors;
}

const struct weight *gguf_tensor_at(const struct gguf *g, size_t i)
{
    assert(i < g->n_tensors);
    return &g->tensor[i];
}

const struct weight *gguf_tensor_find(const struct gguf *g, const char *name)
{
    const uint32_t *cell = find_cell(g, &g->by_name, (struct str){name, strlen(name)});
    return *cell ? &g->tensor[*cell - 1] : NULL;
}
