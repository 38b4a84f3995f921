/* safetensors.c - reads the header of each file, checks all of it, and answers by hash table.
 *
 * The headers' JSON stays, because names point into it.
 *
 * Format: huggingface/safetensors, "Format" in its README. */
#include "engine/safetensors.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "base/checked.h"
#include "base/hash.h"
#include "engine/file_map.h"
#include "engine/json_file.h"

enum {
    LENGTH_BYTES = 8,
    HEADER_BYTES_MAX = 64 << 20,
    INDEX_BYTES_MAX = 64 << 20,
    TENSORS_MAX = 65536,
    NAME_BYTES_MAX = 127,
    SHARDS_MAX = 1024,
    SHARD_NAME_MAX = 255,
};

static const char want_plain[] = "want dtype F32, F16 or BF16, found %s";
static const char want_dims[] = "want 1 or 2 dimensions, found %d";

const struct element_traits element_traits[ELEMENT_N] = {
    [ELEMENT_F32] = {"F32", 4, DT_F32},    [ELEMENT_F16] = {"F16", 2, DT_F16},
    [ELEMENT_BF16] = {"BF16", 2, DT_BF16}, [ELEMENT_F8_E4M3] = {"F8_E4M3", 1, DT_ALL_N},
    [ELEMENT_I8] = {"I8", 1, DT_ALL_N},    [ELEMENT_U8] = {"U8", 1, DT_ALL_N},
    [ELEMENT_I32] = {"I32", 4, DT_ALL_N},  [ELEMENT_I64] = {"I64", 8, DT_ALL_N},
};

static const char single[] = "model.safetensors", index_name[] = "model.safetensors.index.json";

struct part { /* what a header says of a tensor and a plain weight has no need of */
    enum element element;
    uint8_t n_dims;
};

struct shard {
    const char *name; /* in the index; "" for one that was opened over memory */
    struct file_map file;
    const char *bytes; /* [n] the whole file */
    size_t n;
    struct cJSON *header;
    size_t first, end; /* its weights */
};

struct safetensors {
    struct cJSON *index; /* NULL <=> there is one file */
    struct shard *shard; /* [n_shards] */
    size_t n_shards;
    struct weight *weight; /* [n_weights], as headers list them */
    struct part *part;     /* [n_weights] */
    size_t n_weights;
    uint32_t *cell; /* [mask + 1] weight + 1; 0 = free */
    size_t mask;
    uint64_t seed;
};

/* One tensor of a header. */

static bool read_element(const struct cJSON *entry, struct part *p, struct status *st)
{
    struct str name;
    if (!json_text(entry, "dtype", &name, st))
        return st->code == STATUS_OK ? status_fail(st, STATUS_CORRUPT, "key dtype is missing")
                                     : false;
    for (p->element = 0; p->element < ELEMENT_N; p->element++)
        if (str_is(name, element_traits[p->element].name))
            return true;
    return status_fail(st, STATUS_UNSUPPORTED, want_plain, str_show(name).text);
}

static bool read_shape(const struct cJSON *entry, struct part *p, struct weight *w,
                       struct status *st)
{
    const struct cJSON *shape = json_value(entry, "shape");
    const int n_dims = cJSON_IsArray(shape) ? cJSON_GetArraySize(shape) : -1;
    if (n_dims < 0)
        return status_fail(st, STATUS_CORRUPT, "want a shape, found none");
    if (n_dims > 2)
        return status_fail(st, STATUS_UNSUPPORTED, want_dims, n_dims);
    uint64_t dim[2] = {1, 1};
    const struct cJSON *d = shape->child;
    for (int i = 2 - n_dims; i < 2; i++, d = d->next)
        if (!json_is_count(d, &dim[i]) || dim[i] == 0 || dim[i] > INT32_MAX)
            return status_fail(st, STATUS_CORRUPT, "want dimensions from 1 to 2^31 - 1");
    p->n_dims = (uint8_t)n_dims;
    w->rows = (int64_t)dim[0];
    w->cols = (int64_t)dim[1];
    w->dtype = n_dims == 0 ? DT_ALL_N : element_traits[p->element].dtype;
    return true;
}

static bool tensor_bytes(enum element element, const struct weight *w, size_t *n_bytes)
{
    size_t n;
    return size_mul((size_t)w->rows, (size_t)w->cols, &n) &&
           size_mul(n, (size_t)element_traits[element].bytes, n_bytes);
}

static bool read_place(const struct cJSON *entry, const struct shard *sh, size_t data,
                       enum element element, struct weight *w, struct status *st)
{
    const struct cJSON *pair = json_value(entry, "data_offsets");
    uint64_t begin, end;
    if (!cJSON_IsArray(pair) || cJSON_GetArraySize(pair) != 2 ||
        !json_is_count(pair->child, &begin) || !json_is_count(pair->child->next, &end))
        return status_fail(st, STATUS_CORRUPT, "want data_offsets of two whole numbers");
    if (begin > end || end > sh->n - data)
        return status_fail(st, STATUS_CORRUPT,
                           "want data in [0, %zu) of the data section, found [%llu, %llu)",
                           sh->n - data, (unsigned long long)begin, (unsigned long long)end);
    if (!tensor_bytes(element, w, &w->n_bytes) || w->n_bytes != end - begin)
        return status_fail(st, STATUS_CORRUPT,
                           "want the bytes of %s [%lld, %lld], found %llu of them",
                           element_traits[element].name, (long long)w->rows, (long long)w->cols,
                           (unsigned long long)(end - begin));
    const size_t at = data + (size_t)begin;
    w->source = (struct weight_source){.at = sh->bytes + at, .fd = sh->file.fd, .offset = at};
    return true;
}

static bool read_weight(const struct cJSON *entry, const struct shard *sh, size_t data,
                        struct weight *w, struct part *p, struct status *st)
{
    *w = (struct weight){.name = str_of(entry->string)};
    if (w->name.n == 0 || w->name.n > NAME_BYTES_MAX)
        return status_fail(st, STATUS_CORRUPT, "want a tensor name of 1 to %d bytes, found %zu",
                           NAME_BYTES_MAX, w->name.n);
    if (!cJSON_IsObject(entry))
        return status_fail(st, STATUS_CORRUPT, "tensor %s: want an object, found another value",
                           str_show(w->name).text);
    return (read_element(entry, p, st) && read_shape(entry, p, w, st) &&
            read_place(entry, sh, data, p->element, w, st)) ||
           status_wrap(st, "tensor %s", str_show(w->name).text);
}

/* A whole file. */

static bool is_metadata(const struct cJSON *entry)
{
    return strcmp(entry->string, "__metadata__") == 0;
}

static int by_place(const void *a, const void *b)
{
    const uint64_t x = (*(const struct weight *const *)a)->source.offset;
    const uint64_t y = (*(const struct weight *const *)b)->source.offset;
    return x < y ? -1 : x > y;
}

/* The data section is its tensors, one behind the other: no overlap, no hole, nothing after. */
static bool check_cover(const struct weight *w, size_t n, const struct shard *sh, size_t data,
                        struct status *st)
{
    const struct weight **sorted = malloc((n + 1) * sizeof(struct weight *));
    size_t at = data;
    if (!sorted)
        return status_fail(st, STATUS_BUSY, "no memory to sort %zu tensors", n);
    for (size_t i = 0; i < n; i++)
        sorted[i] = &w[i];
    qsort(sorted, n, sizeof(struct weight *), by_place);
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) {
        if (sorted[i]->source.offset != at)
            ok = status_fail(st, STATUS_CORRUPT,
                             "tensor %s: want its data at %zu, where the one before ends, found "
                             "%llu",
                             str_show(sorted[i]->name).text, at - data,
                             (unsigned long long)(sorted[i]->source.offset - data));
        at = (size_t)sorted[i]->source.offset + sorted[i]->n_bytes;
    }
    free(sorted);
    if (ok && at != sh->n)
        return status_fail(st, STATUS_CORRUPT,
                           "want the file to end with its last tensor at %zu, found %zu bytes", at,
                           sh->n);
    return ok;
}

static bool grow(struct safetensors *s, size_t n_more, struct status *st)
{
    if (n_more > TENSORS_MAX - s->n_weights)
        return status_fail(st, STATUS_UNSUPPORTED, "want at most %d tensors, found more",
                           TENSORS_MAX);
    const size_t n = s->n_weights + n_more;
    struct weight *weight = realloc(s->weight, (n + 1) * sizeof *weight);
    if (weight)
        s->weight = weight;
    struct part *part = weight ? realloc(s->part, (n + 1) * sizeof *part) : NULL;
    if (!part)
        return status_fail(st, STATUS_BUSY, "no memory for %zu tensors", n);
    s->part = part;
    return true;
}

static bool read_next(struct safetensors *s, const struct cJSON *entry, const struct shard *sh,
                      size_t data, struct status *st)
{
    const size_t i = s->n_weights++;
    return read_weight(entry, sh, data, &s->weight[i], &s->part[i], st);
}

static bool read_header(struct safetensors *s, struct shard *sh, struct status *st)
{
    uint64_t n_header = 0;
    if (sh->n >= LENGTH_BYTES)
        memcpy(&n_header, sh->bytes, LENGTH_BYTES);
    if (sh->n < LENGTH_BYTES || n_header > sh->n - LENGTH_BYTES || n_header > HEADER_BYTES_MAX)
        return status_fail(st, STATUS_CORRUPT,
                           "want a header of at most %d bytes within the file's %zu, found %llu",
                           HEADER_BYTES_MAX, sh->n, (unsigned long long)n_header);
    sh->header = json_text_parse((struct str){sh->bytes + LENGTH_BYTES, (size_t)n_header}, st);
    if (!sh->header)
        return status_wrap(st, "header");
    const size_t data = LENGTH_BYTES + (size_t)n_header;
    if (!grow(s, (size_t)cJSON_GetArraySize(sh->header), st))
        return false;
    sh->first = s->n_weights;
    for (const struct cJSON *e = sh->header->child; e; e = e->next)
        if (!is_metadata(e) && !read_next(s, e, sh, data, st))
            return false;
    sh->end = s->n_weights;
    return check_cover(s->weight + sh->first, sh->end - sh->first, sh, data, st);
}

/* Names. */

static uint32_t *find_cell(const struct safetensors *s, struct str name)
{
    size_t at = (size_t)hash64(name.at, name.n, s->seed) & s->mask;
    while (s->cell[at] && !str_equal(s->weight[s->cell[at] - 1].name, name))
        at = (at + 1) & s->mask;
    return &s->cell[at];
}

static bool make_table(struct safetensors *s, struct status *st)
{
    struct hash_key key;
    size_t n_cells = 16;
    if (!hash_key_random(&key))
        return status_fail(st, STATUS_IO, "no random bytes from the system");
    while (n_cells < 2 * s->n_weights)
        n_cells *= 2;
    s->seed = key.k0;
    s->mask = n_cells - 1;
    s->cell = calloc(n_cells, sizeof *s->cell);
    if (!s->cell)
        return status_fail(st, STATUS_BUSY, "no memory for %zu names", s->n_weights);
    for (size_t i = 0; i < s->n_weights; i++) {
        uint32_t *cell = find_cell(s, s->weight[i].name);
        if (*cell)
            return status_fail(st, STATUS_CORRUPT, "tensor %s: want it once, found it again",
                               str_show(s->weight[i].name).text);
        *cell = (uint32_t)i + 1;
    }
    return true;
}

/* Files. */

static bool open_shard(struct safetensors *s, const char *folder, struct shard *sh,
                       struct status *st)
{
    char path[PATH_BYTES_MAX];
    if (!path_join(path, folder, sh->name, st) || !file_map_open(&sh->file, path, st))
        return false;
    sh->bytes = sh->file.bytes;
    sh->n = sh->file.n;
    return read_header(s, sh, st);
}

static struct shard *find_shard(const struct safetensors *s, const char *name)
{
    for (size_t i = 0; i < s->n_shards; i++)
        if (strcmp(s->shard[i].name, name) == 0)
            return &s->shard[i];
    return NULL;
}

/* A name in the index is that of a file in the same folder, and nothing else. */
static bool check_shard_name(const struct cJSON *e, struct status *st)
{
    const char *name = cJSON_IsString(e) ? e->valuestring : "";
    const size_t n = strlen(name);
    if (n > 12 && n <= SHARD_NAME_MAX && !strchr(name, '/') && name[0] != '.' &&
        strcmp(name + n - 12, ".safetensors") == 0)
        return true;
    return status_fail(st, STATUS_CORRUPT, "tensor %s: want the name of a .safetensors file",
                       str_show(str_of(e->string)).text);
}

static bool list_shards(struct safetensors *s, const struct cJSON *map, struct status *st)
{
    for (const struct cJSON *e = map->child; e; e = e->next) {
        if (!check_shard_name(e, st))
            return false;
        if (find_shard(s, e->valuestring))
            continue;
        if (s->n_shards == SHARDS_MAX)
            return status_fail(st, STATUS_UNSUPPORTED, "want at most %d files, found more",
                               SHARDS_MAX);
        s->shard[s->n_shards++] = (struct shard){.name = e->valuestring, .file.fd = -1};
    }
    return true;
}

/* Each tensor lies where the index says, and the index names every tensor. */
static bool check_index(const struct safetensors *s, const struct cJSON *map, struct status *st)
{
    char *named = calloc(s->n_weights + 1, 1);
    if (!named)
        return status_fail(st, STATUS_BUSY, "no memory to check %zu names", s->n_weights);
    bool ok = true;
    for (const struct cJSON *e = map->child; ok && e; e = e->next) {
        const struct shard *sh = find_shard(s, e->valuestring);
        const uint32_t at = *find_cell(s, str_of(e->string));
        if (at == 0 || at - 1 < sh->first || at - 1 >= sh->end)
            ok = status_fail(st, STATUS_CORRUPT, "tensor %s: want it in %.100s, found it %s",
                             str_show(str_of(e->string)).text, sh->name,
                             at ? "in another file" : "nowhere");
        else
            named[at - 1] = 1;
    }
    for (size_t i = 0; ok && i < s->n_weights; i++)
        if (!named[i])
            ok = status_fail(st, STATUS_CORRUPT, "tensor %s is in a file and not in the index",
                             str_show(s->weight[i].name).text);
    free(named);
    return ok;
}

static bool open_index(struct safetensors *s, const char *folder, struct status *st)
{
    s->index = json_file_read(folder, index_name, INDEX_BYTES_MAX, st);
    if (!s->index)
        return st->code == STATUS_OK
                   ? status_fail(st, STATUS_IO, "no %s and no %s in the folder", single, index_name)
                   : false;
    const struct cJSON *map = json_value(s->index, "weight_map");
    if (!cJSON_IsObject(map))
        return status_fail(st, STATUS_CORRUPT, "%s: want an object weight_map, found none",
                           index_name);
    if (!list_shards(s, map, st))
        return status_wrap(st, "%s", index_name);
    for (size_t i = 0; i < s->n_shards; i++)
        if (!open_shard(s, folder, &s->shard[i], st))
            return status_wrap(st, "%.100s", s->shard[i].name);
    return make_table(s, st) && (check_index(s, map, st) || status_wrap(st, "%s", index_name));
}

static bool open_single(struct safetensors *s, const char *folder, struct status *st)
{
    s->shard[s->n_shards++] = (struct shard){.name = single, .file.fd = -1};
    return (open_shard(s, folder, s->shard, st) && make_table(s, st)) ||
           status_wrap(st, "%s", single);
}

static struct safetensors *make(size_t n_shards, struct status *st)
{
    struct safetensors *s = calloc(1, sizeof *s);
    if (s)
        s->shard = calloc(n_shards, sizeof *s->shard);
    if (s && s->shard)
        return s;
    status_fail(st, STATUS_BUSY, "no memory to open a model");
    free(s);
    return NULL;
}

struct safetensors *safetensors_open(const char *folder, struct status *st)
{
    char path[PATH_BYTES_MAX];
    if (!path_join(path, folder, single, st))
        return NULL;
    struct safetensors *s = make(SHARDS_MAX, st);
    if (!s)
        return NULL;
    if (access(path, F_OK) == 0 ? open_single(s, folder, st) : open_index(s, folder, st))
        return s;
    safetensors_close(s);
    return NULL;
}

struct safetensors *safetensors_open_memory(const void *bytes, size_t n, struct status *st)
{
    struct safetensors *s = make(1, st);
    if (!s)
        return NULL;
    s->shard[s->n_shards++] = (struct shard){.name = "", .file.fd = -1, .bytes = bytes, .n = n};
    if (read_header(s, s->shard, st) && make_table(s, st))
        return s;
    safetensors_close(s);
    return NULL;
}

void safetensors_close(struct safetensors *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n_shards; i++) {
        file_map_close(&s->shard[i].file);
        cJSON_Delete(s->shard[i].header);
    }
    cJSON_Delete(s->index);
    free(s->shard);
    free(s->weight);
    free(s->part);
    free(s->cell);
    free(s);
}

size_t safetensors_file_bytes(const struct safetensors *s)
{
    size_t n = 0; /* of mapped files: fits */
    for (size_t i = 0; i < s->n_shards; i++)
        n += s->shard[i].n;
    return n;
}

void safetensors_release_pages(const struct safetensors *s)
{
    for (size_t i = 0; i < s->n_shards; i++)
        file_map_release(&s->shard[i].file);
}

size_t safetensors_n(const struct safetensors *s)
{
    return s->n_weights;
}

const struct weight *safetensors_at(const struct safetensors *s, size_t i)
{
    assert(i < s->n_weights);
    return &s->weight[i];
}

const struct weight *safetensors_find(const struct safetensors *s, const char *name)
{
    const uint32_t at = *find_cell(s, str_of(name));
    return at ? &s->weight[at - 1] : NULL;
}

static const struct part *part_of(const struct safetensors *s, const struct weight *w)
{
    assert(w >= s->weight && w < s->weight + s->n_weights);
    return &s->part[w - s->weight];
}

enum element safetensors_element(const struct safetensors *s, const struct weight *w)
{
    return part_of(s, w)->element;
}

bool safetensors_check_plain(const struct safetensors *s, const struct weight *w, struct status *st)
{
    const struct part *p = part_of(s, w);
    if (w->dtype != DT_ALL_N)
        return true;
    if (p->n_dims == 0)
        status_fail(st, STATUS_UNSUPPORTED, want_dims, 0);
    else
        status_fail(st, STATUS_UNSUPPORTED, want_plain, element_traits[p->element].name);
    return status_wrap(st, "tensor %s", str_show(w->name).text);
}
